//! The KL autoencoder (Rombach et al. 2022, section 3.1), as diffusers' `AutoencoderKL` has it: pictures to latents
//! of a half, quarter, eighth or sixteenth of the size, and back.

mod any;
mod config;
mod tiny;

pub use any::Autoencoder;
pub use config::AutoencoderConfig;
pub use tiny::{TinyAutoencoderConfig, TinyClass};

use velatura_graph::{Params, Var};

use crate::blocks::{BlockStyle, downsample, pixel_attention, res_block, upsample};
use crate::config::refuse;
use crate::layers::Layers;

/// The Gaussian that an encoder gives for each latent pixel.
#[derive(Clone, Copy, Debug)]
pub struct Moments<'g> {
    /// `[N, h, w, latent_channels]`
    pub mean: Var<'g>,
    /// The logarithm of the variance, limited to -30..20, of the same shape.
    pub log_variance: Var<'g>,
}

impl<'g> Moments<'g> {
    /// A latent drawn from the Gaussian by standard normal noise of its shape (Kingma and Welling 2013).
    pub fn sample(&self, noise: Var<'g>) -> Var<'g> {
        self.mean + (self.log_variance * 0.5).exp() * noise
    }
}

impl AutoencoderConfig {
    /// Records the encoder: a picture `[N, H, W, in_channels]` in -1..1 to the latent's distribution. `H` and `W` must
    /// be multiples of `patch_size`.
    ///
    /// What does not fit is the error of [`velatura_graph::Builder::finish`].
    pub fn encode<'g>(&self, p: &Params<'g>, picture: Var<'g>) -> Moments<'g> {
        let nothing = Moments { mean: picture, log_variance: picture };
        if !self.accepts(p, "encoder", picture, self.in_channels) {
            return nothing;
        }
        let [_, height, width, _] = picture.dims();
        if height % self.patch_size != 0 || width % self.patch_size != 0 {
            let reason = format!("{height}x{width} pixels do not divide into patches of {}", self.patch_size);
            refuse(p, "encoder", reason, picture);
            return nothing;
        }
        let (style, encoder) = (self.style(), p.at("encoder"));
        let x = space_to_depth(picture, self.patch_size);
        let mut x = encoder.at("conv_in").conv(x, self.block_out_channels[0], 3, 1, 1);
        for (level, &channels) in self.block_out_channels.iter().enumerate() {
            let p = encoder.at("down_blocks").at(level);
            for layer in 0..self.layers_per_block {
                x = res_block(&p.at("resnets").at(layer), &style, x, None, channels);
            }
            if level + 1 < self.block_out_channels.len() {
                x = downsample(&p.at("downsamplers").at(0), x, 0);
            }
        }
        x = self.middle(&encoder.at("mid_block"), &style, x);
        x = self.head(&encoder, &style, x, 2 * self.latent_channels);
        if self.use_quant_conv {
            x = p.at("quant_conv").conv(x, 2 * self.latent_channels, 1, 1, 0);
        }
        let parts = x.chunks(3, 2);
        Moments { mean: parts[0], log_variance: parts[1].clamp(-30.0, 20.0) }
    }

    /// Records the decoder: a latent `[N, h, w, latent_channels]` to a picture, around -1..1 but not limited to it.
    ///
    /// What does not fit is the error of [`velatura_graph::Builder::finish`].
    pub fn decode<'g>(&self, p: &Params<'g>, latent: Var<'g>) -> Var<'g> {
        if !self.accepts(p, "decoder", latent, self.latent_channels) {
            return latent;
        }
        let (style, decoder, levels) = (self.style(), p.at("decoder"), self.block_out_channels.len());
        let mut x = latent;
        if self.use_post_quant_conv {
            x = p.at("post_quant_conv").conv(x, self.latent_channels, 1, 1, 0);
        }
        x = decoder.at("conv_in").conv(x, self.block_out_channels[levels - 1], 3, 1, 1);
        x = self.middle(&decoder.at("mid_block"), &style, x);
        for (i, &channels) in self.block_out_channels.iter().rev().enumerate() {
            let p = decoder.at("up_blocks").at(i);
            for layer in 0..=self.layers_per_block {
                x = res_block(&p.at("resnets").at(layer), &style, x, None, channels);
            }
            if i + 1 < levels {
                let [_, height, width, _] = x.dims();
                x = upsample(&p.at("upsamplers").at(0), x, [2 * height, 2 * width]);
            }
        }
        let channels = self.out_channels * self.patch_size * self.patch_size;
        depth_to_space(self.head(&decoder, &style, x, channels), self.patch_size)
    }

