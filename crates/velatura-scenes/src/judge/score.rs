use serde::{Deserialize, Serialize};

use super::{Found, Reading};
use crate::scene::{Group, Intent};

/// Whether a picture shows what was asked for, attribute by attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Exactly the kinds of objects that were asked for, whatever their number; no other, none unrecognisable.
    pub glyph: bool,
    /// The background colour; `None` when none was asked for.
    pub color: Option<bool>,
    /// Both kinds are there and stand as asked, every one of the first to every one of the second; `None` when
    /// no relation was asked for.
    pub position: Option<bool>,
    /// The number of objects in all, and of each kind that is there.
    pub count: bool,
    /// All of the above that were asked for.
    pub all: bool,
}

impl Reading {
    /// Compares with what was asked for.
    pub fn verdict(&self, intent: &Intent) -> Verdict {
        let of = |group: &Group| -> Vec<&Found> {
            self.objects.iter().filter(|object| object.glyph == Some(group.glyph)).collect()
        };
        let found: Vec<Vec<&Found>> = intent.groups.iter().map(of).collect();
        let wanted = |object: &Found| intent.groups.iter().any(|group| Some(group.glyph) == object.glyph);
        let glyph = self.objects.iter().all(wanted) && found.iter().all(|objects| !objects.is_empty());
        let color = intent.background.map(|background| background == self.background);
        let position = intent.relation.map(|relation| match found.as_slice() {
            [a, b] if !a.is_empty() && !b.is_empty() => {
                // Groups of several stand beside each other as wholes: their middles are compared, and no
                // object may be on the wrong side of the other group's middle.
                let (first, second) = (middle(a), middle(b));
                relation.holds(first, second)
                    && a.iter().all(|object| relation.is_beyond(object.center, second))
                    && b.iter().all(|object| relation.inverse().is_beyond(object.center, first))
            }
            _ => false,
        });
        let counts = intent
            .groups
            .iter()
            .zip(&found)
            .all(|(group, objects)| objects.is_empty() || objects.len() == usize::from(group.count));
        let count = self.objects.len() == intent.objects() && counts;
        let all = glyph && color != Some(false) && position != Some(false) && count;
        Verdict { glyph, color, position, count, all }
    }
}

fn middle(objects: &[&Found]) -> (f32, f32) {
    let sum =
        objects.iter().fold((0.0, 0.0), |sum, object| (sum.0 + object.center.0, sum.1 + object.center.1));
    (sum.0 / objects.len() as f32, sum.1 / objects.len() as f32)
}

/// How often something was right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// How often it was right.
    pub hits: u64,
    /// How often it was asked for.
    pub total: u64,
}

impl Tally {
    /// Counts one more.
    pub fn add(&mut self, hit: bool) {
        self.hits += u64::from(hit);
        self.total += 1;
    }

    /// The part that was right, 0 to 1; `None` when it was never asked for.
    pub fn fraction(&self) -> Option<f64> {
        (self.total > 0).then(|| self.hits as f64 / self.total as f64)
    }

    /// The 95% interval of the fraction (Wilson, 1927); `None` when it was never asked for.
    pub fn interval(&self) -> Option<(f64, f64)> {
        const Z: f64 = 1.959_964;
        let (p, n) = (self.fraction()?, self.total as f64);
        let center = p + Z * Z / (2.0 * n);
        let spread = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        let scale = 1.0 + Z * Z / n;
        Some((((center - spread) / scale).max(0.0), ((center + spread) / scale).min(1.0)))
    }
}

/// Verdicts added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scores {
    /// See [`Verdict::glyph`].
    pub glyph: Tally,
    /// See [`Verdict::color`].
    pub color: Tally,
    /// See [`Verdict::position`].
    pub position: Tally,
    /// See [`Verdict::count`].
    pub count: Tally,
    /// See [`Verdict::all`].
    pub all: Tally,
}

impl Scores {
    /// Adds a verdict.
    pub fn add(&mut self, verdict: &Verdict) {
        self.glyph.add(verdict.glyph);
        verdict.color.into_iter().for_each(|hit| self.color.add(hit));
        verdict.position.into_iter().for_each(|hit| self.position.add(hit));
        self.count.add(verdict.count);
        self.all.add(verdict.all);
    }

