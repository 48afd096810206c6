//! Matrix products: the linear layer with its fused tail, and the general batched product.

use super::{Adjoint, Gated, Operation, arity, ensure, floats};
use crate::error::GraphError;
use crate::reference::Array;
use crate::types::{Activation, DType, TensorType};
use crate::var::Var;

/// What a linear layer or convolution does to its result before writing it:
/// `activation(product + bias + per_image) + residual`. The inputs follow the weight in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epilogue {
    /// Whether a bias `[out]` is added.
    pub bias: bool,
    /// Whether one row for each image, `[N, out]` (or `[N, 1, .., out]`), is added: the timestep embedding.
    pub per_image: bool,
    /// The function applied.
    pub activation: Option<Activation>,
    /// Whether a tensor of the shape of the result is added last.
    pub residual: bool,
}

impl Epilogue {
    /// How many inputs follow the weight.
    pub fn inputs(&self) -> usize {
        usize::from(self.bias) + usize::from(self.per_image) + usize::from(self.residual)
    }

    /// Position among the inputs of the operation of the bias, if any.
    pub fn bias_input(&self) -> Option<usize> {
        self.bias.then_some(2)
    }

    /// Position among the inputs of the operation of the row for each image, if any.
    pub fn per_image_input(&self) -> Option<usize> {
        self.per_image.then_some(2 + usize::from(self.bias))
    }

    /// Position among the inputs of the operation of the residual, if any.
    pub fn residual_input(&self) -> Option<usize> {
        self.residual.then_some(2 + usize::from(self.bias) + usize::from(self.per_image))
    }

    /// Checks the inputs that belong to the epilogue against the result.
    pub(super) fn check(&self, inputs: &[&TensorType], result: &TensorType) -> Result<(), String> {
        arity(inputs, 2 + self.inputs())?;
        let out = result.last();
        if let Some(i) = self.bias_input() {
            ensure!(inputs[i].shape == [out], "the bias has shape {:?}, not [{out}]", inputs[i].shape);
        }
        if let Some(i) = self.per_image_input() {
            let images = result.shape.first().copied().unwrap_or(1);
            ensure!(result.rank() >= 2, "a result without a batch axis has no row for each image");
            ensure!(
                inputs[i].elements() == images * out && inputs[i].last() == out,
                "one row of {out} for each of {images} images expected"
            );
        }
        if let Some(i) = self.residual_input() {
            ensure!(inputs[i].shape == result.shape, "the residual has another shape than the result");
        }
        Ok(())
    }

    pub(super) fn evaluate(&self, inputs: &[&Array], mut product: Array) -> Array {
        let out = product.shape.last().copied().unwrap_or(1);
        let per_image = product.data.len() / product.shape.first().copied().unwrap_or(1);
        for (i, x) in product.data.iter_mut().enumerate() {
            if let Some(b) = self.bias_input() {
                *x += inputs[b].data[i % out];
            }
            if let Some(p) = self.per_image_input() {
                *x += inputs[p].data[i / per_image * out + i % out];
            }
            if let Some(activation) = self.activation {
                *x = activation.value(*x);
            }
            if let Some(r) = self.residual_input() {
                *x += inputs[r].data[i];
            }
        }
        product
    }

    /// The adjoints of the epilogue's inputs, in order; the product itself receives `dy`.
    pub(super) fn gradients<'g>(&self, at: &Adjoint<'_, 'g>) -> Result<Vec<Option<Var<'g>>>, GraphError> {
        if self.activation.is_some() {
            return Err(GraphError::NotDifferentiable {
                operation: "fused activation",
                reason: "differentiate before activations are fused".into(),
            });
        }
        let dy = at.grad();
        // Not that of `dy`, which may stand for an earlier error.
        let rank = at.outputs[0].ty().rank();
        let mut grads = Vec::new();
        if let Some(i) = self.bias_input() {
            let leading: Vec<usize> = (0..rank.saturating_sub(1)).collect();
            grads.push(at.wanted[i].then(|| dy.sum(&leading, false)));
        }
        if let Some(i) = self.per_image_input() {
            let inner: Vec<usize> = (1..rank.saturating_sub(1)).collect();
            grads.push(at.wanted[i].then(|| dy.sum(&inner, false).reshape(&at.inputs[i].shape())));
        }
        if let Some(i) = self.residual_input() {
            grads.push(at.wanted[i].then_some(dy));
        }
        Ok(grads)
    }
}

/// `x W^T` over the last axis with an [`Epilogue`]; x `[.., in]`, W `[out, in]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Linear {
    /// What follows the product.
    pub epilogue: Epilogue,
    /// The function of the second half of the results, by which the first half is then multiplied: [`Gated`](super::Gated).
    /// Of the epilogue there may be a bias.
    pub gate: Option<Activation>,
    /// Whether an executor may round x and W to 8 bits: x with a scale for each row, W with one for each output. The
    /// reference meaning is exact.
    pub int8: bool,
}

