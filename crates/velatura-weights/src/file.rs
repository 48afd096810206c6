//! Reading: a memory-mapped file whose tensors are touched only when they are asked for.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::Metadata;

use crate::bytes::Bytes;
use crate::source::missing;
use crate::{DType, Storage, TensorEntry, TensorSource, WeightsError};

/// A safetensors file, checked in full when it is opened: header length, JSON, every tensor's size against its
/// shape and type, no overlap, no hole, nothing missing at the end. The numbers themselves are read when asked for.
pub struct SafetensorsFile {
    path: PathBuf,
    bytes: Bytes,
    /// Where the tensors' data begins.
    data: usize,
    header: Metadata,
    tensors: BTreeMap<String, TensorEntry>,
    texts: BTreeMap<String, String>,
}

/// What the header says of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// Its storage type as the file names it, for example `BF16`.
    pub dtype: String,
    /// Its storage type when it is a plain floating-point type.
    pub storage: Option<Storage>,
    /// Bytes that it takes.
    pub bytes: usize,
}

impl TensorInfo {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

impl SafetensorsFile {
    /// Maps a file into memory and checks its header.
    ///
    /// The file must not be shortened by another program while it is open; writers of this crate never do that,
    /// since they put a new file in the old one's place.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, WeightsError> {
        let path = path.as_ref();
        Self::new(path.to_path_buf(), Bytes::map(path)?)
    }

    /// A file that is part of the program. `name` stands for its path in messages.
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Result<Self, WeightsError> {
        Self::new(PathBuf::from(name), Bytes::Static(bytes))
    }

    /// A file held in memory. `name` stands for its path in messages.
    pub fn from_bytes(name: &str, bytes: Vec<u8>) -> Result<Self, WeightsError> {
        Self::new(PathBuf::from(name), Bytes::Owned(bytes))
    }

    pub(crate) fn new(path: PathBuf, bytes: Bytes) -> Result<Self, WeightsError> {
        let (length, header) = SafeTensors::read_metadata(bytes.get())
            .map_err(|error| WeightsError::from_safetensors(&path, bytes.get(), error))?;
        if let Some(tensor) = duplicate_key(bytes.get().get(8..8 + length).unwrap_or_default()) {
            return Err(WeightsError::DuplicateTensor { file: path, tensor });
        }
        let tensors = header.tensors().into_iter().map(|(name, info)| {
            (name, TensorEntry { shape: info.shape.clone(), dtype: DType::from_safetensors(info.dtype) })
        });
        let tensors = tensors.collect();
        let texts = header.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        Ok(SafetensorsFile { path, bytes, data: length + 8, header, tensors, texts })
    }

    /// The path, or the name given for bytes.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size of the whole file in bytes.
    pub fn file_bytes(&self) -> usize {
        self.bytes.get().len()
    }

    /// All bytes of the file, for hashing and copying.
    pub fn raw(&self) -> &[u8] {
        self.bytes.get()
    }

    /// The file's own text entries.
    pub fn metadata(&self) -> &HashMap<String, String> {
        static NONE: std::sync::LazyLock<HashMap<String, String>> = std::sync::LazyLock::new(HashMap::new);
        self.header.metadata().as_ref().unwrap_or(&NONE)
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names = self.header.offset_keys();
        names.sort_unstable();
        names
    }

    /// What the header says of a tensor.
    pub fn info(&self, name: &str) -> Result<TensorInfo, WeightsError> {
        let info = self.header.info(name).ok_or_else(|| self.missing(name))?;
        Ok(TensorInfo {
            shape: info.shape.clone(),
            dtype: info.dtype.to_string(),
            storage: Storage::from_safetensors(info.dtype),
            bytes: info.data_offsets.1 - info.data_offsets.0,
        })
    }

    /// Whether the file has a tensor.
    pub fn contains(&self, name: &str) -> bool {
        self.header.info(name).is_some()
    }

    /// A tensor's bytes as they are stored, little-endian and row-major.
    pub fn bytes(&self, name: &str) -> Result<&[u8], WeightsError> {
        let (start, end) = self.header.info(name).ok_or_else(|| self.missing(name))?.data_offsets;
        // Both ends were checked against the file when it was opened.
        Ok(self.bytes.part(self.data + start, end - start))
    }

    /// A tensor as f32, row-major: borrowed from the file when it is stored so, else converted.
    pub fn f32(&self, name: &str) -> Result<Cow<'_, [f32]>, WeightsError> {
        self.tensor_f32(name)
    }

    /// As [`SafetensorsFile::f32`], and the shape must be this.
    pub fn f32_of_shape(&self, name: &str, shape: &[usize]) -> Result<Cow<'_, [f32]>, WeightsError> {
        let info = self.info(name)?;
        if info.shape != shape {
            return Err(WeightsError::WrongShape {
                file: self.path.clone(),
                tensor: name.to_string(),
                expected: shape.to_vec(),
                found: info.shape,
            });
        }
        self.f32(name)
    }

    fn missing(&self, name: &str) -> WeightsError {
        missing(&self.path, self.tensors.keys(), name)
    }
}

impl TensorSource for SafetensorsFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn tensors(&self) -> &BTreeMap<String, TensorEntry> {
        &self.tensors
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        &self.texts
    }

    fn tensor_bytes(&self, name: &str) -> Result<Cow<'_, [u8]>, WeightsError> {
        self.bytes(name).map(Cow::Borrowed)
    }

    fn forget(&self, name: &str) {
        if let Some(info) = self.header.info(name) {
            let (start, end) = info.data_offsets;
            self.bytes.forget(self.data + start, end - start);
        }
    }
}

impl std::fmt::Debug for SafetensorsFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SafetensorsFile")
            .field("path", &self.path)
            .field("tensors", &self.names().len())
            .finish()
    }
}

/// The first key that a JSON object has twice. The reference crate keeps the last of two tensors with one name.
fn duplicate_key(header: &[u8]) -> Option<String> {
    struct Keys;
    impl<'de> serde::de::Visitor<'de> for Keys {
        type Value = Option<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut seen = std::collections::HashSet::new();
            let mut twice = None;
            while let Some((key, _)) = map.next_entry::<String, serde::de::IgnoredAny>()? {
                if twice.is_none() && seen.contains(&key) {
                    twice = Some(key.clone());
                }
                seen.insert(key);
            }
            Ok(twice)
        }
    }
    let mut json = serde_json::Deserializer::from_slice(header);
    serde::Deserializer::deserialize_map(&mut json, Keys).ok().flatten()
}
