//! Functions of two elements, with NumPy's broadcasting.

use super::dispatch::{BLOCK, CHUNK, Out, blocks, for_chunks, read, simd};
use super::math::madd;
use super::shape::{MAX_DIMS, Walk, broadcast_strides};
use crate::{Data, DataMut, Isa, ThreadPool};

/// A function of two elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// `a + b`
    Add,
    /// `a - b`
    Sub,
    /// `a * b`
    Mul,
    /// `a / b`
    Div,
    /// The greater; NaN where either is.
    Max,
    /// The smaller; NaN where either is.
    Min,
}

/// `out = op(a, b)`, both broadcast to `out_shape` by NumPy's rule (shapes aligned at their last axes, up to
/// six of them; an axis of length one is repeated). Any mix of `F32` and `Bf16`.
#[allow(clippy::too_many_arguments)]
pub fn binary(
    pool: &ThreadPool,
    isa: Isa,
    op: Binary,
    a: Data<'_>,
    a_shape: &[usize],
    b: Data<'_>,
    b_shape: &[usize],
    out: DataMut<'_>,
    out_shape: &[usize],
) {
    assert!(out_shape.len() <= MAX_DIMS, "binary: at most {MAX_DIMS} axes");
    assert_eq!(a.len(), a_shape.iter().product::<usize>(), "binary: first operand and its shape");
    assert_eq!(b.len(), b_shape.iter().product::<usize>(), "binary: second operand and its shape");
    assert_eq!(out.len(), out_shape.iter().product::<usize>(), "binary: output and its shape");
    let walk =
        Walk::new(out_shape, [broadcast_strides(a_shape, out_shape), broadcast_strides(b_shape, out_shape)]);
    let count = out.len();
    let out = Out::new(out);
    for_chunks(pool, count, CHUNK, |start, len| {
        let (mut x, mut y) = ([0.0; BLOCK], [0.0; BLOCK]);
        let [sa, sb] = walk.inner_strides();
        walk.segments(start, len, BLOCK, |position, [oa, ob], len| {
            let a = read(isa, a, oa, if sa == 0 { 1 } else { len }, &mut x);
            let b = read(isa, b, ob, if sb == 0 { 1 } else { len }, &mut y);
            // SAFETY: chunks are disjoint.
            unsafe { out.write(isa, position, len, |out| binary_block(isa, op, a, b, out)) };
        });
    });
}

/// `out = a_scale * a + b_scale * b` over equal shapes; any mix of `F32` and `Bf16`.
pub fn add_scaled(
    pool: &ThreadPool,
    isa: Isa,
    a: Data<'_>,
    a_scale: f32,
    b: Data<'_>,
    b_scale: f32,
    out: DataMut<'_>,
) {
    assert!(a.len() == b.len() && a.len() == out.len(), "add_scaled: sizes differ");
    let count = out.len();
    let out = Out::new(out);
    for_chunks(pool, count, CHUNK, |start, len| {
        let (mut x, mut y) = ([0.0; BLOCK], [0.0; BLOCK]);
        for (start, len) in blocks(start, len) {
            let a = read(isa, a, start, len, &mut x);
            let b = read(isa, b, start, len, &mut y);
            // SAFETY: chunks are disjoint.
            unsafe { out.write(isa, start, len, |out| add_scaled_block(isa, a, a_scale, b, b_scale, out)) };
        }
    });
}

simd! {
    fn add_scaled_block(a: &[f32], sa: f32, b: &[f32], sb: f32, out: &mut [f32]) {
        for ((o, &a), &b) in out.iter_mut().zip(a).zip(b) {
            *o = madd::<FMA>(a, sa, b * sb);
        }
    }
}

simd! {
    /// An operand of length one is repeated.
    fn binary_block(op: Binary, a: &[f32], b: &[f32], out: &mut [f32]) {
        macro_rules! each {
            ($a:ident, $b:ident => $value:expr) => {
                if a.len() == out.len() && b.len() == out.len() {
                    for ((o, &$a), &$b) in out.iter_mut().zip(a).zip(b) {
                        *o = $value;
                    }
                } else if b.len() == 1 && a.len() == out.len() {
                    let $b = b[0];
                    for (o, &$a) in out.iter_mut().zip(a) {
                        *o = $value;
                    }
                } else if a.len() == 1 && b.len() == out.len() {
                    let $a = a[0];
                    for (o, &$b) in out.iter_mut().zip(b) {
                        *o = $value;
                    }
                } else {
                    let ($a, $b) = (a[0], b[0]);
                    out.fill($value);
                }
            };
        }
        match op {
            Binary::Add => each!(a, b => a + b),
            Binary::Sub => each!(a, b => a - b),
            Binary::Mul => each!(a, b => a * b),
            Binary::Div => each!(a, b => a / b),
            Binary::Max => each!(a, b => if a > b || a.is_nan() { a } else { b }),
            Binary::Min => each!(a, b => if a < b || a.is_nan() { a } else { b }),
        }
    }
}
