//! The parts that all recipes share.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use velatura_graph::passes::Precision;
use velatura_scenes::{DEFAULT_FONT, Glyphs, Mix, Scenes, Split};

use super::load::Checks;
use crate::TrainError;

/// The pictures: `[data]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataSettings {
    /// The emoji font.
    pub font: PathBuf,
    /// Seed of the data set.
    pub seed: u64,
    /// Pixels a side, 16 to 2048.
    pub size: u32,
    /// The part that is trained on.
    pub split: Split,
    /// How often each kind of scene occurs.
    pub mix: Mix,
    /// Names of the glyphs to use; all of the vocabulary when empty.
    pub glyphs: Vec<String>,
}

impl Default for DataSettings {
    fn default() -> Self {
        DataSettings {
            font: DEFAULT_FONT.into(),
            seed: 0,
            size: 64,
            split: Split::Seen,
            mix: Mix::default(),
            glyphs: Vec::new(),
        }
    }
}

impl DataSettings {
    /// The drawings.
    pub fn load_glyphs(&self) -> Result<Arc<Glyphs>, TrainError> {
        let glyphs = match self.glyphs.as_slice() {
            [] => Glyphs::load(&self.font)?,
            names => Glyphs::load_named(&self.font, names)?,
        };
        Ok(Arc::new(glyphs))
    }

    /// The examples that are trained on.
    pub fn scenes(&self, glyphs: &Arc<Glyphs>) -> Result<Scenes, TrainError> {
        Ok(Scenes::with_glyphs(Arc::clone(glyphs), self.seed, self.split, self.size)?.with_mix(self.mix)?)
    }

    /// Examples that are not trained on, of the same kinds: held-out combinations where the glyphs allow some, else
    /// others of the same split.
    pub fn unseen_scenes(&self, glyphs: &Arc<Glyphs>) -> Result<Scenes, TrainError> {
        let make = |split, seed| Scenes::with_glyphs(Arc::clone(glyphs), seed, split, self.size);
        let scenes = match make(Split::HeldOut, self.seed) {
            Ok(scenes) => scenes,
            Err(_) => make(self.split, self.seed ^ 0x5eed_0ff5_0ff5_5eed)?,
        };
        Ok(scenes.with_mix(self.mix)?)
    }

    pub(super) fn check(&self, checks: &mut Checks) {
        checks.require("data.size", (16..=2048).contains(&self.size), "it must be 16 to 2048 pixels");
    }
}

/// In which precision the step is computed; master weights are f32 always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrecisionName {
    /// Single precision throughout.
    F32,
    /// bf16 storage and products, f32 sums.
    #[default]
    Bf16,
}

impl From<PrecisionName> for Precision {
    fn from(name: PrecisionName) -> Self {
        match name {
            PrecisionName::F32 => Precision::F32,
            PrecisionName::Bf16 => Precision::Bf16,
        }
    }
}

/// The rule by which gradients become steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    /// AdamW (Loshchilov and Hutter 2019) for every weight.
    #[default]
    Adamw,
    /// Muon (Jordan et al. 2024) for the matrices and convolutions inside the network; AdamW for embeddings, norms,
    /// biases, and the first and last convolution. It learns more from each sample than AdamW.
    Muon,
}

/// The loop: `[training]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainingSettings {
    /// Seed of the weights, the noise, and everything else that is drawn.
    pub seed: u64,
    /// Optimizer steps.
    pub steps: u64,
    /// Samples of one batch.
    pub batch: usize,
    /// Batches whose gradients are averaged in one step.
    pub accumulation: usize,
    /// The rule of the steps.
    pub optimizer: OptimizerName,
    /// The highest learning rate.
    pub lr: f64,
    /// Steps in which the learning rate rises to it.
    pub warmup: u64,
    /// The share of it that is left at the last step, after a cosine.
    pub final_lr: f64,
    /// Decoupled weight decay of matrices and convolutions.
    pub weight_decay: f64,
    /// Decay of AdamW's first and second moment.
    pub betas: [f64; 2],
    /// Decay of Muon's momentum.
    pub momentum: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// The gradients' norm is limited to this.
    pub clip: f64,
    /// Decay of the running average of the weights, which is what is kept in the end. After n steps it is at most
    /// (1 + n) / (10 + n).
    pub ema: f64,
    /// Precision of the step.
    pub precision: PrecisionName,
    /// Whether each block is computed again in the backward pass, for less memory.
    pub gradient_checkpointing: bool,
    /// Threads; all processors when not given. Never changes a bit of the weights.
    pub threads: Option<usize>,
}

