//! What can be wrong with a model file, and what can go wrong when one is written.

use std::path::{Path, PathBuf};

use safetensors::SafeTensorError;

/// A model file that cannot be read or written. Every message names the file and, where there is one, the tensor.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The file cannot be opened or read.
    #[error("cannot read {}: {source}{}", file.display(), read_remedy(source))]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file cannot be written; whatever was there before is untouched.
    #[error("cannot write {}: {source}{}", file.display(), write_remedy(source))]
    Write {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A folder where a file was expected.
    #[error("{} is a folder, not a model file{}", file.display(), candidates(found))]
    Folder {
        /// The folder.
        file: PathBuf,
        /// Model files in it.
        found: Vec<String>,
    },
    /// A folder without the variant that was asked for.
    #[error("{} has no files of the variant {variant}{}", file.display(), candidates(found))]
    NoVariant {
        /// The folder.
        file: PathBuf,
        /// The variant.
        variant: String,
        /// Model files in it.
        found: Vec<String>,
    },
    /// The file is something else.
    #[error("{} is not a safetensors file: {reason}", file.display())]
    Foreign {
        /// The file.
        file: PathBuf,
        /// How that shows.
        reason: String,
    },
    /// The file ends before what its header promises.
    #[error(
        "{} is truncated: its header describes {expected} bytes and it has {found}; copy or download it again",
        file.display()
    )]
    Truncated {
        /// The file.
        file: PathBuf,
        /// Bytes that the header describes.
        expected: u64,
        /// Bytes in the file.
        found: u64,
    },
    /// The header contradicts itself or the file.
    #[error("{} is damaged: {reason}; copy or download it again", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is contradicted.
        reason: String,
    },
    /// The file lacks a tensor.
    #[error("{} has no tensor {tensor}{}", file.display(), nearest.as_ref().map(|n| format!(" (the nearest name is {n})")).unwrap_or_default())]
    MissingTensor {
        /// The file.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The most similar name that the file does have.
        nearest: Option<String>,
    },
    /// The tensor is stored in a type that cannot be read as f32.
    #[error("{}: tensor {tensor} is stored as {dtype}; only floating-point numbers, integers and ggml's blocks can be read as weights", file.display())]
    UnsupportedType {
        /// The file.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The storage type in the file.
        dtype: String,
    },
    /// The tensor has another shape than expected.
    #[error("{}: tensor {tensor} has shape {found:?}; {expected:?} was expected", file.display())]
    WrongShape {
        /// The file.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What was expected.
        expected: Vec<usize>,
        /// What is in the file.
        found: Vec<usize>,
    },
    /// The tensor handed over for writing has another number of elements than its shape.
    #[error("{}: tensor {tensor} of shape {shape:?} was given {given} elements", file.display())]
    WrongData {
        /// The file.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Elements given.
        given: usize,
    },
    /// Two tensors handed over for writing, or two in one file, have the same name.
    #[error("{}: two tensors are named {tensor}", file.display())]
    DuplicateTensor {
        /// The file.
        file: PathBuf,
        /// The name.
        tensor: String,
    },
    /// A tensor's description contradicts itself or the file.
    #[error("{} is damaged: tensor {tensor}: {reason}; copy or download it again", file.display())]
    BadTensor {
        /// The file.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What is contradicted.
        reason: String,
    },
    /// A pickle that cannot be what PyTorch writes.
    #[error("{} is damaged: its pickle at byte {at}: {reason}; copy or download it again", file.display())]
    Pickle {
        /// The file.
        file: PathBuf,
        /// Where in the file, or in the archive's `data.pkl`.
        at: usize,
        /// What is wrong there.
        reason: String,
    },
    /// A pickle that names code which no model file needs. Nothing of it was run.
    #[error(
        "{} wants to call {name} (byte {at}), which no model file needs: it may be an attack, and nothing of it was \
         run; use a safetensors file, or have one whom you trust save the state dict alone",
        file.display()
    )]
    ForbiddenPickle {
        /// The file.
        file: PathBuf,
        /// Where in the file, or in the archive's `data.pkl`.
        at: usize,
        /// Module and name.
        name: String,
    },
    /// A file that is sound but of a kind that is not read.
    #[error("{} cannot be read: {reason}; {remedy}", file.display())]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// What it has that is not read.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// An index that points out of its own folder.
    #[error("{} names the shard {shard:?}, which is not a plain file name in its own folder; download it again from a source you trust", file.display())]
    ShardPath {
        /// The index.
        file: PathBuf,
        /// The name.
        shard: String,
    },
    /// A configuration that is not what its network's would be.
    #[error("{}: {reason}; restore it from where the model came from, or remove it to have it inferred", file.display())]
    Config {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Tensors of no network that is known here.
    #[error("{} holds no part of a known model ({found}); Stable Diffusion 1.x, 2.x and XL are known, as whole files and as parts", file.display())]
    Unrecognised {
        /// The file or folder.
        file: PathBuf,
        /// Some of what it does hold.
        found: String,
    },
    /// A model of which something lacks.
    #[error("{} is incomplete: {lacking}; use the whole file, or give the missing part as a file of its own", file.display())]
    Incomplete {
        /// The file or folder.
        file: PathBuf,
        /// The parts or tensors that lack.
        lacking: String,
    },
    /// A number that the storage type asked for cannot hold.
    #[error("{} cannot be written: tensor {tensor} has the value {value}, which is beyond f16; store it as bf16 or f32", file.display())]
    Range {
        /// The file.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The number.
        value: f32,
    },
    /// What is to be written exists.
    #[error("{} exists already; choose another name or remove it", file.display())]
    Exists {
        /// The file or folder.
        file: PathBuf,
    },
    /// The model cannot be expressed in the layout asked for.
    #[error("{} cannot be written: {reason}", file.display())]
    NoSuchLayout {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
}

impl WeightsError {
    pub(crate) fn from_safetensors(file: &Path, bytes: &[u8], error: SafeTensorError) -> Self {
        let file = file.to_path_buf();
        let found = bytes.len() as u64;
        let damaged = |reason: String| WeightsError::Damaged { file: file.clone(), reason };
        match error {
            SafeTensorError::HeaderTooSmall => {
                let reason = format!("it has only {found} bytes");
                WeightsError::Foreign { file, reason }
            }
            SafeTensorError::HeaderTooLarge | SafeTensorError::InvalidHeaderLength => {
                // The header's first byte is always `{`; without it the length before it is not a length.
                let length = bytes.first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b));
                if bytes.get(8) == Some(&b'{') && length < 100_000_000 {
                    return WeightsError::Truncated { file, expected: length.saturating_add(8), found };
                }
                let reason = match foreign_kind(bytes) {
                    Some(kind) => format!("it looks like {kind}"),
                    None => format!("its header would be {length} bytes long"),
                };
                WeightsError::Foreign { file, reason }
            }
            SafeTensorError::InvalidHeader(_) => {
                let kind = foreign_kind(bytes).map(|k| format!("it looks like {k}"));
                WeightsError::Foreign { file, reason: kind.unwrap_or("its header is not text".into()) }
            }
            SafeTensorError::InvalidHeaderDeserialization(e) | SafeTensorError::JsonError(e) => {
                if bytes.get(8) == Some(&b'{') {
                    damaged(format!("its header cannot be read ({e})"))
                } else {
                    let kind = foreign_kind(bytes).map(|k| format!("it looks like {k}"));
                    WeightsError::Foreign { file, reason: kind.unwrap_or("its header is not JSON".into()) }
                }
            }
            SafeTensorError::InvalidOffset(tensor) => {
                damaged(format!("the place of tensor {tensor} overlaps another or leaves a hole"))
            }
            SafeTensorError::TensorInvalidInfo => {
                damaged("the size of a tensor does not follow from its shape and type".into())
            }
            SafeTensorError::MetadataIncompleteBuffer => {
                let expected = described_bytes(bytes);
                match expected {
                    Some(expected) if expected > found => WeightsError::Truncated { file, expected, found },
                    _ => damaged("it has more bytes than its header describes".into()),
                }
            }
            SafeTensorError::ValidationOverflow => damaged("the size of a tensor overflows".into()),
            other => damaged(other.to_string()),
        }
    }
}

