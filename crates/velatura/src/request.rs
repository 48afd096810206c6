//! The request: everything that decides a picture, in one serialisable struct that the command line, files and the
//! metadata of pictures share.

use serde::{Deserialize, Serialize};
use velatura_samplers::noise::RngKind;
use velatura_samplers::{
    Guidance, Plan, PlanRequest, Prediction, Sampler, SamplerOptions, Spacing, UnknownName, find_spacing,
    parse_sampler,
};

use crate::manifest::ModelManifest;
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
        }
    }
}

/// A request that cannot be served. Each message is one sentence that names the field and the remedy.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RequestError {
    /// Steps out of range.
    #[error("steps is {0}, but must be from 1 to {MOST_STEPS} (20 to 30 is usual)")]
    Steps(u32),
    /// Guidance not a number, not positive, or absurd.
    #[error(
        "guidance is {0}, but must be a number above 0 and up to {MOST_GUIDANCE} (1 is no guidance, 2 to 8 is usual)"
    )]
    Guidance(f32),
    /// A side of zero or too long.
    #[error("{side} is {given}, but must be from {least} to {LONGEST_SIDE} pixels")]
    SizeRange {
        /// `width` or `height`.
        side: &'static str,
        /// What was asked for.
        given: u32,
        /// The smallest that the model can make.
        least: u32,
    },
    /// A side that the model's layers do not divide.
    #[error(
        "{side} is {given}, but must be a multiple of {factor} for this model; the nearest are {below} and {above}"
    )]
    SizeFactor {
        /// `width` or `height`.
        side: &'static str,
        /// What was asked for.
        given: u32,
        /// What it must be a multiple of.
        factor: u32,
        /// Nearest valid size below.
        below: u32,
        /// Nearest valid size above.
        above: u32,
    },
    /// Number of pictures out of range.
    #[error("batch is {0}, but must be from 1 to {MOST_PICTURES} pictures")]
    Batch(u32),
    /// A name that is not known.
    #[error(transparent)]
    Name(#[from] UnknownName),
    /// A precision that is not known.
    #[error("precision is {0:?}, but must be f32 or bf16")]
    Precision(String),
    /// A prompt of more than [`LONGEST_PROMPT`] bytes.
    #[error("the {which} is {bytes} bytes long; at most {LONGEST_PROMPT} are read")]
    PromptLength {
        /// `prompt` or `negative prompt`.
        which: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// A prompt of more than [`MOST_CHUNKS`] chunks.
    #[error("the {which} has {tokens} tokens; at most {most} are read")]
    PromptTokens {
        /// `prompt` or `negative prompt`.
        which: &'static str,
        /// Its tokens.
        tokens: usize,
        /// How many are read.
        most: usize,
    },
    /// An autoencoder for a model of Velatura's own, whose latents no other autoencoder has.
    #[error(
        "{model} has an autoencoder of its own that no other can replace; leave the VAE out, or choose a Stable Diffusion model"
    )]
    Vae {
        /// The model.
        model: String,
    },
    /// More blocks to skip than the text transformer has, or none to count from.
    #[error("clip skip is {given}, but must be {} for this model", if *most == 1 { "1".to_string() } else { format!("from 1 to {most}") })]
    ClipSkip {
        /// What was asked for.
        given: u32,
        /// The first block, counted from the end.
        most: u32,
    },
    /// A size or crop out of range.
    #[error("{field} is {given}, but must be from {least} to {most} pixels")]
    SizeCondition {
        /// Which.
        field: &'static str,
        /// What was asked for.
        given: u32,
        /// The smallest.
        least: u32,
        /// The largest.
        most: u32,
    },
    /// An aesthetic score out of range.
    #[error("aesthetic score is {0}, but must be a number from -100 to 100 (1 to 10 is usual)")]
    Score(f32),
    /// A switch to the refiner out of range.
    #[error("refiner switch is {0}, but must be above 0 and below 1 (0.8 is usual)")]
    RefinerSwitch(f32),
    /// A switch to a refiner that is not given.
    #[error("refiner switch is for a refiner; name one (--refiner), or leave it out")]
    NoRefiner,
    /// Steps and schedule do not go together.
    #[error(transparent)]
    Plan(#[from] velatura_samplers::PlanError),
    /// The pictures cannot fit into memory.
    #[error(
        "{width}x{height} needs about {needed_mib} MiB of memory and {available_mib} MiB are free; \
         ask for a smaller picture{}",
        if *together > 1 { " or a smaller batch" } else { "" }
    )]
    Memory {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Pictures made at once.
        together: usize,
        /// What the planner says, in MiB.
        needed_mib: u64,
        /// What the system says, in MiB.
        available_mib: u64,
    },
    /// JSON that is no request.
    #[error("this is not a request of this version of Velatura: {0}")]
    Json(String),
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
            ..self.clone()
        })
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
        let plan = Plan::new(&table, sampler.grid(), &PlanRequest::new(steps, spacing))
            .map_err(RequestError::from)?;
        Ok(Settings {
            seed: self.seed.unwrap_or_default(),
            width: self.width.unwrap_or(defaults.width) as usize,
            height: self.height.unwrap_or(defaults.height) as usize,
            guidance: Guidance::new(self.guidance.unwrap_or(defaults.guidance)),
            precision: self.precision.unwrap_or(Precision::F32),
            rng: self.rng,
            clip_skip: self.clip_skip.unwrap_or(1),
            sizes: self.sizes,
            refine_below: self.refine_below(table.train_timesteps()),
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