    /// A latent in the range that the denoiser works in: `(z - shift) * scale`.
    pub fn normalize<'g>(&self, latent: Var<'g>) -> Var<'g> {
        latent.affine(self.scaling_factor, -self.shift_factor.unwrap_or(0.0) * self.scaling_factor)
    }

    /// The inverse of [`AutoencoderConfig::normalize`].
    pub fn denormalize<'g>(&self, latent: Var<'g>) -> Var<'g> {
        latent.affine(1.0 / self.scaling_factor, self.shift_factor.unwrap_or(0.0))
    }

    fn style(&self) -> BlockStyle {
        BlockStyle {
            groups: self.norm_num_groups,
            eps: 1e-6,
            activation: self.act_fn.into(),
            scale_shift: false,
            zero_init: self.zero_init,
            checkpoint: self.gradient_checkpointing,
        }
    }

    /// Residual block, attention with one head if there is any, residual block.
    fn middle<'g>(&self, p: &Params<'g>, style: &BlockStyle, x: Var<'g>) -> Var<'g> {
        let (resnets, channels) = (p.at("resnets"), x.channels());
        let mut x = res_block(&resnets.at(0), style, x, None, channels);
        if self.mid_block_add_attention {
            x = pixel_attention(&p.at("attentions").at(0), style, x, 1);
        }
        res_block(&resnets.at(1), style, x, None, channels)
    }

    /// Last norm and convolution. The activation is SiLU whatever the blocks' is, as in diffusers.
    fn head<'g>(&self, p: &Params<'g>, style: &BlockStyle, x: Var<'g>, out: usize) -> Var<'g> {
        p.at("conv_out").conv(
            p.at("conv_norm_out").group_norm(x, style.groups, style.eps).silu(),
            out,
            3,
            1,
            1,
        )
    }

    fn accepts<'g>(&self, p: &Params<'g>, part: &'static str, x: Var<'g>, channels: usize) -> bool {
        if let Err(error) = self.check() {
            refuse(p, part, error.to_string(), x);
            return false;
        }
        if x.ty().rank() != 4 || x.channels() != channels {
            refuse(p, part, format!("an image [N, H, W, {channels}] is expected"), x);
            return false;
        }
        true
    }
}

/// Squares of `size` by `size` pixels as the channels of one: `[N, H, W, C]` to `[N, H / s, W / s, C * s * s]`, in the
/// order of PyTorch's `pixel_unshuffle`.
pub fn space_to_depth(x: Var<'_>, size: usize) -> Var<'_> {
    if size == 1 {
        return x;
    }
    let [n, h, w, c] = x.dims();
    let (rows, columns) = (h / size, w / size);
    let squares = x.reshape(&[n, rows, size, columns, size, c]).permute(&[0, 1, 3, 5, 2, 4]);
    squares.reshape(&[n, rows, columns, c * size * size])
}

/// The inverse of [`space_to_depth`].
pub fn depth_to_space(x: Var<'_>, size: usize) -> Var<'_> {
    if size == 1 {
        return x;
    }
    let [n, h, w, c] = x.dims();
    let channels = c / (size * size);
    let squares = x.reshape(&[n, h, w, channels, size, size]).permute(&[0, 1, 4, 2, 5, 3]);
    squares.reshape(&[n, h * size, w * size, channels])
}
