//! Group, layer and root-mean-square normalisation. Each also makes the statistics that its backward pass reads.

use super::matmul::{check_residual, with_residual};
use super::{Adjoint, Operation, arity, ensure, floats};
use crate::error::GraphError;
use crate::reference::Array;
use crate::types::{Activation, TensorType};
use crate::var::Var;

/// Group normalisation (Wu and He 2018) of `[N, .., C]` with gamma and beta `[C]`, and optionally a modulation and an
/// activation. Makes the result and, for each image and group, mean and reciprocal deviation `[N, groups, 2]`.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupNorm {
    /// Number of groups, a divisor of the channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Whether a fourth input `[N, 2 C]` scales and shifts each image once more, before the activation: the result is
    /// multiplied by one plus its first `C` numbers, and its last `C` are added (the timestep's "scale and shift",
    /// Dhariwal and Nichol 2021).
    pub modulated: bool,
    /// Applied to the result while it is written.
    pub activation: Option<Activation>,
}

/// The adjoint of [`GroupNorm`]: `(x, stats, gamma, beta, [modulation], dy, [residual])` to `(dx, dgamma, dbeta,
/// [dmodulation])`.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupNormGradient {
    /// The normalisation that was applied.
    pub forward: GroupNorm,
    /// Whether a tensor of the shape of `dx` is added to it: the adjoint along another way.
    pub residual: bool,
}

/// Layer normalisation over the last axis with optional gamma and beta `[C]`. Makes the result and, for each row,
/// mean and reciprocal deviation `[rows, 2]`.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNorm {
    /// Added to the variance.
    pub eps: f32,
    /// Whether the result is multiplied by gamma.
    pub gamma: bool,
    /// Whether beta is added; only together with gamma.
    pub beta: bool,
}

/// The adjoint of [`LayerNorm`]: `(x, stats, [gamma], dy, [residual]) -> (dx, dgamma, dbeta)`.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNormGradient {
    /// Whether gamma was given.
    pub gamma: bool,
    /// Whether a tensor of the shape of `dx` is added to it.
    pub residual: bool,
}

/// Root-mean-square normalisation over the last axis (Zhang and Sennrich 2019) with gamma `[C]`. Makes the result
/// and for each row `[rows, 2]` a zero (the mean that is not taken off) and the reciprocal root mean square.
#[derive(Clone, Debug, PartialEq)]
pub struct RmsNorm {
    /// Added to the mean square.
    pub eps: f32,
}

/// The adjoint of [`RmsNorm`]: `(x, stats, gamma, dy) -> (dx, dgamma)`.
#[derive(Clone, Debug, PartialEq)]
pub struct RmsNormGradient;

/// Fails when something but the backward pass depends on the statistics.
fn only_result(operation: &'static str, at: &Adjoint<'_, '_>) -> Result<(), GraphError> {
    if at.grads[1].is_none() {
        return Ok(());
    }
    let reason = "only the result has a gradient, not the statistics".into();
    Err(GraphError::NotDifferentiable { operation, reason })
}

fn channels(inputs: &[&TensorType], vectors: &[&TensorType]) -> Result<usize, String> {
    floats(inputs)?;
    floats(vectors)?;
    let c = inputs[0].last();
    ensure!(inputs[0].rank() > 0, "a scalar has no channels");
    ensure!(vectors.iter().all(|v| v.shape == [c]), "gamma and beta of shape [{c}] expected");
    Ok(c)
}

impl GroupNorm {
    /// `[images, pixels, channels]` of an input shape.
    pub fn split(shape: &[usize]) -> [usize; 3] {
        let c = shape.last().copied().unwrap_or(1);
        let n = shape.first().copied().unwrap_or(1);
        [n, shape.iter().product::<usize>() / (n * c), c]
    }

    fn check(&self, x: &TensorType, vectors: &[&TensorType]) -> Result<[usize; 3], String> {
        let c = channels(&[x], vectors)?;
        ensure!(x.rank() >= 2, "an input [batch, .., channels] expected");
        ensure!(
            self.groups > 0 && c % self.groups == 0,
            "{c} channels do not divide into {} groups",
            self.groups
        );
        Ok(Self::split(&x.shape))
    }

    /// How many inputs there are: x, gamma, beta, modulation.
    fn inputs(&self) -> usize {
        3 + usize::from(self.modulated)
    }

    fn check_modulation(&self, n: usize, c: usize, modulation: &TensorType) -> Result<(), String> {
        let width = c.saturating_mul(2);
        let fits = modulation.elements() == n.saturating_mul(width) && modulation.last() == width;
        ensure!(!self.modulated || fits, "a modulation [{n}, {width}] expected");
        Ok(())
    }

