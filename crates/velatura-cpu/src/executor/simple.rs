//! Nodes that are one call of a memory-bound kernel.

use velatura_graph::op::{BinaryFunction, GroupNorm, ReduceKind, ResizeMode, UnaryFunction};
use velatura_graph::{Node, Op, ValueId};

use super::dispatch::{Frame, is_free};
use crate::Data;
use crate::error::CpuError;
use crate::kernels::elementwise::{self as ew, Binary, Pool, Reduce, Resize, Unary};
use crate::kernels::norm::{self, RowNorm, RowNormKind};

impl Frame<'_> {
    /// Runs the node if it is one of these.
    pub(super) fn simple(&self, node: &Node) -> Result<bool, CpuError> {
        if is_free(&node.op) {
            return Ok(true);
        }
        let (pool, isa) = (&self.runtime.pool, self.runtime.isa);
        let input = |i: usize| self.read(node.inputs[i]);
        let shape = |i: usize| self.ty(node.inputs[i]).shape.as_slice();
        let out = || self.write(node.outputs[0]);
        let out_shape = self.ty(node.outputs[0]).shape.as_slice();
        match &node.op {
            Op::Unary(op) => ew::unary(pool, isa, unary(op.function), input(0)?, out()),
            Op::UnaryGradient(op) => match op.function {
                UnaryFunction::Activation(activation) => {
                    ew::activation_backward(pool, isa, activation, input(0)?, input(1)?, out());
                }
                _ => return Ok(false),
            },
            Op::Binary(op) => {
                let Some(function) = binary(op.function) else { return Ok(false) };
                ew::binary(pool, isa, function, input(0)?, shape(0), input(1)?, shape(1), out(), out_shape);
            }
            Op::Cast(_) => ew::cast(pool, isa, input(0)?, out()),
            Op::Permute(op) => ew::permute(pool, input(0)?, shape(0), &op.axes, out()),
            Op::Slice(op) => {
                let mut starts = vec![0; shape(0).len()];
                starts[op.axis] = op.start;
                let steps = vec![1; starts.len()];
                ew::slice(pool, input(0)?, shape(0), &starts, &steps, out(), out_shape);
            }
            Op::Pad(op) => {
                let (mut before, mut after) = (vec![0; shape(0).len()], vec![0; shape(0).len()]);
                (before[op.axis], after[op.axis]) = (op.before, op.after);
                ew::pad(pool, input(0)?, shape(0), &before, &after, 0.0, out());
            }
            Op::Concat(op) => {
                let parts: Vec<(Data<'_>, &[usize])> = (0..node.inputs.len())
                    .map(|i| Ok((input(i)?, shape(i))))
                    .collect::<Result<_, CpuError>>()?;
                ew::concat(pool, &parts, op.axis, out());
            }
            Op::BroadcastTo(_) => ew::expand(pool, input(0)?, shape(0), out(), out_shape),
            Op::Reduce(op) => {
                let kind = match op.kind {
                    ReduceKind::Sum => Reduce::Sum,
                    ReduceKind::Mean => Reduce::Mean,
                    ReduceKind::Max => Reduce::Max,
                };
                ew::reduce(pool, isa, kind, input(0)?, shape(0), &op.axes, out());
            }
            Op::Softmax(op) => {
                ew::softmax(pool, isa, op.log, input(0)?, self.ty(node.inputs[0]).last(), out())
            }
            Op::SoftmaxGradient(op) => {
                let columns = self.ty(node.inputs[0]).last();
                ew::softmax_backward(pool, isa, op.log, input(0)?, input(1)?, columns, out());
            }
            Op::Embedding(_) => {
                let ids = indices(input(1)?, shape(0)[0])?;
                ew::embedding(pool, isa, input(0)?, shape(0)[1], ids, out());
            }
            Op::EmbeddingGradient(op) => {
                let ids = indices(input(0)?, op.rows)?;
                if let Some(table) = self.write_f32(node.outputs[0]) {
                    ew::embedding_backward(pool, isa, ids, input(1)?, out_shape[1], table);
                }
            }
            Op::Resize(op) => {
                ew::resize(
                    pool,
                    isa,
                    resize(op.mode),
                    input(0)?,
                    image(shape(0)),
                    out(),
                    [op.height, op.width],
                );
            }
            Op::ResizeGradient(op) => {
                let [_, h, w, _] = image(shape(0));
                ew::resize_backward(pool, isa, resize(op.mode), input(0)?, image(out_shape), out(), [h, w]);
            }
            Op::AvgPool2d(op) => {
                let window = window(op.kernel, op.stride);
                ew::average_pool(pool, isa, &window, input(0)?, image(shape(0)), out());
            }
            Op::AvgPool2dGradient(op) => {
                let window = window(op.kernel, op.stride);
                ew::average_pool_backward(pool, isa, &window, input(0)?, image(out_shape), out());
            }
            Op::Gated(op) => {
                let c = self.ty(node.outputs[0]).last();
                ew::gated(pool, isa, op.activation, input(0)?, c, out());
            }
            Op::GatedGradient(op) => {
                let c = self.ty(node.inputs[1]).last();
                ew::gated_backward(pool, isa, op.activation, input(0)?, c, input(1)?, out());
            }
            Op::GroupNorm(op) => {
                let norm = group_norm(op, shape(0));
                let affine = self.affine(op, &node.inputs[1..])?;
                let stats = self.write_f32(node.outputs[1]);
                norm::group_norm(pool, isa, &norm, input(0)?, &affine, out(), stats);
            }
            Op::GroupNormGradient(op) => {
                let norm = group_norm(&op.forward, shape(0));
                let affine = self.affine(&op.forward, &node.inputs[2..])?;
                let (x, stats) = (input(0)?, self.read_f32(node.inputs[1])?);
                let dy = 4 + usize::from(op.forward.modulated);
                let residual = op.residual.then(|| input(dy + 1)).transpose()?;
                let vector = |i: usize| node.outputs.get(i).and_then(|&v| self.write_f32(v));
                let gradients = norm::GroupNormGradients {
                    dx: out(),
                    dgamma: vector(1),
                    dbeta: vector(2),
                    dmodulation: vector(3),
                };
                norm::group_norm_backward(
                    pool,
                    isa,
                    &norm,
                    x,
                    &affine,
                    stats,
                    input(dy)?,
                    residual,
                    gradients,
                );
            }
            Op::LayerNorm(op) => {
                let norm = row_norm(RowNormKind::Layer, op.eps, shape(0));
                let gamma = op.gamma.then(|| self.read_f32(node.inputs[1])).transpose()?;
                let beta = op.beta.then(|| self.read_f32(node.inputs[2])).transpose()?;
                let stats = self.write_f32(node.outputs[1]);
                let order = self.order(node.outputs[0]);
                norm::row_norm(pool, isa, &norm, input(0)?, gamma, beta, out(), order, stats);
            }
            Op::LayerNormGradient(op) => {
                let norm = row_norm(RowNormKind::Layer, 0.0, shape(0));
                let gamma = op.gamma.then(|| self.read_f32(node.inputs[2])).transpose()?;
                let dy = 2 + usize::from(op.gamma);
                self.row_norm_gradient(node, &norm, gamma, dy, op.residual)?;
            }
            Op::RmsNorm(op) => {
                let norm = row_norm(RowNormKind::Rms, op.eps, shape(0));
                let (gamma, stats) = (self.read_f32(node.inputs[1])?, self.write_f32(node.outputs[1]));
                let order = self.order(node.outputs[0]);
                norm::row_norm(pool, isa, &norm, input(0)?, Some(gamma), None, out(), order, stats);
            }
            Op::RmsNormGradient(_) => {
                let norm = row_norm(RowNormKind::Rms, 0.0, shape(0));
                let gamma = self.read_f32(node.inputs[2])?;
                self.row_norm_gradient(node, &norm, Some(gamma), 3, false)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What a group norm scales and shifts by: gamma, beta and perhaps a modulation, in this order.
    fn affine(&self, op: &GroupNorm, inputs: &[ValueId]) -> Result<norm::Affine<'_>, CpuError> {
        Ok(norm::Affine {
            gamma: Some(self.read_f32(inputs[0])?),
            beta: Some(self.read_f32(inputs[1])?),
            modulation: op.modulated.then(|| self.read(inputs[2])).transpose()?,
        })
    }

    fn row_norm_gradient(
        &self,
        node: &Node,
        row: &RowNorm,
        gamma: Option<&[f32]>,
        dy: usize,
        residual: bool,
    ) -> Result<(), CpuError> {
        let (pool, isa) = (&self.runtime.pool, self.runtime.isa);
        let (x, stats) = (self.read(node.inputs[0])?, self.read_f32(node.inputs[1])?);
        let dgamma = self.write_f32(node.outputs[1]);
        let dbeta = node.outputs.get(2).and_then(|&v| self.write_f32(v));
        let residual = residual.then(|| self.read(node.inputs[dy + 1])).transpose()?;
        let (dy, dx) = (self.read(node.inputs[dy])?, self.write(node.outputs[0]));
        norm::row_norm_backward(pool, isa, row, x, gamma, stats, dy, residual, dx, dgamma, dbeta);
        Ok(())
    }
}

fn unary(function: UnaryFunction) -> Unary {
    match function {
        UnaryFunction::Neg => Unary::Neg,
        UnaryFunction::Exp => Unary::Exp,
        UnaryFunction::Log => Unary::Log,
        UnaryFunction::Sqrt => Unary::Sqrt,
        UnaryFunction::Rsqrt => Unary::Rsqrt,
        UnaryFunction::Square => Unary::Square,
        UnaryFunction::Abs => Unary::Abs,
        UnaryFunction::Sign => Unary::Sign,
        UnaryFunction::Sin => Unary::Sin,
        UnaryFunction::Cos => Unary::Cos,
        UnaryFunction::Reciprocal => Unary::Reciprocal,
        UnaryFunction::Affine { scale, shift } => Unary::Affine { scale, shift },
        UnaryFunction::Clamp { min, max } => Unary::Clamp { min, max },
        UnaryFunction::Pow { exponent } => Unary::Pow(exponent),
        UnaryFunction::Activation(activation) => Unary::Activation(activation),
    }
}

fn binary(function: BinaryFunction) -> Option<Binary> {
    match function {
        BinaryFunction::Add => Some(Binary::Add),
        BinaryFunction::Sub => Some(Binary::Sub),
        BinaryFunction::Mul => Some(Binary::Mul),
        BinaryFunction::Div => Some(Binary::Div),
        BinaryFunction::Max => Some(Binary::Max),
        BinaryFunction::Min => Some(Binary::Min),
        BinaryFunction::Greater | BinaryFunction::Equal => None,
    }
}

fn resize(mode: ResizeMode) -> Resize {
    match mode {
        ResizeMode::Nearest => Resize::Nearest,
        ResizeMode::Bilinear => Resize::Bilinear,
    }
}

fn window(kernel: usize, stride: usize) -> Pool {
    Pool { kernel: [kernel; 2], stride: [stride; 2], padding: [0; 2] }
}

/// The axes of an image, whose number the shape rule has checked.
fn image(shape: &[usize]) -> [usize; 4] {
    [shape[0], shape[1], shape[2], shape[3]]
}

fn group_norm(op: &GroupNorm, shape: &[usize]) -> norm::GroupNorm {
    let [batch, pixels, channels] = GroupNorm::split(shape);
    norm::GroupNorm { batch, pixels, channels, groups: op.groups, eps: op.eps, activation: op.activation }
}

fn row_norm(kind: RowNormKind, eps: f32, shape: &[usize]) -> RowNorm {
    let channels = shape.last().copied().unwrap_or(1);
    RowNorm { kind, rows: shape.iter().product::<usize>() / channels, channels, eps }
}

fn indices(data: Data<'_>, rows: usize) -> Result<&[i32], CpuError> {
    let Data::I32(ids) = data else { unreachable!("the shape rule asks for indices") };
    match ids.iter().find(|&&id| usize::try_from(id).map_or(true, |id| id >= rows)) {
        Some(&index) => Err(CpuError::Index { index, rows }),
        None => Ok(ids),
    }
}
