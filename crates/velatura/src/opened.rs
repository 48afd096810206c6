//! Opening a model, whatever file it comes from: its manifest, and where its weights are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use velatura_weights::{
    Checkpoint, OpenOptions, PartKind, SafetensorsFile, TensorSource, TensorView, WeightsError,
};

use crate::manifest::METADATA_KEY;
use crate::source::WeightSource;
use crate::{Error, ModelManifest, RequestError, checkpoint, hashes};

/// A model that was opened; no weights are packed yet.
pub(crate) struct Opened {
    pub manifest: ModelManifest,
    pub weights: Weights,
    /// What was left aside or taken for granted; one sentence each.
    pub remarks: Vec<String>,
}

/// Where a model's weights are.
pub(crate) enum Weights {
    /// In a file of Velatura's own.
    File(Arc<SafetensorsFile>),
    /// In a file or folder of another tool.
    Checkpoint(Arc<TensorView>),
    /// Somewhere else.
    Other(Arc<dyn WeightSource>),
}

impl Opened {
    /// Any file or folder, with another autoencoder than its own where one is given.
    pub fn path(path: &Path, vae: Option<&Path>) -> Result<Self, Error> {
        if path.is_dir() {
            return Self::checkpoint(Checkpoint::open(path, &OpenOptions::default())?, vae);
        }
        match SafetensorsFile::open(path) {
            Ok(file) => Self::file(file, vae),
            Err(WeightsError::Foreign { .. }) => {
                Self::checkpoint(Checkpoint::open(path, &OpenOptions::default())?, vae)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A safetensors file.
    pub fn file(file: SafetensorsFile, vae: Option<&Path>) -> Result<Self, Error> {
        if !file.metadata().contains_key(METADATA_KEY) {
            return Self::checkpoint(Checkpoint::of_source(Arc::new(file))?, vae);
        }
        if vae.is_some() {
            return Err(RequestError::Vae { model: file.path().display().to_string() }.into());
        }
        let manifest = ModelManifest::of(&file)?;
        Ok(Opened { manifest, weights: Weights::File(Arc::new(file)), remarks: Vec::new() })
    }

    fn checkpoint(mut checkpoint: Checkpoint, vae: Option<&Path>) -> Result<Self, Error> {
        if let Some(file) = vae {
            let mut other = Checkpoint::open(file, &OpenOptions::default())?;
            if other.parts().iter().any(|part| part.kind != PartKind::Vae) {
                let found: Vec<&str> = other.parts().iter().map(|part| part.kind.name()).collect();
                return Err(Error::Vae { file: file.to_path_buf(), found: found.join(", ") });
            }
            if let Some(half) = other_half(file, &other) {
                other.take_parts(Checkpoint::open(half, &OpenOptions::default())?);
            }
            checkpoint.take_parts(other);
        }
        let checkpoint = &checkpoint;
        let (manifest, remarks) = checkpoint::describe(checkpoint)?;
        Ok(Opened { manifest, weights: Weights::Checkpoint(Arc::new(checkpoint.tensors())), remarks })
    }
}

/// The file of a tiny autoencoder's other half, where one was given and the other lies beside it: `taesd_decoder` and
/// `taesd_encoder`.
fn other_half(file: &Path, given: &Checkpoint) -> Option<PathBuf> {
    let vae = given.part(PartKind::Vae).filter(|vae| vae.class_name() == "AutoencoderTiny")?;
    let has = |half: &str| vae.tensors.tensors().contains_key(&format!("{half}.layers.0.weight"));
    let (own, other) = match (has("encoder"), has("decoder")) {
        (true, false) => ("encoder", "decoder"),
        (false, true) => ("decoder", "encoder"),
        _ => return None,
    };
    let name = file.file_name()?.to_str()?;
    let beside = file.with_file_name(name.replacen(own, other, 1));
    (name.contains(own) && beside.is_file()).then_some(beside)
}

impl Weights {
    /// All weights by name.
    pub fn source(&self) -> Arc<dyn WeightSource> {
        match self {
            Weights::File(file) => Arc::clone(file) as _,
            Weights::Checkpoint(tensors) => Arc::clone(tensors) as _,
            Weights::Other(source) => Arc::clone(source),
        }
    }

    /// The file or folder, where there is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Weights::File(file) => Some(file.path()),
            Weights::Checkpoint(tensors) => Some(tensors.path()),
            Weights::Other(_) => None,
        }
    }

    /// The first ten hexadecimal digits of the SHA-256 of the file, as A1111 writes it; for a folder, of its tensors in
    /// the order of their names. Empty where there is neither. What was computed for large files is remembered, as long as
    /// they stay as they are.
    pub fn hash(&self) -> String {
        let sources: Vec<&Path> = match self {
            Weights::File(file) => vec![file.path()],
            Weights::Checkpoint(tensors) if tensors.path().is_dir() => tensors.source_paths().collect(),
            Weights::Checkpoint(tensors) => vec![tensors.path()],
            Weights::Other(_) => Vec::new(),
        };
        hashes::remembered(&sources, || self.compute_hash())
    }

    fn compute_hash(&self) -> String {
        let mut sha = Sha256::new();
        let mut whole = |path: &Path| {
            std::fs::File::open(path).and_then(|mut file| std::io::copy(&mut file, &mut sha)).is_ok()
        };
        let hashed = match self {
            // Read, not mapped: the pages would be held.
            Weights::File(file) if file.path().is_file() => whole(file.path()),
            Weights::File(file) => {
                sha.update(file.raw());
                true
            }
            Weights::Checkpoint(tensors) if tensors.path().is_dir() => {
                tensors.tensors().keys().all(|name| match tensors.tensor_bytes(name) {
                    Ok(bytes) => {
                        sha.update(name);
                        sha.update(bytes);
                        // The packed weights are what is kept in memory, not the files.
                        TensorSource::forget(tensors.as_ref(), name);
                        true
                    }
                    Err(_) => false,
                })
            }
            Weights::Checkpoint(tensors) => whole(tensors.path()),
            Weights::Other(_) => false,
        };
        match hashed {
            true => sha.finalize().iter().take(5).map(|byte| format!("{byte:02x}")).collect(),
            false => String::new(),
        }
    }
}
