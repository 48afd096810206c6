//! Nearest and bilinear resizing of images.

use super::{Adjoint, Operation, arity, ensure, floats, image};
use crate::error::GraphError;
use crate::reference::Array;
use crate::types::TensorType;
use crate::var::Var;

/// How a resized image is sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResizeMode {
    /// The pixel at `floor(i * in / out)`, as `torch.nn.functional.interpolate` does.
    Nearest,
    /// Linear between pixel centres (`align_corners=False`), without antialiasing.
    Bilinear,
}

/// Resizes `[N, H, W, C]` to another height and width.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Resize {
    pub mode: ResizeMode,
    pub height: usize,
    pub width: usize,
}

/// The adjoint of [`Resize`] from an image of the given height and width.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct ResizeGradient {
    pub mode: ResizeMode,
    pub height: usize,
    pub width: usize,
}

impl ResizeMode {
    /// The source positions and weights of output position `i` along an axis resized from `from` to `to`.
    pub fn taps(self, i: usize, from: usize, to: usize) -> [(usize, f32); 2] {
        match self {
            ResizeMode::Nearest => [((i * from / to).min(from - 1), 1.0), (0, 0.0)],
            ResizeMode::Bilinear => {
                let position = ((i as f64 + 0.5) * (from as f64 / to as f64) - 0.5).max(0.0);
                let low = (position as usize).min(from - 1);
                let weight = (position - low as f64) as f32;
                [(low, 1.0 - weight), ((low + 1).min(from - 1), weight)]
            }
        }
    }
}

impl Operation for Resize {
    fn name(&self) -> &'static str {
        "resize"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        arity(inputs, 1)?;
        floats(inputs)?;
        let [n, _, _, c] = image(inputs[0])?;
        ensure!(self.height > 0 && self.width > 0, "the new size is empty");
        Ok(vec![TensorType::new([n, self.height, self.width, c], inputs[0].dtype)])
    }
    fn gradient<'g>(&self, at: &Adjoint<'_, 'g>) -> Result<Vec<Option<Var<'g>>>, GraphError> {
        let [_, height, width, _] = at.inputs[0].dims();
        let op = ResizeGradient { mode: self.mode, height, width };
        Ok(vec![Some(at.inputs[0].builder().push(op.into(), &[at.grad()])[0])])
    }
    fn evaluate(&self, inputs: &[&Array], types: &[TensorType]) -> Vec<Array> {
        let x = inputs[0];
        vec![Array::from_index(&types[0].shape, |o| {
            let mut sum = 0.0;
            for (y, wy) in self.mode.taps(o[1], x.shape[1], self.height) {
                for (c, wx) in self.mode.taps(o[2], x.shape[2], self.width) {
                    sum += f64::from(wy) * f64::from(wx) * x.at(&[o[0], y, c, o[3]]);
                }
            }
            sum
        })]
    }
}

impl Operation for ResizeGradient {
    fn name(&self) -> &'static str {
        "resize gradient"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        arity(inputs, 1)?;
        floats(inputs)?;
        let [n, _, _, c] = image(inputs[0])?;
        ensure!(self.height > 0 && self.width > 0, "the original size is empty");
        Ok(vec![TensorType::new([n, self.height, self.width, c], inputs[0].dtype)])
    }
    fn evaluate(&self, inputs: &[&Array], types: &[TensorType]) -> Vec<Array> {
        let dy = inputs[0];
        let mut out = Array::from_fn(&types[0].shape, |_| 0.0);
        dy.for_each_index(|o, d| {
            for (y, wy) in self.mode.taps(o[1], self.height, dy.shape[1]) {
                for (c, wx) in self.mode.taps(o[2], self.width, dy.shape[2]) {
                    *out.at_mut(&[o[0], y, c, o[3]]) += f64::from(wy) * f64::from(wx) * d;
                }
            }
        });
        vec![out]
    }
}
