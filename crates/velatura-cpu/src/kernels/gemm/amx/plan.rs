//! How a product is divided among tasks, and its depth among the caches.

use std::ops::Range;

use super::super::driver::{Product, Slide};
use super::super::thirds;
use super::super::tile::Steps;
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

/// Of numbers in thirds the slots of a chunk, alone and times the taps that share them, the bytes of a task's rows, which stay in the
/// second-level cache, and those of its sums, which are seldom carried on.
const CHUNK_OF_THIRDS: usize = if cfg!(test) { 2 } else { 20 };
const SLIDING_THIRDS: usize = if cfg!(test) { 6 } else { 30 };
const ROW_BYTES: usize = if cfg!(test) { 1 << 15 } else { 960 << 10 };
const SUM_BYTES_OF_THIRDS: usize = if cfg!(test) { 1 << 15 } else { 1280 << 10 };

/// Rows of a product from which on strips are not fetched ahead. It helps where few rows share them, which so come from memory;
/// the convolutions of 32x32 and 64x64 pixels of Stable Diffusion 1.5 lose by it.
const MANY_ROWS: usize = 2048;

/// Work of a task, in products of whole tiles: some twenty microseconds.
const TASK_PRODUCTS: usize = 4000;
/// Tasks that keep a few threads evenly busy.
const ENOUGH_TASKS: usize = 8;

/// How a product is divided. The depth is a number of slots: the steps of a segment that meet a tile, 16, or of numbers in
/// thirds 32, or those of all segments that slide over the same rows.
pub(super) struct Plan {
    /// Rows and strips of a task.
    pub rows: usize,
    pub strips: usize,
    /// Segments that share a slot's rows, in the order in which they are read.
    pub slide: Slide,
    /// Tiles of the same numbers, and the steps of a row that they hold: a slot's.
    pub planes: usize,
    pub of_slot: usize,
    /// Slots of a segment, and those of them that are whole in panels.
    pub units: usize,
    pub whole: usize,
    /// Steps of a segment of a panel.
    pub panel_steps: usize,
    /// Slots of all segments that do not share them.
    pub slots: usize,
    /// Slots of a chunk.
    pub chunk: usize,
    /// Whether all rows meet a strip before the next one, and not all strips a pair of tiles of rows.
    pub strips_first: bool,
    /// Whether strips are fetched ahead where rows come first.
    pub ahead: bool,
}

/// Slots of a chunk, and the most rows and strips of a task.
struct Division {
    chunk: usize,
    rows: usize,
    strips: usize,
}

impl Division {
    /// Where all strips meet a pair of tiles of rows before the next one.
    fn by_rows(slots: usize, taps: usize, strips: usize) -> Division {
        let most = if taps > 1 { (SLIDING / taps).max(1) } else { CHUNK };
        let chunk = if slots * taps > ALONE { even(slots, most) } else { slots };
        let of_chunk = (STRIP_BYTES / (chunk * taps * UNIT).max(1)).clamp(1, strips);
        let of_sums = (SUM_BYTES / (LEAST_ROWS * PAIR * size_of::<f32>())).max(1);
        let strips = if chunk < slots { of_chunk.min(of_sums) } else { of_chunk };
        let rows = (SUM_BYTES / (strips * PAIR * size_of::<f32>())).clamp(LEAST_ROWS, MOST_ROWS);
        Division { chunk, rows, strips }
    }

    /// Where all rows meet a strip before the next one, of numbers in thirds. Of each product's operands six thirds are read for six
    /// products, not two for one, so that neither has to come from the first-level cache, and a longer chunk pays.
    fn by_strips(slots: usize, taps: usize) -> Division {
        let most = if taps > 1 { (SLIDING_THIRDS / taps).max(1) } else { CHUNK_OF_THIRDS };
        let chunk = even(slots, most);
        let of_pair = (chunk * thirds::PARTS * (PAIR + taps - 1) * ROW).max(1);
        let rows = (ROW_BYTES / of_pair).max(1) * PAIR;
        let of_sums = (SUM_BYTES_OF_THIRDS / (rows * PAIR * size_of::<f32>())).max(1);
        Division { chunk, rows, strips: if chunk < slots { of_sums } else { usize::MAX } }
    }
}

/// Slots of chunks of about the same size, of no more than `most`.
fn even(slots: usize, most: usize) -> usize {
    slots.div_ceil(slots.div_ceil(most).max(1))
}

impl Plan {
    pub fn new(product: &Product<'_>, strips: usize) -> Plan {
        let thirds = product.kernels.steps == Steps::Thirds;
        let (planes, of_slot, products) = match thirds {
            true => (thirds::PARTS, thirds::DEPTH, thirds::PRODUCTS),
            false => (1, SIDE, 1),
        };
        let (units, panel_steps) =
            (product.steps.div_ceil(of_slot), product.kernels.panel_steps(product.steps));
        let whole = panel_steps / (SIDE * planes);
        // The zeros behind a depth that does not fill its tiles would have to be in the panels, too.
        let slide = product.slide.filter(|_| whole == units && units > 0);
        let slide = slide.unwrap_or(Slide { taps: 1, backward: false });
        let slots = product.segments / slide.taps * units;
        let Division { chunk, rows: most, strips: group } = match thirds {
            true => Division::by_strips(slots, slide.taps),
            false => Division::by_rows(slots, slide.taps, strips),
        };
        let blocks = product.rows.div_ceil(most);
        let rows = product.rows.div_ceil(blocks).next_multiple_of(PAIR);
        // Rows are copied for each group of strips, so that there are no more of these than keep the threads busy.
        let of_strip = (rows / SIDE * 2 * slots * slide.taps * products).max(1);
        let wanted = ENOUGH_TASKS.div_ceil(product.items * blocks);
        let wanted = wanted.clamp(1, strips.div_ceil(TASK_PRODUCTS.div_ceil(of_strip)));
        let strips = strips.div_ceil(strips.div_ceil(group).max(wanted));
        let ahead = product.rows < MANY_ROWS;
        Plan {
            rows,
            strips,
            slide,
            planes,
            of_slot,
            units,
            whole,
            panel_steps,
            slots,
            chunk,
            strips_first: thirds,
            ahead,
        }
    }

    /// Rows of a slot: those of a pair of tiles, and those that the last tap reads beyond.
    pub fn slot_rows(&self) -> usize {
        PAIR + self.slide.taps - 1
    }

    /// Bytes of one of the planes of a slot.
    pub fn plane(&self) -> usize {
        self.slot_rows() * ROW
    }

    /// Bytes of a slot.
    pub fn slot(&self) -> usize {
        self.planes * self.plane()
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
