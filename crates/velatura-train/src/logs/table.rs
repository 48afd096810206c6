//! CSV files with a step in the first column.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use velatura_weights::atomic_write;

use crate::TrainError;

/// A CSV file that grows line by line.
pub struct Table {
    path: PathBuf,
    file: File,
}

impl Table {
    /// Opens the file, or begins it with a line of column names. Lines of steps after `step` are removed; a file with
    /// other columns is begun anew.
    pub fn open(path: &Path, columns: &[String], step: u64) -> Result<Self, TrainError> {
        let header = format!("step,{}", columns.join(","));
        let old = std::fs::read_to_string(path).unwrap_or_default();
        let mut lines = old.lines();
        let mut kept = vec![header.as_str()];
        if lines.next() == Some(&header) {
            let is_before = |line: &&str| step_of(line).is_some_and(|s| s <= step);
            kept.extend(lines.filter(is_before));
        }
        let text = kept.join("\n") + "\n";
        if text != old {
            atomic_write(path, |out: &mut dyn Write| out.write_all(text.as_bytes()))?;
        }
        let file = OpenOptions::new().append(true).open(path).map_err(TrainError::write(path))?;
        Ok(Table { path: path.to_path_buf(), file })
    }

    /// Appends a line, in one write.
    pub fn push(&mut self, step: u64, values: &[f64]) -> Result<(), TrainError> {
        let values: Vec<String> = values.iter().map(|v| Compact(*v).to_string()).collect();
        let line = format!("{step},{}\n", values.join(","));
        self.file.write_all(line.as_bytes()).map_err(TrainError::write(&self.path))
    }
}

/// Six digits, in the shorter of the two notations.
struct Compact(f64);

impl std::fmt::Display for Compact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let size = self.0.abs();
        if size == 0.0 || (1e-3..1e6).contains(&size) {
            write!(f, "{:.6}", self.0)
        } else {
            write!(f, "{:.6e}", self.0)
        }
    }
}

fn step_of(line: &str) -> Option<u64> {
    line.split(',').next()?.parse().ok()
}

/// The steps and the values of some columns of a table; columns that it lacks are empty.
pub fn read_columns(path: &Path, names: &[&str]) -> Result<(Vec<u64>, Vec<Vec<f64>>), TrainError> {
    let text = std::fs::read_to_string(path).map_err(TrainError::write(path))?;
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let places: Vec<Option<usize>> = names.iter().map(|n| header.iter().position(|h| h == n)).collect();
    let (mut steps, mut columns) = (Vec::new(), vec![Vec::new(); names.len()]);
    for line in lines {
        // The last line of a run that was killed may be cut.
        let fields: Vec<&str> = line.split(',').collect();
        let Some(step) = step_of(line).filter(|_| fields.len() == header.len()) else { continue };
        steps.push(step);
        for (column, place) in columns.iter_mut().zip(&places) {
            let value = place.and_then(|p| fields[p].parse().ok());
            column.extend(place.map(|_| value.unwrap_or(f64::NAN)));
        }
    }
    Ok((steps, columns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_table_forgets_what_is_done_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.csv");
        let columns = ["loss".to_string(), "lr".to_string()];
        let mut table = Table::open(&path, &columns, 0).unwrap();
        for step in 1..=5 {
            table.push(step, &[1.0 / step as f64, 1e-4]).unwrap();
        }
        drop(table);
        // A line that a killed run did not finish.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"6,0.1").unwrap();
        let mut table = Table::open(&path, &columns, 3).unwrap();
        table.push(4, &[9.0, 0.0]).unwrap();
        let (steps, values) = read_columns(&path, &["loss", "none"]).unwrap();
        assert_eq!(steps, [1, 2, 3, 4]);
        assert_eq!(values[0][3], 9.0);
        assert!(values[1].is_empty());
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().nth(2), Some("2,0.500000,1.000000e-4"));
    }
}
