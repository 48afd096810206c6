//! Finished pictures: pixels, how they were made, and PNG files that carry both.

use std::io::{BufRead, Cursor, Seek};
use std::path::Path;

use serde::{Deserialize, Serialize};
use velatura_weights::atomic_write;

use crate::Error;
use crate::embeddings::EmbeddingRef;
use crate::infotext::{self, ModelRef};
use crate::request::GenerateRequest;
use crate::source_picture::SourceRef;
use crate::workflow::{self, FromWorkflow};

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

/// How a picture was made: what its PNG carries as JSON under `velatura`.
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
        let json = serde_json::to_string(&self.origin).map_err(|e| Error::Internal(e.to_string()))?;
        let parameters = infotext::write(&self.origin);
        encode(self.width, self.height, &self.rgb, &[("parameters", &parameters), ("velatura", &json)])
    }

    /// Writes the PNG file atomically.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let png = self.png()?;
        Ok(atomic_write(path, |out| out.write_all(&png))?)
    }
}

/// Encodes 8-bit RGB with text entries. Texts beyond Latin-1 become iTXt, others the tEXt that every tool reads.
pub fn encode(width: usize, height: usize, rgb: &[u8], texts: &[(&str, &str)]) -> Result<Vec<u8>, Error> {
    let internal = |e: png::EncodingError| Error::Internal(format!("the picture cannot be encoded: {e}"));
    let side = |n: usize| u32::try_from(n).map_err(|_| Error::Internal(format!("a picture {n} pixels wide")));
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, side(width)?, side(height)?);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    for (key, text) in texts {
        if text.chars().all(|c| c == '\n' || (' '..='~').contains(&c) || ('\u{a1}'..='\u{ff}').contains(&c)) {
            encoder.add_text_chunk(key.to_string(), text.to_string()).map_err(internal)?;
        } else {
            encoder.add_itxt_chunk(key.to_string(), text.to_string()).map_err(internal)?;
        }
    }
    let mut writer = encoder.write_header().map_err(internal)?;
    writer.write_image_data(rgb).map_err(internal)?;
    writer.finish().map_err(internal)?;
    Ok(bytes)
}

/// Several pictures side by side on white, `columns` in a row (0: as square as can be), two pixels apart. All have the
/// size of the first.
pub fn grid(pictures: &[Picture], columns: usize) -> Result<Vec<u8>, Error> {
    let first = pictures.first().ok_or_else(|| Error::Internal("a grid of no pictures".into()))?;
    let (width, height, rgb) = tile(pictures, columns);
    let json = serde_json::to_string(&first.origin).map_err(|e| Error::Internal(e.to_string()))?;
    let parameters = infotext::write(&first.origin);
    encode(width, height, &rgb, &[("parameters", &parameters), ("velatura", &json)])
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

/// What a PNG file says of how it was made.
#[derive(Clone, Debug, PartialEq)]
pub struct PictureInfo {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Text entries by keyword, in the order of the file.
    pub texts: Vec<(String, String)>,
}

/// A text entry longer than this, unpacked, is not metadata.
const LONGEST_TEXT: usize = 4 << 20;

impl PictureInfo {
    /// Reads the metadata of a PNG file; the pixels are not decoded.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let failed = |source| velatura_weights::WeightsError::Read { file: path.to_path_buf(), source };
        if path.is_dir() {
            return Err(failed(std::io::Error::from(std::io::ErrorKind::IsADirectory)).into());
        }
        let file = std::fs::File::open(path).map_err(failed)?;
        Self::read(&path.display().to_string(), std::io::BufReader::new(file))
    }

    /// Reads the metadata of a PNG file in memory. `name` stands for its path in messages.
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Self, Error> {
        Self::read(name, Cursor::new(bytes))
    }

    fn read(name: &str, input: impl BufRead + Seek) -> Result<Self, Error> {
        let failed = |reason: String| Error::Picture { file: name.into(), reason };
        let mut decoder = png::Decoder::new_with_limits(input, png::Limits { bytes: 4 * LONGEST_TEXT });
        decoder.set_ignore_text_chunk(false);
        let mut reader = decoder.read_info().map_err(|e| failed(e.to_string()))?;
        let mut texts = collect(reader.info());
        if texts.is_empty() && reader.finish().is_ok() {
            // Some tools write their texts behind the pixels.
            texts = collect(reader.info());
        }
        let (width, height) = (reader.info().width, reader.info().height);
        Ok(PictureInfo { width, height, texts })
    }

    /// The text under a keyword.
    pub fn text(&self, keyword: &str) -> Option<&str> {
        self.texts.iter().find(|(k, _)| k == keyword).map(|(_, text)| text.as_str())
    }

    /// How the picture was made, when Velatura made it.
    pub fn origin(&self) -> Option<Origin> {
        serde_json::from_str(self.text("velatura")?).ok()
    }

    /// The request that makes the picture again: Velatura's own in full, or as much as A1111's text form or ComfyUI's graph says
    /// (what that leaves out: [`PictureInfo::workflow`]). `name`
    /// stands for the file in messages.
    pub fn request(&self, name: &str) -> Result<GenerateRequest, Error> {
        if let Some(json) = self.text("velatura") {
            let origin: Origin = serde_json::from_str(json).map_err(|e| Error::Picture {
                file: name.into(),
                reason: format!("its request cannot be read ({e}); a newer Velatura may have written it"),
            })?;
            return Ok(origin.request);
        }
        if let Some(text) = self.text("parameters") {
            return Ok(infotext::parse(text));
        }
        let workflow = self.workflow().ok_or_else(|| Error::NoMetadata { file: name.into() })?;
        Ok(workflow.request)
    }

    /// What ComfyUI's graph says, where neither Velatura nor A1111 made the picture.
    pub fn workflow(&self) -> Option<FromWorkflow> {
        let foreign = self.text("velatura").is_none() && self.text("parameters").is_none();
        workflow::parse(self.text("prompt").filter(|_| foreign)?)
    }
}

fn collect(info: &png::Info<'_>) -> Vec<(String, String)> {
    let plain = info.uncompressed_latin1_text.iter().map(|c| (c.keyword.clone(), c.text.clone()));
    let packed = info.compressed_latin1_text.iter().filter_map(|c| {
        let mut chunk = c.clone();
        chunk.decompress_text_with_limit(LONGEST_TEXT).ok()?;
        Some((chunk.keyword.clone(), chunk.get_text().ok()?))
    });
    let unicode = info.utf8_text.iter().filter_map(|c| {
        let mut chunk = c.clone();
        chunk.decompress_text_with_limit(LONGEST_TEXT).ok()?;
        Some((chunk.keyword.clone(), chunk.get_text().ok()?))
    });
    plain.chain(packed).chain(unicode).collect()
}
