//! Precision as a policy: decides how each value is stored.

use super::rewrite::Rewriter;
use crate::graph::{Graph, Node, ValueId};
use crate::op::{Attention, Cast, Linear, Op};
use crate::types::{DType, TensorType};

/// In which precision a graph is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// Single precision throughout: the reference.
    #[default]
    F32,
    /// Products read bf16 and accumulate in f32; activations are stored as bf16. Weights, statistics, reductions,
    /// losses and the gradients of weights stay f32, and so does what is computed from f32 values of full size.
    Bf16,
    /// As [`Precision::Bf16`], and linear layers over tokens (`[N, T, C]`) multiply 8-bit numbers, as the scores of attention
    /// may. What is read once for an
    /// image (timesteps, pooled texts) and convolutions stay bf16.
    Int8,
}

/// Applies a precision to a graph in single precision. Outputs are f32 under either.
pub fn lower_precision(graph: Graph, precision: Precision) -> Graph {
    if precision == Precision::F32 {
        return graph;
    }
    let int8 = precision == Precision::Int8;
    let mut lowering = Lowering { rewriter: Rewriter::new(&graph), graph: &graph, int8 };
    graph.nodes().iter().for_each(|node| lowering.visit(node));
    let outputs: Vec<ValueId> = graph.outputs().iter().map(|(_, v)| *v).collect();
    for value in outputs {
        let now = lowering.rewriter.value(value);
        let f32 = lowering.cast(now, DType::F32, &graph.nodes()[graph.values()[value.index()].producer]);
        lowering.rewriter.replace(value, f32);
    }
    lowering.rewriter.finish()
}

struct Lowering<'a> {
    rewriter: Rewriter<'a>,
    graph: &'a Graph,
    int8: bool,
}

impl Lowering<'_> {
    fn dtype(&self, value: ValueId) -> DType {
        self.rewriter.new.ty(value).dtype
    }

    fn cast(&mut self, value: ValueId, to: DType, near: &Node) -> ValueId {
        let ty = self.rewriter.new.ty(value).clone();
        if ty.dtype == to || !ty.dtype.is_float() {
            return value;
        }
        let ty = TensorType::new(ty.shape, to);
        let op = Op::Cast(Cast { to });
        self.rewriter.new.push(op, vec![value], vec![ty], near.segment, near.recomputed)[0]
    }

    fn visit(&mut self, node: &Node) {
        use DType::{Bf16, F32};
        let mut inputs = self.rewriter.values(&node.inputs);
        let first = inputs.first().map_or(F32, |&v| self.dtype(v));
        // Which inputs must be bf16, and how the first output is stored; later outputs are statistics.
        let (lowered, stored): (usize, DType) = match &node.op {
            Op::Input(_) | Op::Parameter(_) | Op::Constant(_) => (0, F32),
            Op::Linear(_) | Op::Conv2d(_) | Op::LinearInputGradient(_) | Op::Conv2dInputGradient(_) => {
                (1, Bf16)
            }
            Op::MatMul(_) => (2, Bf16),
            Op::Attention(_) => (3, Bf16),
            Op::LinearWeightGradient(_) | Op::Conv2dWeightGradient(_) => (2, F32),
            Op::AttentionGradient(_) => (3, Bf16),
            Op::GroupNorm(_) | Op::LayerNorm(_) | Op::RmsNorm(_) => (0, Bf16),
            Op::Reduce(_) | Op::CrossEntropy(_) | Op::EmbeddingGradient(_) => (0, F32),
            Op::Concat(_) if inputs.iter().any(|&v| self.dtype(v) == Bf16) => (inputs.len(), Bf16),
            Op::Binary(_) => (0, self.sum_dtype(node, &inputs)),
            Op::Cast(cast) => (0, cast.to),
            _ => (0, first),
        };
        for input in inputs.iter_mut().take(lowered) {
            *input = self.cast(*input, Bf16, node);
        }
        if let Op::AttentionGradient(op) = &node.op {
            // The result and its gradient follow the optional mask; the normalisers between them stay f32.
            let result = 3 + usize::from(op.forward.mask);
            for place in [result, result + 2] {
                inputs[place] = self.cast(inputs[place], Bf16, node);
            }
        }
        let same_as_first = matches!(node.op, Op::AttentionGradient(_));
        let types = node.outputs.iter().enumerate().map(|(i, &v)| {
            let ty = self.graph.ty(v);
            let dtype = match ty.dtype {
                DType::I32 => DType::I32,
                _ if i == 0 || same_as_first => stored,
                _ => F32,
            };
            TensorType::new(ty.shape.clone(), dtype)
        });
        let types = types.collect();
        let op = match &node.op {
            Op::Linear(linear) if self.int8 && self.graph.ty(node.inputs[0]).shape.len() == 3 => {
                Op::Linear(Linear { int8: true, ..linear.clone() })
            }
            Op::Attention(attention) if self.int8 => {
                Op::Attention(Attention { int8: true, ..attention.clone() })
            }
            op => op.clone(),
        };
        self.rewriter.emit(node, op, inputs, types);
    }

    /// f32 wins where it fills the whole result; a row, a scalar or a weight that is broadcast does not.
    fn sum_dtype(&self, node: &Node, inputs: &[ValueId]) -> DType {
        let result = &self.graph.ty(node.outputs[0]).shape;
        let full = |v: &&ValueId| &self.rewriter.new.ty(**v).shape == result;
        let any = |dtype: DType| inputs.iter().filter(full).any(|&v| self.dtype(v) == dtype);
        if any(DType::Bf16) && !any(DType::F32) { DType::Bf16 } else { DType::F32 }
    }
}
