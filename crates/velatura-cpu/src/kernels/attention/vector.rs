//! Vectors of single-precision lanes for the attention kernels, one type for each instruction set.
//!
//! Every function is `#[inline(always)]` and must end up in a function compiled for the instruction set of
//! its type; that is the safety contract of all of them, next to valid pointers for loads and stores.

/// Coefficients of 2^f for f in `[-1/2, 1/2]`, constant term first; relative error 2e-9 before rounding.
const EXP2_FINE: [f32; 7] =
    [1.0, 6.931_472e-1, 2.402_264_6e-1, 5.550_329e-2, 9.618_489e-3, 1.339_993_1e-3, 1.534_581_2e-4];

/// Coefficients of 2^f for f in `[0, 1)`, constant term first, with a relative error of 8e-5: still far below the rounding
/// of a bf16 probability, which is 2e-3.
#[cfg(target_arch = "x86_64")]
const EXP2_UNIT: [f32; 4] = [9.999_252e-1, 6.958_335_4e-1, 2.260_671_6e-1, 7.802_452e-2];

/// Below it the result is zero; keeps the exponent arithmetic in range.
const EXP2_LOWEST: f32 = -127.0;

/// From it on the result is infinite.
const EXP2_HIGHEST: f32 = 128.0;

pub(super) trait Vector: Copy {
    const LANES: usize;
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn add(self, b: Self) -> Self;
    unsafe fn sub(self, b: Self) -> Self;
    unsafe fn mul(self, b: Self) -> Self;
    /// `self * b + c`
    unsafe fn fma(self, b: Self, c: Self) -> Self;
    /// The greater; `b` where either is NaN.
    unsafe fn max(self, b: Self) -> Self;
    /// The less; `b` where either is NaN.
    unsafe fn min(self, b: Self) -> Self;
    /// Whether every lane is below it; a NaN is not.
    unsafe fn all_below(self, limit: f32) -> bool;
    /// 2^self, infinite from 128 on, and perhaps a little before; zero, or nearly, from -127 down; passes NaN on. If not `FINE`,
    /// for what is rounded to bf16.
    unsafe fn exp2<const FINE: bool>(self) -> Self;
}

/// Adding it rounds to the nearest integer, which is then, as the exponent of a single-precision number, in the low bits of the sum.
const TO_EXPONENT: f32 = 12_582_912.0 + 127.0;

/// 2^x as a product: of a number near one and of that whose bits are those of the second result, 23 places further left.
#[inline(always)]
unsafe fn exp2_factors<V: Vector>(x: V) -> (V, V) {
    // SAFETY: the contract of the trait.
    unsafe {
        let x = V::splat(EXP2_HIGHEST).min(V::splat(EXP2_LOWEST).max(x));
        let exponent = x.add(V::splat(TO_EXPONENT));
        let whole = exponent.sub(V::splat(TO_EXPONENT));
        (polynomial(&EXP2_FINE, x.sub(whole)), exponent)
    }
}

/// A polynomial of which the constant term comes first.
#[inline(always)]
unsafe fn polynomial<V: Vector, const COUNT: usize>(coefficients: &[f32; COUNT], x: V) -> V {
    // SAFETY: the contract of the trait.
    unsafe {
        let mut p = V::splat(coefficients[COUNT - 1]);
        let mut i = COUNT - 1;
        while i > 0 {
            i -= 1;
            p = p.fma(x, V::splat(coefficients[i]));
        }
        p
    }
}

/// Four lanes of plain Rust: one register of the oldest 64-bit processors, and of ARM.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Plain([f32; 4]);

macro_rules! lanes {
    ($i:ident => $value:expr) => {{
        let mut out = [0.0f32; 4];
        let mut $i = 0;
        while $i < 4 {
            out[$i] = $value;
            $i += 1;
        }
        Plain(out)
    }};
}

