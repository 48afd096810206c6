//! Strips of the right operand: two panels, or the last one alone, that meet a pair of tiles of rows together. A panel is as wide
//! as a tile, so that each of its tiles is one kilobyte of successive lines.

use super::super::driver::{Product, panel_start};
use super::super::pack::Layout;
use super::super::tile::STEP;
use super::PAIR;
use crate::kernels::amx::{ROW, Right, SIDE};

/// The strips of one of a product's matrices.
pub(super) struct Strips<'a> {
    pub product: &'a Product<'a>,
    pub layout: Layout,
    /// The matrix.
    pub item: usize,
}

impl<'a> Strips<'a> {
    /// Those of matrix `item`.
    pub fn new(product: &'a Product<'a>, item: usize) -> Self {
        let steps = product.segments * product.kernels.panel_steps(product.steps);
        let layout = Layout::right(product.kernels, product.columns, steps);
        Strips { product, layout, item }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.layout.panels().div_ceil(2)
    }

    /// The panels of a strip.
    pub fn panels(&self, strip: usize) -> usize {
        2.min(self.layout.panels() - 2 * strip)
    }

    /// Columns of a strip.
    pub fn columns(&self, strip: usize) -> usize {
        PAIR.min(self.layout.columns - strip * PAIR)
    }

    /// The beginning of a strip.
    pub fn start(&self, strip: usize) -> Right {
        let from = panel_start(self.product, &self.layout, self.item, 2 * strip);
        Right { from, stride: ROW, apart: self.layout.steps * SIDE * STEP }
    }
}
