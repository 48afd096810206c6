//! Sums of operands and of products, for each instruction set.

use super::super::lanes::{Lanes, Plain};
use super::terms::{LEFT_OPERANDS, Operand, QUADRANTS, RIGHT_OPERANDS};
use crate::kernels::{LINE, fetch};

/// What is added up, compiled for an instruction set.
pub(in super::super) struct Operations {
    /// Writes the left operands of all products, rounded to what the cells hold, and fetches what lies so many bytes after
    /// the quadrants.
    pub left: unsafe fn(quadrants: Quadrants, to: *mut u32, stride: usize, cells: usize, ahead: usize),
    /// Writes the right operands that are sums.
    pub right: unsafe fn(quadrants: Quadrants, to: *mut u32, stride: usize, cells: usize),
    /// Adds `sign` times a product to the sums of a quadrant: `count` of either, whole vectors.
    pub accumulate: unsafe fn(sums: *mut f32, product: *const f32, sign: f32, count: usize),
}

/// Where the quadrants of a matrix are.
type Quadrants = [*const u32; QUADRANTS];

/// All operands of a side in one pass, which reads the quadrants once: `cells` cells of 32 bits of each, one every `stride`
/// cells. A cell holds a single-precision number, or two brain floating-point numbers.
#[inline(always)]
unsafe fn make<L: Lanes, const PAIRS: bool, const N: usize>(
    operands: &[Operand; N],
    quadrants: Quadrants,
    to: *mut u32,
    stride: usize,
    cells: usize,
    ahead: Option<usize>,
) {
    // SAFETY: the contract of `Operations`: `n` cells from `at` on are inside.
    unsafe {
        for at in (0..cells).step_by(L::WIDTH) {
            let n = L::WIDTH.min(cells - at);
            let (mut stored, mut numbers) = ([L::zero(); QUADRANTS], [[L::zero(); 2]; QUADRANTS]);
            for q in 0..QUADRANTS {
                let from: *const f32 = quadrants[q].add(at).cast();
                if let Some(ahead) = ahead {
                    fetch(from.wrapping_byte_add(ahead).cast(), LINE);
                }
                stored[q] = if n == L::WIDTH { L::load(from) } else { L::load_first(from, n) };
                numbers[q] = if PAIRS { stored[q].numbers() } else { [stored[q]; 2] };
            }
            for place in 0..N {
                let Operand { first, second } = operands[place];
                let operand = match second {
                    Some((second, sign)) if PAIRS => {
                        let low = combined(numbers[first][0], numbers[second][0], sign);
                        low.pairs(combined(numbers[first][1], numbers[second][1], sign))
                    }
                    Some((second, sign)) => combined(stored[first], stored[second], sign),
                    None => stored[first],
                };
                let to = to.add(place * stride + at).cast();
                if n == L::WIDTH { operand.store(to) } else { operand.store_first(to, n) }
            }
        }
    }
}

#[inline(always)]
unsafe fn combined<L: Lanes>(a: L, b: L, sign: f32) -> L {
    // SAFETY: the contract of `Lanes`.
    unsafe { if sign > 0.0 { a.add(b) } else { a.sub(b) } }
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

/// The operations for a kind of lanes, compiled for an instruction set.
macro_rules! operations {
    ($(#[$features:meta])? $name:ident, $lanes:ty, $pairs:literal) => {
        pub(in crate::kernels::gemm) const $name: Operations = {
            $(#[$features])?
            unsafe fn left(q: Quadrants, to: *mut u32, stride: usize, cells: usize, ahead: usize) {
                // SAFETY: the contract of `Operations`.
                unsafe { make::<$lanes, $pairs, _>(&LEFT_OPERANDS, q, to, stride, cells, Some(ahead)) }
            }
            $(#[$features])?
            unsafe fn right(q: Quadrants, to: *mut u32, stride: usize, cells: usize) {
                // SAFETY: the contract of `Operations`.
                unsafe { make::<$lanes, $pairs, _>(&RIGHT_OPERANDS, q, to, stride, cells, None) }
            }
            $(#[$features])?
            unsafe fn add(sums: *mut f32, product: *const f32, sign: f32, count: usize) {
                // SAFETY: the contract of `Operations`.
                unsafe { accumulate::<$lanes>(sums, product, sign, count) }
            }
            Operations { left, right, accumulate: add }
        };
    };
}

operations!(PORTABLE, Plain, false);

#[cfg(target_arch = "x86_64")]
pub(in super::super) mod x86 {
    use std::arch::x86_64::{__m256, __m512};

    use super::*;

    operations!(
        #[target_feature(enable = "avx2,fma,f16c")]
        AVX2,
        __m256,
        false
    );
    operations!(
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
        AVX512,
        __m512,
        false
    );
    operations!(
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
        AVX512_BF16,
        __m512,
        true
    );
}
