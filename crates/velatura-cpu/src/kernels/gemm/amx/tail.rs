//! Steps of panels beyond the last 16, which a tile holds.

use std::ops::Range;

use super::super::driver::Product;
use super::strip::Strips;
use crate::kernels::amx::{ROW, Right, SIDE, TILE};

/// Steps of a segment of a panel beyond the last 16.
fn over(product: &Product<'_>) -> usize {
    product.kernels.panel_steps(product.steps) % SIDE
}

/// For some strips the last steps of each segment, where they are not 16, with zeros behind them.
pub(super) struct Tails {
    data: Option<*const u8>,
    segments: usize,
}

impl Tails {
    /// Bytes of memory for those of so many strips.
    pub(super) fn bytes(product: &Product<'_>, strips: usize) -> usize {
        if over(product) == 0 { 0 } else { strips * product.segments * 2 * TILE }
    }

    /// # Safety
    /// The strips are the product's, and `memory` has [`Tails::bytes`].
    pub(super) unsafe fn make(strips: &Strips<'_>, some: Range<usize>, memory: *mut u8) -> Tails {
        let product = strips.product;
        let (over, segments) = (over(product), product.segments);
        if over == 0 {
            return Tails { data: None, segments };
        }
        for (number, strip) in some.enumerate() {
            let start = strips.start(strip);
            for panel in 0..strips.panels(strip) {
                for segment in 0..segments {
                    let before = ((segment + 1) * product.steps - over) * ROW;
                    let from = start.from.wrapping_add(panel * start.apart + before);
                    let to = memory.wrapping_add(((2 * number + panel) * segments + segment) * TILE);
                    // SAFETY: the caller's promise.
                    unsafe {
                        std::ptr::copy_nonoverlapping(from, to, over * ROW);
                        to.wrapping_add(over * ROW).write_bytes(0, (SIDE - over) * ROW);
                    }
                }
            }
        }
        Tails { data: Some(memory), segments }
    }

    /// That of a segment of strip number `number`.
    #[inline(always)]
    pub(super) fn at(&self, number: usize, segment: usize) -> Right {
        let data = self.data.unwrap_or(std::ptr::null());
        let from = data.wrapping_add((2 * number * self.segments + segment) * TILE);
        Right { from, stride: ROW, apart: self.segments * TILE }
    }
}
