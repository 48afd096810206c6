//! PNG files and their text entries.

use std::io::{BufRead, Seek};

use super::info::Texts;
use crate::Error;

/// A text entry longer than this, unpacked, is not metadata.
pub(super) const LONGEST_TEXT: usize = 4 << 20;

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

/// Width, height and the text entries of a PNG file, in the order of the file; the pixels are not decoded.
pub(super) fn read(input: impl BufRead + Seek) -> Result<(u32, u32, Texts), String> {
    let mut decoder = png::Decoder::new_with_limits(input, png::Limits { bytes: 4 * LONGEST_TEXT });
    decoder.set_ignore_text_chunk(false);
    let mut reader = decoder.read_info().map_err(|e| e.to_string())?;
    let mut texts = collect(reader.info());
    if texts.is_empty() && reader.finish().is_ok() {
        // Some tools write their texts behind the pixels.
        texts = collect(reader.info());
    }
    Ok((reader.info().width, reader.info().height, texts))
}

fn collect(info: &png::Info<'_>) -> Texts {
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
