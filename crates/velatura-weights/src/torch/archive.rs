//! The zip form, written by PyTorch since 1.6: `NAME/data.pkl`, and one stored entry `NAME/data/KEY` for each storage.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;

use rawzip::{CompressionMethod, ZipArchive};

use super::flatten;
use super::machine::Pickle;
use crate::source::Place;
use crate::{TensorEntry, WeightsError};

const AGAIN: &str = "load it with PyTorch and save it again with torch.save, or as safetensors";

/// PyTorch writes one for each storage.
const MAX_ENTRIES: usize = 1 << 18;

/// What opening a PyTorch file finds out.
pub(crate) struct Read {
    pub tensors: BTreeMap<String, TensorEntry>,
    pub places: BTreeMap<String, Place>,
    pub metadata: BTreeMap<String, String>,
    pub checksums: Vec<Checksum>,
}

/// An entry with the checksum that the directory gives.
pub(crate) struct Checksum {
    name: String,
    place: Range<usize>,
    crc: u32,
}

pub(crate) fn read(file: &Path, bytes: &[u8]) -> Result<Read, WeightsError> {
    let entries = directory(file, bytes)?;
    let (root, pickle) = pickle_entry(file, &entries)?;
    if let Some(order) = entries.get(format!("{root}byteorder").as_str())
        && &bytes[order.place.clone()] != b"little"
    {
        let reason = "its numbers are big-endian".into();
        return Err(WeightsError::Unsupported { file: file.to_path_buf(), reason, remedy: AGAIN });
    }
    let pickle = Pickle::read(file, &bytes[pickle], 0)?;
    let named = flatten::named(&pickle)?;
    let mut out = Read {
        tensors: BTreeMap::new(),
        places: BTreeMap::new(),
        metadata: named.metadata,
        checksums: Vec::new(),
    };
    for (name, tensor) in named.tensors {
        let tensor = &pickle.tensors[tensor as usize];
        let storage = &pickle.storages[tensor.storage as usize];
        let bad = |reason: String| WeightsError::BadTensor {
            file: file.to_path_buf(),
            tensor: name.clone(),
            reason,
        };
        let key = pickle.text(storage.key).unwrap_or_default();
        let entry = entries.get(format!("{root}data/{key}").as_str());
        let entry = entry.ok_or_else(|| bad(format!("the archive lacks its numbers, data/{key:?}")))?;
        if storage.bytes().is_none_or(|n| n > entry.place.len()) {
            let n = entry.place.len();
            return Err(bad(format!(
                "data/{key} has {n} bytes, fewer than its storage of {}",
                storage.elements
            )));
        }
        let (info, place) = tensor.place(file, &name, entry.place.start, storage)?;
        out.tensors.insert(name.clone(), info);
        out.places.insert(name, place);
    }
    out.checksums = entries
        .iter()
        .map(|(name, e)| Checksum { name: name.clone(), place: e.place.clone(), crc: e.crc })
        .collect();
    Ok(out)
}

pub(crate) fn verify(file: &Path, bytes: &[u8], checksums: &[Checksum]) -> Result<(), WeightsError> {
    match checksums.iter().find(|c| rawzip::crc32(&bytes[c.place.clone()]) != c.crc) {
        None => Ok(()),
        Some(c) => Err(WeightsError::Damaged {
            file: file.to_path_buf(),
            reason: format!("the checksum of its entry {} does not match", c.name),
        }),
    }
}

struct Entry {
    place: Range<usize>,
    crc: u32,
}

