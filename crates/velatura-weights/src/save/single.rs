//! The single file in the original naming: what diffusers' layout took apart is put together again.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use super::SaveOptions;
use crate::layout::{Entry, Form};
use crate::model::{Checkpoint, Family, Part, PartKind, Prediction};
use crate::write::{TensorHead, write_safetensors_streamed};
use crate::{DType, TensorSource, WeightsError};

/// A tensor of the single file and what it is made of.
pub(super) struct Original<'a> {
    pub name: String,
    pub shape: Vec<usize>,
    pub dtype: DType,
    part: &'a Part,
    entries: Vec<Entry>,
}

impl Original<'_> {
    /// Its numbers.
    pub(super) fn values(&self) -> Result<Cow<'_, [f32]>, WeightsError> {
        let [one] = self.entries.as_slice() else {
            let mut all = Vec::with_capacity(self.shape.iter().product());
            for entry in &self.entries {
                all.extend_from_slice(&self.part.tensors.tensor_f32(&entry.name)?);
            }
            return Ok(Cow::Owned(all));
        };
        let values = self.part.tensors.tensor_f32(&one.name)?;
        if one.form != Form::Transposed {
            return Ok(values);
        }
        let (rows, columns) = (one.shape[0], one.shape[1]);
        Ok(Cow::Owned((0..values.len()).map(|i| values[i % rows * columns + i / rows]).collect()))
    }
}

impl Checkpoint {
    /// Writes the parts as one safetensors file in the original naming (`model.diffusion_model.`,
    /// `first_stage_model.`, `cond_stage_model.` or `conditioner.embedders.`). The tiny autoencoder has no place in it.
    pub fn write_single_file(
        &self,
        path: impl AsRef<Path>,
        options: &SaveOptions,
    ) -> Result<(), WeightsError> {
        let path = path.as_ref();
        let mut tensors = originals(self, path)?;
        if self.is_marked() {
            tensors.extend(mark(self, "v_pred"));
            tensors.extend(mark(self, "ztsnr").filter(|_| self.zero_snr()));
        }
        let heads: Vec<TensorHead> = tensors
            .iter()
            .map(|t| TensorHead {
                name: t.name.clone(),
                shape: t.shape.clone(),
                storage: options.storage_of(t.dtype),
            })
            .collect();
        let mut metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
        if let Some(prediction) = self.prediction() {
            let name = if prediction == Prediction::V { "v" } else { "epsilon" };
            metadata.insert("modelspec.prediction_type".into(), name.into());
        }
        metadata.extend(options.metadata.clone());
        write_safetensors_streamed(path, &heads, &metadata, &options.progress, |i| tensors[i].values())
    }
}

/// An empty tensor whose name says how a model was trained.
fn mark<'a>(model: &'a Checkpoint, name: &str) -> Option<Original<'a>> {
    let part = model.parts().first()?;
    let entries = Vec::new();
    Some(Original { name: name.to_string(), shape: vec![0], dtype: DType::F32, part, entries })
}

/// All tensors of the single file, sorted by name.
pub(super) fn originals<'a>(model: &'a Checkpoint, path: &Path) -> Result<Vec<Original<'a>>, WeightsError> {
    let mut all: BTreeMap<String, Original<'a>> = BTreeMap::new();
    for part in model.parts() {
        part.check_complete(part.tensors.path())?;
        if part.class_name() == "AutoencoderTiny" {
            return Err(WeightsError::NoSuchLayout {
                file: path.to_path_buf(),
                reason: "the original layout has no place for a tiny autoencoder; write a diffusers folder"
                    .into(),
            });
        }
        let (prefix, renamed) = place(model.family(), part.kind);
        for mut entry in part.network.table().0 {
            let mut name = format!("{prefix}{}", entry.original);
            if !renamed {
                name = format!("{prefix}{}", entry.name);
                entry.form = Form::Whole;
            }
            let dtype = part.tensors.tensor(&entry.name)?.dtype;
            let shape = entry.original_shape();
            let original = all.entry(name.clone()).or_insert_with(|| Original {
                name,
                shape,
                dtype,
                part,
                entries: Vec::new(),
            });
            original.entries.push(entry);
        }
    }
    // The table lists query, key and value in this order, so the entries of a fused projection are in order too.
    Ok(all.into_values().collect())
}

/// A part's prefix in the single file, and whether its tensors have their original names there: OpenAI's text encoder
/// keeps transformers' names.
fn place(family: Option<Family>, kind: PartKind) -> (&'static str, bool) {
    match (kind, family) {
        (PartKind::Unet, _) => ("model.diffusion_model.", true),
        (PartKind::Vae, _) => ("first_stage_model.", true),
        (PartKind::TextEncoder, Some(Family::Sdxl | Family::SdxlRefiner)) => {
            ("conditioner.embedders.0.transformer.", false)
        }
        (PartKind::TextEncoder, Some(Family::Sd2 | Family::X4Upscaler)) => ("cond_stage_model.model.", true),
        (PartKind::TextEncoder, _) => ("cond_stage_model.transformer.", false),
        (PartKind::TextEncoder2, Some(Family::SdxlRefiner)) => ("conditioner.embedders.0.model.", true),
        (PartKind::TextEncoder2, _) => ("conditioner.embedders.1.model.", true),
    }
}
