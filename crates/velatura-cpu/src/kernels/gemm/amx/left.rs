//! Rows, copied into tiles.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::driver::Product;
use super::super::thirds::{HIGH, PARTS};
use super::super::tile::{ROWS, STEP};
use super::PAIR;
use super::plan::Plan;
use crate::kernels::amx::{ROW, SIDE};

/// Copies some slots of a pair of tiles of rows: for each slot 16 steps of each row, or 32 numbers in thirds, and of those behind
/// them that other segments read. Steps that are missing are zeros; rows that are missing are left as they are, for their sums are
/// not used.
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
    let over = product.steps % plan.of_slot;
    let pointer = |segment: usize, row: usize| pointers[row / ROWS * product.segments + segment][row % ROWS];
    for [line, first, count] in plan.lines(slots.clone()) {
        let ends = over > 0 && first + count == plan.units;
        let whole = if ends { count - 1 } else { count };
        let to = to.wrapping_add((line * plan.units + first - slots.start) * plan.slot());
        // Those of a window that slides are whole pairs.
        let beyond = if rows.len() == PAIR { plan.slot_rows() - PAIR } else { 0 };
        let all = rows.len() + beyond;
        let over = if ends { over } else { 0 };
        for some in (0..all).step_by(SIDE) {
            let mut from = [std::ptr::null(); SIDE];
            let count = SIDE.min(all - some);
            for (row, from) in (some..).zip(&mut from[..count]) {
                let start = match row < PAIR {
                    true => pointer(plan.segment(line, 0), rows.start + row),
                    false => pointer(plan.segment(line, row + 1 - PAIR), rows.end - 1),
                };
                *from = start.wrapping_add(first * plan.of_slot * STEP);
            }
            let (from, to) = (&from[..count], to.wrapping_add(some * ROW));
            // SAFETY: the caller's promise.
            unsafe {
                if plan.planes == PARTS {
                    in_thirds(from, whole, over, to, plan.slot(), plan.plane());
                    continue;
                }
                for (row, &from) in from.iter().enumerate() {
                    steps(from, whole, over, to.wrapping_add(row * ROW), plan.slot());
                }
            }
        }
    }
}

/// The row's lines of some whole slots, which begin `slot` bytes apart, and of one with the first `over` steps, if there are any.
///
/// # Safety
/// As for [`copy`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn steps(from: *const u8, whole: usize, over: usize, to: *mut u8, slot: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        for i in 0..whole {
            let line = _mm512_loadu_si512(from.wrapping_add(i * ROW).cast());
            _mm512_store_si512(to.wrapping_add(i * slot).cast(), line);
        }
        if over > 0 {
            let line = _mm512_maskz_loadu_epi32(first(over), from.wrapping_add(whole * ROW).cast());
            _mm512_store_si512(to.wrapping_add(whole * slot).cast(), line);
        }
    }
}

/// As [`steps`] for successive rows; slots are 32 numbers, whose thirds begin `plane` bytes apart.
///
/// # Safety
/// As for [`copy`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn in_thirds(rows: &[*const u8], whole: usize, over: usize, to: *mut u8, slot: usize, plane: usize) {
    // Slot by slot: what is written at a time lies together.
    for i in 0..whole {
        let to = to.wrapping_add(i * slot);
        for (row, from) in rows.iter().enumerate() {
            let from = from.cast::<f32>().wrapping_add(2 * i * SIDE);
            // SAFETY: the caller's promise.
            unsafe {
                let numbers = [_mm512_loadu_ps(from), _mm512_loadu_ps(from.wrapping_add(SIDE))];
                split(numbers, to.wrapping_add(row * ROW), plane);
            }
        }
    }
    if over > 0 {
        let [low, high] = [first(over.min(SIDE)), first(over.saturating_sub(SIDE))];
        let to = to.wrapping_add(whole * slot);
        for (row, from) in rows.iter().enumerate() {
            let from = from.cast::<f32>().wrapping_add(2 * whole * SIDE);
            // SAFETY: the caller's promise.
            unsafe {
                let numbers =
                    [_mm512_maskz_loadu_ps(low, from), _mm512_maskz_loadu_ps(high, from.wrapping_add(SIDE))];
                split(numbers, to.wrapping_add(row * ROW), plane);
            }
        }
    }
}

/// A mask of the first `count` of 16.
fn first(count: usize) -> u16 {
    ((1u32 << count) - 1) as u16
}

/// The thirds of 32 numbers, as pairs of those that lie 16 apart: see [`thirds`](super::super::thirds).
///
/// # Safety
/// There is room for a line of each plane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn split([mut x, mut y]: [__m512; 2], to: *mut u8, plane: usize) {
    let mask = _mm512_set1_epi32(HIGH as i32);
    for part in 0..PARTS {
        let [x_bits, y_bits] = [_mm512_castps_si512(x), _mm512_castps_si512(y)];
        // The bits of the mask from `y`, the others from `x`.
        let pairs = _mm512_ternarylogic_epi32::<0xca>(mask, y_bits, _mm512_srli_epi32::<16>(x_bits));
        // SAFETY: the caller's promise.
        unsafe { _mm512_store_si512(to.wrapping_add(part * plane).cast(), pairs) };
        x = _mm512_sub_ps(x, _mm512_castsi512_ps(_mm512_and_si512(x_bits, mask)));
        y = _mm512_sub_ps(y, _mm512_castsi512_ps(_mm512_and_si512(y_bits, mask)));
    }
}
