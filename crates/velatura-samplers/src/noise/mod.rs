//! Random numbers: those of the tools that people use, and our own for training.
//!
//! - [`TorchCpu`] is `torch.randn` on the CPU: ComfyUI's noise and diffusers' with a CPU generator.
//! - [`CudaPhilox`] is `torch.randn` on a CUDA device: A1111's noise by default.
//! - [`BrownianTree`] is torchsde's, which the stochastic DPM-Solver++ samplers of k-diffusion read.
//! - [`SeededNoise`] draws a picture's noise from these, with A1111's variations and seed resizing.
//! - [`CounterRng`] is for training: any number of any step can be drawn without those before it.
//!
//! The logarithm, sine and cosine of single-precision draws are computed here, not by the platform's
//! libraries, so the bits do not depend on them.

mod brownian;
mod counter;
mod cuda;
mod mt19937;
mod philox;
mod seed_sequence;
mod seeded;
mod torch_cpu;
mod vecmath;

use serde::{Deserialize, Serialize};

use crate::NoiseError;

pub use brownian::{BrownianTree, Way};
pub use counter::{CounterRng, Draws};
pub use cuda::CudaPhilox;
pub use mt19937::Mt19937;
pub use philox::philox4x32_10;
pub use seeded::{NoiseOptions, RngKind, SeededNoise, StepNoise, Variation};
pub use torch_cpu::TorchCpu;

/// Shape of one latent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LatentShape {
    /// Channels.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl LatentShape {
    /// Number of values.
    pub fn len(self) -> usize {
        self.channels * self.height * self.width
    }

    /// Whether there are no values.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Reorders one image from `[C, H, W]`, the order in which PyTorch draws, to `[H, W, C]`. `out` must
    /// have the length of `chw`; values beyond the shape are left alone.
    pub fn to_channels_last(self, chw: &[f32], out: &mut [f32]) {
        let pixels = self.height * self.width;
        for (pixel, values) in out.chunks_mut(self.channels.max(1)).take(pixels).enumerate() {
            for (channel, value) in values.iter_mut().enumerate() {
                if let Some(&drawn) = chw.get(channel * pixels + pixel) {
                    *value = drawn;
                }
            }
        }
    }
}

/// Unit normal numbers in the order of a `randn` call.
pub trait Randn: Send {
    /// Fills `out` as one call of `torch.randn` with as many values.
    fn randn(&mut self, out: &mut [f32]);
}

/// A source of noise for one image.
pub trait ImageNoise: Send {
    /// Unit normal noise for one image in our layout, `[H, W, C]`.
    fn draw(&mut self, out: &mut [f32]);

    /// Unit normal noise for a part of the run, for samplers that follow a Brownian motion; fresh noise where there
    /// is none.
    fn draw_between(&mut self, way: Way, out: &mut [f32]) {
        let _ = way;
        self.draw(out);
    }
}

/// A source of noise for a batch, each image from its own generator.
pub trait NoiseSource {
    /// Unit normal noise for image `image`, in our layout.
    fn draw(&mut self, image: usize, out: &mut [f32]);

    /// As [`ImageNoise::draw_between`], for image `image`.
    fn draw_between(&mut self, image: usize, way: Way, out: &mut [f32]) {
        let _ = way;
        self.draw(image, out);
    }
}

/// One generator for each image of a batch.
#[derive(Default)]
pub struct PerImage(pub Vec<Box<dyn ImageNoise>>);

impl PerImage {
    /// A generator for each seed.
    pub fn seeded(kind: RngKind, seeds: &[u64], shape: LatentShape) -> Self {
        PerImage(
            seeds
                .iter()
                .map(|&seed| Box::new(SeededNoise::new(kind, seed, shape)) as Box<dyn ImageNoise>)
                .collect(),
        )
    }

    /// A generator for each seed and options.
    ///
    /// # Errors
    /// As [`NoiseOptions::validate`].
    pub fn with_options(pictures: &[(u64, NoiseOptions)], shape: LatentShape) -> Result<Self, NoiseError> {
        let image = |&(seed, options): &(u64, NoiseOptions)| {
            SeededNoise::with_options(seed, shape, options)
                .map(|noise| Box::new(noise) as Box<dyn ImageNoise>)
        };
        pictures.iter().map(image).collect::<Result<_, _>>().map(PerImage)
    }

    /// The first draw of every image, one after another: the noise that a run starts from.
    pub fn initial(&mut self, shape: LatentShape) -> Vec<f32> {
        let mut noise = vec![0.0; shape.len() * self.0.len()];
        for (image, part) in self.0.iter_mut().zip(noise.chunks_mut(shape.len().max(1))) {
            image.draw(part);
        }
        noise
    }
}

impl NoiseSource for PerImage {
    /// An image without a generator gets no noise.
    fn draw(&mut self, image: usize, out: &mut [f32]) {
        match self.0.get_mut(image) {
            Some(generator) => generator.draw(out),
            None => out.fill(0.0),
        }
    }

    fn draw_between(&mut self, image: usize, way: Way, out: &mut [f32]) {
        match self.0.get_mut(image) {
            Some(generator) => generator.draw_between(way, out),
            None => out.fill(0.0),
        }
    }
}
