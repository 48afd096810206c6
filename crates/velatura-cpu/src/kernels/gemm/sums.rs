//! Sums over rows: the gradient of a bias.

use super::error::{GemmError, check_len};
use super::pack::Number;
use super::scratch;
use crate::kernels::elementwise::dispatch::{Shared, simd};
use crate::{Data, Isa, ThreadPool};
use velatura_graph::DType;

/// Rows that are summed one after another; the sums of blocks are then added in order.
const BLOCK: usize = 256;

/// Bytes of scratch memory that [`column_sums`] needs.
pub fn column_sums_scratch_bytes(rows: usize, columns: usize) -> usize {
    scratch::total(&[rows.div_ceil(BLOCK) * columns * size_of::<f32>()])
}

/// The sum of each column of dy `[rows, columns]`.
///
/// # Errors
/// Operands that do not fit together.
pub fn column_sums(
    pool: &ThreadPool,
    isa: Isa,
    dy: Data<'_>,
    rows: usize,
    out: &mut [f32],
    scratch: &mut [u8],
) -> Result<(), GemmError> {
    let operation = "column_sums";
    check_len(operation, "the gradient", rows * out.len(), dy.len())?;
    let columns = out.len();
    let count = rows.div_ceil(BLOCK) * columns;
    let [memory] = scratch::cut(operation, scratch, [count * size_of::<f32>()])?;
    if count == 0 {
        out.fill(0.0);
        return Ok(());
    }
    // SAFETY: cut for it, aligned to 64.
    let partial = unsafe { std::slice::from_raw_parts_mut(memory.cast::<f32>(), count) };
    match dy {
        Data::F32(dy) => sum_blocks(pool, isa, dy, columns, partial),
        Data::Bf16(dy) => sum_blocks(pool, isa, dy, columns, partial),
        Data::I32(_) => {
            let expected = "f32 or bf16";
            return Err(GemmError::Storage {
                operation,
                operand: "the gradient",
                expected,
                found: DType::I32,
            });
        }
    }
    sum_rows(isa, partial, out);
    Ok(())
}

fn sum_blocks<T: Number>(pool: &ThreadPool, isa: Isa, dy: &[T], columns: usize, partial: &mut [f32]) {
    let partial = Shared::new(partial);
    pool.run(dy.len().div_ceil(BLOCK * columns), |block, _| {
        let from = block * BLOCK * columns;
        let rows = &dy[from..dy.len().min(from + BLOCK * columns)];
        // SAFETY: one task for each block.
        sum_rows(isa, rows, unsafe { partial.slice(block * columns, columns) });
    });
}

simd! {
    fn sum_rows<T: Number>(rows: &[T], out: &mut [f32]) {
        out.fill(0.0);
        for row in rows.chunks_exact(out.len()) {
            for (sum, x) in out.iter_mut().zip(row) {
                *sum += x.single();
            }
        }
    }
}
