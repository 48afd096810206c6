//! What the tests of names and models share: sources made of names and shapes.
#![allow(dead_code)]

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use velatura_weights::{DType, TensorEntry, TensorSource, WeightsError};

pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The layouts' fixture.
pub fn layouts() -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(fixture("layouts.json")).unwrap()).unwrap()
}

/// Names and shapes of a JSON object.
pub fn shapes(of: &serde_json::Value) -> Vec<(String, Vec<usize>)> {
    let of = of.as_object().unwrap();
    of.iter().map(|(k, v)| (k.clone(), serde_json::from_value(v.clone()).unwrap())).collect()
}

/// Uniform on [-1, 1): SplitMix64 seeded with the name's FNV-1a hash, the upper 24 bits of each; as the script has it.
pub fn numbers(name: &str, elements: usize) -> Vec<f32> {
    let seed =
        name.bytes().fold(0xCBF29CE484222325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100000001B3));
    (1..=elements as u64)
        .map(|i| {
            let mut z = seed.wrapping_add(i.wrapping_mul(0x9E3779B97F4A7C15));
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58476D1CE4E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D049BB133111EB);
            z ^= z >> 31;
            (z >> 40) as f32 / (1u32 << 23) as f32 - 1.0
        })
        .collect()
}

/// Tensors in memory whose numbers follow from their names.
pub struct Named {
    pub tensors: BTreeMap<String, TensorEntry>,
    pub metadata: BTreeMap<String, String>,
}

impl Named {
    pub fn new(shapes: impl IntoIterator<Item = (String, Vec<usize>)>) -> Self {
        let entry = |(n, shape)| (n, TensorEntry { shape, dtype: DType::F32 });
        Named { tensors: shapes.into_iter().map(entry).collect(), metadata: BTreeMap::new() }
    }

    pub fn under(prefix: &str, shapes: impl IntoIterator<Item = (String, Vec<usize>)>) -> Self {
        Self::new(shapes.into_iter().map(|(n, s)| (format!("{prefix}{n}"), s)))
    }
}

impl TensorSource for Named {
    fn path(&self) -> &Path {
        Path::new("named.safetensors")
    }

    fn tensors(&self) -> &BTreeMap<String, TensorEntry> {
        &self.tensors
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    fn tensor_bytes(&self, name: &str) -> Result<Cow<'_, [u8]>, WeightsError> {
        let values = numbers(name, self.tensor(name)?.elements());
        Ok(Cow::Owned(values.iter().flat_map(|v| v.to_le_bytes()).collect()))
    }
}
