//! Weights in fp8 with a scale beside each, as ComfyUI writes them: a weight is its 8-bit number times the scale.
//!
//! `X.weight` has its scale under `X.scale_weight`, and the file has the empty tensor `scaled_fp8`; newer files call the
//! scale `X.weight_scale` and say under `X.comfy_quant` what it is for. The scales of what a layer reads (`X.scale_input`,
//! `X.input_scale`) are for arithmetic in fp8 and change nothing elsewhere.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::{DType, Storage, TensorEntry, TensorSource, WeightsError, f32_to_bytes};

/// Endings of a scale's name, in place of `.weight`.
const ENDINGS: [&str; 2] = [".scale_weight", ".weight_scale"];

/// A source whose scaled weights are read as f32, their scales applied; the scales themselves are gone.
struct Scaled {
    source: Arc<dyn TensorSource>,
    tensors: BTreeMap<String, TensorEntry>,
    /// By the weight's name one scale, or one for each of its rows.
    scales: BTreeMap<String, Vec<f32>>,
}

/// The source with its scales applied, and how many weights have one. A source without scales is passed on.
///
/// # Errors
/// A scale that fits its weight in no way, and a weight with a scale that is of no floating-point type.
pub(crate) fn with_scales(
    source: Arc<dyn TensorSource>,
) -> Result<(Arc<dyn TensorSource>, usize), WeightsError> {
    let mut tensors = source.tensors().clone();
    let mut scales = BTreeMap::new();
    for (name, scale) in source.tensors() {
        let Some(layer) = ENDINGS.iter().find_map(|ending| name.strip_suffix(ending)) else { continue };
        let weight = format!("{layer}.weight");
        let Some(entry) = source.tensors().get(&weight) else { continue };
        let file = || source.path().to_path_buf();
        if !matches!(entry.dtype, DType::F8E4M3 | DType::F8E5M2 | DType::F16 | DType::Bf16 | DType::F32) {
            let dtype = format!("{} with a scale", entry.dtype);
            return Err(WeightsError::UnsupportedType { file: file(), tensor: weight, dtype });
        }
        let rows = entry.shape.first().copied().unwrap_or(1);
        if ![1, rows].contains(&scale.elements()) || entry.elements() == 0 {
            let (expected, found) = (vec![1], scale.shape.clone());
            return Err(WeightsError::WrongShape { file: file(), tensor: name.clone(), expected, found });
        }
        let values = source.tensor_f32(name)?.into_owned();
        let shape = entry.shape.clone();
        tensors.remove(name);
        tensors.insert(weight.clone(), TensorEntry { shape, dtype: DType::F32 });
        scales.insert(weight, values);
    }
    let count = scales.len();
    Ok(match count {
        0 => (source, 0),
        _ => (Arc::new(Scaled { source, tensors, scales }), count),
    })
}

impl TensorSource for Scaled {
    fn path(&self) -> &Path {
        self.source.path()
    }

    fn tensors(&self) -> &BTreeMap<String, TensorEntry> {
        &self.tensors
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        self.source.metadata()
    }

    fn tensor_bytes(&self, name: &str) -> Result<Cow<'_, [u8]>, WeightsError> {
        match self.scales.contains_key(name) {
            true => Ok(Cow::Owned(f32_to_bytes(&self.tensor_f32(name)?, Storage::F32))),
            false => self.source.tensor_bytes(name),
        }
    }

    fn tensor_f32(&self, name: &str) -> Result<Cow<'_, [f32]>, WeightsError> {
        let values = self.source.tensor_f32(name)?;
        let Some(scales) = self.scales.get(name) else { return Ok(values) };
        let mut values = values.into_owned();
        let row = values.len() / scales.len();
        for (row, scale) in values.chunks_exact_mut(row).zip(scales) {
            row.iter_mut().for_each(|v| *v *= scale);
        }
        Ok(Cow::Owned(values))
    }

    fn forget(&self, name: &str) {
        self.source.forget(name);
    }
}