/// The file size that a readable header promises.
fn described_bytes(bytes: &[u8]) -> Option<u64> {
    let length = usize::try_from(u64::from_le_bytes(*bytes.first_chunk::<8>()?)).ok()?;
    let header = bytes.get(8..length.checked_add(8)?)?;
    let header: safetensors::tensor::Metadata = serde_json::from_slice(header).ok()?;
    (length as u64).checked_add(8)?.checked_add(header.data_len() as u64)
}

/// What a file that is no safetensors file is, by its first bytes.
pub(crate) fn foreign_kind(bytes: &[u8]) -> Option<&'static str> {
    let kinds: [(&[u8], &str); 8] = [
        (b"\x89PNG", "a PNG picture"),
        (b"\xff\xd8\xff", "a JPEG picture"),
        (b"PK\x03\x04", "a zip archive, as PyTorch's .ckpt and .pt files are"),
        (b"\x80\x02", "a Python pickle"),
        (b"GGUF", "a GGUF file"),
        (b"\x1f\x8b", "a gzip archive"),
        (b"<", "a web page or XML (perhaps a failed download)"),
        (b"version https://git-lfs", "a Git LFS pointer; run git lfs pull"),
    ];
    kinds.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, kind)| *kind)
}

fn read_remedy(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::NotFound => "; check the path",
        std::io::ErrorKind::PermissionDenied => "; check its permissions",
        _ => "",
    }
}

fn write_remedy(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            "; free some space or choose another folder (what was there before is untouched)"
        }
        std::io::ErrorKind::NotFound => "; create its folder first",
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
            "; choose a folder that you may write to"
        }
        _ => "",
    }
}

fn candidates(found: &[String]) -> String {
    match found {
        [] => " (and there is none in it)".into(),
        _ => format!("; it holds {}", found.join(", ")),
    }
}
