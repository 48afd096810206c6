//! Rows, copied into tiles.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::driver::Product;
use super::super::tile::{ROWS, STEP};
use super::PAIR;
use super::plan::Plan;
use crate::kernels::amx::{ROW, SIDE};

/// Copies some slots of a pair of tiles of rows: for each slot 16 steps of each row, and of those behind them that other segments
/// read. Steps that are missing are zeros; rows that are missing are left as they are, for their sums are not used.
///
/// # Safety
/// The pointers (laid out as in [`RowBlock`](super::super::driver::RowBlock)) are to all steps of each segment; `to` has room
/// for the slots, and begins on a line of the caches; the processor has AVX-512.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn copy(
    product: &Product<'_>,
    plan: &Plan,
    pointers: &[[*const u8; ROWS]],
    rows: Range<usize>,
    slots: Range<usize>,
    to: *mut u8,
) {
    let (over, slot) = (product.steps % SIDE, plan.slot());
    let some = (1u16 << over).wrapping_sub(1);
    let pointer = |segment: usize, row: usize| pointers[row / ROWS * product.segments + segment][row % ROWS];
    for [line, first, count] in plan.lines(slots.clone()) {
        let ends = over > 0 && first + count == plan.units;
        let whole = if ends { count - 1 } else { count };
        let to = to.wrapping_add((line * plan.units + first - slots.start) * slot);
        // Those of a window that slides are whole pairs.
        let beyond = if rows.len() == PAIR { plan.slot_rows() - PAIR } else { 0 };
        for row in 0..rows.len() + beyond {
            let from = match row < PAIR {
                true => pointer(plan.segment(line, 0), rows.start + row),
                false => pointer(plan.segment(line, row + 1 - PAIR), rows.end - 1),
            };
            let from = from.wrapping_add(first * SIDE * STEP);
            let to = to.wrapping_add(row * ROW);
            // SAFETY: the caller's promise.
            unsafe {
                for i in 0..whole {
                    let line = _mm512_loadu_si512(from.wrapping_add(i * ROW).cast());
                    _mm512_store_si512(to.wrapping_add(i * slot).cast(), line);
                }
                if ends {
                    let line = _mm512_maskz_loadu_epi32(some, from.wrapping_add(whole * ROW).cast());
                    _mm512_store_si512(to.wrapping_add(whole * slot).cast(), line);
                }
            }
        }
    }
}
