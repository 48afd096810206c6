//! Muon: momentum whose matrices are made orthogonal before they are taken as a step (Jordan et al. 2024), scaled to the
//! size of AdamW's steps (Liu et al. 2025, "Muon is scalable for LLM training"), so that one learning rate serves both.

use half::bf16;
use velatura_graph::DType;

use super::super::elementwise::dispatch::{Shared, narrow, round_bf16, simd, widen, with_scratch};
use super::super::elementwise::math::madd;
use super::super::gemm::{MatmulGeometry, matmul, matmul_scratch_bytes};
use super::{Ema, blend};
use crate::{Data, DataMut, Isa, ThreadPool};

/// The quintic of Jordan et al.: it takes every singular value in (0, 1] to about 0.7 to 1.2 in [`ITERATIONS`] rounds.
const QUINTIC: [f32; 3] = [3.4445, -4.775, 2.0315];
const ITERATIONS: usize = 5;
/// Root of the mean square of AdamW's steps, relative to the learning rate (Liu et al. 2025, section 2.2).
const ADAMW_STEP: f32 = 0.2;

/// The constants of one step of Muon.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Muon {
    /// Learning rate of this step, of AdamW's size.
    pub lr: f32,
    /// Decay of the momentum, Nesterov's.
    pub momentum: f32,
    /// Factor applied to every gradient.
    pub clip_scale: f32,
}

/// A matrix among flat parameters. A convolution `[out, in, kh, kw]` is the matrix `[out, in * kh * kw]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Matrix {
    /// First parameter.
    pub offset: usize,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Decoupled weight decay.
    pub weight_decay: f32,
}

impl Matrix {
    fn len(&self) -> usize {
        self.rows * self.columns
    }

    /// Multiplications of one round, up to a factor.
    fn work(&self) -> usize {
        self.len() * self.rows.min(self.columns)
    }
}

/// One step of Muon over the given matrices (which do not overlap) of flat buffers of equal length. `momentum` is the
/// only state. Other parameters stay as they are.
///
/// Every matrix is one task, so the result does not depend on the threads.
#[allow(clippy::too_many_arguments)]
pub fn muon(
    pool: &ThreadPool,
    isa: Isa,
    step: &Muon,
    matrices: &[Matrix],
    weights: &mut [f32],
    gradients: &[f32],
    momentum: &mut [f32],
    ema: Option<Ema<'_>>,
) {
    let count = weights.len();
    assert!(gradients.len() == count && momentum.len() == count, "muon: sizes differ");
    assert!(ema.as_ref().is_none_or(|e| e.average.len() == count), "muon: size of the average");
    // The largest first, so that threads end together.
    let mut order: Vec<&Matrix> = matrices.iter().collect();
    order.sort_by_key(|matrix| std::cmp::Reverse(matrix.work()));
    let decay = ema.as_ref().map_or(1.0, |e| e.decay);
    let average = ema.map(|e| Shared::new(e.average));
    let (weights, momentum) = (Shared::new(weights), Shared::new(momentum));
    pool.run(order.len(), |index, _| {
        let matrix = order[index];
        let (start, n) = (matrix.offset, matrix.len());
        with_scratch(n, |update: &mut [f32]| {
            // SAFETY: matrices do not overlap.
            let (weights, momentum) = unsafe { (weights.slice(start, n), momentum.slice(start, n)) };
            look_ahead(isa, *step, &gradients[start..start + n], momentum, update);
            orthogonalize(isa, update, matrix.rows, matrix.columns);
            let rate = step.lr * ADAMW_STEP * (matrix.rows.max(matrix.columns) as f32).sqrt();
            descend(isa, rate, 1.0 - step.lr * matrix.weight_decay, update, weights);
            if let Some(average) = &average {
                // SAFETY: as above.
                blend(isa, decay, weights, unsafe { average.slice(start, n) });
            }
        });
    });
}