/// All entries, each stored as it is, in its own place and under a name of its own.
fn directory(file: &Path, bytes: &[u8]) -> Result<HashMap<String, Entry>, WeightsError> {
    let damaged = |reason: String| WeightsError::Damaged { file: file.to_path_buf(), reason };
    let unsupported =
        |reason: String| WeightsError::Unsupported { file: file.to_path_buf(), reason, remedy: AGAIN };
    let zip = |e: rawzip::Error| damaged(format!("its zip directory cannot be read ({e})"));
    let archive = ZipArchive::from_slice(bytes).map_err(|_| {
        damaged("it begins as a zip archive and has no directory at its end (cut off?)".into())
    })?;
    let mut entries = HashMap::new();
    let mut listing = archive.entries();
    while let Some(header) = listing.next_entry().map_err(zip)? {
        if entries.len() == MAX_ENTRIES {
            return Err(damaged(format!("its zip directory has more than {MAX_ENTRIES} entries")));
        }
        let path = header.file_path();
        let name = std::str::from_utf8(path.as_bytes())
            .map_err(|_| damaged("a name in its zip directory is no text".into()))?;
        if name.starts_with(['/', '\\'])
            || name.split(['/', '\\']).any(|part| part == "..")
            || name.contains('\0')
        {
            return Err(damaged(format!("its zip entry {name:?} points out of the archive")));
        }
        if header.is_dir() {
            continue;
        }
        if header.flags().is_encrypted() {
            return Err(unsupported(format!("its zip entry {name:?} is encrypted")));
        }
        if header.compression_method() != CompressionMethod::STORE {
            return Err(unsupported(format!(
                "its zip entry {name:?} is compressed, which PyTorch never does"
            )));
        }
        if header.compressed_size_hint() != header.uncompressed_size_hint() {
            return Err(damaged(format!("its zip entry {name:?} is stored and has two sizes")));
        }
        let found = archive.get_entry(header.wayfinder());
        let found = found.map_err(|e| damaged(format!("its zip entry {name:?} cannot be read ({e})")))?;
        let (start, end) = found.compressed_data_range();
        let place = usize::try_from(start).ok().zip(usize::try_from(end).ok());
        let place = place.filter(|&(s, e)| s <= e && e <= bytes.len()).map(|(s, e)| s..e);
        let place = place.ok_or_else(|| damaged(format!("its zip entry {name:?} reaches beyond its end")))?;
        if entries.insert(name.to_string(), Entry { place, crc: header.crc32() }).is_some() {
            return Err(damaged(format!("it has two zip entries {name:?}")));
        }
    }
    let mut places: Vec<(usize, usize, &str)> =
        entries.iter().map(|(name, e)| (e.place.start, e.place.end, name.as_str())).collect();
    places.sort_unstable();
    if let Some(pair) = places.windows(2).find(|p| p[1].0 < p[0].1) {
        return Err(damaged(format!("its zip entries {:?} and {:?} overlap", pair[0].2, pair[1].2)));
    }
    Ok(entries)
}

/// The folder that everything lies in, with its slash, and the place of the pickle.
fn pickle_entry<'a>(
    file: &Path,
    entries: &'a HashMap<String, Entry>,
) -> Result<(&'a str, Range<usize>), WeightsError> {
    let mut found = entries.iter().filter_map(|(name, entry)| {
        let root = name.strip_suffix("data.pkl")?;
        (root.is_empty() || root.ends_with('/') && !root[..root.len() - 1].contains('/'))
            .then(|| (root, entry.place.clone()))
    });
    let first = found.next();
    if found.next().is_some() {
        let reason = "it has two pickles named data.pkl".into();
        return Err(WeightsError::Damaged { file: file.to_path_buf(), reason });
    }
    if let Some((root, _)) = &first
        && entries.contains_key(format!("{root}constants.pkl").as_str())
    {
        let reason = "it is a TorchScript program, not a checkpoint".into();
        return Err(WeightsError::Unsupported { file: file.to_path_buf(), reason, remedy: AGAIN });
    }
    first.ok_or_else(|| WeightsError::Unsupported {
        file: file.to_path_buf(),
        reason: "it is a zip archive without the data.pkl of a PyTorch checkpoint".into(),
        remedy: "if a model was packed into it, unpack it first",
    })
}
