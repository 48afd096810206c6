//! Activation functions whose result is rounded to bf16. Half as many operations as those of [`math`](super::math) leave a
//! relative error of 3e-4; the rounding leaves up to 2e-3. NaN is passed on.

use velatura_graph::Activation;

use super::math::{self, ROUND, madd};

/// `2^x` for x in `[-126, 126]`: a polynomial of the fraction, to 8e-5.
#[inline(always)]
fn exp2<const FMA: bool>(x: f32) -> f32 {
    let shifted = x + ROUND;
    let f = x - (shifted - ROUND);
    let mut p = 5.516_979e-2;
    p = madd::<FMA>(p, f, 2.426_078_8e-1);
    p = madd::<FMA>(p, f, 6.932_61e-1);
    p = madd::<FMA>(p, f, 9.999_283e-1);
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// `x` times the logistic function of `argument`.
#[inline(always)]
fn weighed_by_sigmoid<const FMA: bool>(x: f32, argument: f32) -> f32 {
    let power = -std::f32::consts::LOG2_E * argument;
    let power = if power > 126.0 { 126.0 } else { power };
    let power = if power < -126.0 { -126.0 } else { power };
    x / (1.0 + exp2::<FMA>(power))
}

/// `x` times the Gaussian distribution function: in the lower tail that is the density times a polynomial (of
/// `exp(t^2 / 2)` times the tail on `[0, 5.5]`, to 2e-4), in the upper one the rest to one.
#[inline(always)]
fn gelu<const FMA: bool>(x: f32) -> f32 {
    // The density is 1e-37 at 13, whatever the polynomial is.
    let x = if x < -13.0 { -13.0 } else { x };
    let t = x.abs();
    let t = if t > 13.0 { 13.0 } else { t };
    let density = exp2::<FMA>(t * t * (-0.5 * std::f32::consts::LOG2_E));
    let mut p = 3.899_213e-6;
    p = madd::<FMA>(p, t, -1.066_335_5e-4);
    p = madd::<FMA>(p, t, 1.260_52e-3);
    p = madd::<FMA>(p, t, -8.513_494e-3);
    p = madd::<FMA>(p, t, 3.682_821e-2);
    p = madd::<FMA>(p, t, -1.095_771_2e-1);
    p = madd::<FMA>(p, t, 2.382_189_3e-1);
    p = madd::<FMA>(p, t, -3.964_559_7e-1);
    p = madd::<FMA>(p, t, 4.999_044_8e-1);
    let tail = p * density;
    x * if x < 0.0 { tail } else { 1.0 - tail }
}

/// The value of an activation function.
#[inline(always)]
pub fn activate<const FMA: bool>(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Silu => weighed_by_sigmoid::<FMA>(x, x),
        Activation::QuickGelu => weighed_by_sigmoid::<FMA>(x, math::QUICK_GELU * x),
        Activation::GeluTanh => weighed_by_sigmoid::<FMA>(x, 2.0 * math::gelu_tanh_argument::<FMA>(x)),
        Activation::Gelu => gelu::<FMA>(x),
        Activation::Relu | Activation::Tanh | Activation::Sigmoid => math::activate::<FMA>(activation, x),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::elementwise::math::tests::erf64;

    fn check<const FMA: bool>(activation: Activation, exact: impl Fn(f64) -> f64) {
        for i in 0..40_001 {
            let x = -10.0 + 20.0 * i as f32 / 40_000.0;
            let (got, want) = (f64::from(activate::<FMA>(activation, x)), exact(f64::from(x)));
            // Far down the polynomial is past its end, and the result next to nothing.
            let tolerance = 3e-4 * want.abs() + 3e-8;
            assert!((got - want).abs() <= tolerance, "{activation:?} of {x}: {got} for {want}");
        }
        for x in [-1e30f32, -200.0] {
            assert!(activate::<FMA>(activation, x).abs() <= 1e-7, "{activation:?} of {x}");
        }
        for x in [200.0f32, 1e30] {
            assert_eq!(activate::<FMA>(activation, x), x, "{activation:?}");
        }
        assert!(activate::<FMA>(activation, f32::NAN).is_nan(), "{activation:?}");
    }

    #[test]
    fn results_are_closer_than_their_rounding() {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let tanh_argument = |x: f64| (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
        macro_rules! each {
            ($fma:expr) => {
                check::<$fma>(Activation::Silu, |x| x * sigmoid(x));
                check::<$fma>(Activation::QuickGelu, |x| x * sigmoid(1.702 * x));
                check::<$fma>(Activation::GeluTanh, |x| x * sigmoid(2.0 * tanh_argument(x)));
                check::<$fma>(Activation::Gelu, |x| {
                    0.5 * x * (1.0 + erf64(x * std::f64::consts::FRAC_1_SQRT_2))
                });
            };
        }
        each!(false);
        each!(true);
    }
}
