//! A task: some pairs of rows by some pairs of panels.

use std::ops::Range;

use super::super::driver::PANEL_BLOCK;
use super::super::finish::{Finish, Sums};
use super::super::prepare::Rows;
use super::super::tile::{Lines, ROWS, STEP, Tile};
use super::right::Right;
use super::terms::{QUADRANTS, STEPS};
use super::{Plan, apart};
use crate::kernels::LINE;
use crate::kernels::elementwise::dispatch::with_scratch;

/// Some pairs of rows.
struct Task<'a> {
    plan: &'a Plan,
    right: &'a Right,
    finish: &'a Finish,
    /// Rows of the output, even ones and odd ones.
    outputs: [&'a [usize]; 2],
    /// The left operands one after another, each with its rows of half the depth.
    left: *const u8,
    /// Bytes of a left operand.
    left_bytes: usize,
    /// Pairs of panels whose products are made at a time.
    together: usize,
    /// For each of those its quadrants, then a product that belongs to several: whole tiles.
    sums: *mut f32,
}

/// Makes those pairs of panels for those pairs of rows: first the left operands of all products, then group by group of panels.
///
/// # Safety
/// As for [`product`](super::product); the sums of these panels are made.
pub(super) unsafe fn task(
    right: &Right,
    x: Rows,
    finish: &Finish,
    rows: Range<usize>,
    panels: Range<usize>,
    together: usize,
) {
    let plan = &right.plan;
    let half = plan.row_bytes();
    let left_bytes = apart(rows.len() * half);
    let all_left = STEPS.len() * left_bytes;
    let sums = (together * QUADRANTS + 1) * rows.len().next_multiple_of(ROWS) * plan.kernels.panel;
    let outputs = (2 * rows.len() * size_of::<usize>()).next_multiple_of(LINE);
    with_scratch(outputs + all_left + sums * size_of::<f32>(), |memory: &mut [u8]| {
        let (outputs, memory) = memory.split_at_mut(outputs);
        let (left, sums) = memory.split_at_mut(all_left);
        let outputs: &mut [usize] = bytemuck::cast_slice_mut(outputs);
        let (even, odd) = outputs[..2 * rows.len()].split_at_mut(rows.len());
        let left = left.as_mut_ptr();
        for (i, row) in rows.enumerate() {
            (even[i], odd[i]) = (2 * row, 2 * row + 1);
            let from = x.data.wrapping_add(2 * row * x.stride);
            let quadrants =
                std::array::from_fn(|q| from.wrapping_add(q / 2 * x.stride + q % 2 * half).cast());
            let to = left.wrapping_add(i * half);
            // Those of the next pair are fetched meanwhile: they come from far away.
            // SAFETY: the caller's promise; the memory has all rows of all operands.
            unsafe {
                (plan.kernels.strassen.left)(
                    quadrants,
                    to.cast(),
                    left_bytes / STEP,
                    half / STEP,
                    2 * x.stride,
                );
            }
        }
        let sums = sums.as_mut_ptr().cast();
        let task = Task { plan, right, finish, outputs: [even, odd], left, left_bytes, together, sums };
        let mut first = panels.start;
        while first < panels.end {
            let group = first..panels.end.min(first + together);
            first = group.end;
            // SAFETY: the caller's promise.
            unsafe { task.group(group, (first < panels.end).then_some(first)) };
        }
    });
}

