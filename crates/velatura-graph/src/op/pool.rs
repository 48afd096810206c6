//! Average pooling.

use super::{Adjoint, Operation, arity, ensure, floats, image};
use crate::error::GraphError;
use crate::reference::Array;
use crate::types::TensorType;
use crate::var::Var;

/// Means over square windows of `[N, H, W, C]`, without padding; a rest that fills no window is dropped.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct AvgPool2d {
    pub kernel: usize,
    pub stride: usize,
}

/// The adjoint of [`AvgPool2d`]: `dy -> dx` for an input of the given size.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct AvgPool2dGradient {
    pub kernel: usize,
    pub stride: usize,
    pub height: usize,
    pub width: usize,
}

fn pooled(length: usize, kernel: usize, stride: usize) -> Result<usize, String> {
    ensure!(kernel > 0 && stride > 0 && kernel <= length, "a window of {kernel} does not fit in {length}");
    Ok((length - kernel) / stride + 1)
}

impl Operation for AvgPool2d {
    fn name(&self) -> &'static str {
        "average pool"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        arity(inputs, 1)?;
        floats(inputs)?;
        let [n, h, w, c] = image(inputs[0])?;
        let size = |length| pooled(length, self.kernel, self.stride);
        Ok(vec![TensorType::new([n, size(h)?, size(w)?, c], inputs[0].dtype)])
    }
    fn gradient<'g>(&self, at: &Adjoint<'_, 'g>) -> Result<Vec<Option<Var<'g>>>, GraphError> {
        let [_, height, width, _] = at.inputs[0].dims();
        let op = AvgPool2dGradient { kernel: self.kernel, stride: self.stride, height, width };
        Ok(vec![Some(at.inputs[0].builder().push(op.into(), &[at.grad()])[0])])
    }
    fn evaluate(&self, inputs: &[&Array], types: &[TensorType]) -> Vec<Array> {
        let (x, k, s) = (inputs[0], self.kernel, self.stride);
        vec![Array::from_index(&types[0].shape, |o| {
            let window = (0..k * k).map(|i| x.at(&[o[0], o[1] * s + i / k, o[2] * s + i % k, o[3]]));
            window.sum::<f64>() / (k * k) as f64
        })]
    }
}

impl Operation for AvgPool2dGradient {
    fn name(&self) -> &'static str {
        "average pool gradient"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        arity(inputs, 1)?;
        floats(inputs)?;
        let [n, h, w, c] = image(inputs[0])?;
        ensure!(
            pooled(self.height, self.kernel, self.stride)? == h
                && pooled(self.width, self.kernel, self.stride)? == w,
            "the gradient does not have the size of the pooled image"
        );
        Ok(vec![TensorType::new([n, self.height, self.width, c], inputs[0].dtype)])
    }
    fn evaluate(&self, inputs: &[&Array], types: &[TensorType]) -> Vec<Array> {
        let (k, s) = (self.kernel, self.stride);
        let mut out = Array::from_fn(&types[0].shape, |_| 0.0);
        inputs[0].for_each_index(|o, d| {
            for i in 0..k * k {
                *out.at_mut(&[o[0], o[1] * s + i / k, o[2] * s + i % k, o[3]]) += d / (k * k) as f64;
            }
        });
        vec![out]
    }
}
