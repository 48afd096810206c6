//! [`Lanes`] for AVX2 with FMA, and for AVX-512 with BF16 dot products.

use std::arch::x86_64::*;

use super::lanes::Lanes;

// SAFETY (of every block below): the contract of the trait, which names the instruction set and the pointers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for __m256 {
    const WIDTH: usize = 8;
    #[inline(always)]
    unsafe fn zero() -> Self {
        unsafe { _mm256_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn splat_bits(from: *const u8) -> Self {
        unsafe { _mm256_castsi256_ps(_mm256_set1_epi32(from.cast::<i32>().read_unaligned())) }
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
    unsafe fn load_bf16(from: *const u16) -> Self {
        unsafe {
            let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16) {
        unsafe {
            let bits = _mm256_castps_si256(self);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
            // A carry out of a NaN's fraction could make it an infinity or a zero.
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(self, self));
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
            let halves = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan));
            let packed = _mm256_packus_epi32(halves, halves);
            let packed = _mm256_permute4x64_epi64::<0b1000>(packed);
            _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(packed));
        }
    }
    #[inline(always)]
    unsafe fn pairs(self, _: Self) -> Self {
        unreachable!("the AVX2 kernels compute in single precision")
    }
    #[inline(always)]
    unsafe fn numbers(self) -> [Self; 2] {
        unreachable!("the AVX2 kernels compute in single precision")
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
    unsafe fn multiply_add(self, a: Self, b: Self) -> Self {
        unsafe { _mm256_fmadd_ps(a, b, self) }
    }
    #[inline(always)]
    unsafe fn multiply_add_pairs(self, _: Self, _: Self) -> Self {
        unreachable!("the AVX2 kernels compute in single precision")
    }
    #[inline(always)]
    unsafe fn multiply_add_bytes(self, a: Self, b: Self) -> Self {
        unsafe {
            // Widened to 16 bits: `vpmaddubsw` saturates where two products are large.
            let (a, b) = (_mm256_castps_si256(a), _mm256_castps_si256(b));
            let even = _mm256_madd_epi16(
                _mm256_and_si256(a, _mm256_set1_epi16(0xff)),
                _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(b)),
            );
            let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(a), _mm256_srai_epi16::<8>(b));
            let sum = _mm256_add_epi32(_mm256_castps_si256(self), _mm256_add_epi32(even, odd));
            _mm256_castsi256_ps(sum)
        }
    }
}

#[inline(always)]
fn mask(n: usize) -> u16 {
    ((1u32 << n) - 1) as u16
}

// SAFETY (of every block below): as above.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for __m512 {
    const WIDTH: usize = 16;
    #[inline(always)]
    unsafe fn zero() -> Self {
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn splat_bits(from: *const u8) -> Self {
        unsafe { _mm512_castsi512_ps(_mm512_set1_epi32(from.cast::<i32>().read_unaligned())) }
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
    unsafe fn load_bf16(from: *const u16) -> Self {
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16) {
        unsafe {
            let bits: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(self));
            _mm256_storeu_si256(to.cast(), bits);
        }
    }
    #[inline(always)]
    unsafe fn store_both_bf16(both: [Self; 2], to: *mut u16) {
        unsafe {
            let bits: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(both[1], both[0]));
            _mm512_storeu_si512(to.cast(), bits);
        }
    }
    #[inline(always)]
    unsafe fn pairs(self, high: Self) -> Self {
        unsafe {
            // The low lanes' numbers and the high ones' behind them, then one of either in turn.
            let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, self));
            let turns = _mm512_set_epi16(
                31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19,
                3, 18, 2, 17, 1, 16, 0,
            );
            _mm512_castsi512_ps(_mm512_permutexvar_epi16(turns, both))
        }
    }
    #[inline(always)]
    unsafe fn numbers(self) -> [Self; 2] {
        unsafe {
            let bits = _mm512_castps_si512(self);
            let high = _mm512_and_si512(bits, _mm512_set1_epi32(0xffff_0000u32 as i32));
            [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits)), _mm512_castsi512_ps(high)]
        }
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
    unsafe fn multiply_add(self, a: Self, b: Self) -> Self {
        unsafe { _mm512_fmadd_ps(a, b, self) }
    }
    #[inline(always)]
    unsafe fn multiply_add_pairs(self, a: Self, b: Self) -> Self {
        unsafe {
            _mm512_dpbf16_ps(
                self,
                std::mem::transmute::<__m512, __m512bh>(a),
                std::mem::transmute::<__m512, __m512bh>(b),
            )
        }
    }
    #[inline(always)]
    unsafe fn multiply_add_bytes(self, a: Self, b: Self) -> Self {
        unsafe {
            let sum = _mm512_castps_si512(self);
            _mm512_castsi512_ps(_mm512_dpbusd_epi32(sum, _mm512_castps_si512(a), _mm512_castps_si512(b)))
        }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self {
        unsafe { _mm512_maskz_loadu_ps(mask(n), from) }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, n: usize) {
        unsafe { _mm512_mask_storeu_ps(to, mask(n), self) }
    }
    #[inline(always)]
    unsafe fn load_bf16_first(from: *const u16, n: usize) -> Self {
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask(n), from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        }
    }
}
