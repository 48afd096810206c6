//! Weights in the forms that kernels read: packed once when they are loaded, shared by all plans of a model.

use std::collections::HashMap;
use std::sync::{Arc, RwLock, RwLockReadGuard};

use velatura_graph::DType;

use crate::Values;
use crate::error::CpuError;
use crate::kernels::gemm::{GemmError, PackedMatrix, Purpose};
use crate::runtime::Runtime;

/// How a kernel wants a weight.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// As it is in the model: f32, row-major.
    Raw,
    /// Packed for a linear layer that reads activations of this type.
    Linear(DType),
    /// Packed for a linear layer in 8 bits.
    LinearInt8,
    /// Packed for the input gradient of a linear layer.
    LinearGradient(DType),
    /// Packed for a convolution in this many groups.
    Conv(DType, usize),
    /// Packed for a convolution by Winograd's algorithm.
    Winograd(DType),
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

    /// Packs every registered weight anew from the model's weights (row-major, by full name).
    pub fn load<'w, V: Into<Values<'w>>>(&self, find: &dyn Fn(&str) -> Option<V>) -> Result<(), CpuError> {
        self.fill(find, |_| true)
    }

    /// Packs the registered weights that have not been loaded yet: after a further plan was made.
    pub fn load_missing<'w, V: Into<Values<'w>>>(
        &self,
        find: &dyn Fn(&str) -> Option<V>,
    ) -> Result<(), CpuError> {
        self.fill(find, |packed| matches!(packed, Packed::Empty))
    }

    fn fill<'w, V: Into<Values<'w>>>(
        &self,
        find: &dyn Fn(&str) -> Option<V>,
        wanted: impl Fn(&Packed) -> bool,
    ) -> Result<(), CpuError> {
        let mut entries = self.entries.write().unwrap_or_else(|e| e.into_inner());
        for entry in entries.list.iter_mut().filter(|e| wanted(&e.packed)) {
            let Some(values) = find(&entry.name).map(Into::into) else {
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
    fn pack(&mut self, runtime: &Runtime, values: Values<'_>) -> Result<(), CpuError> {
        self.packed = match std::mem::replace(&mut self.packed, Packed::Empty) {
            Packed::Matrix(mut matrix) => {
                matrix.fill(&runtime.pool, &values)?;
                Packed::Matrix(matrix)
            }
            Packed::Raw(mut old) => {
                old.copy_from_slice(&values.into_f32());
                Packed::Raw(old)
            }
            Packed::Empty if self.form == Form::Raw => Packed::Raw(values.into_f32().into_owned()),
            Packed::Empty => Packed::Matrix(self.matrix(runtime, &values)?),
        };
        Ok(())
    }

    fn matrix(&self, runtime: &Runtime, values: &Values<'_>) -> Result<PackedMatrix, GemmError> {
        let axis = |i: usize| self.shape.get(i).copied().unwrap_or(1);
        let (dtype, groups, stride, purpose) = match self.form {
            Form::Linear(dtype) => (dtype, 1, [1; 2], Purpose::Linear),
            Form::LinearInt8 => (DType::F32, 1, [1; 2], Purpose::LinearInt8),
            Form::LinearGradient(dtype) => (dtype, 1, [1; 2], Purpose::LinearInputGradient),
            Form::Conv(dtype, groups) => (dtype, groups, [1; 2], Purpose::Conv),
            Form::Winograd(dtype) => (dtype, 1, [1; 2], Purpose::ConvWinograd),
            Form::ConvGradient(dtype, groups, stride) => (dtype, groups, stride, Purpose::ConvInputGradient),
            Form::Raw => unreachable!("raw weights are not packed"),
        };
        let shape = [0, 1, 2, 3].map(axis);
        PackedMatrix::new(&runtime.pool, runtime.isa, dtype, values, shape, groups, stride, purpose)
    }
}