/// The adjoint of [`Linear`] towards x: `(dy [.., out], W [out, in], [residual [.., in]]) -> dx [.., in]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LinearInputGradient {
    /// Whether a tensor of the shape of the result is added: the adjoint along another way.
    pub residual: bool,
}

/// The adjoint of [`Linear`] towards W: `(x [.., in], dy [.., out]) -> dW [out, in]`, `f32`.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearWeightGradient;

/// Product of the last two axes; leading axes agree, or the second input has none. `[.., M, K] x [.., K, N]`
/// after the marked transpositions.
#[derive(Clone, Debug, PartialEq)]
pub struct MatMul {
    /// Whether the first input is stored `[.., K, M]`.
    pub transpose_a: bool,
    /// Whether the second input is stored `[.., N, K]`.
    pub transpose_b: bool,
}

/// The storage type of a product of these.
pub(super) fn product_dtype(inputs: &[&TensorType]) -> DType {
    // Weights stay f32 in the graph whatever the precision of the activations.
    inputs[0].dtype
}

/// Holds the last input, where it is a residual, against the shape of the result.
pub(super) fn check_residual(inputs: &[&TensorType], shape: &[usize], given: bool) -> Result<(), String> {
    let fits = !given || inputs.last().is_some_and(|residual| residual.shape == shape);
    ensure!(fits, "the residual has another shape than the result");
    Ok(())
}

/// Adds the last input where it is a residual.
pub(super) fn with_residual(mut result: Array, inputs: &[&Array], given: bool) -> Array {
    if let Some(residual) = inputs.last().filter(|_| given) {
        result.data.iter_mut().zip(&residual.data).for_each(|(x, r)| *x += r);
    }
    result
}

fn with_last(shape: &[usize], last: usize) -> Vec<usize> {
    let mut shape = shape.to_vec();
    if let Some(end) = shape.last_mut() {
        *end = last;
    }
    shape
}

impl Operation for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        ensure!(inputs.len() >= 2, "an input and a weight expected");
        floats(inputs)?;
        ensure!(inputs[0].rank() >= 1 && inputs[1].rank() == 2, "x [.., in] and weight [out, in] expected");
        ensure!(
            inputs[0].last() == inputs[1].shape[1],
            "the weight takes {} channels, the input has {}",
            inputs[1].shape[1],
            inputs[0].last()
        );
        let out = TensorType::new(with_last(&inputs[0].shape, inputs[1].shape[0]), product_dtype(inputs));
        self.epilogue.check(inputs, &out)?;
        if let Some(gate) = self.gated() {
            let plain = Epilogue { bias: self.epilogue.bias, ..Epilogue::default() };
            ensure!(self.epilogue == plain, "only a bias goes before a gate");
            return gate.infer(&[&out]);
        }
        Ok(vec![out])
    }
    fn gradient<'g>(&self, at: &Adjoint<'_, 'g>) -> Result<Vec<Option<Var<'g>>>, GraphError> {
        if self.gate.is_some() {
            return Err(GraphError::NotDifferentiable {
                operation: "fused gate",
                reason: "differentiate before gates are fused".into(),
            });
        }
        let (x, w, dy, builder) = (at.inputs[0], at.inputs[1], at.grad(), at.inputs[0].builder());
        let mut grads = vec![
            at.wanted[0].then(|| builder.push(LinearInputGradient::default().into(), &[dy, w])[0]),
            at.wanted[1].then(|| builder.push(LinearWeightGradient.into(), &[x, dy])[0]),
        ];
        grads.extend(self.epilogue.gradients(at)?);
        Ok(grads)
    }
    fn evaluate(&self, inputs: &[&Array], types: &[TensorType]) -> Vec<Array> {
        let product = self.epilogue.evaluate(inputs, rows_product(inputs[0], inputs[1], true));
        match self.gated() {
            Some(gate) => gate.evaluate(&[&product], types),
            None => vec![product],
        }
    }
}

impl Linear {
    fn gated(&self) -> Option<Gated> {
        self.gate.map(|activation| Gated { activation })
    }
}

/// `x [.., K]` times `w`, stored `[N, K]` when transposed, else `[K, N]`.
fn rows_product(x: &Array, w: &Array, transposed: bool) -> Array {
    let (k, n) = if transposed { (w.shape[1], w.shape[0]) } else { (w.shape[0], w.shape[1]) };
    let at = |row: usize, column: usize| w.data[if transposed { column * k + row } else { row * n + column }];
    let row = |x: &[f64]| -> Vec<f64> { (0..n).map(|j| (0..k).map(|i| x[i] * at(i, j)).sum()).collect() };
    Array { shape: with_last(&x.shape, n), data: x.data.chunks(k).flat_map(row).collect() }
}

