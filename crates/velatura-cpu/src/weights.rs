//! Weights in the forms that kernels read: packed once when they are loaded, shared by all plans of a model.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, RwLock, RwLockReadGuard};

use velatura_graph::DType;

use crate::error::CpuError;
use crate::kernels::gemm::{GemmError, PackedMatrix};
use crate::runtime::Runtime;

/// How a kernel wants a weight.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// As it is in the model: f32, row-major.
    Raw,
    /// Packed for a linear layer that reads activations of this type.
    Linear(DType),
    /// Packed for the input gradient of a linear layer.
    LinearGradient(DType),
    /// Packed for a convolution in this many groups.
    Conv(DType, usize),
    /// Packed for the input gradient of a convolution in this many groups with this stride.
    ConvGradient(DType, usize, [usize; 2]),
}

/// A weight in one form.
pub enum Packed {
    /// Not loaded yet.
    Empty,
    /// [`Form::Raw`].
    Raw(Vec<f32>),
    /// Any other form.
    Matrix(PackedMatrix),
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
            entry.pack(&self.runtime, values)?;
        }
        Ok(())
    }

    /// Bytes of all packed weights.
    pub fn bytes(&self) -> usize {
        let entries = self.entries.read().unwrap_or_else(|e| e.into_inner());
        let bytes = |entry: &Entry| match &entry.packed {
            Packed::Empty => 0,
            Packed::Raw(values) => values.len() * 4,
            Packed::Matrix(matrix) => matrix.bytes(),
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

    pub(crate) fn matrix(&self, position: usize) -> Result<&PackedMatrix, CpuError> {
        match &self.0.list[position].packed {
            Packed::Matrix(matrix) => Ok(matrix),
            _ => Err(self.not_loaded(position)),
        }
    }

    fn not_loaded(&self, position: usize) -> CpuError {
        CpuError::NotLoaded(self.0.list[position].name.clone())
    }
}

impl Entry {
    fn pack(&mut self, runtime: &Runtime, values: Cow<'_, [f32]>) -> Result<(), CpuError> {
        if let Packed::Matrix(matrix) = &mut self.packed {
            return Ok(matrix.repack(&runtime.pool, &values)?);
        }
        self.packed = match self.form {
            Form::Raw => match std::mem::replace(&mut self.packed, Packed::Empty) {
                Packed::Raw(mut old) => {
                    old.copy_from_slice(&values);
                    Packed::Raw(old)
                }
                _ => Packed::Raw(values.into_owned()),
            },
            _ => Packed::Matrix(self.matrix(runtime, &values)?),
        };
        Ok(())
    }

    fn matrix(&self, runtime: &Runtime, values: &[f32]) -> Result<PackedMatrix, GemmError> {
        let (pool, isa) = (&runtime.pool, runtime.isa);
        let axis = |i: usize| self.shape.get(i).copied().unwrap_or(1);
        let shape = [0, 1, 2, 3].map(axis);
        match self.form {
            Form::Linear(dtype) => PackedMatrix::linear(pool, isa, dtype, values, [shape[0], shape[1]]),
            Form::LinearGradient(dtype) => {
                PackedMatrix::linear_input_gradient(pool, isa, dtype, values, [shape[0], shape[1]])
            }
            Form::Conv(dtype, groups) => PackedMatrix::conv2d(pool, isa, dtype, values, shape, groups),
            Form::ConvGradient(dtype, groups, stride) => {
                PackedMatrix::conv2d_input_gradient(pool, isa, dtype, values, shape, groups, stride)
            }
            Form::Raw => unreachable!("raw weights are not packed"),
        }
    }
}
