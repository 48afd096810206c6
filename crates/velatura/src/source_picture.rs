//! Pictures that a request reads: from files of any usual format, turned upright, freed of transparency, brought to
//! size.

use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use image::metadata::Orientation;
use image::{DynamicImage, GenericImageView, ImageBuffer, ImageDecoder, ImageReader, Limits, Rgb, RgbImage};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Error;
use crate::request::{GenerateRequest, RequestError};
use crate::resample::{lanczos, luminance};

/// Longest side of a picture that is read, in pixels.
const LONGEST_SIDE: u32 = 1 << 15;
/// Most bytes that a picture may have unpacked.
const MOST_BYTES: u64 = 1 << 30;
/// Most bytes of a picture's file.
const LONGEST_FILE: u64 = 1 << 29;

/// A picture that a request read, as the metadata of what was made of it names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRef {
    /// The file, as the request names it.
    pub file: String,
    /// The first ten hexadecimal digits of the SHA-256 of its bytes.
    pub hash: String,
}

impl SourceRef {
    /// What a file is now.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn of(file: &str) -> Result<Self, Error> {
        Ok(Self::of_bytes(file, &read(Path::new(file))?))
    }

    fn of_bytes(file: &str, bytes: &[u8]) -> Self {
        let hash = Sha256::digest(bytes).iter().take(5).map(|byte| format!("{byte:02x}")).collect();
        SourceRef { file: file.to_string(), hash }
    }
}

/// The pictures of a request.
#[derive(Default)]
pub(crate) struct Sources {
    /// What the run begins from.
    pub init: Option<SourcePicture>,
    /// Which parts of it are made anew.
    pub mask: Option<SourcePicture>,
}

impl Sources {
    /// Reads what a request names.
    pub fn open(request: &GenerateRequest) -> Result<Self, Error> {
        let open = |file: &Option<String>| file.as_deref().map(SourcePicture::open).transpose();
        let (init, mask) = (open(&request.init)?, open(&request.mask)?);
        if let (Some(init), Some(mask)) = (&init, &mask)
            && init.size() != mask.size()
        {
            return Err(RequestError::MaskSize { mask: mask.size(), picture: init.size() }.into());
        }
        Ok(Sources { init, mask })
    }

    /// What metadata says of them.
    pub fn refs(&self) -> Vec<SourceRef> {
        self.init.iter().chain(&self.mask).map(|picture| picture.source.clone()).collect()
    }
}

/// A picture, upright and without transparency.
pub(crate) struct SourcePicture {
    image: DynamicImage,
    source: SourceRef,
}

impl SourcePicture {
    /// Reads a file.
    ///
    /// # Errors
    /// A file that cannot be read, is no picture of a known format, is damaged, or is beyond all bounds.
    pub fn open(file: &str) -> Result<Self, Error> {
        let bytes = read(Path::new(file))?;
        let mut decoder = decoder(file, &bytes)?;
        // A picture whose orientation cannot be read is upright.
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let failed = |e: image::ImageError| unreadable(file, &e);
        if decoder.total_bytes() > MOST_BYTES {
            return Err(too_large(file));
        }
        let mut image = DynamicImage::from_decoder(decoder).map_err(failed)?;
        image.apply_orientation(orientation);
        Ok(SourcePicture { image: opaque(image), source: SourceRef::of_bytes(file, &bytes) })
    }

    /// Width and height of a file's picture when it stands upright; its pixels are not decoded.
    ///
    /// # Errors
    /// As [`SourcePicture::open`].
    pub fn size_of(file: &str) -> Result<(u32, u32), Error> {
        let bytes = read(Path::new(file))?;
        let mut decoder = decoder(file, &bytes)?;
        let (width, height) = decoder.dimensions();
        use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
        Ok(match decoder.orientation() {
            Ok(Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH) => (height, width),
            _ => (width, height),
        })
    }

    /// Width and height in pixels.
    pub fn size(&self) -> (u32, u32) {
        self.image.dimensions()
    }

    /// Red, green and blue from -1 to 1, `[height, width, 3]`. Where it has another size it is resized as A1111 and
    /// diffusers do, with 8 bits a channel.
    pub fn pixels(&self, width: usize, height: usize) -> Vec<f32> {
        let rgb = match self.size() == (width as u32, height as u32) {
            true => self.image.to_rgb32f().into_raw(),
            false => {
                self.resized(width, height).into_raw().into_iter().map(|v| f32::from(v) / 255.0).collect()
            }
        };
        rgb.into_iter().map(|v| 2.0 * v.clamp(0.0, 1.0) - 1.0).collect()
    }

    /// Which pixels are white rather than black, as a mask, `[height, width]`, by the luminance of their 8 bits.
    pub fn mask(&self, width: usize, height: usize) -> Vec<bool> {
        self.resized(width, height).pixels().map(|p| luminance(p.0) >= 128).collect()
    }

