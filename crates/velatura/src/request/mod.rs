//! The request: everything that decides a picture, in one serialisable struct that the command line, files and the
//! metadata of pictures share.

mod error;

pub use error::RequestError;

use serde::{Deserialize, Serialize};
use velatura_samplers::noise::RngKind;
use velatura_samplers::{
    Guidance, Plan, PlanRequest, Prediction, Sampler, SamplerOptions, Spacing, find_spacing, parse_sampler,
};

use crate::manifest::{ModelManifest, Task};
use crate::sizes::SizeConditions;

/// Most steps of a run: what models are trained on.
pub const MOST_STEPS: u32 = 1000;
/// Most pictures of a request.
pub const MOST_PICTURES: u32 = 1024;
/// Largest guidance that is accepted; pictures are burnt long before.
pub const MOST_GUIDANCE: f32 = 100.0;
/// Longest width or height in pixels.
pub const LONGEST_SIDE: u32 = 8192;
/// Where the refiner takes over unless the request says otherwise, as diffusers and A1111 recommend.
const REFINER_SWITCH: f32 = 0.8;
/// Strength where a request with a picture names none, as in diffusers: 1 where there is a mask.
pub const STRENGTH: f64 = 0.8;
/// The same for Stable Diffusion XL.
pub const XL_STRENGTH: f64 = 0.3;
/// Guidance by the picture where a request to a model that edits pictures names none, as in diffusers.
pub const IMAGE_GUIDANCE: f32 = 1.5;
/// Noise over the picture where a request to an upscaler names none, as in diffusers.
pub const NOISE_LEVEL: u32 = 20;
/// Most noise over the picture that upscalers were trained with.
pub const MOST_NOISE_LEVEL: u32 = 350;
/// Longest prompt in bytes.
pub const LONGEST_PROMPT: usize = 1 << 20;
/// Most chunks of tokens (75 for CLIP) of a prompt: the denoiser looks at all of them in every attention.
pub const MOST_CHUNKS: usize = 64;

/// In which precision the networks are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Single precision throughout: the reference.
    F32,
    /// bf16 storage and products, f32 accumulation; norms, softmax and samplers stay f32.
    Bf16,
}

impl Precision {
    /// As it is written: `f32`, `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        }
    }

    pub(crate) fn of_graph(self) -> velatura_graph::passes::Precision {
        match self {
            Precision::F32 => velatura_graph::passes::Precision::F32,
            Precision::Bf16 => velatura_graph::passes::Precision::Bf16,
        }
    }
}

impl std::str::FromStr for Precision {
    type Err = RequestError;

    fn from_str(text: &str) -> Result<Self, RequestError> {
        match text.to_ascii_lowercase().as_str() {
            "f32" | "fp32" | "float32" => Ok(Precision::F32),
            "bf16" | "bfloat16" => Ok(Precision::Bf16),
            _ => Err(RequestError::Precision(text.chars().take(40).collect())),
        }
    }
}

/// Whether the autoencoder treats pictures larger than 512 pixels in tiles: overlapping squares of that side that are
/// blended smoothly. That takes less memory, and changes the picture a little.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tiling {
    /// Where whole pictures would take more than half of the memory that is free.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

impl Tiling {
    fn is_auto(&self) -> bool {
        *self == Tiling::Auto
    }
}

impl std::str::FromStr for Tiling {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "auto" => Ok(Tiling::Auto),
            "on" => Ok(Tiling::On),
            "off" => Ok(Tiling::Off),
            _ => Err("must be auto, on or off".to_string()),
        }
    }
}

