//! Weights that are not kept: a plan packs each when it comes to it, into memory that all of them share. Slower by the time
//! of packing, with the same bits.

use std::sync::Arc;

use super::entry::{Packed, bytes_of};
use super::{Entries, Form, Loaded, Streaming, WeightStore};
use crate::error::CpuError;
use crate::kernels::gemm::PackedMatrix;
use crate::{Isa, Values};

/// Weights as they are stored, for plans that read them while they run.
pub trait StoredWeights: Send + Sync {
    /// A weight's numbers by its full name, row-major; `None` where there is none of this name.
    fn stored(&self, name: &str) -> Option<Values<'_>>;
    /// Says that a weight was read, and will not be before the next run.
    fn done(&self, _name: &str) {}
}

/// Which of weights of these sizes in bytes are kept where those that are may take `most` bytes together. The largest are,
/// as long as they fit, so that the memory through which the others pass is small.
pub fn resident(sizes: &[usize], most: usize) -> Vec<bool> {
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(sizes[i]));
    let mut left = most;
    let mut kept = vec![false; sizes.len()];
    for i in order {
        if sizes[i] <= left {
            left -= sizes[i];
            kept[i] = true;
        }
    }
    kept
}

impl WeightStore {
    /// Keeps at most this many bytes of packed weights from the next loading on ([`resident`] says which) and reads the
    /// others from `source` whenever they are wanted; `None` keeps all. Weights that are read as they are, like biases, are
    /// always kept.
    pub fn stream(&self, beyond: Option<usize>, source: &Arc<dyn StoredWeights>) {
        let mut entries = self.entries.write().unwrap_or_else(|e| e.into_inner());
        entries.streaming = beyond.map(|resident| Streaming { resident, source: Arc::clone(source) });
    }

    /// Takes back the memory of a matrix that [`Loaded::stream`] packed.
    pub(crate) fn give_back(&self, matrix: PackedMatrix) {
        *self.passing.lock().unwrap_or_else(|e| e.into_inner()) = matrix.into_memory();
    }
}

impl Entries {
    /// Marks what is to be streamed, and what no longer is as not loaded.
    pub(super) fn choose_resident(&mut self, isa: Isa) -> Result<(), CpuError> {
        let matrices = self.list.iter_mut().filter(|entry| entry.form != Form::Raw).collect::<Vec<_>>();
        let kept = match &self.streaming {
            None => vec![true; matrices.len()],
            Some(streaming) => {
                let size = |entry: &&mut super::Entry| bytes_of(isa, &entry.shape, &entry.form);
                let sizes = matrices.iter().map(size).collect::<Result<Vec<_>, _>>()?;
                resident(&sizes, streaming.resident)
            }
        };
        for (entry, kept) in matrices.into_iter().zip(kept) {
            match (&entry.packed, kept) {
                (Packed::Streamed, true) => entry.packed = Packed::Empty,
                (_, false) => entry.packed = Packed::Streamed,
                (_, true) => {}
            }
        }
        Ok(())
    }
}

impl Loaded<'_> {
    /// A weight that is not kept, packed now; `None` for one that is.
    pub(crate) fn stream(
        &self,
        position: usize,
        store: &WeightStore,
    ) -> Result<Option<PackedMatrix>, CpuError> {
        let entry = &self.0.list[position];
        let (Packed::Streamed, Some(streaming)) = (&entry.packed, &self.0.streaming) else { return Ok(None) };
        let Some(values) = streaming.source.stored(&entry.name) else {
            return Err(CpuError::MissingWeight { name: entry.name.clone(), shape: entry.shape.clone() });
        };
        entry.check(&values)?;
        let runtime = &store.runtime;
        let mut memory = std::mem::take(&mut *store.passing.lock().unwrap_or_else(|e| e.into_inner()));
        memory.reserve(self.most_streamed(runtime.isa)?);
        let Packed::Matrix(mut matrix) = entry.empty(runtime.isa, memory)? else { return Ok(None) };
        matrix.fill(&runtime.pool, &values)?;
        drop(values);
        streaming.source.done(&entry.name);
        Ok(Some(matrix))
    }

    /// Bytes of the largest weight that passes.
    fn most_streamed(&self, isa: Isa) -> Result<usize, CpuError> {
        let streamed = self.0.list.iter().filter(|entry| matches!(entry.packed, Packed::Streamed));
        let sizes = streamed.map(|entry| bytes_of(isa, &entry.shape, &entry.form));
        Ok(sizes.collect::<Result<Vec<_>, _>>()?.into_iter().max().unwrap_or(0))
    }
}
