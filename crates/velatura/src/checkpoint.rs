//! Stable Diffusion's files and folders as models: a manifest from what they say of themselves, and from what is known
//! of their family where they say nothing.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use velatura_models::{Autoencoder, ConfigError, OneOrMany, TextConfig, UNetConfig};
use velatura_samplers::{
    DiffusersSchedulerConfig, NoiseSchedule, Prediction as Predicts, Spacing, find_sampler,
};
use velatura_text::ClipTokenizer;
use velatura_weights::{Checkpoint, Family, Part, PartKind, Prediction, Task, TensorSource};

use crate::conditioning::Conditioning;
use crate::manifest::{Defaults, FORMAT, TextEncoder, TrainingNote};
use crate::request::LONGEST_SIDE;
use crate::usual::Usual;
use crate::{Error, ModelManifest};

/// The manifest of a checkpoint that is complete, and remarks on what was left aside or taken for granted.
///
/// # Errors
/// A family or task that is not run, parts or tensors that lack, configuration files that do not fit.
pub(crate) fn describe(checkpoint: &Checkpoint) -> Result<(ModelManifest, Vec<String>), Error> {
    let path = checkpoint.path();
    refuse(checkpoint)?;
    checkpoint.check_complete()?;
    let unet = config(checkpoint, PartKind::Unet, UNetConfig::from_json)?;
    let autoencoder = autoencoder(checkpoint)?;
    let family = checkpoint.family().unwrap_or(Family::Sd1);
    let xl = matches!(family, Family::Sdxl | Family::SdxlRefiner);
    let encoders = family.required().iter().filter(|kind| kind.is_text());
    let text_encoders =
        encoders.map(|&kind| text_encoder(checkpoint, kind, family)).collect::<Result<_, _>>()?;
    let mut remarks = remarks(checkpoint);
    let schedule = schedule(checkpoint, &mut remarks)?;
    let side = autoencoder.downsampling();
    let (height, width) = usual_size(&unet, side);
    let usual = Usual::of(checkpoint, xl);
    let own =
        || find_sampler(usual.sampler).map_or(Spacing::Karras, |entry| entry.default_spacing(&schedule));
    let spacing = usual.spacing.unwrap_or_else(own);
    let manifest = ModelManifest {
        format: FORMAT,
        name: name(path),
        text_encoders,
        unet,
        autoencoder,
        schedule,
        conditioning: if xl { Conditioning::sdxl() } else { Conditioning::default() },
        zeros_for_empty_prompt: zeros_for_empty_prompt(checkpoint, family),
        low_res_schedule: low_res_schedule(checkpoint)?,
        max_noise_level: max_noise_level(checkpoint),
        defaults: Defaults {
            width,
            height,
            steps: usual.steps,
            guidance: usual.guidance,
            sampler: usual.sampler.to_string(),
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
        (_, Some(Task::Variation)) => "a model for variations of a picture (unCLIP)".to_string(),
        (_, Some(Task::Other(channels))) => format!("a model whose denoiser reads {channels} channels"),
        _ if checkpoint.unused().iter().any(|(name, _)| name.starts_with("edm_")) => {
            "a model that was noised as in EDM (Playground 2.5, CosXL)".to_string()
        }
        _ => return Ok(()),
    };
    Err(Error::Unsupported { file: checkpoint.path().to_path_buf(), what })
}

/// The autoencoder; a tiny one may lack its encoder.
fn autoencoder(checkpoint: &Checkpoint) -> Result<Autoencoder, Error> {
    let mut autoencoder = config(checkpoint, PartKind::Vae, Autoencoder::from_json)?;
    if let Autoencoder::Tiny(tiny) = &mut autoencoder {
        let tensors = &part(checkpoint, PartKind::Vae)?.tensors;
        let has = |half: &str| tensors.tensors().contains_key(&format!("{half}.layers.0.weight"));
        tiny.has_encoder = has("encoder");
        if !has("decoder") {
            let reason =
                "its VAE is the encoder of a tiny autoencoder alone; give the decoder too".to_string();
            return Err(Error::Manifest { file: tensors.path().to_path_buf(), reason });
        }
    }
    Ok(autoencoder)
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
        return noise_schedule(&checkpoint.path().join("scheduler").join("scheduler_config.json"), given);
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
    let usual = match checkpoint.family() {
        Some(Family::X4Upscaler) => upscaler_noise(),
        _ => NoiseSchedule::stable_diffusion(),
    };
    Ok(NoiseSchedule { prediction, zero_snr, ..usual })
}

/// The noise of Stable Diffusion's upscaler, on latents and on the picture that it reads (its published
/// `x4-upscaling.yaml`).
fn upscaler_noise() -> NoiseSchedule {
    NoiseSchedule { beta_start: 0.0001, beta_end: 0.02, ..NoiseSchedule::stable_diffusion() }
}

/// An upscaler's `low_res_scheduler/scheduler_config.json`, or what the published one was trained with.
fn low_res_schedule(checkpoint: &Checkpoint) -> Result<Option<NoiseSchedule>, Error> {
    if checkpoint.task() != Some(Task::Upscaling) {
        return Ok(None);
    }
    let file = checkpoint.path().join("low_res_scheduler").join("scheduler_config.json");
    let given = checkpoint.low_res_scheduler().map(|given| noise_schedule(&file, given));
    Ok(Some(given.transpose()?.unwrap_or_else(upscaler_noise)))
}

/// The most noise that an upscaler's picture may have, where its folder says it.
fn max_noise_level(checkpoint: &Checkpoint) -> Option<u32> {
    let index = checkpoint.index().filter(|_| checkpoint.task() == Some(Task::Upscaling))?;
    u32::try_from(index.get("max_noise_level")?.as_u64()?).ok()
}

fn noise_schedule(file: &Path, given: &serde_json::Value) -> Result<NoiseSchedule, Error> {
    let bad = |reason: String| Error::Manifest { file: file.to_path_buf(), reason };
    let config = DiffusersSchedulerConfig::deserialize(given).map_err(|e| bad(e.to_string()))?;
    config.noise_schedule().map_err(|e| bad(e.to_string()))
}

/// A text encoder with the folder's own tokenizer, else OpenAI's vocabulary with the padding of the encoder: OpenCLIP's
/// pad with zeros.
fn text_encoder(checkpoint: &Checkpoint, kind: PartKind, family: Family) -> Result<TextEncoder, Error> {
    let second = kind == PartKind::TextEncoder2;
    let folder = checkpoint.path().join(if second { "tokenizer_2" } else { "tokenizer" });
    let tokenizer = match family {
        _ if folder.is_dir() => ClipTokenizer::from_folder(&folder)?,
        Family::Sd2 | Family::X4Upscaler => ClipTokenizer::openai_padded(0),
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
