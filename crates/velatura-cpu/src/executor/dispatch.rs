//! From a node to the kernel that runs it.

use velatura_graph::reference::Array;
use velatura_graph::{Graph, Node, Op, TensorType, ValueId};

use super::memory::Memory;
use crate::error::CpuError;
use crate::kernels::Order;
use crate::kernels::elementwise as ew;
use crate::kernels::gemm::PackedMatrix;
use crate::runtime::Runtime;
use crate::weights::Loaded;
use crate::{Data, DataMut};

/// What a node needs while it runs.
pub(super) struct Frame<'a> {
    pub runtime: &'a Runtime,
    pub graph: &'a Graph,
    pub memory: &'a Memory<'a>,
    pub orders: &'a [Order],
    pub weights: &'a Loaded<'a>,
    /// The weight of the node that runs, where it is packed for this run alone.
    pub streamed: Option<&'a PackedMatrix>,
}

impl Frame<'_> {
    pub fn ty(&self, value: ValueId) -> &TensorType {
        self.graph.ty(value)
    }

    /// How a value lies in memory.
    pub fn order(&self, value: ValueId) -> Order {
        self.orders[value.index()]
    }

    pub fn read(&self, value: ValueId) -> Result<Data<'_>, CpuError> {
        self.memory.read(value)
    }

    /// An input that kernels only take in single precision: biases, statistics, scales.
    pub fn read_f32(&self, value: ValueId) -> Result<&[f32], CpuError> {
        match self.memory.read(value)? {
            Data::F32(values) => Ok(values),
            // The precision pass keeps these in f32.
            other => unreachable!("{:?} where f32 is kept", other.dtype()),
        }
    }

    /// The packed weight of the node that runs.
    pub fn matrix(&self, position: usize) -> Result<&PackedMatrix, CpuError> {
        self.streamed.map_or_else(|| self.weights.matrix(position), Ok)
    }

    /// The memory of an output; outputs that nothing reads have some when a kernel makes several.
    pub fn write(&self, value: ValueId) -> DataMut<'_> {
        self.memory.write(value).unwrap_or(DataMut::F32(&mut []))
    }

    pub fn write_f32(&self, value: ValueId) -> Option<&mut [f32]> {
        match self.memory.write(value)? {
            DataMut::F32(values) => Some(values),
            _ => None,
        }
    }

    pub fn run_node(&self, index: usize, node: &Node, packed: Option<usize>) -> Result<(), CpuError> {
        if self.simple(node)? || self.product(index, node, packed)? {
            return Ok(());
        }
        self.reference(node)
    }

    /// For the few operations without a kernel of their own: the reference meaning, slowly.
    fn reference(&self, node: &Node) -> Result<(), CpuError> {
        let inputs: Vec<Array> = node
            .inputs
            .iter()
            .map(|&v| {
                let data: Vec<f64> = match self.read(v)? {
                    Data::F32(x) => x.iter().map(|&x| f64::from(x)).collect(),
                    Data::Bf16(x) => x.iter().map(|x| f64::from(x.to_f32())).collect(),
                    Data::I32(x) => x.iter().map(|&x| f64::from(x)).collect(),
                };
                Ok(Array { shape: self.ty(v).shape.clone(), data })
            })
            .collect::<Result<_, CpuError>>()?;
        let types: Vec<TensorType> = node.outputs.iter().map(|&v| self.ty(v).clone()).collect();
        let results = node.op.operation().evaluate(&inputs.iter().collect::<Vec<_>>(), &types);
        for (&value, result) in node.outputs.iter().zip(results) {
            let numbers: Vec<f32> = result.data.iter().map(|&x| x as f32).collect();
            match self.write(value) {
                DataMut::F32(out) if out.len() == numbers.len() => out.copy_from_slice(&numbers),
                DataMut::I32(out) => out.iter_mut().zip(numbers).for_each(|(o, x)| *o = x as i32),
                out @ DataMut::Bf16(_) => {
                    ew::cast(&self.runtime.pool, self.runtime.isa, Data::F32(&numbers), out);
                }
                DataMut::F32(_) => {}
            }
        }
        Ok(())
    }
}

/// Whether an operation computes nothing: its value is there already.
pub(super) fn is_free(op: &Op) -> bool {
    op.is_source() || matches!(op, Op::Reshape(_) | Op::Detach(_))
}
