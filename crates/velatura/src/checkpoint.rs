//! Stable Diffusion's files and folders as models: a manifest from what they say of themselves, and from what is known
//! of their family where they say nothing.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use velatura_models::{AutoencoderConfig, ConfigError, OneOrMany, TextConfig, UNetConfig};
use velatura_samplers::{
    DiffusersSchedulerConfig, NoiseSchedule, Prediction as Predicts, Spacing, find_sampler,
};
use velatura_text::ClipTokenizer;
use velatura_weights::{Checkpoint, Family, Part, PartKind, Prediction, Task, TensorSource};

use crate::conditioning::Conditioning;
use crate::manifest::{Defaults, FORMAT, TextEncoder, TrainingNote};
use crate::request::LONGEST_SIDE;
use crate::{Error, ModelManifest};

/// Steps where the request names none. diffusers takes 50; the sampler below needs half of them.
const STEPS: u32 = 25;
/// Guidance where the request names none, as in diffusers.
const GUIDANCE: f32 = 7.5;
/// The same for Stable Diffusion XL.
const XL_GUIDANCE: f32 = 5.0;
/// The sampler where the request names none.
const SAMPLER: &str = "dpmpp_2m";

/// The manifest of a checkpoint that is complete, and remarks on what was left aside or taken for granted.
///
/// # Errors
/// A family or task that is not run, parts or tensors that lack, configuration files that do not fit.
pub(crate) fn describe(checkpoint: &Checkpoint) -> Result<(ModelManifest, Vec<String>), Error> {
    let path = checkpoint.path();
    refuse(checkpoint)?;
    checkpoint.check_complete()?;
    let unet = config(checkpoint, PartKind::Unet, UNetConfig::from_json)?;
    let autoencoder = config(checkpoint, PartKind::Vae, AutoencoderConfig::from_json)?;
    let family = checkpoint.family().unwrap_or(Family::Sd1);
    let xl = matches!(family, Family::Sdxl | Family::SdxlRefiner);
    let encoders = family.required().iter().filter(|kind| kind.is_text());
    let text_encoders =
        encoders.map(|&kind| text_encoder(checkpoint, kind, family)).collect::<Result<_, _>>()?;
    let mut remarks = remarks(checkpoint);
    let schedule = schedule(checkpoint, &mut remarks)?;
    let side = autoencoder.downsampling();
    let (height, width) = usual_size(&unet, side);
    let spacing = find_sampler(SAMPLER).map_or(Spacing::Karras, |entry| entry.default_spacing(&schedule));
    let manifest = ModelManifest {
        format: FORMAT,
        name: name(path),
        text_encoders,
        unet,
        autoencoder,
        schedule,
        conditioning: if xl { Conditioning::sdxl() } else { Conditioning::default() },
        zeros_for_empty_prompt: zeros_for_empty_prompt(checkpoint, family),
        defaults: Defaults {
            width,
            height,
            steps: STEPS,
            guidance: if xl { XL_GUIDANCE } else { GUIDANCE },
            sampler: SAMPLER.to_string(),
            schedule: spacing.name().to_string(),
        },
        training: TrainingNote::default(),
    };
    manifest.check().map_err(|reason| Error::Manifest { file: path.to_path_buf(), reason })?;
    Ok((manifest, remarks))
}

/// Families and tasks that are recognised and not run.
fn refuse(checkpoint: &Checkpoint) -> Result<(), Error> {
    let what = match (checkpoint.family(), checkpoint.task()) {
        (Some(family @ Family::X4Upscaler), _) => format!("the {}", family.name()),
        (_, Some(Task::Inpainting)) => "an inpainting model".to_string(),
        (_, Some(Task::InstructPix2Pix)) => "an InstructPix2Pix model".to_string(),
        (_, Some(Task::Upscaling)) => "an upscaler".to_string(),
        (_, Some(Task::Variation)) => "a model for variations of a picture (unCLIP)".to_string(),
        (_, Some(Task::Other(channels))) => format!("a model whose denoiser reads {channels} channels"),
        _ if checkpoint.unused().iter().any(|(name, _)| name.starts_with("edm_")) => {
            "a model that was noised as in EDM (Playground 2.5, CosXL)".to_string()
        }
        _ if checkpoint.has_guidance_embedding() => {
            "a latent consistency model that is told the guidance".to_string()
        }
        _ if checkpoint.part(PartKind::Vae).is_some_and(|vae| vae.class_name() == "AutoencoderTiny") => {
            "a model with the tiny autoencoder (TAESD) in place of its own".to_string()
        }
        _ => return Ok(()),
    };
    Err(Error::Unsupported { file: checkpoint.path().to_path_buf(), what })
}

