//! How a picture was made, in EXIF: the metadata of JPEG and WebP files.
//!
//! A1111's text form stands in the user comment, as its own files have it: the header `UNICODE` and UTF-16 in big-endian
//! order. Velatura's JSON stands in the maker note, which is for data of the program's own and which viewers do not show.

use std::io::{BufRead, Cursor, Read, Seek, SeekFrom};

use exif::experimental::Writer;
use exif::{Context, Field, In, Reader, Tag, Value};
use image::ImageDecoder;
use image::codecs::webp::WebPDecoder;

use super::info::Texts;
use super::png::LONGEST_TEXT;

/// What the maker note begins with.
const MAKER: &[u8] = b"Velatura\0";
/// What EXIF begins with in JPEG files; some tools write it in WebP files as well, where it does not belong.
const EXIF_HEADER: &[u8] = b"Exif\0\0";
/// Headers of the user comment: eight bytes that name the encoding.
const UNICODE: &[u8] = b"UNICODE\0";
const ASCII: &[u8] = b"ASCII\0\0\0";
const UNDEFINED: &[u8] = &[0; 8];

/// EXIF with both texts, without the header of JPEG files.
pub(super) fn write(parameters: &str, json: Option<&str>) -> Result<Vec<u8>, exif::Error> {
    let utf16 = parameters.encode_utf16().flat_map(u16::to_be_bytes);
    let comment = UNICODE.iter().copied().chain(utf16).collect();
    let field = |tag, bytes: Vec<u8>| Field { tag, ifd_num: In::PRIMARY, value: Value::Undefined(bytes, 0) };
    let comment = field(Tag::UserComment, comment);
    let note = json.map(|json| field(Tag::MakerNote, [MAKER, json.as_bytes()].concat()));
    let mut writer = Writer::new();
    writer.push_field(&comment);
    if let Some(note) = &note {
        writer.push_field(note);
    }
    let mut out = Cursor::new(Vec::new());
    // Big-endian, as A1111's files.
    writer.write(&mut out, false)?;
    Ok(out.into_inner())
}

/// Width, height and the texts of a JPEG file. EXIF that cannot be read, or a part of it, is none: pictures are often written by
/// tools that do not keep to the standard, and what is sought in them is seldom in there.
pub(super) fn read(mut decoder: impl ImageDecoder) -> Result<(u32, u32, Texts), String> {
    let (width, height) = decoder.dimensions();
    let exif = decoder.exif_metadata().map_err(|e| e.to_string())?;
    Ok((width, height, exif.map_or(Vec::new(), texts)))
}

/// The same of a WebP file. The decoder would take as much memory for its EXIF as the file claims to have of it, so the
/// chunk is sought here.
pub(super) fn read_webp(mut input: impl BufRead + Seek) -> Result<(u32, u32, Texts), String> {
    let (width, height) = WebPDecoder::new(&mut input).map_err(|e| e.to_string())?.dimensions();
    let exif = webp_chunk(&mut input).map_err(|e| e.to_string())?;
    Ok((width, height, exif.map_or(Vec::new(), texts)))
}

/// The EXIF chunk, behind the header of twelve bytes; nothing where it is longer than the file, or than metadata is.
fn webp_chunk(input: &mut (impl Read + Seek)) -> std::io::Result<Option<Vec<u8>>> {
    let end = input.seek(SeekFrom::End(0))?;
    let mut at = 12;
    while at + 8 <= end {
        input.seek(SeekFrom::Start(at))?;
        let mut header = [0; 8];
        input.read_exact(&mut header)?;
        let [name @ .., a, b, c, d] = header;
        let size = u64::from(u32::from_le_bytes([a, b, c, d]));
        if &name == b"EXIF" {
            let fits = at + 8 + size <= end && size <= 4 * LONGEST_TEXT as u64;
            let mut exif = vec![0; if fits { size as usize } else { 0 }];
            input.read_exact(&mut exif)?;
            return Ok(fits.then_some(exif));
        }
        // Chunks begin at even places.
        at += 8 + size + size % 2;
    }
    Ok(None)
}

fn texts(exif: Vec<u8>) -> Texts {
    if exif.len() > 4 * LONGEST_TEXT {
        return Vec::new();
    }
    let exif = exif.strip_prefix(EXIF_HEADER).map(<[u8]>::to_vec).unwrap_or(exif);
    let read = Reader::new().continue_on_error(true).read_raw(exif);
    let Ok(exif) = read.or_else(|e| e.distill_partial_result(|_| ())) else { return Vec::new() };
    exif.fields().filter_map(text).filter(|(_, text)| text.len() <= LONGEST_TEXT).collect()
}

