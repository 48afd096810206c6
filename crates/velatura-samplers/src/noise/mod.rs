//! Random numbers: those of the tools that people use, and our own for training.
//!
//! - [`TorchCpu`] is `torch.randn` on the CPU: ComfyUI's noise and diffusers' with a CPU generator.
//! - [`CudaPhilox`] is `torch.randn` on a CUDA device: A1111's noise by default.
//! - [`CounterRng`] is for training: any number of any step can be drawn without those before it.
//!
//! The logarithm, sine and cosine of single-precision draws are computed here, not by the platform's
//! libraries, so the bits do not depend on them.

mod counter;
mod cuda;
mod mt19937;
mod philox;
mod torch_cpu;
mod vecmath;

use serde::{Deserialize, Serialize};

pub use counter::{CounterRng, Draws};
pub use cuda::CudaPhilox;
pub use mt19937::Mt19937;
pub use philox::philox4x32_10;
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
}

/// A source of noise for a batch, each image from its own generator.
pub trait NoiseSource {
    /// Unit normal noise for image `image`, in our layout.
    fn draw(&mut self, image: usize, out: &mut [f32]);
}

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

/// Noise of one image from a seed, drawn as the reference tools draw it and put in our layout.
pub struct SeededNoise {
    generator: Box<dyn Randn>,
    shape: LatentShape,
    drawn: Vec<f32>,
}

impl SeededNoise {
    /// Noise for one image of `shape`.
    pub fn new(kind: RngKind, seed: u64, shape: LatentShape) -> Self {
        let generator: Box<dyn Randn> = match kind {
            RngKind::Cpu => Box::new(TorchCpu::new(seed)),
            RngKind::Cuda => Box::new(CudaPhilox::new(seed)),
        };
        SeededNoise { generator, shape, drawn: Vec::new() }
    }
}

impl ImageNoise for SeededNoise {
    fn draw(&mut self, out: &mut [f32]) {
        self.drawn.resize(out.len(), 0.0);
        self.generator.randn(&mut self.drawn);
        if out.len() == self.shape.len() {
            self.shape.to_channels_last(&self.drawn, out);
        } else {
            out.copy_from_slice(&self.drawn);
        }
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
}
