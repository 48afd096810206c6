//! Noise of one image from its seed: where it begins, and what is drawn in its steps.

use serde::{Deserialize, Serialize};

use super::{BrownianTree, CudaPhilox, ImageNoise, LatentShape, Randn, TorchCpu, Way};
use crate::NoiseError;

/// Which generator a seed is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RngKind {
    /// PyTorch's CPU generator: ComfyUI, diffusers.
    #[default]
    Cpu,
    /// CUDA's Philox generator: A1111.
    Cuda,
}

impl RngKind {
    /// The generator with a seed.
    pub fn generator(self, seed: u64) -> Box<dyn Randn> {
        match self {
            RngKind::Cpu => Box::new(TorchCpu::new(seed)),
            RngKind::Cuda => Box::new(CudaPhilox::new(seed)),
        }
    }
}

/// A second seed mixed into the first noise of a picture (A1111's "variation").
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variation {
    /// The second seed.
    pub seed: u64,
    /// How far to go towards it, 0 (not at all) to 1 (all the way).
    pub strength: f64,
}

/// Where the noise of stochastic samplers' steps comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepNoise {
    /// From the generator that drew the first noise: diffusers, A1111.
    #[default]
    Continue,
    /// From a new generator of this kind with the picture's seed plus `delta`. ComfyUI on a CPU: `Cpu`, 1; ComfyUI on
    /// a GPU: `Cuda`, 0; A1111's "eta noise seed delta": the picture's own kind and that delta.
    Anew {
        /// Its generator.
        kind: RngKind,
        /// Added to the seed.
        delta: u64,
    },
}

/// How the noise of a picture is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NoiseOptions {
    /// Generator of the first noise.
    pub kind: RngKind,
    /// A second seed.
    pub variation: Option<Variation>,
    /// Rows and columns of the latent whose picture this one is to resemble: its noise is laid into the middle
    /// (A1111's "seed resize").
    pub resize_from: Option<(usize, usize)>,
    /// Noise of the steps.
    pub steps: StepNoise,
}

/// Longest side of the latent that noise is resized from.
const LONGEST_SIDE: usize = 1 << 14;

impl NoiseOptions {
    /// Checks every option.
    ///
    /// # Errors
    /// A strength outside 0 to 1, or a size to resize from of 0 or absurd.
    pub fn validate(&self) -> Result<(), NoiseError> {
        if let Some(Variation { strength, .. }) = self.variation
            && !(0.0..=1.0).contains(&strength)
        {
            return Err(NoiseError::Strength(strength));
        }
        if let Some((height, width)) = self.resize_from
            && !((1..=LONGEST_SIDE).contains(&height) && (1..=LONGEST_SIDE).contains(&width))
        {
            return Err(NoiseError::Size { height, width, most: LONGEST_SIDE });
        }
        Ok(())
    }

    /// Seeds of a batch as A1111 counts them: with a variation the second seed goes up, without one the first.
    pub fn of_picture(&self, seed: u64, index: usize) -> (u64, NoiseOptions) {
        let index = index as u64;
        match self.variation {
            Some(v) if v.strength != 0.0 => {
                let variation = Some(Variation { seed: v.seed.wrapping_add(index), ..v });
                (seed, NoiseOptions { variation, ..*self })
            }
            _ => (seed.wrapping_add(index), *self),
        }
    }
}

/// Noise of one image from a seed, drawn as the reference tools draw it and put in our layout.
pub struct SeededNoise {
    generator: Box<dyn Randn>,
    seed: u64,
    options: NoiseOptions,
    shape: LatentShape,
    drawn: Vec<f32>,
    first: bool,
    tree: Option<(BrownianTree, Way)>,
}

impl SeededNoise {
    /// Noise for one image of `shape`.
    pub fn new(kind: RngKind, seed: u64, shape: LatentShape) -> Self {
        Self::unchecked(seed, shape, NoiseOptions { kind, ..NoiseOptions::default() })
    }

    /// Noise for one image of `shape` with options.
    ///
    /// # Errors
    /// As [`NoiseOptions::validate`].
    pub fn with_options(seed: u64, shape: LatentShape, options: NoiseOptions) -> Result<Self, NoiseError> {
        options.validate()?;
        Ok(Self::unchecked(seed, shape, options))
    }

