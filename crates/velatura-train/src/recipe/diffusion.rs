//! The recipe of a denoiser with its text transformer.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use velatura::Conditioning;
use velatura_models::{TextConfig, UNetConfig};
use velatura_samplers::{NoiseSchedule, TimeSampling};
use velatura_weights::Storage;

use super::common::{DataSettings, LogSettings, TrainingSettings};
use super::load::{Checks, Recipe};

/// Everything about the training of a denoiser.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiffusionRecipe {
    /// Name of the finished model.
    pub name: String,
    /// Where everything is written.
    pub output: PathBuf,
    /// The finished autoencoder.
    pub autoencoder: PathBuf,
    /// The pictures.
    #[serde(default)]
    pub data: DataSettings,
    /// Where latents come from.
    #[serde(default)]
    pub latents: LatentSettings,
    /// The text transformer. The size of the vocabulary and the number of positions follow from the data and
    /// `context`.
    pub text: TextConfig,
    /// Tokens of a prompt, start and end included.
    #[serde(default = "default_context")]
    pub context: usize,
    /// The denoiser.
    pub unet: UNetConfig,
    /// How a prompt reaches the denoiser.
    #[serde(default)]
    pub conditioning: Conditioning,
    /// Where weights come from; all are drawn when not given.
    #[serde(default)]
    pub start: Option<ModelStart>,
    /// What the text transformer learns beside the denoiser.
    #[serde(default)]
    pub layout: LayoutSettings,
    /// How latents are noised.
    #[serde(default)]
    pub noise: NoiseSettings,
    /// The loop.
    #[serde(default)]
    pub training: TrainingSettings,
    /// What is written while it runs.
    #[serde(default)]
    pub log: LogSettings,
    /// Sample pictures, and the finished model's defaults.
    #[serde(default)]
    pub samples: SampleSettings,
    /// The finished model's file.
    #[serde(default)]
    pub export: ExportSettings,
}

fn default_context() -> usize {
    32
}

/// Where latents come from: `[latents]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LatentSettings {
    /// Scenes that are encoded once and kept; 0 renders and encodes fresh ones in every step.
    pub cache: u64,
}

/// Training that goes on from a finished model: `[start]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelStart {
    /// The finished model, of the same networks.
    pub model: PathBuf,
}

/// Reading the layout off the caption: `[layout]`. The denoising loss alone teaches a text transformer words long before
/// relations: as long as "left of" and "right of" change the tokens of the objects in no way, the denoiser learns to
/// ignore them, and nothing tells the text transformer to change that. So the tokens are also asked directly which object
/// stands in each of nine places; the small head that asks is no part of the finished model.
#[derive(Clone, Copy, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LayoutSettings {
    /// Weight of its cross-entropy beside the denoising loss; 0 leaves it out.
    pub weight: f32,
}

/// How latents are noised: `[noise]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NoiseSettings {
    /// The schedule and what the network predicts.
    pub schedule: NoiseSchedule,
    /// How times are drawn.
    pub times: TimeSampling,
    /// Limit of the signal-to-noise ratio in the loss weights (Hang et al. 2023); every time weighs the same without.
    pub min_snr: Option<f64>,
    /// Share of captions that are left empty, for guidance.
    pub caption_dropout: f64,
}

impl Default for NoiseSettings {
    fn default() -> Self {
        NoiseSettings {
            schedule: NoiseSchedule::rectified_flow(1.0),
            times: TimeSampling::LogitNormal { mean: 0.0, std: 1.0 },
            min_snr: None,
            caption_dropout: 0.1,
        }
    }
}

/// Sample pictures: `[samples]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SampleSettings {
    /// Prompts of the grid that is made while training; captions of up to two objects when empty.
    pub prompts: Vec<String>,
    /// How many captions, where no prompts are given.
    pub count: usize,
    /// Sampling steps.
    pub steps: u32,
    /// Guidance scale.
    pub guidance: f32,
    /// Name of the sampler.
    pub sampler: String,
    /// Name of the timestep spacing.
    pub schedule: String,
}

