//! How a picture was made, as its file says.

use std::io::{BufRead, Cursor, Seek};
use std::path::Path;

use image::codecs::jpeg::JpegDecoder;

use super::format::Format;
use super::{Origin, exif};
use crate::Error;
use crate::infotext;
use crate::request::GenerateRequest;
use crate::taken_over::TakenOver;
use crate::workflow;

/// Texts by keyword.
pub(super) type Texts = Vec<(String, String)>;

/// What a picture's file says of how it was made.
#[derive(Clone, Debug, PartialEq)]
pub struct PictureInfo {
    /// What kind of file it is.
    pub format: Format,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Texts by keyword, in the order of the file. Those of EXIF have the keywords that PNG files have: A1111's text form, which
    /// is in the user comment, is `parameters`.
    pub texts: Vec<(String, String)>,
}

impl PictureInfo {
    /// Reads the metadata of a PNG, JPEG or WebP file; the pixels are not decoded. EXIF that is damaged or that no tool
    /// of this kind wrote counts as none.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let failed = |source| velatura_weights::WeightsError::Read { file: path.to_path_buf(), source };
        if path.is_dir() {
            return Err(failed(std::io::Error::from(std::io::ErrorKind::IsADirectory)).into());
        }
        let file = std::fs::File::open(path).map_err(failed)?;
        Self::read(&path.display().to_string(), std::io::BufReader::new(file))
    }

    /// Reads the metadata of such a file in memory. `name` stands for its path in messages.
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Self, Error> {
        Self::read(name, Cursor::new(bytes))
    }

    fn read(name: &str, mut input: impl BufRead + Seek) -> Result<Self, Error> {
        let failed = |reason: String| Error::Picture { file: name.into(), reason };
        let format = Format::of(&mut input).map_err(|e| failed(e.to_string()))?;
        let (width, height, texts) = match format {
            // What is none of the three is told as what it is not.
            None | Some(Format::Png) => super::png::read(input),
            Some(Format::Jpeg) => JpegDecoder::new(input).map_err(|e| e.to_string()).and_then(exif::read),
            Some(Format::WebP) => exif::read_webp(input),
        }
        .map_err(failed)?;
        Ok(PictureInfo { format: format.unwrap_or_default(), width, height, texts })
    }

    /// The text under a keyword.
    pub fn text(&self, keyword: &str) -> Option<&str> {
        self.texts.iter().find(|(k, _)| k == keyword).map(|(_, text)| text.as_str())
    }

    /// How the picture was made, when Velatura made it.
    pub fn origin(&self) -> Option<Origin> {
        serde_json::from_str(self.text("velatura")?).ok()
    }

    /// The request that makes the picture again: Velatura's own in full, or as much as A1111's text form or ComfyUI's graph
    /// says (what that leaves out: [`PictureInfo::taken_over`]). `name` stands for the file in messages.
    pub fn request(&self, name: &str) -> Result<GenerateRequest, Error> {
        if let Some(json) = self.text("velatura") {
            let origin: Origin = serde_json::from_str(json).map_err(|e| Error::Picture {
                file: name.into(),
                reason: format!("its request cannot be read ({e}); a newer Velatura may have written it"),
            })?;
            return Ok(origin.request);
        }
        self.taken_over().map(|taken| taken.request).ok_or_else(|| Error::NoMetadata { file: name.into() })
    }

    /// What A1111's text form says, or else ComfyUI's graph, where Velatura did not make the picture.
    pub fn taken_over(&self) -> Option<TakenOver> {
        match (self.text("velatura"), self.text("parameters")) {
            (Some(_), _) => None,
            (None, Some(text)) => Some(infotext::read(text)),
            (None, None) => workflow::parse(self.text("prompt")?),
        }
    }
}
