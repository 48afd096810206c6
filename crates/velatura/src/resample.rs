//! Pictures brought to another size as Pillow up to 12 does with `LANCZOS` (`Resample.c`), to the bit: A1111 and diffusers
//! resize what they begin from so.
//!
//! A kernel of three lobes, stretched where the picture shrinks; first along the rows and then along the columns, with
//! weights of 22 binary places, and 8 bits between the two. Pillow 13 begins with the columns where that is cheaper, so
//! its bytes may differ by what is rounded and cut off between the two.

use image::RgbImage;

/// Binary places of the weights.
const PLACES: u32 = 22;
/// Half the width of the kernel, in pixels of the smaller of the two pictures.
const SUPPORT: f64 = 3.0;

/// A picture of `width` by `height` pixels. A direction in which the size stays is left as it is.
pub(crate) fn lanczos(picture: RgbImage, width: u32, height: u32) -> RgbImage {
    let (from_width, from_height) = picture.dimensions();
    let (columns, rows) = (width as usize, height as usize);
    let mut bytes = picture.into_raw();
    if width != from_width {
        let weights = Weights::new(from_width as usize, columns);
        let row =
            |row: &[u8]| (0..columns).flat_map(|x| weights.at(x, |i| pixel(row, i))).collect::<Vec<u8>>();
        bytes = bytes.chunks_exact(3 * from_width.max(1) as usize).flat_map(row).collect();
    }
    if height != from_height {
        let weights = Weights::new(from_height as usize, rows);
        let old = bytes;
        bytes = Vec::with_capacity(3 * columns * rows);
        for y in 0..rows {
            bytes.extend((0..columns).flat_map(|x| weights.at(y, |i| pixel(&old, i * columns + x))));
        }
    }
    // The length is right by construction.
    RgbImage::from_raw(width, height, bytes).unwrap_or_default()
}

/// Luminance of an 8-bit pixel as Pillow has it (`convert("L")`): that of ITU-R BT.601 with 16 binary places, rounded.
pub(crate) fn luminance([r, g, b]: [u8; 3]) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

fn pixel(bytes: &[u8], i: usize) -> [i64; 3] {
    [bytes[3 * i], bytes[3 * i + 1], bytes[3 * i + 2]].map(i64::from)
}

/// For each place of the result the first place of the source that it looks at, and the weights from there on.
struct Weights(Vec<(usize, Vec<i64>)>);

impl Weights {
    fn new(from: usize, to: usize) -> Self {
        let scale = from as f64 / to as f64;
        let stretch = scale.max(1.0);
        let support = SUPPORT * stretch;
        let one = |place: usize| {
            let center = (place as f64 + 0.5) * scale;
            // Conversions cut towards zero, as C's do.
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(from);
            let weights: Vec<f64> =
                (first..end).map(|i| kernel((i as f64 - center + 0.5) * (1.0 / stretch))).collect();
            let sum: f64 = weights.iter().sum();
            let fixed = |w: f64| {
                let w = if sum == 0.0 { w } else { w / sum } * f64::from(1u32 << PLACES);
                (if w < 0.0 { w - 0.5 } else { w + 0.5 }) as i64
            };
            (first, weights.into_iter().map(fixed).collect())
        };
        Weights((0..to).map(one).collect())
    }

    fn at(&self, place: usize, pixel: impl Fn(usize) -> [i64; 3]) -> [u8; 3] {
        let (first, weights) = &self.0[place];
        let mut sums = [1i64 << (PLACES - 1); 3];
        for (i, weight) in weights.iter().enumerate() {
            for (sum, value) in sums.iter_mut().zip(pixel(first + i)) {
                *sum += weight * value;
            }
        }
        sums.map(|sum| (sum >> PLACES).clamp(0, 255) as u8)
    }
}

/// Lanczos' kernel: a sinc under the middle of one three times as wide.
fn kernel(x: f64) -> f64 {
    let sinc =
        |x: f64| if x == 0.0 { 1.0 } else { (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI) };
    if (-SUPPORT..SUPPORT).contains(&x) { sinc(x) * sinc(x / SUPPORT) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use image::Rgb;
    use velatura_weights::{SafetensorsFile, TensorSource};

    use super::*;

    /// As the script makes it.
    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            let squares = (x / 5 + y / 3) % 2 * 128;
            let value = |c: u32| x * x * 7 + y * y * x * 3 + y * 31 + squares + c * (x * 5 + y * 3 + 60);
            Rgb([0, 1, 2].map(|c| (value(c) % 256) as u8))
        })
    }

    #[test]
    fn every_byte_is_pillows() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/resample.safetensors");
        let expected = SafetensorsFile::open(fixtures).unwrap();
        let names = expected.names();
        assert_eq!(names.len(), 20);
        for name in names.iter().filter(|name| !name.ends_with("/grey")) {
            let sides: Vec<u32> = name.split(['x', '-']).map(|side| side.parse().unwrap()).collect();
            let found = lanczos(picture(sides[0], sides[1]), sides[2], sides[3]);
            assert!(found.as_raw()[..] == expected.tensor_bytes(name).unwrap()[..], "{name}");
            let grey: Vec<u8> = found.pixels().map(|p| luminance(p.0)).collect();
            assert!(grey[..] == expected.tensor_bytes(&format!("{name}/grey")).unwrap()[..], "{name}");
        }
    }

    #[test]
    fn the_same_size_is_the_same_picture() {
        let same = picture(7, 5);
        assert_eq!(lanczos(same.clone(), 7, 5), same);
    }
}
