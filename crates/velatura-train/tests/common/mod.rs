//! Tiny recipes on the small font, and what runs of them leave behind.

#![allow(dead_code)] // Each test file uses its own part.

use std::path::{Path, PathBuf};

use velatura_train::{
    CancelToken, Finished, Observer, RunInfo, StepReport, TrainError, TrainOptions, train_autoencoder,
    train_diffusion,
};
use velatura_weights::SafetensorsFile;

const FONT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../velatura-scenes/tests/fixtures/emoji-subset.ttf");
const DATA: &str = r#"
[data]
font = "FONT"
size = 16
seed = 3
glyphs = ["cat", "dog", "panda", "owl", "red apple", "green apple", "banana", "car", "star", "skull"]
"#;

/// A folder with recipes in it.
pub struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        Place { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        let text = text.replace("FONT", FONT).replace("FOLDER", self.folder.path().to_str().unwrap());
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A recipe whose `[training]` table ends with `training`.
    pub fn autoencoder(&self, name: &str, training: &str) -> PathBuf {
        let text = r#"
kind = "autoencoder"
output = "FOLDER/autoencoder"
DATA
[model]
latent_channels = 4
patch_size = 2
block_out_channels = [8, 16]
layers_per_block = 1
norm_num_groups = 4
mid_block_add_attention = false
use_quant_conv = false
use_post_quant_conv = false
force_upcast = false

[log]
every = 1
sample_every = 0
checkpoint_every = 2

[training]
seed = 1
precision = "f32"
warmup = 2
TRAINING
"#;
        self.write(name, &text.replace("DATA", DATA).replace("TRAINING", training))
    }

    /// Likewise, for the autoencoder that `FOLDER/autoencoder` holds.
    pub fn diffusion(&self, name: &str, training: &str) -> PathBuf {
        let text = r#"
kind = "diffusion"
name = "tiny"
output = "FOLDER/diffusion"
autoencoder = "FOLDER/autoencoder/autoencoder.safetensors"
context = 16
DATA
[latents]
cache = 20

[text]
hidden_size = 16
intermediate_size = 32
num_hidden_layers = 1
num_attention_heads = 2
causal = false

[conditioning]
mask_padding = true

[unet]
in_channels = 4
out_channels = 4
block_out_channels = [8, 16]
down_block_types = ["DownBlock2D", "CrossAttnDownBlock2D"]
up_block_types = ["UpBlock2D", "UpBlock2D"]
layers_per_block = 1
num_attention_heads = 2
cross_attention_dim = 16
norm_num_groups = 4
use_linear_projection = true
resnet_time_scale_shift = "scale_shift"
pooled_projection_dim = 16

[log]
every = 1
sample_every = 0
checkpoint_every = 2

[samples]
prompts = ["a cat on a white background"]
steps = 2

[training]
seed = 1
warmup = 2
TRAINING
"#;
        self.write(name, &text.replace("DATA", DATA).replace("TRAINING", training))
    }
}

/// Which kind a recipe is.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Autoencoder,
    Diffusion,
}

/// Stops a run after some step, and keeps what it reports.
#[derive(Default)]
pub struct Watch {
    pub stop_after: Option<u64>,
    pub cancel: CancelToken,
    pub from: u64,
    pub reports: Vec<StepReport>,
    pub notes: Vec<String>,
}

impl Observer for Watch {
    fn started(&mut self, info: &RunInfo) {
        self.from = info.from_step;
    }
    fn step(&mut self, report: &StepReport) {
        self.reports.push(report.clone());
        if Some(report.step) == self.stop_after {
            self.cancel.cancel();
        }
    }
    fn note(&mut self, message: &str) {
        self.notes.push(message.to_string());
    }
}

impl Watch {
    pub fn stopping_after(step: u64) -> Self {
        Watch { stop_after: Some(step), ..Watch::default() }
    }
}

/// Options of a run into a folder.
pub fn options(output: &Path, resume: bool, threads: usize) -> TrainOptions {
    TrainOptions { resume, output: Some(output.to_path_buf()), threads: Some(threads), steps: None }
}

pub fn train(
    kind: Kind,
    recipe: &Path,
    options: &TrainOptions,
    watch: &mut Watch,
) -> Result<Finished, TrainError> {
    let cancel = watch.cancel.clone();
    match kind {
        Kind::Autoencoder => train_autoencoder(recipe, options, watch, &cancel),
        Kind::Diffusion => train_diffusion(recipe, options, watch, &cancel),
    }
}

/// All tensors of a file as bytes, by name.
pub fn tensors(file: &Path) -> Vec<(String, Vec<u8>)> {
    let file = SafetensorsFile::open(file).unwrap();
    let mut all: Vec<_> =
        file.names().into_iter().map(|name| (name.clone(), file.bytes(&name).unwrap().to_vec())).collect();
    all.sort();
    assert!(!all.is_empty());
    all
}

pub fn checkpoint(folder: &Path, step: u64) -> PathBuf {
    velatura_train::checkpoint::path(folder, step)
}
