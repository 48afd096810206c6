//! Writing a model in another layout or format, one tensor at a time.

mod diffusers;
mod gguf;
mod loss;
mod single;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use gguf::GgufType;

use crate::{DType, Storage};

/// How a model is written.
#[derive(Clone, Debug, Default)]
pub struct SaveOptions {
    /// How numbers are stored. Without a choice F32, F16 and BF16 stay what they are, F64 becomes F32, and everything
    /// smaller becomes F16.
    pub storage: Option<Storage>,
    /// Text entries for the file's own metadata.
    pub metadata: BTreeMap<String, String>,
    /// Files to put beside the parts in a diffusers folder, by their paths in it: the tokenizers'.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    /// Who watches.
    pub progress: SaveProgress,
}

/// Watches a model being written, and can stop it.
#[derive(Clone, Default)]
pub struct SaveProgress {
    watch: Option<Arc<Watch>>,
    written: Arc<AtomicU64>,
}

type Watch = dyn Fn(u64) -> bool + Send + Sync;

impl SaveProgress {
    /// `watch` is given the number of tensors' elements written so far, after each tensor; where it says `false` writing ends with
    /// [`io::ErrorKind::Interrupted`], and nothing of it is left.
    pub fn new(watch: impl Fn(u64) -> bool + Send + Sync + 'static) -> Self {
        SaveProgress { watch: Some(Arc::new(watch)), written: Arc::default() }
    }

    pub(crate) fn add(&self, elements: usize) -> io::Result<()> {
        let written = self.written.fetch_add(elements as u64, Ordering::Relaxed) + elements as u64;
        match &self.watch {
            Some(watch) if !watch(written) => Err(io::Error::from(io::ErrorKind::Interrupted)),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Debug for SaveProgress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SaveProgress").field("written", &self.written).finish_non_exhaustive()
    }
}

impl SaveOptions {
    /// How a tensor that is stored so will be.
    pub fn storage_of(&self, dtype: DType) -> Storage {
        self.storage.unwrap_or(match dtype {
            DType::F32 | DType::F64 => Storage::F32,
            DType::Bf16 => Storage::Bf16,
            _ => Storage::F16,
        })
    }
}
