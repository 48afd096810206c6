//! Writing a model in another layout or format, one tensor at a time.

mod diffusers;
mod gguf;
mod single;

use std::collections::BTreeMap;

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
}

impl SaveOptions {
    fn storage_of(&self, dtype: DType) -> Storage {
        self.storage.unwrap_or(match dtype {
            DType::F32 | DType::F64 => Storage::F32,
            DType::Bf16 => Storage::Bf16,
            _ => Storage::F16,
        })
    }
}
