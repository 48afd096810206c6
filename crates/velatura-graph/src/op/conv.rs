//! Two-dimensional convolution of channels-last images.

use super::matmul::{check_residual, product_dtype, with_residual};
use super::{Adjoint, Epilogue, Operation, arity, ensure, floats, image};
use crate::error::GraphError;
use crate::reference::Array;
use crate::types::TensorType;
use crate::var::Var;

/// How a convolution's window moves over the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Steps down and right.
    pub stride: [usize; 2],
    /// Zeros around the image: top, left, bottom, right.
    pub padding: [usize; 4],
    /// Independent groups of channels.
    pub groups: usize,
}

impl Window {
    /// One group, the same stride and padding on all sides.
    pub fn new(stride: usize, padding: usize) -> Self {
        Window { stride: [stride; 2], padding: [padding; 4], groups: 1 }
    }

    fn output(&self, size: [usize; 2], kernel: [usize; 2]) -> Result<[usize; 2], String> {
        let mut out = [0; 2];
        for axis in 0..2 {
            let padded = size[axis]
                .checked_add(self.padding[axis])
                .and_then(|n| n.checked_add(self.padding[axis + 2]))
                .ok_or("the padding overflows")?;
            ensure!(self.stride[axis] > 0, "the stride is zero");
            ensure!(
                kernel[axis] > 0 && kernel[axis] <= padded,
                "a window of {} does not fit in {padded}",
                kernel[axis]
            );
            out[axis] = (padded - kernel[axis]) / self.stride[axis] + 1;
        }
        Ok(out)
    }

    /// The source position of a tap, unless it lies in the padding.
    fn source(&self, out: usize, tap: usize, axis: usize, size: usize) -> Option<usize> {
        (out * self.stride[axis] + tap).checked_sub(self.padding[axis]).filter(|&i| i < size)
    }
}

/// Convolution of `[N, H, W, in]` with a weight `[out, in / groups, kh, kw]` and an [`Epilogue`].
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Conv2d {
    pub window: Window,
    pub epilogue: Epilogue,
}

/// The adjoint of [`Conv2d`] towards the image: `(dy, weight, [residual]) -> dx` of the given height and width; the
/// residual, of the result's shape, is added to it.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Conv2dInputGradient {
    pub window: Window,
    pub height: usize,
    pub width: usize,
    pub residual: bool,
}

/// The adjoint of [`Conv2d`] towards the weight: `(x, dy) -> dW [out, in / groups, kh, kw]`, `f32`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Conv2dWeightGradient {
    pub window: Window,
    pub kernel: [usize; 2],
}

/// Calls `f(x index, weight index, y index)` for every product that a convolution sums.
fn products(
    window: &Window,
    x: &[usize],
    w: &[usize],
    y: &[usize],
    mut f: impl FnMut([usize; 4], [usize; 4], [usize; 4]),
) {
    let (out_per_group, in_per_group) = (w[0] / window.groups, w[1]);
    for n in 0..y[0] {
        for oy in 0..y[1] {
            for ox in 0..y[2] {
                for o in 0..y[3] {
                    for ky in 0..w[2] {
                        let Some(iy) = window.source(oy, ky, 0, x[1]) else { continue };
                        for kx in 0..w[3] {
                            let Some(ix) = window.source(ox, kx, 1, x[2]) else { continue };
                            for i in 0..in_per_group {
                                let channel = o / out_per_group * in_per_group + i;
                                f([n, iy, ix, channel], [o, i, ky, kx], [n, oy, ox, o]);
                            }
                        }
                    }
                }
            }
        }
    }
}

