//! The arithmetic peak of the machine, measured: what the kernels are held against.

use std::time::Instant;

use velatura_graph::DType;

use super::lanes::{Lanes, Plain};
use crate::{Isa, ThreadPool};

/// Multiply-adds of a round in every lane: enough chains to cover the latency of one.
const CHAINS: usize = 12;
const ROUNDS: usize = 100_000;

/// Floating-point operations a second of fused multiply-adds that stay in registers, on all threads of the
/// pool: the best of several short runs. `dtype` is the type computed in; brain floating point is that of
/// single precision where the instruction set does not multiply it.
pub fn fma_peak(pool: &ThreadPool, isa: Isa, dtype: DType) -> f64 {
    let pairs = super::compute_dtype(isa, dtype) == DType::Bf16;
    let kernel: fn() -> f64 = match (isa, pairs) {
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, true) => || {
            // SAFETY: the processor has the instruction set that was asked for.
            unsafe { x86::avx512_bf16() }
        },
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, false) => || {
            // SAFETY: the processor has the instruction set that was asked for.
            unsafe { x86::avx512() }
        },
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, _) => || {
            // SAFETY: the processor has the instruction set that was asked for.
            unsafe { x86::avx2() }
        },
        // SAFETY: plain Rust.
        _ => || unsafe { rounds::<Plain, false>() },
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
unsafe fn rounds<L: Lanes, const PAIRS: bool>() -> f64 {
    let small = std::hint::black_box([1e-3f32; 16]);
    // SAFETY: the caller is compiled for the instruction set of `L`; the arrays hold 16 elements.
    unsafe {
        let (a, b) = (L::load(small.as_ptr()), L::load(small.as_ptr()));
        let mut acc = [L::zero(); CHAINS];
        for _ in 0..ROUNDS {
            for x in acc.iter_mut() {
                *x = if PAIRS { x.multiply_add_pairs(a, b) } else { x.multiply_add(a, b) };
            }
        }
        let mut out = [0.0f32; 16];
        for x in acc {
            x.store(out.as_mut_ptr());
            std::hint::black_box(&out);
        }
    }
    (ROUNDS * CHAINS * L::WIDTH * if PAIRS { 4 } else { 2 }) as f64
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__m256, __m512};

    use super::rounds;

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn avx2() -> f64 {
        // SAFETY: compiled for the instruction set.
        unsafe { rounds::<__m256, false>() }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    pub(super) unsafe fn avx512() -> f64 {
        // SAFETY: compiled for the instruction set.
        unsafe { rounds::<__m512, false>() }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    pub(super) unsafe fn avx512_bf16() -> f64 {
        // SAFETY: compiled for the instruction set.
        unsafe { rounds::<__m512, true>() }
    }
}
