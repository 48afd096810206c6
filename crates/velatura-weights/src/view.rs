//! Other sources' tensors under other names, in other shapes, as parts or transposed: nothing is copied until a
//! tensor's numbers are asked for, and then only those.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::layout::Form;
use crate::source::missing;
use crate::{TensorEntry, TensorSource, WeightsError};

#[derive(Clone)]
struct Place {
    source: usize,
    name: String,
    form: Form,
}

/// Tensors of one or more sources, named and shaped anew.
#[derive(Clone)]
pub struct TensorView {
    path: PathBuf,
    sources: Vec<Arc<dyn TensorSource>>,
    tensors: BTreeMap<String, TensorEntry>,
    places: BTreeMap<String, Place>,
    metadata: BTreeMap<String, String>,
}

impl TensorView {
    pub(crate) fn new(source: Arc<dyn TensorSource>) -> Self {
        TensorView {
            path: source.path().to_path_buf(),
            metadata: source.metadata().clone(),
            sources: vec![source],
            tensors: BTreeMap::new(),
            places: BTreeMap::new(),
        }
    }

    /// Adds a tensor of the first source under another name. The caller has checked that the shapes fit.
    pub(crate) fn add(&mut self, name: String, shape: Vec<usize>, stored: String, form: Form) {
        let Some(entry) = self.sources[0].tensors().get(&stored) else { return };
        self.tensors.insert(name.clone(), TensorEntry { shape, dtype: entry.dtype });
        self.places.insert(name, Place { source: 0, name: stored, form });
    }

    /// The files that the tensors lie in; for a model of several files under one index, the index.
    pub fn source_paths(&self) -> impl Iterator<Item = &Path> {
        self.sources.iter().map(|source| source.path())
    }

    /// The tensors of several views, each under a prefix.
    pub(crate) fn joined<'a>(path: &Path, views: impl Iterator<Item = (String, &'a TensorView)>) -> Self {
        let mut all = TensorView {
            path: path.to_path_buf(),
            sources: Vec::new(),
            tensors: BTreeMap::new(),
            places: BTreeMap::new(),
            metadata: BTreeMap::new(),
        };
        for (prefix, view) in views {
            let first = all.sources.len();
            all.sources.extend(view.sources.iter().cloned());
            for (name, entry) in &view.tensors {
                all.tensors.insert(format!("{prefix}{name}"), entry.clone());
            }
            for (name, place) in &view.places {
                let place = Place { source: place.source + first, ..place.clone() };
                all.places.insert(format!("{prefix}{name}"), place);
            }
        }
        all
    }
}

impl TensorSource for TensorView {
    fn path(&self) -> &Path {
        &self.path
    }

    fn tensors(&self) -> &BTreeMap<String, TensorEntry> {
        &self.tensors
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    fn tensor_bytes(&self, name: &str) -> Result<Cow<'_, [u8]>, WeightsError> {
        let (Some(place), Some(entry)) = (self.places.get(name), self.tensors.get(name)) else {
            return Err(missing(&self.path, self.tensors.keys(), name));
        };
        let bytes = self.sources[place.source].tensor_bytes(&place.name)?;
        match place.form {
            Form::Whole | Form::Conv1x1 => Ok(bytes),
            Form::Third(third) => {
                let third = third * (bytes.len() / 3)..(third + 1) * (bytes.len() / 3);
                Ok(match bytes {
                    Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[third]),
                    Cow::Owned(bytes) => Cow::Owned(bytes[third].to_vec()),
                })
            }
            Form::Transposed => {
                let (rows, columns) = (entry.shape[0], entry.shape[1]);
                Ok(Cow::Owned(transposed(&bytes, rows, columns, entry.dtype.block().1 / 8)))
            }
        }
    }

    fn forget(&self, name: &str) {
        if let Some(place) = self.places.get(name) {
            self.sources[place.source].forget(&place.name);
        }
    }

    fn tensor_f32(&self, name: &str) -> Result<Cow<'_, [f32]>, WeightsError> {
        let entry = self.tensor(name)?;
        let place = self.places.get(name).filter(|p| p.form == Form::Transposed && entry.dtype.block().0 > 1);
        // Elements of a block cannot be moved one by one as bytes.
        if let Some(place) = place {
            let values = self.sources[place.source].tensor_f32(&place.name)?;
            let (rows, columns) = (entry.shape[0], entry.shape[1]);
            let at = |i: usize| values[i % columns * rows + i / columns];
            return Ok(Cow::Owned((0..values.len()).map(at).collect()));
        }
        let dtype = entry.dtype;
        let read = crate::convert::to_f32(self.tensor_bytes(name)?, dtype);
        read.ok_or_else(|| WeightsError::UnsupportedType {
            file: self.path.clone(),
            tensor: name.to_string(),
            dtype: dtype.to_string(),
        })
    }
}

/// Rows and columns are those of the result.
fn transposed(bytes: &[u8], rows: usize, columns: usize, size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for row in 0..rows {
        for column in 0..columns {
            let at = (column * rows + row) * size;
            out.extend(&bytes[at..at + size]);
        }
    }
    out
}

impl std::fmt::Debug for TensorView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TensorView").field("path", &self.path).field("tensors", &self.tensors.len()).finish()
    }
}
