//! Attention as one operation, so that an executor never has to store the scores.

use super::{Adjoint, Operation, arity, elementwise::broadcast, ensure, floats};
use crate::error::GraphError;
use crate::reference::Array;
use crate::types::TensorType;
use crate::var::Var;

/// Multi-head attention `softmax(q k^T * scale + mask) v`: q `[B, Tq, heads * d]`, k and v `[B, Tk, heads * d]`,
/// mask `[B or 1, heads or 1, Tq or 1, Tk]`. Makes the result `[B, Tq, heads * d]` and, for the backward pass, the
/// logarithm of each row's normaliser `[B, heads, Tq]`. A row whose scores are all masked with minus infinity is zero.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Number of heads.
    pub heads: usize,
    /// Factor of the scores, usually `1 / sqrt(d)`.
    pub scale: f32,
    /// Whether token i may only look at tokens up to i (aligned at the start).
    pub causal: bool,
    /// Whether a mask is given.
    pub mask: bool,
    /// Whether scores may be made of 8-bit integers, a scale for each query: set by [`crate::passes`] for inference.
    pub int8: bool,
}

/// The adjoint of [`Attention`]: `(q, k, v, [mask], o, lse, do) -> (dq, dk, dv)`. The mask gets none.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionGradient {
    /// The attention that was applied.
    pub forward: Attention,
}

impl Attention {
    fn check(&self, inputs: &[&TensorType]) -> Result<[usize; 4], String> {
        floats(inputs)?;
        let tokens = |t: &TensorType| <[usize; 3]>::try_from(t.shape.as_slice());
        let (Ok([b, tq, c]), Ok(k)) = (tokens(inputs[0]), tokens(inputs[1])) else {
            return Err("queries, keys and values [batch, tokens, channels] expected".into());
        };
        ensure!(inputs[1].shape == inputs[2].shape, "keys and values differ in shape");
        ensure!(k[0] == b && k[2] == c, "queries and keys differ in batch or channels");
        ensure!(
            self.heads > 0 && c % self.heads == 0,
            "{c} channels do not divide into {} heads",
            self.heads
        );
        ensure!(inputs[..3].iter().all(|t| t.dtype == inputs[0].dtype), "q, k and v are stored differently");
        if self.mask {
            let scores = vec![b, self.heads, tq, k[1]];
            let mask = &inputs[3].shape;
            ensure!(
                mask.len() == 4 && mask[3] == k[1] && broadcast(mask, &scores).as_ref() == Some(&scores),
                "the mask {mask:?} does not broadcast to {scores:?}"
            );
        }
        Ok([b, tq, k[1], c])
    }

    /// For one batch entry and head: the probabilities `[Tq][Tk]` and the logarithm of each normaliser.
    fn probabilities(&self, inputs: &[&Array], b: usize, h: usize) -> Vec<(Vec<f64>, f64)> {
        let (q, k) = (inputs[0], inputs[1]);
        let d = q.shape[2] / self.heads;
        let mask = self.mask.then(|| inputs[3]);
        (0..q.shape[1])
            .map(|i| {
                let score = |j: usize| {
                    if self.causal && j > i {
                        return f64::NEG_INFINITY;
                    }
                    let dot: f64 = (0..d).map(|e| q.at(&[b, i, h * d + e]) * k.at(&[b, j, h * d + e])).sum();
                    let added = mask.map_or(0.0, |m| {
                        let clip = |x: usize, axis: usize| if m.shape[axis] == 1 { 0 } else { x };
                        m.at(&[clip(b, 0), clip(h, 1), clip(i, 2), j])
                    });
                    dot * f64::from(self.scale) + added
                };
                let scores: Vec<f64> = (0..k.shape[1]).map(score).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                if max == f64::NEG_INFINITY {
                    return (vec![0.0; scores.len()], f64::NEG_INFINITY);
                }
                let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                (scores.iter().map(|s| (s - max).exp() / sum).collect(), max + sum.ln())
            })
            .collect()
    }
}

