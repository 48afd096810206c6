//! The autoencoder's configuration, in diffusers' fields.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{ActFn, ConfigError, MAX_LAYERS, MAX_SIZE, OneOrMany, Only, ensure, read};

const NETWORK: &str = "autoencoder";

/// The KL autoencoder's configuration. Field names are those of diffusers' `AutoencoderKL`, except the last three.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AutoencoderConfig {
    /// Height and width of the pictures that it was trained on.
    pub sample_size: Option<OneOrMany<usize>>,
    /// Channels of the picture to encode.
    pub in_channels: usize,
    /// Channels of the decoded picture.
    pub out_channels: usize,
    /// Channels of the latent.
    pub latent_channels: usize,
    /// Channels of each level, finest first; each level but the last halves the size.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of each level of the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Groups of the group norms.
    pub norm_num_groups: usize,
    /// Activation function of the residual blocks.
    pub act_fn: ActFn,
    /// Whether there is attention in the middle.
    pub mid_block_add_attention: bool,
    /// Whether a 1x1 convolution follows the encoder.
    pub use_quant_conv: bool,
    /// Whether a 1x1 convolution precedes the decoder.
    pub use_post_quant_conv: bool,
    /// What latents are multiplied by for the denoiser: one over their standard deviation.
    pub scaling_factor: f32,
    /// What is subtracted from latents before that: their mean.
    pub shift_factor: Option<f32>,
    /// Whether f16 overflows in it, so that it must run in a wider type.
    pub force_upcast: bool,
    /// Squares of this many pixels become the channels of one before the encoder, and back after the decoder. Not in
    /// diffusers.
    pub patch_size: usize,
    /// Whether the last layers of residual branches start at zero when trained from scratch. Not in diffusers.
    pub zero_init: bool,
    /// Whether each block is computed again in the backward pass, to save memory in training.
    #[serde(skip)]
    pub gradient_checkpointing: bool,
}

/// Fields of diffusers that are supported with some values only.
const LIMITED: &[Only] =
    &[Only { field: "latents_mean", values: &[] }, Only { field: "latents_std", values: &[] }];

impl AutoencoderConfig {
    /// Reads a diffusers `config.json`.
    ///
    /// # Errors
    /// [`ConfigError`], naming the field that has a wrong type, asks for what is not supported, or does not fit.
    pub fn from_json(json: &str) -> Result<Self, ConfigError> {
        let (config, value) = read::<AutoencoderConfig>(NETWORK, json, LIMITED)?;
        for (field, only) in
            [("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")]
        {
            check_block_types(&value, field, only, config.block_out_channels.len())?;
        }
        config.check()?;
        Ok(config)
    }

    /// How many pixels of the picture one of the latent stands for, along each side: the f of "f8".
    pub fn downsampling(&self) -> usize {
        let levels = self.block_out_channels.len().clamp(1, 16);
        self.patch_size << (levels - 1)
    }

    /// Whether the values fit together.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`], naming the field.
    pub fn check(&self) -> Result<(), ConfigError> {
        let levels = self.block_out_channels.len();
        ensure!(
            NETWORK,
            (1..=16).contains(&levels),
            "block_out_channels",
            "needs 1 to 16 levels, has {levels}"
        );
        let size = |x: &usize| (1..=MAX_SIZE).contains(x);
        ensure!(
            NETWORK,
            self.block_out_channels.iter().all(size),
            "block_out_channels",
            "must be in 1..={MAX_SIZE}"
        );
        ensure!(NETWORK, size(&self.in_channels), "in_channels", "must be in 1..={MAX_SIZE}");
        ensure!(NETWORK, size(&self.out_channels), "out_channels", "must be in 1..={MAX_SIZE}");
        ensure!(NETWORK, size(&self.latent_channels), "latent_channels", "must be in 1..={MAX_SIZE}");
        ensure!(NETWORK, (1..=64).contains(&self.patch_size), "patch_size", "must be in 1..=64");
        ensure!(
            NETWORK,
            (1..=MAX_LAYERS).contains(&self.layers_per_block),
            "layers_per_block",
            "must be in 1..={MAX_LAYERS}"
        );
        ensure!(NETWORK, size(&self.norm_num_groups), "norm_num_groups", "must be at least 1");
        for channels in &self.block_out_channels {
            ensure!(
                NETWORK,
                channels.is_multiple_of(self.norm_num_groups),
                "norm_num_groups",
                "({}) must divide the channels of each level, and does not divide {channels}",
                self.norm_num_groups
            );
        }
        let usable = self.scaling_factor.is_finite() && self.scaling_factor != 0.0;
        ensure!(NETWORK, usable, "scaling_factor", "({}) must be finite and not zero", self.scaling_factor);
        let shift = self.shift_factor.is_none_or(f32::is_finite);
        ensure!(NETWORK, shift, "shift_factor", "must be finite");
        Ok(())
    }
}

/// Every level must be of the one kind that is built, and there must be as many as `block_out_channels` has.
fn check_block_types(config: &Value, field: &str, only: &str, levels: usize) -> Result<(), ConfigError> {
    let Some(found) = config.get(field) else { return Ok(()) };
    let fits = found
        .as_array()
        .is_some_and(|types| types.len() == levels && types.iter().all(|t| t.as_str() == Some(only)));
    if fits {
        return Ok(());
    }
    Err(ConfigError::Unsupported {
        network: NETWORK,
        field: field.to_string(),
        value: found.to_string(),
        supported: format!("{only} for each of the {levels} levels of block_out_channels"),
    })
}
