//! An autoencoder of any kind.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use velatura_graph::{Params, Var};

use super::{AutoencoderConfig, TinyAutoencoderConfig};
use crate::ConfigError;

/// An autoencoder of any kind, told by the `_class_name` of its configuration; without one it is the KL autoencoder.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Autoencoder {
    /// The KL autoencoder.
    Kl(AutoencoderConfig),
    /// The tiny autoencoder.
    Tiny(TinyAutoencoderConfig),
}

impl From<AutoencoderConfig> for Autoencoder {
    fn from(config: AutoencoderConfig) -> Self {
        Autoencoder::Kl(config)
    }
}

impl<'de> Deserialize<'de> for Autoencoder {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        match is_tiny(&value) {
            true => TinyAutoencoderConfig::deserialize(value).map(Autoencoder::Tiny),
            false => AutoencoderConfig::deserialize(value).map(Autoencoder::Kl),
        }
        .map_err(D::Error::custom)
    }
}

fn is_tiny(config: &Value) -> bool {
    config.get("_class_name").and_then(Value::as_str) == Some("AutoencoderTiny")
}

impl Autoencoder {
    /// Reads a diffusers `config.json`.
    ///
    /// # Errors
    /// [`ConfigError`], naming the field that has a wrong type, asks for what is not supported, or does not fit.
    pub fn from_json(json: &str) -> Result<Self, ConfigError> {
        match serde_json::from_str(json).is_ok_and(|value: Value| is_tiny(&value)) {
            true => TinyAutoencoderConfig::from_json(json).map(Autoencoder::Tiny),
            false => AutoencoderConfig::from_json(json).map(Autoencoder::Kl),
        }
    }

    /// Whether the values fit together.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`], naming the field.
    pub fn check(&self) -> Result<(), ConfigError> {
        match self {
            Autoencoder::Kl(config) => config.check(),
            Autoencoder::Tiny(config) => config.check(),
        }
    }

    /// How many pixels of the picture one of the latent stands for, along each side.
    pub fn downsampling(&self) -> usize {
        match self {
            Autoencoder::Kl(config) => config.downsampling(),
            Autoencoder::Tiny(config) => config.downsampling(),
        }
    }

    /// Channels of the latent.
    pub fn latent_channels(&self) -> usize {
        match self {
            Autoencoder::Kl(config) => config.latent_channels,
            Autoencoder::Tiny(config) => config.latent_channels,
        }
    }

    /// Channels of the picture to encode and of the decoded one.
    pub fn picture_channels(&self) -> (usize, usize) {
        match self {
            Autoencoder::Kl(config) => (config.in_channels, config.out_channels),
            Autoencoder::Tiny(config) => (config.in_channels, config.out_channels),
        }
    }

    /// What is subtracted from latents for the denoiser, and what they are multiplied by then.
    pub fn shift_and_scale(&self) -> (f32, f32) {
        let (shift, scale) = match self {
            Autoencoder::Kl(config) => (config.shift_factor, config.scaling_factor),
            Autoencoder::Tiny(config) => (config.shift_factor, config.scaling_factor),
        };
        (shift.unwrap_or(0.0), scale)
    }

    /// Whether there is an encoder.
    pub fn has_encoder(&self) -> bool {
        match self {
            Autoencoder::Kl(_) => true,
            Autoencoder::Tiny(config) => config.has_encoder,
        }
    }

    /// Records the encoder: a picture `[N, H, W, in_channels]` in -1..1 to the mean of its latent in the denoiser's scale,
    /// and the deviation where the encoder is not sure.
    pub fn encode<'g>(&self, p: &Params<'g>, picture: Var<'g>) -> (Var<'g>, Option<Var<'g>>) {
        let (shift, scale) = self.shift_and_scale();
        let (mean, deviation) = match self {
            Autoencoder::Kl(config) => {
                let moments = config.encode(p, picture);
                (moments.mean, Some((moments.log_variance * 0.5).exp() * scale))
            }
            Autoencoder::Tiny(config) => (config.encode(p, picture), None),
        };
        (mean.affine(scale, -shift * scale), deviation)
    }

    /// Records the decoder: a latent in the denoiser's scale to a picture, around -1..1.
    pub fn decode<'g>(&self, p: &Params<'g>, latent: Var<'g>) -> Var<'g> {
        let (shift, scale) = self.shift_and_scale();
        let latent = latent.affine(1.0 / scale, shift);
        match self {
            Autoencoder::Kl(config) => config.decode(p, latent),
            Autoencoder::Tiny(config) => config.decode(p, latent),
        }
    }
}