    /// What the normalised element at a place is multiplied by, and what is added.
    fn scale_and_shift(
        &self,
        gamma: f64,
        beta: f64,
        modulation: &Array,
        image: usize,
        channel: usize,
    ) -> [f64; 2] {
        if !self.modulated {
            return [gamma, beta];
        }
        let (scale, shift) = modulation_at(modulation, image, channel);
        [gamma * (1.0 + scale), beta * (1.0 + scale) + shift]
    }
}

/// Scale and shift of an image's channel.
fn modulation_at(modulation: &Array, image: usize, channel: usize) -> (f64, f64) {
    let c = modulation.shape.last().copied().unwrap_or(2) / 2;
    let row = &modulation.data[image * 2 * c..][..2 * c];
    (row[channel], row[c + channel])
}

impl Operation for GroupNorm {
    fn name(&self) -> &'static str {
        "group norm"
    }
    fn output_count(&self) -> usize {
        2
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        arity(inputs, self.inputs())?;
        floats(inputs)?;
        let [n, _, c] = self.check(inputs[0], &inputs[1..3])?;
        self.check_modulation(n, c, inputs[inputs.len() - 1])?;
        Ok(vec![inputs[0].clone(), TensorType::f32([n, self.groups, 2])])
    }
    fn gradient<'g>(&self, at: &Adjoint<'_, 'g>) -> Result<Vec<Option<Var<'g>>>, GraphError> {
        only_result(self.name(), at)?;
        let op = GroupNormGradient { forward: self.clone(), residual: false };
        let mut inputs = vec![at.inputs[0], at.outputs[1]];
        inputs.extend(&at.inputs[1..]);
        inputs.push(at.grad());
        let mut grads = at.inputs[0].builder().push(op.into(), &inputs);
        if self.modulated {
            grads[3] = grads[3].reshape(&at.inputs[3].shape());
        }
        Ok(grads.into_iter().map(Some).collect())
    }
    fn evaluate(&self, inputs: &[&Array], types: &[TensorType]) -> Vec<Array> {
        let (x, gamma, beta, modulation) = (inputs[0], inputs[1], inputs[2], inputs[inputs.len() - 1]);
        let [n, pixels, c] = Self::split(&x.shape);
        let width = c / self.groups;
        let (mut y, mut stats) = (x.clone(), Array::from_fn(&types[1].shape, |_| 0.0));
        for i in 0..n {
            for g in 0..self.groups {
                let places: Vec<usize> = (0..pixels * width)
                    .map(|p| (i * pixels + p / width) * c + g * width + p % width)
                    .collect();
                let mean = places.iter().map(|&p| x.data[p]).sum::<f64>() / places.len() as f64;
                let variance =
                    places.iter().map(|&p| (x.data[p] - mean).powi(2)).sum::<f64>() / places.len() as f64;
                let rstd = 1.0 / (variance + f64::from(self.eps)).sqrt();
                *stats.at_mut(&[i, g, 0]) = mean;
                *stats.at_mut(&[i, g, 1]) = rstd;
                for p in places {
                    let (gamma, beta) = (gamma.data[p % c], beta.data[p % c]);
                    let [scale, shift] = self.scale_and_shift(gamma, beta, modulation, i, p % c);
                    let value = (x.data[p] - mean) * rstd * scale + shift;
                    y.data[p] = self.activation.map_or(value, |a| a.value(value));
                }
            }
        }
        vec![y, stats]
    }
}