    fn resized(&self, width: usize, height: usize) -> RgbImage {
        lanczos(self.image.to_rgb8(), width as u32, height as u32)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source| velatura_weights::WeightsError::Read { file: path.to_path_buf(), source };
    if path.is_dir() {
        return Err(failed(std::io::Error::from(std::io::ErrorKind::IsADirectory)).into());
    }
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(LONGEST_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LONGEST_FILE {
        return Err(too_large(&path.display().to_string()));
    }
    Ok(bytes)
}

fn decoder<'a>(file: &str, bytes: &'a [u8]) -> Result<impl ImageDecoder + 'a, Error> {
    let failed = |e: image::ImageError| unreadable(file, &e);
    let mut reader = ImageReader::new(Cursor::new(bytes));
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(LONGEST_SIDE), Some(LONGEST_SIDE));
    limits.max_alloc = Some(MOST_BYTES);
    reader.limits(limits);
    let reader = reader.with_guessed_format().map_err(|e| failed(e.into()))?;
    if reader.format().is_none() {
        let reason = "it is none of a known format".to_string();
        return Err(Error::SourcePicture { file: PathBuf::from(file), reason });
    }
    reader.into_decoder().map_err(failed)
}

fn unreadable(file: &str, error: &image::ImageError) -> Error {
    match error {
        image::ImageError::Limits(_) => too_large(file),
        _ => Error::SourcePicture { file: PathBuf::from(file), reason: error.to_string().replace('\n', " ") },
    }
}

fn too_large(file: &str) -> Error {
    let reason = format!("it is larger than {LONGEST_SIDE} pixels along a side or {} MiB", MOST_BYTES >> 20);
    Error::SourcePicture { file: PathBuf::from(file), reason }
}

/// A picture with transparency laid on white, as A1111 does; 16 bits a channel, so that 8 bits lose nothing.
fn opaque(image: DynamicImage) -> DynamicImage {
    if !image.color().has_alpha() {
        return image;
    }
    let rgba = image.into_rgba16();
    let (width, height) = rgba.dimensions();
    let over_white = |x: u32, y: u32| {
        let [r, g, b, alpha] = rgba.get_pixel(x, y).0.map(u64::from);
        const WHITE: u64 = u16::MAX as u64;
        let mix = |v: u64| ((v * alpha + WHITE * (WHITE - alpha) + WHITE / 2) / WHITE) as u16;
        Rgb([r, g, b].map(mix))
    };
    DynamicImage::ImageRgb16(ImageBuffer::from_fn(width, height, over_white))
}

#[cfg(test)]
mod tests {
    use image::{ImageFormat, Rgb, Rgba, RgbaImage};

    use super::*;

