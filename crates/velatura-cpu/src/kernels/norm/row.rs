//! Layer norm and RMS norm over the last axis.

use std::ops::Range;

use half::bf16;

use crate::kernels::Order;
use crate::kernels::elementwise::dispatch::{
    Out, Shared, Stored, buffer_len, for_chunks, read, simd, with_scratch,
};
use crate::kernels::elementwise::math::madd;
use crate::kernels::elementwise::reduce::{add_into, sum_of};
use crate::kernels::order::{SIDE, copy_to_tiles};
use crate::{Data, DataMut, Isa, ThreadPool};

/// Which statistics a row is normalised by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowNormKind {
    /// Mean and variance.
    Layer,
    /// Mean square; the mean stays.
    Rms,
}

/// What a row norm works on: `[rows, channels]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowNorm {
    /// Layer norm or RMS norm.
    pub kind: RowNormKind,
    /// Rows: the product of all axes but the last.
    pub rows: usize,
    /// The last axis.
    pub channels: usize,
    /// Added to the variance (mean square).
    pub eps: f32,
}

/// Rows whose parameter gradients are summed first. Fixed, so that the order of additions is.
const PART: usize = 64;

/// Rows that are copied to tiles together: they are in the first-level cache.
const TOGETHER: usize = 8;

impl RowNorm {
    fn check(&self, elements: usize) {
        assert!(self.channels > 0, "row norm: no channels");
        assert_eq!(elements, self.rows * self.channels, "row norm: size");
    }

    /// Rows of a task, which writes them in this order.
    fn rows_per_task(&self, order: Order) -> usize {
        let rows = (16_384 / self.channels).clamp(1, 256);
        if order == Order::Tiles { rows.next_multiple_of(SIDE) } else { rows }
    }
}

/// `(x - mean) * rstd * gamma + beta` for each row (mean zero for RMS norm).
///
/// `gamma` and `beta` have one value for each channel (`None`: one and zero). `stats`, where given,
/// receives `[rows, 2]`: the mean and the reciprocal standard deviation. The output lies in `order`, in that of tiles if it is of
/// brain floating-point numbers.
#[allow(clippy::too_many_arguments)]
pub fn row_norm(
    pool: &ThreadPool,
    isa: Isa,
    norm: &RowNorm,
    x: Data<'_>,
    gamma: Option<&[f32]>,
    beta: Option<&[f32]>,
    out: DataMut<'_>,
    order: Order,
    stats: Option<&mut [f32]>,
) {
    norm.check(x.len());
    norm.check(out.len());
    let c = norm.channels;
    assert!(order.takes([norm.rows, c]), "row norm: rows that do not fill tiles");
    assert!(gamma.is_none_or(|g| g.len() == c) && beta.is_none_or(|b| b.len() == c), "row norm: parameters");
    assert!(stats.as_ref().is_none_or(|s| s.len() == norm.rows * 2), "row norm: stats");
    let out = Out::new(out);
    let stats = stats.map(Shared::new);
    // Writes some rows to `out`, which begins with row `before`.
    let write = |rows: Range<usize>, out: &Out<'_>, before: usize| {
        with_scratch(buffer_len(x, c), |buffer: &mut [f32]| {
            for row in rows {
                let x = read(isa, x, row * c, c, buffer);
                let mean = if norm.kind == RowNormKind::Layer { sum_of(isa, x) / c as f32 } else { 0.0 };
                let variance = squares_around(isa, x, mean) / c as f32;
                let rstd = 1.0 / (variance + norm.eps).sqrt();
                if let Some(stats) = &stats {
                    // SAFETY: rows are disjoint.
                    unsafe { stats.slice(row * 2, 2) }.copy_from_slice(&[mean, rstd]);
                }
                let at = (row - before) * c;
                match (gamma, beta, out) {
                    (Some(gamma), Some(beta), Out::F32(out)) => {
                        // SAFETY: rows are disjoint.
                        affine(isa, x, mean, rstd, gamma, beta, unsafe { out.slice(at, c) });
                    }
                    (Some(gamma), Some(beta), Out::Bf16(out)) => {
                        // SAFETY: as above.
                        affine(isa, x, mean, rstd, gamma, beta, unsafe { out.slice(at, c) });
                    }
                    // SAFETY: as above.
                    _ => unsafe {
                        out.write(isa, at, c, |out| {
                            normalise(isa, x, mean, rstd, out);
                            if let Some(gamma) = gamma {
                                scale_by(isa, gamma, out);
                            }
                            if let Some(beta) = beta {
                                add_into(isa, beta, out);
                            }
                        });
                    },
                }
            }
        });
    };
    for_chunks(pool, norm.rows, norm.rows_per_task(order), |first, count| match (order, &out) {
        (Order::Rows, _) => write(first..first + count, &out, 0),
        (Order::Tiles, Out::F32(_)) => panic!("row norm: tiles are of brain floating-point numbers"),
        (Order::Tiles, Out::Bf16(tiles)) => with_scratch(TOGETHER * c, |rows: &mut [bf16]| {
            for row in (first..first + count).step_by(TOGETHER) {
                write(row..row + TOGETHER, &Out::new(DataMut::Bf16(rows)), row);
                let in_block = row % SIDE;
                // SAFETY: tasks have blocks of their own.
                let tiles = unsafe { tiles.slice((row - in_block) * c, SIDE * c) };
                copy_to_tiles(isa, rows, in_block, c, tiles);
            }
        }),
    });
}

