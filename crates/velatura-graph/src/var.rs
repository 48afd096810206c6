//! The handle that model code computes with.

use std::ops::{Add, Div, Mul, Neg, Sub};

use crate::builder::Builder;
use crate::graph::ValueId;
use crate::op::*;
use crate::types::{Activation, DType, TensorType};

/// A value of the graph under construction. Copying it copies the handle, not the tensor.
#[derive(Clone, Copy, Debug)]
pub struct Var<'g> {
    pub(crate) builder: &'g Builder,
    pub(crate) id: ValueId,
}

impl<'g> Var<'g> {
    /// Its identity in the graph.
    pub fn id(self) -> ValueId {
        self.id
    }

    /// The builder that records.
    pub fn builder(self) -> &'g Builder {
        self.builder
    }

    /// Shape and element type. For a value that could not be built: a scalar.
    pub fn ty(self) -> TensorType {
        if self.id == ValueId::POISON {
            return TensorType::f32([]);
        }
        self.builder.with_graph(|g| g.ty(self.id).clone())
    }

    /// The length of each axis.
    pub fn shape(self) -> Vec<usize> {
        self.ty().shape
    }

    /// The length of each of exactly `R` axes. With another number of axes the graph is in error, and ones
    /// are returned so that building can go on to the report.
    pub fn dims<const R: usize>(self) -> [usize; R] {
        let ty = self.ty();
        match ty.shape.as_slice().try_into() {
            Ok(dims) => dims,
            Err(_) => {
                if self.id != ValueId::POISON {
                    self.builder.fail_shape("dims", format!("{R} axes expected"), vec![ty]);
                }
                [1; R]
            }
        }
    }

    /// The length of the last axis, the channels.
    pub fn channels(self) -> usize {
        self.ty().last()
    }

    fn apply(self, op: Op, rest: &[Var<'g>]) -> Vec<Var<'g>> {
        let mut inputs = vec![self];
        inputs.extend_from_slice(rest);
        self.builder.push(op, &inputs)
    }

    fn unary(self, function: UnaryFunction) -> Var<'g> {
        self.apply(Op::Unary(Unary { function }), &[])[0]
    }

    fn binary(self, function: BinaryFunction, other: Var<'g>) -> Var<'g> {
        self.apply(Op::Binary(Binary { function }), &[other])[0]
    }

    // Elementwise.

    /// `exp(x)`
    pub fn exp(self) -> Var<'g> {
        self.unary(UnaryFunction::Exp)
    }
    /// Natural logarithm.
    pub fn log(self) -> Var<'g> {
        self.unary(UnaryFunction::Log)
    }
    /// Square root.
    pub fn sqrt(self) -> Var<'g> {
        self.unary(UnaryFunction::Sqrt)
    }
    /// `1 / sqrt(x)`
    pub fn rsqrt(self) -> Var<'g> {
        self.unary(UnaryFunction::Rsqrt)
    }
    /// `x * x`
    pub fn square(self) -> Var<'g> {
        self.unary(UnaryFunction::Square)
    }
    /// Absolute value; its gradient at 0 is 0.
    pub fn abs(self) -> Var<'g> {
        self.unary(UnaryFunction::Abs)
    }
    /// -1, 0 or 1.
    pub fn sign(self) -> Var<'g> {
        self.unary(UnaryFunction::Sign)
    }
    /// Sine of radians.
    pub fn sin(self) -> Var<'g> {
        self.unary(UnaryFunction::Sin)
    }
    /// Cosine of radians.
    pub fn cos(self) -> Var<'g> {
        self.unary(UnaryFunction::Cos)
    }
    /// `1 / x`
    pub fn reciprocal(self) -> Var<'g> {
        self.unary(UnaryFunction::Reciprocal)
    }
    /// `x * scale + shift` with fixed numbers.
    pub fn affine(self, scale: f32, shift: f32) -> Var<'g> {
        self.unary(UnaryFunction::Affine { scale, shift })
    }
    /// Limits to `[min, max]`; the gradient is passed where `min <= x <= max`, so that what has run into a bound can
    /// leave it. (PyTorch did so too until it closed the bounds; 2.15 has them closed.)
    pub fn clamp(self, min: f32, max: f32) -> Var<'g> {
        self.unary(UnaryFunction::Clamp { min, max })
    }
    /// `x^exponent` for positive x.
    pub fn powf(self, exponent: f32) -> Var<'g> {
        self.unary(UnaryFunction::Pow { exponent })
    }
    /// One of the activation functions.
    pub fn activation(self, activation: Activation) -> Var<'g> {
        self.unary(UnaryFunction::Activation(activation))
    }
    /// `x * sigmoid(x)`
    pub fn silu(self) -> Var<'g> {
        self.activation(Activation::Silu)
    }
    /// Exact GELU.
    pub fn gelu(self) -> Var<'g> {
        self.activation(Activation::Gelu)
    }
    /// Logistic function.
    pub fn sigmoid(self) -> Var<'g> {
        self.activation(Activation::Sigmoid)
    }
    /// Hyperbolic tangent.
    pub fn tanh(self) -> Var<'g> {
        self.activation(Activation::Tanh)
    }
    /// `max(x, 0)`
    pub fn relu(self) -> Var<'g> {
        self.activation(Activation::Relu)
    }
    /// The first half of the channels times an activation function of the second half.
    pub fn gated(self, activation: Activation) -> Var<'g> {
        self.apply(Op::Gated(Gated { activation }), &[])[0]
    }
    /// Elementwise maximum with broadcasting.
    pub fn maximum(self, other: Var<'g>) -> Var<'g> {
        self.binary(BinaryFunction::Max, other)
    }
    /// Elementwise minimum with broadcasting.
    pub fn minimum(self, other: Var<'g>) -> Var<'g> {
        self.binary(BinaryFunction::Min, other)
    }
    /// 1 where `self > other`, else 0; no gradient.
    pub fn greater(self, other: Var<'g>) -> Var<'g> {
        self.binary(BinaryFunction::Greater, other)
    }
    /// 1 where `self == other`, else 0; no gradient.
    pub fn equal(self, other: Var<'g>) -> Var<'g> {
        self.binary(BinaryFunction::Equal, other)
    }
    /// The same numbers in another storage type.
    pub fn cast(self, to: DType) -> Var<'g> {
        if self.ty().dtype == to { self } else { self.apply(Op::Cast(Cast { to }), &[])[0] }
    }
    /// The same value, through which no gradient flows.
    pub fn detach(self) -> Var<'g> {
        self.apply(Op::Detach(Detach), &[])[0]
    }

    // Shape.

    /// The same elements under another shape.
    pub fn reshape(self, shape: &[usize]) -> Var<'g> {
        if self.id != ValueId::POISON && self.shape() == shape {
            return self;
        }
        self.apply(Op::Reshape(Reshape { shape: shape.to_vec() }), &[])[0]
    }
    /// Axis `i` of the result is axis `axes[i]` of this.
    pub fn permute(self, axes: &[usize]) -> Var<'g> {
        self.apply(Op::Permute(Permute { axes: axes.to_vec() }), &[])[0]
    }
    /// `length` entries of one axis from `start`.
    pub fn slice(self, axis: usize, start: usize, length: usize) -> Var<'g> {
        self.apply(Op::Slice(Slice { axis, start, length }), &[])[0]
    }
    /// Zeros before and after along one axis.
    pub fn pad(self, axis: usize, before: usize, after: usize) -> Var<'g> {
        self.apply(Op::Pad(Pad { axis, before, after }), &[])[0]
    }
    /// Equal parts along one axis, whose length `count` must divide.
    pub fn chunks(self, axis: usize, count: usize) -> Vec<Var<'g>> {
        let whole = self.shape().get(axis).copied().unwrap_or(1);
        let length = whole / count.max(1);
        if self.id != ValueId::POISON && length * count != whole {
            let reason = format!("axis {axis} of length {whole} does not divide into {count} equal parts");
            self.builder.fail_shape("chunks", reason, vec![self.ty()]);
        }
        (0..count).map(|i| self.slice(axis, i * length, length)).collect()
    }
    /// This and others joined along one axis.
    pub fn concat(self, others: &[Var<'g>], axis: usize) -> Var<'g> {
        self.apply(Op::Concat(Concat { axis }), others)[0]
    }
    /// Repeats axes of length 1 (and adds leading ones) to reach `shape`.
    pub fn broadcast_to(self, shape: &[usize]) -> Var<'g> {
        self.apply(Op::BroadcastTo(BroadcastTo { shape: shape.to_vec() }), &[])[0]
    }

    // Reductions.

    fn reduce(self, kind: ReduceKind, axes: &[usize], keep: bool) -> Var<'g> {
        self.apply(Op::Reduce(Reduce { kind, axes: axes.to_vec(), keep }), &[])[0]
    }
    /// Sum over axes; `keep` leaves them with length 1.
    pub fn sum(self, axes: &[usize], keep: bool) -> Var<'g> {
        self.reduce(ReduceKind::Sum, axes, keep)
    }
    /// Mean over axes.
    pub fn mean(self, axes: &[usize], keep: bool) -> Var<'g> {
        self.reduce(ReduceKind::Mean, axes, keep)
    }
    /// Maximum over axes.
    pub fn max(self, axes: &[usize], keep: bool) -> Var<'g> {
        self.reduce(ReduceKind::Max, axes, keep)
    }
    /// Mean over everything, a scalar.
    pub fn mean_all(self) -> Var<'g> {
        let axes: Vec<usize> = (0..self.ty().rank()).collect();
        self.mean(&axes, false)
    }
    /// Sum over everything, a scalar.
    pub fn sum_all(self) -> Var<'g> {
        let axes: Vec<usize> = (0..self.ty().rank()).collect();
        self.sum(&axes, false)
    }
    /// Sums the axes along which `shape` was broadcast to reach this; the adjoint of broadcasting.
    pub fn sum_to(self, shape: &[usize]) -> Var<'g> {
        let own = self.shape();
        if own == shape || own.len() < shape.len() {
            return self;
        }
        let extra = own.len() - shape.len();
        let axes: Vec<usize> =
            (0..own.len()).filter(|&i| i < extra || (shape[i - extra] == 1 && own[i] != 1)).collect();
        self.sum(&axes, true).reshape(shape)
    }
    /// Softmax over the last axis.
    pub fn softmax(self) -> Var<'g> {
        self.apply(Op::Softmax(Softmax { log: false }), &[])[0]
    }
    /// Logarithm of the softmax over the last axis.
    pub fn log_softmax(self) -> Var<'g> {
        self.apply(Op::Softmax(Softmax { log: true }), &[])[0]
    }
    /// `-log softmax(self)[target]` for each row: logits `[rows, classes]`, targets i32 `[rows]`, result `[rows]`.
    pub fn cross_entropy(self, targets: Var<'g>) -> Var<'g> {
        self.apply(Op::CrossEntropy(CrossEntropy), &[targets])[0]
    }

    // Products.

    /// Matrix product of the last two axes; leading axes agree, or the right side has none.
    pub fn matmul(self, other: Var<'g>) -> Var<'g> {
        self.matmul_transposed(other, false, false)
    }
    /// Matrix product with either side's last two axes exchanged.
    pub fn matmul_transposed(self, other: Var<'g>, transpose_a: bool, transpose_b: bool) -> Var<'g> {
        self.apply(Op::MatMul(MatMul { transpose_a, transpose_b }), &[other])[0]
    }
    /// `x W^T + b` over the last axis; weight `[out, in]`, bias `[out]`.
    pub fn linear(self, weight: Var<'g>, bias: Option<Var<'g>>) -> Var<'g> {
        let mut inputs = vec![weight];
        inputs.extend(bias);
        let op = Linear {
            epilogue: Epilogue { bias: bias.is_some(), ..Epilogue::default() },
            ..Linear::default()
        };
        self.apply(Op::Linear(op), &inputs)[0]
    }
    /// Convolution of an image `[N, H, W, C]` with a weight `[out, in / groups, kh, kw]`.
    pub fn conv2d(self, weight: Var<'g>, bias: Option<Var<'g>>, window: Window) -> Var<'g> {
        let mut inputs = vec![weight];
        inputs.extend(bias);
        let op = Conv2d { window, epilogue: Epilogue { bias: bias.is_some(), ..Epilogue::default() } };
        self.apply(Op::Conv2d(op), &inputs)[0]
    }
    /// Multi-head attention. Queries `[B, Tq, heads * d]`, keys and values `[B, Tk, heads * d]`; the mask is added
    /// to the scores and has shape `[B or 1, heads or 1, Tq or 1, Tk]`. The scale defaults to `1 / sqrt(d)`.
    pub fn attention(
        self,
        keys: Var<'g>,
        values: Var<'g>,
        mask: Option<Var<'g>>,
        heads: usize,
        scale: Option<f32>,
        causal: bool,
    ) -> Var<'g> {
        let scale = scale.unwrap_or_else(|| 1.0 / ((self.channels() / heads.max(1)) as f32).sqrt());
        let mut inputs = vec![keys, values];
        inputs.extend(mask);
        let attention = Attention { heads, scale, causal, mask: mask.is_some(), int8: false };
        self.apply(Op::Attention(attention), &inputs)[0]
    }

    // Normalisation.

    /// Group normalisation over pixels and the channels of each group of `[N, ..., C]`; gamma and beta `[C]`.
    pub fn group_norm(self, gamma: Var<'g>, beta: Var<'g>, groups: usize, eps: f32) -> Var<'g> {
        let op = GroupNorm { groups, eps, modulated: false, activation: None };
        self.apply(Op::GroupNorm(op), &[gamma, beta])[0]
    }
    /// As [`Var::group_norm`], then each image scaled and shifted on its own: modulation `[N, 2 C]` or `[N, 1, .., 2 C]`
    /// holds first what is added to a factor of one, then the summands.
    pub fn group_norm_modulated(
        self,
        gamma: Var<'g>,
        beta: Var<'g>,
        modulation: Var<'g>,
        groups: usize,
        eps: f32,
    ) -> Var<'g> {
        let op = GroupNorm { groups, eps, modulated: true, activation: None };
        self.apply(Op::GroupNorm(op), &[gamma, beta, modulation])[0]
    }
    /// Layer normalisation over the last axis. Beta may only be given with gamma.
    pub fn layer_norm(self, gamma: Option<Var<'g>>, beta: Option<Var<'g>>, eps: f32) -> Var<'g> {
        let inputs: Vec<Var<'g>> = gamma.into_iter().chain(beta).collect();
        self.apply(Op::LayerNorm(LayerNorm { eps, gamma: gamma.is_some(), beta: beta.is_some() }), &inputs)[0]
    }
    /// Root-mean-square normalisation over the last axis.
    pub fn rms_norm(self, gamma: Var<'g>, eps: f32) -> Var<'g> {
        self.apply(Op::RmsNorm(RmsNorm { eps }), &[gamma])[0]
    }

    // Images and tables.

    /// Resizes `[N, H, W, C]`; bilinear as in PyTorch with `align_corners=False`, no antialiasing.
    pub fn resize(self, mode: ResizeMode, height: usize, width: usize) -> Var<'g> {
        self.apply(Op::Resize(Resize { mode, height, width }), &[])[0]
    }
    /// Means over windows of `[N, H, W, C]` without padding.
    pub fn avg_pool2d(self, kernel: usize, stride: usize) -> Var<'g> {
        self.apply(Op::AvgPool2d(AvgPool2d { kernel, stride }), &[])[0]
    }
    /// Rows of this table `[rows, width]` by index: ids of any shape `S` give `[S, width]`.
    pub fn embedding(self, ids: Var<'g>) -> Var<'g> {
        self.apply(Op::Embedding(Embedding), &[ids])[0]
    }
}

macro_rules! operator {
    ($trait:ident, $method:ident, $function:ident) => {
        impl<'g> $trait for Var<'g> {
            type Output = Var<'g>;
            fn $method(self, other: Var<'g>) -> Var<'g> {
                self.binary(BinaryFunction::$function, other)
            }
        }
    };
}
operator!(Add, add, Add);
operator!(Sub, sub, Sub);
operator!(Mul, mul, Mul);
operator!(Div, div, Div);

impl<'g> Mul<f32> for Var<'g> {
    type Output = Var<'g>;
    fn mul(self, scale: f32) -> Var<'g> {
        self.affine(scale, 0.0)
    }
}

impl<'g> Add<f32> for Var<'g> {
    type Output = Var<'g>;
    fn add(self, shift: f32) -> Var<'g> {
        self.affine(1.0, shift)
    }
}

impl<'g> Neg for Var<'g> {
    type Output = Var<'g>;
    fn neg(self) -> Var<'g> {
        self.unary(UnaryFunction::Neg)
    }
}
