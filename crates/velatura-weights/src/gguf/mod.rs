//! GGUF, the file format of ggml, versions 2 and 3: keys with values, then tensors of plain numbers or of blocks.

mod cursor;
mod write;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cursor::Cursor;
pub(crate) use write::{GgufTensor, write_gguf_streamed};

use crate::bytes::Bytes;
use crate::source::{Place, PlacedFile};
use crate::{DType, TensorEntry, TensorSource, WeightsError};

/// ggml's own limit.
const MAX_DIMENSIONS: u32 = 4;
/// A hundred times what the largest model here has.
const MAX_TENSORS: usize = 1 << 18;
/// What ComfyUI's converter puts before a tensor's name to keep a shape that ggml's dimensions cannot express.
const ORIGINAL_SHAPE: &str = "comfy.gguf.orig_shape.";

/// A GGUF file, memory-mapped. Shapes are given as PyTorch has them, the slowest dimension first.
pub struct GgufFile {
    file: PlacedFile,
}

impl GgufFile {
    /// Maps a file and checks its header and the places of all tensors.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, WeightsError> {
        let path = path.as_ref();
        Self::new(path.to_path_buf(), Bytes::map(path)?)
    }

    /// A file held in memory. `name` stands for its path in messages.
    pub fn from_bytes(name: &str, bytes: Vec<u8>) -> Result<Self, WeightsError> {
        Self::new(PathBuf::from(name), Bytes::Owned(bytes))
    }

    pub(crate) fn new(path: PathBuf, bytes: Bytes) -> Result<Self, WeightsError> {
        let (tensors, places, metadata) = read(&path, bytes.get())?;
        Ok(GgufFile { file: PlacedFile { path, bytes, tensors, places, metadata } })
    }
}

impl TensorSource for GgufFile {
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

impl std::fmt::Debug for GgufFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GgufFile")
            .field("path", &self.file.path)
            .field("tensors", &self.file.tensors.len())
            .finish()
    }
}

type Read = (BTreeMap<String, TensorEntry>, BTreeMap<String, Place>, BTreeMap<String, String>);

fn read(file: &Path, bytes: &[u8]) -> Result<Read, WeightsError> {
    let mut cursor = Cursor::new(file, bytes);
    let unsupported =
        |reason: String, remedy| WeightsError::Unsupported { file: file.to_path_buf(), reason, remedy };
    if cursor.take(4)? != b"GGUF" {
        return Err(cursor.damaged("it does not begin with GGUF"));
    }
    match cursor.u32()? {
        2 | 3 => {}
        version if version.swap_bytes() <= 3 => {
            return Err(unsupported("it is a big-endian GGUF file".into(), "use the little-endian one"));
        }
        version => {
            return Err(unsupported(
                format!("it is a GGUF file of version {version}; 2 and 3 are read"),
                "convert it again with a current tool",
            ));
        }
    }
    let (tensors, keys) = (cursor.u64()?, cursor.u64()?);
    let mut metadata = BTreeMap::new();
    let mut shapes = BTreeMap::new();
    // Every round takes bytes, so a count that lies ends at the end of the file.
    for _ in 0..keys {
        if metadata.len() == MAX_TENSORS || shapes.len() == MAX_TENSORS {
            return Err(cursor.damaged(&format!("it has more than {MAX_TENSORS} keys")));
        }
        let key = cursor.name()?.to_string();
        match (cursor.value()?, key.strip_prefix(ORIGINAL_SHAPE)) {
            (cursor::Value::Text(text), _) => drop(metadata.insert(key, text)),
            (cursor::Value::Sizes(sizes), Some(name)) => drop(shapes.insert(name.to_string(), sizes)),
            _ => {}
        }
    }
    let alignment = match metadata.get("general.alignment") {
        None => 32,
        Some(text) => text
            .parse::<u64>()
            .ok()
            .filter(|a| a.is_power_of_two() && (8..=1 << 20).contains(a))
            .ok_or_else(|| cursor.damaged(&format!("its alignment is {text}")))?,
    };
    let mut described = BTreeMap::new();
    for _ in 0..tensors {
        if described.len() == MAX_TENSORS {
            return Err(cursor.damaged(&format!("it has more than {MAX_TENSORS} tensors")));
        }
        let name = cursor.name()?.to_string();
        let dimensions = cursor.u32()?;
        let bad = |reason: String| bad(file, &name, reason);
        if dimensions > MAX_DIMENSIONS {
            return Err(bad(format!("it has {dimensions} dimensions")));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let size = cursor.u64()?;
            let size = usize::try_from(size).ok().filter(|&n| n > 0 && n <= i64::MAX as usize);
            shape.push(size.ok_or_else(|| bad("a dimension is zero or beyond any size".into()))?);
        }
        shape.reverse();
        let kind = cursor.u32()?;
        let offset = cursor.u64()?;
        let dtype = dtype(kind).ok_or_else(|| WeightsError::UnsupportedType {
            file: file.to_path_buf(),
            tensor: name.clone(),
            dtype: format!("ggml type {kind}"),
        })?;
        if !shape.last().unwrap_or(&1).is_multiple_of(dtype.block().0) {
            return Err(bad(format!(
                "its rows of {} are no whole blocks of {dtype}",
                shape.last().unwrap_or(&1)
            )));
        }
        if offset % alignment != 0 {
            return Err(bad(format!("its offset {offset} is not aligned to {alignment}")));
        }
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let size =
            elements.and_then(|n| dtype.bytes_for(n)).ok_or_else(|| bad("its size overflows".into()))?;
        if let Some(original) = shapes.get(&name) {
            if original.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) != elements {
                return Err(bad(format!("its original shape {original:?} has another size than {shape:?}")));
            }
            shape = original.clone();
        }
        if described.insert(name.clone(), (TensorEntry { shape, dtype }, offset, size)).is_some() {
            return Err(WeightsError::DuplicateTensor { file: file.to_path_buf(), tensor: name });
        }
    }
    place(file, bytes, (cursor.at() as u64).next_multiple_of(alignment), described)
        .map(|(t, p)| (t, p, metadata))
}

