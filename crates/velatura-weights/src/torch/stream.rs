//! The form before PyTorch 1.6: pickles one after another (a magic number, a version, the machine's sizes, the
//! object, the keys of the storages), then each storage as a count and its elements.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::archive::Read;
use super::flatten;
use super::machine::{Pickle, Value};
use crate::WeightsError;

/// `0x1950a86a20f9469cfc6c`, pickled.
const MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e";
const VERSION: i64 = 1001;

pub(crate) fn read(file: &Path, bytes: &[u8]) -> Result<Read, WeightsError> {
    let damaged = |reason: String| WeightsError::Damaged { file: file.to_path_buf(), reason };
    if bytes.get(2..2 + MAGIC.len()) != Some(MAGIC) {
        // What a bare pickle names is worth more to its owner than that it is bare.
        Pickle::read(file, bytes, 0)?;
        return Err(WeightsError::Unsupported {
            file: file.to_path_buf(),
            reason: "it is a Python pickle that torch.save did not write".into(),
            remedy: "load it in Python and save its tensors with torch.save, or as safetensors",
        });
    }
    let version = Pickle::read(file, bytes, 2 + MAGIC.len())?;
    if !matches!(version.value(version.root), Value::Int(VERSION)) {
        return Err(damaged("its version is not the one that PyTorch writes".into()));
    }
    let system = Pickle::read(file, bytes, version.end)?;
    if let Value::Dict(items) = system.value(system.root) {
        let little = items.iter().find(|(k, _)| system.text(*k) == Some("little_endian"));
        if little.is_some_and(|(_, v)| matches!(system.value(*v), Value::Bool(false))) {
            return Err(WeightsError::Unsupported {
                file: file.to_path_buf(),
                reason: "its numbers are big-endian".into(),
                remedy: "load it with PyTorch and save it again with torch.save",
            });
        }
    }
    let pickle = Pickle::read(file, bytes, system.end)?;
    let named = flatten::named(&pickle)?;
    let keys = Pickle::read(file, bytes, pickle.end)?;
    let Value::List(order) = keys.value(keys.root) else {
        return Err(damaged("the keys of its storages are no list".into()));
    };
    let sizes: HashMap<&str, _> =
        pickle.storages.iter().map(|s| (pickle.text(s.key).unwrap_or_default(), s)).collect();
    let mut starts = HashMap::new();
    let mut at = keys.end;
    for &key in order {
        let key = keys.text(key).ok_or_else(|| damaged("a key of a storage is no text".into()))?;
        let count = bytes.get(at..).and_then(|b| b.first_chunk::<8>()).map(|b| u64::from_le_bytes(*b));
        let truncated = |expected: usize| WeightsError::Truncated {
            file: file.to_path_buf(),
            expected: expected as u64,
            found: bytes.len() as u64,
        };
        let count = count.ok_or_else(|| truncated(at.saturating_add(8)))?;
        let storage = sizes.get(key).ok_or_else(|| damaged(format!("no tensor has the storage {key}")))?;
        if usize::try_from(count) != Ok(storage.elements) {
            return Err(damaged(format!("storage {key} has {count} elements and not {}", storage.elements)));
        }
        let end = storage.bytes().and_then(|n| n.checked_add(at + 8));
        let end = end.ok_or_else(|| damaged(format!("the size of storage {key} overflows")))?;
        if end > bytes.len() {
            return Err(truncated(end));
        }
        starts.insert(key, (at + 8, storage.elements, storage.dtype));
        at = end;
    }
    let mut out = Read {
        tensors: BTreeMap::new(),
        places: BTreeMap::new(),
        metadata: named.metadata,
        checksums: Vec::new(),
    };
    for (name, tensor) in named.tensors {
        let tensor = &pickle.tensors[tensor as usize];
        let storage = &pickle.storages[tensor.storage as usize];
        // The same key may be described twice; each description must be the one that was read.
        let key = pickle.text(storage.key).unwrap_or_default();
        let start = starts.get(key).filter(|s| (s.1, s.2) == (storage.elements, storage.dtype));
        let start = start.ok_or_else(|| WeightsError::BadTensor {
            file: file.to_path_buf(),
            tensor: name.clone(),
            reason: format!("the file lacks its storage {key:?}"),
        })?;
        let (info, place) = tensor.place(file, &name, start.0, storage)?;
        out.tensors.insert(name.clone(), info);
        out.places.insert(name, place);
    }
    Ok(out)
}