    fn write(name: &str, image: &DynamicImage, format: ImageFormat) -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        image.save_with_format(&path, format).unwrap();
        let path = path.to_str().unwrap().to_string();
        (folder, path)
    }

    #[test]
    fn eight_bits_come_as_they_are() {
        let image = RgbImage::from_fn(5, 3, |x, y| Rgb([x as u8 * 50, y as u8 * 100, 255]));
        let (_folder, path) = write("a.png", &image.into(), ImageFormat::Png);
        let picture = SourcePicture::open(&path).unwrap();
        assert_eq!((picture.size(), SourcePicture::size_of(&path).unwrap()), ((5, 3), (5, 3)));
        let pixels = picture.pixels(5, 3);
        assert_eq!(pixels.len(), 45);
        for (i, &(x, y)) in [(4, 2), (0, 1)].iter().enumerate() {
            let at = (y * 5 + x) * 3;
            let expected = [[200.0f32, 200.0, 255.0], [0.0, 100.0, 255.0]][i].map(|v| v / 255.0 * 2.0 - 1.0);
            for (found, expected) in pixels[at..at + 3].iter().zip(expected) {
                assert!((found - expected).abs() < 1e-6, "{found} {expected}");
            }
        }
    }

    #[test]
    fn sixteen_bits_grey_and_transparency_are_understood() {
        let deep =
            ImageBuffer::<image::Luma<u16>, _>::from_fn(2, 1, |x, _| image::Luma([300 + 40_000 * x as u16]));
        let (_folder, path) = write("a.png", &DynamicImage::ImageLuma16(deep), ImageFormat::Png);
        let pixels = SourcePicture::open(&path).unwrap().pixels(2, 1);
        assert_eq!(pixels[0], pixels[2]);
        assert!((pixels[0] - (300.0 / 65535.0 * 2.0 - 1.0)).abs() < 1e-6, "{}", pixels[0]);
        let clear = RgbaImage::from_fn(3, 1, |x, _| Rgba([200, 0, 10, [0, 128, 255][x as usize]]));
        let (_folder, path) = write("b.png", &clear.into(), ImageFormat::Png);
        let pixels = SourcePicture::open(&path).unwrap().pixels(3, 1);
        assert_eq!(pixels[..3], [1.0; 3]);
        let bytes: Vec<f32> = pixels[3..].iter().map(|v| (v + 1.0) * 127.5).collect();
        let expected = [227.4, 127.0, 132.0, 200.0, 0.0, 10.0];
        for (found, expected) in bytes.iter().zip(expected) {
            assert!((found - expected).abs() < 0.1, "{bytes:?}");
        }
    }

    #[test]
    fn resizing_keeps_a_ramp_and_the_range() {
        let ramp = RgbImage::from_fn(64, 16, |x, _| Rgb([x as u8 * 4; 3]));
        let (_folder, path) = write("a.webp", &ramp.into(), ImageFormat::WebP);
        let pixels = SourcePicture::open(&path).unwrap().pixels(32, 8);
        for (i, pixel) in pixels[4 * 32 * 3..5 * 32 * 3].chunks(3).enumerate().skip(3).take(26) {
            let expected = (8.0 * i as f32 + 2.0) / 127.5 - 1.0;
            assert!((pixel[0] - expected).abs() < 0.02, "{i}: {} {expected}", pixel[0]);
        }
        assert!(pixels.iter().all(|v| (-1.0..=1.0).contains(v)));
    }

    #[test]
    fn photographs_are_turned_upright() {
        let image = RgbImage::from_fn(16, 8, |x, _| if x < 8 { Rgb([255; 3]) } else { Rgb([0; 3]) });
        let (_folder, path) = write("a.jpg", &image.into(), ImageFormat::Jpeg);
        let jpeg = std::fs::read(&path).unwrap();
        // EXIF with one entry: orientation 6, the camera was turned.
        let mut exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0".to_vec();
        let mut turned = jpeg[..2].to_vec();
        turned.extend([0xff, 0xe1]);
        turned.extend((exif.len() as u16 + 2).to_be_bytes());
        turned.append(&mut exif);
        turned.extend(&jpeg[2..]);
        std::fs::write(&path, turned).unwrap();
        assert_eq!(SourcePicture::size_of(&path).unwrap(), (8, 16));
        let picture = SourcePicture::open(&path).unwrap();
        assert_eq!(picture.size(), (8, 16));
        let pixels = picture.pixels(8, 16);
        assert!(pixels[0] > 0.9 && pixels[pixels.len() - 1] < -0.9);
    }

    fn fixture(name: &str) -> String {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pictures");
        folder.join(name).to_str().unwrap().to_string()
    }

    #[test]
    fn unusual_pictures_are_read() {
        // A single pixel can be any size.
        let one = SourcePicture::open(&fixture("one.png")).unwrap();
        let large = one.pixels(64, 32);
        assert!(large.chunks(3).all(|p| p == &one.pixels(1, 1)[..]) && large.len() == 64 * 32 * 3);
        // Of animations, even endless ones, the first frame.
        for name in ["endless.png", "endless.webp"] {
            let pixels = SourcePicture::open(&fixture(name)).unwrap().pixels(8, 8);
            assert!(pixels.chunks(3).all(|p| p == [1.0, -1.0, -1.0]), "{name}");
        }
        // Four inks, as Pillow reads them.
        let (inks, rgb) =
            ["cmyk.jpg", "cmyk.png"].map(|name| SourcePicture::open(&fixture(name)).unwrap()).into();
        for (found, expected) in inks.pixels(16, 16).iter().zip(rgb.pixels(16, 16)) {
            assert!((found - expected).abs() < 4.0 / 127.5, "{found} {expected}");
        }
        // A text of 64 MiB in 64 kB is not unpacked.
        assert_eq!(SourcePicture::open(&fixture("bomb.png")).unwrap().pixels(1, 1), one.pixels(1, 1));
        let info = crate::PictureInfo::open(fixture("bomb.png"));
        assert!(info.is_ok_and(|info| info.text("parameters").is_none()));
        let error = SourcePicture::open(&fixture("palette.gif")).err().unwrap().to_string();
        assert!(
            error.contains("palette.gif") && error.contains("give a PNG") && !error.contains('\n'),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_picture_is_refused_in_a_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            let error = SourcePicture::open(path.to_str().unwrap()).err().unwrap().to_string();
            assert!(error.contains(name) && !error.contains('\n'), "{error}");
            error
        };
        assert!(open("page.png", b"<html>404</html>").contains("none of a known format; give a PNG"));
        assert!(open("empty.png", b"").contains("none of a known format"));
        assert!(
            open("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>").contains("none of a known format")
        );
        let whole = crate::picture::encode(64, 64, &[7; 64 * 64 * 3], &[]).unwrap();
        open("cut.png", &whole[..whole.len() / 2]);
        open("head.png", &whole[..20]);
        // A header that promises 4 billion pixels.
        let mut huge = whole.clone();
        huge[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
        open("huge.png", &huge);
        let missing = folder.path().join("absent.png");
        let error = SourcePicture::open(missing.to_str().unwrap()).err().unwrap().to_string();
        assert!(error.contains("absent.png"), "{error}");
        assert!(SourcePicture::open(folder.path().to_str().unwrap()).is_err());
    }
}