/// A part's configuration: the folder's own, or what its tensors look like.
fn config<T>(
    checkpoint: &Checkpoint,
    kind: PartKind,
    read: impl FnOnce(&str) -> Result<T, ConfigError>,
) -> Result<T, Error> {
    let part = part(checkpoint, kind)?;
    read(&part.config.to_string()).map_err(|error| Error::Manifest {
        file: match part.config_is_given {
            true => part.tensors.path().with_file_name("config.json"),
            false => part.tensors.path().to_path_buf(),
        },
        reason: error.to_string(),
    })
}

fn part(checkpoint: &Checkpoint, kind: PartKind) -> Result<&Part, Error> {
    checkpoint.part(kind).ok_or_else(|| Error::Internal(format!("a complete checkpoint without {kind}")))
}

/// The folder's `scheduler_config.json`; else the family's noise, with what the file's marks say of the prediction.
fn schedule(checkpoint: &Checkpoint, remarks: &mut Vec<String>) -> Result<NoiseSchedule, Error> {
    if let Some(given) = checkpoint.scheduler() {
        let file = checkpoint.path().join("scheduler").join("scheduler_config.json");
        let bad = |reason: String| Error::Manifest { file: file.clone(), reason };
        let config = DiffusersSchedulerConfig::deserialize(given).map_err(|e| bad(e.to_string()))?;
        return config.noise_schedule().map_err(|e| bad(e.to_string()));
    }
    let prediction = match checkpoint.prediction() {
        Some(Prediction::V) => Predicts::VPrediction,
        Some(Prediction::Epsilon) => Predicts::Epsilon,
        None => {
            let path = checkpoint.path().display();
            remarks.push(format!(
                "{path} does not say whether it predicts noise or v; noise is assumed (--prediction v otherwise)"
            ));
            Predicts::Epsilon
        }
    };
    let zero_snr = checkpoint.unused().iter().any(|(name, _)| name == "ztsnr");
    Ok(NoiseSchedule { prediction, zero_snr, ..NoiseSchedule::stable_diffusion() })
}

/// A text encoder with the folder's own tokenizer, else OpenAI's vocabulary with the padding of the encoder: OpenCLIP's
/// pad with zeros.
fn text_encoder(checkpoint: &Checkpoint, kind: PartKind, family: Family) -> Result<TextEncoder, Error> {
    let second = kind == PartKind::TextEncoder2;
    let folder = checkpoint.path().join(if second { "tokenizer_2" } else { "tokenizer" });
    let tokenizer = match family {
        _ if folder.is_dir() => ClipTokenizer::from_folder(&folder)?,
        Family::Sd2 => ClipTokenizer::openai_padded(0),
        _ if second => ClipTokenizer::openai_padded(0),
        _ => ClipTokenizer::openai(),
    };
    let config = config(checkpoint, kind, TextConfig::from_json)?;
    Ok(TextEncoder { prefix: kind.name().to_string(), config, tokenizer: tokenizer.into() })
}

/// What the folder's `model_index.json` says, else what the family's published model says.
fn zeros_for_empty_prompt(checkpoint: &Checkpoint, family: Family) -> bool {
    let index = checkpoint.index().and_then(|index| index.get("force_zeros_for_empty_prompt")?.as_bool());
    index.unwrap_or(family == Family::Sdxl)
}

/// Height and width that it was trained at, in pixels.
fn usual_size(unet: &UNetConfig, factor: usize) -> (u32, u32) {
    let side = |axis: usize| {
        let latent = unet.sample_size.as_ref().and_then(|size: &OneOrMany<usize>| size.get(axis).copied());
        let most = LONGEST_SIDE as usize / factor.max(1);
        (latent.unwrap_or(64).clamp(1, most.max(1)) * factor) as u32
    };
    (side(0), side(1))
}

fn remarks(checkpoint: &Checkpoint) -> Vec<String> {
    let path = checkpoint.path().display();
    match checkpoint.unmatched() {
        [] => Vec::new(),
        [one] => vec![format!("{path}: the tensor {one} belongs to no known part and is not used")],
        [first, ..] => {
            let count = checkpoint.unmatched().len();
            vec![format!(
                "{path}: {count} tensors belong to no known part and are not used, the first {first}"
            )]
        }
    }
}

/// The name of a file without its extension, or of a folder.
fn name(path: &Path) -> String {
    let whole = path.canonicalize().unwrap_or_else(|_| PathBuf::from(path));
    let name = if whole.is_dir() { whole.file_name() } else { whole.file_stem() };
    name.map_or_else(|| "model".into(), |n| n.to_string_lossy().into_owned())
}
