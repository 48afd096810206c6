//! Anti-aliased drawing of premultiplied RGBA pictures at any position and size.

/// Premultiplied red, green, blue and alpha, 0 to 1.
pub(crate) type Pixel = [f32; 4];

/// A picture, row by row. `extent` is the part that is the picture proper, in pixels: levels of a pyramid
/// cover a whole number of pixels but a picture of odd size ends half-way through the last one.
#[derive(Clone, Debug)]
pub(crate) struct Raster {
    pub width: usize,
    pub height: usize,
    pub extent: (f32, f32),
    pub pixels: Vec<Pixel>,
}

/// A drawn picture and where its top left pixel lies on the canvas.
pub(crate) struct Patch {
    pub left: i32,
    pub top: i32,
    pub raster: Raster,
}

impl Raster {
    pub fn new(width: usize, height: usize, pixels: Vec<Pixel>) -> Self {
        debug_assert_eq!(pixels.len(), width * height);
        Self { width, height, extent: (width as f32, height as f32), pixels }
    }

    /// Half the size by 2x2 averages.
    pub fn halved(&self) -> Self {
        let (width, height) = (self.width.div_ceil(2), self.height.div_ceil(2));
        let mut pixels = vec![[0.0; 4]; width * height];
        for y in 0..self.height {
            for x in 0..self.width {
                let target = &mut pixels[y / 2 * width + x / 2];
                for (sum, value) in target.iter_mut().zip(self.pixels[y * self.width + x]) {
                    *sum += 0.25 * value;
                }
            }
        }
        Self { width, height, extent: (self.extent.0 / 2.0, self.extent.1 / 2.0), pixels }
    }

    /// Draws the picture into the rectangle at (`x`, `y`) of `width` by `height` pixels, all fractional.
    /// Outside the picture is transparent.
    pub fn draw(&self, x: f32, y: f32, width: f32, height: f32) -> Patch {
        let columns = Taps::new(x, width, self.extent.0, self.width);
        let rows = Taps::new(y, height, self.extent.1, self.height);
        let (out_width, out_height) = (columns.count(), rows.count());
        let mut narrow = vec![[0.0_f32; 4]; out_width * self.height];
        for (source, target) in self.pixels.chunks_exact(self.width).zip(narrow.chunks_exact_mut(out_width)) {
            for (i, pixel) in target.iter_mut().enumerate() {
                let (start, weights) = columns.at(i);
                for (&weight, value) in weights.iter().zip(&source[start..]) {
                    for c in 0..4 {
                        pixel[c] += weight * value[c];
                    }
                }
            }
        }
        let mut pixels = vec![[0.0_f32; 4]; out_width * out_height];
        for (i, target) in pixels.chunks_exact_mut(out_width.max(1)).enumerate() {
            let (start, weights) = rows.at(i);
            for (k, &weight) in weights.iter().enumerate() {
                let source = &narrow[(start + k) * out_width..][..out_width];
                for (pixel, value) in target.iter_mut().zip(source) {
                    for c in 0..4 {
                        pixel[c] += weight * value[c];
                    }
                }
            }
            for pixel in target {
                // The cubic overshoots at edges: bring it back to what a premultiplied colour can be.
                pixel[3] = pixel[3].clamp(0.0, 1.0);
                for c in 0..3 {
                    pixel[c] = pixel[c].clamp(0.0, pixel[3]);
                }
            }
        }
        Patch { left: columns.first, top: rows.first, raster: Self::new(out_width, out_height, pixels) }
    }
}

/// For each pixel of a row (or column) of the target: which source pixels count how much.
struct Taps {
    /// Position of the first target pixel.
    first: i32,
    /// Per target pixel: first source pixel, and where its weights lie.
    spans: Vec<(usize, usize, usize)>,
    weights: Vec<f32>,
}

impl Taps {
    fn new(start: f32, length: f32, extent: f32, available: usize) -> Self {
        let scale = extent / length;
        // Shrinking widens the filter so that every source pixel counts: no aliasing.
        let stretch = scale.max(1.0);
        let reach = 2.0 * stretch;
        let margin = reach / scale;
        let first = (start - margin).floor() as i32;
        let last = (start + length + margin).ceil() as i32;
        let mut taps = Self { first, spans: Vec::new(), weights: Vec::new() };
        for target in first..last {
            let center = (target as f32 + 0.5 - start) * scale;
            let low = (center - reach).floor() as i32;
            let high = (center + reach).ceil() as i32;
            let from = low.clamp(0, available as i32);
            let to = high.clamp(from, available as i32);
            let offset = taps.weights.len();
            let mut sum = 0.0;
            for source in low..high {
                let weight = catmull_rom((source as f32 + 0.5 - center) / stretch);
                sum += weight;
                if (from..to).contains(&source) {
                    taps.weights.push(weight);
                }
            }
            for weight in &mut taps.weights[offset..] {
                *weight /= sum;
            }
            taps.spans.push((from as usize, offset, taps.weights.len()));
        }
        taps
    }

    fn count(&self) -> usize {
        self.spans.len()
    }

    fn at(&self, index: usize) -> (usize, &[f32]) {
        let (start, from, to) = self.spans[index];
        (start, &self.weights[from..to])
    }
}

/// Catmull and Rom's interpolating cubic, zero beyond 2.
fn catmull_rom(x: f32) -> f32 {
    let x = x.abs();
    if x < 1.0 {
        (1.5 * x - 2.5) * x * x + 1.0
    } else if x < 2.0 {
        ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawing_at_the_own_size_and_place_changes_nothing() {
        let pixels: Vec<Pixel> = (0..35).map(|i| [i as f32 / 70.0, 0.1, 0.0, 0.6]).collect();
        let raster = Raster::new(7, 5, pixels.clone());
        let patch = raster.draw(3.0, 2.0, 7.0, 5.0);
        for y in 0..5 {
            for x in 0..7 {
                let at = (y + 2 - patch.top) * patch.raster.width as i32 + x + 3 - patch.left;
                let (got, want) = (patch.raster.pixels[at as usize], pixels[(y * 7 + x) as usize]);
                assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{got:?} {want:?}");
            }
        }
    }

    #[test]
    fn shrinking_keeps_the_total_weight() {
        let raster = Raster::new(61, 40, vec![[0.5, 0.25, 0.0, 1.0]; 61 * 40]);
        for (x, width) in [(4.3, 20.7), (0.9, 13.1), (2.0, 75.5)] {
            let patch = raster.draw(x, 3.2, width, 17.4);
            let area: f32 = patch.raster.pixels.iter().map(|p| p[3]).sum();
            assert!((area / (width * 17.4) - 1.0).abs() < 0.02, "{area} {width}");
        }
    }

    #[test]
    fn halving_averages() {
        let raster = Raster::new(3, 2, (0..6).map(|i| [0.0, 0.0, 0.0, i as f32 / 8.0]).collect());
        let half = raster.halved();
        assert_eq!((half.width, half.height, half.extent), (2, 1, (1.5, 1.0)));
        assert_eq!(half.pixels[0][3], (0.0 + 1.0 + 3.0 + 4.0) / 32.0);
        assert_eq!(half.pixels[1][3], (2.0 + 5.0) / 32.0);
    }
}
