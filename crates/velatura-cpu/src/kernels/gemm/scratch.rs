//! Scratch memory that callers provide, cut into aligned parts.

use super::error::GemmError;

/// Parts begin on a cache line.
const ALIGN: usize = 64;

/// Bytes of scratch memory for parts of these sizes.
pub(super) fn total(parts: &[usize]) -> usize {
    let bytes: usize = parts.iter().map(|p| p.next_multiple_of(ALIGN)).sum();
    // The memory itself may begin anywhere.
    if bytes == 0 { 0 } else { bytes + ALIGN }
}

/// Cuts scratch memory into parts of these sizes.
pub(super) fn cut<const N: usize>(
    operation: &'static str,
    memory: &mut [u8],
    parts: [usize; N],
) -> Result<[*mut u8; N], GemmError> {
    let needed = total(&parts);
    if memory.len() < needed {
        return Err(GemmError::Scratch { operation, needed, given: memory.len() });
    }
    let start = memory.as_mut_ptr();
    // Where nothing is needed, empty parts still are well aligned.
    let mut at = if needed > 0 {
        start.wrapping_add(start.align_offset(ALIGN))
    } else {
        std::ptr::without_provenance_mut(ALIGN)
    };
    Ok(parts.map(|bytes| {
        let part = at;
        at = at.wrapping_add(bytes.next_multiple_of(ALIGN));
        part
    }))
}
