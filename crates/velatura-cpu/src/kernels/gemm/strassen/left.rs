//! The left operands of a task: quadrants of its rows, and their sums.

use std::ops::Range;

use super::super::prepare::Rows;
use super::super::tile::STEP;
use super::terms::{QUADRANTS, STEPS};
use super::{Plan, apart};
use crate::kernels::LINE;

/// The left operands of all products, one after another.
pub(super) struct Left {
    operands: *const u8,
    /// Of one of them.
    bytes: usize,
}

impl Left {
    /// Bytes of memory for the operands of so many groups of rows, and for making them.
    pub(super) fn bytes(plan: &Plan, groups: usize) -> usize {
        between_bytes(plan) + plan.outer_steps().len() * STEPS.len() * operand_bytes(plan, groups)
    }

    /// The rows of the operand of product `inner` of product `outer`, one for each group.
    pub(super) fn operand(&self, [outer, inner]: [usize; 2]) -> *const u8 {
        self.operands.wrapping_add((outer * STEPS.len() + inner) * self.bytes)
    }

    /// Makes them.
    ///
    /// # Safety
    /// `x` has the rows of these groups; there are [`Left::bytes`] of memory.
    pub(super) unsafe fn make(plan: &Plan, x: Rows, groups: Range<usize>, memory: *mut u8) -> Left {
        let (between, operands) = (memory, memory.wrapping_add(between_bytes(plan)));
        let bytes = operand_bytes(plan, groups.len());
        let (make, row, group_bytes) =
            (plan.kernels.strassen.left, plan.row_bytes(), plan.group_rows() * x.stride);
        let between_rows = if plan.twice() { 2 } else { 0 };
        // The next group's rows are fetched while they are read: they come from far away.
        let ahead = if plan.twice() { [group_bytes, 0] } else { [0, group_bytes] };
        for (i, group) in groups.enumerate() {
            let first = x.data.wrapping_add(group * group_bytes);
            for line in 0..between_rows {
                let quadrants: [_; QUADRANTS] = std::array::from_fn(|q| {
                    first.wrapping_add((2 * line + q / 2) * x.stride + q % 2 * 2 * row).cast()
                });
                let to = between.wrapping_add(line * 2 * row);
                // SAFETY: the caller's promise.
                unsafe { make(quadrants, to.cast(), 4 * row / STEP, 2 * row / STEP, ahead[0]) };
            }
            for outer in 0..plan.outer_steps().len() {
                let (lines, stride) = match plan.twice() {
                    true => (between.wrapping_add(outer * 4 * row).cast_const(), 2 * row),
                    false => (first, x.stride),
                };
                let quadrants: [_; QUADRANTS] =
                    std::array::from_fn(|q| lines.wrapping_add(q / 2 * stride + q % 2 * row).cast());
                let to = operands.wrapping_add(outer * STEPS.len() * bytes + i * row);
                // SAFETY: the caller's promise.
                unsafe { make(quadrants, to.cast(), bytes / STEP, row / STEP, ahead[1]) };
            }
        }
        Left { operands, bytes }
    }
}

fn operand_bytes(plan: &Plan, groups: usize) -> usize {
    apart(groups * plan.row_bytes())
}

/// Bytes of a group's operands of the first of two levels: two rows of half the depth for each.
fn between_bytes(plan: &Plan) -> usize {
    if plan.twice() { (plan.outer_steps().len() * 4 * plan.row_bytes()).next_multiple_of(LINE) } else { 0 }
}
