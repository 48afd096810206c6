//! Kinds of picture files, and how they are written.

use std::io::{BufRead, Seek, SeekFrom};

use image::codecs::jpeg::JpegEncoder;
use image::codecs::webp::WebPEncoder;
use image::{ExtendedColorType, ImageEncoder};
use img_parts::ImageEXIF;
use img_parts::webp::WebP;
use serde::{Deserialize, Serialize};

use super::{Origin, exif, png};
use crate::{Error, infotext};

/// A kind of picture file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Every bit is kept, and metadata of any length.
    #[default]
    Png,
    /// Small, with losses.
    Jpeg,
    /// Smaller than PNG where every bit is kept, and than JPEG with losses.
    WebP,
}

/// How a picture is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// The kind of file.
    pub format: Format,
    /// 1 (small) to 100 (good). JPEG files take [`Encoding::JPEG_QUALITY`] for `None`, and WebP files keep every bit; PNG files
    /// always do.
    pub quality: Option<u8>,
}

/// Longest prompt and negative prompt together, in bytes, of which a JPEG file is sure to hold all metadata: its EXIF has
/// less than 64 KiB, in which they stand twice.
pub const LONGEST_JPEG_TEXT: usize = 12_000;
/// Most bytes of EXIF in a JPEG file: a segment's, less its length and header.
const MOST_JPEG_EXIF: usize = 0xFFFF - 2 - 6;
/// Longest side of a WebP file.
const LONGEST_WEBP_SIDE: usize = 16_383;
/// Longest side of a JPEG file.
const LONGEST_JPEG_SIDE: usize = 65_535;

impl Format {
    /// All kinds.
    pub const ALL: [Format; 3] = [Format::Png, Format::Jpeg, Format::WebP];

    /// By its name or a file's extension, in any case: `png`, `jpeg`, `jpg`, `webp`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.extensions().iter().any(|e| e.eq_ignore_ascii_case(name)))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Format::Png => "PNG",
            Format::Jpeg => "JPEG",
            Format::WebP => "WebP",
        }
    }

    /// Extensions of its files; the first one is the usual one.
    pub fn extensions(self) -> &'static [&'static str] {
        match self {
            Format::Png => &["png"],
            Format::Jpeg => &["jpg", "jpeg"],
            Format::WebP => &["webp"],
        }
    }

    /// What kind of file begins with these bytes.
    pub fn of_start(start: &[u8; 12]) -> Option<Self> {
        match start {
            [0xFF, 0xD8, 0xFF, ..] => Some(Format::Jpeg),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P'] => Some(Format::WebP),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => Some(Format::Png),
            _ => None,
        }
    }

    /// What kind of file begins here; the input is then where it was.
    pub(super) fn of(input: &mut (impl BufRead + Seek)) -> std::io::Result<Option<Self>> {
        let mut start = [0; 12];
        let mut read = 0;
        while let Ok(n @ 1..) = input.read(&mut start[read..]) {
            read += n;
        }
        input.seek(SeekFrom::Start(0))?;
        Ok(Self::of_start(&start))
    }
}

impl Encoding {
    /// PNG.
    pub const PNG: Encoding = Encoding { format: Format::Png, quality: None };
    /// Quality of JPEG files where none is asked for.
    pub const JPEG_QUALITY: u8 = 90;

    /// Whether a picture of this size can be written so.
    ///
    /// # Errors
    /// A side that the format cannot have; the message names one that can.
    pub fn check(self, width: usize, height: usize) -> Result<(), Error> {
        let most = match self.format {
            Format::Png => return Ok(()),
            Format::Jpeg => LONGEST_JPEG_SIDE,
            Format::WebP => LONGEST_WEBP_SIDE,
        };
        let side = width.max(height);
        if side > most { Err(Error::PictureSize { format: self.format.name(), side, most }) } else { Ok(()) }
    }

    /// The file of a picture with its metadata. A JPEG file that cannot hold all of it (see [`LONGEST_JPEG_TEXT`]) holds what
    /// A1111 would write, or nothing.
    pub(super) fn write(
        self,
        width: usize,
        height: usize,
        rgb: &[u8],
        origin: &Origin,
    ) -> Result<Vec<u8>, Error> {
        self.check(width, height)?;
        let json = serde_json::to_string(origin).map_err(|e| Error::Internal(e.to_string()))?;
        let parameters = infotext::write(origin);
        if self.format == Format::Png {
            return png::encode(width, height, rgb, &[("parameters", &parameters), ("velatura", &json)]);
        }
        let written =
            |json: Option<&str>| exif::write(&parameters, json).map_err(|e| failed(&e, "its metadata"));
        let (width, height) = (width as u32, height as u32);
        match (self.format, self.quality) {
            (Format::WebP, None) => {
                let mut bytes = Vec::new();
                let mut encoder = WebPEncoder::new_lossless(&mut bytes);
                let exif = written(Some(&json))?;
                encoder.set_exif_metadata(exif).map_err(|e| failed(&e, "its metadata"))?;
                let color = ExtendedColorType::Rgb8;
                encoder.write_image(rgb, width, height, color).map_err(|e| failed(&e, "the picture"))?;
                Ok(bytes)
            }
            (Format::WebP, Some(quality)) => {
                let encoder = webp::Encoder::from_rgb(rgb, width, height);
                let quality = f32::from(quality.min(100));
                let bytes = encoder.encode_simple(false, quality).map_err(|e| {
                    Error::Internal(format!("the picture cannot be encoded: libwebp says {e:?}"))
                })?;
                let mut file =
                    WebP::from_bytes(bytes.to_vec().into()).map_err(|e| failed(&e, "the picture"))?;
                file.set_exif(Some(written(Some(&json))?.into()));
                Ok(file.encoder().bytes().to_vec())
            }
            (_, quality) => {
                let mut bytes = Vec::new();
                let quality = quality.unwrap_or(Self::JPEG_QUALITY).clamp(1, 100);
                let mut encoder = JpegEncoder::new_with_quality(&mut bytes, quality);
                let fits = |exif: &Vec<u8>| exif.len() <= MOST_JPEG_EXIF;
                let all = Some(written(Some(&json))?).filter(fits);
                let exif = match all {
                    Some(all) => Some(all),
                    None => Some(written(None)?).filter(fits),
                };
                if let Some(exif) = exif {
                    encoder.set_exif_metadata(exif).map_err(|e| failed(&e, "its metadata"))?;
                }
                let color = ExtendedColorType::Rgb8;
                encoder.write_image(rgb, width, height, color).map_err(|e| failed(&e, "the picture"))?;
                Ok(bytes)
            }
        }
    }
}

fn failed(error: &dyn std::fmt::Display, what: &str) -> Error {
    Error::Internal(format!("{what} cannot be encoded: {error}"))
}
