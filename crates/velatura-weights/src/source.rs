//! What every format is read as: a source of named tensors.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::bytes::Bytes;
use crate::convert::to_f32;
use crate::{DType, WeightsError};

/// What is known of a tensor without reading its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorEntry {
    /// Its shape as PyTorch has it, slowest dimension first; empty for a scalar.
    pub shape: Vec<usize>,
    /// How it is stored.
    pub dtype: DType,
}

impl TensorEntry {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes that it takes as it is stored.
    pub fn bytes(&self) -> usize {
        self.dtype.bytes_for(self.elements()).unwrap_or(0)
    }
}

/// Named tensors, of a file of any format, of several files, or of a view that names and shapes another source's
/// tensors anew. Numbers are read when they are asked for.
pub trait TensorSource: Send + Sync {
    /// The file, or the folder of several, for messages.
    fn path(&self) -> &Path;

    /// All tensors by name, sorted.
    fn tensors(&self) -> &BTreeMap<String, TensorEntry>;

    /// Text entries of the file's own: safetensors' metadata, GGUF's scalar keys, the numbers and texts beside the
    /// weights of a PyTorch checkpoint.
    fn metadata(&self) -> &BTreeMap<String, String>;

    /// A tensor's bytes, row-major and little-endian, of the type that its entry names: borrowed from the file where
    /// they lie there so, else gathered.
    fn tensor_bytes(&self, name: &str) -> Result<Cow<'_, [u8]>, WeightsError>;

    /// A tensor as f32, row-major: borrowed from the file when it is stored so, else converted.
    fn tensor_f32(&self, name: &str) -> Result<Cow<'_, [f32]>, WeightsError> {
        let dtype = self.tensor(name)?.dtype;
        to_f32(self.tensor_bytes(name)?, dtype).ok_or_else(|| WeightsError::UnsupportedType {
            file: self.path().to_path_buf(),
            tensor: name.to_string(),
            dtype: dtype.to_string(),
        })
    }

    /// Says that a tensor's numbers were read and will not be soon again: a mapped file's part of this process's memory
    /// shrinks by it.
    fn forget(&self, _name: &str) {}

    /// A tensor's entry; one that is not there is an error with the nearest name.
    fn tensor(&self, name: &str) -> Result<&TensorEntry, WeightsError> {
        self.tensors().get(name).ok_or_else(|| missing(self.path(), self.tensors().keys(), name))
    }
}

/// The error for a name that is not there. A name that differs only in its front part is the likely one: another
/// layout's prefix.
pub(crate) fn missing<'a>(file: &Path, names: impl Iterator<Item = &'a String>, name: &str) -> WeightsError {
    let nearest = names.into_iter().find(|n| n.ends_with(name) || name.ends_with(n.as_str()));
    WeightsError::MissingTensor {
        file: file.to_path_buf(),
        tensor: name.to_string(),
        nearest: nearest.cloned(),
    }
}

/// Where a tensor's elements lie in its file.
pub(crate) struct Place {
    /// Bytes of the storage that the tensor looks into.
    pub start: usize,
    pub bytes: usize,
    /// For a tensor that is not contiguous: elements from one index of a dimension to the next.
    pub strides: Option<Vec<usize>>,
}

/// A mapped file whose tensors' places were all checked when it was opened.
pub(crate) struct PlacedFile {
    pub path: PathBuf,
    pub bytes: Bytes,
    pub tensors: BTreeMap<String, TensorEntry>,
    pub places: BTreeMap<String, Place>,
    pub metadata: BTreeMap<String, String>,
}

impl PlacedFile {
    pub(crate) fn forget(&self, name: &str) {
        if let Some(place) = self.places.get(name) {
            self.bytes.forget(place.start, place.bytes);
        }
    }

    pub(crate) fn tensor_bytes(&self, name: &str) -> Result<Cow<'_, [u8]>, WeightsError> {
        let (Some(entry), Some(place)) = (self.tensors.get(name), self.places.get(name)) else {
            return Err(missing(&self.path, self.tensors.keys(), name));
        };
        let stored = self.bytes.part(place.start, place.bytes);
        Ok(match &place.strides {
            None => Cow::Borrowed(stored),
            Some(strides) => Cow::Owned(gather(stored, entry, strides)),
        })
    }
}

/// Copies a strided tensor's elements in row-major order.
fn gather(stored: &[u8], entry: &TensorEntry, strides: &[usize]) -> Vec<u8> {
    let size = entry.dtype.block().1 / 8;
    let elements = entry.elements();
    let mut out = Vec::with_capacity(elements * size);
    let mut index = vec![0; entry.shape.len()];
    let mut at = 0;
    for _ in 0..elements {
        out.extend(&stored[at * size..(at + 1) * size]);
        for d in (0..index.len()).rev() {
            index[d] += 1;
            at += strides[d];
            if index[d] < entry.shape[d] {
                break;
            }
            at -= strides[d] * entry.shape[d];
            index[d] = 0;
        }
    }
    out
}
