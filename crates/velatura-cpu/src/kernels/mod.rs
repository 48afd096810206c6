//! The kernels: each folder holds one family, with a portable, an AVX2, an AVX-512 and (products alone) an AMX form chosen by
//! [`Isa`](crate::Isa), held by the same tests.

#[cfg(target_arch = "x86_64")]
mod amx;
pub mod attention;
mod bandwidth;
pub mod elementwise;
pub mod gemm;
pub mod norm;
pub mod optimizer;
mod order;
mod streaming;
mod transpose;

pub use bandwidth::read_bandwidth;
pub use order::Order;
pub(crate) use streaming::Streaming;

/// Bytes of a line of the caches.
pub(crate) const LINE: usize = 64;

/// Asks for the lines that hold some bytes, to be in the first-level cache when they are used; a hint, which any address may
/// be given.
#[inline(always)]
pub(crate) fn fetch(from: *const u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..bytes).step_by(LINE) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: fetching is no reading.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(at).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (from, bytes);
}

/// As [`fetch`], one line into the second-level cache: what is used later.
#[inline(always)]
pub(crate) fn fetch_far(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}
