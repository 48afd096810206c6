//! Overlapping tiles of a latent, and one image out of what was made of each.

/// Where tiles lie along one axis.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Axis {
    /// Where each begins; the first at 0, the last so that it ends with the image.
    starts: Vec<usize>,
    /// Length of every tile.
    length: usize,
    /// Over so many pixels a tile fades where another goes on.
    fade: usize,
    /// Length of the image.
    whole: usize,
}

/// Tiles of equal size that cover an image, neighbours overlapping by a quarter of a side or more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tiles {
    rows: Axis,
    columns: Axis,
}

/// One tile, in pixels of the latent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tile {
    pub top: usize,
    pub left: usize,
    pub height: usize,
    pub width: usize,
}

impl Axis {
    fn new(whole: usize, side: usize) -> Self {
        let length = side.min(whole);
        let fade = side / 4;
        let count = if whole > side { (whole - fade).div_ceil(side - fade) } else { 1 };
        let last = whole - length;
        let starts = (0..count).map(|i| i * last / (count - 1).max(1)).collect();
        Axis { starts, length, fade, whole }
    }

    /// The weight of a tile's pixels, `scale` for each of the latent: falling to 0 towards edges behind which the image
    /// goes on, with a slope of 0 at both ends, so that the blend has neither a step nor a kink.
    fn weights(&self, start: usize, scale: usize) -> Vec<f32> {
        let (length, fade) = (self.length * scale, (self.fade * scale) as f32);
        let ramp = |from_edge: usize| ((from_edge as f32 + 0.5) / fade).min(1.0);
        let weight = |i: usize| {
            let before = if start == 0 { 1.0 } else { ramp(i) };
            let after = if start + self.length == self.whole { 1.0 } else { ramp(length - 1 - i) };
            let t = before.min(after);
            t * t * (3.0 - 2.0 * t)
        };
        (0..length).map(weight).collect()
    }
}

impl Tiles {
    /// Tiles of at most `side` by `side` pixels over an image.
    pub fn new(height: usize, width: usize, side: usize) -> Self {
        Tiles { rows: Axis::new(height, side), columns: Axis::new(width, side) }
    }

    /// One tile: the image.
    pub fn whole(height: usize, width: usize) -> Self {
        Self::new(height, width, height.max(width))
    }

    /// All of them, row by row.
    pub fn all(&self) -> impl Iterator<Item = Tile> {
        self.rows.starts.iter().flat_map(move |&top| {
            let tile =
                move |&left: &usize| Tile { top, left, height: self.rows.length, width: self.columns.length };
            self.columns.starts.iter().map(tile)
        })
    }

    /// What `make` makes of each tile, `[height * scale, width * scale, channels]`, blended into one image of that scale.
    /// The only tile of an image is left as it is.
    pub fn blend<E>(
        &self,
        scale: usize,
        channels: usize,
        mut make: impl FnMut(Tile) -> Result<Vec<f32>, E>,
    ) -> Result<Vec<f32>, E> {
        let (height, width) = (self.rows.whole * scale, self.columns.whole * scale);
        let mut sum = vec![0.0f32; height * width * channels];
        let mut weights = vec![0.0f32; height * width];
        for tile in self.all() {
            let values = make(tile)?;
            if values.len() == sum.len() {
                return Ok(values);
            }
            let (down, across) = (self.rows.weights(tile.top, scale), self.columns.weights(tile.left, scale));
            let lines = values.chunks_exact(tile.width * scale * channels).zip(&down).enumerate();
            for (y, (line, down)) in lines {
                let first = (tile.top * scale + y) * width + tile.left * scale;
                for ((x, pixel), across) in line.chunks_exact(channels).enumerate().zip(&across) {
                    let weight = down * across;
                    let at = first + x;
                    weights[at] += weight;
                    for (sum, value) in sum[at * channels..(at + 1) * channels].iter_mut().zip(pixel) {
                        *sum += weight * value;
                    }
                }
            }
        }
        for (pixel, weight) in sum.chunks_exact_mut(channels).zip(&weights) {
            pixel.iter_mut().for_each(|v| *v /= weight);
        }
        Ok(sum)
    }
}

impl Tile {
    /// The tile's part of an image `[h, width, channels]` of `scale` pixels for each of the latent.
    pub fn cut(&self, image: &[f32], width: usize, scale: usize, channels: usize) -> Vec<f32> {
        let line = width * channels;
        let from = self.left * scale * channels;
        let lines = image.chunks_exact(line).skip(self.top * scale).take(self.height * scale);
        lines.flat_map(|line| &line[from..from + self.width * scale * channels]).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    fn image(height: usize, width: usize, channels: usize) -> Vec<f32> {
        (0..height * width * channels).map(|i| ((i * 7919) % 1009) as f32 / 100.0 - 5.0).collect()
    }

    #[test]
    fn small_images_are_one_tile() {
        assert_eq!(Tiles::new(64, 40, 64).all().count(), 1);
        assert_eq!(Tiles::whole(3, 700).all().count(), 1);
        // 65 need two, which then overlap nearly whole; 112 = 64 + 48 are just two with a quarter in common.
        assert_eq!(Tiles::new(65, 64, 64).rows.starts, [0, 1]);
        assert_eq!(Tiles::new(112, 113, 64).rows.starts, [0, 48]);
        assert_eq!(Tiles::new(112, 113, 64).columns.starts, [0, 24, 49]);
    }

    proptest! {
        /// What does not look at its neighbours does not see the tiles.
        #[test]
        fn local_operations_come_out_whole(
            height in 1usize..40, width in 1usize..40, side in 1usize..24, scale in 1usize..4,
        ) {
            let channels = 2;
            let latent = image(height, width, channels);
            let enlarge = |x: &[f32], h: usize, w: usize| -> Vec<f32> {
                (0..h * scale)
                    .flat_map(|y| (0..w * scale).map(move |x| (y / scale * w + x / scale) * channels))
                    .flat_map(|at| [x[at], x[at + 1]])
                    .collect()
            };
            let tiles = Tiles::new(height, width, side);
            let blended = tiles.blend(scale, channels, |tile| {
                prop_assert!(tile.height <= side && tile.width <= side);
                Ok::<_, TestCaseError>(enlarge(&tile.cut(&latent, width, 1, channels), tile.height, tile.width))
            })?;
            for (a, b) in blended.iter().zip(enlarge(&latent, height, width)) {
                prop_assert!((a - b).abs() < 1e-4, "{a} {b}");
            }
        }
    }

    #[test]
    fn tiles_that_disagree_leave_neither_step_nor_kink() {
        // Every tile another constant: the worst that norms over tiles can do.
        let tiles = Tiles::new(64, 200, 64);
        let mut constant = -1.0;
        let blended = tiles
            .blend(8, 1, |tile| {
                constant += 1.0;
                Ok::<_, Infallible>(vec![constant; tile.height * tile.width * 64])
            })
            .unwrap();
        assert_eq!(constant, 3.0);
        let line = &blended[..1600];
        assert_eq!((line[0], line[1599]), (0.0, 3.0));
        let worst = |d: fn(&[f32]) -> f32| line.windows(3).map(d).fold(0.0f32, f32::max);
        // 128 pixels from one constant to the next: a mean slope of 1/128.
        assert!(worst(|w| (w[1] - w[0]).abs()) < 3.0 / 128.0);
        assert!(worst(|w| (w[2] - 2.0 * w[1] + w[0]).abs()) < 0.001);
    }
}
