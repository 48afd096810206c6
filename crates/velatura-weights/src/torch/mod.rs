//! PyTorch's files, `.ckpt`, `.pt`, `.pth` and `.bin`: the zip archive of today and the pickle stream of before 1.6.
//! The pickle is interpreted as data by a small machine with a list of what it may name; nothing is ever called.

mod allowed;
mod archive;
mod flatten;
mod literals;
mod machine;
mod opcodes;
mod stream;
mod tensors;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::bytes::Bytes;
use crate::source::PlacedFile;
use crate::{TensorEntry, TensorSource, WeightsError};

/// A PyTorch checkpoint, memory-mapped. Names are those of its state dict (the entry `state_dict` when there is one,
/// else the outermost dict), those of dicts within dicts joined by dots.
pub struct TorchFile {
    file: PlacedFile,
    /// For the zip form: what the directory says of the entries.
    checksums: Vec<archive::Checksum>,
}

/// How a PyTorch file begins.
pub(crate) enum TorchForm {
    Archive,
    Stream,
}

impl TorchForm {
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        if bytes.starts_with(b"PK\x03\x04") {
            Some(TorchForm::Archive)
        } else if bytes.first() == Some(&0x80) && bytes.get(1).is_some_and(|v| (2..=5).contains(v)) {
            Some(TorchForm::Stream)
        } else {
            None
        }
    }
}

impl TorchFile {
    /// Maps a file and reads its pickle; the places of all tensors are checked against the file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, WeightsError> {
        let path = path.as_ref();
        Self::new(path.to_path_buf(), Bytes::map(path)?)
    }

    /// A file held in memory. `name` stands for its path in messages.
    pub fn from_bytes(name: &str, bytes: Vec<u8>) -> Result<Self, WeightsError> {
        Self::new(PathBuf::from(name), Bytes::Owned(bytes))
    }

    pub(crate) fn new(path: PathBuf, bytes: Bytes) -> Result<Self, WeightsError> {
        let read = match TorchForm::of(bytes.get()) {
            Some(TorchForm::Archive) => archive::read(&path, bytes.get())?,
            Some(TorchForm::Stream) => stream::read(&path, bytes.get())?,
            None => {
                if bytes.get().get(257..262) == Some(b"ustar") {
                    return Err(WeightsError::Unsupported {
                        file: path,
                        reason: "it is a tar archive, as PyTorch wrote before version 0.2".into(),
                        remedy: "load it with an old PyTorch and save it again with torch.save",
                    });
                }
                let kind = crate::error::foreign_kind(bytes.get());
                let reason = kind.map_or("it begins neither as a zip archive nor as a pickle".into(), |k| {
                    format!("it looks like {k}, not like a PyTorch checkpoint")
                });
                return Err(WeightsError::Damaged { file: path, reason });
            }
        };
        let file =
            PlacedFile { path, bytes, tensors: read.tensors, places: read.places, metadata: read.metadata };
        Ok(TorchFile { file, checksums: read.checksums })
    }

    /// Compares the checksums of the zip form's entries, which reads the whole file. PyTorch itself never looks at them
    /// and can be told not to write them, so reading does not either.
    pub fn verify_checksums(&self) -> Result<(), WeightsError> {
        archive::verify(&self.file.path, self.file.bytes.get(), &self.checksums)
    }
}

impl TensorSource for TorchFile {
    fn path(&self) -> &Path {
        &self.file.path
    }

    fn tensors(&self) -> &BTreeMap<String, TensorEntry> {
        &self.file.tensors
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        &self.file.metadata
    }

    fn tensor_bytes(&self, name: &str) -> Result<Cow<'_, [u8]>, WeightsError> {
        self.file.tensor_bytes(name)
    }

    fn forget(&self, name: &str) {
        self.file.forget(name);
    }
}

impl std::fmt::Debug for TorchFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TorchFile")
            .field("path", &self.file.path)
            .field("tensors", &self.file.tensors.len())
            .finish()
    }
}