/// What is asked for. Fields that are `None` take the model's defaults; [`GenerateRequest::resolve`] fills them in,
/// and a picture's metadata holds the request with all of them filled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateRequest {
    /// What the picture shows.
    pub prompt: String,
    /// What it should not show; replaces the empty prompt in the half without guidance.
    pub negative: String,
    /// Seed of the first picture; picture `i` of a batch uses `seed + i`. `None` draws one.
    pub seed: Option<u64>,
    /// Sampling steps, 1 to [`MOST_STEPS`].
    pub steps: Option<u32>,
    /// Scale of classifier-free guidance, above 0 and up to [`MOST_GUIDANCE`]; 1 is none.
    pub guidance: Option<f32>,
    /// Width in pixels, a multiple of the model's factor.
    pub width: Option<u32>,
    /// Height in pixels, a multiple of the model's factor.
    pub height: Option<u32>,
    /// Number of pictures, 1 to [`MOST_PICTURES`].
    pub batch: u32,
    /// Sampler, in any of its spellings; it may carry its schedule (`DPM++ 2M Karras`).
    pub sampler: Option<String>,
    /// Spacing of the timesteps, in any of its spellings.
    pub schedule: Option<String>,
    /// Precision of the networks; `None` is bf16 where the processor has it.
    pub precision: Option<Precision>,
    /// Which generator a seed is for: PyTorch's on the CPU, or on CUDA.
    pub rng: RngKind,
    /// The model as it was asked for: `None` is the one that ships, else a path.
    pub model: Option<String>,
    /// Which block of the text transformers the prompt is taken from, counted from their end as A1111 counts: 1 is the last
    /// one. A model that reads an earlier block itself, as SDXL the second, reads none behind that. `None` is 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_skip: Option<u32>,
    /// An autoencoder in place of the model's own: the path of a file or folder that holds one alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vae: Option<String>,
    /// What the model predicts, where its files do not say or say it wrongly. `None` is what they say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prediction: Option<Prediction>,
    /// What Stable Diffusion XL is told of the picture's size.
    #[serde(skip_serializing_if = "SizeConditions::is_default")]
    pub sizes: SizeConditions,
    /// A model that takes over towards the end: the path of one with the same latents, as SDXL's refiner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refiner: Option<String>,
    /// The share of the way from noise to picture after which it does, above 0 and below 1 (diffusers' `denoising_end`).
    /// `None` is 0.8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refiner_switch: Option<f32>,
    /// Whether the autoencoder works in tiles. Metadata holds what was decided.
    #[serde(skip_serializing_if = "Tiling::is_auto")]
    pub vae_tiling: Tiling,
    /// A picture to begin from: the path of a PNG, JPEG, WebP or BMP. It is brought to the size asked for; where none is,
    /// its own size, made a multiple of the model's factor, is the picture's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<String>,
    /// How much of that picture is noised away, above 0 and up to 1: as in diffusers the last `steps * strength` steps are
    /// taken. `None` is the model's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,
    /// A picture of that picture's size that is white where it is to be made anew, and black where it stays. What is
    /// transparent counts as white.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
    /// For a model that edits pictures: how closely to keep to the picture, 1 to [`MOST_GUIDANCE`]; 1 is no guidance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_guidance: Option<f32>,
    /// For an upscaler: how much noise is laid over the picture that it reads, 0 to [`MOST_NOISE_LEVEL`]. More lets it
    /// invent more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise_level: Option<u32>,
}

impl Default for GenerateRequest {
    fn default() -> Self {
        GenerateRequest {
            prompt: String::new(),
            negative: String::new(),
            seed: None,
            steps: None,
            guidance: None,
            width: None,
            height: None,
            batch: 1,
            sampler: None,
            schedule: None,
            precision: None,
            rng: RngKind::Cpu,
            model: None,
            clip_skip: None,
            vae: None,
            prediction: None,
            sizes: SizeConditions::default(),
            refiner: None,
            refiner_switch: None,
            vae_tiling: Tiling::Auto,
            init: None,
            strength: None,
            mask: None,
            image_guidance: None,
            noise_level: None,
        }
    }
}

/// A request checked against a model, with everything decided.
pub(crate) struct Settings {
    pub seed: u64,
    pub width: usize,
    pub height: usize,
    pub guidance: Guidance,
    pub precision: Precision,
    pub rng: RngKind,
    pub clip_skip: u32,
    pub sizes: SizeConditions,
    /// The timestep below which the refiner takes over.
    pub refine_below: f32,
    pub tiled: bool,
    pub task: Task,
    pub strength: f64,
    pub image_guidance: f32,
    pub noise_level: u32,
    /// What a latent consistency model is told.
    pub told_guidance: f32,
    pub sampler: Box<dyn Sampler>,
    pub plan: Plan,
}

impl Settings {
    /// How often the denoiser is called for each picture.
    pub fn calls(&self) -> usize {
        self.sampler.evaluations(&self.plan)
    }
}

impl GenerateRequest {
    /// A request for one picture with the model's defaults.
    pub fn new(prompt: impl Into<String>) -> Self {
        GenerateRequest { prompt: prompt.into(), ..Self::default() }
    }

