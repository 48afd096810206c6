//! Typed slices that kernels take, and the aligned memory they point into.

use std::sync::Arc;

use half::bf16;
use memmap2::{MmapMut, MmapRaw};
use velatura_graph::DType;

/// The elements of a tensor that a kernel reads.
#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// Brain floating point.
    Bf16(&'a [bf16]),
    /// Indices.
    I32(&'a [i32]),
}

/// The elements of a tensor that a kernel writes.
#[derive(Debug)]
pub enum DataMut<'a> {
    /// Single precision.
    F32(&'a mut [f32]),
    /// Brain floating point.
    Bf16(&'a mut [bf16]),
    /// Indices.
    I32(&'a mut [i32]),
}

impl<'a> Data<'a> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        match self {
            Data::F32(x) => x.len(),
            Data::Bf16(x) => x.len(),
            Data::I32(x) => x.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How the elements are stored.
    pub fn dtype(&self) -> DType {
        match self {
            Data::F32(_) => DType::F32,
            Data::Bf16(_) => DType::Bf16,
            Data::I32(_) => DType::I32,
        }
    }
}

impl DataMut<'_> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.as_ref().len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How the elements are stored.
    pub fn dtype(&self) -> DType {
        self.as_ref().dtype()
    }

    /// The same elements, to read.
    pub fn as_ref(&self) -> Data<'_> {
        match self {
            DataMut::F32(x) => Data::F32(x),
            DataMut::Bf16(x) => Data::Bf16(x),
            DataMut::I32(x) => Data::I32(x),
        }
    }

    /// The same elements, borrowed for a shorter time.
    pub fn reborrow(&mut self) -> DataMut<'_> {
        match self {
            DataMut::F32(x) => DataMut::F32(x),
            DataMut::Bf16(x) => DataMut::Bf16(x),
            DataMut::I32(x) => DataMut::I32(x),
        }
    }
}

/// Bytes at an address that is a multiple of 64: a cache line, and the widest vector.
#[derive(Debug, Default)]
pub struct AlignedBytes {
    memory: Memory,
    bytes: usize,
}

#[derive(Debug)]
enum Memory {
    Blocks(Vec<Block>),
    /// Large memory comes from the system in whole pages, of the large kind where there are: touching it for the first
    /// time and looking up its addresses both cost a fraction then.
    Pages(MmapMut),
    /// A part of larger memory from `start` on, which no other piece has.
    Piece {
        whole: Arc<MmapRaw>,
        start: usize,
    },
}

impl Default for Memory {
    fn default() -> Self {
        Memory::Blocks(Vec::new())
    }
}

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Block([u8; 64]);

/// From this size on memory is asked for in pages.
const PAGES: usize = 4 << 20;

/// Memory of its own pages, where it is large enough and the system has it.
fn pages(bytes: usize) -> Option<MmapMut> {
    let pages = (bytes >= PAGES).then(|| MmapMut::map_anon(bytes).ok()).flatten()?;
    #[cfg(target_os = "linux")]
    if let Err(error) = pages.advise(memmap2::Advice::HugePage) {
        tracing::debug!(%error, "no large pages");
    }
    Some(pages)
}

impl AlignedBytes {
    /// `bytes` zero bytes.
    pub fn zeroed(bytes: usize) -> Self {
        let memory = match pages(bytes) {
            Some(pages) => Memory::Pages(pages),
            None => Memory::Blocks(vec![Block([0; 64]); bytes.div_ceil(64)]),
        };
        AlignedBytes { memory, bytes }
    }

    /// Zero bytes of several lengths, side by side in one piece of memory that is given back when the last of them is: what
    /// is each too small for large pages fills them together.
    pub fn pieces(lengths: &[usize]) -> Vec<Self> {
        let total = lengths.iter().map(|n| n.next_multiple_of(64)).sum();
        let Some(whole) = pages(total) else { return lengths.iter().map(|&n| Self::zeroed(n)).collect() };
        let whole = Arc::new(MmapRaw::from(whole));
        let mut next = 0;
        let piece = |&bytes: &usize| {
            let start = next;
            next += bytes.next_multiple_of(64);
            AlignedBytes { memory: Memory::Piece { whole: Arc::clone(&whole), start }, bytes }
        };
        lengths.iter().map(piece).collect()
    }

    /// The number of bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Makes it at least `bytes` long; the contents are unspecified afterwards.
    pub fn reserve(&mut self, bytes: usize) {
        if bytes > self.bytes {
            *self = Self::zeroed(bytes);
        }
    }

    /// The first byte, aligned to 64.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        match &mut self.memory {
            Memory::Blocks(blocks) => blocks.as_mut_ptr().cast(),
            Memory::Pages(pages) => pages.as_mut_ptr(),
            Memory::Piece { whole, start } => whole.as_mut_ptr().wrapping_add(*start),
        }
    }

    /// The first byte, aligned to 64.
    pub fn as_ptr(&self) -> *const u8 {
        match &self.memory {
            Memory::Blocks(blocks) => blocks.as_ptr().cast(),
            Memory::Pages(pages) => pages.as_ptr(),
            Memory::Piece { whole, start } => whole.as_ptr().wrapping_add(*start),
        }
    }

    /// The bytes as elements of a plain type; a rest that is too short for one is left out.
    pub fn typed<T: bytemuck::AnyBitPattern>(&self) -> &[T] {
        const { assert!(align_of::<T>() <= 64) };
        // SAFETY: the memory is initialised, 64-aligned, and long enough; `T` allows any bits.
        unsafe { std::slice::from_raw_parts(self.as_ptr().cast(), self.bytes / size_of::<T>()) }
    }

    /// The bytes as elements of a plain type, to write.
    pub fn typed_mut<T: bytemuck::Pod>(&mut self) -> &mut [T] {
        const { assert!(align_of::<T>() <= 64) };
        // SAFETY: as in `typed`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr().cast(), self.bytes / size_of::<T>()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_zero_aligned_and_apart() {
        for lengths in [[1, 100, 64], [3 << 20, 1, 5 << 20]] {
            let mut pieces = AlignedBytes::pieces(&lengths);
            for (i, (piece, length)) in pieces.iter_mut().zip(lengths).enumerate() {
                assert_eq!((piece.len(), piece.as_ptr() as usize % 64), (length, 0));
                assert!(piece.typed::<u8>().iter().all(|&b| b == 0));
                piece.typed_mut::<u8>().fill(i as u8 + 1);
            }
            // What is left outlives what is dropped.
            let last = pieces.pop().unwrap();
            for (i, piece) in pieces.iter().enumerate() {
                assert!(piece.typed::<u8>().iter().all(|&b| b == i as u8 + 1));
            }
            drop(pieces);
            assert!(last.typed::<u8>().iter().all(|&b| b == 3));
        }
    }
}
