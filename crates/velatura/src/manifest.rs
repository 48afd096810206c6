//! What a model file says of itself: the JSON under the metadata key `velatura` of a safetensors file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use velatura_models::unet::{AdditionEmbedding, ClassEmbedding};
use velatura_models::{Autoencoder, TextConfig, UNetConfig};
use velatura_samplers::{NoiseSchedule, find_sampler, find_spacing};
use velatura_text::Tokenizer;
use velatura_weights::SafetensorsFile;

use crate::Error;
use crate::conditioning::Conditioning;
use crate::sizes::{BASE_IDS, REFINER_IDS};

/// The metadata key of the manifest.
pub const METADATA_KEY: &str = "velatura";
/// The version of the manifest that this program writes; it reads this and older ones.
pub const FORMAT: u32 = 2;
/// In front of the first text transformer's tensor names; others have a number, as in `text_encoder_2`.
pub const TEXT_PREFIX: &str = "text_encoder";
/// In front of the denoiser's tensor names.
pub const UNET_PREFIX: &str = "unet";
/// In front of the autoencoder's tensor names.
pub const VAE_PREFIX: &str = "vae";

/// A model: the configuration of its networks, how it was noised, what it is usually asked for, and how it was made.
/// Tensors are named `unet.*`, `vae.*`, and as each text encoder says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelManifest {
    /// Version of this description, see [`FORMAT`].
    pub format: u32,
    /// A short name.
    pub name: String,
    /// The text encoders, at least one. The denoiser sees each token with the features of all of them side by side, in
    /// this order, and the pooled text of the last.
    pub text_encoders: Vec<TextEncoder>,
    /// The denoiser.
    pub unet: UNetConfig,
    /// The autoencoder between pictures and latents.
    pub autoencoder: Autoencoder,
    /// How latents were noised and what the denoiser predicts.
    pub schedule: NoiseSchedule,
    /// How the picture that an upscaler reads is noised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low_res_schedule: Option<NoiseSchedule>,
    /// The largest timestep of that noise, where the model says it (`max_noise_level` of diffusers' pipeline).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_noise_level: Option<u32>,
    /// How a prompt reaches the denoiser.
    #[serde(default)]
    pub conditioning: Conditioning,
    /// Whether an empty negative prompt is all zeros instead of what the text encoders make of it, as in Stable Diffusion
    /// XL (`force_zeros_for_empty_prompt` in diffusers).
    #[serde(default)]
    pub zeros_for_empty_prompt: bool,
    /// What is used where a request says nothing.
    pub defaults: Defaults,
    /// How it was trained; empty in a model that was not.
    #[serde(default)]
    pub training: TrainingNote,
}

/// A text transformer and the tokenizer that it was trained with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TextEncoder {
    /// In front of its tensors' names, without a dot.
    pub prefix: String,
    /// The transformer.
    pub config: TextConfig,
    /// Prompts to token ids.
    pub tokenizer: Tokenizer,
}

/// What a denoiser reads beside the noisy latent, told by its number of channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Nothing.
    TextToImage,
    /// The mask, and the latent of the picture without what is masked (Stable Diffusion: 9 channels).
    Inpainting,
    /// The latent of the picture to edit (8): InstructPix2Pix.
    Edit,
    /// The picture to enlarge, noised, and as a class label how much (7).
    Upscaling,
}

/// What is used where a request says nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Defaults {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Sampling steps.
    pub steps: u32,
    /// Scale of classifier-free guidance.
    pub guidance: f32,
    /// Name of the sampler.
    pub sampler: String,
    /// Name of the timestep spacing.
    pub schedule: String,
}

/// How a model was trained.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainingNote {
    /// The recipe in full, as text.
    pub recipe: String,
    /// Optimizer steps of the denoiser.
    pub steps: u64,
    /// Pictures that the denoiser saw, repetitions counted.
    pub samples: u64,
    /// Licences of the data and of the weights.
    pub licences: Vec<String>,
    /// Anything else worth knowing, by name.
    pub notes: BTreeMap<String, String>,
}

