//! Sums of operands and of products, for each instruction set.

use super::super::lanes::{Lanes, Plain};

/// What is added up, compiled for an instruction set.
pub(in super::super) struct Operations {
    /// Writes `a + sign * b` for a number of cells of 32 bits, rounded to what they hold. The operands and the result have as
    /// many cells.
    pub add: unsafe fn(a: *const u32, b: *const u32, sign: f32, to: *mut u32, cells: usize),
    /// Adds `sign` times a product to the sums of a quadrant: `count` of either, whole vectors.
    pub accumulate: unsafe fn(sums: *mut f32, product: *const f32, sign: f32, count: usize),
}

/// Cells of a single-precision number, or of two brain floating-point numbers.
#[inline(always)]
unsafe fn add<L: Lanes, const PAIRS: bool>(
    a: *const u32,
    b: *const u32,
    sign: f32,
    to: *mut u32,
    cells: usize,
) {
    // SAFETY: the contract of `Operations`: numbers from `at` on, `n` of them, are inside.
    unsafe {
        let sign = L::splat_bits((&raw const sign).cast());
        let numbers = if PAIRS { 2 * cells } else { cells };
        for at in (0..numbers).step_by(L::WIDTH) {
            let n = L::WIDTH.min(numbers - at);
            if PAIRS {
                let (a, b, to) = (a.cast::<u16>().add(at), b.cast::<u16>().add(at), to.cast::<u16>().add(at));
                if n == L::WIDTH {
                    L::load_bf16(a).multiply_add(sign, L::load_bf16(b)).store_bf16(to);
                } else {
                    let sum = L::load_bf16_first(a, n).multiply_add(sign, L::load_bf16_first(b, n));
                    sum.store_bf16_first(to, n);
                }
            } else {
                let (a, b, to) = (a.cast::<f32>().add(at), b.cast::<f32>().add(at), to.cast::<f32>().add(at));
                if n == L::WIDTH {
                    L::load(a).multiply_add(sign, L::load(b)).store(to);
                } else {
                    L::load_first(a, n).multiply_add(sign, L::load_first(b, n)).store_first(to, n);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn accumulate<L: Lanes>(sums: *mut f32, product: *const f32, sign: f32, count: usize) {
    // SAFETY: the contract of `Operations`.
    unsafe {
        let sign = L::splat_bits((&raw const sign).cast());
        for at in (0..count).step_by(L::WIDTH) {
            let to = sums.add(at);
            L::load(to).multiply_add(sign, L::load(product.add(at))).store(to);
        }
    }
}

unsafe fn add_portable(a: *const u32, b: *const u32, sign: f32, to: *mut u32, cells: usize) {
    // SAFETY: the contract of `Operations`.
    unsafe { add::<Plain, false>(a, b, sign, to, cells) }
}

unsafe fn accumulate_portable(sums: *mut f32, product: *const f32, sign: f32, count: usize) {
    // SAFETY: the contract of `Operations`.
    unsafe { accumulate::<Plain>(sums, product, sign, count) }
}

pub(in super::super) const PORTABLE: Operations =
    Operations { add: add_portable, accumulate: accumulate_portable };

#[cfg(target_arch = "x86_64")]
pub(in super::super) mod x86 {
    use std::arch::x86_64::{__m256, __m512};

    use super::{Operations, accumulate, add};

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add_avx2(a: *const u32, b: *const u32, sign: f32, to: *mut u32, cells: usize) {
        // SAFETY: the contract of `Operations`.
        unsafe { add::<__m256, false>(a, b, sign, to, cells) }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn accumulate_avx2(sums: *mut f32, product: *const f32, sign: f32, count: usize) {
        // SAFETY: the contract of `Operations`.
        unsafe { accumulate::<__m256>(sums, product, sign, count) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    unsafe fn add_avx512(a: *const u32, b: *const u32, sign: f32, to: *mut u32, cells: usize) {
        // SAFETY: the contract of `Operations`.
        unsafe { add::<__m512, false>(a, b, sign, to, cells) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    unsafe fn add_avx512_bf16(a: *const u32, b: *const u32, sign: f32, to: *mut u32, cells: usize) {
        // SAFETY: the contract of `Operations`.
        unsafe { add::<__m512, true>(a, b, sign, to, cells) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    unsafe fn accumulate_avx512(sums: *mut f32, product: *const f32, sign: f32, count: usize) {
        // SAFETY: the contract of `Operations`.
        unsafe { accumulate::<__m512>(sums, product, sign, count) }
    }

    pub(in super::super::super) const AVX2: Operations =
        Operations { add: add_avx2, accumulate: accumulate_avx2 };
    pub(in super::super::super) const AVX512: Operations =
        Operations { add: add_avx512, accumulate: accumulate_avx512 };
    pub(in super::super::super) const AVX512_BF16: Operations =
        Operations { add: add_avx512_bf16, accumulate: accumulate_avx512 };
}
