//! Storages and the tensors that look into them, as a pickle describes them.

use std::path::Path;

use super::allowed::Class;
use super::machine::{Id, Pickle, Value};
use crate::source::Place;
use crate::{DType, TensorEntry, WeightsError};

/// PyTorch itself has no tensors of more dimensions in checkpoints; ggml has four, video models five.
const MAX_DIMENSIONS: usize = 16;
/// A hundred times what a training checkpoint of the largest model here has.
pub(super) const MAX_TENSORS: usize = 1 << 18;
/// Keys are numbers.
const MAX_KEY: usize = 128;

/// A storage as the pickle names it.
#[derive(Debug)]
pub(crate) struct StorageRef {
    /// The text that is its name in the file.
    pub key: Id,
    /// The type of its elements; bytes for an untyped one.
    pub dtype: DType,
    /// Number of elements.
    pub elements: usize,
}

/// A tensor as the pickle describes it, not yet checked against its storage.
#[derive(Debug)]
pub(crate) struct TensorRef {
    pub storage: u32,
    pub dtype: DType,
    pub offset: i64,
    pub shape: Vec<i64>,
    pub strides: Vec<i64>,
}

impl Pickle<'_> {
    /// A persistent id: `("storage", class, key, location, elements)`, and in the old form a sixth for views.
    pub(crate) fn storage(&mut self, id: Id) -> Result<Value, WeightsError> {
        let Value::Tuple(parts) = self.value(id) else {
            return Err(self.error("a storage is named by something that is no tuple"));
        };
        let &[kind, class, key, _location, elements, ref view @ ..] = parts.as_slice() else {
            return Err(self.error("a storage's name has too few parts"));
        };
        if self.text(kind) != Some("storage") {
            return Err(self.error("something other than a storage lies outside the pickle"));
        }
        let dtype = match self.value(class) {
            Value::Class(Class::Storage(dtype)) => *dtype,
            Value::Class(Class::Bytes) => DType::U8,
            _ => return Err(self.error("a storage's class is none")),
        };
        if view.first().is_some_and(|&v| !matches!(self.value(v), Value::None)) {
            return Err(WeightsError::Unsupported {
                file: self.file.to_path_buf(),
                reason: "a storage is a view of another, as PyTorch wrote before version 0.4".into(),
                remedy: "load it with PyTorch and save it again with torch.save",
            });
        }
        if self.text(key).is_none_or(|t| t.len() > MAX_KEY) {
            return Err(self.error("a storage's key is no short text"));
        }
        if self.storages.len() == MAX_TENSORS {
            return Err(self.error("it has too many storages"));
        }
        let elements = match self.value(elements) {
            Value::Int(n) => usize::try_from(*n).ok(),
            _ => None,
        };
        let elements = elements.ok_or_else(|| self.error("a storage's size is no size"))?;
        self.storages.push(StorageRef { key, dtype, elements });
        Ok(Value::Storage(self.storages.len() as u32 - 1))
    }

    /// `_rebuild_tensor_v2(storage, offset, size, stride, ...)`.
    pub(crate) fn tensor(&mut self, parts: &[Id], dtype: Option<DType>) -> Result<Value, WeightsError> {
        let &[storage, offset, shape, strides, ..] = parts else {
            return Err(self.error("a tensor's description has too few parts"));
        };
        let &Value::Storage(storage) = self.value(storage) else {
            return Err(self.error("a tensor looks into something that is no storage"));
        };
        let &Value::Int(offset) = self.value(offset) else {
            return Err(self.error("a tensor's offset is no number"));
        };
        let (shape, strides) = (self.sizes(shape)?, self.sizes(strides)?);
        if self.tensors.len() == MAX_TENSORS {
            return Err(self.error("it has too many tensors"));
        }
        if shape.len() != strides.len() {
            let (n, m) = (shape.len(), strides.len());
            return Err(self.error(format!("a tensor has {n} dimensions and {m} strides")));
        }
        let dtype = dtype.unwrap_or(self.storages[storage as usize].dtype);
        self.tensors.push(TensorRef { storage, dtype, offset, shape, strides });
        Ok(Value::Tensor(self.tensors.len() as u32 - 1))
    }

    fn sizes(&self, id: Id) -> Result<Vec<i64>, WeightsError> {
        let (Value::Tuple(items) | Value::List(items)) = self.value(id) else {
            return Err(self.error("a tensor's shape or stride is no tuple"));
        };
        if items.len() > MAX_DIMENSIONS {
            return Err(self.error(format!("a tensor has {} dimensions", items.len())));
        }
        let size = |&id: &Id| match self.value(id) {
            Value::Int(n) => Ok(*n),
            _ => Err(self.error("a tensor's size or stride is no number")),
        };
        items.iter().map(size).collect()
    }
}

impl StorageRef {
    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> Option<usize> {
        self.dtype.bytes_for(self.elements)
    }
}

impl TensorRef {
    /// The tensor's entry and its place in a storage that lies at `start` and was found to have all its bytes.
    pub(crate) fn place(
        &self,
        file: &Path,
        name: &str,
        start: usize,
        storage: &StorageRef,
    ) -> Result<(TensorEntry, Place), WeightsError> {
        let bad = |reason: &str| WeightsError::BadTensor {
            file: file.to_path_buf(),
            tensor: name.to_string(),
            reason: reason.to_string(),
        };
        let sizes = |v: &[i64]| v.iter().map(|&n| usize::try_from(n).ok()).collect::<Option<Vec<usize>>>();
        let shape = sizes(&self.shape).ok_or_else(|| bad("a dimension is negative"))?;
        let strides = sizes(&self.strides).ok_or_else(|| bad("a stride is negative"))?;
        let offset = usize::try_from(self.offset).map_err(|_| bad("its offset is negative"))?;
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let elements = elements.ok_or_else(|| bad("its size overflows"))?;
        let size = self.dtype.block().1 / 8;
        let held = storage.bytes().ok_or_else(|| bad("its storage's size overflows"))?;
        // The index of the last element, where there is any.
        let last = shape
            .iter()
            .zip(&strides)
            .try_fold(0usize, |sum, (&d, &s)| sum.checked_add(d.saturating_sub(1).checked_mul(s)?));
        let span = if elements == 0 { Some(0) } else { last.and_then(|l| l.checked_add(1)) };
        let begin = offset.checked_mul(size);
        let range = span.and_then(|s| s.checked_mul(size)).zip(begin);
        let Some((bytes, begin)) = range.filter(|(n, b)| b.checked_add(*n).is_some_and(|end| end <= held))
        else {
            return Err(bad("it reaches beyond its storage"));
        };
        // A stride of zero may repeat elements without end; reading it out must not cost more than the file has.
        if elements.checked_mul(size).is_none_or(|n| n > held) {
            return Err(bad("it has more elements than its storage"));
        }
        let mut expected = 1;
        let contiguous = elements == 0
            || shape.iter().zip(&strides).rev().all(|(&d, &s)| {
                let fits = d == 1 || s == expected;
                expected *= d;
                fits
            });
        let place = Place { start: start + begin, bytes, strides: (!contiguous).then_some(strides) };
        Ok((TensorEntry { shape, dtype: self.dtype }, place))
    }
}
