//! Finished pictures: pixels, how they were made, and files that carry both.

mod exif;
mod format;
mod info;
mod png;

use std::path::Path;

use serde::{Deserialize, Serialize};
use velatura_weights::atomic_write;

use crate::Error;
use crate::embeddings::EmbeddingRef;
use crate::infotext::ModelRef;
use crate::request::GenerateRequest;
use crate::source_picture::SourceRef;

pub use self::format::{Encoding, Format, LONGEST_JPEG_TEXT};
pub use self::info::PictureInfo;
pub use self::png::encode;

/// A finished picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// `width * height * 3` bytes, red, green, blue, row by row.
    pub rgb: Vec<u8>,
    /// Its place in the batch, from 0.
    pub index: usize,
    /// How it was made.
    pub origin: Origin,
}

/// How a picture was made: what its file carries as JSON, a PNG under `velatura`, others in EXIF's maker note.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// Version of the program.
    pub version: String,
    /// Kernels that ran. Other instruction sets round otherwise.
    pub instructions: String,
    /// The model.
    pub model: ModelRef,
    /// The request for this picture alone, everything decided.
    pub request: GenerateRequest,
    /// The pictures that the request names, as they were.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceRef>,
    /// The embeddings that its prompts name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub embeddings: Vec<EmbeddingRef>,
}

impl Picture {
    /// The seed that makes this picture by itself.
    pub fn seed(&self) -> u64 {
        self.origin.request.seed.unwrap_or_default()
    }

    /// The picture as a PNG file, with its metadata.
    pub fn png(&self) -> Result<Vec<u8>, Error> {
        self.file(Encoding::PNG)
    }

    /// The picture as a file of any format, with its metadata.
    pub fn file(&self, encoding: Encoding) -> Result<Vec<u8>, Error> {
        encoding.write(self.width, self.height, &self.rgb, &self.origin)
    }

    /// Writes the PNG file atomically.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let png = self.png()?;
        Ok(atomic_write(path, |out| out.write_all(&png))?)
    }
}

/// Several pictures side by side on white, `columns` in a row (0: as square as can be), two pixels apart. All have the
/// size of the first, whose origin the sheet carries.
pub fn grid(pictures: &[Picture], columns: usize, encoding: Encoding) -> Result<Vec<u8>, Error> {
    let first = pictures.first().ok_or_else(|| Error::Internal("a grid of no pictures".into()))?;
    let (width, height, rgb) = tile(pictures, columns);
    encoding.write(width, height, &rgb, &first.origin)
}

/// The pixels of [`grid`]: width, height, RGB.
pub fn tile(pictures: &[Picture], columns: usize) -> (usize, usize, Vec<u8>) {
    const GAP: usize = 2;
    let Some(first) = pictures.first() else { return (0, 0, Vec::new()) };
    let columns = if columns == 0 { (pictures.len() as f64).sqrt().ceil() as usize } else { columns };
    let columns = columns.clamp(1, pictures.len());
    let rows = pictures.len().div_ceil(columns);
    let (width, height) = (columns * (first.width + GAP) - GAP, rows * (first.height + GAP) - GAP);
    let mut rgb = vec![255; width * height * 3];
    for (i, picture) in pictures.iter().enumerate() {
        let (x, y) = (i % columns * (first.width + GAP), i / columns * (first.height + GAP));
        let row = picture.width.min(first.width) * 3;
        for (line, source) in picture.rgb.chunks_exact(picture.width * 3).take(first.height).enumerate() {
            let start = ((y + line) * width + x) * 3;
            rgb[start..start + row].copy_from_slice(&source[..row]);
        }
    }
    (width, height, rgb)
}
