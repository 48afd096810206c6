//! Softmax and its logarithm over the last axis, with gradients.

use super::dispatch::{BLOCK, Out, buffer_len, for_chunks, read, simd, with_scratch};
use super::math::{self, madd};
use super::reduce::{max_of, sum_of};
use crate::{Data, DataMut, Isa, ThreadPool};

/// Rows that share a task.
fn rows_per_task(columns: usize) -> usize {
    (16 * BLOCK / columns.max(1)).max(1)
}

/// Softmax (or its logarithm) of each of `x.len() / columns` rows. A row of nothing but negative infinity
/// gives zeros (negative infinities for the logarithm).
pub fn softmax(pool: &ThreadPool, isa: Isa, log: bool, x: Data<'_>, columns: usize, out: DataMut<'_>) {
    assert!(x.len() == out.len() && columns > 0 && x.len().is_multiple_of(columns), "softmax: sizes");
    let out = Out::new(out);
    for_chunks(pool, x.len() / columns, rows_per_task(columns), |start, count| {
        with_scratch(buffer_len(x, columns), |buffer: &mut [f32]| {
            for row in start..start + count {
                let x = read(isa, x, row * columns, columns, buffer);
                // SAFETY: rows are disjoint.
                unsafe { out.write(isa, row * columns, columns, |out| softmax_row(isa, log, x, out)) };
            }
        });
    });
}

/// The gradient of [`softmax`] from its result `y`: `y (dy - sum(dy y))`, and for the logarithm
/// `dy - exp(y) sum(dy)`.
#[allow(clippy::too_many_arguments)]
pub fn softmax_backward(
    pool: &ThreadPool,
    isa: Isa,
    log: bool,
    y: Data<'_>,
    dy: Data<'_>,
    columns: usize,
    dx: DataMut<'_>,
) {
    assert!(y.len() == dx.len() && dy.len() == dx.len(), "softmax_backward: sizes differ");
    assert!(columns > 0 && y.len().is_multiple_of(columns), "softmax_backward: columns");
    let rows = y.len() / columns;
    let out = Out::new(dx);
    for_chunks(pool, rows, rows_per_task(columns), |start, count| {
        with_scratch(buffer_len(y, columns), |a: &mut [f32]| {
            with_scratch(buffer_len(dy, columns), |b: &mut [f32]| {
                for row in start..start + count {
                    let y = read(isa, y, row * columns, columns, a);
                    let dy = read(isa, dy, row * columns, columns, b);
                    // SAFETY: rows are disjoint.
                    unsafe {
                        out.write(isa, row * columns, columns, |out| gradient_row(isa, log, y, dy, out))
                    };
                }
            });
        });
    });
}

fn softmax_row(isa: Isa, log: bool, x: &[f32], out: &mut [f32]) {
    let greatest = max_of(isa, x);
    // A row without a finite element: subtracting infinity would give NaN.
    let shift = if greatest == f32::NEG_INFINITY { 0.0 } else { greatest };
    exp_shifted(isa, x, shift, out);
    let sum = sum_of(isa, out);
    if log {
        subtract(isa, x, shift + sum.ln(), out);
    } else if sum == 0.0 {
        out.fill(0.0);
    } else {
        scale_in_place(isa, 1.0 / sum, out);
    }
}

simd! {
    fn exp_shifted(x: &[f32], shift: f32, out: &mut [f32]) {
        for (o, &x) in out.iter_mut().zip(x) {
            *o = if x == f32::NEG_INFINITY { 0.0 } else { math::exp::<FMA>(x - shift) };
        }
    }
}

simd! {
    fn subtract(x: &[f32], shift: f32, out: &mut [f32]) {
        for (o, &x) in out.iter_mut().zip(x) {
            *o = if x == f32::NEG_INFINITY { x } else { x - shift };
        }
    }
}

simd! {
    fn scale_in_place(scale: f32, out: &mut [f32]) {
        for o in out.iter_mut() {
            *o *= scale;
        }
    }
}

fn gradient_row(isa: Isa, log: bool, y: &[f32], dy: &[f32], out: &mut [f32]) {
    if log {
        let sum = sum_of(isa, dy);
        log_gradient(isa, y, dy, sum, out);
    } else {
        multiply(isa, y, dy, out);
        let sum = sum_of(isa, out);
        subtract_scaled(isa, y, sum, out);
    }
}

simd! {
    fn log_gradient(y: &[f32], dy: &[f32], sum: f32, out: &mut [f32]) {
        for ((o, &y), &dy) in out.iter_mut().zip(y).zip(dy) {
            *o = madd::<FMA>(-sum, math::exp::<FMA>(y), dy);
        }
    }
}

simd! {
    fn multiply(a: &[f32], b: &[f32], out: &mut [f32]) {
        for ((o, &a), &b) in out.iter_mut().zip(a).zip(b) {
            *o = a * b;
        }
    }
}

simd! {
    fn subtract_scaled(y: &[f32], sum: f32, out: &mut [f32]) {
        for (o, &y) in out.iter_mut().zip(y) {
            *o = madd::<FMA>(-sum, y, *o);
        }
    }
}