impl Operation for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }
    fn output_count(&self) -> usize {
        2
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        arity(inputs, 3 + usize::from(self.mask))?;
        let [b, tq, _, _] = self.check(inputs)?;
        Ok(vec![inputs[0].clone(), TensorType::f32([b, self.heads, tq])])
    }
    fn gradient<'g>(&self, at: &Adjoint<'_, 'g>) -> Result<Vec<Option<Var<'g>>>, GraphError> {
        if at.grads[1].is_some() {
            return Err(GraphError::NotDifferentiable {
                operation: self.name(),
                reason: "only the result has a gradient, not the normalisers".into(),
            });
        }
        if at.wanted.get(3) == Some(&true) {
            return Err(GraphError::NotDifferentiable {
                operation: self.name(),
                reason: "the mask has no gradient; detach it".into(),
            });
        }
        let mut inputs = at.inputs.to_vec();
        inputs.extend([at.outputs[0], at.outputs[1], at.grad()]);
        let op = AttentionGradient { forward: self.clone() };
        let mut grads: Vec<_> =
            at.inputs[0].builder().push(op.into(), &inputs).into_iter().map(Some).collect();
        grads.resize(at.inputs.len(), None);
        Ok(grads)
    }
    fn evaluate(&self, inputs: &[&Array], types: &[TensorType]) -> Vec<Array> {
        let v = inputs[2];
        let (mut out, mut lse) =
            (Array::from_fn(&types[0].shape, |_| 0.0), Array::from_fn(&types[1].shape, |_| 0.0));
        let d = v.shape[2] / self.heads;
        for b in 0..types[0].shape[0] {
            for h in 0..self.heads {
                for (i, (row, log)) in self.probabilities(inputs, b, h).into_iter().enumerate() {
                    *lse.at_mut(&[b, h, i]) = log;
                    for (j, p) in row.into_iter().enumerate() {
                        for e in h * d..(h + 1) * d {
                            *out.at_mut(&[b, i, e]) += p * v.at(&[b, j, e]);
                        }
                    }
                }
            }
        }
        vec![out, lse]
    }
}

impl Operation for AttentionGradient {
    fn name(&self) -> &'static str {
        "attention gradient"
    }
    fn output_count(&self) -> usize {
        3
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let extra = 3 + usize::from(self.forward.mask);
        arity(inputs, extra + 3)?;
        self.forward.check(&inputs[..extra])?;
        ensure!(inputs[extra + 2].shape == inputs[0].shape, "the gradient has another shape than the result");
        Ok(inputs[..3].iter().map(|t| (*t).clone()).collect())
    }
    fn evaluate(&self, inputs: &[&Array], types: &[TensorType]) -> Vec<Array> {
        let (q, k, v, grad) = (inputs[0], inputs[1], inputs[2], inputs[inputs.len() - 1]);
        let [mut dq, mut dk, mut dv] = [0, 1, 2].map(|i| Array::from_fn(&types[i].shape, |_| 0.0));
        let d = q.shape[2] / self.forward.heads;
        for b in 0..q.shape[0] {
            for h in 0..self.forward.heads {
                let channels = h * d..(h + 1) * d;
                for (i, (p, _)) in self.forward.probabilities(inputs, b, h).into_iter().enumerate() {
                    let dp: Vec<f64> = (0..p.len())
                        .map(|j| channels.clone().map(|e| grad.at(&[b, i, e]) * v.at(&[b, j, e])).sum())
                        .collect();
                    let mean: f64 = p.iter().zip(&dp).map(|(p, d)| p * d).sum();
                    for j in 0..p.len() {
                        let ds = p[j] * (dp[j] - mean) * f64::from(self.forward.scale);
                        for e in channels.clone() {
                            *dq.at_mut(&[b, i, e]) += ds * k.at(&[b, j, e]);
                            *dk.at_mut(&[b, j, e]) += ds * q.at(&[b, i, e]);
                            *dv.at_mut(&[b, j, e]) += p[j] * grad.at(&[b, i, e]);
                        }
                    }
                }
            }
        }
        vec![dq, dk, dv]
    }
}
