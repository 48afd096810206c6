//! GGUF, in the original naming that the tools which read GGUF expect.

use std::borrow::Cow;
use std::path::Path;

use super::SaveProgress;
use super::single::{Original, originals};
use crate::blocks::encode_q8_0;
use crate::gguf::{GgufTensor, write_gguf_streamed};
use crate::model::{Checkpoint, Family};
use crate::write::check_range;
use crate::{DType, Storage, WeightsError, f32_to_bytes};

/// How the matrices of a GGUF file are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GgufType {
    /// IEEE binary16.
    F16,
    /// Blocks of 32 elements of 8 bits with a scale, where rows are whole blocks; F16 elsewhere.
    Q8_0,
}

impl Checkpoint {
    /// Writes the parts as one GGUF file in the original naming. Vectors (norms and biases) stay F32.
    pub fn write_gguf(
        &self,
        path: impl AsRef<Path>,
        kind: GgufType,
        progress: &SaveProgress,
    ) -> Result<(), WeightsError> {
        let path = path.as_ref();
        let originals = originals(self, path)?;
        let types: Vec<DType> = originals.iter().map(|t| stored_as(t, kind)).collect();
        let described = |(t, &dtype): (&Original<'_>, &DType)| GgufTensor {
            name: t.name.clone(),
            shape: t.shape.clone(),
            kind: match dtype {
                DType::Q8_0 => 8,
                DType::F16 => 1,
                _ => 0,
            },
            bytes: dtype.bytes_for(t.shape.iter().product()).unwrap_or(0),
        };
        let tensors: Vec<GgufTensor> = originals.iter().zip(&types).map(described).collect();
        let architecture = match self.family() {
            Some(Family::Sdxl | Family::SdxlRefiner) => "sdxl",
            Some(Family::Sd2 | Family::X4Upscaler) => "sd2",
            _ => "sd1",
        };
        let mut texts = vec![("general.architecture", architecture.to_string())];
        if let Some(prediction) = self.prediction() {
            texts.push(("modelspec.prediction_type", prediction.name().to_string()));
        }
        write_gguf_streamed(path, &texts, &tensors, progress, |i| {
            let values = originals[i].values()?;
            if types[i] == DType::F16 {
                check_range(path, &originals[i].name, &values, Storage::F16)?;
            }
            Ok(Cow::Owned(match types[i] {
                DType::Q8_0 => encode_q8_0(&values),
                DType::F16 => f32_to_bytes(&values, Storage::F16),
                _ => f32_to_bytes(&values, Storage::F32),
            }))
        })
    }
}

fn stored_as(tensor: &Original<'_>, kind: GgufType) -> DType {
    let row = tensor.shape.last().copied().unwrap_or(1);
    match kind {
        _ if tensor.shape.len() < 2 => DType::F32,
        GgufType::Q8_0 if row % DType::Q8_0.block().0 == 0 => DType::Q8_0,
        _ => DType::F16,
    }
}
