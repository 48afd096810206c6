//! Copies that go past the caches, by non-temporal stores: the lines that are written are not read first, and drive nothing else out.

use super::LINE;
use super::elementwise::dispatch::with_scratch;
use crate::Isa;

/// Bytes of a result from which on the caches will have forgotten it when it is read.
const LARGE: usize = 4 << 20;

/// What a task writes to a part of a result. Dropped, it holds back what follows until all of them can be seen.
pub(crate) struct Streaming {
    used: bool,
}

impl Streaming {
    /// Of a result of so many bytes.
    pub(crate) fn new(isa: Isa, bytes: usize) -> Self {
        Streaming { used: isa >= Isa::Avx512 && bytes >= LARGE }
    }

    /// Has cells made: where they belong, or elsewhere when they are to be copied past the caches.
    pub(crate) fn write(&self, to: &mut [u32], make: impl FnOnce(&mut [u32])) {
        if !self.used {
            return make(to);
        }
        with_scratch(to.len(), |made: &mut [u32]| {
            make(made);
            self.copy(made, to);
        });
    }

    /// Copies cells of the same number.
    pub(crate) fn copy(&self, from: &[u32], to: &mut [u32]) {
        #[cfg(target_arch = "x86_64")]
        if self.used && to.as_ptr().addr().is_multiple_of(LINE) && to.len().is_multiple_of(LINE / 4) {
            // SAFETY: only with an instruction set that the processor supports.
            return unsafe { lines(from, to) };
        }
        to.copy_from_slice(from);
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        #[cfg(target_arch = "x86_64")]
        if self.used {
            // SAFETY: every x86-64 processor has it.
            unsafe { std::arch::x86_64::_mm_sfence() };
        }
    }
}

/// Whole lines of the caches.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn lines(from: &[u32], to: &mut [u32]) {
    use std::arch::x86_64::{_mm512_loadu_si512, _mm512_stream_si512};
    assert_eq!(from.len(), to.len());
    for (from, to) in from.chunks_exact(LINE / 4).zip(to.chunks_exact_mut(LINE / 4)) {
        // SAFETY: a line of each; `to` is aligned.
        unsafe { _mm512_stream_si512(to.as_mut_ptr().cast(), _mm512_loadu_si512(from.as_ptr().cast())) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AlignedBytes;

    #[test]
    fn copies_are_the_same_of_any_size_and_place() {
        let from: Vec<u32> = (1..=64).collect();
        for isa in Isa::supported() {
            for bytes in [0, LARGE] {
                for (start, len) in [(0, 64), (16, 32), (16, 17), (3, 16), (0, 0)] {
                    let mut memory = AlignedBytes::zeroed(64 * size_of::<u32>());
                    let to: &mut [u32] = memory.typed_mut();
                    Streaming::new(isa, bytes).copy(&from[..len], &mut to[start..start + len]);
                    let written = start..start + len;
                    for (i, &x) in to.iter().enumerate() {
                        let expected = if written.contains(&i) { (i - start + 1) as u32 } else { 0 };
                        assert_eq!(x, expected, "{isa:?}, {bytes}, {len} from {start}, {i}");
                    }
                }
            }
        }
    }
}