impl Operation for GroupNormGradient {
    fn name(&self) -> &'static str {
        "group norm gradient"
    }
    fn output_count(&self) -> usize {
        3 + usize::from(self.forward.modulated)
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let dy = self.forward.inputs() + 1;
        arity(inputs, dy + 1 + usize::from(self.residual))?;
        floats(inputs)?;
        let [n, _, c] = self.forward.check(inputs[0], &inputs[2..4])?;
        self.forward.check_modulation(n, c, inputs[4])?;
        ensure!(inputs[1].shape == [n, self.forward.groups, 2], "statistics of another normalisation");
        ensure!(inputs[dy].shape == inputs[0].shape, "the gradient has another shape than the input");
        check_residual(inputs, &inputs[0].shape, self.residual)?;
        let mut types = vec![inputs[0].clone(), TensorType::f32([c]), TensorType::f32([c])];
        types.extend(self.forward.modulated.then(|| TensorType::f32([n, 2 * c])));
        Ok(types)
    }
    fn evaluate(&self, inputs: &[&Array], _: &[TensorType]) -> Vec<Array> {
        let (x, stats, gamma, beta, modulation) = (inputs[0], inputs[1], inputs[2], inputs[3], inputs[4]);
        let dy = inputs[self.forward.inputs() + 1];
        let [n, pixels, c] = GroupNorm::split(&x.shape);
        let width = c / self.forward.groups;
        let mut dx = x.clone();
        let [mut dgamma, mut dbeta] = [0, 1].map(|_| Array::from_fn(&[c], |_| 0.0));
        let mut dmodulation = Array::from_fn(&[n, 2 * c], |_| 0.0);
        for i in 0..n {
            for g in 0..self.forward.groups {
                let (mean, rstd) = (stats.at(&[i, g, 0]), stats.at(&[i, g, 1]));
                let places: Vec<usize> = (0..pixels * width)
                    .map(|p| (i * pixels + p / width) * c + g * width + p % width)
                    .collect();
                let normal = |p: usize| (x.data[p] - mean) * rstd;
                let factors = |p: usize| {
                    let (gamma, beta) = (gamma.data[p % c], beta.data[p % c]);
                    self.forward.scale_and_shift(gamma, beta, modulation, i, p % c)
                };
                let before = |p: usize| {
                    let [scale, shift] = factors(p);
                    let value = normal(p) * scale + shift;
                    dy.data[p] * self.forward.activation.map_or(1.0, |a| a.derivative(value))
                };
                let count = places.len() as f64;
                let sum = places.iter().map(|&p| before(p) * factors(p)[0]).sum::<f64>() / count;
                let dot = places.iter().map(|&p| before(p) * factors(p)[0] * normal(p)).sum::<f64>() / count;
                for p in places {
                    let (channel, mut scale) = (p % c, 1.0);
                    if self.forward.modulated {
                        scale += modulation_at(modulation, i, channel).0;
                        let unmodulated = normal(p) * gamma.data[channel] + beta.data[channel];
                        *dmodulation.at_mut(&[i, channel]) += before(p) * unmodulated;
                        *dmodulation.at_mut(&[i, c + channel]) += before(p);
                    }
                    dgamma.data[channel] += before(p) * normal(p) * scale;
                    dbeta.data[channel] += before(p) * scale;
                    dx.data[p] = rstd * (before(p) * factors(p)[0] - sum - normal(p) * dot);
                }
            }
        }
        let mut results = vec![with_residual(dx, inputs, self.residual), dgamma, dbeta];
        results.extend(self.forward.modulated.then_some(dmodulation));
        results
    }
}

impl Operation for LayerNorm {
    fn name(&self) -> &'static str {
        "layer norm"
    }
    fn output_count(&self) -> usize {
        2
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        ensure!(self.gamma || !self.beta, "beta without gamma");
        arity(inputs, 1 + usize::from(self.gamma) + usize::from(self.beta))?;
        let c = channels(&inputs[..1], &inputs[1..])?;
        Ok(vec![inputs[0].clone(), TensorType::f32([inputs[0].elements() / c, 2])])
    }
    fn gradient<'g>(&self, at: &Adjoint<'_, 'g>) -> Result<Vec<Option<Var<'g>>>, GraphError> {
        only_result(self.name(), at)?;
        let mut inputs = vec![at.inputs[0], at.outputs[1]];
        inputs.extend(self.gamma.then(|| at.inputs[1]));
        inputs.push(at.grad());
        let op = LayerNormGradient { gamma: self.gamma, residual: false };
        let mut grads: Vec<_> =
            at.inputs[0].builder().push(op.into(), &inputs).into_iter().map(Some).collect();
        grads.truncate(at.inputs.len());
        Ok(grads)
    }
    fn evaluate(&self, inputs: &[&Array], types: &[TensorType]) -> Vec<Array> {
        let c = types[0].last();
        let (mut y, mut stats) = (inputs[0].clone(), Array::from_fn(&types[1].shape, |_| 0.0));
        for (row, stat) in y.rows_mut().zip(stats.rows_mut()) {
            let mean = row.iter().sum::<f64>() / c as f64;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / c as f64;
            let rstd = 1.0 / (variance + f64::from(self.eps)).sqrt();
            stat.copy_from_slice(&[mean, rstd]);
            for (i, x) in row.iter_mut().enumerate() {
                let gamma = if self.gamma { inputs[1].data[i] } else { 1.0 };
                let beta = if self.beta { inputs[2].data[i] } else { 0.0 };
                *x = (*x - mean) * rstd * gamma + beta;
            }
        }
        vec![y, stats]
    }
}

