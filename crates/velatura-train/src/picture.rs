//! Pictures as tensors, and grids of them as PNG files.

use std::io::Write;
use std::path::Path;

use velatura_scenes::RgbImage;
use velatura_weights::atomic_write;

use crate::TrainError;

/// Appends a picture as `[H, W, 3]` numbers in -1..1.
pub(crate) fn push_picture(image: &RgbImage, out: &mut Vec<f32>) {
    out.extend(image.as_raw().iter().map(|&v| f32::from(v) / 127.5 - 1.0));
}

/// From -1..1 to 0..255, to the nearest.
pub(crate) fn to_byte(value: f32) -> u8 {
    ((value * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round() as u8
}

/// A picture from `[H, W, 3]` numbers, square.
pub(crate) fn from_tensor(values: &[f32], size: u32) -> RgbImage {
    let mut image = RgbImage::new(size, size);
    let bytes: &mut [u8] = &mut image;
    bytes.iter_mut().zip(values).for_each(|(b, &v)| *b = to_byte(v));
    image
}

/// Peak signal-to-noise ratio of 8-bit pictures in dB; at most 100, which stands for equality.
pub(crate) fn psnr(a: &RgbImage, b: &RgbImage) -> f64 {
    let squares = a.as_raw().iter().zip(b.as_raw()).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
    let mse = squares.sum::<f64>() / a.as_raw().len().max(1) as f64;
    (10.0 * (255.0f64.powi(2) / mse).log10()).min(100.0)
}

/// Pictures of one size in rows of `columns`, two pixels apart on white.
pub(crate) fn grid(pictures: &[RgbImage], columns: usize) -> RgbImage {
    const GAP: u32 = 2;
    let Some(first) = pictures.first() else { return RgbImage::new(1, 1) };
    let columns = columns.clamp(1, pictures.len()) as u32;
    let rows = (pictures.len() as u32).div_ceil(columns);
    let (w, h) = first.dimensions();
    let white = image::Rgb([255; 3]);
    let mut sheet = RgbImage::from_pixel(columns * (w + GAP) - GAP, rows * (h + GAP) - GAP, white);
    for (i, picture) in pictures.iter().enumerate() {
        let (column, row) = (i as u32 % columns, i as u32 / columns);
        image::imageops::replace(
            &mut sheet,
            picture,
            i64::from(column * (w + GAP)),
            i64::from(row * (h + GAP)),
        );
    }
    sheet
}

/// Writes a PNG file atomically.
pub(crate) fn save(path: &Path, image: &RgbImage) -> Result<(), TrainError> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image
        .write_to(&mut bytes, image::ImageFormat::Png)
        .map_err(|e| TrainError::Internal(format!("a picture cannot be encoded: {e}")))?;
    Ok(atomic_write(path, |out: &mut dyn Write| out.write_all(bytes.get_ref()))?)
}
