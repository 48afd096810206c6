//! diffusers' folder.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::SaveOptions;
use crate::atomic::{folder_of, sync_folder};
use crate::model::{Checkpoint, Family, PartKind, Prediction, Task};
use crate::write::{TensorHead, write_safetensors_streamed};
use crate::{TensorSource, WeightsError, atomic_write};

impl Checkpoint {
    /// Writes the parts as a diffusers folder: `config.json` and safetensors for each, `scheduler_config.json` (the
    /// model's own, or its family's), and `model_index.json`. The tokenizers' files are not this crate's and can be given
    /// as [`SaveOptions::files`]. The folder
    /// must not exist, or be empty; it appears when all of it is written.
    pub fn write_diffusers(
        &self,
        folder: impl AsRef<Path>,
        options: &SaveOptions,
    ) -> Result<(), WeightsError> {
        let target = folder.as_ref();
        let failed = |source| WeightsError::Write { file: target.to_path_buf(), source };
        let occupied = match std::fs::read_dir(target) {
            Ok(mut entries) => entries.next().is_some(),
            Err(_) => target.exists(),
        };
        if occupied {
            return Err(WeightsError::Exists { file: target.to_path_buf() });
        }
        self.parts().iter().try_for_each(|p| p.check_complete(p.tensors.path()))?;
        let beside = folder_of(target);
        let temporary = tempfile::Builder::new().prefix(".velatura-").suffix(".tmp").tempdir_in(&beside);
        let temporary = temporary.map_err(failed)?;
        let root = temporary.path().join("model");
        std::fs::create_dir(&root).map_err(failed)?;
        for part in self.parts() {
            let folder = root.join(part.kind.name());
            std::fs::create_dir(&folder).map_err(failed)?;
            write_json(&folder.join("config.json"), &part.config)?;
            let stem = match part.kind {
                PartKind::Unet | PartKind::Vae => "diffusion_pytorch_model.safetensors",
                PartKind::TextEncoder | PartKind::TextEncoder2 => "model.safetensors",
            };
            let heads: Vec<TensorHead> = part
                .tensors
                .tensors()
                .iter()
                .map(|(name, entry)| TensorHead {
                    name: name.clone(),
                    shape: entry.shape.clone(),
                    storage: options.storage_of(entry.dtype),
                })
                .collect();
            let mut metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
            metadata.extend(options.metadata.clone());
            let numbers = |i: usize| part.tensors.tensor_f32(&heads[i].name);
            let progress = &options.progress;
            write_safetensors_streamed(&folder.join(stem), &heads, &metadata, progress, numbers)?;
        }
        if self.part(PartKind::Unet).is_some() {
            let folder = root.join("scheduler");
            std::fs::create_dir(&folder).map_err(failed)?;
            let scheduler = self.scheduler().cloned().unwrap_or_else(|| self.usual_scheduler());
            write_json(&folder.join("scheduler_config.json"), &scheduler)?;
            if self.family() == Some(Family::X4Upscaler) {
                let folder = root.join("low_res_scheduler");
                std::fs::create_dir(&folder).map_err(failed)?;
                let low = self.low_res_scheduler().cloned().unwrap_or_else(usual_low_res_scheduler);
                write_json(&folder.join("scheduler_config.json"), &low)?;
            }
            write_json(&root.join("model_index.json"), &self.model_index(&scheduler))?;
        }
        for (path, bytes) in &options.files {
            let file = root.join(path);
            std::fs::create_dir_all(folder_of(&file)).map_err(failed)?;
            atomic_write(&file, |out| out.write_all(bytes))?;
        }
        sync_folder(&root).map_err(failed)?;
        if target.exists() {
            // Empty, as was seen above; not every system renames over a folder.
            std::fs::remove_dir(target).map_err(failed)?;
        }
        std::fs::rename(&root, target).and_then(|()| sync_folder(&beside)).map_err(failed)
    }

