//! The parts of a file as a table: how many tensors, how many numbers, how many bytes, of which types.

use std::collections::BTreeMap;
use std::fmt::Write;

use velatura_weights::TensorEntry;

/// Rows that a table has at most.
const MOST_ROWS: usize = 40;

/// Sums over some tensors.
#[derive(Clone, Default, serde::Serialize)]
pub struct Sums {
    pub tensors: usize,
    pub parameters: usize,
    pub bytes: usize,
    /// How many tensors are stored as each type.
    pub types: BTreeMap<&'static str, usize>,
}

impl Sums {
    /// Of tensors.
    pub fn of<'a>(tensors: impl IntoIterator<Item = &'a TensorEntry>) -> Self {
        let mut sums = Sums::default();
        tensors.into_iter().for_each(|entry| sums.add(entry));
        sums
    }

    fn add(&mut self, entry: &TensorEntry) {
        self.tensors += 1;
        self.parameters += entry.elements();
        self.bytes += entry.bytes();
        *self.types.entry(entry.dtype.name()).or_default() += 1;
    }

    /// The types, the most used one first, with counts where there are several.
    pub fn types(&self) -> String {
        let mut types: Vec<_> = self.types.iter().collect();
        types.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
        let one = types.len() == 1;
        let names =
            types.iter().map(|(name, n)| if one { name.to_string() } else { format!("{name} ({n})") });
        names.collect::<Vec<_>>().join(", ")
    }
}

/// Sums for each part, and over all.
#[derive(Default)]
pub struct Table {
    pub parts: BTreeMap<String, Sums>,
    pub total: Sums,
}

impl Table {
    /// Parts are what stands before a name's first dot.
    pub fn by_prefix(tensors: &BTreeMap<String, TensorEntry>) -> Self {
        let mut table = Table::default();
        for (name, entry) in tensors {
            let prefix = name.split('.').next().unwrap_or(name).to_string();
            table.parts.entry(prefix).or_default().add(entry);
            table.total.add(entry);
        }
        table
    }

    /// Writes the table.
    pub fn write(&self, text: &mut String) {
        write_head(text);
        self.parts.iter().take(MOST_ROWS).for_each(|(name, sums)| write_row(text, name, sums));
        if self.parts.len() > MOST_ROWS {
            let _ = writeln!(text, "... and {} more", self.parts.len() - MOST_ROWS);
        }
        write_row(text, "all", &self.total);
    }
}

/// Writes the names of the columns.
pub fn write_head(text: &mut String) {
    let _ = writeln!(text, "\n{:<30} {:>8} {:>14} {:>12}  types", "part", "tensors", "parameters", "size");
}

/// Writes one line.
pub fn write_row(text: &mut String, name: &str, sums: &Sums) {
    let name: String = name.chars().take(60).collect();
    let (count, bytes) = (grouped(sums.parameters), size(sums.bytes));
    let _ = writeln!(text, "{name:<30} {:>8} {count:>14} {bytes:>12}  {}", sums.tensors, sums.types());
}

/// Digits in groups of three.
pub fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// Bytes in the unit that suits them.
pub fn size(bytes: usize) -> String {
    let bytes = bytes as f64;
    match bytes {
        b if b >= 1e9 => format!("{:.2} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.1} MB", b / 1e6),
        b if b >= 1e3 => format!("{:.1} kB", b / 1e3),
        b => format!("{b} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(1234567), "1,234,567");
        assert_eq!(grouped(123456), "123,456");
        assert_eq!(size(1500), "1.5 kB");
    }
}
