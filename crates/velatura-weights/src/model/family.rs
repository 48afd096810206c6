//! Families, tasks and what is predicted, from the dimensions of the networks.

use super::part::{Network, Part, PartKind};
use crate::TensorSource;
use crate::layout::unet::{ClassEmbedding, Middle, Unet};

/// A family of models: what goes together with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Stable Diffusion 1.x.
    Sd1,
    /// Stable Diffusion 2.x.
    Sd2,
    /// Stable Diffusion XL.
    Sdxl,
    /// The refiner of Stable Diffusion XL.
    SdxlRefiner,
    /// The four-fold upscaler, `stable-diffusion-x4-upscaler`.
    X4Upscaler,
}

impl Family {
    /// As it is written in listings.
    pub fn name(self) -> &'static str {
        match self {
            Family::Sd1 => "Stable Diffusion 1.x",
            Family::Sd2 => "Stable Diffusion 2.x",
            Family::Sdxl => "Stable Diffusion XL",
            Family::SdxlRefiner => "Stable Diffusion XL refiner",
            Family::X4Upscaler => "Stable Diffusion x4 upscaler",
        }
    }

    /// The parts without which it does nothing.
    pub fn required(self) -> &'static [PartKind] {
        use PartKind::*;
        match self {
            Family::Sd1 | Family::Sd2 | Family::X4Upscaler => &[Unet, Vae, TextEncoder],
            Family::Sdxl => &[Unet, Vae, TextEncoder, TextEncoder2],
            Family::SdxlRefiner => &[Unet, Vae, TextEncoder2],
        }
    }

    /// What its autoencoders' latents are multiplied by (each model's published `vae/config.json`).
    pub(crate) fn latent_scale(self) -> f64 {
        match self {
            Family::Sd1 | Family::Sd2 => 0.18215,
            Family::Sdxl | Family::SdxlRefiner => 0.13025,
            Family::X4Upscaler => 0.08333,
        }
    }

    /// The side of the latents that it was trained at.
    pub(crate) fn latent_side(self, prediction: Option<Prediction>) -> usize {
        match self {
            Family::Sd1 => 64,
            Family::Sd2 if prediction == Some(Prediction::V) => 96,
            Family::Sd2 => 64,
            Family::Sdxl | Family::SdxlRefiner | Family::X4Upscaler => 128,
        }
    }
}

/// What a denoiser does, by the channels that it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Task {
    /// 4 channels: the latent alone.
    TextToImage,
    /// 9: with the mask and the masked picture's latent.
    Inpainting,
    /// 8: with the latent of the picture to edit.
    InstructPix2Pix,
    /// 7: with the picture to enlarge.
    Upscaling,
    /// A picture's embedding in place of a text's (`unclip`).
    Variation,
    /// Another number of channels.
    Other(usize),
}

/// What a denoiser predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Prediction {
    /// The noise.
    Epsilon,
    /// The velocity (Salimans and Ho, "Progressive distillation", 2022).
    V,
}

impl Prediction {
    /// As diffusers' `scheduler_config.json` has it.
    pub fn name(self) -> &'static str {
        match self {
            Prediction::Epsilon => "epsilon",
            Prediction::V => "v_prediction",
        }
    }
}

/// How it is known what a denoiser predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KnownBy {
    /// The folder's `scheduler_config.json`.
    Scheduler,
    /// The empty tensor `v_pred` that XL models carry.
    Mark,
    /// The entry `modelspec.prediction_type` of the file's metadata.
    Metadata,
    /// How wide a norm's bias spreads, by which ComfyUI tells 2.x models apart.
    Spread,
    /// All published models of the family do, and nothing in the file says otherwise.
    Family,
}

impl KnownBy {
    /// In words, for listings.
    pub fn describe(self) -> &'static str {
        match self {
            KnownBy::Scheduler => "by its scheduler_config.json",
            KnownBy::Mark => "by the tensor v_pred",
            KnownBy::Metadata => "by its metadata, modelspec.prediction_type",
            KnownBy::Spread => "by the spread of a norm's bias, as ComfyUI tells",
            KnownBy::Family => "as its family does; nothing in it says otherwise",
        }
    }
}