    fn model_index(&self, scheduler: &Value) -> Value {
        let mut index = Map::new();
        let pipeline = match (self.family(), self.task()) {
            (Some(Family::Sdxl), Some(Task::Inpainting)) => "StableDiffusionXLInpaintPipeline",
            (Some(Family::Sdxl), Some(Task::InstructPix2Pix)) => "StableDiffusionXLInstructPix2PixPipeline",
            (Some(Family::Sdxl), _) => "StableDiffusionXLPipeline",
            (Some(Family::SdxlRefiner), _) => "StableDiffusionXLImg2ImgPipeline",
            (Some(Family::X4Upscaler), _) => "StableDiffusionUpscalePipeline",
            (_, Some(Task::Inpainting)) => "StableDiffusionInpaintPipeline",
            (_, Some(Task::InstructPix2Pix)) => "StableDiffusionInstructPix2PixPipeline",
            _ if self.has_guidance_embedding() => "LatentConsistencyModelPipeline",
            _ => "StableDiffusionPipeline",
        };
        index.insert("_class_name".into(), pipeline.into());
        index.insert("_diffusers_version".into(), "0.30.0".into());
        for part in self.parts() {
            let (library, tokenizer) = match part.kind {
                PartKind::Unet | PartKind::Vae => ("diffusers", None),
                PartKind::TextEncoder => ("transformers", Some("tokenizer")),
                PartKind::TextEncoder2 => ("transformers", Some("tokenizer_2")),
            };
            index.insert(part.kind.name().into(), json!([library, part.class_name()]));
            if let Some(tokenizer) = tokenizer {
                index.insert(tokenizer.into(), json!(["transformers", "CLIPTokenizer"]));
            }
        }
        match self.family() {
            Some(Family::SdxlRefiner) => {
                index.insert("text_encoder".into(), json!([null, null]));
                index.insert("tokenizer".into(), json!([null, null]));
                index.insert("requires_aesthetics_score".into(), true.into());
                index.insert("force_zeros_for_empty_prompt".into(), false.into());
            }
            Some(Family::Sdxl) => {
                index.insert("force_zeros_for_empty_prompt".into(), true.into());
            }
            Some(Family::X4Upscaler) => {
                index.insert("low_res_scheduler".into(), json!(["diffusers", "DDPMScheduler"]));
                let own = self.index().and_then(|index| index.get("max_noise_level"));
                index.insert("max_noise_level".into(), own.cloned().unwrap_or_else(|| 350.into()));
            }
            _ => {
                index.insert("safety_checker".into(), json!([null, null]));
                index.insert("feature_extractor".into(), json!([null, null]));
                index.insert("requires_safety_checker".into(), false.into());
            }
        }
        let class = scheduler.get("_class_name").cloned().unwrap_or_else(|| "DDIMScheduler".into());
        index.insert("scheduler".into(), json!(["diffusers", class]));
        Value::Object(index)
    }

    /// The noise schedule that the family was published with.
    pub(super) fn usual_scheduler(&self) -> Value {
        let (class, start, end) = match self.family() {
            Some(Family::Sdxl | Family::SdxlRefiner) => ("EulerDiscreteScheduler", 0.00085, 0.012),
            Some(Family::X4Upscaler) => ("DDIMScheduler", 0.0001, 0.02),
            _ => ("DDIMScheduler", 0.00085, 0.012),
        };
        let mut scheduler = json!({
            "_class_name": class,
            "beta_end": end,
            "beta_schedule": "scaled_linear",
            "beta_start": start,
            "num_train_timesteps": 1000,
            "prediction_type": self.prediction().unwrap_or(Prediction::Epsilon).name(),
            "steps_offset": 1,
            "timestep_spacing": "leading",
        });
        if class == "DDIMScheduler" {
            scheduler["clip_sample"] = false.into();
            scheduler["set_alpha_to_one"] = false.into();
        }
        if self.zero_snr() {
            scheduler["rescale_betas_zero_snr"] = true.into();
            // As its authors have it: the last step must start from noise alone.
            scheduler["timestep_spacing"] = "trailing".into();
        }
        scheduler
    }
}

/// How the published upscaler's low-resolution picture is noised (its `x4-upscaling.yaml`; diffusers has the same for
/// single files).
fn usual_low_res_scheduler() -> Value {
    json!({
        "_class_name": "DDPMScheduler",
        "beta_end": 0.02,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.0001,
        "clip_sample": true,
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "variance_type": "fixed_small",
    })
}

fn write_json(path: &Path, value: &Value) -> Result<(), WeightsError> {
    atomic_write(path, |out| {
        serde_json::to_writer_pretty(&mut *out, value)?;
        out.write_all(b"\n")
    })
}
