//! The recipe of the glyph classifier, the second judge.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::common::{DataSettings, LogSettings, TrainingSettings};
use super::load::{Checks, Recipe};

/// Everything about the training of a glyph classifier. Of `[data]` the size is not used: crops have `size` pixels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassifierRecipe {
    /// Where everything is written.
    pub output: PathBuf,
    /// Pixels a side of the crops that it sees.
    #[serde(default = "default_size")]
    pub size: u32,
    /// Channels of each level; each level halves the size.
    #[serde(default = "default_channels")]
    pub channels: Vec<usize>,
    /// The drawings.
    #[serde(default)]
    pub data: DataSettings,
    /// The loop.
    #[serde(default)]
    pub training: TrainingSettings,
    /// What is written while it runs.
    #[serde(default)]
    pub log: LogSettings,
}

fn default_size() -> u32 {
    32
}

fn default_channels() -> Vec<usize> {
    vec![32, 64, 96]
}

impl Recipe for ClassifierRecipe {
    const KIND: &'static str = "classifier";

    fn check(&self, checks: &mut Checks) {
        let fine =
            (1..=6).contains(&self.channels.len()) && self.channels.iter().all(|c| (8..=4096).contains(c));
        checks.require("channels", fine, "there must be 1 to 6 levels of 8 to 4096 channels");
        let divides = self.channels.iter().all(|c| c.is_multiple_of(8));
        checks.require("channels", divides, "each must be a multiple of 8");
        let sizes =
            (16..=128).contains(&self.size) && self.size.is_multiple_of(1 << self.channels.len().min(6));
        checks.require("size", sizes, "it must be 16 to 128 pixels, and divide by 2 for each level");
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