impl Default for SampleSettings {
    fn default() -> Self {
        SampleSettings {
            prompts: Vec::new(),
            count: 64,
            steps: 30,
            guidance: 3.0,
            sampler: "euler".into(),
            schedule: "trailing".into(),
        }
    }
}

/// The finished model's file: `[export]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExportSettings {
    /// How weights are stored: `f16`, `bf16` or `f32`.
    pub storage: Storage,
    /// Licences of data and weights.
    pub licences: Vec<String>,
}

impl Default for ExportSettings {
    fn default() -> Self {
        ExportSettings {
            storage: Storage::F16,
            licences: vec![
                "weights: MIT OR Apache-2.0".into(),
                "training data rendered from Noto Color Emoji, SIL Open Font License 1.1".into(),
            ],
        }
    }
}

impl Recipe for DiffusionRecipe {
    const KIND: &'static str = "diffusion";

    fn check(&self, checks: &mut Checks) {
        checks.network("unet", self.unet.check());
        checks.require("context", (3..=512).contains(&self.context), "it must be 3 to 512 tokens");
        // What is filled in later must not fail here.
        let text = TextConfig { vocab_size: 8, max_positions: self.context, ..self.text.clone() };
        checks.network("text", text.check());
        let width = self.text.hidden_size;
        let widths = self.unet.cross_attention_dim.iter().flat_map(|w| w.values());
        checks.require(
            "unet.cross_attention_dim",
            !self.unet.reads_context() || widths.clone().all(|&w| w == width),
            format!("it must be text.hidden_size, {width}"),
        );
        checks.require(
            "unet.class_embed_type",
            self.unet.class_embedding().is_none(),
            "captions, not classes, steer",
        );
        checks.require(
            "unet.addition_embed_type",
            self.unet.addition_embed_type.is_none(),
            "it must be left out",
        );
        let weight = self.layout.weight;
        checks.require("layout.weight", weight.is_finite() && weight >= 0.0, "it must be a number from 0");
        let noise = &self.noise;
        checks.network("noise.schedule", noise.schedule.validate());
        checks.require(
            "noise.caption_dropout",
            (0.0..1.0).contains(&noise.caption_dropout),
            "it must be from 0 to below 1",
        );
        checks.require("noise.min_snr", noise.min_snr.is_none_or(|g| g > 0.0), "it must be a number above 0");
        if let TimeSampling::LogitNormal { mean, std } = noise.times {
            let usable = mean.is_finite() && std.is_finite() && std > 0.0;
            checks.require("noise.times", usable, "mean must be finite and std above 0");
        }
        let samples = &self.samples;
        checks.require("samples.count", (1..=1024).contains(&samples.count), "it must be 1 to 1024");
        checks.require("samples.steps", (1..=1000).contains(&samples.steps), "it must be 1 to 1000");
        let guidance = samples.guidance.is_finite() && samples.guidance >= 0.0;
        checks.require("samples.guidance", guidance, "it must be a number from 0");
        checks.network("samples.sampler", velatura_samplers::find_sampler(&samples.sampler).map(|_| ()));
        checks.network("samples.schedule", velatura_samplers::find_spacing(&samples.schedule).map(|_| ()));
        let written = self.export.storage != Storage::F64;
        checks.require("export.storage", written, "it must be f16, bf16 or f32");
    }

    fn data(&self) -> &DataSettings {
        &self.data
    }
    fn training(&self) -> &TrainingSettings {
        &self.training
    }
    fn training_mut(&mut self) -> &mut TrainingSettings {
        &mut self.training
    }
    fn log(&self) -> &LogSettings {
        &self.log
    }
    fn output(&self) -> &Path {
        &self.output
    }
    fn set_output(&mut self, output: &Path) {
        self.output = output.to_path_buf();
    }
}
