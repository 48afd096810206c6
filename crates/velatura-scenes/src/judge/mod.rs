//! Judge A: reads a picture back by template matching, without any network.
//!
//! The background is the palette colour nearest to the median of the border. Objects are found by
//! analysis through synthesis: every place of [`Cell`] is compared with every drawing, at 32 pixels
//! over small shifts, the best again at 64 pixels over shifts and sizes; the arrangement of places (one
//! object, two beside each other, a triangle, ...) that explains most of the picture wins. An object that is
//! too unlike every drawing counts as an object, but as no glyph.
//!
//! The caption plays no part in the reading: a [`Reading`] is compared with an [`Intent`](crate::Intent)
//! afterwards, so that shuffled captions measure what chance alone would give.
//!
//! # What the drawings are compared by
//!
//! With the picture `I` and a drawing composed on the measured background `B`, both less the background, the
//! likeness is `2 <I, T> / (|I|² + |T|²)`: one minus the relative squared error, 1 when equal. Since
//! `T = P - aB` (premultiplied colour and alpha), `<I, T> = <I, P> - <I B, a>`: the drawings are rendered once,
//! not once for each background.

mod pyramid;
mod read;
mod score;
mod templates;

use serde::{Deserialize, Serialize};

use crate::glyphs::Glyphs;
use crate::scene::Cell;
use crate::vocabulary::{ColorId, GlyphId};
use templates::{Bank, Size};

pub use score::{Scores, Tally, Verdict};

/// Least likeness at which an object counts as a glyph.
///
/// On true renders of the whole vocabulary at 64 pixels 99.9% of the objects are above 0.86, blurred by a 64th
/// of the side above 0.78, and with noise of a standard deviation of 12 of 255 above 0.78. Pictures of glyphs
/// that the judge does *not* know have a median of 0.72 with the most similar one that it knows: the threshold
/// refuses what is like nothing, and which glyph it is, the comparison decides.
pub const LEAST_LIKENESS: f32 = 0.75;

/// The judge. Building one takes about 50 ms and 20 MB; it can be shared between threads.
#[derive(Debug)]
pub struct Judge {
    glyphs: Vec<GlyphId>,
    /// Drawings at [`COARSE`] pixels, one size for each kind of place.
    coarse: [Bank; 2],
    /// Drawings at [`FINE`] pixels, several sizes for each kind of place, in rising order.
    fine: [Vec<Bank>; 2],
}

/// Pixels a side of the first comparison.
const COARSE: u32 = 32;
/// Pixels a side of the second comparison.
const FINE: u32 = 64;
/// Sizes of the second comparison relative to the usual one of a place.
const SCALES: [f32; 5] = [0.86, 0.93, 1.0, 1.07, 1.14];

impl Judge {
    /// A judge that knows the loaded glyphs.
    pub fn new(glyphs: &Glyphs) -> Self {
        let known = glyphs.present();
        let bank = |size: Size, scale, pixels| Bank::new(glyphs, known, size.side() * scale, pixels);
        let fine = |size| SCALES.iter().map(|&scale| bank(size, scale, FINE)).collect();
        Self {
            glyphs: known.to_vec(),
            coarse: [Size::Whole, Size::Half].map(|size| bank(size, 1.0, COARSE)),
            fine: [Size::Whole, Size::Half].map(fine),
        }
    }
}

/// What the judge sees in a picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Nearest palette colour of the background.
    pub background: ColorId,
    /// The background as measured, 0 to 255.
    pub background_rgb: [f32; 3],
    /// The objects, in the order of [`Cell::ALL`].
    pub objects: Vec<Found>,
}

/// An object that the judge found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Which one; `None` when it is too unlike every glyph.
    pub glyph: Option<GlyphId>,
    /// The most similar glyph, however unlike.
    pub nearest: GlyphId,
    /// Likeness to it, at most 1.
    pub likeness: f32,
    /// The place.
    pub cell: Cell,
    /// Centre, (x, y), as fractions of the side.
    pub center: (f32, f32),
}