type Placed = (BTreeMap<String, TensorEntry>, BTreeMap<String, Place>);

/// Every tensor within the file, and none within another.
fn place(
    file: &Path,
    bytes: &[u8],
    data: u64,
    described: BTreeMap<String, (TensorEntry, u64, usize)>,
) -> Result<Placed, WeightsError> {
    let (mut tensors, mut places) = (BTreeMap::new(), BTreeMap::new());
    let mut order: Vec<(usize, usize, String)> = Vec::new();
    for (name, (entry, offset, size)) in described {
        let start = data.checked_add(offset);
        let end = start.and_then(|s| s.checked_add(size as u64));
        let (Some(start), Some(end)) = (start, end) else {
            return Err(bad(file, &name, format!("its offset {offset} overflows")));
        };
        if end > bytes.len() as u64 {
            let found = bytes.len() as u64;
            return Err(WeightsError::Truncated { file: file.to_path_buf(), expected: end, found });
        }
        order.push((start as usize, end as usize, name.clone()));
        places.insert(name.clone(), Place { start: start as usize, bytes: size, strides: None });
        tensors.insert(name, entry);
    }
    order.sort_unstable();
    if let Some(pair) = order.windows(2).find(|p| p[1].0 < p[0].1) {
        return Err(bad(file, &pair[1].2, format!("its numbers overlap those of {}", pair[0].2)));
    }
    Ok((tensors, places))
}

fn bad(file: &Path, tensor: &str, reason: String) -> WeightsError {
    WeightsError::BadTensor { file: file.to_path_buf(), tensor: tensor.to_string(), reason }
}

/// ggml's numbers of its types.
fn dtype(kind: u32) -> Option<DType> {
    Some(match kind {
        0 => DType::F32,
        1 => DType::F16,
        2 => DType::Q4_0,
        3 => DType::Q4_1,
        6 => DType::Q5_0,
        7 => DType::Q5_1,
        8 => DType::Q8_0,
        10 => DType::Q2K,
        11 => DType::Q3K,
        12 => DType::Q4K,
        13 => DType::Q5K,
        14 => DType::Q6K,
        24 => DType::I8,
        25 => DType::I16,
        26 => DType::I32,
        27 => DType::I64,
        28 => DType::F64,
        30 => DType::Bf16,
        _ => return None,
    })
}
