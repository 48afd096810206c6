//! The right operands: quadrants of the weight, and their sums.

use super::super::tile::STEP;
use super::terms::{RIGHT_SUMS, Step};
use super::{Plan, apart};
use crate::ThreadPool;

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
        plan.panels * RIGHT_SUMS * apart(plan.panel_bytes())
    }

    fn quadrant(&self, pair: usize, quadrant: usize) -> *const u8 {
        let panel = self.plan.layout.start(2 * pair + quadrant % 2) * STEP;
        self.panels.wrapping_add(panel + quadrant / 2 * self.plan.panel_bytes())
    }

    fn sum(&self, pair: usize, index: usize) -> *mut u8 {
        self.sums.wrapping_add((pair * RIGHT_SUMS + index) * apart(self.plan.panel_bytes()))
    }

    /// The right operand of a product for a pair of panels.
    pub(super) fn operand(&self, pair: usize, step: &Step) -> *const u8 {
        match step.right_sum {
            Some(index) => self.sum(pair, index),
            None => self.quadrant(pair, step.right.first),
        }
    }

    /// Makes the sums.
    ///
    /// # Safety
    /// The panels are there, and room for the sums, which nothing else uses meanwhile.
    pub(super) unsafe fn add_up(&self, pool: &ThreadPool) {
        pool.run(self.plan.panels, |pair, _| {
            let quadrants = std::array::from_fn(|q| self.quadrant(pair, q).cast());
            let [stride, cells] =
                [apart(self.plan.panel_bytes()), self.plan.panel_bytes()].map(|bytes| bytes / STEP);
            // SAFETY: the caller's promise; each task makes the sums of a pair.
            unsafe { (self.plan.kernels.strassen.right)(quadrants, self.sum(pair, 0).cast(), stride, cells) };
        });
    }
}
