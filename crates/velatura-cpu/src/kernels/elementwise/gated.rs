//! Gated linear units: the second half of the channels, through an activation, times the first.

use velatura_graph::Activation;

use super::dispatch::{BLOCK, CHUNK, Out, for_chunks, read, simd, with_scratch};
use super::math::{self, for_activation};
use crate::{Data, DataMut, Isa, ThreadPool};

/// `out[r][i] = x[r][i] * activation(x[r][c + i])` for `x` `[rows, 2 c]` and `out` `[rows, c]`; any mix of `F32` and
/// `Bf16`.
pub fn gated(pool: &ThreadPool, isa: Isa, activation: Activation, x: Data<'_>, c: usize, out: DataMut<'_>) {
    assert!(c > 0 && x.len() == 2 * out.len() && out.len().is_multiple_of(c), "gated: sizes");
    let rows = out.len() / c;
    let out = Out::new(out);
    for_blocks(pool, rows, c, |row, first, len| {
        let (mut a, mut b) = ([0.0; BLOCK], [0.0; BLOCK]);
        let value = read(isa, x, row * 2 * c + first, len, &mut a);
        let gate = read(isa, x, row * 2 * c + c + first, len, &mut b);
        // SAFETY: blocks are disjoint.
        unsafe { out.write(isa, row * c + first, len, |out| gate_block(isa, activation, value, gate, out)) };
    });
}

/// The gradient of [`gated`] towards `x` `[rows, 2 c]`, from `dy` `[rows, c]`; any mix of `F32` and `Bf16`.
pub fn gated_backward(
    pool: &ThreadPool,
    isa: Isa,
    activation: Activation,
    x: Data<'_>,
    c: usize,
    dy: Data<'_>,
    dx: DataMut<'_>,
) {
    let fits = c > 0 && x.len() == dx.len() && x.len() == 2 * dy.len() && dy.len().is_multiple_of(c);
    assert!(fits, "gated_backward: sizes");
    let rows = dy.len() / c;
    let out = Out::new(dx);
    for_blocks(pool, rows, c, |row, first, len| {
        let (mut a, mut b, mut d) = ([0.0; BLOCK], [0.0; BLOCK], [0.0; BLOCK]);
        let at = row * 2 * c + first;
        let value = read(isa, x, at, len, &mut a);
        let gate = read(isa, x, at + c, len, &mut b);
        let dy = read(isa, dy, row * c + first, len, &mut d);
        with_scratch(2 * len, |both: &mut [f32]| {
            let (dvalue, dgate) = both.split_at_mut(len);
            slope_blocks(isa, activation, value, gate, dy, dvalue, dgate);
            // SAFETY: blocks are disjoint.
            unsafe {
                out.store(isa, at, dvalue);
                out.store(isa, at + c, dgate);
            }
        });
    });
}

/// Calls `f(row, first channel, channels)` for at most [`BLOCK`] channels at a time of every row.
fn for_blocks(pool: &ThreadPool, rows: usize, c: usize, f: impl Fn(usize, usize, usize) + Sync) {
    for_chunks(pool, rows, (CHUNK / c).max(1), |start, count| {
        for row in start..start + count {
            (0..c).step_by(BLOCK).for_each(|first| f(row, first, BLOCK.min(c - first)));
        }
    });
}

simd! {
    fn gate_block(activation: Activation, value: &[f32], gate: &[f32], out: &mut [f32]) {
        for_activation!(activation, A => {
            for ((o, &x), &gate) in out.iter_mut().zip(value).zip(gate) {
                *o = x * math::activate::<FMA>(A, gate);
            }
        })
    }
}

simd! {
    fn slope_blocks(
        activation: Activation,
        value: &[f32],
        gate: &[f32],
        dy: &[f32],
        dvalue: &mut [f32],
        dgate: &mut [f32],
    ) {
        let n = dy.len();
        let (value, gate, dvalue, dgate) = (&value[..n], &gate[..n], &mut dvalue[..n], &mut dgate[..n]);
        for_activation!(activation, A => {
            for i in 0..n {
                dvalue[i] = dy[i] * math::activate::<FMA>(A, gate[i]);
                dgate[i] = dy[i] * value[i] * math::activate_slope::<FMA>(A, gate[i]);
            }
        })
    }
}