impl Operation for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        ensure!(inputs.len() >= 2, "an image and a weight expected");
        floats(inputs)?;
        let [n, h, w, c] = image(inputs[0])?;
        let [out, per_group, kh, kw] = image(inputs[1]).map_err(|_| "a weight of four axes expected")?;
        let groups = self.window.groups;
        ensure!(
            groups > 0 && out % groups == 0 && per_group.checked_mul(groups) == Some(c),
            "the weight makes {out} channels from {per_group} in each of {groups} groups, the image has {c}"
        );
        let [oh, ow] = self.window.output([h, w], [kh, kw])?;
        let result = TensorType::new([n, oh, ow, out], product_dtype(inputs));
        self.epilogue.check(inputs, &result)?;
        Ok(vec![result])
    }
    fn gradient<'g>(&self, at: &Adjoint<'_, 'g>) -> Result<Vec<Option<Var<'g>>>, GraphError> {
        let (x, w, dy, builder) = (at.inputs[0], at.inputs[1], at.grad(), at.inputs[0].builder());
        let ([_, height, width, _], [_, _, kh, kw]) = (x.dims(), w.dims());
        let mut grads = vec![
            at.wanted[0].then(|| {
                let op = Conv2dInputGradient { window: self.window, height, width, residual: false };
                builder.push(op.into(), &[dy, w])[0]
            }),
            at.wanted[1].then(|| {
                let op = Conv2dWeightGradient { window: self.window, kernel: [kh, kw] };
                builder.push(op.into(), &[x, dy])[0]
            }),
        ];
        grads.extend(self.epilogue.gradients(at)?);
        Ok(grads)
    }
    fn evaluate(&self, inputs: &[&Array], types: &[TensorType]) -> Vec<Array> {
        let (x, w) = (inputs[0], inputs[1]);
        let mut y = Array::from_fn(&types[0].shape, |_| 0.0);
        let shape = y.shape.clone();
        products(&self.window, &x.shape, &w.shape, &shape, |ix, iw, iy| {
            *y.at_mut(&iy) += x.at(&ix) * w.at(&iw);
        });
        vec![self.epilogue.evaluate(inputs, y)]
    }
}

impl Operation for Conv2dInputGradient {
    fn name(&self) -> &'static str {
        "conv2d input gradient"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        arity(inputs, 2 + usize::from(self.residual))?;
        floats(inputs)?;
        let ([n, oh, ow, oc], [out, per_group, kh, kw]) = (image(inputs[0])?, image(inputs[1])?);
        let groups = self.window.groups;
        let fits = self.window.output([self.height, self.width], [kh, kw])? == [oh, ow] && oc == out;
        ensure!(
            fits && groups > 0 && out % groups == 0,
            "the gradient does not have the shape of the convolution's result"
        );
        let shape = [n, self.height, self.width, per_group.saturating_mul(groups)];
        check_residual(inputs, &shape, self.residual)?;
        Ok(vec![TensorType::new(shape, inputs[0].dtype)])
    }
    fn evaluate(&self, inputs: &[&Array], types: &[TensorType]) -> Vec<Array> {
        let (dy, w) = (inputs[0], inputs[1]);
        let mut dx = Array::from_fn(&types[0].shape, |_| 0.0);
        products(&self.window, &types[0].shape, &w.shape, &dy.shape, |ix, iw, iy| {
            *dx.at_mut(&ix) += dy.at(&iy) * w.at(&iw);
        });
        vec![with_residual(dx, inputs, self.residual)]
    }
}

impl Operation for Conv2dWeightGradient {
    fn name(&self) -> &'static str {
        "conv2d weight gradient"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        arity(inputs, 2)?;
        floats(inputs)?;
        let ([n, h, w, c], [m, oh, ow, out]) = (image(inputs[0])?, image(inputs[1])?);
        let groups = self.window.groups;
        let fits = self.window.output([h, w], self.kernel)? == [oh, ow] && n == m;
        ensure!(
            fits && groups > 0 && c % groups == 0 && out % groups == 0,
            "the gradient does not have the shape of the convolution's result"
        );
        Ok(vec![TensorType::f32([out, c / groups, self.kernel[0], self.kernel[1]])])
    }
    fn evaluate(&self, inputs: &[&Array], types: &[TensorType]) -> Vec<Array> {
        let (x, dy) = (inputs[0], inputs[1]);
        let mut dw = Array::from_fn(&types[0].shape, |_| 0.0);
        products(&self.window, &x.shape, &types[0].shape, &dy.shape, |ix, iw, iy| {
            *dw.at_mut(&iw) += x.at(&ix) * dy.at(&iy);
        });
        vec![dw]
    }
}
