//! Single-precision logarithm, sine and cosine of the Cephes library, in the very order of operations of
//! the vector routines with which PyTorch's CPU generator makes normal numbers on x86-64 with AVX2
//! (J. Pommier's `avx_mathfun`). PyTorch's compiler fuses multiplications into the additions that follow
//! them; [`f32::mul_add`] stands where it does, and gives the same bits on every machine.

// The constants are written with the digits of their source.
#![allow(clippy::excessive_precision)]

/// Natural logarithm of a positive normal number.
pub(super) fn ln(x: f32) -> f32 {
    const P: [f32; 9] = [
        7.0376836292e-2,
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    ];
    let bits = x.max(f32::MIN_POSITIVE).to_bits();
    let mut e = ((bits >> 23) as i32 - 0x7f) as f32 + 1.0;
    // The mantissa, in 0.5..1.
    let m = f32::from_bits(bits & !0x7f80_0000 | 0x3f00_0000);
    let mut x = m - 1.0;
    if m < std::f32::consts::FRAC_1_SQRT_2 {
        e -= 1.0;
        x += m;
    }
    let z = x * x;
    let mut y = P[0];
    for p in &P[1..] {
        y = y.mul_add(x, *p);
    }
    y = (y * x).mul_add(z, e * -2.12194440e-4);
    y = (-z).mul_add(0.5, y);
    e.mul_add(0.693359375, x + y)
}

/// Sine and cosine of an angle of at most a few turns.
pub(super) fn sin_cos(angle: f32) -> (f32, f32) {
    const FOUR_OVER_PI: f32 = 1.27323954473516;
    let x = angle.abs();
    // Octant, rounded up to even.
    let j = ((x * FOUR_OVER_PI) as i32 + 1) & !1;
    let y = j as f32;
    // Pi/4 in three parts, so that the difference stays exact.
    let x = y.mul_add(-0.78515625, x);
    let x = y.mul_add(-2.4187564849853515625e-4, x);
    let x = y.mul_add(-3.77489497744594108e-8, x);
    let z = x * x;
    let cosine = 2.443315711809948e-5f32.mul_add(z, -1.388731625493765e-3).mul_add(z, 4.166664568298827e-2);
    let cosine = (cosine * z).mul_add(z, -(z * 0.5)) + 1.0;
    let sine = (-1.9515295891e-4f32).mul_add(z, 8.3321608736e-3).mul_add(z, -1.6666654611e-1);
    let sine = (sine * z).mul_add(x, x);
    let (sine, cosine) = if j & 2 == 0 { (sine, cosine) } else { (cosine, sine) };
    let negative_sine = angle.is_sign_negative() != (j & 4 != 0);
    let negative_cosine = !(j - 2) & 4 != 0;
    (if negative_sine { -sine } else { sine }, if negative_cosine { -cosine } else { cosine })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_to_the_platform_in_double_precision() {
        for i in 1..=40_000u32 {
            let u = i as f32 / 40_000.0;
            let want = f64::from(u).ln();
            assert!((f64::from(ln(u)) - want).abs() <= 1e-7 * want.abs().max(0.5), "ln {u}");
            let angle = std::f32::consts::TAU * u;
            let (s, c) = sin_cos(angle);
            let (ws, wc) = f64::from(angle).sin_cos();
            assert!((f64::from(s) - ws).abs() < 2e-7 && (f64::from(c) - wc).abs() < 2e-7, "angle {angle}");
        }
    }
}