/// The text of a field that may say how a picture was made, under the keyword that PNG files have for it.
fn text(field: &Field) -> Option<(String, String)> {
    match (&field.value, field.tag) {
        (Value::Undefined(bytes, _), Tag::UserComment) => Some(("parameters".into(), comment(bytes)?)),
        (Value::Undefined(bytes, _), Tag::MakerNote) => {
            Some(("velatura".into(), String::from_utf8(bytes.strip_prefix(MAKER)?.to_vec()).ok()?))
        }
        // ComfyUI writes `prompt:{...}` and `workflow:{...}` into tags that are for the names of cameras.
        (Value::Ascii(lines), Tag(Context::Tiff, _)) => {
            let text = String::from_utf8(lines.first()?.clone()).ok()?;
            let (keyword, text) = text.split_once(':')?;
            let known = matches!(keyword, "prompt" | "workflow");
            known.then(|| (keyword.to_string(), text.to_string()))
        }
        _ => None,
    }
}

/// A user comment by the encoding that its header names; nothing where that is none or the text is empty.
fn comment(bytes: &[u8]) -> Option<String> {
    let utf8 = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    let text = if let Some(bytes) = bytes.strip_prefix(UNICODE) {
        utf16(bytes)
    } else {
        utf8(bytes.strip_prefix(ASCII).or(bytes.strip_prefix(UNDEFINED)).unwrap_or(bytes))?
    };
    let text = text.trim_end_matches(['\0', ' ']);
    (!text.is_empty()).then(|| text.to_string())
}

/// UTF-16 whose order nothing says: EXIF means the file's own, A1111 always writes big-endian, others little-endian. Texts of
/// this kind have spaces, digits and line ends, whose upper byte is 0, so the half with more zeros is the upper one.
fn utf16(bytes: &[u8]) -> String {
    let pairs = || bytes.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
    let zeros = |at: usize| pairs().filter(|pair| pair[at] == 0).count();
    let little = match bytes {
        [0xFF, 0xFE, ..] => true,
        [0xFE, 0xFF, ..] => false,
        _ => zeros(1) > zeros(0),
    };
    let units: Vec<u16> = pairs()
        .map(|pair| if little { u16::from_le_bytes(pair) } else { u16::from_be_bytes(pair) })
        .collect();
    String::from_utf16_lossy(&units).trim_start_matches('\u{feff}').to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let parameters = "ein Fuchs, 猫, 🐈\nNegative prompt: snow\nSteps: 20, Sampler: Euler";
        let written = write(parameters, Some("{\"prompt\":\"猫\"}")).unwrap();
        let mut read = texts(written.clone());
        read.sort();
        assert_eq!(read[0], ("parameters".into(), parameters.into()));
        assert_eq!(read[1], ("velatura".into(), "{\"prompt\":\"猫\"}".into()));
        // As JPEG files have it, and some WebP files.
        let mut with_header = texts([EXIF_HEADER, &written].concat());
        with_header.sort();
        assert_eq!(with_header, read);
    }

    #[test]
    fn comments_of_every_encoding_are_read() {
        let text = "a fox\nSteps: 20";
        let units = |bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
        let with = |header: &[u8], text: &[u8]| comment(&[header, text].concat());
        assert_eq!(with(UNICODE, &units(u16::to_be_bytes)).as_deref(), Some(text));
        assert_eq!(with(UNICODE, &units(u16::to_le_bytes)).as_deref(), Some(text));
        assert_eq!(
            with(UNICODE, &[&[0xFF, 0xFE], &units(u16::to_le_bytes)[..]].concat()).as_deref(),
            Some(text)
        );
        assert_eq!(with(ASCII, text.as_bytes()).as_deref(), Some(text));
        assert_eq!(with(UNDEFINED, text.as_bytes()).as_deref(), Some(text));
        assert_eq!(with(b"", text.as_bytes()).as_deref(), Some(text));
        assert_eq!(with(UNICODE, &[]), None);
        assert_eq!(with(ASCII, &[0xFF, 0xFF]), None);
    }

    proptest! {
        #[test]
        fn damaged_exif_has_fewer_texts(at in 0usize..400, byte: u8, cut in 0usize..400) {
            let mut exif = write("a fox\nSteps: 20, Sampler: Euler, Seed: 1", Some("{\"a\": 1}")).unwrap();
            let at = at % exif.len();
            exif[at] = byte;
            exif.truncate(exif.len().saturating_sub(cut));
            prop_assert!(texts(exif).len() <= 2);
        }

        #[test]
        fn any_bytes_are_read_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            texts([b"MM\0\x2a\0\0\0\x08".to_vec(), bytes.clone()].concat());
            texts(bytes);
        }
    }
}
