//! A request with every field decided for a model.

use velatura_samplers::{Spacing, find_spacing, parse_sampler};

use super::check::{MOST_NOISE_LEVEL, check_side};
use super::{GenerateRequest, Precision, RequestError};
use crate::manifest::{ModelManifest, Task};

/// Where the refiner takes over unless the request says otherwise, as diffusers and A1111 recommend.
pub(super) const REFINER_SWITCH: f32 = 0.8;
/// Strength where a request with a picture names none, as in diffusers: 1 where there is a mask.
pub const STRENGTH: f64 = 0.8;
/// The same for Stable Diffusion XL.
pub const XL_STRENGTH: f64 = 0.3;
/// The same for Stable Diffusion XL with a mask: the picture is not looked at, but for its colours.
pub const XL_MASK_STRENGTH: f64 = 0.9999;
/// Guidance by the picture where a request to a model that edits pictures names none, as in diffusers.
pub const IMAGE_GUIDANCE: f32 = 1.5;
/// Noise over the picture where a request to an upscaler names none, as in diffusers.
pub const NOISE_LEVEL: u32 = 20;

impl GenerateRequest {
    /// The same request with every field decided, in canonical spelling: the model's defaults, a drawn seed, the
    /// given precision where none is asked for. What comes out resolves to itself.
    pub fn resolve(&self, manifest: &ModelManifest, precision: Precision) -> Result<Self, RequestError> {
        self.check()?;
        let defaults = &manifest.defaults;
        let (width, height) = (self.width.unwrap_or(defaults.width), self.height.unwrap_or(defaults.height));
        let factor = manifest.size_factor();
        for (side, given) in [("width", width), ("height", height)] {
            check_side(side, given, factor)?;
        }
        let most = manifest.most_clip_skip();
        if let Some(given) = self.clip_skip
            && !(1..=most).contains(&given)
        {
            return Err(RequestError::ClipSkip { given, most });
        }
        let (sampler, carried) = parse_sampler(self.sampler.as_deref().unwrap_or(&defaults.sampler))?;
        let noise = self.noise_schedule(manifest);
        let schedule = match (&self.schedule, carried) {
            (Some(name), _) => find_spacing(name)?.spacing,
            (None, Some(spacing)) => spacing,
            (None, None) if self.zero_snr == Some(true) => Spacing::Trailing,
            (None, None) => {
                // A model that wishes for no schedule of its own has its sampler's; so has another sampler, then.
                let (own, wished) =
                    (parse_sampler(&defaults.sampler)?.0, find_spacing(&defaults.schedule)?.spacing);
                if wished == own.default_spacing(&noise) { sampler.default_spacing(&noise) } else { wished }
            }
        };
        if noise.zero_snr && noise.is_flow() {
            return Err(RequestError::ZeroSnrOfFlow);
        }
        Ok(GenerateRequest {
            seed: Some(self.seed.or(self.seeds.each.first().copied()).unwrap_or_else(draw_seed)),
            seeds: self.seeds.resolved([width, height], draw_seed),
            batch: if self.seeds.each.is_empty() { self.batch } else { self.seeds.each.len() as u32 },
            steps: Some(match self.sampling.levels() {
                [] => self.steps.unwrap_or(defaults.steps),
                levels => levels.len() as u32,
            }),
            guidance: Some(self.guidance.unwrap_or(defaults.guidance)),
            guidance_options: self
                .guidance_options
                .resolved(&manifest.unet, width.min(height) / manifest.latent_factor())?,
            deepcache: match self.deepcache {
                Some(cache) => cache.resolved(&manifest.unet)?,
                None => None,
            },
            width: Some(width),
            height: Some(height),
            sampler: Some(sampler.name.to_string()),
            // Sigmas stand in its place.
            schedule: self.sampling.sigmas.is_empty().then(|| schedule.name().to_string()),
            precision: Some(self.precision.unwrap_or(precision)),
            refiner_switch: self.refiner.as_ref().map(|_| self.refiner_switch.unwrap_or(REFINER_SWITCH)),
            ..self.for_task(manifest)?
        })
    }