/// The gradients of [`row_norm`] from its input, its `stats` and the gradient of its output. `dgamma` and
/// `dbeta` are written, not added to. The residual, where given, is added to the gradient of the input.
#[allow(clippy::too_many_arguments)]
pub fn row_norm_backward(
    pool: &ThreadPool,
    isa: Isa,
    norm: &RowNorm,
    x: Data<'_>,
    gamma: Option<&[f32]>,
    stats: &[f32],
    dy: Data<'_>,
    residual: Option<Data<'_>>,
    dx: DataMut<'_>,
    dgamma: Option<&mut [f32]>,
    dbeta: Option<&mut [f32]>,
) {
    norm.check(x.len());
    norm.check(dy.len());
    norm.check(dx.len());
    residual.iter().for_each(|r| norm.check(r.len()));
    let c = norm.channels;
    assert!(gamma.is_none_or(|g| g.len() == c), "row norm: gamma");
    assert_eq!(stats.len(), norm.rows * 2, "row norm: stats");
    let out = Out::new(dx);
    let parts = norm.rows.div_ceil(PART);
    with_scratch(parts * 2 * c, |partial: &mut [f32]| {
        let shared = Shared::new(partial);
        for_chunks(pool, norm.rows, PART, |first, count| {
            // SAFETY: one task for each part.
            let sums = unsafe { shared.slice(first / PART * 2 * c, 2 * c) };
            sums.fill(0.0);
            let (sum_gamma, sum_beta) = sums.split_at_mut(c);
            let (nx, ny) = (buffer_len(x, c), buffer_len(dy, c));
            let nr = residual.map_or(0, |r| buffer_len(r, c));
            with_scratch(nx + ny + nr + 2 * c, |buffer: &mut [f32]| {
                let (bx, buffer) = buffer.split_at_mut(nx);
                let (by, buffer) = buffer.split_at_mut(ny);
                let (br, buffer) = buffer.split_at_mut(nr);
                let (hat, g) = buffer.split_at_mut(c);
                for row in first..first + count {
                    let x = read(isa, x, row * c, c, bx);
                    let dy = read(isa, dy, row * c, c, by);
                    let (mean, rstd) = (stats[2 * row], stats[2 * row + 1]);
                    normalise(isa, x, mean, rstd, hat);
                    multiply_add(isa, dy, hat, sum_gamma);
                    add_into(isa, dy, sum_beta);
                    g.copy_from_slice(dy);
                    if let Some(gamma) = gamma {
                        scale_by(isa, gamma, g);
                    }
                    let plain = if norm.kind == RowNormKind::Layer { sum_of(isa, g) / c as f32 } else { 0.0 };
                    let slope = dot(isa, g, hat) / c as f32;
                    // SAFETY: rows are disjoint.
                    unsafe {
                        out.write(isa, row * c, c, |out| {
                            gradient(isa, g, hat, rstd, plain, slope, out);
                            if let Some(residual) = residual {
                                add_into(isa, read(isa, residual, row * c, c, br), out);
                            }
                        });
                    }
                }
            });
        });
        for (half, target) in [dgamma, dbeta].into_iter().enumerate() {
            let Some(target) = target else { continue };
            assert_eq!(target.len(), c, "row norm: gradients of the parameters");
            target.fill(0.0);
            for part in 0..parts {
                // SAFETY: no task is running.
                add_into(isa, unsafe { shared.slice((part * 2 + half) * c, c) }, target);
            }
        }
    });
}

