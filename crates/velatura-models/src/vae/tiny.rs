//! The tiny autoencoder TAESD (Ollin Boer Bohan, <https://github.com/madebyollin/taesd>), as diffusers' `AutoencoderTiny`
//! has it: distilled from a large one, with neither norms nor attention.

use serde::{Deserialize, Serialize};
use velatura_graph::op::{ResizeMode, Window};
use velatura_graph::{Activation, Init, Params, Var};

use crate::config::{ActFn, ConfigError, MAX_LAYERS, MAX_SIZE, Only, ensure, read, refuse};
use crate::layers::Layers;

const NETWORK: &str = "tiny autoencoder";

/// The name of the network's class, by which its configuration is told from another autoencoder's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TinyClass {
    /// diffusers' class.
    #[default]
    AutoencoderTiny,
}

/// The tiny autoencoder's configuration. Field names are those of diffusers' `AutoencoderTiny`, except the last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TinyAutoencoderConfig {
    /// The class.
    #[serde(rename = "_class_name")]
    pub class_name: TinyClass,
    /// Channels of the picture to encode.
    pub in_channels: usize,
    /// Channels of the decoded picture.
    pub out_channels: usize,
    /// Channels of the latent.
    pub latent_channels: usize,
    /// Channels of each level of the encoder, finest first; all the same.
    pub encoder_block_out_channels: Vec<usize>,
    /// Channels of each level of the decoder, coarsest first; all the same.
    pub decoder_block_out_channels: Vec<usize>,
    /// Residual blocks of each level of the encoder; each level but the first halves the size.
    pub num_encoder_blocks: Vec<usize>,
    /// Residual blocks of each level of the decoder; each level but the last doubles the size.
    pub num_decoder_blocks: Vec<usize>,
    /// Activation function within the blocks.
    pub act_fn: ActFn,
    /// What latents are multiplied by for the denoiser.
    pub scaling_factor: f32,
    /// What is subtracted from latents before that.
    pub shift_factor: Option<f32>,
    /// Whether there is an encoder: the halves come as files of their own. Not in diffusers.
    pub has_encoder: bool,
}

/// TAESD's and TAESDXL's.
impl Default for TinyAutoencoderConfig {
    fn default() -> Self {
        TinyAutoencoderConfig {
            class_name: TinyClass::AutoencoderTiny,
            in_channels: 3,
            out_channels: 3,
            latent_channels: 4,
            encoder_block_out_channels: vec![64; 4],
            decoder_block_out_channels: vec![64; 4],
            num_encoder_blocks: vec![1, 3, 3, 3],
            num_decoder_blocks: vec![3, 3, 3, 1],
            act_fn: ActFn::Relu,
            scaling_factor: 1.0,
            shift_factor: None,
            has_encoder: true,
        }
    }
}

/// Fields of diffusers that are supported with some values only.
const LIMITED: &[Only] = &[
    Only { field: "upsampling_scaling_factor", values: &["2"] },
    Only { field: "upsample_fn", values: &["\"nearest\""] },
];

impl TinyAutoencoderConfig {
    /// Reads a diffusers `config.json`.
    ///
    /// # Errors
    /// [`ConfigError`], naming the field that has a wrong type, asks for what is not supported, or does not fit.
    pub fn from_json(json: &str) -> Result<Self, ConfigError> {
        let (config, _) = read::<TinyAutoencoderConfig>(NETWORK, json, LIMITED)?;
        config.check()?;
        Ok(config)
    }

    /// How many pixels of the picture one of the latent stands for, along each side.
    pub fn downsampling(&self) -> usize {
        1 << (self.num_decoder_blocks.len().clamp(1, 16) - 1)
    }

    /// Whether the values fit together.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`], naming the field.
    pub fn check(&self) -> Result<(), ConfigError> {
        let levels = self.num_decoder_blocks.len();
        ensure!(NETWORK, (1..=16).contains(&levels), "num_decoder_blocks", "needs 1 to 16 levels");
        ensure!(
            NETWORK,
            self.num_encoder_blocks.len() == levels,
            "num_encoder_blocks",
            "needs {levels} levels"
        );
        let counts = |blocks: &[usize]| blocks.iter().all(|&n| n <= MAX_LAYERS);
        ensure!(
            NETWORK,
            counts(&self.num_encoder_blocks) && counts(&self.num_decoder_blocks),
            "num_decoder_blocks",
            "and num_encoder_blocks must be at most {MAX_LAYERS}"
        );
        let size = |n: usize| (1..=MAX_SIZE).contains(&n);
        let even = |channels: &[usize]| {
            let first = channels.first().copied().unwrap_or(0);
            channels.len() == levels && size(first) && channels.iter().all(|&c| c == first)
        };
        ensure!(
            NETWORK,
            even(&self.encoder_block_out_channels) && even(&self.decoder_block_out_channels),
            "decoder_block_out_channels",
            "and encoder_block_out_channels must be the same for each of the {levels} levels"
        );
        ensure!(NETWORK, size(self.in_channels), "in_channels", "must be in 1..={MAX_SIZE}");
        ensure!(NETWORK, size(self.out_channels), "out_channels", "must be in 1..={MAX_SIZE}");
        ensure!(NETWORK, size(self.latent_channels), "latent_channels", "must be in 1..={MAX_SIZE}");
        let usable = self.scaling_factor.is_finite() && self.scaling_factor != 0.0;
        ensure!(NETWORK, usable, "scaling_factor", "({}) must be finite and not zero", self.scaling_factor);
        ensure!(NETWORK, self.shift_factor.is_none_or(f32::is_finite), "shift_factor", "must be finite");
        Ok(())
    }

