//! Products of AVX-512 with BF16. The safety contract is that of `product`.

use std::arch::x86_64::*;
use std::mem::transmute;

use super::product::Product;
use crate::kernels::elementwise::dispatch::round_bf16;

/// Pairs of bf16 numbers with `vdpbf16ps`; with `BYTES` scores are products of bytes, with `vpdpbusd`.
#[derive(Clone, Copy)]
pub(super) struct Dot<const BYTES: bool>;

/// Takes numbers from two halves in turn.
const PAIRED: [u16; 32] = {
    let mut order = [0; 32];
    let mut i = 0;
    while i < 32 {
        order[i] = (i / 2 + i % 2 * 16) as u16;
        i += 1;
    }
    order
};

/// The exponent 0 of numbers of 16 bits that count 128ths from -127 on, as bits of a float between 2^16 and 2^17 whose last bit
/// is a 128th: a bf16 number of the same bits is its exponent, and behind that the fraction of `1 + f` for `2^f`.
const BASE: f32 = 65_536.0 + 127.0;
/// The float of the least number.
const LEAST: i32 = 0x4780_0000;
/// Bits that are set in floats of greater numbers than there are, infinite ones, and what is not a number; also in negative ones,
/// which are so far below that it costs time only.
const OUT_OF_RANGE: i32 = !0x4780_7fff;

/// For 64 parts of `[0, 1)` how many 128ths `2^f` lies below `1 + f`.
const BELOW: [u8; 64] = {
    let mut below = [0; 64];
    let mut i = 0;
    while i < 64 {
        // The middle of the two numbers of a part.
        let f = (i as f64 * 2.0 + 0.5) / 128.0;
        let (mut power, mut term, mut n) = (1.0, 1.0, 1);
        while n < 16 {
            term *= f * std::f64::consts::LN_2 / n as f64;
            power += term;
            n += 1;
        }
        below[i] = ((1.0 + f - power) * 128.0 + 0.5) as u8;
        i += 1;
    }
    below
};

/// Where in 64 bits a byte begins whose last six bits are the part of each of four numbers: behind the last bit.
const PARTS: [u8; 64] = {
    let mut parts = [0; 64];
    let mut i = 0;
    while i < 64 {
        parts[i] = (i % 8 * 8 + 1) as u8;
        i += 2;
    }
    parts
};
/// The lower bytes of numbers.
const LOWER: u64 = 0x5555_5555_5555_5555;

