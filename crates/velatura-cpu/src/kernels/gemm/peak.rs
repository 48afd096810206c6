//! The arithmetic peak of the machine, measured: what the kernels are held against.

use std::time::Instant;

use velatura_graph::DType;

use super::lanes::{Lanes, Plain};
use super::tile::{BYTES, PAIRS, SINGLE, Steps};
use crate::{Isa, ThreadPool};

/// Multiply-adds of a round in every lane: enough chains to cover the latency of one.
const CHAINS: usize = 12;
const ROUNDS: usize = 100_000;

/// Floating-point operations a second of fused multiply-adds that stay in registers (those of AMX tiles: in the first-level
/// cache), on all threads of the pool: the best of several short runs. `dtype` is the type computed in; brain floating point is that of
/// single precision where the instruction set does not multiply it.
pub fn fma_peak(pool: &ThreadPool, isa: Isa, dtype: DType) -> f64 {
    match super::compute_dtype(isa, dtype) {
        DType::Bf16 => peak(pool, isa, Steps::Pairs),
        _ => peak(pool, isa, Steps::Single),
    }
}

/// The same of products of bytes that are added as whole numbers.
pub fn byte_peak(pool: &ThreadPool, isa: Isa) -> f64 {
    peak(pool, isa, Steps::Bytes)
}

fn peak(pool: &ThreadPool, isa: Isa, steps: Steps) -> f64 {
    let kernel = || {
        // SAFETY: the processor has the instruction set that was asked for.
        unsafe {
            match (isa, steps) {
                #[cfg(target_arch = "x86_64")]
                (Isa::Amx, Steps::Pairs) => x86::amx::<false>(),
                #[cfg(target_arch = "x86_64")]
                (Isa::Amx, Steps::Bytes) => x86::amx::<true>(),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx512, Steps::Pairs) => x86::avx512::<PAIRS>(),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx512, Steps::Bytes) => x86::avx512::<BYTES>(),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx512 | Isa::Amx, Steps::Single) => x86::avx512::<SINGLE>(),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx2, Steps::Bytes) => x86::avx2::<BYTES>(),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx2, _) => x86::avx2::<SINGLE>(),
                (_, Steps::Bytes) => rounds::<Plain, BYTES>(),
                _ => rounds::<Plain, SINGLE>(),
            }
        }
    };
    (0..12)
        .map(|_| {
            let start = Instant::now();
            let threads = pool.threads();
            let operations = std::sync::Mutex::new(0.0);
            // More tasks than threads, so that a late thread does not idle the rest.
            pool.run(threads * 4, |_, _| {
                let done = kernel();
                *operations.lock().unwrap_or_else(|e| e.into_inner()) += done;
            });
            let operations = *operations.lock().unwrap_or_else(|e| e.into_inner());
            operations / start.elapsed().as_secs_f64()
        })
        .fold(0.0, f64::max)
}

/// Runs the chains; returns the operations done.
#[inline(always)]
unsafe fn rounds<L: Lanes, const STEPS: u8>() -> f64 {
    let small = [1e-3f32; 16];
    // SAFETY: the caller is compiled for the instruction set of `L`; the arrays hold 16 elements.
    unsafe {
        let mut acc = [L::zero(); CHAINS];
        for _ in 0..ROUNDS {
            // Read anew, so that no part of the product is found to be the same in every round.
            let small = std::hint::black_box(&small).as_ptr();
            let (a, b) = (L::load(small), L::load(small));
            for x in acc.iter_mut() {
                *x = match STEPS {
                    BYTES => x.multiply_add_bytes(a, b),
                    PAIRS => x.multiply_add_pairs(a, b),
                    _ => x.multiply_add(a, b),
                };
            }
        }
        let mut out = [0.0f32; 16];
        for x in acc {
            x.store(out.as_mut_ptr());
            std::hint::black_box(&out);
        }
    }
    let products = match STEPS {
        BYTES => 4,
        PAIRS => 2,
        _ => 1,
    };
    (ROUNDS * CHAINS * L::WIDTH * products * 2) as f64
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__m256, __m512};

    use super::{ROUNDS, rounds};
    use crate::AlignedBytes;
    use crate::kernels::amx::{self as unit, At, Right, SIDE, Unit};

    /// Products of two by two tiles, whose operands are loaded from the first-level cache.
    pub(super) unsafe fn amx<const OF_BYTES: bool>() -> f64 {
        let mut memory = AlignedBytes::zeroed(4 * unit::TILES);
        // Numbers as they come: products of zeros take less power, and are faster.
        for (i, number) in memory.typed_mut::<u16>().iter_mut().enumerate() {
            *number = 0x3f00 + (i as u16).wrapping_mul(0x9e37) % 0x80;
        }
        let from = memory.as_ptr();
        let a = At { from, stride: unit::TILES };
        let b = Right::rows(from.wrapping_add(2 * unit::TILES).cast(), 2 * SIDE);
        // SAFETY: the processor has the tiles; two steps read two pairs of either operand.
        unsafe {
            let unit = Unit::take();
            unit::clear::<2, 2>(&unit);
            for _ in 0..ROUNDS / 2 {
                unit::multiply::<OF_BYTES, 2, 2>(&unit, 2, a, b, from.cast());
            }
        }
        let numbers = if OF_BYTES { 4 } else { 2 };
        (ROUNDS * 4 * SIDE * SIDE * SIDE * numbers * 2) as f64
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn avx2<const STEPS: u8>() -> f64 {
        // SAFETY: compiled for the instruction set.
        unsafe { rounds::<__m256, STEPS>() }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,avx2,fma,f16c")]
    pub(super) unsafe fn avx512<const STEPS: u8>() -> f64 {
        // SAFETY: compiled for the instruction set.
        unsafe { rounds::<__m512, STEPS>() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_numbers_are_multiplied_faster() {
        let pool = ThreadPool::new(1);
        for isa in Isa::supported() {
            let [f32, bf16] = [DType::F32, DType::Bf16].map(|dtype| fma_peak(&pool, isa, dtype));
            assert!(f32 > 1e8 && bf16 > 0.5 * f32, "{isa:?}: {f32:.2e}, {bf16:.2e}");
            // Where the instruction set multiplies bytes; elsewhere they take several instructions.
            let bytes = byte_peak(&pool, isa);
            assert!(bytes > if isa >= Isa::Avx512 { f32 } else { 1e8 }, "{isa:?}: {bytes:.2e}");
        }
    }
}
