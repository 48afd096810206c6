//! Writing safetensors, the same bytes for the same content.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};
use std::path::Path;

use crate::save::SaveProgress;
use crate::{Storage, WeightsError, atomic_write, f32_to_bytes};

/// A tensor's numbers on their way to a file.
#[derive(Clone, Copy, Debug)]
pub enum TensorData<'a> {
    /// Converted to the storage type while they are written.
    F32(&'a [f32]),
    /// Bytes that already are of the storage type, little-endian.
    Raw(&'a [u8]),
}

/// A tensor to write.
#[derive(Clone, Debug)]
pub struct TensorToWrite<'a> {
    /// Its name in the file.
    pub name: String,
    /// Its shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// How it is stored.
    pub storage: Storage,
    /// Its numbers, row-major.
    pub data: TensorData<'a>,
}

impl<'a> TensorToWrite<'a> {
    /// A tensor of f32 values, stored as `storage`.
    pub fn new(name: impl Into<String>, shape: &[usize], storage: Storage, data: &'a [f32]) -> Self {
        TensorToWrite { name: name.into(), shape: shape.to_vec(), storage, data: TensorData::F32(data) }
    }

    fn given(&self) -> usize {
        match self.data {
            TensorData::F32(values) => values.len(),
            TensorData::Raw(bytes) => bytes.len() / self.storage.bytes(),
        }
    }
}

/// Writes a safetensors file atomically (see [`atomic_write`]). Tensors are ordered by alignment and name, metadata by
/// key, so the same content gives the same bytes.
pub fn write_safetensors(
    path: impl AsRef<Path>,
    tensors: &[TensorToWrite<'_>],
    metadata: &BTreeMap<String, String>,
) -> Result<(), WeightsError> {
    let path = path.as_ref();
    let (header, order) = checked_header(path, tensors, metadata)?;
    atomic_write(path, |out| body(out, &header, tensors, &order))
}

/// As [`write_safetensors`], into memory or any other writer. `name` stands for the path in messages.
pub fn write_safetensors_to(
    name: &str,
    out: &mut dyn Write,
    tensors: &[TensorToWrite<'_>],
    metadata: &BTreeMap<String, String>,
) -> Result<(), WeightsError> {
    let path = Path::new(name);
    let (header, order) = checked_header(path, tensors, metadata)?;
    body(out, &header, tensors, &order)
        .map_err(|source| WeightsError::Write { file: path.to_path_buf(), source })
}

/// What a file's header says of a tensor.
pub(crate) struct TensorHead {
    pub name: String,
    pub shape: Vec<usize>,
    pub storage: Storage,
}

/// Writes a safetensors file atomically and one tensor at a time: `numbers` gives the f32 values of a tensor, by its
/// index, when its turn comes.
pub(crate) fn write_safetensors_streamed<'a>(
    path: &Path,
    heads: &[TensorHead],
    metadata: &BTreeMap<String, String>,
    progress: &SaveProgress,
    mut numbers: impl FnMut(usize) -> Result<Cow<'a, [f32]>, WeightsError>,
) -> Result<(), WeightsError> {
    let (header, order) = header(path, heads, metadata)?;
    let mut failed = None;
    let written = atomic_write(path, |out| {
        out.write_all(&header)?;
        for &i in &order {
            let head = &heads[i];
            let values = numbers(i).and_then(|values| {
                check_range(path, &head.name, &values, head.storage)?;
                Ok(values)
            });
            let values = values.map_err(|e| {
                failed = Some(e);
                io::Error::other("a tensor could not be read")
            })?;
            write_f32(out, &values, head.storage)?;
            progress.add(values.len())?;
        }
        Ok(())
    });
    failed.map_or(written, Err)
}

/// Refuses numbers that would become infinite. Weights are far smaller; one that is not would spoil every picture.
pub(crate) fn check_range(
    file: &Path,
    tensor: &str,
    values: &[f32],
    storage: Storage,
) -> Result<(), WeightsError> {
    // What rounds to more than the largest finite number, (2 - 2^-10) 2^15.
    const F16_BOUND: f32 = 65520.0;
    let beyond = values.iter().find(|v| v.is_finite() && v.abs() >= F16_BOUND);
    match beyond.filter(|_| storage == Storage::F16) {
        None => Ok(()),
        Some(&value) => {
            Err(WeightsError::Range { file: file.to_path_buf(), tensor: tensor.to_string(), value })
        }
    }
}

#[derive(serde::Serialize)]
struct Entry<'a> {
    dtype: &'a str,
    shape: &'a [usize],
    data_offsets: [usize; 2],
}