    /// Records the encoder: a picture `[N, H, W, in_channels]` in -1..1 to its latent, of which it is sure. What does not
    /// fit is the error of [`velatura_graph::Builder::finish`].
    pub fn encode<'g>(&self, p: &Params<'g>, picture: Var<'g>) -> Var<'g> {
        if !self.accepts(p, "encoder", picture, self.in_channels) {
            return picture;
        }
        let channels = self.encoder_block_out_channels[0];
        let (p, mut at) = (p.at("encoder").at("layers"), 0);
        let mut x = picture.affine(0.5, 0.5);
        for (level, &blocks) in self.num_encoder_blocks.iter().enumerate() {
            x = match level {
                0 => p.at(at).conv(x, channels, 3, 1, 1),
                _ => conv_without_bias(&p.at(at), x, channels, 2),
            };
            at += 1;
            for _ in 0..blocks {
                x = self.block(&p.at(at), x);
                at += 1;
            }
        }
        p.at(at).conv(x, self.latent_channels, 3, 1, 1)
    }

    /// Records the decoder: a latent `[N, h, w, latent_channels]` to a picture, around -1..1. What does not fit is the error
    /// of [`velatura_graph::Builder::finish`].
    pub fn decode<'g>(&self, p: &Params<'g>, latent: Var<'g>) -> Var<'g> {
        if !self.accepts(p, "decoder", latent, self.latent_channels) {
            return latent;
        }
        let (channels, levels) = (self.decoder_block_out_channels[0], self.num_decoder_blocks.len());
        let p = p.at("decoder").at("layers");
        // Far values are brought to -3..3.
        let mut x = (latent * (1.0 / 3.0)).tanh() * 3.0;
        x = p.at(0).conv(x, channels, 3, 1, 1).activation(self.act_fn.into());
        // Activation and enlargement have places among the layers too.
        let mut at = 2;
        for (level, &blocks) in self.num_decoder_blocks.iter().enumerate() {
            for _ in 0..blocks {
                x = self.block(&p.at(at), x);
                at += 1;
            }
            if level + 1 < levels {
                let [_, height, width, _] = x.dims();
                x = x.resize(ResizeMode::Nearest, 2 * height, 2 * width);
                x = conv_without_bias(&p.at(at + 1), x, channels, 1);
                at += 2;
            }
        }
        p.at(at).conv(x, self.out_channels, 3, 1, 1).affine(2.0, -1.0)
    }

    /// Three convolutions beside the identity.
    fn block<'g>(&self, p: &Params<'g>, x: Var<'g>) -> Var<'g> {
        let (p, channels) = (p.at("conv"), x.channels());
        let conv = |at: usize, x: Var<'g>| p.at(at).conv(x, channels, 3, 1, 1);
        let h = conv(0, x).activation(self.act_fn.into());
        let h = conv(2, h).activation(self.act_fn.into());
        (conv(4, h) + x).activation(Activation::Relu)
    }

    fn accepts<'g>(&self, p: &Params<'g>, part: &'static str, x: Var<'g>, channels: usize) -> bool {
        let reason = match self.check() {
            Err(error) => error.to_string(),
            Ok(()) if x.ty().rank() != 4 || x.channels() != channels => {
                format!("an image [N, H, W, {channels}] is expected")
            }
            Ok(()) => return true,
        };
        refuse(p, part, reason, x);
        false
    }
}

fn conv_without_bias<'g>(p: &Params<'g>, x: Var<'g>, out: usize, stride: usize) -> Var<'g> {
    let inputs = x.channels();
    let weight = p.get("weight", &[out, inputs, 3, 3], Init::fan_in(inputs * 9));
    x.conv2d(weight, None, Window::new(stride, 1))
}
