//! The loops of a task: chunks of the depth, pairs of tiles of rows, strips.

use std::ops::Range;

use super::super::driver::{self, Product};
use super::super::finish::Sums;
use super::super::tile::ROWS;
use super::block::{Ahead, Block};
use super::plan::Plan;
use super::strip::Strips;
use super::tail::Tails;
use super::{PAIR, SUMS, left};
use crate::kernels::amx::{self as unit, Right, SIDE, TILE, TILES, Unit};
use crate::kernels::transpose::transpose_to;
use crate::kernels::{LINE, fetch_far};

/// Some rows of a product by some strips.
pub(super) struct Task<'a> {
    pub product: &'a Product<'a>,
    pub plan: &'a Plan,
    pub strips: &'a Strips<'a>,
    pub some: Range<usize>,
    /// The first row.
    pub first: usize,
    pub unit: Unit,
    /// Of rows, as in [`RowBlock`].
    pub pointers: &'a [[*const u8; ROWS]],
    pub outputs: &'a [usize],
    /// A chunk of a pair of tiles of rows, or of each of them where strips come first.
    pub left: *mut u8,
    pub tails: Tails,
    /// Whether there are sums of each pair of tiles of rows by each strip, or of one at a time.
    pub kept: bool,
    pub sums: *mut f32,
}

