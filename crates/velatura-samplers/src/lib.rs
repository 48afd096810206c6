//! Noise schedules, timestep spacing, samplers, guidance and noise generators.
//!
//! This crate is pure arithmetic on host `f32` vectors (coefficients in `f64`) plus calls of a
//! *denoise* closure. It knows nothing of graphs, networks, files, images or threads: the caller
//! says what the network answers at a timestep, and the crate says which timesteps to ask for, how
//! to move the latent, and which random numbers to draw.
//!
//! The pieces, from the model outwards:
//!
//! - [`NoiseSchedule`] is the small serialisable record that is stored with a model: how it was
//!   noised and what it predicts. [`NoiseTable`] is its computed form: forward noising, training
//!   targets, loss weights.
//! - [`Spacing`] picks the timesteps of one run; a [`Plan`] is the result.
//! - [`sampler`] holds one file for each sampler; [`find_sampler`] and [`parse_sampler`] look them
//!   up by any of the names that people type.
//! - [`sample`] runs a sampler over a plan. The latent is always in the *model's own space*,
//!   `x = alpha * x0 + sigma * noise`: what the closure sees is what the network was trained on,
//!   whatever space the sampler's own paper uses.
//! - [`Guidance`] combines the two halves of a classifier-free-guidance batch, or several prompts;
//!   [`DynamicThreshold`], [`perturbed_attention`] and [`self_attention`] are its relatives.
//! - [`noise`] has PyTorch's CPU generator, the web UIs' CUDA generator, torchsde's Brownian tree, and a
//!   random-access generator for training.
//!
//! Nothing here depends on the batch or on the number of threads: every picture draws its noise
//! from its own generator.

mod error;
mod guidance;
pub mod noise;
mod plan;
mod prediction;
mod registry;
pub mod sampler;
mod schedule;
mod spacing;

pub use error::{GuidanceError, NoiseError, OptionError, PlanError, RunError, ScheduleError, UnknownName};
pub use guidance::{
    DynamicThreshold, Guidance, PercentileThreshold, ScaleMode, degrade, perturbed_attention,
    perturbed_attention_scale, rescale_noise_cfg, self_attention,
};
pub use noise::{ImageNoise, LatentShape, NoiseOptions, NoiseSource, PerImage, Variation};
pub use plan::{Path, Plan, PlanRequest, Step};
pub use prediction::{Level, Prediction};
pub use registry::{
    Elsewhere, SamplerEntry, SpacingEntry, find_sampler, find_spacing, parse_sampler, sampler_named,
    samplers, spacings,
};
pub use sampler::{
    Amend, Answer, Call, Progress, Sampler, SamplerOptions, Start, sample, sample_both, sample_from,
};
pub use schedule::{
    DiffusersSchedulerConfig, DynamicShift, NoiseSchedule, NoiseTable, ScheduleKind, TimeSampling, betas,
    rescale_zero_terminal_snr,
};
pub use spacing::{Grid, Spacing};