impl ModelManifest {
    /// The manifest of a model file, checked.
    pub fn of(file: &SafetensorsFile) -> Result<Self, Error> {
        let bad = |reason: String| Error::Manifest { file: file.path().to_path_buf(), reason };
        let json = file
            .metadata()
            .get(METADATA_KEY)
            .ok_or_else(|| bad("its metadata has no description of a Velatura model".to_string()))?;
        Self::from_json(json).map_err(bad)
    }

    /// Reads and checks the JSON of a manifest, of this format or an older one; the reason when it is none.
    pub fn from_json(json: &str) -> Result<Self, String> {
        let unreadable = |e: serde_json::Error| format!("its description cannot be read ({e})");
        /// Read first, so that a newer file is told from a damaged one.
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let Version { format } = serde_json::from_str(json).map_err(unreadable)?;
        if format > FORMAT {
            return Err(format!(
                "its description has format {format} and this version reads up to {FORMAT}; update Velatura"
            ));
        }
        let mut value: Value = serde_json::from_str(json).map_err(unreadable)?;
        if format == 1 {
            // One text encoder, its two halves apart.
            let encoder =
                json!({"prefix": TEXT_PREFIX, "config": value["text"], "tokenizer": value["tokenizer"]});
            value["text_encoders"] = json!([encoder]);
            value["format"] = FORMAT.into();
        }
        let manifest: ModelManifest = serde_json::from_value(value).map_err(unreadable)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The manifest as the metadata of a model file.
    pub fn to_metadata(&self) -> Result<BTreeMap<String, String>, Error> {
        let json = serde_json::to_string(self).map_err(|e| Error::Internal(e.to_string()))?;
        Ok(BTreeMap::from([(METADATA_KEY.to_string(), json)]))
    }

    /// Whether the parts fit each other; the reason when not.
    pub fn check(&self) -> Result<(), String> {
        self.schedule.validate().map_err(|e| e.to_string())?;
        find_sampler(&self.defaults.sampler).map_err(|e| format!("its default {e}"))?;
        find_spacing(&self.defaults.schedule).map_err(|e| format!("its default {e}"))?;
        let factor = self.size_factor();
        for (side, pixels) in [("width", self.defaults.width), ("height", self.defaults.height)] {
            if pixels == 0 || pixels % factor != 0 {
                return Err(format!("its default {side} is {pixels}, no multiple of {factor}"));
            }
        }
        self.check_parts()
    }

    fn check_parts(&self) -> Result<(), String> {
        if self.text_encoders.is_empty() {
            return Err("it has no text encoder".to_string());
        }
        self.text_encoders.iter().try_for_each(|encoder| encoder.check(self.context()))?;
        self.unet.check().map_err(|e| e.to_string())?;
        self.autoencoder.check().map_err(|e| e.to_string())?;
        let (latent, unet) = (self.autoencoder.latent_channels(), self.unet.in_channels);
        if self.task().is_none() || latent != self.unet.out_channels {
            return Err(format!(
                "its autoencoder has {latent} latent channels and its denoiser reads {unet} and predicts {}",
                self.unet.out_channels
            ));
        }
        if (self.task() == Some(Task::Upscaling)) != self.low_res_schedule.is_some() {
            return Err("an upscaler, and nothing else, has a noise schedule for what it reads".to_string());
        }
        let features = self.context_width();
        let read = self.unet.cross_attention_dim.iter().flat_map(|d| d.values());
        if let Some(&other) = read.filter(|_| self.unet.reads_context()).find(|&&width| width != features) {
            return Err(format!("its text has {features} features and its denoiser reads {other}"));
        }
        let channels = self.autoencoder.picture_channels();
        if channels != (3, 3) {
            return Err(format!(
                "its autoencoder reads {} channels and makes {}, not 3",
                channels.0, channels.1
            ));
        }
        if let Some(width) = self.unet.pooled_projection_dim
            && width != self.pooled_width()
        {
            return Err(format!(
                "its pooled text has {} features and its denoiser reads {width}",
                self.pooled_width()
            ));
        }
        match self.time_ids() {
            Some(0 | BASE_IDS | REFINER_IDS) => Ok(()),
            _ => Err(format!(
                "its denoiser is told other numbers beside the {} features of the pooled text than those of Stable \
                 Diffusion XL and its refiner",
                self.pooled_width()
            )),
        }
    }

    /// How many numbers the denoiser is told of the picture's size (SDXL: 6, its refiner: 5, others: 0); nothing where
    /// the lengths do not fit each other.
    pub(crate) fn time_ids(&self) -> Option<usize> {
        let Some(AdditionEmbedding::TextTime) = self.unet.addition_embed_type else { return Some(0) };
        let all = self.unet.projection_class_embeddings_input_dim?.checked_sub(self.pooled_width())?;
        let each = self.unet.addition_time_embed_dim?;
        all.is_multiple_of(each).then(|| all / each)
    }

    /// What the denoiser does; nothing for channels that no known task has.
    pub fn task(&self) -> Option<Task> {
        let latent = self.autoencoder.latent_channels();
        let labelled = self.unet.class_embedding() == Some(ClassEmbedding::Embedding);
        match self.unet.in_channels.checked_sub(latent)? {
            0 => Some(Task::TextToImage),
            3 if labelled => Some(Task::Upscaling),
            more if more == latent => Some(Task::Edit),
            more if more == latent + 1 => Some(Task::Inpainting),
            _ => None,
        }
    }

    /// What width and height must be multiples of, in pixels.
    pub fn size_factor(&self) -> u32 {
        self.latent_factor()
    }

    /// Pixels along a side for each one of the latent.
    pub fn latent_factor(&self) -> u32 {
        self.autoencoder.downsampling() as u32
    }

    /// Channels of the latent.
    pub fn latent_channels(&self) -> usize {
        self.autoencoder.latent_channels()
    }

    /// The largest clip skip: the blocks of a CLIP text transformer. A model with words of its own has none to skip.
    pub fn most_clip_skip(&self) -> u32 {
        let blocks = |encoder: &TextEncoder| match encoder.tokenizer {
            Tokenizer::Clip(_) => u32::try_from(encoder.config.layers).unwrap_or(u32::MAX),
            _ => 1,
        };
        self.text_encoders.iter().map(blocks).min().unwrap_or(1)
    }

    /// Tokens that the text encoders read at once.
    pub fn context(&self) -> usize {
        self.text_encoders.first().map_or(0, |encoder| encoder.tokenizer.context())
    }

    /// Features of a token as the denoiser sees it.
    pub fn context_width(&self) -> usize {
        self.text_encoders.iter().map(|encoder| encoder.config.hidden_size).sum()
    }

    /// Features of the pooled text.
    pub fn pooled_width(&self) -> usize {
        let width =
            |encoder: &TextEncoder| encoder.config.projection_dim.unwrap_or(encoder.config.hidden_size);
        self.text_encoders.last().map_or(0, width)
    }
}

impl TextEncoder {
    /// Whether tokenizer and transformer fit each other; `context` is the tokens of a prompt.
    fn check(&self, context: usize) -> Result<(), String> {
        let Self { prefix, config, tokenizer } = self;
        config.check().map_err(|e| e.to_string())?;
        let (words, rows) = (tokenizer.vocabulary_size(), config.vocab_size);
        if words > rows {
            return Err(format!(
                "the tokenizer of its {prefix} has {words} entries and its transformer {rows}"
            ));
        }
        let (tokens, positions) = (tokenizer.context(), config.max_positions);
        if tokens > positions {
            return Err(format!(
                "the prompts of its {prefix} have {tokens} tokens and its transformer {positions} positions"
            ));
        }
        if tokens != context {
            return Err(format!(
                "one of its text encoders reads {context} tokens at once and another {tokens}"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_format_is_read() {
        let manifest = crate::tiny::manifest().unwrap();
        let now = serde_json::to_string(&manifest).unwrap();
        assert_eq!(ModelManifest::from_json(&now).unwrap(), manifest);
        let mut first: Value = serde_json::from_str(&now).unwrap();
        let encoder = first["text_encoders"][0].clone();
        first["format"] = 1.into();
        first["text"] = encoder["config"].clone();
        first["tokenizer"] = encoder["tokenizer"].clone();
        first.as_object_mut().unwrap().remove("text_encoders");
        assert_eq!(ModelManifest::from_json(&first.to_string()).unwrap(), manifest);
        first["format"] = 3.into();
        assert!(ModelManifest::from_json(&first.to_string()).unwrap_err().contains("update"));
    }
}
