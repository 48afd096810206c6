//! Several files under one index, as the hub's libraries split large models: `NAME.index.json` with a `weight_map`
//! from tensors to files.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::open::open_tensors;
use crate::source::missing;
use crate::{TensorEntry, TensorSource, WeightsError};

/// An index is a few megabytes for the largest models.
const MAX_INDEX: u64 = 64 << 20;

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The tensors of several files.
pub struct ShardedTensors {
    index: PathBuf,
    shards: Vec<Box<dyn TensorSource>>,
    tensors: BTreeMap<String, TensorEntry>,
    /// Which shard holds a tensor.
    places: BTreeMap<String, usize>,
    metadata: BTreeMap<String, String>,
}

impl ShardedTensors {
    /// Opens all files that an index names. They must lie in the index's own folder.
    pub fn open(index: impl AsRef<Path>) -> Result<Self, WeightsError> {
        let index = index.as_ref();
        let bytes = read_bounded(index, MAX_INDEX)?;
        let parsed: Index = serde_json::from_slice(&bytes)
            .map_err(|e| WeightsError::Config { file: index.to_path_buf(), reason: e.to_string() })?;
        let mut names: Vec<&String> = parsed.weight_map.values().collect();
        names.sort_unstable();
        names.dedup();
        for shard in &names {
            let mut parts = Path::new(shard.as_str()).components();
            let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
            // What is a separator or a drive elsewhere is refused everywhere.
            if !plain || shard.contains(['/', '\\', ':', '\0']) {
                let shard = shard.to_string();
                return Err(WeightsError::ShardPath { file: index.to_path_buf(), shard });
            }
        }
        let folder = index.parent().unwrap_or(Path::new(""));
        let shards: Vec<_> = names.iter().map(|n| open_tensors(folder.join(n))).collect::<Result<_, _>>()?;
        let (mut tensors, mut places) = (BTreeMap::new(), BTreeMap::new());
        for (tensor, shard) in &parsed.weight_map {
            let number = names.binary_search(&shard).unwrap_or_default();
            tensors.insert(tensor.clone(), shards[number].tensor(tensor)?.clone());
            places.insert(tensor.clone(), number);
        }
        // A shard with more than the index says is passed on, so that nothing is dropped in silence.
        for (number, shard) in shards.iter().enumerate() {
            for (tensor, entry) in shard.tensors() {
                if !tensors.contains_key(tensor) {
                    tensors.insert(tensor.clone(), entry.clone());
                    places.insert(tensor.clone(), number);
                }
            }
        }
        let metadata = shards.iter().flat_map(|s| s.metadata().clone()).collect();
        Ok(ShardedTensors { index: index.to_path_buf(), shards, tensors, places, metadata })
    }
}

/// A small file whole; a larger one is no such file.
pub(crate) fn read_bounded(file: &Path, most: u64) -> Result<Vec<u8>, WeightsError> {
    let failed = |source| WeightsError::Read { file: file.to_path_buf(), source };
    let meta = std::fs::metadata(file).map_err(failed)?;
    if !meta.is_file() || meta.len() > most {
        let reason = format!("it is no file of at most {most} bytes");
        return Err(WeightsError::Config { file: file.to_path_buf(), reason });
    }
    std::fs::read(file).map_err(failed)
}

impl TensorSource for ShardedTensors {
    fn path(&self) -> &Path {
        &self.index
    }

    fn tensors(&self) -> &BTreeMap<String, TensorEntry> {
        &self.tensors
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    fn tensor_bytes(&self, name: &str) -> Result<Cow<'_, [u8]>, WeightsError> {
        match self.places.get(name) {
            Some(&shard) => self.shards[shard].tensor_bytes(name),
            None => Err(missing(&self.index, self.tensors.keys(), name)),
        }
    }

    fn forget(&self, name: &str) {
        if let Some(&shard) = self.places.get(name) {
            self.shards[shard].forget(name);
        }
    }
}
