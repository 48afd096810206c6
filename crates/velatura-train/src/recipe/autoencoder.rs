//! The recipe of an autoencoder.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use velatura_models::AutoencoderConfig;

use super::common::{DataSettings, LogSettings, TrainingSettings};
use super::load::{Checks, Recipe};

/// Everything about the training of an autoencoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AutoencoderRecipe {
    /// Where everything is written.
    pub output: PathBuf,
    /// The pictures.
    #[serde(default)]
    pub data: DataSettings,
    /// The network.
    pub model: AutoencoderConfig,
    /// Where weights come from; all are drawn when not given.
    #[serde(default)]
    pub start: Option<StartSettings>,
    /// What is minimised.
    #[serde(default)]
    pub loss: ReconstructionLoss,
    /// The loop.
    #[serde(default)]
    pub training: TrainingSettings,
    /// What is written while it runs.
    #[serde(default)]
    pub log: LogSettings,
}

/// Training that goes on from a finished autoencoder: `[start]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StartSettings {
    /// The finished autoencoder, of the same network.
    pub autoencoder: PathBuf,
    /// Whether the encoder stays as it is, so that denoisers trained on its latents fit the better decoder too.
    #[serde(default)]
    pub decoder_only: bool,
}

/// Weights of the parts of the loss: `[loss]`. Pictures are in -1..1, every part is a mean over elements.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReconstructionLoss {
    /// Absolute difference.
    pub l1: f32,
    /// Absolute difference of the differences between neighbouring pixels: keeps edges sharp.
    pub edge: f32,
    /// Squared difference.
    pub l2: f32,
    /// Kullback-Leibler divergence of the latent from the unit Gaussian.
    pub kl: f32,
}

impl Default for ReconstructionLoss {
    fn default() -> Self {
        ReconstructionLoss { l1: 1.0, edge: 1.0, l2: 0.0, kl: 2e-4 }
    }
}

impl Recipe for AutoencoderRecipe {
    const KIND: &'static str = "autoencoder";

    fn check(&self, checks: &mut Checks) {
        checks.network("model", self.model.check());
        let factor = self.model.downsampling();
        checks.require(
            "data.size",
            (self.data.size as usize).is_multiple_of(factor),
            format!("it must be a multiple of {factor}, by which the model shrinks pictures"),
        );
        checks.require("model.in_channels", self.model.in_channels == 3, "pictures have 3 channels");
        checks.require("model.out_channels", self.model.out_channels == 3, "pictures have 3 channels");
        let ReconstructionLoss { l1, edge, l2, kl } = self.loss;
        for (key, weight) in [("loss.l1", l1), ("loss.edge", edge), ("loss.l2", l2), ("loss.kl", kl)] {
            checks.require(key, weight.is_finite() && weight >= 0.0, "it must be a number from 0");
        }
        checks.require("loss.l1", l1 + l2 > 0.0, "loss.l1 and loss.l2 must not both be 0");
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
