//! Softmax and its logarithm over the last axis.

use super::{Adjoint, Operation, arity, ensure, floats};
use crate::error::GraphError;
use crate::reference::Array;
use crate::types::TensorType;
use crate::var::Var;

/// Softmax over the last axis, or its logarithm.
#[derive(Clone, Debug, PartialEq)]
pub struct Softmax {
    /// Whether the logarithm is taken.
    pub log: bool,
}

/// The adjoint of [`Softmax`]: `(y, dy) -> dx`.
#[derive(Clone, Debug, PartialEq)]
pub struct SoftmaxGradient {
    /// Whether the logarithm was taken.
    pub log: bool,
}

impl Operation for Softmax {
    fn name(&self) -> &'static str {
        if self.log { "log softmax" } else { "softmax" }
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        arity(inputs, 1)?;
        floats(inputs)?;
        ensure!(inputs[0].rank() > 0, "a scalar has no last axis");
        Ok(vec![inputs[0].clone()])
    }
    fn gradient<'g>(&self, at: &Adjoint<'_, 'g>) -> Result<Vec<Option<Var<'g>>>, GraphError> {
        let op = SoftmaxGradient { log: self.log };
        Ok(vec![Some(at.inputs[0].builder().push(op.into(), &[at.outputs[0], at.grad()])[0])])
    }
    fn evaluate(&self, inputs: &[&Array], _: &[TensorType]) -> Vec<Array> {
        let mut out = inputs[0].clone();
        for row in out.rows_mut() {
            let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = row.iter().map(|x| (x - max).exp()).sum();
            row.iter_mut().for_each(|x| {
                *x = if self.log { *x - max - sum.ln() } else { (*x - max).exp() / sum };
            });
        }
        vec![out]
    }
}

impl Operation for SoftmaxGradient {
    fn name(&self) -> &'static str {
        "softmax gradient"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        arity(inputs, 2)?;
        floats(inputs)?;
        ensure!(inputs[0].shape == inputs[1].shape, "the gradient has another shape than the result");
        Ok(vec![inputs[0].clone()])
    }
    fn evaluate(&self, inputs: &[&Array], _: &[TensorType]) -> Vec<Array> {
        let (y, mut dx) = (inputs[0], inputs[1].clone());
        let width = y.shape.last().copied().unwrap_or(1);
        for (row, y) in dx.rows_mut().zip(y.data.chunks(width)) {
            let sum: f64 = row.iter().zip(y).map(|(d, y)| if self.log { *d } else { d * y }).sum();
            row.iter_mut().zip(y).for_each(|(d, y)| {
                *d = if self.log { *d - y.exp() * sum } else { y * (*d - sum) };
            });
        }
        vec![dx]
    }
}