    /// Reads a request from JSON; fields may be left out, unknown ones are refused.
    pub fn from_json(json: &str) -> Result<Self, RequestError> {
        serde_json::from_str(json).map_err(|e| RequestError::Json(e.to_string()))
    }

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
        let schedule = match (&self.schedule, carried) {
            (Some(name), _) => find_spacing(name)?.spacing,
            (None, Some(spacing)) => spacing,
            (None, None) => find_spacing(&defaults.schedule)?.spacing,
        };
        Ok(GenerateRequest {
            seed: Some(self.seed.unwrap_or_else(draw_seed)),
            steps: Some(self.steps.unwrap_or(defaults.steps)),
            guidance: Some(self.guidance.unwrap_or(defaults.guidance)),
            width: Some(width),
            height: Some(height),
            sampler: Some(sampler.name.to_string()),
            schedule: Some(schedule.name().to_string()),
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
                    (Some(_), _) => 1.0,
                    (None, true) => XL_STRENGTH,
                    (None, false) => STRENGTH,
                };
                request.strength = self.init.as_ref().map(|_| self.strength.unwrap_or(usual));
            }
            Task::Edit => request.image_guidance = Some(self.image_guidance.unwrap_or(IMAGE_GUIDANCE)),
            Task::Upscaling => {
                let labels = manifest.unet.num_class_embeds.unwrap_or(1) as u32;
                let most = MOST_NOISE_LEVEL.min(labels.saturating_sub(1));
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

    /// The request that makes picture `index` of this one by itself.
    pub fn of_picture(&self, index: usize) -> Self {
        let seed = self.seed.map(|seed| seed.wrapping_add(index as u64));
        GenerateRequest { seed, batch: 1, ..self.clone() }
    }

    /// The timestep below which the refiner takes over: diffusers' `discrete_timestep_cutoff`.
    fn refine_below(&self, train_timesteps: usize) -> f32 {
        let (all, switch) =
            (train_timesteps as f64, f64::from(self.refiner_switch.unwrap_or(REFINER_SWITCH)));
        (all - switch * all).round_ties_even() as f32
    }

    /// What the pipeline runs on, from a request that went through [`GenerateRequest::resolve`].
    pub(crate) fn settings(&self, manifest: &ModelManifest) -> Result<Settings, crate::Error> {
        let defaults = &manifest.defaults;
        let (entry, carried) = parse_sampler(self.sampler.as_deref().unwrap_or(&defaults.sampler))
            .map_err(RequestError::from)?;
        let spacing: Spacing = match &self.schedule {
            Some(name) => find_spacing(name).map_err(RequestError::from)?.spacing,
            None => carried.unwrap_or_default(),
        };
        let sampler = entry.build(&SamplerOptions::default())?;
        let schedule = match self.prediction {
            Some(prediction) => manifest.schedule.predicting(prediction),
            None => manifest.schedule.clone(),
        };
        let table = schedule.table()?;
        let steps = self.steps.unwrap_or(defaults.steps) as usize;
        let strength = self.strength.unwrap_or(1.0);
        let layout = PlanRequest { strength, ..PlanRequest::new(steps, spacing) };
        let plan = Plan::new(&table, sampler.grid(), &layout).map_err(RequestError::from)?;
        let guidance = self.guidance.unwrap_or(defaults.guidance);
        // A model that is told the guidance answers once.
        let is_told = manifest.unet.time_cond_proj_dim.is_some();
        Ok(Settings {
            seed: self.seed.unwrap_or_default(),
            width: self.width.unwrap_or(defaults.width) as usize,
            height: self.height.unwrap_or(defaults.height) as usize,
            guidance: Guidance::new(if is_told { 1.0 } else { guidance }),
            precision: self.precision.unwrap_or(Precision::F32),
            rng: self.rng,
            clip_skip: self.clip_skip.unwrap_or(1),
            sizes: self.sizes,
            refine_below: self.refine_below(table.train_timesteps()),
            tiled: self.vae_tiling == Tiling::On,
            task: manifest.task().unwrap_or(Task::TextToImage),
            strength,
            image_guidance: self.image_guidance.unwrap_or(1.0),
            noise_level: self.noise_level.unwrap_or_default(),
            told_guidance: guidance,
            sampler,
            plan,
        })
    }
}

fn check_side(side: &'static str, given: u32, factor: u32) -> Result<(), RequestError> {
    if !(factor..=LONGEST_SIDE).contains(&given) {
        return Err(RequestError::SizeRange { side, given, least: factor });
    }
    if !given.is_multiple_of(factor) {
        let below = given / factor * factor;
        return Err(RequestError::SizeFactor { side, given, factor, below, above: below + factor });
    }
    Ok(())
}

/// A seed that nobody chose. Below 2^32, so that it is short to type and every other tool takes it.
fn draw_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    // The hasher's keys come from the system's random numbers.
    RandomState::new().hash_one(std::process::id()) >> 32
}