/// Replaces a matrix `[rows, columns]` by about the nearest one whose singular values are all one: `U V^T` of its
/// singular value decomposition, by Newton and Schulz's iteration in bf16. A matrix of zeros stays one.
///
/// Runs on the calling thread alone.
pub fn orthogonalize(isa: Isa, x: &mut [f32], rows: usize, columns: usize) {
    assert_eq!(x.len(), rows * columns, "orthogonalize: size");
    let (small, large) = (rows.min(columns), rows.max(columns));
    let norm = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
    if norm == 0.0 || !norm.is_finite() {
        return;
    }
    let scale = (1.0 / (norm * 1.0001)) as f32;
    x.iter_mut().for_each(|v| *v *= scale);
    // With G the product of the matrix with itself over its longer side, one round is x <- a x + (b G + c G G) x.
    let tall = rows > columns;
    let gram = Multiply::new(isa, small, small, large, tall, !tall);
    let square = Multiply::new(isa, small, small, small, false, false);
    let apply = match tall {
        true => Multiply::new(isa, rows, columns, columns, false, false),
        false => Multiply::new(isa, rows, columns, rows, false, false),
    };
    let [a, b, c] = QUINTIC;
    let squares = small * small;
    with_scratch(x.len() + 2 * squares, |narrowed: &mut [bf16]| {
        with_scratch(2 * squares + x.len(), |wide: &mut [f32]| {
            let (current, rest) = narrowed.split_at_mut(x.len());
            let (g, polynomial) = rest.split_at_mut(squares);
            let (g_wide, rest) = wide.split_at_mut(squares);
            let (gg, product) = rest.split_at_mut(squares);
            narrow(isa, x, current);
            for round in 1..=ITERATIONS {
                gram.run(current, current, g_wide);
                narrow(isa, g_wide, g);
                // Both terms of the polynomial must be taken at the same point, for their errors nearly cancel.
                widen(isa, g, g_wide);
                square.run(g, g, gg);
                combine(isa, b, c, g_wide, gg);
                narrow(isa, gg, polynomial);
                match tall {
                    true => apply.run(current, polynomial, product),
                    false => apply.run(polynomial, current, product),
                }
                match round {
                    ITERATIONS => last_round(isa, a, current, product, x),
                    _ => next_round(isa, a, product, current),
                }
            }
        });
    });
}

/// A product of two bf16 matrices on the calling thread.
struct Multiply {
    isa: Isa,
    geometry: MatmulGeometry,
    alone: ThreadPool,
}

impl Multiply {
    fn new(isa: Isa, m: usize, n: usize, k: usize, transpose_a: bool, transpose_b: bool) -> Self {
        let geometry = MatmulGeometry { batch: 1, m, n, k, transpose_a, transpose_b, broadcast_b: false };
        Multiply { isa, geometry, alone: ThreadPool::new(1) }
    }

    fn run(&self, a: &[bf16], b: &[bf16], out: &mut [f32]) {
        let Multiply { isa, geometry, alone } = self;
        with_scratch(matmul_scratch_bytes(*isa, DType::Bf16, geometry), |scratch: &mut [u8]| {
            let (a, b, out) = (Data::Bf16(a), Data::Bf16(b), DataMut::F32(out));
            if let Err(error) = matmul(alone, *isa, geometry, a, b, out, scratch) {
                unreachable!("operands of one size: {error}");
            }
        });
    }
}

simd! {
    /// The momentum after this gradient, and the step that looks ahead along it.
    fn look_ahead(step: Muon, gradients: &[f32], momentum: &mut [f32], update: &mut [f32]) {
        let n = gradients.len();
        let (momentum, update) = (&mut momentum[..n], &mut update[..n]);
        for i in 0..n {
            let g = gradients[i] * step.clip_scale;
            let m = madd::<FMA>(momentum[i], step.momentum, g);
            momentum[i] = m;
            update[i] = madd::<FMA>(m, step.momentum, g);
        }
    }
}

simd! {
    /// `y = a * x + b * y`.
    fn combine(a: f32, b: f32, x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = madd::<FMA>(a, x, b * *y);
        }
    }
}

simd! {
    /// `x = a * x + product`, in place.
    fn next_round(a: f32, product: &[f32], x: &mut [bf16]) {
        for (x, &p) in x.iter_mut().zip(product) {
            *x = round_bf16(madd::<FMA>(a, f32::from_bits(u32::from(x.to_bits()) << 16), p));
        }
    }
}

simd! {
    /// `out = a * x + product`.
    fn last_round(a: f32, x: &[bf16], product: &[f32], out: &mut [f32]) {
        for ((out, x), &p) in out.iter_mut().zip(x).zip(product) {
            *out = madd::<FMA>(a, f32::from_bits(u32::from(x.to_bits()) << 16), p);
        }
    }
}

simd! {
    fn descend(rate: f32, keep: f32, update: &[f32], weights: &mut [f32]) {
        for (w, &u) in weights.iter_mut().zip(update) {
            *w = madd::<FMA>(*w, keep, -rate * u);
        }
    }
}
