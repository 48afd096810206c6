/// A background colour and the words for it.
#[derive(Debug)]
pub struct ColorEntry {
    /// The plain English name.
    pub name: &'static str,
    /// Other names of the same colour.
    pub synonyms: &'static [&'static str],
    /// Red, green and blue, sRGB.
    pub rgb: [u8; 3],
}

const fn color(name: &'static str, synonyms: &'static [&'static str], rgb: [u8; 3]) -> ColorEntry {
    ColorEntry { name, synonyms, rgb }
}

/// The background colours. At least 70 apart in RGB, so that a picture that is a little off still has one
/// nearest colour.
pub const COLORS: &[ColorEntry] = &[
    color("white", &["plain white"], [250, 250, 250]),
    color("black", &["plain black"], [18, 18, 20]),
    color("grey", &["gray"], [140, 140, 145]),
    color("red", &["bright red"], [212, 38, 42]),
    color("orange", &["bright orange"], [244, 140, 36]),
    color("yellow", &["bright yellow"], [250, 222, 70]),
    color("green", &["grass green"], [66, 168, 74]),
    color("sky blue", &["light blue"], [140, 204, 244]),
    color("blue", &["bright blue"], [40, 104, 226]),
    color("dark blue", &["navy", "navy blue"], [18, 34, 104]),
    color("purple", &["violet"], [128, 58, 176]),
    color("pink", &["light pink"], [250, 166, 200]),
    color("brown", &["chocolate brown"], [120, 74, 40]),
    color("teal", &["turquoise"], [10, 142, 142]),
];
