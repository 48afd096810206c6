//! Elementary functions in single precision without branches, so that loops over them vectorise. Each is
//! accurate to about two units in the last place over its whole range and passes NaN on.

use velatura_graph::Activation;

/// `a * b + c`, fused where that is one instruction.
#[inline(always)]
pub fn madd<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Adding and subtracting it rounds to the nearest integer, which is then in the low bits of the sum.
pub(super) const ROUND: f32 = 12_582_912.0;

/// Exponential: reduction by multiples of ln 2 in two parts and the polynomial of Cephes' `expf`.
#[inline(always)]
pub fn exp<const FMA: bool>(x: f32) -> f32 {
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    let shifted = madd::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = madd::<FMA>(n, -0.693_359_4, x);
    let r = madd::<FMA>(n, 2.121_944_4e-4, r);
    let mut p = 1.987_569_2e-4;
    p = madd::<FMA>(p, r, 1.398_2e-3);
    p = madd::<FMA>(p, r, 8.333_452e-3);
    p = madd::<FMA>(p, r, 4.166_579_6e-2);
    p = madd::<FMA>(p, r, 1.666_666_5e-1);
    p = madd::<FMA>(p, r, 0.5);
    p = madd::<FMA>(p, r * r, r) + 1.0;
    // Two factors, because 2^n alone may overflow or be subnormal where the result is not.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = n >> 1;
    p * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32).wrapping_shl(23))
}

/// Logistic function.
#[inline(always)]
pub fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// Hyperbolic tangent: the polynomial of Cephes' `tanhf` near zero, by the exponential elsewhere.
#[inline(always)]
pub fn tanh<const FMA: bool>(x: f32) -> f32 {
    let a = x.abs();
    let z = x * x;
    let mut p = -5.704_988_6e-3;
    p = madd::<FMA>(p, z, 2.063_909e-2);
    p = madd::<FMA>(p, z, -5.373_971_6e-2);
    p = madd::<FMA>(p, z, 1.333_144_2e-1);
    p = madd::<FMA>(p, z, -3.333_328e-1);
    let near = madd::<FMA>(p * z, x, x);
    let far = (1.0 - 2.0 / (exp::<FMA>(a + a) + 1.0)).copysign(x);
    if a < 0.625 { near } else { far }
}

/// Error function, after N. Juffa: a polynomial near zero, `1 - exp(polynomial)` elsewhere.
#[inline(always)]
pub fn erf<const FMA: bool>(x: f32) -> f32 {
    let t = x.abs();
    let s = x * x;
    let mut near = -5.967_617e-4;
    near = madd::<FMA>(near, s, 4.991_194_2e-3);
    near = madd::<FMA>(near, s, -2.676_813_5e-2);
    near = madd::<FMA>(near, s, 1.128_199_25e-1);
    near = madd::<FMA>(near, s, -3.761_253_4e-1);
    near = madd::<FMA>(near, s, 1.283_791_7e-1);
    near = madd::<FMA>(near, x, x);
    // Beyond 4 the result is one to the last bit; the polynomial is not to be trusted far outside.
    let t = if t > 4.0 { 4.0 } else { t };
    let mut far = -1.728_534_7e-5;
    far = madd::<FMA>(far, t, 3.831_971_3e-4);
    far = madd::<FMA>(far, t, -3.883_964_4e-3);
    far = madd::<FMA>(far, t, 2.425_462_2e-2);
    far = madd::<FMA>(far, t, -1.067_778_8e-1);
    far = madd::<FMA>(far, t, -6.348_467e-1);
    far = madd::<FMA>(far, t, -1.287_175_1e-1);
    far = madd::<FMA>(far, t, -t);
    let far = (1.0 - exp::<FMA>(far)).copysign(x);
    if x.abs() > 0.927_734_4 { far } else { near }
}

const GELU_TANH_SCALE: f32 = 0.797_884_6;
const GELU_TANH_CUBE: f32 = 0.044_715;
pub(super) const QUICK_GELU: f32 = 1.702;

/// What GELU's approximation takes the hyperbolic tangent of.
#[inline(always)]
pub(super) fn gelu_tanh_argument<const FMA: bool>(x: f32) -> f32 {
    GELU_TANH_SCALE * madd::<FMA>(GELU_TANH_CUBE * x * x, x, x)
}