/// The header of tensors whose data was looked at.
fn checked_header(
    path: &Path,
    tensors: &[TensorToWrite<'_>],
    metadata: &BTreeMap<String, String>,
) -> Result<(Vec<u8>, Vec<usize>), WeightsError> {
    for tensor in tensors {
        let whole = !matches!(tensor.data, TensorData::Raw(b) if b.len() % tensor.storage.bytes() != 0);
        if !whole || tensor.shape.iter().product::<usize>() != tensor.given() {
            return Err(WeightsError::WrongData {
                file: path.to_path_buf(),
                tensor: tensor.name.clone(),
                shape: tensor.shape.clone(),
                given: tensor.given(),
            });
        }
    }
    let heads: Vec<TensorHead> = tensors
        .iter()
        .map(|t| TensorHead { name: t.name.clone(), shape: t.shape.clone(), storage: t.storage })
        .collect();
    header(path, &heads, metadata)
}

/// The header with its length before it, and the order of the tensors.
fn header(
    path: &Path,
    tensors: &[TensorHead],
    metadata: &BTreeMap<String, String>,
) -> Result<(Vec<u8>, Vec<usize>), WeightsError> {
    let mut names = HashSet::new();
    for tensor in tensors {
        if !names.insert(tensor.name.as_str()) {
            let file = path.to_path_buf();
            return Err(WeightsError::DuplicateTensor { file, tensor: tensor.name.clone() });
        }
    }
    // Widest elements first, so that every tensor is aligned to its element.
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&i| {
        (std::cmp::Reverse(tensors[i].storage.bytes()), tensors[i].storage.name(), &tensors[i].name)
    });
    let failed = |e: serde_json::Error| WeightsError::Write { file: path.to_path_buf(), source: e.into() };
    let mut json = b"{".to_vec();
    if !metadata.is_empty() {
        json.extend(b"\"__metadata__\":");
        serde_json::to_writer(&mut json, metadata).map_err(failed)?;
    }
    let mut offset = 0;
    for &i in &order {
        let tensor = &tensors[i];
        let end = offset + tensor.shape.iter().product::<usize>() * tensor.storage.bytes();
        if json.len() > 1 {
            json.push(b',');
        }
        serde_json::to_writer(&mut json, &tensor.name).map_err(failed)?;
        json.push(b':');
        let entry = Entry { dtype: tensor.storage.name(), shape: &tensor.shape, data_offsets: [offset, end] };
        serde_json::to_writer(&mut json, &entry).map_err(failed)?;
        offset = end;
    }
    json.push(b'}');
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend(json);
    Ok((header, order))
}

fn body(
    out: &mut dyn Write,
    header: &[u8],
    tensors: &[TensorToWrite<'_>],
    order: &[usize],
) -> io::Result<()> {
    out.write_all(header)?;
    for &i in order {
        match tensors[i].data {
            TensorData::Raw(bytes) => out.write_all(bytes)?,
            TensorData::F32(values) => write_f32(out, values, tensors[i].storage)?,
        }
    }
    Ok(())
}

/// In pieces, so that a large tensor is never held twice.
fn write_f32(out: &mut dyn Write, values: &[f32], storage: Storage) -> io::Result<()> {
    values.chunks(1 << 16).try_for_each(|piece| out.write_all(&f32_to_bytes(piece, storage)))
}
