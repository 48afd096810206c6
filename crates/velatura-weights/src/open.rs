//! Any file of tensors, by its first bytes; its name does not matter.

use std::path::Path;

use crate::bytes::Bytes;
use crate::torch::TorchForm;
use crate::{GgufFile, SafetensorsFile, ShardedTensors, TensorSource, TorchFile, WeightsError};

/// The formats that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileFormat {
    /// One safetensors file.
    Safetensors,
    /// An index, `*.index.json`, of files that share the tensors.
    Shards,
    /// PyTorch's zip archive.
    TorchArchive,
    /// PyTorch's pickles, as before version 1.6.
    TorchPickle,
    /// ggml's format.
    Gguf,
}

impl FileFormat {
    /// By a file's first bytes, and for an index by its name. What is nothing else is taken for safetensors; whether it
    /// is shows when it is opened.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn of(path: impl AsRef<Path>) -> Result<Self, WeightsError> {
        let path = path.as_ref();
        if is_index(path) {
            return Ok(FileFormat::Shards);
        }
        Ok(Self::of_bytes(Bytes::map(path)?.get()))
    }

    fn of_bytes(head: &[u8]) -> Self {
        // The ninth byte of a safetensors file opens its header, whatever the length before it looks like.
        let safetensors = head.get(8) == Some(&b'{');
        let tar = head.get(257..262) == Some(b"ustar");
        match TorchForm::of(head) {
            _ if head.starts_with(b"GGUF") => FileFormat::Gguf,
            Some(TorchForm::Archive) if !safetensors => FileFormat::TorchArchive,
            Some(TorchForm::Stream) if !safetensors => FileFormat::TorchPickle,
            None if !safetensors && tar => FileFormat::TorchPickle,
            _ => FileFormat::Safetensors,
        }
    }

    /// In words, for listings.
    pub fn name(self) -> &'static str {
        match self {
            FileFormat::Safetensors => "safetensors",
            FileFormat::Shards => "safetensors in shards",
            FileFormat::TorchArchive => "PyTorch zip archive",
            FileFormat::TorchPickle => "PyTorch pickle",
            FileFormat::Gguf => "GGUF",
        }
    }
}

/// Opens a file of any format that is read: safetensors, PyTorch's zip archives and pickle streams, GGUF, and an
/// index of shards (`*.index.json`). Which it is follows from its first bytes.
pub fn open_tensors(path: impl AsRef<Path>) -> Result<Box<dyn TensorSource>, WeightsError> {
    let path = path.as_ref();
    if is_index(path) {
        return Ok(Box::new(ShardedTensors::open(path)?));
    }
    let bytes = Bytes::map(path)?;
    let format = FileFormat::of_bytes(bytes.get());
    let path = path.to_path_buf();
    Ok(match format {
        FileFormat::Gguf => Box::new(GgufFile::new(path, bytes)?),
        FileFormat::TorchArchive | FileFormat::TorchPickle => Box::new(TorchFile::new(path, bytes)?),
        FileFormat::Safetensors | FileFormat::Shards => Box::new(SafetensorsFile::new(path, bytes)?),
    })
}

/// Whether a name is that of an index of shards, `NAME.safetensors.index.json` or with a variant before `.json`.
fn is_index(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(".json") && name.contains(".index.")
}
