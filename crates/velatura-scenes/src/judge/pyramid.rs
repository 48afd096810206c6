use image::RgbImage;

use super::{COARSE, FINE};
use crate::resample::Raster;

/// A picture less its background, at the two resolutions of the judge.
pub(super) struct Pyramid {
    /// Background, 0 to 1.
    pub background: [f32; 3],
    pub coarse: View,
    pub fine: View,
}

/// A square picture: for each pixel the colour less the background, and that times the background.
pub(super) struct View {
    /// Pixels a side, [`MARGIN`] included.
    stride: usize,
    values: Vec<[f32; 4]>,
}

/// Empty pixels around a view, so that windows may reach over its edge.
const MARGIN: i32 = 12;

impl Pyramid {
    /// `None` for a picture without pixels.
    pub fn new(picture: &RgbImage) -> Option<Self> {
        let (width, height) = picture.dimensions();
        if width == 0 || height == 0 {
            return None;
        }
        let pixels = picture.pixels().map(|p| {
            let [r, g, b] = p.0.map(|v| f32::from(v) / 255.0);
            [r, g, b, 1.0]
        });
        let mut raster = Raster::new(width as usize, height as usize, pixels.collect());
        while raster.width >= 2 * FINE as usize && raster.height >= 2 * FINE as usize {
            raster = raster.halved();
        }
        let fine = fitted(&raster, FINE);
        let background = border_median(&fine, FINE as usize);
        let coarse = fitted(&Raster::new(FINE as usize, FINE as usize, fine.clone()), COARSE);
        let view = |values: Vec<[f32; 4]>, pixels| View::new(values, pixels, background);
        Some(Self { background, coarse: view(coarse, COARSE as usize), fine: view(fine, FINE as usize) })
    }
}

/// The picture at `side` by `side` pixels, opaque.
fn fitted(raster: &Raster, side: u32) -> Vec<[f32; 4]> {
    let patch = raster.draw(0.0, 0.0, side as f32, side as f32);
    let mut values = Vec::with_capacity((side * side) as usize);
    for y in 0..side as i32 {
        for x in 0..side as i32 {
            let at = (y - patch.top) as usize * patch.raster.width + (x - patch.left) as usize;
            // At the rim the filter reaches over the edge into nothing: divide that out again.
            let [r, g, b, a] = patch.raster.pixels[at];
            values.push([r / a.max(1e-3), g / a.max(1e-3), b / a.max(1e-3), 1.0]);
        }
    }
    values
}

/// The median of each channel over the outermost two rows and columns, where objects hardly reach.
fn border_median(values: &[[f32; 4]], side: usize) -> [f32; 3] {
    let on_border = |v: usize| v < 2 || v >= side - 2;
    let border: Vec<&[f32; 4]> =
        (0..side * side).filter(|i| on_border(i % side) || on_border(i / side)).map(|i| &values[i]).collect();
    std::array::from_fn(|c| {
        let mut channel: Vec<f32> = border.iter().map(|pixel| pixel[c]).collect();
        let middle = channel.len() / 2;
        *channel.select_nth_unstable_by(middle, f32::total_cmp).1
    })
}

impl View {
    fn new(values: Vec<[f32; 4]>, pixels: usize, background: [f32; 3]) -> Self {
        let margin = MARGIN as usize;
        let stride = pixels + 2 * margin;
        let mut padded = vec![[0.0; 4]; stride * stride];
        for (y, row) in values.chunks_exact(pixels).enumerate() {
            for (value, target) in row.iter().zip(&mut padded[(y + margin) * stride + margin..]) {
                for c in 0..3 {
                    target[c] = value[c] - background[c];
                    target[3] += target[c] * background[c];
                }
            }
        }
        Self { stride, values: padded }
    }

    /// Copies the square window at (`left`, `top`) into `target`; it must not reach beyond the margin.
    pub fn window(&self, left: i32, top: i32, window: usize, target: &mut Vec<[f32; 4]>) {
        target.clear();
        let start = (top + MARGIN) as usize * self.stride + (left + MARGIN) as usize;
        for y in 0..window {
            target.extend_from_slice(&self.values[start + y * self.stride..][..window]);
        }
    }
}

/// `|I|²` of a window.
pub(super) fn energy(window: &[[f32; 4]]) -> f32 {
    window.iter().map(|value| value[..3].iter().map(|v| v * v).sum::<f32>()).sum()
}