impl Operation for LayerNormGradient {
    fn name(&self) -> &'static str {
        "layer norm gradient"
    }
    fn output_count(&self) -> usize {
        3
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let dy = 2 + usize::from(self.gamma);
        arity(inputs, dy + 1 + usize::from(self.residual))?;
        floats(inputs)?;
        let c = channels(&inputs[..1], &inputs[2..2 + usize::from(self.gamma)])?;
        ensure!(inputs[1].shape == [inputs[0].elements() / c, 2], "statistics of another normalisation");
        ensure!(inputs[dy].shape == inputs[0].shape, "the gradient has another shape than the input");
        check_residual(inputs, &inputs[0].shape, self.residual)?;
        Ok(vec![inputs[0].clone(), TensorType::f32([c]), TensorType::f32([c])])
    }
    fn evaluate(&self, inputs: &[&Array], types: &[TensorType]) -> Vec<Array> {
        let (x, stats, dy) = (inputs[0], inputs[1], inputs[2 + usize::from(self.gamma)]);
        let c = types[1].shape[0];
        let gamma = |i: usize| if self.gamma { inputs[2].data[i] } else { 1.0 };
        let mut dx = x.clone();
        let [mut dgamma, mut dbeta] = [0, 1].map(|_| Array::from_fn(&[c], |_| 0.0));
        for (r, row) in dx.rows_mut().enumerate() {
            let (mean, rstd, dy) = (stats.data[2 * r], stats.data[2 * r + 1], &dy.data[r * c..][..c]);
            let normal: Vec<f64> = row.iter().map(|x| (x - mean) * rstd).collect();
            let sum = (0..c).map(|i| dy[i] * gamma(i)).sum::<f64>() / c as f64;
            let dot = (0..c).map(|i| dy[i] * gamma(i) * normal[i]).sum::<f64>() / c as f64;
            for i in 0..c {
                dgamma.data[i] += dy[i] * normal[i];
                dbeta.data[i] += dy[i];
                row[i] = rstd * (dy[i] * gamma(i) - sum - normal[i] * dot);
            }
        }
        vec![with_residual(dx, inputs, self.residual), dgamma, dbeta]
    }
}

impl Operation for RmsNorm {
    fn name(&self) -> &'static str {
        "rms norm"
    }
    fn output_count(&self) -> usize {
        2
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        arity(inputs, 2)?;
        let c = channels(&inputs[..1], &inputs[1..])?;
        Ok(vec![inputs[0].clone(), TensorType::f32([inputs[0].elements() / c, 2])])
    }
    fn gradient<'g>(&self, at: &Adjoint<'_, 'g>) -> Result<Vec<Option<Var<'g>>>, GraphError> {
        only_result(self.name(), at)?;
        let inputs = [at.inputs[0], at.outputs[1], at.inputs[1], at.grad()];
        Ok(at.inputs[0].builder().push(RmsNormGradient.into(), &inputs).into_iter().map(Some).collect())
    }
    fn evaluate(&self, inputs: &[&Array], types: &[TensorType]) -> Vec<Array> {
        let c = types[0].last();
        let (mut y, mut stats) = (inputs[0].clone(), Array::from_fn(&types[1].shape, |_| 0.0));
        for (row, stat) in y.rows_mut().zip(stats.rows_mut()) {
            let square = row.iter().map(|x| x * x).sum::<f64>() / c as f64;
            stat[1] = 1.0 / (square + f64::from(self.eps)).sqrt();
            row.iter_mut().zip(&inputs[1].data).for_each(|(x, gamma)| *x *= stat[1] * gamma);
        }
        vec![y, stats]
    }
}

impl Operation for RmsNormGradient {
    fn name(&self) -> &'static str {
        "rms norm gradient"
    }
    fn output_count(&self) -> usize {
        2
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        arity(inputs, 4)?;
        floats(inputs)?;
        let c = channels(&inputs[..1], &inputs[2..3])?;
        ensure!(inputs[1].shape == [inputs[0].elements() / c, 2], "statistics of another normalisation");
        ensure!(inputs[3].shape == inputs[0].shape, "the gradient has another shape than the input");
        Ok(vec![inputs[0].clone(), TensorType::f32([c])])
    }
    fn evaluate(&self, inputs: &[&Array], types: &[TensorType]) -> Vec<Array> {
        let (x, stats, gamma, dy) = (inputs[0], inputs[1], inputs[2], inputs[3]);
        let c = types[1].shape[0];
        let (mut dx, mut dgamma) = (x.clone(), Array::from_fn(&[c], |_| 0.0));
        for (r, row) in dx.rows_mut().enumerate() {
            let (rms, dy) = (stats.data[2 * r + 1], &dy.data[r * c..][..c]);
            let dot = (0..c).map(|i| dy[i] * gamma.data[i] * row[i] * rms).sum::<f64>() / c as f64;
            for i in 0..c {
                let normal = row[i] * rms;
                dgamma.data[i] += dy[i] * normal;
                row[i] = rms * (dy[i] * gamma.data[i] - normal * dot);
            }
        }
        vec![dx, dgamma]
    }
}
