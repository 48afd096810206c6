//! The request: everything that decides a picture, in one serialisable struct that the command line, files and the
//! metadata of pictures share.

mod check;
mod deepcache;
mod emphasis;
mod error;
mod guidance;
mod noise;
mod precision;
mod resolve;
mod sampling;
mod settings;
mod tiling;

pub use check::{
    LONGEST_PROMPT, LONGEST_SIDE, MOST_CHUNKS, MOST_FREEU, MOST_GUIDANCE, MOST_NOISE_LEVEL, MOST_PICTURES,
    MOST_STEPS,
};
pub use deepcache::DeepCache;
pub use emphasis::Emphasis;
pub use error::RequestError;
pub use guidance::{GuidanceOptions, MOST_BLUR, PerturbedAttention, SelfAttentionGuidance};
pub use noise::{SeedOptions, SeedVariation};
pub use precision::Precision;
pub use resolve::{IMAGE_GUIDANCE, NOISE_LEVEL, STRENGTH, XL_MASK_STRENGTH, XL_STRENGTH};
pub use sampling::SamplingOptions;
pub(crate) use settings::Settings;
pub use tiling::Tiling;

use serde::{Deserialize, Serialize};
use velatura_models::unet::FreeU;
use velatura_samplers::Prediction;
use velatura_samplers::noise::RngKind;
use velatura_text::prompt::Dialect;

use crate::sizes::SizeConditions;

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
    /// What is done beside that guidance.
    #[serde(skip_serializing_if = "GuidanceOptions::is_default")]
    pub guidance_options: GuidanceOptions,
    /// Stronger features and smoother skip connections in the denoiser.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freeu: Option<FreeU>,
    /// Less of the denoiser computed at some steps, which is faster and lossy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deepcache: Option<DeepCache>,
    /// Which noise the pictures begin from, beyond the seed.
    #[serde(skip_serializing_if = "SeedOptions::is_default")]
    pub seeds: SeedOptions,
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
    /// What the two can be told beyond their names.
    #[serde(skip_serializing_if = "SamplingOptions::is_default")]
    pub sampling: SamplingOptions,
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
    /// Whose grammar the prompts are written in, for models with CLIP's tokenizer. In ComfyUI's an empty negative prompt is
    /// encoded where A1111 and diffusers take zeros (Stable Diffusion XL).
    #[serde(skip_serializing_if = "Dialect::is_default")]
    pub prompt_dialect: Dialect,
    /// How weights are applied; the dialect's own way where `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emphasis: Option<Emphasis>,
    /// An autoencoder in place of the model's own: the path of a file or folder that holds one alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vae: Option<String>,
    /// What the model predicts, where its files do not say or say it wrongly. `None` is what they say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prediction: Option<Prediction>,
    /// Whether the noise is scaled so that nothing of the picture is left in it at the first step (Lin et al. 2023, "Common
    /// diffusion noise schedules and sample steps are flawed"; diffusers' `rescale_betas_zero_snr`), where the model's files
    /// do not say or say it wrongly: for models that were trained so, which predict v. `None` is what they say. Without a
    /// schedule of the request the timesteps are then trailing, so that the first step is that one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zero_snr: Option<bool>,
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
            guidance_options: GuidanceOptions::default(),
            freeu: None,
            deepcache: None,
            seeds: SeedOptions::default(),
            width: None,
            height: None,
            batch: 1,
            sampler: None,
            schedule: None,
            sampling: SamplingOptions::default(),
            precision: None,
            rng: RngKind::Cpu,
            model: None,
            clip_skip: None,
            prompt_dialect: Dialect::A1111,
            emphasis: None,
            vae: None,
            prediction: None,
            zero_snr: None,
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

impl GenerateRequest {
    /// A request for one picture with the model's defaults.
    pub fn new(prompt: impl Into<String>) -> Self {
        GenerateRequest { prompt: prompt.into(), ..Self::default() }
    }

    /// Reads a request from JSON; fields may be left out, unknown ones are refused.
    pub fn from_json(json: &str) -> Result<Self, RequestError> {
        serde_json::from_str(json).map_err(|e| RequestError::Json(e.to_string()))
    }
}
