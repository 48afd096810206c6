//! What can be checked of a request without a model, and the ranges of its fields.

use velatura_models::unet::FreeU;
use velatura_samplers::{find_spacing, parse_sampler};

use super::{GenerateRequest, RequestError};

/// Most steps of a run: what models are trained on.
pub const MOST_STEPS: u32 = 1000;
/// Most pictures of a request.
pub const MOST_PICTURES: u32 = 1024;
/// Largest guidance that is accepted; pictures are burnt long before.
pub const MOST_GUIDANCE: f32 = 100.0;
/// Longest width or height in pixels.
pub const LONGEST_SIDE: u32 = 8192;
/// Most noise over the picture that upscalers were trained with.
pub const MOST_NOISE_LEVEL: u32 = 350;
/// Largest factor of FreeU.
pub const MOST_FREEU: f32 = 10.0;
/// Longest prompt in bytes.
pub const LONGEST_PROMPT: usize = 1 << 20;
/// Most chunks of tokens (75 for CLIP) of a prompt: the denoiser looks at all of them in every attention.
pub const MOST_CHUNKS: usize = 64;

impl GenerateRequest {
    /// Checks what can be checked without a model, cheaply.
    pub fn check(&self) -> Result<(), RequestError> {
        if let Some(steps) = self.steps
            && !(1..=MOST_STEPS).contains(&steps)
        {
            return Err(RequestError::Steps(steps));
        }
        if let Some(guidance) = self.guidance
            && !(guidance > 0.0 && guidance <= MOST_GUIDANCE)
        {
            return Err(RequestError::Guidance(guidance));
        }
        if let Some(strength) = self.strength
            && !(strength > 0.0 && strength <= 1.0)
        {
            return Err(RequestError::Strength(strength));
        }
        let of_a_picture = [
            ("strength", self.strength.is_some()),
            ("denoise", self.sampling.denoise.is_some()),
            ("mask", self.mask.is_some()),
            ("image guidance", self.image_guidance.is_some()),
            ("noise level", self.noise_level.is_some()),
        ];
        if let Some(&(field, _)) = of_a_picture.iter().find(|(_, given)| *given && self.init.is_none()) {
            return Err(RequestError::NoInit { field });
        }
        if let Some(guidance) = self.image_guidance
            && !(1.0..=MOST_GUIDANCE).contains(&guidance)
        {
            return Err(RequestError::ImageGuidance(guidance));
        }
        if let Some(given) = self.noise_level
            && given > MOST_NOISE_LEVEL
        {
            return Err(RequestError::NoiseLevel { given, most: MOST_NOISE_LEVEL });
        }
        if !(1..=MOST_PICTURES).contains(&self.batch) {
            return Err(RequestError::Batch(self.batch));
        }
        for (side, given) in [("width", self.width), ("height", self.height)] {
            if let Some(given) = given
                && !(1..=LONGEST_SIDE).contains(&given)
            {
                return Err(RequestError::SizeRange { side, given, least: 1 });
            }
        }
        for (which, text) in [("prompt", &self.prompt), ("negative prompt", &self.negative)] {
            if text.len() > LONGEST_PROMPT {
                return Err(RequestError::PromptLength { which, bytes: text.len() });
            }
        }
        self.sizes.check()?;
        self.sampling.check(self.strength)?;
        let levels = self.sampling.levels().len();
        if let Some(steps) = self.steps
            && levels > 0
            && steps as usize != levels
        {
            return Err(RequestError::SigmaCount { sigmas: levels, steps });
        }
        self.guidance_options.check()?;
        if let Some(FreeU { s1, s2, b1, b2 }) = self.freeu
            && let Some(&factor) = [s1, s2, b1, b2].iter().find(|&&v| !(v > 0.0 && v <= MOST_FREEU))
        {
            return Err(RequestError::FreeU(factor));
        }
        if let Some(cache) = self.deepcache {
            cache.check(self)?;
        }
        self.seeds.check(self.seed, self.batch)?;
        if let Some(switch) = self.refiner_switch {
            if !(switch > 0.0 && switch < 1.0) {
                return Err(RequestError::RefinerSwitch(switch));
            }
            if self.refiner.is_none() {
                return Err(RequestError::NoRefiner);
            }
        }
        if let Some(sampler) = &self.sampler {
            parse_sampler(sampler)?;
        }
        if let Some(schedule) = &self.schedule {
            find_spacing(schedule)?;
        }
        Ok(())
    }
}

/// Checks a side against the model's factor.
pub(super) fn check_side(side: &'static str, given: u32, factor: u32) -> Result<(), RequestError> {
    if !(factor..=LONGEST_SIDE).contains(&given) {
        return Err(RequestError::SizeRange { side, given, least: factor });
    }
    if !given.is_multiple_of(factor) {
        let below = given / factor * factor;
        return Err(RequestError::SizeFactor { side, given, factor, below, above: below + factor });
    }
    Ok(())
}
