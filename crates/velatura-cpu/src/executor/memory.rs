//! Where the values of a running graph are: the only place that turns the plan's offsets into slices.

use half::bf16;
use velatura_graph::{DType, Graph, MemoryPlan, Placement, ValueId};

use crate::error::CpuError;
use crate::weights::Loaded;
use crate::{Data, DataMut};

/// The memory of one run.
pub(super) struct Memory<'a> {
    pub arena: *mut u8,
    pub plan: &'a MemoryPlan,
    pub graph: &'a Graph,
    pub constants: &'a [Option<Vec<f32>>],
    pub raw: &'a [Option<usize>],
    pub weights: &'a Loaded<'a>,
    pub inputs: &'a [Option<Data<'a>>],
}

/// The value whose memory this one shares.
pub(super) fn root(plan: &MemoryPlan, value: ValueId) -> ValueId {
    match plan.placements[value.index()] {
        Placement::Alias(root) => root,
        _ => value,
    }
}

/// Offset and bytes of a value that lives in the arena.
pub(super) fn arena_place(plan: &MemoryPlan, value: ValueId) -> Option<(usize, usize)> {
    match plan.placements[value.index()] {
        Placement::Arena { offset, bytes } => Some((offset, bytes)),
        _ => None,
    }
}

impl<'a> Memory<'a> {
    /// The elements of a value, to read.
    pub fn read(&self, value: ValueId) -> Result<Data<'_>, CpuError> {
        let root = root(self.plan, value);
        let ty = self.graph.ty(value);
        if let Some((offset, _)) = arena_place(self.plan, root) {
            // SAFETY: the plan keeps this range for the value alone until its last reader has run, and
            // offsets are multiples of 64. Its producer has written it.
            return Ok(unsafe {
                let start = self.arena.add(offset);
                match ty.dtype {
                    DType::F32 => Data::F32(std::slice::from_raw_parts(start.cast(), ty.elements())),
                    DType::Bf16 => {
                        Data::Bf16(std::slice::from_raw_parts(start.cast::<bf16>(), ty.elements()))
                    }
                    DType::I32 => Data::I32(std::slice::from_raw_parts(start.cast(), ty.elements())),
                }
            });
        }
        if let Some(constant) = &self.constants[root.index()] {
            return Ok(Data::F32(constant));
        }
        if let Some(position) = self.raw[root.index()] {
            return Ok(Data::F32(self.weights.raw(position)?));
        }
        match self.inputs[root.index()] {
            Some(data) => Ok(data),
            None => {
                Err(CpuError::MissingInput { name: format!("value {}", value.index()), expected: ty.clone() })
            }
        }
    }

    /// The elements of a value that its producer, running now, is to write. Nothing else may hold them.
    #[allow(clippy::mut_from_ref)]
    pub fn write(&self, value: ValueId) -> Option<DataMut<'_>> {
        let (offset, _) = arena_place(self.plan, value)?;
        let ty = self.graph.ty(value);
        // SAFETY: the plan gives this range to the value alone from its producer to its last reader; the
        // executor asks for it once, when the producer runs.
        unsafe {
            let start = self.arena.add(offset);
            Some(match ty.dtype {
                DType::F32 => DataMut::F32(std::slice::from_raw_parts_mut(start.cast(), ty.elements())),
                DType::Bf16 => {
                    DataMut::Bf16(std::slice::from_raw_parts_mut(start.cast::<bf16>(), ty.elements()))
                }
                DType::I32 => DataMut::I32(std::slice::from_raw_parts_mut(start.cast(), ty.elements())),
            })
        }
    }

    /// The scratch memory of a node; empty when it asked for none.
    #[allow(clippy::mut_from_ref)]
    pub fn scratch(&self, node: usize) -> &mut [u8] {
        match self.plan.scratch[node] {
            // SAFETY: as for `write`; the range belongs to this node while it runs.
            Some((offset, bytes)) => unsafe { std::slice::from_raw_parts_mut(self.arena.add(offset), bytes) },
            None => &mut [],
        }
    }
}
