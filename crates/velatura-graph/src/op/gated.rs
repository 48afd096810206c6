//! Gated linear units: half of the features gate the other half.

use super::{Adjoint, Operation, arity, ensure, floats};
use crate::error::GraphError;
use crate::reference::Array;
use crate::types::{Activation, TensorType};
use crate::var::Var;

/// `x[.., :C] * activation(x[.., C:])` of `[.., 2 C]` (Shazeer 2020; with GELU it is diffusers' GEGLU).
#[derive(Clone, Debug, PartialEq)]
pub struct Gated {
    /// The function of the gating half, the second.
    pub activation: Activation,
}

/// The adjoint of [`Gated`]: `(x [.., 2 C], dy [.., C]) -> dx [.., 2 C]`.
#[derive(Clone, Debug, PartialEq)]
pub struct GatedGradient {
    /// The function of the gating half.
    pub activation: Activation,
}

/// The shape of the result.
fn half(x: &TensorType) -> Result<Vec<usize>, String> {
    ensure!(x.rank() > 0 && x.last().is_multiple_of(2), "an even number of channels expected");
    let mut shape = x.shape.clone();
    shape[x.rank() - 1] /= 2;
    Ok(shape)
}

impl Operation for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        arity(inputs, 1)?;
        floats(inputs)?;
        Ok(vec![TensorType::new(half(inputs[0])?, inputs[0].dtype)])
    }
    fn gradient<'g>(&self, at: &Adjoint<'_, 'g>) -> Result<Vec<Option<Var<'g>>>, GraphError> {
        let op = GatedGradient { activation: self.activation };
        Ok(vec![Some(at.inputs[0].builder().push(op.into(), &[at.inputs[0], at.grad()])[0])])
    }
    fn evaluate(&self, inputs: &[&Array], types: &[TensorType]) -> Vec<Array> {
        let (x, c) = (inputs[0], types[0].last());
        vec![Array::from_fn(&types[0].shape, |i| {
            let at = i / c * 2 * c + i % c;
            x.data[at] * self.activation.value(x.data[at + c])
        })]
    }
}

impl Operation for GatedGradient {
    fn name(&self) -> &'static str {
        "gated gradient"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        arity(inputs, 2)?;
        floats(inputs)?;
        ensure!(inputs[1].shape == half(inputs[0])?, "the gradient does not have half of the channels");
        Ok(vec![inputs[0].clone()])
    }
    fn evaluate(&self, inputs: &[&Array], _: &[TensorType]) -> Vec<Array> {
        let (x, dy, c) = (inputs[0], inputs[1], inputs[0].shape.last().copied().unwrap_or(2) / 2);
        vec![Array::from_fn(&x.shape, |i| {
            let (row, column) = (i / (2 * c), i % c);
            let (value, gate) = (x.data[row * 2 * c + column], x.data[row * 2 * c + c + column]);
            let dy = dy.data[row * c + column];
            match i % (2 * c) < c {
                true => dy * self.activation.value(gate),
                false => dy * value * self.activation.derivative(gate),
            }
        })]
    }
}