/// Gaussian distribution function.
#[inline(always)]
fn normal_cdf<const FMA: bool>(x: f32) -> f32 {
    0.5 * (1.0 + erf::<FMA>(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// The value of an activation function.
#[inline(always)]
pub fn activate<const FMA: bool>(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Relu => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
        Activation::Silu => x * sigmoid::<FMA>(x),
        Activation::Gelu => x * normal_cdf::<FMA>(x),
        Activation::GeluTanh => {
            let u = gelu_tanh_argument::<FMA>(x);
            0.5 * x * (1.0 + tanh::<FMA>(u))
        }
        Activation::QuickGelu => x * sigmoid::<FMA>(QUICK_GELU * x),
        Activation::Tanh => tanh::<FMA>(x),
        Activation::Sigmoid => sigmoid::<FMA>(x),
    }
}

/// The derivative of an activation function at `x`.
#[inline(always)]
pub fn activate_slope<const FMA: bool>(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Relu => {
            if x > 0.0 {
                1.0
            } else {
                0.0 * x
            }
        }
        Activation::Silu => {
            let s = sigmoid::<FMA>(x);
            s * madd::<FMA>(x, 1.0 - s, 1.0)
        }
        Activation::Gelu => {
            let density = 0.398_942_3 * exp::<FMA>(-0.5 * x * x);
            madd::<FMA>(x, density, normal_cdf::<FMA>(x))
        }
        Activation::GeluTanh => {
            let u = gelu_tanh_argument::<FMA>(x);
            let slope = GELU_TANH_SCALE * madd::<FMA>(3.0 * GELU_TANH_CUBE * x, x, 1.0);
            let t = tanh::<FMA>(u);
            madd::<FMA>(0.5 * x * slope, 1.0 - t * t, 0.5 * (1.0 + t))
        }
        Activation::QuickGelu => {
            let s = sigmoid::<FMA>(QUICK_GELU * x);
            s * madd::<FMA>(QUICK_GELU * x, 1.0 - s, 1.0)
        }
        Activation::Tanh => {
            let t = tanh::<FMA>(x);
            1.0 - t * t
        }
        Activation::Sigmoid => {
            let s = sigmoid::<FMA>(x);
            s * (1.0 - s)
        }
    }
}

/// Calls `$body` with `$a` bound to a constant activation in each arm, so that the choice is made outside
/// the loop.
macro_rules! for_activation {
    ($activation:expr, $a:ident => $body:expr) => {
        match $activation {
            velatura_graph::Activation::Relu => {
                const $a: velatura_graph::Activation = velatura_graph::Activation::Relu;
                $body
            }
            velatura_graph::Activation::Silu => {
                const $a: velatura_graph::Activation = velatura_graph::Activation::Silu;
                $body
            }
            velatura_graph::Activation::Gelu => {
                const $a: velatura_graph::Activation = velatura_graph::Activation::Gelu;
                $body
            }
            velatura_graph::Activation::GeluTanh => {
                const $a: velatura_graph::Activation = velatura_graph::Activation::GeluTanh;
                $body
            }
            velatura_graph::Activation::QuickGelu => {
                const $a: velatura_graph::Activation = velatura_graph::Activation::QuickGelu;
                $body
            }
            velatura_graph::Activation::Tanh => {
                const $a: velatura_graph::Activation = velatura_graph::Activation::Tanh;
                $body
            }
            velatura_graph::Activation::Sigmoid => {
                const $a: velatura_graph::Activation = velatura_graph::Activation::Sigmoid;
                $body
            }
        }
    };
}
pub(crate) use for_activation;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The error function by its all-positive series, to 1e-15 below 6.
    pub(crate) fn erf64(x: f64) -> f64 {
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        while term.abs() > 1e-18 * sum.abs() && n < 400.0 {
            n += 1.0;
            term *= 2.0 * x * x / (2.0 * n + 1.0);
            sum += term;
        }
        if x.abs() > 6.0 { x.signum() } else { 2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum }
    }

    fn check(
        name: &str,
        f: impl Fn(f32) -> f32,
        exact: impl Fn(f64) -> f64,
        low: f32,
        high: f32,
        tolerance: f64,
    ) {
        let mut worst = (0.0, 0.0);
        for i in 0..20_001 {
            let x = low + (high - low) * i as f32 / 20_000.0;
            let (got, want) = (f64::from(f(x)), exact(f64::from(x)));
            let error = (got - want).abs() / want.abs().max(1e-37);
            if error > worst.0 {
                worst = (error, x);
            }
        }
        assert!(worst.0 <= tolerance, "{name}: relative error {} at {}", worst.0, worst.1);
    }

    fn all<const FMA: bool>() {
        check("exp", exp::<FMA>, f64::exp, -87.0, 88.7, 4e-7);
        check("sigmoid", sigmoid::<FMA>, |x| 1.0 / (1.0 + (-x).exp()), -80.0, 80.0, 5e-7);
        check("tanh", tanh::<FMA>, f64::tanh, -20.0, 20.0, 3e-7);
        check("tanh near 0", tanh::<FMA>, f64::tanh, -0.7, 0.7, 3e-7);
        check("erf", erf::<FMA>, erf64, -8.0, 8.0, 4e-7);
        check("erf near 0", erf::<FMA>, erf64, -1.0, 1.0, 4e-7);
    }

    #[test]
    fn elementary_functions_are_accurate() {
        all::<false>();
        all::<true>();
    }

    #[test]
    fn limits_and_not_a_number() {
        assert_eq!(exp::<true>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp::<true>(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp::<true>(200.0), f32::INFINITY);
        assert_eq!(sigmoid::<true>(f32::NEG_INFINITY), 0.0);
        assert_eq!(tanh::<true>(f32::INFINITY), 1.0);
        assert_eq!(erf::<true>(f32::NEG_INFINITY), -1.0);
        for f in [exp::<true>, sigmoid::<true>, tanh::<true>, erf::<true>, exp::<false>, tanh::<false>] {
            assert!(f(f32::NAN).is_nan());
        }
        for a in [Activation::Relu, Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
            assert!(activate::<true>(a, f32::NAN).is_nan());
        }
    }
}