pub(crate) fn unet(parts: &[Part]) -> Option<&Unet> {
    parts.iter().find_map(|p| match &p.network {
        Network::Unet(unet) => Some(unet),
        _ => None,
    })
}

/// The family that the parts belong to; a text encoder or an autoencoder alone may belong to several.
pub(crate) fn family(parts: &[Part]) -> Option<Family> {
    let unet = unet(parts)?;
    let has = |kind| parts.iter().any(|p| p.kind == kind);
    Some(match (unet.cross, unet.addition) {
        (1280, Some(_)) => Family::SdxlRefiner,
        (2048, Some(_)) => Family::Sdxl,
        (_, Some(_)) if has(PartKind::TextEncoder2) && !has(PartKind::TextEncoder) => Family::SdxlRefiner,
        (_, Some(_)) => Family::Sdxl,
        _ if matches!(unet.class, Some(ClassEmbedding::Table(_))) && unet.in_channels == 7 => {
            Family::X4Upscaler
        }
        (768, None) => Family::Sd1,
        (1024, None) => Family::Sd2,
        _ if unet.linear => Family::Sd2,
        _ => Family::Sd1,
    })
}

pub(crate) fn task(unet: &Unet) -> Task {
    match (unet.in_channels, unet.class) {
        (4, Some(ClassEmbedding::Projection(_))) => Task::Variation,
        (4, _) => Task::TextToImage,
        (9, _) => Task::Inpainting,
        (8, _) => Task::InstructPix2Pix,
        (7, _) => Task::Upscaling,
        (n, _) => Task::Other(n),
    }
}

/// Whether blocks or layers were taken away from the family's denoiser.
pub(crate) fn is_distilled(family: Family, unet: &Unet) -> bool {
    let usual: &[&[usize]] = match family {
        Family::Sd1 | Family::Sd2 => &[&[1, 1], &[1, 1], &[1, 1], &[0, 0]],
        Family::Sdxl => &[&[0, 0], &[2, 2], &[10, 10]],
        Family::SdxlRefiner => &[&[0, 0], &[4, 4], &[4, 4], &[0, 0]],
        Family::X4Upscaler => &[&[0, 0], &[1, 1], &[1, 1], &[1, 1]],
    };
    let fewer = unet.down.len() < usual.len()
        || unet.down.iter().zip(usual).any(|(have, usual)| {
            have.len() < usual.len() || have.iter().sum::<usize>() < usual.iter().sum::<usize>()
        });
    fewer || !matches!(unet.middle, Middle::Attention(_))
}

/// What is predicted, by the marks that files are known to carry: the empty tensor `v_pred` of XL models, the entry
/// `modelspec.prediction_type`, and in 2.x a norm's bias that spreads wider than 0.09 where v is predicted (as ComfyUI
/// tells them apart). Nothing where there is no mark and the family has both.
pub(crate) fn prediction(
    family: Family,
    source: &dyn TensorSource,
    parts: &[Part],
) -> Result<Option<(Prediction, KnownBy)>, crate::WeightsError> {
    if source.tensors().contains_key("v_pred") {
        return Ok(Some((Prediction::V, KnownBy::Mark)));
    }
    match source.metadata().get("modelspec.prediction_type").map(String::as_str) {
        Some("v" | "v_prediction" | "vpred") => return Ok(Some((Prediction::V, KnownBy::Metadata))),
        Some("epsilon" | "eps") => return Ok(Some((Prediction::Epsilon, KnownBy::Metadata))),
        _ => {}
    }
    const BIAS: &str = "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias";
    match family {
        Family::Sd1 | Family::Sdxl | Family::SdxlRefiner => Ok(Some((Prediction::Epsilon, KnownBy::Family))),
        Family::X4Upscaler => Ok(Some((Prediction::V, KnownBy::Family))),
        Family::Sd2 => {
            let unet = parts.iter().find(|p| p.kind == PartKind::Unet);
            let Some(unet) = unet.filter(|u| u.tensors.tensors().contains_key(BIAS)) else { return Ok(None) };
            let bias = unet.tensors.tensor_f32(BIAS)?;
            let n = bias.len().max(1) as f64;
            let mean = bias.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
            let variance = bias.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
            let found = if variance.sqrt() > 0.09 { Prediction::V } else { Prediction::Epsilon };
            Ok(Some((found, KnownBy::Spread)))
        }
    }
}
