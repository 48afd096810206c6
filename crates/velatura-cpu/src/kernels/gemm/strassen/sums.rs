//! Sums of operands and of products, for each instruction set.

use super::super::lanes::{Lanes, Plain};
use super::terms::{Operand, QUADRANTS, STEPS};

/// What is added up, compiled for an instruction set.
pub(in super::super) struct Operations {
    /// Writes the left operands of all products, rounded to what the cells hold.
    pub left: OperandsFn,
    /// Writes the right operands that are sums.
    pub right: OperandsFn,
    /// Adds `sign` times a product to the sums of a quadrant: `count` of either, whole vectors.
    pub accumulate: unsafe fn(sums: *mut f32, product: *const f32, sign: f32, count: usize),
}

/// Makes operands of `cells` cells of 32 bits, one every `stride` cells, from the four quadrants.
pub(in super::super) type OperandsFn =
    unsafe fn(quadrants: [*const u32; QUADRANTS], to: *mut u32, stride: usize, cells: usize);

/// All operands of a side in one pass, which reads the quadrants once. A cell holds a single-precision number, or two brain
/// floating-point numbers.
#[inline(always)]
unsafe fn make<L: Lanes, const PAIRS: bool, const LEFT: bool>(
    quadrants: [*const u32; QUADRANTS],
    to: *mut u32,
    stride: usize,
    cells: usize,
) {
    // SAFETY: the contract of `Operations`: `n` cells from `at` on are inside.
    unsafe {
        for at in (0..cells).step_by(L::WIDTH) {
            let n = L::WIDTH.min(cells - at);
            let (mut stored, mut numbers) = ([L::zero(); QUADRANTS], [[L::zero(); 2]; QUADRANTS]);
            for q in 0..QUADRANTS {
                let from = quadrants[q].add(at).cast();
                stored[q] = if n == L::WIDTH { L::load(from) } else { L::load_first(from, n) };
                numbers[q] = if PAIRS { stored[q].numbers() } else { [stored[q]; 2] };
            }
            let mut place = 0;
            for step in &STEPS {
                let Operand { first, second } = if LEFT { step.left } else { step.right };
                let operand = match second {
                    Some((second, sign)) if PAIRS => {
                        let low = combined(numbers[first][0], numbers[second][0], sign);
                        low.pairs(combined(numbers[first][1], numbers[second][1], sign))
                    }
                    Some((second, sign)) => combined(stored[first], stored[second], sign),
                    None if LEFT => stored[first],
                    // A quadrant of the weight is used where it is.
                    None => continue,
                };
                let to = to.add(place * stride + at).cast();
                if n == L::WIDTH {
                    operand.store(to)
                } else {
                    operand.store_first(to, n)
                }
                place += 1;
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

unsafe fn portable<const LEFT: bool>(
    quadrants: [*const u32; QUADRANTS],
    to: *mut u32,
    stride: usize,
    cells: usize,
) {
    // SAFETY: the contract of `Operations`.
    unsafe { make::<Plain, false, LEFT>(quadrants, to, stride, cells) }
}

unsafe fn accumulate_portable(sums: *mut f32, product: *const f32, sign: f32, count: usize) {
    // SAFETY: the contract of `Operations`.
    unsafe { accumulate::<Plain>(sums, product, sign, count) }
}

pub(in super::super) const PORTABLE: Operations =
    Operations { left: portable::<true>, right: portable::<false>, accumulate: accumulate_portable };

#[cfg(target_arch = "x86_64")]
pub(in super::super) mod x86 {
    use std::arch::x86_64::{__m256, __m512};

    use super::{Operations, QUADRANTS, accumulate, make};

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2<const LEFT: bool>(
        quadrants: [*const u32; QUADRANTS],
        to: *mut u32,
        stride: usize,
        cells: usize,
    ) {
        // SAFETY: the contract of `Operations`.
        unsafe { make::<__m256, false, LEFT>(quadrants, to, stride, cells) }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn accumulate_avx2(sums: *mut f32, product: *const f32, sign: f32, count: usize) {
        // SAFETY: the contract of `Operations`.
        unsafe { accumulate::<__m256>(sums, product, sign, count) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    unsafe fn avx512<const LEFT: bool>(
        quadrants: [*const u32; QUADRANTS],
        to: *mut u32,
        stride: usize,
        cells: usize,
    ) {
        // SAFETY: the contract of `Operations`.
        unsafe { make::<__m512, false, LEFT>(quadrants, to, stride, cells) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    unsafe fn avx512_bf16<const LEFT: bool>(
        quadrants: [*const u32; QUADRANTS],
        to: *mut u32,
        stride: usize,
        cells: usize,
    ) {
        // SAFETY: the contract of `Operations`.
        unsafe { make::<__m512, true, LEFT>(quadrants, to, stride, cells) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    unsafe fn accumulate_avx512(sums: *mut f32, product: *const f32, sign: f32, count: usize) {
        // SAFETY: the contract of `Operations`.
        unsafe { accumulate::<__m512>(sums, product, sign, count) }
    }

    pub(in super::super::super) const AVX2: Operations =
        Operations { left: avx2::<true>, right: avx2::<false>, accumulate: accumulate_avx2 };
    pub(in super::super::super) const AVX512: Operations =
        Operations { left: avx512::<true>, right: avx512::<false>, accumulate: accumulate_avx512 };
    pub(in super::super::super) const AVX512_BF16: Operations =
        Operations { left: avx512_bf16::<true>, right: avx512_bf16::<false>, accumulate: accumulate_avx512 };
}
