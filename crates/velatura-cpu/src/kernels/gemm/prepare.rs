//! Activations as rows that the tile kernel can step through.

use half::bf16;

use super::error::GemmError;
use super::tile::Kernels;
use crate::kernels::elementwise::dispatch::{Shared, for_chunks, widen};
use crate::{Data, ThreadPool};
use velatura_graph::DType;

/// Rows of features, in the type that the kernel computes in.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub data: *const u8,
    /// Bytes from row to row.
    pub stride: usize,
    /// Bytes from one group of features to the next.
    pub group: usize,
}

// SAFETY: the data is only read.
unsafe impl Sync for Rows {}

/// Bytes of scratch memory for [`rows`].
pub(super) fn rows_bytes(
    kernels: &Kernels,
    storage: DType,
    rows: usize,
    groups: usize,
    depth: usize,
) -> usize {
    match (kernels.pairs(), storage) {
        (false, DType::Bf16) => rows * groups * depth * 4,
        (true, _) if depth % 2 == 1 => rows * groups * (depth + 1) * 2,
        _ => 0,
    }
}

/// Makes `[rows, groups, depth]` readable by the kernels: as it is, or through `scratch`.
///
/// Single precision where the kernels take it and storage is brain floating point; an odd depth is padded to
/// pairs with a zero, so that no kernel reads beyond a row.
///
/// # Safety
/// `scratch` has room for [`rows_bytes`]; `x` has `rows * groups * depth` elements.
pub(super) unsafe fn rows(
    pool: &ThreadPool,
    kernels: &Kernels,
    operation: &'static str,
    x: Data<'_>,
    [rows, groups, depth]: [usize; 3],
    scratch: *mut u8,
) -> Result<Rows, GemmError> {
    let direct =
        |data: *const u8, size: usize| Rows { data, stride: groups * depth * size, group: depth * size };
    match (kernels.pairs(), x) {
        (false, Data::F32(x)) => Ok(direct(x.as_ptr().cast(), 4)),
        (true, Data::Bf16(x)) if depth % 2 == 0 => Ok(direct(x.as_ptr().cast(), 2)),
        (false, Data::Bf16(x)) => {
            // SAFETY: the caller's promise.
            let out = Shared::new(unsafe { std::slice::from_raw_parts_mut(scratch.cast::<f32>(), x.len()) });
            for_chunks(pool, x.len(), 1 << 14, |start, len| {
                // SAFETY: chunks are disjoint.
                widen(kernels.isa, &x[start..start + len], unsafe { out.slice(start, len) });
            });
            Ok(direct(scratch, 4))
        }
        (true, Data::Bf16(x)) => {
            let count = rows * groups;
            // SAFETY: the caller's promise.
            let out = unsafe { std::slice::from_raw_parts_mut(scratch.cast::<bf16>(), count * (depth + 1)) };
            let out = Shared::new(out);
            for_chunks(pool, count, (1 << 14) / (depth + 1) + 1, |start, len| {
                // SAFETY: chunks are disjoint.
                let out = unsafe { out.slice(start * (depth + 1), len * (depth + 1)) };
                let from = x[start * depth..].chunks_exact(depth);
                for (to, from) in out.chunks_exact_mut(depth + 1).zip(from) {
                    to[..depth].copy_from_slice(from);
                    to[depth] = bf16::ZERO;
                }
            });
            Ok(Rows { data: scratch, stride: groups * (depth + 1) * 2, group: (depth + 1) * 2 })
        }
        (pairs, x) => Err(GemmError::Storage {
            operation,
            operand: "the input",
            expected: if pairs { "bf16" } else { "f32 or bf16" },
            found: x.dtype(),
        }),
    }
}
