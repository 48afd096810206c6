//! The optimizer's update and the norm of the gradients, each one pass over flat parameters.
//!
//! [`adamw`] updates weights, moments and the running average of all tensors at once; [`squared_norm`] adds
//! the squares of the gradients in a fixed order, so that clipping is deterministic, and is NaN or infinite
//! if any gradient is. [`muon()`] is the same for matrices by Muon's rule.

mod muon;
#[cfg(test)]
mod tests;

pub use muon::{Matrix, Muon, muon, orthogonalize};

use super::elementwise::dispatch::{BLOCK, Shared, for_chunks, simd, with_scratch};
use super::elementwise::math::madd;
use crate::{Isa, ThreadPool};

/// Elements of one task.
const CHUNK: usize = 32 * BLOCK;

/// The constants of one step of AdamW, as `torch.optim.AdamW` names them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Number of this step, from one: the bias corrections depend on it.
    pub step: u64,
    /// Factor applied to every gradient: gradient clipping and the mean over accumulated batches.
    pub clip_scale: f32,
}

/// A run of parameters with its own weight decay; decay is decoupled: `w -= lr * weight_decay * w`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Segment {
    /// First parameter.
    pub offset: usize,
    /// Number of parameters.
    pub len: usize,
    /// Weight decay.
    pub weight_decay: f32,
}

/// The running average of the weights: `average = decay * average + (1 - decay) * weight`.
#[derive(Debug)]
pub struct Ema<'a> {
    /// One value for each weight.
    pub average: &'a mut [f32],
    /// In `[0, 1]`.
    pub decay: f32,
}

/// One step of AdamW over the given segments (which do not overlap) of flat buffers of equal length. `m`
/// and `v` are the moments. Parameters outside of every segment stay, gradients or not.
#[allow(clippy::too_many_arguments)]
pub fn adamw(
    pool: &ThreadPool,
    isa: Isa,
    step: &AdamW,
    segments: &[Segment],
    weights: &mut [f32],
    gradients: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    ema: Option<Ema<'_>>,
) {
    let count = weights.len();
    assert!(gradients.len() == count && m.len() == count && v.len() == count, "adamw: sizes differ");
    assert!(ema.as_ref().is_none_or(|e| e.average.len() == count), "adamw: size of the average");
    assert!(step.step > 0, "adamw: steps count from one");
    assert!(
        segments.iter().all(|s| s.offset <= count && s.len <= count - s.offset),
        "adamw: a segment outside of the buffers"
    );
    let steps = i32::try_from(step.step).unwrap_or(i32::MAX);
    let correction1 = 1.0 - f64::from(step.beta1).powi(steps);
    let correction2 = 1.0 - f64::from(step.beta2).powi(steps);
    let decay = ema.as_ref().map_or(1.0, |e| e.decay);
    let average = ema.map(|e| Shared::new(e.average));
    let (weights, m, v) = (Shared::new(weights), Shared::new(m), Shared::new(v));
    for_chunks(pool, count, CHUNK, |start, len| {
        for segment in segments {
            let first = segment.offset.max(start);
            let end = (segment.offset + segment.len).min(start + len);
            if first >= end {
                continue;
            }
            let constants = Constants {
                keep: 1.0 - step.lr * segment.weight_decay,
                step_size: (f64::from(step.lr) / correction1) as f32,
                root: (1.0 / correction2.sqrt()) as f32,
                step: *step,
            };
            // SAFETY: chunks are disjoint, and so are segments.
            unsafe {
                let n = end - first;
                let weights = weights.slice(first, n);
                update(isa, constants, weights, &gradients[first..end], m.slice(first, n), v.slice(first, n));
                if let Some(average) = &average {
                    blend(isa, decay, weights, average.slice(first, n));
                }
            }
        }
    });
}

#[derive(Clone, Copy)]
struct Constants {
    keep: f32,
    step_size: f32,
    root: f32,
    step: AdamW,
}

simd! {
    fn update(constants: Constants, weights: &mut [f32], gradients: &[f32], m: &mut [f32], v: &mut [f32]) {
        let Constants { keep, step_size, root, step } = constants;
        let AdamW { beta1, beta2, eps, clip_scale, .. } = step;
        let n = weights.len();
        let (gradients, m, v) = (&gradients[..n], &mut m[..n], &mut v[..n]);
        for i in 0..n {
            let g = gradients[i] * clip_scale;
            let first = madd::<FMA>(g - m[i], 1.0 - beta1, m[i]);
            let second = madd::<FMA>(v[i], beta2, g * g * (1.0 - beta2));
            m[i] = first;
            v[i] = second;
            let denominator = madd::<FMA>(second.sqrt(), root, eps);
            weights[i] = madd::<FMA>(weights[i], keep, -step_size * (first / denominator));
        }
    }
}

simd! {
    fn blend(decay: f32, weights: &[f32], average: &mut [f32]) {
        for (a, &w) in average.iter_mut().zip(weights) {
            *a = madd::<FMA>(w - *a, 1.0 - decay, *a);
        }
    }
}

/// The sum of squares in double precision, chunks added in order; NaN or infinite if any element is.
pub fn squared_norm(pool: &ThreadPool, isa: Isa, gradients: &[f32]) -> f64 {
    with_scratch(gradients.len().div_ceil(CHUNK), |partial: &mut [f64]| {
        let shared = Shared::new(partial);
        for_chunks(pool, gradients.len(), CHUNK, |start, len| {
            // SAFETY: one element for each chunk.
            let result = unsafe { shared.slice(start / CHUNK, 1) };
            result[0] = squares(isa, &gradients[start..start + len]);
        });
        partial.iter().sum()
    })
}

simd! {
    fn squares(x: &[f32]) -> f64 {
        const LANES: usize = 32;
        let mut lanes = [0.0f64; LANES];
        let chunks = x.chunks_exact(LANES);
        for (lane, &x) in lanes.iter_mut().zip(chunks.remainder()) {
            *lane = f64::from(x) * f64::from(x);
        }
        for chunk in chunks {
            for i in 0..LANES {
                let x = f64::from(chunk[i]);
                lanes[i] += x * x;
            }
        }
        lanes.iter().sum()
    }
}
