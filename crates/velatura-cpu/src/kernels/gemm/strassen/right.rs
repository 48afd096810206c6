//! The right operands: quadrants of the weight, and their sums.

use super::super::tile::STEP;
use super::terms::{QUADRANTS, RIGHT_SUMS, STEPS};
use super::{Plan, apart};
use crate::ThreadPool;

/// Cells of a panel whose sums are made at a time: of two levels, those of the first stay in the second-level cache.
const CHUNK: usize = 4096;

/// The weight: its panels, and room for the sums of its quadrants.
#[derive(Clone, Copy)]
pub(super) struct Right {
    pub plan: Plan,
    pub panels: *const u8,
    pub sums: *mut u8,
}

// SAFETY: tasks write disjoint sums, and read them when all are made.
unsafe impl Sync for Right {}

impl Right {
    /// Bytes of memory for the sums.
    pub(super) fn bytes(plan: &Plan) -> usize {
        plan.groups * Right::group_bytes(plan)
    }

    /// From one sum of panels to the next.
    fn sum_bytes(plan: &Plan) -> usize {
        apart(plan.panel_bytes())
    }

    /// Sums of a group of panels: those of the first of two levels, of two panels of twice the depth each, and those of the last.
    fn group_bytes(plan: &Plan) -> usize {
        (Right::first_sums(plan) + plan.outer_steps().len() * RIGHT_SUMS) * Right::sum_bytes(plan)
    }

    /// Panels of the last level's depth that the first level's sums of a group take.
    fn first_sums(plan: &Plan) -> usize {
        if plan.twice() { RIGHT_SUMS * 4 } else { 0 }
    }

    /// Of a group the operand of a product of the first of two levels: of its panels at one side of the last level's, all the depth
    /// that the last level halves.
    fn outer(&self, group: usize, product: usize, side: usize) -> *const u8 {
        let plan = &self.plan;
        let sides = plan.sides();
        let panel = |column: usize, depth: usize| {
            let start = plan.layout.start((2 * group + side) * sides + column) * STEP;
            self.panels.wrapping_add(start + depth * 2 * plan.panel_bytes())
        };
        let step = &plan.outer_steps()[product];
        match step.right_sum {
            Some(index) => self.outer_sum(group, index, side),
            None => panel(step.right.first % sides, step.right.first / sides),
        }
    }

    fn outer_sum(&self, group: usize, index: usize, side: usize) -> *mut u8 {
        let at = group * Right::group_bytes(&self.plan);
        self.sums.wrapping_add(at + (2 * index + side) * 2 * Right::sum_bytes(&self.plan))
    }

    fn inner_sum(&self, group: usize, product: usize, index: usize) -> *mut u8 {
        let before = Right::first_sums(&self.plan) + product * RIGHT_SUMS + index;
        let at = group * Right::group_bytes(&self.plan);
        self.sums.wrapping_add(at + before * Right::sum_bytes(&self.plan))
    }

    /// A quadrant of such an operand.
    fn quadrant(&self, group: usize, product: usize, quadrant: usize) -> *const u8 {
        let depth = quadrant / 2 * self.plan.panel_bytes();
        self.outer(group, product, quadrant % 2).wrapping_add(depth)
    }

    /// The right operand of product `inner` of product `outer` of a group of panels.
    pub(super) fn operand(&self, group: usize, [outer, inner]: [usize; 2]) -> *const u8 {
        match STEPS[inner].right_sum {
            Some(index) => self.inner_sum(group, outer, index),
            None => self.quadrant(group, outer, STEPS[inner].right.first),
        }
    }

    /// Makes the sums.
    ///
    /// # Safety
    /// The panels are there, and room for the sums, which nothing else uses meanwhile.
    pub(super) unsafe fn add_up(&self, pool: &ThreadPool) {
        let plan = &self.plan;
        let cells = plan.panel_bytes() / STEP;
        let stride = Right::sum_bytes(plan) / STEP;
        let chunks = cells.div_ceil(CHUNK);
        pool.run(chunks * plan.groups, |index, _| {
            let (group, first) = (index / chunks, index % chunks * CHUNK);
            let count = CHUNK.min(cells - first);
            // SAFETY: the caller's promise; each task makes the same cells of all sums of a group.
            unsafe {
                if plan.twice() {
                    self.add_up_outer(group, first, count);
                }
                for product in 0..plan.outer_steps().len() {
                    let quadrants = std::array::from_fn(|q| {
                        self.quadrant(group, product, q).cast::<u32>().wrapping_add(first)
                    });
                    let to = self.inner_sum(group, product, 0).cast::<u32>().wrapping_add(first);
                    (plan.kernels.strassen.right)(quadrants, to, stride, count);
                }
            }
        });
    }

    /// Makes the sums of the first of two levels that those of some cells of the last one are made of.
    ///
    /// # Safety
    /// As for [`Right::add_up`].
    unsafe fn add_up_outer(&self, group: usize, first: usize, count: usize) {
        let plan = &self.plan;
        let cells = plan.panel_bytes() / STEP;
        for (side, half) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let at = half * cells + first;
            let quadrants: [_; QUADRANTS] = std::array::from_fn(|q| {
                let panel = plan.layout.start((2 * group + side) * 2 + q % 2) * STEP;
                self.panels.wrapping_add(panel).cast::<u32>().wrapping_add(q / 2 * 2 * cells + at)
            });
            let to = self.outer_sum(group, 0, side).cast::<u32>().wrapping_add(at);
            // SAFETY: the caller's promise.
            unsafe {
                (plan.kernels.strassen.right)(quadrants, to, 4 * Right::sum_bytes(plan) / STEP, count);
            }
        }
    }
}
