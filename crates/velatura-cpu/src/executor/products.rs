//! Nodes that are matrix products at heart: linear layers, convolutions, attention.

use velatura_graph::op::{Attention, Epilogue, MatMul, Window};
use velatura_graph::{DType, Graph, Node, Op, Shortcuts, ValueId};

use super::dispatch::Frame;
use crate::Data;
use crate::error::CpuError;
use crate::kernels::attention::{self, AttentionShape, Gradients, Mask, Rows};
use crate::kernels::gemm::{
    self, ConvAlgorithm, ConvGeometry, GemmError, LinearAlgorithm, MatmulGeometry, Orders, PackedMatrix,
};
use crate::runtime::Runtime;
use crate::weights::Form;
use crate::{Isa, ThreadPool};

/// Packs a weight `[out, in]` for one of the two directions of a linear layer.
type PackLinear = fn(&ThreadPool, Isa, DType, &[f32], [usize; 2]) -> Result<PackedMatrix, GemmError>;

/// Which input of a node is a weight that its kernel wants packed, and how.
pub(super) fn packed_weight(graph: &Graph, node: usize, isa: Isa) -> Option<(usize, Form)> {
    let node = &graph.nodes()[node];
    let dtype = || graph.ty(node.inputs[0]).dtype;
    match &node.op {
        Op::Linear(op) => Some((
            1,
            match (op.int8, op.gate) {
                (false, None) => Form::Linear(dtype()),
                (false, Some(_)) => Form::LinearGated(dtype()),
                (true, None) => Form::LinearInt8,
                (true, Some(_)) => Form::LinearInt8Gated,
            },
        )),
        Op::LinearInputGradient(_) => Some((1, Form::LinearGradient(dtype()))),
        Op::Conv2d(conv) => Some(match conv_algorithm(graph, node, isa) {
            ConvAlgorithm::Direct => (1, Form::Conv(dtype(), conv.window.groups)),
            ConvAlgorithm::Winograd(tiling) => (1, Form::Winograd(dtype(), tiling)),
        }),
        Op::Conv2dInputGradient(op) => Some(match conv_algorithm(graph, node, isa) {
            ConvAlgorithm::Direct => (1, Form::ConvGradient(dtype(), op.window.groups, op.window.stride)),
            ConvAlgorithm::Winograd(tiling) => (1, Form::WinogradGradient(dtype(), tiling)),
        }),
        _ => None,
    }
}

/// How a convolution or its gradient is computed. In a graph that is trained the weights are packed anew at every step; some
/// graphs ask to be computed as they are written.
pub(super) fn conv_algorithm(graph: &Graph, node: &Node, isa: Isa) -> ConvAlgorithm {
    let trained = || graph.nodes().iter().any(|node| matches!(node.op, Op::Conv2dWeightGradient(_)));
    let computed = gemm::compute_dtype(isa, graph.ty(node.inputs[0]).dtype);
    let rough = graph.shortcuts() == Shortcuts::Rough;
    let tiling = geometry(graph, node).and_then(|g| match node.op {
        Op::Conv2dWeightGradient(_) => {
            gemm::winograd_pays_for_weight_gradient(&g).filter(|_| !gemm::on_tiles(isa, computed))
        }
        Op::Conv2dInputGradient(_) => {
            gemm::winograd_pays(isa, &g.input_gradient()?, computed, !trained(), rough)
        }
        _ => gemm::winograd_pays(isa, &g, computed, !trained(), rough),
    });
    tiling
        .filter(|_| graph.shortcuts() > Shortcuts::None)
        .map_or(ConvAlgorithm::Direct, ConvAlgorithm::Winograd)
}

