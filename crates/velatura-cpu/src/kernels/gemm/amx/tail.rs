//! Steps of panels beyond the last 16, which a tile holds.

use std::ops::Range;

use super::super::driver::{Product, panel_start};
use super::super::pack::Layout;
use super::super::tile::STEP;
use super::UNIT;
use crate::kernels::amx::SIDE;

/// For some panels the last steps of each segment, where they are not 16, with zeros behind them.
pub(super) struct Tails {
    data: Option<*const u8>,
    segments: usize,
}

impl Tails {
    /// Bytes of memory for those of so many panels.
    pub(super) fn bytes(product: &Product<'_>, panels: usize) -> usize {
        if product.steps.is_multiple_of(SIDE) { 0 } else { panels * product.segments * UNIT }
    }

    /// # Safety
    /// The panels are the product's, and `memory` has [`Tails::bytes`].
    pub(super) unsafe fn make(
        product: &Product<'_>,
        layout: &Layout,
        item: usize,
        panels: Range<usize>,
        memory: *mut u8,
    ) -> Tails {
        let (over, segments) = (product.steps % SIDE, product.segments);
        if over == 0 {
            return Tails { data: None, segments };
        }
        for (number, panel) in panels.enumerate() {
            let row = layout.width(panel) * STEP;
            for segment in 0..segments {
                let behind = (segment + 1) * product.steps;
                let from = panel_start(product, layout, item, panel).wrapping_add((behind - over) * row);
                let to = memory.wrapping_add((number * segments + segment) * UNIT);
                // SAFETY: the caller's promise.
                unsafe {
                    std::ptr::copy_nonoverlapping(from, to, over * row);
                    to.wrapping_add(over * row).write_bytes(0, (SIDE - over) * row);
                }
            }
        }
        Tails { data: Some(memory), segments }
    }

    /// That of a segment of panel number `panel`.
    #[inline(always)]
    pub(super) fn at(&self, panel: usize, segment: usize) -> *const u8 {
        let data = self.data.unwrap_or(std::ptr::null());
        data.wrapping_add((panel * self.segments + segment) * UNIT)
    }
}