impl Task<'_> {
    /// Makes some pairs of panels; `following` comes after them.
    ///
    /// # Safety
    /// All pointers are valid, and the sums have room for the group.
    unsafe fn group(&self, group: Range<usize>, following: Option<usize>) {
        let bytes = self.plan.panel_bytes();
        let blocks = bytes.div_ceil(PANEL_BLOCK);
        let most = self.plan.steps.div_ceil(blocks);
        let width = self.plan.kernels.panel * STEP;
        for (place, pair) in (0..STEPS.len()).flat_map(|place| group.clone().map(move |pair| (place, pair))) {
            let next = if pair + 1 < group.end {
                Some((place, pair + 1))
            } else if place + 1 < STEPS.len() {
                Some((place + 1, group.start))
            } else {
                following.map(|pair| (0, pair))
            };
            let next = next.map(|(place, pair)| self.right.operand(pair, &STEPS[place]));
            let panel = self.right.operand(pair, &STEPS[place]);
            for first in (0..self.plan.steps).step_by(most) {
                let steps = first..self.plan.steps.min(first + most);
                let next = match next {
                    _ if steps.end < self.plan.steps => {
                        (panel.wrapping_add(steps.end * width), steps.len() * width)
                    }
                    Some(next) => (next, most * width),
                    None => (panel, 0),
                };
                // SAFETY: the caller's promise.
                unsafe { self.block(place, pair, pair - group.start, panel, steps, next) };
            }
        }
    }

    /// Some steps of product number `product` of a pair of panels, which is number `place` of its group.
    ///
    /// # Safety
    /// As for [`Task::group`].
    unsafe fn block(
        &self,
        product: usize,
        pair: usize,
        place: usize,
        panel: *const u8,
        steps: Range<usize>,
        (next_panel, next_bytes): (*const u8, usize),
    ) {
        let step = &STEPS[product];
        let (kernels, width, half) = (self.plan.kernels, self.plan.kernels.panel, self.plan.row_bytes());
        let rows = self.outputs[0].len();
        let tiles = rows.div_ceil(ROWS);
        let complete = steps.end == self.plan.steps;
        let last = complete && product + 1 == STEPS.len();
        let sums = |quadrant: usize| self.sums.wrapping_add(quadrant * tiles * ROWS * width);
        let made = sums(step.begins.map_or(self.together * QUADRANTS, |q| place * QUADRANTS + q));
        let left = self.left.wrapping_add(product * self.left_bytes + steps.start * STEP);
        let pointers: [*const u8; ROWS] = std::array::from_fn(|r| left.wrapping_add(r * half));
        let mut whole = Tile {
            rows: &pointers,
            segments: 1,
            steps: steps.len(),
            offset: 0,
            row_step: STEP,
            panel: panel.wrapping_add(steps.start * width * STEP),
            panel_step: width * STEP,
            panel_segment: 0,
            panel_offsets: std::ptr::null(),
            carry: steps.start > 0,
            sums: made,
            sums_stride: width,
            next: [Lines::NONE; 2],
        };
        for tile in 0..tiles {
            let (first, count) = (tile * ROWS, ROWS.min(rows - tile * ROWS));
            let at = first * width;
            let finished = |q: usize| Sums {
                data: sums(place * QUADRANTS + q).wrapping_add(at),
                width,
                rows: &self.outputs[q / 2][first..first + count],
                column: (2 * pair + q % 2) * width,
                columns: width,
            };
            if last {
                (0..QUADRANTS)
                    .map(finished)
                    .for_each(|sums| self.finish.fetch(sums.rows, sums.column, width));
            }
            whole.offset = first * half;
            whole.sums = made.wrapping_add(at);
            whole.next = [
                // The rows of the next tile follow, or those of the next product.
                Lines {
                    from: left.wrapping_add((first + ROWS) * half),
                    count: (count * half).div_ceil(LINE),
                },
                Lines::part(next_panel, next_bytes, tile, tiles),
            ];
            // SAFETY: the caller's promise; rows and sums of the tile are inside the task's.
            unsafe {
                kernels.run(count, width, &whole);
                if complete {
                    for (q, sign) in step.adds.into_iter().flatten() {
                        let to = sums(place * QUADRANTS + q).wrapping_add(at);
                        (kernels.strassen.accumulate)(to, made.wrapping_add(at), sign, count * width);
                    }
                }
                if last {
                    (0..QUADRANTS).map(finished).for_each(|sums| (kernels.finish)(self.finish, &sums));
                }
            }
        }
    }
}