/// How a linear layer, or the gradient of its input, is computed: by the rows of one image, so that a picture does not depend on
/// its batch. Those in 8 bits have one way.
pub(super) fn linear_algorithm(graph: &Graph, node: &Node, isa: Isa) -> LinearAlgorithm {
    let ty = graph.ty(node.inputs[0]);
    let tokens = match ty.shape.as_slice() {
        [_, inner @ .., _] => inner.iter().product(),
        _ => 1,
    };
    let [_, inputs, outputs] = layer_sizes(graph, node);
    let computed = gemm::compute_dtype(isa, ty.dtype);
    let rough = graph.shortcuts() == Shortcuts::Rough;
    let levels = gemm::strassen_pays(tokens, inputs, outputs, computed, rough);
    levels
        .filter(|_| {
            graph.shortcuts() > Shortcuts::None
                && !gemm::on_tiles(isa, computed)
                && !gemm::in_thirds(isa, computed)
        })
        .map_or(LinearAlgorithm::Direct(Orders::default()), LinearAlgorithm::Strassen)
}

/// Rows, inputs and outputs of the product of a linear layer, or of the gradient of its input.
fn layer_sizes(graph: &Graph, node: &Node) -> [usize; 3] {
    let x = graph.ty(node.inputs[0]);
    let weight = &graph.ty(node.inputs[1]).shape;
    let outputs = if matches!(node.op, Op::Linear(_)) { weight[0] } else { weight[1] };
    [x.elements() / x.last(), x.last(), outputs]
}

/// Scratch memory that the kernel of a node wants.
pub(super) fn scratch_bytes(graph: &Graph, node: usize, runtime: &Runtime) -> usize {
    let (node, isa) = (&graph.nodes()[node], runtime.isa);
    let Some(&first) = node.inputs.first() else { return 0 };
    let storage = graph.ty(first).dtype;
    match &node.op {
        Op::Linear(op) if op.int8 => {
            let ty = graph.ty(first);
            gemm::linear_int8_scratch_bytes(ty.elements() / ty.last(), ty.last())
        }
        Op::Linear(_) | Op::LinearInputGradient(_) => {
            let algorithm = linear_algorithm(graph, node, isa);
            gemm::linear_scratch_bytes(isa, storage, layer_sizes(graph, node), algorithm)
        }
        Op::LinearWeightGradient(_) => {
            let [m, inputs, outputs] = linear_sizes(graph, node);
            gemm::linear_weight_gradient_scratch_bytes(isa, storage, m, inputs, outputs)
        }
        Op::MatMul(op) => gemm::matmul_scratch_bytes(isa, storage, &matmul_geometry(graph, node, op)),
        Op::Conv2d(_) => geometry(graph, node)
            .map_or(0, |g| gemm::conv2d_scratch_bytes(isa, storage, &g, conv_algorithm(graph, node, isa))),
        Op::Conv2dInputGradient(_) => {
            let algorithm = conv_algorithm(graph, node, isa);
            geometry(graph, node)
                .map_or(0, |g| gemm::conv2d_input_gradient_scratch_bytes(isa, storage, &g, algorithm))
        }
        Op::Conv2dWeightGradient(_) => {
            let algorithm = conv_algorithm(graph, node, isa);
            geometry(graph, node)
                .map_or(0, |g| gemm::conv2d_weight_gradient_scratch_bytes(isa, storage, &g, algorithm))
        }
        _ => 0,
    }
}

/// Rows, inputs and outputs of the linear layer whose weight gradient a node is.
fn linear_sizes(graph: &Graph, node: &Node) -> [usize; 3] {
    let (x, dy) = (graph.ty(node.inputs[0]), graph.ty(node.inputs[1]));
    [x.elements() / x.last(), x.last(), dy.last()]
}

fn matmul_geometry(graph: &Graph, node: &Node, op: &MatMul) -> MatmulGeometry {
    let [a, b, out] = [node.inputs[0], node.inputs[1], node.outputs[0]].map(|v| graph.ty(v).shape.as_slice());
    let rank = a.len();
    MatmulGeometry {
        batch: a[..rank - 2].iter().product(),
        m: out[rank - 2],
        n: out[rank - 1],
        k: a[if op.transpose_a { rank - 2 } else { rank - 1 }],
        transpose_a: op.transpose_a,
        transpose_b: op.transpose_b,
        broadcast_b: b.len() == 2 && rank > 2,
    }
}

fn four(shape: &[usize]) -> Option<[usize; 4]> {
    shape.try_into().ok()
}

