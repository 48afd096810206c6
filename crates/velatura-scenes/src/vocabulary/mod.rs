//! What can be in a picture: glyphs and background colours, with every word for them.

mod colors;
mod table;

use serde::{Deserialize, Serialize};

pub use colors::{COLORS, ColorEntry};
pub use table::GLYPHS;

/// An object of the vocabulary and the words for it.
#[derive(Debug)]
pub struct GlyphEntry {
    /// The Unicode code point, which finds the drawing in the font.
    pub character: char,
    /// The plain English name, singular: "red apple".
    pub name: &'static str,
    /// The name in the plural: "red apples".
    pub plural: &'static str,
    /// Other words for it, (singular, plural): ("apple", "apples").
    pub synonyms: &'static [(&'static str, &'static str)],
    /// Adjectives that are true of the drawing and may stand before the name.
    pub adjectives: &'static [&'static str],
}

impl GlyphEntry {
    /// All nouns, (singular, plural), the name first.
    pub fn nouns(&self) -> impl Iterator<Item = (&'static str, &'static str)> + use<> {
        std::iter::once((self.name, self.plural)).chain(self.synonyms.iter().copied())
    }
}

/// Index of an object in [`GLYPHS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GlyphId(u16);

/// Index of a background colour in [`COLORS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ColorId(u8);

impl GlyphId {
    /// All objects of the vocabulary, in its order.
    pub fn all() -> impl ExactSizeIterator<Item = Self> + Clone {
        (0..GLYPHS.len()).map(|index| Self(index as u16))
    }

    /// The object with this exact name (not a synonym).
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|id| id.name() == name)
    }

    /// The entry with its words.
    pub fn entry(self) -> &'static GlyphEntry {
        &GLYPHS[self.index()]
    }

    /// The plain English name, singular.
    pub fn name(self) -> &'static str {
        self.entry().name
    }

    /// Position in the vocabulary, `0..GLYPHS.len()`.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl ColorId {
    /// All background colours, in their order.
    pub fn all() -> impl ExactSizeIterator<Item = Self> + Clone {
        (0..COLORS.len()).map(|index| Self(index as u8))
    }

    /// The colour with this exact name (not a synonym).
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|id| id.name() == name)
    }

    /// The palette colour nearest to `rgb` (0 to 255 each) by Euclidean distance.
    pub fn nearest(rgb: [f32; 3]) -> Self {
        let distance =
            |id: &Self| -> f32 { id.rgb().iter().zip(rgb).map(|(&a, b)| (f32::from(a) - b).powi(2)).sum() };
        Self::all().min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(Self(0))
    }

    /// The plain English name.
    pub fn name(self) -> &'static str {
        self.entry().name
    }

    /// The entry with its words.
    pub fn entry(self) -> &'static ColorEntry {
        &COLORS[self.index()]
    }

    /// Red, green and blue, 0 to 255, sRGB.
    pub fn rgb(self) -> [u8; 3] {
        self.entry().rgb
    }

    /// Position in the palette, `0..COLORS.len()`.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl From<GlyphId> for String {
    fn from(id: GlyphId) -> Self {
        id.name().to_owned()
    }
}

impl From<ColorId> for String {
    fn from(id: ColorId) -> Self {
        id.name().to_owned()
    }
}

impl TryFrom<String> for GlyphId {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::named(&name).ok_or_else(|| format!("there is no glyph called \"{name}\""))
    }
}

impl TryFrom<String> for ColorId {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::named(&name).ok_or_else(|| format!("there is no background colour called \"{name}\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_word_means_one_thing() {
        let mut nouns = HashSet::new();
        for id in GlyphId::all() {
            for (singular, plural) in id.entry().nouns() {
                assert!(nouns.insert(singular), "{singular} twice");
                assert!(singular == plural || nouns.insert(plural), "{plural} twice");
            }
        }
        let mut colors = HashSet::new();
        for id in ColorId::all() {
            for name in std::iter::once(id.name()).chain(id.entry().synonyms.iter().copied()) {
                assert!(colors.insert(name), "{name} twice");
            }
        }
        let characters: HashSet<_> = GLYPHS.iter().map(|entry| entry.character).collect();
        assert_eq!(characters.len(), GLYPHS.len());
        // The fruit is the only word that is both; the grammar tells them apart by place.
        let both: Vec<_> = nouns.intersection(&colors).copied().collect();
        assert_eq!(both, ["orange"]);
    }

    #[test]
    fn colours_are_clearly_apart() {
        for a in ColorId::all() {
            for b in ColorId::all().filter(|&b| b != a) {
                let distance: i32 =
                    a.rgb().iter().zip(b.rgb()).map(|(&x, y)| (i32::from(x) - i32::from(y)).pow(2)).sum();
                assert!(distance >= 70 * 70, "{} and {}: {}", a.name(), b.name(), f64::from(distance).sqrt());
            }
            assert_eq!(ColorId::nearest(a.rgb().map(f32::from)), a);
        }
    }
}
