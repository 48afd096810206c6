//! Any file of tensors, by its first bytes; its name does not matter.

use std::path::Path;

use crate::bytes::Bytes;
use crate::torch::TorchForm;
use crate::{GgufFile, SafetensorsFile, ShardedTensors, TensorSource, TorchFile, WeightsError};

/// Opens a file of any format that is read: safetensors, PyTorch's zip archives and pickle streams, GGUF, and an
/// index of shards (`*.index.json`). Which it is follows from its first bytes.
pub fn open_tensors(path: impl AsRef<Path>) -> Result<Box<dyn TensorSource>, WeightsError> {
    let path = path.as_ref();
    if path.file_name().is_some_and(|n| is_index(&n.to_string_lossy())) {
        return Ok(Box::new(ShardedTensors::open(path)?));
    }
    let bytes = Bytes::map(path)?;
    let head = bytes.get();
    let path = path.to_path_buf();
    // The ninth byte of a safetensors file opens its header, whatever the length before it looks like.
    let safetensors = head.get(8) == Some(&b'{');
    let tar = head.get(257..262) == Some(b"ustar");
    Ok(if head.starts_with(b"GGUF") {
        Box::new(GgufFile::new(path, bytes)?)
    } else if !safetensors && (TorchForm::of(head).is_some() || tar) {
        Box::new(TorchFile::new(path, bytes)?)
    } else {
        Box::new(SafetensorsFile::new(path, bytes)?)
    })
}

/// Whether a name is that of an index of shards, `NAME.safetensors.index.json` or with a variant before `.json`.
fn is_index(name: &str) -> bool {
    name.ends_with(".json") && name.contains(".index.")
}