impl Vector for Plain {
    const LANES: usize = 4;
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Plain([x; 4])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: four elements, by contract.
        Plain(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: four elements, by contract.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        lanes!(i => self.0[i] + b.0[i])
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        lanes!(i => self.0[i] - b.0[i])
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        lanes!(i => self.0[i] * b.0[i])
    }
    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        lanes!(i => self.0[i] * b.0[i] + c.0[i])
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        lanes!(i => if self.0[i] > b.0[i] { self.0[i] } else { b.0[i] })
    }
    #[inline(always)]
    unsafe fn min(self, b: Self) -> Self {
        lanes!(i => if self.0[i] < b.0[i] { self.0[i] } else { b.0[i] })
    }
    #[inline(always)]
    unsafe fn all_below(self, limit: f32) -> bool {
        self.0.iter().all(|&x| x < limit)
    }
    #[inline(always)]
    unsafe fn exp2<const FINE: bool>(self) -> Self {
        // SAFETY: the contract of this trait.
        let (x, exponent) = unsafe { exp2_factors(self) };
        lanes!(i => x.0[i] * f32::from_bits(exponent.0[i].to_bits() << 23))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{EXP2_FINE, EXP2_UNIT, Vector, exp2_factors, polynomial};

    // SAFETY (of every block below): the contract of the trait, which names the instruction set and the
    // pointers.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Vector for __m256 {
        const LANES: usize = 8;
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm256_storeu_ps(to, self) }
        }
        #[inline(always)]
        unsafe fn add(self, b: Self) -> Self {
            unsafe { _mm256_add_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn sub(self, b: Self) -> Self {
            unsafe { _mm256_sub_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn mul(self, b: Self) -> Self {
            unsafe { _mm256_mul_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn fma(self, b: Self, c: Self) -> Self {
            unsafe { _mm256_fmadd_ps(self, b, c) }
        }
        #[inline(always)]
        unsafe fn max(self, b: Self) -> Self {
            unsafe { _mm256_max_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn min(self, b: Self) -> Self {
            unsafe { _mm256_min_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn all_below(self, limit: f32) -> bool {
            unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(self, _mm256_set1_ps(limit))) == 0xff }
        }
        #[inline(always)]
        unsafe fn exp2<const FINE: bool>(self) -> Self {
            unsafe {
                let (x, exponent) = exp2_factors(self);
                let power = _mm256_slli_epi32::<23>(_mm256_castps_si256(exponent));
                _mm256_mul_ps(x, _mm256_castsi256_ps(power))
            }
        }
    }

    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Vector for __m512 {
        const LANES: usize = 16;
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm512_storeu_ps(to, self) }
        }
        #[inline(always)]
        unsafe fn add(self, b: Self) -> Self {
            unsafe { _mm512_add_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn sub(self, b: Self) -> Self {
            unsafe { _mm512_sub_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn mul(self, b: Self) -> Self {
            unsafe { _mm512_mul_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn fma(self, b: Self, c: Self) -> Self {
            unsafe { _mm512_fmadd_ps(self, b, c) }
        }
        #[inline(always)]
        unsafe fn max(self, b: Self) -> Self {
            unsafe { _mm512_max_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn min(self, b: Self) -> Self {
            unsafe { _mm512_min_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn all_below(self, limit: f32) -> bool {
            unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self, _mm512_set1_ps(limit)) == 0xffff }
        }
        /// Two instructions do what takes eight elsewhere: the distance from a whole number, and the scaling by a power of it,
        /// zero or infinite where that is out of range.
        #[inline(always)]
        unsafe fn exp2<const FINE: bool>(self) -> Self {
            unsafe {
                if FINE {
                    let f = _mm512_reduce_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self);
                    return _mm512_scalef_ps(polynomial(&EXP2_FINE, f), _mm512_sub_ps(self, f));
                }
                let f = _mm512_reduce_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(self);
                _mm512_scalef_ps(polynomial(&EXP2_UNIT, f), self)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    /// The power of a number in every lane, of which the first is returned.
    #[inline(always)]
    unsafe fn power<V: Vector>(x: f32) -> f32 {
        let mut out = [0.0; 16];
        // SAFETY: no vector has more lanes.
        unsafe { V::splat(x).exp2::<true>().store(out.as_mut_ptr()) };
        out[0]
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2(x: f32) -> f32 {
        // SAFETY: compiled for the instruction set.
        unsafe { power::<std::arch::x86_64::__m256>(x) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
    unsafe fn avx512(x: f32) -> f32 {
        // SAFETY: compiled for the instruction set.
        unsafe { power::<std::arch::x86_64::__m512>(x) }
    }

    #[test]
    fn powers_bear_every_exponent() {
        for isa in Isa::supported() {
            let power = |x: f32| match isa {
                // SAFETY: the processor has it.
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 | Isa::Amx => unsafe { avx512(x) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => unsafe { avx2(x) },
                // SAFETY: every processor has it.
                _ => unsafe { power::<Plain>(x) },
            };
            for i in -1250..=1270 {
                let x = i as f32 / 10.0;
                let (got, want) = (f64::from(power(x)), f64::from(x).exp2());
                assert!((got / want - 1.0).abs() < 4e-7, "{isa:?}: 2^{x} is {got}, not {want}");
            }
            for x in [128.0, 200.0, 1e30, f32::INFINITY] {
                assert_eq!(power(x), f32::INFINITY, "{isa:?}: 2^{x}");
            }
            for x in [-128.0, -200.0, -1e30, f32::NEG_INFINITY] {
                assert!((0.0..=f32::MIN_POSITIVE).contains(&power(x)), "{isa:?}: 2^{x} is {}", power(x));
            }
            assert!(power(f32::NAN).is_nan(), "{isa:?}");
        }
    }
}
