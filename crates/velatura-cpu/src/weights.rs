//! Weights in the forms that kernels read: packed once when they are loaded, shared by all plans of a model.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, RwLock, RwLockReadGuard};


use crate::error::CpuError;
use crate::runtime::Runtime;

/// How a kernel wants a weight.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// As it is in the model: f32, row-major.
    Raw,
}

/// A weight in one form.
pub enum Packed {
    /// Not loaded yet.
    Empty,
    /// [`Form::Raw`].
    Raw(Vec<f32>),
}

struct Entry {
    name: String,
    shape: Vec<usize>,
    form: Form,
    packed: Packed,
}

#[derive(Default)]
struct Entries {
    list: Vec<Entry>,
    index: HashMap<(String, Form), usize>,
}

/// The weights of one model in all forms that its plans asked for.
pub struct WeightStore {
    runtime: Arc<Runtime>,
    entries: RwLock<Entries>,
}

/// The weights while a plan runs.
pub(crate) struct Loaded<'a>(RwLockReadGuard<'a, Entries>);

impl WeightStore {
    /// An empty store; executors register what they need.
    pub fn new(runtime: &Arc<Runtime>) -> Arc<Self> {
        Arc::new(WeightStore { runtime: Arc::clone(runtime), entries: RwLock::default() })
    }

    /// Asks for a weight in a form; returns its position.
    pub(crate) fn register(&self, name: &str, shape: &[usize], form: Form) -> usize {
        let mut entries = self.entries.write().unwrap_or_else(|e| e.into_inner());
        let key = (name.to_string(), form.clone());
        if let Some(&position) = entries.index.get(&key) {
            return position;
        }
        let position = entries.list.len();
        let entry = Entry { name: key.0.clone(), shape: shape.to_vec(), form, packed: Packed::Empty };
        entries.list.push(entry);
        entries.index.insert(key, position);
        position
    }

    /// Packs every registered weight anew from the model's weights (f32, row-major, by full name).
    pub fn load<'w>(&self, find: &dyn Fn(&str) -> Option<Cow<'w, [f32]>>) -> Result<(), CpuError> {
        self.fill(find, |_| true)
    }

    /// Packs the registered weights that have not been loaded yet: after a further plan was made.
    pub fn load_missing<'w>(&self, find: &dyn Fn(&str) -> Option<Cow<'w, [f32]>>) -> Result<(), CpuError> {
        self.fill(find, |packed| matches!(packed, Packed::Empty))
    }

    fn fill<'w>(
        &self,
        find: &dyn Fn(&str) -> Option<Cow<'w, [f32]>>,
        wanted: impl Fn(&Packed) -> bool,
    ) -> Result<(), CpuError> {
        let mut entries = self.entries.write().unwrap_or_else(|e| e.into_inner());
        for entry in entries.list.iter_mut().filter(|e| wanted(&e.packed)) {
            let Some(values) = find(&entry.name) else {
                return Err(CpuError::MissingWeight { name: entry.name.clone(), shape: entry.shape.clone() });
            };
            if values.len() != entry.shape.iter().product::<usize>() {
                return Err(CpuError::WrongWeight {
                    name: entry.name.clone(),
                    shape: entry.shape.clone(),
                    given: values.len(),
                });
            }
            let _ = &self.runtime;
            entry.packed = match entry.form {
                Form::Raw => Packed::Raw(values.into_owned()),
            };
        }
        Ok(())
    }

    /// Bytes of all packed weights.
    pub fn bytes(&self) -> usize {
        let entries = self.entries.read().unwrap_or_else(|e| e.into_inner());
        let bytes = |entry: &Entry| match &entry.packed {
            Packed::Empty => 0,
            Packed::Raw(values) => values.len() * 4,
        };
        entries.list.iter().map(bytes).sum()
    }

    pub(crate) fn loaded(&self) -> Loaded<'_> {
        Loaded(self.entries.read().unwrap_or_else(|e| e.into_inner()))
    }
}

impl Loaded<'_> {
    pub(crate) fn raw(&self, position: usize) -> Result<&[f32], CpuError> {
        match &self.0.list[position].packed {
            Packed::Raw(values) => Ok(values),
            _ => Err(self.not_loaded(position)),
        }
    }

    fn not_loaded(&self, position: usize) -> CpuError {
        CpuError::NotLoaded(self.0.list[position].name.clone())
    }
}
