//! Weights in the forms that kernels read: packed once when they are loaded, shared by all plans of a model. Where memory is
//! short a part of them stays where it is stored, and is packed anew whenever a node wants it.

mod entry;
mod stream;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};

use velatura_graph::DType;

use crate::error::CpuError;
use crate::kernels::gemm::{PackedMatrix, Tiling};
use crate::runtime::Runtime;
use crate::{AlignedBytes, Values};
pub(crate) use entry::bytes_of;
use entry::{Entry, Packed};
pub use stream::{StoredWeights, resident};

/// How a kernel wants a weight.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// As it is in the model: f32, row-major.
    Raw,
    /// Packed for a linear layer that reads activations of this type.
    Linear(DType),
    /// Packed for a gated linear layer that reads activations of this type.
    LinearGated(DType),
    /// Packed for a linear layer in 8 bits.
    LinearInt8,
    /// Packed for a gated linear layer in 8 bits.
    LinearInt8Gated,
    /// Packed for the input gradient of a linear layer.
    LinearGradient(DType),
    /// Packed for a convolution in this many groups.
    Conv(DType, usize),
    /// Packed for a convolution by Winograd's algorithm with this tiling.
    Winograd(DType, Tiling),
    /// Packed for the input gradient of a convolution in this many groups with this stride.
    ConvGradient(DType, usize, [usize; 2]),
    /// Packed for the input gradient of a convolution by Winograd's algorithm with this tiling.
    WinogradGradient(DType, Tiling),
}

#[derive(Default)]
struct Entries {
    list: Vec<Entry>,
    index: HashMap<(String, Form), usize>,
    streaming: Option<Streaming>,
}

/// That only some of the packed weights are kept.
struct Streaming {
    /// Bytes of those that are.
    resident: usize,
    /// Where the others are read.
    source: Arc<dyn StoredWeights>,
}

/// The weights of one model in all forms that its plans asked for.
pub struct WeightStore {
    runtime: Arc<Runtime>,
    entries: RwLock<Entries>,
    /// Where weights that are not kept are packed, one after another.
    passing: Mutex<AlignedBytes>,
}

/// The weights while a plan runs.
pub(crate) struct Loaded<'a>(RwLockReadGuard<'a, Entries>);

impl WeightStore {
    /// An empty store; executors register what they need.
    pub fn new(runtime: &Arc<Runtime>) -> Arc<Self> {
        let runtime = Arc::clone(runtime);
        Arc::new(WeightStore { runtime, entries: RwLock::default(), passing: Mutex::default() })
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
        entries.choose_resident(self.runtime.isa)?;
        let streamed = |packed: &Packed| matches!(packed, Packed::Streamed);
        let mut filled: Vec<&mut Entry> =
            entries.list.iter_mut().filter(|e| wanted(&e.packed) && !streamed(&e.packed)).collect();
        // New memory is asked for at once, so that large pages hold what is small as well.
        let mut lengths = Vec::new();
        for entry in &filled {
            if matches!(entry.packed, Packed::Empty) {
                lengths.push(bytes_of(self.runtime.isa, &entry.shape, &entry.form)?);
            }
        }
        let mut memory = AlignedBytes::pieces(&lengths).into_iter();
        for entry in &mut filled {
            let Some(values) = find(&entry.name).map(Into::into) else {
                return Err(CpuError::MissingWeight { name: entry.name.clone(), shape: entry.shape.clone() });
            };
            entry.check(&values)?;
            if matches!(entry.packed, Packed::Empty) {
                entry.packed = entry.empty(self.runtime.isa, memory.next().unwrap_or_default())?;
            }
            entry.fill(&self.runtime, values)?;
        }
        Ok(())
    }

    /// Bytes of all packed weights, and of the memory through which others pass.
    pub fn bytes(&self) -> usize {
        let entries = self.entries.read().unwrap_or_else(|e| e.into_inner());
        let passing = self.passing.lock().unwrap_or_else(|e| e.into_inner()).len();
        entries.list.iter().map(|entry| entry.packed.bytes()).sum::<usize>() + passing
    }

    pub(crate) fn loaded(&self) -> Loaded<'_> {
        Loaded(self.entries.read().unwrap_or_else(|e| e.into_inner()))
    }
}

impl Loaded<'_> {
    pub(crate) fn raw(&self, position: usize) -> Result<&[f32], CpuError> {
        match &self.0.list[position].packed {
            Packed::Raw(values) => Ok(values.typed()),
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
