//! A task: some groups of rows by some groups of panels.

use std::ops::Range;

use super::super::driver::PANEL_BLOCK;
use super::super::finish::{Finish, Sums};
use super::super::prepare::Rows;
use super::super::tile::{Add, Lines, ROWS, STEP, Tile};
use super::Plan;
use super::left::Left;
use super::right::Right;
use super::terms::{QUADRANTS, STEPS};
use crate::kernels::LINE;
use crate::kernels::elementwise::dispatch::with_scratch;

/// Some groups of rows.
struct Task<'a> {
    plan: &'a Plan,
    right: &'a Right,
    finish: &'a Finish,
    /// Rows of the output: of each group its first one, then of each its second, and so on.
    outputs: &'a [usize],
    left: Left,
    /// Groups of panels whose products are made at a time.
    together: usize,
    /// For each of those its blocks, then a product that belongs to several: whole tiles.
    sums: *mut f32,
}

/// Makes those groups of panels for those groups of rows: first the left operands of all products, then panels by panels.
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
    let (plan, count) = (&right.plan, rows.len());
    let left_bytes = Left::bytes(plan, count);
    let sums = (together * plan.blocks() + 1) * count.next_multiple_of(ROWS) * plan.kernels.panel;
    let outputs = (plan.group_rows() * count * size_of::<usize>()).next_multiple_of(LINE);
    with_scratch(outputs + left_bytes + sums * size_of::<f32>(), |memory: &mut [u8]| {
        let (outputs, memory) = memory.split_at_mut(outputs);
        let (left, sums) = memory.split_at_mut(left_bytes);
        let outputs: &mut [usize] = bytemuck::cast_slice_mut(outputs);
        let outputs = &mut outputs[..plan.group_rows() * count];
        for (i, to) in outputs.iter_mut().enumerate() {
            *to = (rows.start + i % count) * plan.group_rows() + i / count;
        }
        // SAFETY: the caller's promise; the memory was sized for it.
        let left = unsafe { Left::make(plan, x, rows, left.as_mut_ptr()) };
        let sums = sums.as_mut_ptr().cast();
        let task = Task { plan, right, finish, outputs, left, together, sums };
        let mut first = panels.start;
        while first < panels.end {
            let group = first..panels.end.min(first + together);
            first = group.end;
            // SAFETY: the caller's promise.
            unsafe { task.panels(group, (first < panels.end).then_some(first)) };
        }
    });
}

/// Of a product of the first level one of the last, and the first products there are.
type Place = [usize; 2];
const FIRST: Place = [0, 0];

