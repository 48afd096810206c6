//! Functions of one element, and the gradients of the activations.

use velatura_graph::Activation;

use super::dispatch::{BLOCK, CHUNK, Out, blocks, for_chunks, read, simd};
use super::math::{self, for_activation};
use super::math_bf16;
use crate::{Data, DataMut, Isa, ThreadPool};

/// A function of one element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unary {
    /// One of the activation functions that products and norms also fuse.
    Activation(Activation),
    /// `-x`
    Neg,
    /// `e^x`
    Exp,
    /// Natural logarithm.
    Log,
    /// Square root.
    Sqrt,
    /// `1 / sqrt(x)`
    Rsqrt,
    /// `x * x`
    Square,
    /// `|x|`
    Abs,
    /// -1, 0 or 1.
    Sign,
    /// Sine of radians.
    Sin,
    /// Cosine of radians.
    Cos,
    /// `1 / x`
    Reciprocal,
    /// `scale * x + shift`
    Affine {
        /// Factor.
        scale: f32,
        /// Summand.
        shift: f32,
    },
    /// `x` limited to `[min, max]`; NaN stays.
    Clamp {
        /// Lower limit.
        min: f32,
        /// Upper limit.
        max: f32,
    },
    /// `x` to a constant power.
    Pow(f32),
}

/// `out[i] = op(x[i])`; any mix of `F32` and `Bf16`.
pub fn unary(pool: &ThreadPool, isa: Isa, op: Unary, x: Data<'_>, out: DataMut<'_>) {
    assert_eq!(x.len(), out.len(), "unary: sizes differ");
    let count = x.len();
    let out = Out::new(out);
    for_chunks(pool, count, CHUNK, |start, len| {
        let mut buffer = [0.0; BLOCK];
        for (start, len) in blocks(start, len) {
            let x = read(isa, x, start, len, &mut buffer);
            // SAFETY: chunks are disjoint.
            unsafe { out.write(isa, start, len, |out| unary_block(isa, op, x, out)) };
        }
    });
}

/// `dx[i] = activation'(x[i]) * dy[i]`; any mix of `F32` and `Bf16`.
pub fn activation_backward(
    pool: &ThreadPool,
    isa: Isa,
    activation: Activation,
    x: Data<'_>,
    dy: Data<'_>,
    dx: DataMut<'_>,
) {
    assert!(x.len() == dy.len() && x.len() == dx.len(), "activation_backward: sizes differ");
    let count = x.len();
    let out = Out::new(dx);
    for_chunks(pool, count, CHUNK, |start, len| {
        let (mut a, mut b) = ([0.0; BLOCK], [0.0; BLOCK]);
        for (start, len) in blocks(start, len) {
            let x = read(isa, x, start, len, &mut a);
            let dy = read(isa, dy, start, len, &mut b);
            // SAFETY: chunks are disjoint.
            unsafe { out.write(isa, start, len, |out| slope_block(isa, activation, x, dy, out)) };
        }
    });
}

simd! {
    fn unary_block(op: Unary, x: &[f32], out: &mut [f32]) {
        macro_rules! each {
            ($x:ident => $value:expr) => {
                for (o, &$x) in out.iter_mut().zip(x) {
                    *o = $value;
                }
            };
        }
        match op {
            Unary::Activation(activation) => {
                for_activation!(activation, A => each!(x => math::activate::<FMA>(A, x)))
            }
            Unary::Neg => each!(x => -x),
            Unary::Exp => each!(x => math::exp::<FMA>(x)),
            Unary::Log => each!(x => x.ln()),
            Unary::Sqrt => each!(x => x.sqrt()),
            Unary::Rsqrt => each!(x => 1.0 / x.sqrt()),
            Unary::Square => each!(x => x * x),
            Unary::Abs => each!(x => x.abs()),
            Unary::Sign => each!(x => if x > 0.0 { 1.0 } else if x < 0.0 { -1.0 } else { x }),
            Unary::Sin => each!(x => x.sin()),
            Unary::Cos => each!(x => x.cos()),
            Unary::Reciprocal => each!(x => 1.0 / x),
            Unary::Affine { scale, shift } => each!(x => math::madd::<FMA>(x, scale, shift)),
            Unary::Clamp { min, max } => each!(x => {
                let x = if x < min { min } else { x };
                if x > max { max } else { x }
            }),
            Unary::Pow(power) => each!(x => x.powf(power)),
        }
    }
}

simd! {
    /// `out[i] = activation'(x[i]) * dy[i]`
    pub(crate) fn slope_block(activation: Activation, x: &[f32], dy: &[f32], out: &mut [f32]) {
        for_activation!(activation, A => {
            for ((o, &x), &dy) in out.iter_mut().zip(x).zip(dy) {
                *o = dy * math::activate_slope::<FMA>(A, x);
            }
        })
    }
}

simd! {
    /// Applies an activation in place, to what is `rounded` to bf16 afterwards or not.
    #[inline(never)]
    pub(crate) fn activate_in_place(activation: Activation, rounded: bool, x: &mut [f32]) {
        for_activation!(activation, A => {
            if rounded {
                for x in x.iter_mut() {
                    *x = math_bf16::activate::<FMA>(A, *x);
                }
            } else {
                for x in x.iter_mut() {
                    *x = math::activate::<FMA>(A, *x);
                }
            }
        })
    }
}