    /// With everything about pictures decided for what the model does.
    fn for_task(&self, manifest: &ModelManifest) -> Result<Self, RequestError> {
        let task = manifest.task().unwrap_or(Task::TextToImage);
        let does = match task {
            Task::TextToImage => "makes pictures",
            Task::Inpainting => "repaints parts of pictures",
            Task::Edit => "edits a picture by instruction",
            Task::Upscaling => "enlarges a picture",
        };
        let begins = matches!(task, Task::TextToImage | Task::Inpainting);
        let fields = [
            ("strength", self.strength.is_some(), begins, "that begins from a picture"),
            ("denoise", self.sampling.denoise.is_some(), begins, "that begins from a picture"),
            ("mask", self.mask.is_some(), begins, "that repaints parts of pictures"),
            ("image guidance", self.image_guidance.is_some(), task == Task::Edit, "that edits pictures"),
            ("noise level", self.noise_level.is_some(), task == Task::Upscaling, "that enlarges pictures"),
        ];
        if let Some(&(field, .., of)) = fields.iter().find(|(_, given, taken, _)| *given && !*taken) {
            return Err(RequestError::NotTaken { field, does, of });
        }
        if self.init.is_none() && !begins {
            return Err(RequestError::NeedsInit { does });
        }
        if self.init.is_some() && task != Task::Upscaling && !manifest.autoencoder.has_encoder() {
            return Err(RequestError::NoEncoder);
        }
        let mut request = self.clone();
        match task {
            Task::TextToImage | Task::Inpainting => {
                let xl = manifest.unet.addition_embed_type.is_some();
                let usual = match (&self.mask, xl) {
                    (Some(_), true) => XL_MASK_STRENGTH,
                    (Some(_), false) => 1.0,
                    (None, true) => XL_STRENGTH,
                    (None, false) => STRENGTH,
                };
                let plain = self.init.is_some() && self.sampling.denoise.is_none();
                request.strength = plain.then(|| self.strength.unwrap_or(usual));
            }
            Task::Edit => request.image_guidance = Some(self.image_guidance.unwrap_or(IMAGE_GUIDANCE)),
            Task::Upscaling => {
                let labels = manifest.unet.num_class_embeds.unwrap_or(1) as u32;
                let own = manifest.max_noise_level.unwrap_or(MOST_NOISE_LEVEL);
                let most = MOST_NOISE_LEVEL.min(own).min(labels.saturating_sub(1));
                let given = self.noise_level.unwrap_or(NOISE_LEVEL.min(most));
                if given > most {
                    return Err(RequestError::NoiseLevel { given, most });
                }
                request.noise_level = Some(given);
            }
        }
        Ok(request)
    }

    /// With the size of a picture where none is asked for, rounded down to a multiple of `factor` as diffusers does; with
    /// the picture's proportions where one side is.
    pub(crate) fn sized_as(&self, (width, height): (u32, u32), factor: u32) -> Self {
        let down = |side: u32| (side / factor * factor).max(factor);
        let in_proportion = |given: u32, of: u32, other: u32| {
            let side = f64::from(given) * f64::from(other) / f64::from(of.max(1));
            ((side / f64::from(factor)).round() as u32).saturating_mul(factor).max(factor)
        };
        let (width, height) = match (self.width, self.height) {
            (None, None) => (down(width), down(height)),
            (Some(given), None) => (given, in_proportion(given, width, height)),
            (None, Some(given)) => (in_proportion(given, height, width), given),
            (Some(width), Some(height)) => (width, height),
        };
        GenerateRequest { width: Some(width), height: Some(height), ..self.clone() }
    }
}

/// A seed that nobody chose. Below 2^32, so that it is short to type and every other tool takes it.
fn draw_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    // The hasher's keys come from the system's random numbers.
    RandomState::new().hash_one(std::process::id()) >> 32
}