impl Operation for LinearInputGradient {
    fn name(&self) -> &'static str {
        "linear input gradient"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        arity(inputs, 2 + usize::from(self.residual))?;
        floats(inputs)?;
        ensure!(
            inputs[0].rank() >= 1 && inputs[1].rank() == 2 && inputs[0].last() == inputs[1].shape[0],
            "the gradient does not have the channels that the weight makes"
        );
        let shape = with_last(&inputs[0].shape, inputs[1].shape[1]);
        check_residual(inputs, &shape, self.residual)?;
        Ok(vec![TensorType::new(shape, inputs[0].dtype)])
    }
    fn evaluate(&self, inputs: &[&Array], _: &[TensorType]) -> Vec<Array> {
        vec![with_residual(rows_product(inputs[0], inputs[1], false), inputs, self.residual)]
    }
}

impl Operation for LinearWeightGradient {
    fn name(&self) -> &'static str {
        "linear weight gradient"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        arity(inputs, 2)?;
        floats(inputs)?;
        ensure!(inputs.iter().all(|t| t.rank() >= 1), "a scalar has no channels");
        let rows = |t: &TensorType| t.elements() / t.last();
        ensure!(rows(inputs[0]) == rows(inputs[1]), "input and gradient differ in their number of rows");
        Ok(vec![TensorType::f32([inputs[1].last(), inputs[0].last()])])
    }
    fn evaluate(&self, inputs: &[&Array], types: &[TensorType]) -> Vec<Array> {
        let (n, k) = (types[0].shape[0], types[0].shape[1]);
        let mut out = Array::from_fn(&types[0].shape, |_| 0.0);
        for (x, dy) in inputs[0].data.chunks(k).zip(inputs[1].data.chunks(n)) {
            for (row, &d) in out.data.chunks_mut(k).zip(dy) {
                row.iter_mut().zip(x).for_each(|(o, x)| *o += d * x);
            }
        }
        vec![out]
    }
}

impl Operation for MatMul {
    fn name(&self) -> &'static str {
        "matmul"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        arity(inputs, 2)?;
        floats(inputs)?;
        let (a, b) = (inputs[0], inputs[1]);
        ensure!(a.rank() >= 2 && b.rank() >= 2, "matrices expected");
        ensure!(a.dtype == b.dtype, "the sides are stored as {} and {}", a.dtype, b.dtype);
        let last_two = |t: &TensorType, swap: bool| {
            let [rows, columns] = [t.shape[t.rank() - 2], t.shape[t.rank() - 1]];
            if swap { (columns, rows) } else { (rows, columns) }
        };
        let (m, k) = last_two(a, self.transpose_a);
        let (k2, n) = last_two(b, self.transpose_b);
        ensure!(k == k2, "the inner lengths are {k} and {k2}");
        let leading = &a.shape[..a.rank() - 2];
        ensure!(b.rank() == 2 || &b.shape[..b.rank() - 2] == leading, "the leading axes differ");
        let shape: Vec<usize> = leading.iter().copied().chain([m, n]).collect();
        Ok(vec![TensorType::new(shape, a.dtype)])
    }
    fn gradient<'g>(&self, at: &Adjoint<'_, 'g>) -> Result<Vec<Option<Var<'g>>>, GraphError> {
        let (a, b, dy) = (at.inputs[0], at.inputs[1], at.grad());
        let da = at.wanted[0].then(|| {
            if self.transpose_a {
                b.matmul_batched(dy, self.transpose_b, true)
            } else {
                dy.matmul_transposed(b, false, !self.transpose_b)
            }
        });
        let db = at.wanted[1].then(|| {
            let full = if self.transpose_b {
                dy.matmul_transposed(a, true, self.transpose_a)
            } else {
                a.matmul_transposed(dy, !self.transpose_a, false)
            };
            full.sum_to(&b.shape())
        });
        Ok(vec![da, db])
    }
    fn evaluate(&self, inputs: &[&Array], types: &[TensorType]) -> Vec<Array> {
        let (a, b, rank) = (inputs[0], inputs[1], types[0].rank());
        let k = a.shape[if self.transpose_a { rank - 2 } else { rank - 1 }];
        vec![Array::from_index(&types[0].shape, |o| {
            let (batch, [m, n]) = (&o[..rank - 2], [o[rank - 2], o[rank - 1]]);
            let batch_b = if b.shape.len() == 2 { &[][..] } else { batch };
            (0..k)
                .map(|i| {
                    let ia = if self.transpose_a { [i, m] } else { [m, i] };
                    let ib = if self.transpose_b { [n, i] } else { [i, n] };
                    a.at(&[batch, &ia].concat()) * b.at(&[batch_b, &ib].concat())
                })
                .sum()
        })]
    }
}

impl<'g> Var<'g> {
    /// As [`Var::matmul_transposed`] with this side repeated over the leading axes of the other.
    fn matmul_batched(self, other: Var<'g>, transpose_a: bool, transpose_b: bool) -> Var<'g> {
        let (own, theirs) = (self.shape(), other.shape());
        let leading = &theirs[..theirs.len().saturating_sub(2)];
        let whole: Vec<usize> = leading.iter().chain(&own[own.len().saturating_sub(2)..]).copied().collect();
        let side = if own == whole { self } else { self.broadcast_to(&whole) };
        side.matmul_transposed(other, transpose_a, transpose_b)
    }
}
