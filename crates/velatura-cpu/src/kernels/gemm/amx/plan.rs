//! How a product is divided among tasks, and its depth among the caches.

use std::ops::Range;

use super::super::driver::{Product, Slide};
use super::{PAIR, UNIT};
use crate::kernels::amx::{ROW, SIDE};

/// Units of a chunk: what of the rows stays in the first-level cache beside the sums and what passes by of the strips; more where
/// several taps share it.
const CHUNK: usize = if cfg!(test) { 3 } else { 10 };
const SLIDING: usize = if cfg!(test) { 6 } else { 60 };
/// Units that are one chunk: no sums have to be carried on.
const ALONE: usize = if cfg!(test) { 4 } else { 20 };
/// Bytes of the strips of a chunk, and of the sums of a task: both stay in the second-level cache.
const STRIP_BYTES: usize = if cfg!(test) { 1 << 14 } else { 1 << 20 };
const SUM_BYTES: usize = if cfg!(test) { 1 << 14 } else { 640 << 10 };
/// The most rows of a task, and those that it has at least where there are so many: they share the strips, which come from far.
const MOST_ROWS: usize = if cfg!(test) { 3 * PAIR } else { 512 };
const LEAST_ROWS: usize = if cfg!(test) { PAIR } else { 256 };

/// Rows of a product from which on strips are not fetched ahead. It helps where few rows share them, which so come from memory;
/// the convolutions of 32x32 and 64x64 pixels of Stable Diffusion 1.5 lose by it.
const MANY_ROWS: usize = 2048;

/// Work of a task, in products of whole tiles: some twenty microseconds.
const TASK_PRODUCTS: usize = 4000;
/// Tasks that keep a few threads evenly busy.
const ENOUGH_TASKS: usize = 8;

/// How a product is divided. The depth is a number of slots: 16 steps of a segment, or of all that slide over the same rows.
pub(super) struct Plan {
    /// Rows and strips of a task.
    pub rows: usize,
    pub strips: usize,
    /// Segments that share a slot's rows, in the order in which they are read.
    pub slide: Slide,
    /// Slots of a segment, and of all that do not share them.
    pub units: usize,
    pub slots: usize,
    /// Slots of a chunk.
    pub chunk: usize,
    /// Whether strips are fetched ahead.
    pub ahead: bool,
}

impl Plan {
    pub fn new(product: &Product<'_>, strips: usize) -> Plan {
        let units = product.steps.div_ceil(SIDE);
        // The zeros behind a depth that does not fill its tiles would have to be in the panels, too.
        let slide = product.slide.filter(|_| product.steps.is_multiple_of(SIDE) && units > 0);
        let slide = slide.unwrap_or(Slide { taps: 1, backward: false });
        let slots = product.segments / slide.taps * units;
        let most = if slide.taps > 1 { (SLIDING / slide.taps).max(1) } else { CHUNK };
        // Chunks of about the same size.
        let chunk = if slots * slide.taps > ALONE { slots.div_ceil(slots.div_ceil(most)) } else { slots };
        let of_chunk = (STRIP_BYTES / (chunk * slide.taps * UNIT).max(1)).clamp(1, strips);
        let of_sums = (SUM_BYTES / (LEAST_ROWS * PAIR * size_of::<f32>())).max(1);
        let group = if chunk < slots { of_chunk.min(of_sums) } else { of_chunk };
        let most = (SUM_BYTES / (group * PAIR * size_of::<f32>())).clamp(LEAST_ROWS, MOST_ROWS);
        let blocks = product.rows.div_ceil(most);
        let rows = product.rows.div_ceil(blocks).next_multiple_of(PAIR);
        // Rows are copied for each group of strips, so that there are no more of these than keep the threads busy.
        let of_strip = (rows / SIDE * 2 * slots * slide.taps).max(1);
        let wanted = ENOUGH_TASKS.div_ceil(product.items * blocks);
        let wanted = wanted.clamp(1, strips.div_ceil(TASK_PRODUCTS.div_ceil(of_strip)));
        let groups = strips.div_ceil(group).max(wanted);
        let ahead = product.rows < MANY_ROWS;
        Plan { rows, strips: strips.div_ceil(groups), slide, units, slots, chunk, ahead }
    }

    /// Rows of a slot: those of a pair of tiles, and those that the last tap reads beyond.
    pub fn slot_rows(&self) -> usize {
        PAIR + self.slide.taps - 1
    }

    /// Bytes of a slot.
    pub fn slot(&self) -> usize {
        self.slot_rows() * ROW
    }

    /// The segment that reads the rows of a line of segments from row `offset` on.
    pub fn segment(&self, line: usize, offset: usize) -> usize {
        let taps = self.slide.taps;
        line * taps + if self.slide.backward { taps - 1 - offset } else { offset }
    }

    /// Some slots by lines of segments: the line, the first slot of it, and how many.
    pub fn lines(&self, slots: Range<usize>) -> impl Iterator<Item = [usize; 3]> + use<> {
        let units = self.units;
        let lines = slots.start / units.max(1)..slots.end.div_ceil(units.max(1));
        lines.map(move |line| {
            let first = slots.start.max(line * units);
            [line, first - line * units, slots.end.min((line + 1) * units) - first]
        })
    }
}