impl Task<'_> {
    /// The product after this one.
    fn after(&self, [outer, inner]: Place) -> Option<Place> {
        match inner + 1 < STEPS.len() {
            true => Some([outer, inner + 1]),
            false => (outer + 1 < self.plan.outer_steps().len()).then_some([outer + 1, 0]),
        }
    }

    /// Makes some groups of panels; `following` comes after them.
    ///
    /// # Safety
    /// All pointers are valid, and the sums have room for the groups.
    unsafe fn panels(&self, groups: Range<usize>, following: Option<usize>) {
        let bytes = self.plan.panel_bytes();
        let blocks = bytes.div_ceil(PANEL_BLOCK);
        let most = self.plan.steps.div_ceil(blocks);
        let width = self.plan.kernels.panel * STEP;
        let mut at = Some(FIRST);
        while let Some(place) = at {
            at = self.after(place);
            for group in groups.clone() {
                let next = match at {
                    _ if group + 1 < groups.end => Some((group + 1, place)),
                    Some(after) => Some((groups.start, after)),
                    None => following.map(|group| (group, FIRST)),
                };
                let next = next.map(|(group, place)| self.right.operand(group, place));
                let panel = self.right.operand(group, place);
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
                    unsafe { self.block(place, group, group - groups.start, panel, steps, next) };
                }
            }
        }
    }

    /// Some steps of a product of a group of panels, which is number `together` of those made at a time.
    ///
    /// # Safety
    /// As for [`Task::panels`].
    unsafe fn block(
        &self,
        [outer, inner]: Place,
        group: usize,
        together: usize,
        panel: *const u8,
        steps: Range<usize>,
        (next_panel, next_bytes): (*const u8, usize),
    ) {
        let plan = self.plan;
        let (outside, inside) = (&plan.outer_steps()[outer], &STEPS[inner]);
        let (kernels, width, row_bytes) = (plan.kernels, plan.kernels.panel, plan.row_bytes());
        let rows = self.outputs.len() / plan.group_rows();
        let tiles = rows.div_ceil(ROWS);
        let complete = steps.end == plan.steps;
        let joined = complete && inner + 1 == STEPS.len();
        let last = joined && outer + 1 == plan.outer_steps().len();
        let block = |number: usize| self.sums.wrapping_add(number * tiles * ROWS * width);
        // A quadrant of a quadrant of the result; behind those room for a product that begins none.
        let sums =
            |quadrant: usize, inside: usize| block(together * plan.blocks() + quadrant * QUADRANTS + inside);
        let quadrant = outside.begins.unwrap_or(plan.sides() * plan.sides());
        let made = match inside.begins {
            Some(inside) => sums(quadrant, inside),
            None => block(self.together * plan.blocks()),
        };
        let results = plan.sides() * plan.sides() * QUADRANTS;
        // The lines of the output that the end of a tile touches are fetched with the last products, those of one result with each.
        let left_over = plan.outer_steps().len() * STEPS.len() - (outer * STEPS.len() + inner);
        let fetched = results.checked_sub(left_over).filter(|_| complete);
        let finished = |first: usize, count: usize, result: usize| {
            let (q, inside) = (result / QUADRANTS, result % QUADRANTS);
            let row = inside / 2 * plan.sides() + q / plan.sides();
            Sums {
                data: sums(q, inside).wrapping_add(first * width),
                width,
                rows: &self.outputs[row * rows + first..][..count],
                column: ((2 * group + inside % 2) * plan.sides() + q % plan.sides()) * width,
                columns: width,
            }
        };
        let left = self.left.operand([outer, inner]).wrapping_add(steps.start * STEP);
        let pointers: [*const u8; ROWS] = std::array::from_fn(|r| left.wrapping_add(r * row_bytes));
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
            adds: [Add::NONE; 2],
            // A product that begins no quadrant is kept only to be carried on.
            kept: inside.begins.is_some() || !complete,
            next: [Lines::NONE; 2],
        };
        for tile in 0..tiles {
            let (first, count) = (tile * ROWS, ROWS.min(rows - tile * ROWS));
            if let Some(result) = fetched {
                let sums = finished(first, count, result);
                self.finish.fetch(sums.rows, sums.column, width);
            }
            whole.offset = first * row_bytes;
            let at_tile = |sums: *mut f32| sums.wrapping_add(first * width);
            whole.sums = at_tile(made);
            whole.next = [
                // The rows of the next tile follow, or those of the next product.
                Lines {
                    from: left.wrapping_add((first + ROWS) * row_bytes),
                    count: (count * row_bytes).div_ceil(LINE),
                },
                Lines::part(next_panel, next_bytes, tile, tiles),
            ];
            if complete {
                whole.adds = inside.adds.map(|add| match add {
                    Some((inside, sign)) => Add { to: at_tile(sums(quadrant, inside)), sign },
                    None => Add::NONE,
                });
            }
            // SAFETY: the caller's promise; rows and sums of the tile are inside the task's.
            unsafe { kernels.run(count, width, &whole) };
            if joined {
                for (q, sign) in outside.adds.into_iter().flatten() {
                    for inside in 0..QUADRANTS {
                        let (to, from) = (at_tile(sums(q, inside)), at_tile(sums(quadrant, inside)));
                        // SAFETY: the caller's promise; the tile's sums are inside both.
                        unsafe { (kernels.strassen.accumulate)(to, from, sign, count * width) };
                    }
                }
            }
            if last {
                for result in 0..results {
                    // SAFETY: as above.
                    unsafe { (kernels.finish)(self.finish, &finished(first, count, result)) };
                }
            }
        }
    }
}