impl Default for TrainingSettings {
    fn default() -> Self {
        TrainingSettings {
            seed: 0,
            steps: 1000,
            batch: 16,
            accumulation: 1,
            optimizer: OptimizerName::Adamw,
            lr: 1e-3,
            warmup: 100,
            final_lr: 0.01,
            weight_decay: 0.01,
            betas: [0.9, 0.99],
            momentum: 0.95,
            eps: 1e-8,
            clip: 1.0,
            ema: 0.999,
            precision: PrecisionName::Bf16,
            gradient_checkpointing: false,
            threads: None,
        }
    }
}

impl TrainingSettings {
    /// Learning rate of a step counted from 0: linear warm-up, then half a cosine.
    pub fn learning_rate(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.lr * (step + 1) as f64 / self.warmup as f64;
        }
        let span = self.steps.saturating_sub(self.warmup).max(1) as f64;
        let at = ((step - self.warmup) as f64 / span).min(1.0);
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * at).cos());
        self.lr * (self.final_lr + (1.0 - self.final_lr) * cosine)
    }

    /// Decay of the running average in a step counted from 0.
    pub fn ema_decay(&self, step: u64) -> f64 {
        self.ema.min((1.0 + step as f64) / (10.0 + step as f64))
    }

    /// Samples of one step.
    pub fn samples_per_step(&self) -> usize {
        self.batch * self.accumulation
    }

    pub(super) fn check(&self, checks: &mut Checks) {
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let share = |x: f64| (0.0..1.0).contains(&x);
        checks.require("training.steps", self.steps > 0, "it must be at least 1");
        checks.require("training.batch", (1..=65_536).contains(&self.batch), "it must be 1 to 65536");
        checks.require(
            "training.accumulation",
            (1..=65_536).contains(&self.accumulation),
            "it must be 1 to 65536",
        );
        checks.require("training.lr", positive(self.lr), "it must be a number above 0");
        checks.require("training.final_lr", (0.0..=1.0).contains(&self.final_lr), "it must be 0 to 1");
        checks.require(
            "training.weight_decay",
            self.weight_decay.is_finite() && self.weight_decay >= 0.0,
            "it must be a number from 0",
        );
        checks.require(
            "training.betas",
            self.betas.iter().all(|&b| share(b)),
            "both must be from 0 to below 1",
        );
        checks.require("training.momentum", share(self.momentum), "it must be from 0 to below 1");
        checks.require("training.eps", positive(self.eps), "it must be a number above 0");
        checks.require("training.clip", positive(self.clip), "it must be a number above 0");
        checks.require("training.ema", share(self.ema), "it must be from 0 to below 1");
        checks.require(
            "training.threads",
            self.threads.is_none_or(|n| (1..=1024).contains(&n)),
            "it must be 1 to 1024",
        );
    }
}

/// What is written while it runs: `[log]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogSettings {
    /// Steps between lines of the log.
    pub every: u64,
    /// Steps between sample pictures and measurements; 0 for none but at the end.
    pub sample_every: u64,
    /// Steps between checkpoints; 0 for none but at the end.
    pub checkpoint_every: u64,
}

impl Default for LogSettings {
    fn default() -> Self {
        LogSettings { every: 20, sample_every: 1000, checkpoint_every: 1000 }
    }
}

impl LogSettings {
    pub(super) fn check(&self, checks: &mut Checks) {
        checks.require("log.every", self.every > 0, "it must be at least 1");
    }
}