/// The convolution that a node runs, or is the adjoint of.
fn geometry(graph: &Graph, node: &Node) -> Option<ConvGeometry> {
    let shape = |value: ValueId| four(&graph.ty(value).shape);
    let (window, image, weight): (&Window, [usize; 4], [usize; 4]) = match &node.op {
        Op::Conv2d(op) => (&op.window, shape(node.inputs[0])?, shape(node.inputs[1])?),
        Op::Conv2dInputGradient(op) => (&op.window, shape(node.outputs[0])?, shape(node.inputs[1])?),
        Op::Conv2dWeightGradient(op) => (&op.window, shape(node.inputs[0])?, shape(node.outputs[0])?),
        _ => return None,
    };
    Some(ConvGeometry {
        batch: image[0],
        height: image[1],
        width: image[2],
        in_channels: image[3],
        out_channels: weight[0],
        kernel: [weight[2], weight[3]],
        stride: window.stride,
        padding: window.padding,
        groups: window.groups,
    })
}

impl Frame<'_> {
    /// Runs the node if it is one of these.
    pub(super) fn product(&self, index: usize, node: &Node, packed: Option<usize>) -> Result<bool, CpuError> {
        let (pool, isa) = (&self.runtime.pool, self.runtime.isa);
        let input = |i: usize| self.read(node.inputs[i]);
        let shape = |i: usize| self.ty(node.inputs[i]).shape.as_slice();
        let out = || self.write(node.outputs[0]);
        let scratch = || self.memory.scratch(index);
        let matrix = || packed.map(|position| self.matrix(position)).transpose();
        match &node.op {
            Op::Linear(op) => {
                let epilogue = gemm::Epilogue { gate: op.gate, ..self.epilogue(node, &op.epilogue)? };
                let pack = if op.gate.is_some() { PackedMatrix::linear_gated } else { PackedMatrix::linear };
                self.linear(index, node, packed, &epilogue, pack)?;
            }
            Op::LinearInputGradient(op) => {
                let residual = op.residual.then(|| input(2)).transpose()?;
                let epilogue = gemm::Epilogue { residual, ..gemm::Epilogue::default() };
                self.linear(index, node, packed, &epilogue, PackedMatrix::linear_input_gradient)?;
            }
            Op::LinearWeightGradient(_) => {
                let sizes = linear_sizes(self.graph, node);
                if let Some(out) = self.write_f32(node.outputs[0]) {
                    gemm::linear_weight_gradient(pool, isa, input(0)?, input(1)?, sizes, out, scratch())?;
                }
            }
            Op::MatMul(op) => {
                let geometry = matmul_geometry(self.graph, node, op);
                gemm::matmul(pool, isa, &geometry, input(0)?, input(1)?, out(), scratch())?;
            }
            Op::Conv2d(op) => {
                let (Some(geometry), Some(weight)) = (geometry(self.graph, node), matrix()?) else {
                    return Ok(false);
                };
                let epilogue = self.epilogue(node, &op.epilogue)?;
                gemm::conv2d(pool, isa, &geometry, input(0)?, weight, &epilogue, out(), scratch())?;
            }
            Op::Conv2dInputGradient(op) => {
                let (Some(geometry), Some(weight)) = (geometry(self.graph, node), matrix()?) else {
                    return Ok(false);
                };
                let (dy, residual) = (input(0)?, op.residual.then(|| input(2)).transpose()?);
                gemm::conv2d_input_gradient(pool, isa, &geometry, dy, weight, residual, out(), scratch())?;
            }
            Op::Conv2dWeightGradient(_) => {
                let Some(geometry) = geometry(self.graph, node) else { return Ok(false) };
                if let Some(out) = self.write_f32(node.outputs[0]) {
                    let (g, algorithm) = (&geometry, conv_algorithm(self.graph, node, isa));
                    let (x, dy) = (input(0)?, input(1)?);
                    gemm::conv2d_weight_gradient(pool, isa, g, algorithm, x, dy, out, scratch())?;
                }
            }
            Op::Attention(op) => {
                let attention = attention_shape(op, shape(0), shape(1));
                let [q, k, v] = [0, 1, 2].map(|i| -> Result<_, CpuError> {
                    let order = self.order(node.inputs[i]);
                    Ok(Rows { order, ..Rows::packed(input(i)?, &attention) })
                });
                let (q, k, v) = (q?, k?, v?);
                let mask = self.mask(node, op.mask)?;
                let lse = self.write_f32(node.outputs[1]);
                attention::forward(
                    pool,
                    isa,
                    &attention,
                    q,
                    k,
                    v,
                    mask,
                    op.int8,
                    out(),
                    self.order(node.outputs[0]),
                    lse,
                );
            }
            Op::AttentionGradient(op) => {
                let attention = attention_shape(&op.forward, shape(0), shape(1));
                let [q, k, v] = [input(0)?, input(1)?, input(2)?].map(|x| Rows::packed(x, &attention));
                let mask = self.mask(node, op.forward.mask)?;
                let next = 3 + usize::from(op.forward.mask);
                let (o, lse, grad) = (input(next)?, self.read_f32(node.inputs[next + 1])?, input(next + 2)?);
                let [q_grad, k_grad, v_grad] = [0, 1, 2].map(|i| self.write(node.outputs[i]));
                let gradients = Gradients { q: q_grad, k: k_grad, v: v_grad };
                attention::backward(pool, isa, &attention, q, k, v, mask, o, lse, grad, gradients);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// A linear layer or its input gradient. A weight that is computed in the graph is packed on the spot.
    fn linear(
        &self,
        index: usize,
        node: &Node,
        packed: Option<usize>,
        epilogue: &gemm::Epilogue<'_>,
        pack: PackLinear,
    ) -> Result<(), CpuError> {
        let (pool, isa) = (&self.runtime.pool, self.runtime.isa);
        let ty = self.ty(node.inputs[0]);
        let rows = ty.elements() / ty.last();
        let own;
        let weight = match packed {
            Some(position) => self.matrix(position)?,
            None => {
                let shape = &self.ty(node.inputs[1]).shape;
                own = pack(pool, isa, ty.dtype, self.read_f32(node.inputs[1])?, [shape[0], shape[1]])?;
                &own
            }
        };
        let (x, out, scratch) =
            (self.read(node.inputs[0])?, self.write(node.outputs[0]), self.memory.scratch(index));
        let algorithm = match linear_algorithm(self.graph, node, isa) {
            LinearAlgorithm::Direct(_) => {
                let [input, output] = [node.inputs[0], node.outputs[0]].map(|value| self.order(value));
                LinearAlgorithm::Direct(Orders { input, output })
            }
            strassen => strassen,
        };
        Ok(gemm::linear(pool, isa, algorithm, x, rows, weight, epilogue, out, scratch)?)
    }

    fn mask(&self, node: &Node, given: bool) -> Result<Option<Mask<'_>>, CpuError> {
        let Some(shape) = given.then(|| four(&self.ty(node.inputs[3]).shape)).flatten() else {
            return Ok(None);
        };
        Ok(Some(Mask { data: self.read_f32(node.inputs[3])?, shape }))
    }

    fn epilogue(&self, node: &Node, epilogue: &Epilogue) -> Result<gemm::Epilogue<'_>, CpuError> {
        let bias = epilogue.bias_input().map(|i| self.read_f32(node.inputs[i])).transpose()?;
        let read = |place: Option<usize>| -> Result<Option<Data<'_>>, CpuError> {
            place.map(|i| self.read(node.inputs[i])).transpose()
        };
        Ok(gemm::Epilogue {
            bias,
            per_image: read(epilogue.per_image_input())?,
            activation: epilogue.activation,
            gate: None,
            residual: read(epilogue.residual_input())?,
        })
    }
}

fn attention_shape(op: &Attention, q: &[usize], k: &[usize]) -> AttentionShape {
    AttentionShape {
        batch: q[0],
        heads: op.heads,
        q_tokens: q[1],
        k_tokens: k[1],
        head_dim: q[2] / op.heads,
        causal: op.causal,
        scale: op.scale,
    }
}