    fn unchecked(seed: u64, shape: LatentShape, options: NoiseOptions) -> Self {
        let generator = options.kind.generator(seed);
        SeededNoise { generator, seed, options, shape, drawn: Vec::new(), first: true, tree: None }
    }

    /// The first noise of the picture into `drawn`, in PyTorch's order: A1111's `ImageRNG.first`.
    fn draw_first(&mut self) {
        let NoiseOptions { kind, variation, resize_from, .. } = self.options;
        let whole = self.shape;
        let source = match resize_from {
            Some((height, width)) => LatentShape { height, width, ..whole },
            None => whole,
        };
        self.generator.randn(&mut self.drawn);
        let varied = variation.filter(|v| v.strength != 0.0);
        if varied.is_none() && source == whole {
            return;
        }
        // A seed's first call does not depend on what is done with it.
        let mut noise = vec![0.0; source.len()];
        kind.generator(self.seed).randn(&mut noise);
        if let Some(Variation { seed, strength }) = varied {
            let mut other = vec![0.0; source.len()];
            kind.generator(seed).randn(&mut other);
            noise = slerp(strength, &noise, &other, source);
        }
        if source == whole {
            self.drawn = noise;
        } else {
            lay_into_middle(&noise, source, &mut self.drawn, whole);
        }
    }
}

/// A1111's spherical interpolation of noise in `[C, H, W]`: it turns each column of each channel by itself, and mixes
/// plainly (the wrong way round, as there) where the two are nearly the same.
fn slerp(share: f64, low: &[f32], high: &[f32], shape: LatentShape) -> Vec<f32> {
    let LatentShape { channels, height, width } = shape;
    let column = |channel: usize, x: usize| (0..height).map(move |y| (channel * height + y) * width + x);
    let columns = || (0..channels).flat_map(|c| (0..width).map(move |x| (c, x)));
    let dots: Vec<f64> = columns()
        .map(|(c, x)| {
            let product = |a: &[f32], b: &[f32]| -> f64 {
                column(c, x).map(|i| f64::from(a[i]) * f64::from(b[i])).sum()
            };
            product(low, high) / (product(low, low) * product(high, high)).sqrt()
        })
        .collect();
    let mean = dots.iter().sum::<f64>() / dots.len().max(1) as f64;
    let mut out = vec![0.0; low.len()];
    for ((c, x), dot) in columns().zip(dots) {
        let omega = dot.clamp(-1.0, 1.0).acos();
        let sine = omega.sin();
        let (of_low, of_high) = if mean > 0.9995 {
            (share, 1.0 - share)
        } else if sine > 1e-6 {
            (((1.0 - share) * omega).sin() / sine, (share * omega).sin() / sine)
        } else {
            // Columns on one line span no angle.
            (1.0 - share, share)
        };
        for i in column(c, x) {
            out[i] = (of_low * f64::from(low[i]) + of_high * f64::from(high[i])) as f32;
        }
    }
    out
}

/// Puts the middle of `noise` into the middle of `out`, both `[C, H, W]`, with A1111's rounding.
fn lay_into_middle(noise: &[f32], from: LatentShape, out: &mut [f32], to: LatentShape) {
    // Half the difference, rounded down; the part that is copied, and where it begins in either.
    let place = |from: usize, to: usize| {
        let offset = (to as i64 - from as i64).div_euclid(2);
        let len = if offset >= 0 { from as i64 } else { from as i64 + 2 * offset };
        (offset.min(0).unsigned_abs() as usize, offset.max(0) as usize, len.max(0) as usize)
    };
    let (from_y, to_y, height) = place(from.height, to.height);
    let (from_x, to_x, width) = place(from.width, to.width);
    for channel in 0..to.channels {
        for y in 0..height {
            let source = (channel * from.height + from_y + y) * from.width + from_x;
            let target = (channel * to.height + to_y + y) * to.width + to_x;
            if let (Some(source), Some(target)) =
                (noise.get(source..source + width), out.get_mut(target..target + width))
            {
                target.copy_from_slice(source);
            }
        }
    }
}