impl Task<'_> {
    /// # Safety
    /// All pointers are valid for the extents of the product.
    pub unsafe fn run<const STEPS: u8>(&self) {
        let mut first = 0;
        // The block whose sums are in the registers.
        let mut before = None;
        // A product without depth is zero, too.
        loop {
            let slots = first..self.plan.slots.min(first + self.plan.chunk);
            // SAFETY: the caller's promise.
            unsafe {
                match self.plan.strips_first {
                    true => self.by_strips::<STEPS>(slots.clone(), &mut before),
                    false => self.by_rows::<STEPS>(slots.clone(), &mut before),
                }
            }
            first = slots.end;
            if first == self.plan.slots {
                break;
            }
        }
        if let Some(last) = before {
            // SAFETY: the caller's promise.
            unsafe {
                self.store(&last);
                self.finish(&last, self.rows(last.pair));
            }
        }
    }

    fn pairs(&self) -> usize {
        self.outputs.len().div_ceil(PAIR)
    }

    /// Rows of a pair of tiles.
    pub fn rows(&self, pair: usize) -> Range<usize> {
        pair * PAIR..self.outputs.len().min((pair + 1) * PAIR)
    }

    /// A chunk of all pairs of tiles of rows one after the other, each by all strips: the rows stay in the first-level cache.
    ///
    /// # Safety
    /// As for [`Task::run`].
    unsafe fn by_rows<const STEPS: u8>(&self, slots: Range<usize>, before: &mut Option<Block>) {
        let pairs = self.pairs();
        let upcoming = slots.end..self.plan.slots.min(slots.end + self.plan.chunk);
        for pair in 0..pairs {
            let left = match self.product.tiles {
                Some(tiles) => {
                    let pair = (self.first + self.rows(pair).start) / PAIR;
                    tiles.wrapping_add((pair * self.plan.slots + slots.start) * TILES)
                }
                None => {
                    // SAFETY: the caller's promise; there is room for a chunk.
                    unsafe { self.copy(pair, slots.clone(), self.left) };
                    self.left
                }
            };
            for number in 0..self.some.len() {
                if self.plan.ahead {
                    self.fetch(number, upcoming.clone(), pair, pairs);
                }
                let ahead = Ahead { sums: self.sums(pair, number + 1), ..Ahead::NOTHING };
                // SAFETY: the caller's promise.
                unsafe { self.block::<STEPS>(&slots, left, [pair, number], &ahead, before) };
            }
        }
    }

    /// A chunk of all strips one after the other, each by all pairs of tiles of rows: these and a strip stay in the second-level
    /// cache. Rows in single precision, which is multiplied so, never lie in tiles.
    ///
    /// # Safety
    /// As for [`Task::run`].
    unsafe fn by_strips<const STEPS: u8>(&self, slots: Range<usize>, before: &mut Option<Block>) {
        let (pairs, bytes) = (self.pairs(), self.plan.chunk * self.plan.slot());
        for pair in 0..pairs {
            // SAFETY: the caller's promise; there is room for a chunk of each pair.
            unsafe { self.copy(pair, slots.clone(), self.left.wrapping_add(pair * bytes)) };
        }
        for number in 0..self.some.len() {
            // The next strip, where a chunk of it lies together.
            let next = (self.plan.slide.taps == 1 && number + 1 < self.some.len()).then(|| {
                let units = self.plan.units.max(1);
                let strip = self.strips.start(self.some.start + number + 1);
                self.slot(strip, slots.start / units, 0, slots.start % units).from
            });
            let share = slots.len() * self.plan.planes * TILE / pairs;
            for pair in 0..pairs {
                let sums =
                    if pair + 1 < pairs { self.sums(pair + 1, number) } else { self.sums(0, number + 1) };
                let strip = next.map(|strip| (strip.wrapping_add(pair * share), share));
                let left = self.left.wrapping_add(pair * bytes);
                // SAFETY: the caller's promise.
                unsafe { self.block::<STEPS>(&slots, left, [pair, number], &Ahead { sums, strip }, before) };
            }
        }
    }

    /// Copies the rows of a chunk.
    ///
    /// # Safety
    /// As for [`Task::run`]; there is room for them.
    unsafe fn copy(&self, pair: usize, slots: Range<usize>, to: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { left::copy(self.product, self.plan, self.pointers, self.rows(pair), slots, to) };
    }

    /// A chunk of a pair of tiles of rows by strip number `number`.
    ///
    /// # Safety
    /// As for [`Task::run`].
    unsafe fn block<const STEPS: u8>(
        &self,
        slots: &Range<usize>,
        left: *const u8,
        [pair, number]: [usize; 2],
        ahead: &Ahead,
        before: &mut Option<Block>,
    ) {
        let two = [self.rows(pair).len() > SIDE, self.strips.panels(self.some.start + number) > 1];
        let block = Block { pair, number, two, ends: slots.end == self.plan.slots };
        // SAFETY: the caller's promise.
        unsafe {
            match two {
                [true, true] => self.tiles::<STEPS, 2, 2>(slots, left, &block, ahead, before),
                [true, false] => self.tiles::<STEPS, 2, 1>(slots, left, &block, ahead, before),
                [false, true] => self.tiles::<STEPS, 1, 2>(slots, left, &block, ahead, before),
                [false, false] => self.tiles::<STEPS, 1, 1>(slots, left, &block, ahead, before),
            }
        }
        *before = Some(block);
    }

    /// Brings part `part` of `parts` of some slots of strip number `number` into the second-level cache.
    fn fetch(&self, number: usize, slots: Range<usize>, part: usize, parts: usize) {
        let strip = self.some.start + number;
        let (start, panels) = (self.strips.start(strip), self.strips.panels(strip));
        for [line, first, count] in self.plan.lines(slots) {
            for offset in 0..self.plan.slide.taps {
                let from = self.slot(start, line, offset, first).from;
                let lines = count * self.plan.planes * TILE / LINE;
                let share = lines.div_ceil(parts);
                for panel in 0..panels {
                    for line in (part * share..lines).take(share) {
                        fetch_far(from.wrapping_add(panel * start.apart + line * LINE));
                    }
                }
            }
        }
    }

    /// Slot `unit` of a segment of a strip.
    pub fn slot(&self, start: Right, line: usize, offset: usize, unit: usize) -> Right {
        let steps = self.plan.segment(line, offset) * self.plan.panel_steps + unit * SIDE * self.plan.planes;
        Right { from: start.from.wrapping_add(steps * start.stride), ..start }
    }

    /// Sums of a pair of tiles of rows and strip number `number`.
    pub fn sums(&self, pair: usize, number: usize) -> *mut f32 {
        let place = if self.kept { pair * self.some.len() + number } else { 0 };
        self.sums.wrapping_add(place * SUMS)
    }

    /// Sums from the registers to memory.
    ///
    /// # Safety
    /// They are of this block.
    #[inline(always)]
    pub unsafe fn store(&self, block: &Block) {
        let sums = self.sums(block.pair, block.number);
        // SAFETY: the caller's promise; there is room for the sums.
        unsafe {
            match block.two {
                [true, true] => unit::store::<2, 2>(&self.unit, sums, PAIR),
                [true, false] => unit::store::<2, 1>(&self.unit, sums, PAIR),
                [false, true] => unit::store::<1, 2>(&self.unit, sums, PAIR),
                [false, false] => unit::store::<1, 1>(&self.unit, sums, PAIR),
            }
        }
    }

    /// Sums of some rows to the output, if they are those of all of the depth.
    ///
    /// # Safety
    /// As for [`Task::run`].
    pub unsafe fn finish(&self, block: &Block, rows: Range<usize>) {
        if !block.ends || rows.is_empty() {
            return;
        }
        let strip = self.some.start + block.number;
        let sums = self.sums(block.pair, block.number);
        let finished = Sums {
            data: sums.wrapping_add((rows.start - block.pair * PAIR) * PAIR),
            width: PAIR,
            rows: &self.outputs[rows],
            column: self.product.first_column + self.strips.item * self.product.item_columns + strip * PAIR,
            columns: self.strips.columns(strip),
        };
        // SAFETY: the caller's promise.
        unsafe {
            if self.product.turned {
                return turn(self.product, &finished);
            }
            driver::dequantize(self.product, &finished);
            (self.product.kernels.finish)(self.product.finish, &finished);
        }
    }
}

/// Writes sums as columns of the output, whose rows are neighbours.
///
/// # Safety
/// As for [`FinishFn`](super::finish::FinishFn).
unsafe fn turn(product: &Product<'_>, sums: &Sums<'_>) {
    let (out, &[first, ..]) = (&product.finish.out, sums.rows) else { return };
    let to = out.data.cast::<u32>().wrapping_add(sums.column * out.stride + first);
    let sizes = [sums.rows.len(), sums.columns];
    // SAFETY: the caller's promise; a task writes its own rows and columns.
    unsafe {
        let from = std::slice::from_raw_parts(sums.data.cast::<u32>().cast_const(), sizes[0] * sums.width);
        transpose_to(product.kernels.isa, from, sums.width, sizes, to, out.stride);
    }
}