    /// Adds the verdicts that another part of the work has added up.
    pub fn merge(&mut self, other: &Self) {
        for (own, other) in self.tallies_mut().into_iter().zip(other.named()) {
            own.hits += other.1.hits;
            own.total += other.1.total;
        }
    }

    /// The tallies with their names in reports.
    pub fn named(&self) -> [(&'static str, Tally); 5] {
        [
            ("glyph", self.glyph),
            ("color", self.color),
            ("position", self.position),
            ("count", self.count),
            ("all", self.all),
        ]
    }

    fn tallies_mut(&mut self) -> [&mut Tally; 5] {
        [&mut self.glyph, &mut self.color, &mut self.position, &mut self.count, &mut self.all]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caption::parse;
    use crate::scene::Cell;
    use crate::vocabulary::{ColorId, GlyphId};

    fn reading(background: &str, objects: &[(&str, Cell)]) -> Reading {
        let object = |&(name, cell): &(&str, Cell)| {
            let glyph = GlyphId::named(name);
            let nearest = glyph.unwrap_or_else(|| GlyphId::named("cat").unwrap());
            Found { glyph, nearest, likeness: 0.9, cell, center: cell.center() }
        };
        let background = ColorId::named(background).unwrap();
        let background_rgb = background.rgb().map(f32::from);
        Reading { background, background_rgb, objects: objects.iter().map(object).collect() }
    }

    /// glyph, colour, position, count, all; '-' where it was not asked for.
    fn judged(reading: &Reading, caption: &str) -> String {
        let v = reading.verdict(&parse(caption).unwrap());
        let sign = |hit: Option<bool>| hit.map_or('-', |hit| if hit { 'y' } else { 'n' });
        [Some(v.glyph), v.color, v.position, Some(v.count), Some(v.all)].map(sign).iter().collect()
    }

    #[test]
    fn verdicts_tell_attributes_apart() {
        use Cell::{Bottom, Left, Right, TopLeft, TopRight, Whole};
        let one = reading("red", &[("cat", Whole)]);
        assert_eq!(judged(&one, "a cat on red"), "yy-yy");
        assert_eq!(judged(&one, "a cat"), "y--yy");
        assert_eq!(judged(&one, "a cat on blue"), "yn-yn");
        assert_eq!(judged(&one, "a dog on red"), "ny-yn");
        assert_eq!(judged(&one, "two cats on red"), "yy-nn");
        let two = reading("red", &[("cat", Left), ("dog", Right)]);
        assert_eq!(judged(&two, "a cat left of a dog on red"), "yyyyy");
        assert_eq!(judged(&two, "a dog right of a cat on red"), "yyyyy");
        assert_eq!(judged(&two, "a dog next to a cat on red"), "yyyyy");
        assert_eq!(judged(&two, "a dog left of a cat on red"), "yynyn");
        assert_eq!(judged(&two, "a cat above a dog on red"), "yynyn");
        assert_eq!(judged(&two, "a cat above a pig on red"), "nynyn");
        assert_eq!(judged(&two, "two cats on red"), "ny-nn");
        let three = reading("sky blue", &[("red apple", TopLeft), ("red apple", TopRight), ("cat", Bottom)]);
        assert_eq!(judged(&three, "two red apples above a cat on sky blue"), "yyyyy");
        assert_eq!(judged(&three, "an apple above a cat on sky blue"), "yyynn");
        assert_eq!(judged(&three, "two cats above an apple on sky blue"), "yynnn");
        let odd = reading("sky blue", &[("red apple", TopLeft), ("?", TopRight), ("cat", Bottom)]);
        assert_eq!(judged(&odd, "two red apples above a cat on sky blue"), "nyynn");
        assert_eq!(judged(&reading("red", &[]), "a cat on red"), "ny-nn");
    }

    #[test]
    fn intervals_are_wilsons() {
        // Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I.
        let (low, high) = Tally { hits: 81, total: 263 }.interval().unwrap();
        assert!((low - 0.2553).abs() < 1e-4 && (high - 0.3662).abs() < 1e-4, "{low} {high}");
        let (low, high) = Tally { hits: 0, total: 20 }.interval().unwrap();
        assert!(low == 0.0 && (high - 0.1611).abs() < 1e-4, "{low} {high}");
        assert_eq!(Tally::default().interval(), None);
    }
}