impl ImageNoise for SeededNoise {
    fn draw(&mut self, out: &mut [f32]) {
        self.drawn.resize(out.len(), 0.0);
        let whole = out.len() == self.shape.len();
        if self.first && whole {
            self.draw_first();
            if let StepNoise::Anew { kind, delta } = self.options.steps {
                self.generator = kind.generator(self.seed.wrapping_add(delta));
            }
        } else {
            self.generator.randn(&mut self.drawn);
        }
        self.first = false;
        if whole {
            self.shape.to_channels_last(&self.drawn, out);
        } else {
            out.copy_from_slice(&self.drawn);
        }
    }

    /// The increment of a [`BrownianTree`] with the picture's seed on the device of its step noise: k-diffusion's
    /// `BrownianTreeNoiseSampler`.
    fn draw_between(&mut self, way: Way, out: &mut [f32]) {
        // Written so that NaN fails.
        if !(way.least < way.most && way.from != way.to) {
            return self.draw(out);
        }
        let kind = match self.options.steps {
            StepNoise::Continue => self.options.kind,
            StepNoise::Anew { kind, .. } => kind,
        };
        let same = |known: &Way| known.least == way.least && known.most == way.most;
        if !self.tree.as_ref().is_some_and(|(_, known)| same(known)) {
            let tree = BrownianTree::new(kind, self.seed, way.least, way.most, out.len());
            self.tree = Some((tree, way));
        }
        if let Some((tree, _)) = &self.tree {
            tree.noise(way, self.shape, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: LatentShape = LatentShape { channels: 2, height: 5, width: 4 };

    fn first(options: NoiseOptions) -> Vec<f32> {
        let mut out = vec![0.0; SHAPE.len()];
        SeededNoise::with_options(3, SHAPE, options).unwrap().draw(&mut out);
        out
    }

    #[test]
    fn the_ends_of_a_variation_are_the_two_seeds() {
        let at = |strength| {
            first(NoiseOptions {
                variation: Some(Variation { seed: 9, strength }),
                ..NoiseOptions::default()
            })
        };
        assert_eq!(at(0.0), first(NoiseOptions::default()));
        let mut other = vec![0.0; SHAPE.len()];
        SeededNoise::new(RngKind::Cpu, 9, SHAPE).draw(&mut other);
        for (got, want) in at(1.0).iter().zip(&other) {
            assert!((got - want).abs() < 1e-5);
        }
        let same =
            NoiseOptions { variation: Some(Variation { seed: 3, strength: 0.4 }), ..Default::default() };
        for (got, want) in first(same).iter().zip(&first(NoiseOptions::default())) {
            assert!((got - want).abs() < 1e-6);
        }
    }

    #[test]
    fn odd_sizes_stay_finite() {
        for (height, width) in [(1, 1), (1, 9), (9, 1), (5, 4), (4, 5), (64, 64)] {
            for strength in [0.0, 0.3] {
                let variation = Some(Variation { seed: 1, strength });
                let options =
                    NoiseOptions { variation, resize_from: Some((height, width)), ..Default::default() };
                assert!(first(options).iter().all(|v| v.is_finite()));
            }
        }
        for (height, width) in [(0, 4), (4, 0), (usize::MAX, 1)] {
            let options = NoiseOptions { resize_from: Some((height, width)), ..Default::default() };
            assert!(matches!(options.validate(), Err(NoiseError::Size { .. })));
        }
        for strength in [f64::NAN, -0.1, 1.5] {
            let options =
                NoiseOptions { variation: Some(Variation { seed: 1, strength }), ..Default::default() };
            assert!(matches!(options.validate(), Err(NoiseError::Strength(_))));
        }
    }

    #[test]
    fn step_noise_can_begin_anew() {
        let steps = StepNoise::Anew { kind: RngKind::Cpu, delta: 1 };
        let options = NoiseOptions { steps, ..NoiseOptions::default() };
        let mut noise = SeededNoise::with_options(3, SHAPE, options).unwrap();
        let (mut begin, mut step) = (vec![0.0; SHAPE.len()], vec![0.0; SHAPE.len()]);
        noise.draw(&mut begin);
        noise.draw(&mut step);
        let mut fourth = vec![0.0; SHAPE.len()];
        SeededNoise::new(RngKind::Cpu, 4, SHAPE).draw(&mut fourth);
        assert_eq!(step, fourth);
    }
}