// SAFETY (of every block below): the contract of the module; the transmutations keep the 64 bytes of a
// register (32 of half a one).
#[allow(clippy::undocumented_unsafe_blocks)]
impl<const BYTES: bool> Product for Dot<BYTES> {
    type V = __m512;
    type Operand = __m512i;
    const PAIR: usize = 2;
    const WIDE: bool = true;
    const FINE: bool = false;
    const BYTES: bool = BYTES;
    #[inline(always)]
    unsafe fn step_bytes(total: __m512, a: __m512i, b: __m512i) -> __m512 {
        unsafe { _mm512_castsi512_ps(_mm512_dpbusd_epi32(_mm512_castps_si512(total), a, b)) }
    }
    #[inline(always)]
    unsafe fn whole(total: __m512) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_castps_si512(total)) }
    }
    #[inline(always)]
    unsafe fn broadcast(from: *const u32) -> __m512i {
        unsafe { _mm512_set1_epi32(from.cast::<i32>().read()) }
    }
    #[inline(always)]
    unsafe fn load(from: *const u32) -> __m512i {
        unsafe { _mm512_loadu_si512(from.cast()) }
    }
    #[inline(always)]
    unsafe fn step(total: __m512, a: __m512i, b: __m512i) -> __m512 {
        unsafe {
            _mm512_dpbf16_ps(total, transmute::<__m512i, __m512bh>(a), transmute::<__m512i, __m512bh>(b))
        }
    }
    const HALVES: bool = true;
    #[inline(always)]
    unsafe fn step_half(total: __m512, a: __m512i, b: __m512i) -> __m512 {
        unsafe {
            let [a, b] = [a, b].map(|x| transmute::<__m256i, __m256bh>(_mm512_castsi512_si256(x)));
            _mm512_castps256_ps512(_mm256_dpbf16_ps(_mm512_castps512_ps256(total), a, b))
        }
    }
    const WHOLE: bool = true;
    const BASE: f32 = BASE;
    /// Exponents are whole 128ths.
    #[inline(always)]
    unsafe fn shift(greatest: __m512) -> __m512 {
        unsafe {
            let last_bit = _mm512_set1_ps(98_304.0);
            _mm512_sub_ps(_mm512_add_ps(greatest, last_bit), last_bit)
        }
    }
    #[inline(always)]
    unsafe fn exponents(first: __m512, second: __m512, seen: __m512) -> (__m512i, __m512) {
        unsafe {
            let least = _mm512_set1_epi32(LEAST);
            let first = _mm512_max_epu32(_mm512_castps_si512(first), least);
            let second = _mm512_max_epu32(_mm512_castps_si512(second), least);
            let seen = _mm512_ternarylogic_epi32::<0xfe>(_mm512_castps_si512(seen), first, second);
            // The lower half of the one, that of the other above it.
            let second = _mm512_slli_epi32::<16>(second);
            let both = _mm512_ternarylogic_epi32::<0xec>(first, second, _mm512_set1_epi32(0xffff));
            (both, _mm512_castsi512_ps(seen))
        }
    }
    /// Leaves 0.23% of a weight, root mean square; rounding alone is 0.17%.
    #[inline(always)]
    unsafe fn powers(exponents: __m512i) -> __m512i {
        unsafe {
            let (parts, below) =
                (transmute::<[u8; 64], __m512i>(PARTS), transmute::<[u8; 64], __m512i>(BELOW));
            let part = _mm512_multishift_epi64_epi8(parts, exponents);
            _mm512_sub_epi16(exponents, _mm512_maskz_permutexvar_epi8(LOWER, part, below))
        }
    }
    #[inline(always)]
    unsafe fn in_range(seen: __m512) -> bool {
        unsafe { _mm512_test_epi32_mask(_mm512_castps_si512(seen), _mm512_set1_epi32(OUT_OF_RANGE)) == 0 }
    }
    #[inline(always)]
    unsafe fn store(units: __m512i, to: *mut u32) {
        unsafe { _mm512_storeu_si512(to.cast(), units) }
    }
    #[inline(always)]
    unsafe fn store_units(first: __m512, second: __m512, to: *mut u32) {
        unsafe {
            // Sixteen of the first, then sixteen of the second.
            let both = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, first));
            let order = transmute::<[u16; 32], __m512i>(PAIRED);
            _mm512_storeu_si512(to.cast(), _mm512_permutexvar_epi16(order, both));
        }
    }
    #[inline(always)]
    unsafe fn store_row(x: __m512, to: *mut u32) {
        unsafe { _mm256_storeu_si256(to.cast(), transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x))) }
    }
    #[inline(always)]
    fn unit(first: f32, second: f32) -> u32 {
        u32::from(round_bf16(first).to_bits()) | u32::from(round_bf16(second).to_bits()) << 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    /// `2^x` of pairs, as weights are made of exponents.
    #[target_feature(enable = "avx512vbmi,avx512bf16,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
    fn weights(x: &[f32; 32]) -> ([f32; 32], bool) {
        let mut units = [0u32; 16];
        // SAFETY: compiled for the instruction set; the arrays are as long as two vectors, and one of units.
        let fits = unsafe {
            let base = _mm512_set1_ps(BASE);
            let [first, second] = [0, 16].map(|at| _mm512_add_ps(_mm512_loadu_ps(x[at..].as_ptr()), base));
            let (exponents, seen) = Dot::<false>::exponents(first, second, _mm512_setzero_ps());
            <Dot<false> as Product>::store(Dot::<false>::powers(exponents), units.as_mut_ptr());
            Dot::<false>::in_range(seen)
        };
        let value =
            |i: usize| f32::from_bits(if i < 16 { units[i] << 16 } else { units[i - 16] & 0xffff_0000 });
        (std::array::from_fn(value), fits)
    }

    #[test]
    fn weights_are_powers_of_two_without_bias() {
        if !Isa::Avx512.is_supported() {
            return;
        }
        let (mut sum, mut squares, mut worst, mut count) = (0.0, 0.0, 0.0f64, 0.0);
        for start in 0..1600 {
            let x: [f32; 32] = std::array::from_fn(|i| -60.0 + (start * 32 + i) as f32 * (100.0 / 51_200.0));
            // SAFETY: the processor has the instruction set.
            let (got, fits) = unsafe { weights(&x) };
            assert!(fits);
            for (got, x) in got.iter().zip(x) {
                let error = f64::from(*got) / f64::from(x).exp2() - 1.0;
                (sum, squares, worst, count) =
                    (sum + error, squares + error * error, worst.max(error.abs()), count + 1.0);
            }
        }
        let (bias, deviation) = (sum / count, f64::sqrt(squares / count));
        assert!(bias.abs() <= 5e-4 && deviation <= 2.6e-3 && worst <= 7.5e-3, "{bias} {deviation} {worst}");
    }

    #[test]
    fn what_is_out_of_range_is_seen_and_what_is_far_below_weighs_nothing() {
        if !Isa::Avx512.is_supported() {
            return;
        }
        for x in [130.0, 1e4, 1e6, 1e20, f32::INFINITY, f32::NAN, -f32::NAN] {
            for place in [0, 7, 16, 31] {
                let mut all = [0.0; 32];
                all[place] = x;
                // SAFETY: the processor has the instruction set.
                assert!(!unsafe { weights(&all) }.1, "{x} at {place}");
            }
        }
        // SAFETY: the processor has the instruction set.
        let (got, fits) = unsafe { weights(&[-3e4; 32]) };
        assert!(fits && got.iter().all(|&x| x == 0.0));
    }
}
