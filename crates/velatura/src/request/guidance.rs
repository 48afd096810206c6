//! How the answers with and without the prompt are combined, beyond the scale.

use serde::{Deserialize, Serialize};
use velatura_models::UNetConfig;
use velatura_samplers::{DynamicThreshold, Guidance, PercentileThreshold};

use super::{MOST_GUIDANCE, RequestError};
use crate::networks::self_attentions_in;

/// Guidance by an answer in which some self-attentions look at nothing but each pixel itself (Ahn et al. 2024,
/// arXiv 2403.17377), as in diffusers' `PAG` pipelines. It takes one more answer for each picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PerturbedAttention {
    /// How far to go away from that answer, 0 (none) to [`MOST_GUIDANCE`].
    pub scale: f32,
    /// How fast that falls along the run: `scale - adaptive_scale * (1000 - timestep)`, at least 0.
    pub adaptive_scale: f32,
    /// Layers in which that is done: parts of the names of self-attentions, such as `mid`, `down_blocks.1` or
    /// `up_blocks.1.attentions.0`.
    pub layers: Vec<String>,
}

impl Default for PerturbedAttention {
    fn default() -> Self {
        PerturbedAttention { scale: 3.0, adaptive_scale: 0.0, layers: vec!["mid".into()] }
    }
}

impl PerturbedAttention {
    /// Which of a network's self-attentions are perturbed: a bit for each.
    pub(crate) fn of(&self, unet: &UNetConfig) -> u128 {
        self.layers.iter().fold(0, |mask, layer| mask | self_attentions_in(unet, layer))
    }

    fn check(&self) -> Result<(), RequestError> {
        for (field, given, usual) in
            [("scale", self.scale, "3 is usual"), ("adaptive scale", self.adaptive_scale, "0 is usual")]
        {
            if !(0.0..=MOST_GUIDANCE).contains(&given) {
                return Err(RequestError::PerturbedAttention { field, given, usual });
            }
        }
        Ok(())
    }
}

/// Guidance away from the answer about a picture that is blurred where the denoiser looks (Hong et al. 2023,
/// arXiv 2210.00939), as in diffusers' `StableDiffusionSAGPipeline`. It takes one more answer for each picture, after the
/// others.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SelfAttentionGuidance {
    /// How far to go away from that answer, 0 (none) to [`MOST_GUIDANCE`]. 0.75 is the authors' and diffusers', 0.5
    /// ComfyUI's.
    pub scale: f32,
    /// Standard deviation of the blur in pixels of the latent, above 0 and up to [`MOST_BLUR`]; 1 is the authors' and
    /// diffusers', 2 ComfyUI's. The blur reaches four pixels far.
    pub blur: f64,
}

/// Widest blur of [`SelfAttentionGuidance`]; beyond the reach of nine pixels more makes no difference.
pub const MOST_BLUR: f64 = 10.0;
/// The least side of a latent that can be blurred, in pixels of the latent.
const LEAST_BLURRED: u32 = 5;

impl Default for SelfAttentionGuidance {
    fn default() -> Self {
        SelfAttentionGuidance { scale: 0.75, blur: 1.0 }
    }
}

impl SelfAttentionGuidance {
    fn check(&self) -> Result<(), RequestError> {
        if !(0.0..=MOST_GUIDANCE).contains(&self.scale) {
            return Err(RequestError::SelfAttentionScale(self.scale));
        }
        if !(self.blur > 0.0 && self.blur <= MOST_BLUR) {
            return Err(RequestError::SelfAttentionBlur(self.blur));
        }
        Ok(())
    }

    /// Whether a model can do it for latents of this least side.
    fn fits(&self, unet: &UNetConfig, side: u32) -> Result<(), RequestError> {
        if !unet.can_be_watched() {
            return Err(RequestError::SelfAttentionModel);
        }
        if side < LEAST_BLURRED {
            return Err(RequestError::SelfAttentionSize { given: side, least: LEAST_BLURRED });
        }
        Ok(())
    }
}

/// What is done beside classifier-free guidance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GuidanceOptions {
    /// Share, 0 to 1, in which a guided answer is brought back to the standard deviation of the prompted one (Lin et al.
    /// 2023, section 3.4; diffusers' `guidance_rescale`). `None` is 0, which is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rescale: Option<f32>,
    /// The part of the run, as shares of its steps from 0 to 1, in which there is guidance (Kynkäänniemi et al. 2024).
    /// Outside it the network is asked about the prompt alone, which takes half the time. `None` is the whole run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f32; 2]>,
    /// Dynamic thresholding of the guided answer, for scales beyond what the model bears.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<DynamicThreshold>,
    /// Dynamic thresholding of the clean latent in Imagen's form, at every step, after all guidance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percentile_threshold: Option<PercentileThreshold>,
    /// Perturbed-attention guidance, in the same part of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perturbed_attention: Option<PerturbedAttention>,
    /// Self-attention guidance, in the same part of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub self_attention: Option<SelfAttentionGuidance>,
}

impl GuidanceOptions {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn check(&self) -> Result<(), RequestError> {
        if let Some(rescale) = self.rescale
            && !(0.0..=1.0).contains(&rescale)
        {
            return Err(RequestError::GuidanceRescale(rescale));
        }
        if let Some([start, end]) = self.interval
            && !(0.0 <= start && start < end && end <= 1.0)
        {
            return Err(RequestError::GuidanceInterval { start, end });
        }
        if let Some(threshold) = &self.threshold {
            threshold.validate().map_err(RequestError::Threshold)?;
        }
        if let Some(threshold) = &self.percentile_threshold {
            threshold.validate().map_err(RequestError::Threshold)?;
        }
        if let Some(perturbed) = &self.perturbed_attention {
            perturbed.check()?;
        }
        if let Some(own) = &self.self_attention {
            own.check()?;
        }
        Ok(())
    }

    /// As samplers take it, with the scale of the guidance.
    pub(super) fn formula(&self, scale: f32) -> Guidance {
        let interval = self.interval.map(|[start, end]| (start, end));
        Guidance { scale, rescale: self.rescale.unwrap_or_default(), interval }
    }

    /// Without what changes nothing. `side` is the shorter one of the latent.
    pub(super) fn resolved(&self, unet: &UNetConfig, side: u32) -> Result<Self, RequestError> {
        let perturbed = self.perturbed_attention.clone().filter(|perturbed| perturbed.scale != 0.0);
        for layer in perturbed.iter().flat_map(|perturbed| &perturbed.layers) {
            if layer.is_empty() || self_attentions_in(unet, layer) == 0 {
                return Err(RequestError::PerturbedLayer { layer: layer.clone() });
            }
        }
        let own = self.self_attention.filter(|own| own.scale != 0.0);
        if let Some(own) = &own {
            own.fits(unet, side)?;
        }
        Ok(GuidanceOptions {
            rescale: self.rescale.filter(|&rescale| rescale != 0.0),
            interval: self.interval.filter(|&interval| interval != [0.0, 1.0]),
            threshold: self.threshold,
            percentile_threshold: self.percentile_threshold,
            perturbed_attention: perturbed,
            self_attention: own,
        })
    }
}