/// Lanes of running sums.
const LANES: usize = 64;

simd! {
    /// The sum of squared differences from `mean`.
    fn squares_around(x: &[f32], mean: f32) -> f32 {
        let mut lanes = [0.0f32; LANES];
        let chunks = x.chunks_exact(LANES);
        for (lane, x) in lanes.iter_mut().zip(chunks.remainder()) {
            let d = x - mean;
            *lane = d * d;
        }
        for chunk in chunks {
            for i in 0..LANES {
                let d = chunk[i] - mean;
                lanes[i] = madd::<FMA>(d, d, lanes[i]);
            }
        }
        tree(lanes)
    }
}

simd! {
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        let mut lanes = [0.0f32; LANES];
        let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
        for ((lane, x), y) in lanes.iter_mut().zip(a.remainder()).zip(b.remainder()) {
            *lane = x * y;
        }
        for (a, b) in a.zip(b) {
            for i in 0..LANES {
                lanes[i] = madd::<FMA>(a[i], b[i], lanes[i]);
            }
        }
        tree(lanes)
    }
}

#[inline(always)]
fn tree(mut lanes: [f32; LANES]) -> f32 {
    let mut n = LANES / 2;
    while n > 0 {
        for i in 0..n {
            lanes[i] += lanes[i + n];
        }
        n /= 2;
    }
    lanes[0]
}

simd! {
    fn normalise(x: &[f32], mean: f32, rstd: f32, out: &mut [f32]) {
        for (o, &x) in out.iter_mut().zip(x) {
            *o = (x - mean) * rstd;
        }
    }
}

simd! {
    /// [`normalise`], [`scale_by`] and [`add_into`] at once.
    fn affine<T: Stored>(x: &[f32], mean: f32, rstd: f32, gamma: &[f32], beta: &[f32], out: &mut [T]) {
        for (((o, &x), &gamma), &beta) in out.iter_mut().zip(x).zip(gamma).zip(beta) {
            *o = T::of((x - mean) * rstd * gamma + beta);
        }
    }
}

simd! {
    fn scale_by(gamma: &[f32], x: &mut [f32]) {
        for (x, gamma) in x.iter_mut().zip(gamma) {
            *x *= gamma;
        }
    }
}

simd! {
    fn multiply_add(a: &[f32], b: &[f32], total: &mut [f32]) {
        for ((t, &a), &b) in total.iter_mut().zip(a).zip(b) {
            *t = madd::<FMA>(a, b, *t);
        }
    }
}

simd! {
    fn gradient(g: &[f32], hat: &[f32], rstd: f32, plain: f32, slope: f32, out: &mut [f32]) {
        for ((o, &g), &hat) in out.iter_mut().zip(g).zip(hat) {
            *o = rstd * madd::<FMA>(-hat, slope, g - plain);
        }
    }
}
