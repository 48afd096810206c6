//! The loops around products on AMX tiles: blocks of rows by groups of strips, in parallel.
//!
//! A product adds [`SIDE`] steps of 16 rows and 16 columns at once, and two by two tiles share what is loaded. At this pace one
//! of the operands has to be in the first-level cache and the other has to come from the second one line after the other. So a
//! task takes the depth in chunks: it copies a chunk of 32 rows, tile by tile, and lets it meet its [`strip`]s, of which as much as
//! is read for a chunk stays in the second-level cache until all rows have met it. Strips pass the first-level cache by and leave
//! it to the rows. Sums are carried on from chunk to chunk in memory: each element is one chain of additions, as with the other
//! kernels. The next ones are brought into the first-level cache with the last products before them.
//!
//! Where a window slides along the lines of an image, a copied line serves all taps across: each begins a row later. The chain
//! then takes a chunk's channels tap by tap. How the depth is cut depends on it and on the taps alone, not on rows or columns.
//!
//! Rows that lie [in tiles](crate::kernels::Order::Tiles) are not copied, but taken from where they are. Copied rows also are the end
//! of all questions: where they come from (pixels of a convolution), how they are aligned, and whether the depth is a multiple of
//! what a tile holds (there are zeros behind it).

mod left;
mod plan;
mod strip;
mod tail;
pub(super) mod weight_gradient;

use std::ops::Range;

use super::driver::{self, Product, RowBlock, Slide};
use super::finish::Sums;
use super::tile::{ROWS, STEP, Steps};
use crate::ThreadPool;
use crate::kernels::amx::{self as unit, At, FETCHED_SUMS, Fetched, ROW, Right, SIDE, Unit};
use crate::kernels::elementwise::dispatch::with_scratch;
use crate::kernels::transpose::transpose_to;
use crate::kernels::{LINE, fetch_far};
use plan::Plan;
use strip::Strips;
use tail::Tails;

/// Rows of two tiles, and columns of a strip.
pub(super) const PAIR: usize = 2 * SIDE;
const _: () = assert!(PAIR == Slide::ROWS);
/// Elements of the sums of a pair of tiles of rows and a strip.
const SUMS: usize = PAIR * PAIR;
/// Bytes of 16 steps of a strip, and of a pair of tiles of rows.
const UNIT: usize = SIDE * PAIR * STEP;

/// The last products of a chunk, with which the sums that come next are fetched.
const FETCHING: usize = SUMS / FETCHED_SUMS;

/// Rows that are finished at a time where that takes long.
const LONG_ROWS: usize = 8;

/// Whether a product runs on tiles. Steps of its rows lie together then.
pub(super) fn takes(product: &Product<'_>) -> bool {
    product.kernels.amx
}

/// Computes the products: see [`driver::run`].
///
/// # Safety
/// As for [`driver::run`]; the processor has [`Isa::Amx`](crate::Isa::Amx).
pub(super) unsafe fn run(
    pool: &ThreadPool,
    product: &Product<'_>,
    zeros: usize,
    fill: impl Fn(&mut RowBlock<'_>) + Sync,
) {
    let all = Strips::new(product, 0).count();
    let plan = Plan::new(product, all);
    let (blocks, groups) = (product.rows.div_ceil(plan.rows), all.div_ceil(plan.strips));
    pool.run(product.items * groups * blocks, |index, _| {
        // Neighbouring tasks share the strips.
        let (index, item) = (index % (groups * blocks), index / (groups * blocks));
        let (first, strip) = (index % blocks * plan.rows, index / blocks * plan.strips);
        let rows = plan.rows.min(product.rows - first);
        let some = strip..all.min(strip + plan.strips);
        // SAFETY: the caller's promise; the task's rows and strips are inside the shapes.
        unsafe { task(&Strips::new(product, item), &plan, first, rows, some, zeros, &fill) };
    });
}

unsafe fn task(
    strips: &Strips<'_>,
    plan: &Plan,
    first: usize,
    rows: usize,
    some: Range<usize>,
    zeros: usize,
    fill: &(impl Fn(&mut RowBlock<'_>) + Sync),
) {
    let (product, item) = (strips.product, strips.item);
    let table = rows.div_ceil(ROWS) * product.segments;
    let whole = plan.slots == plan.chunk;
    let sums = if whole { 1 } else { rows.div_ceil(PAIR) * some.len() };
    let sizes = [
        table * size_of::<[*const u8; ROWS]>(),
        rows * size_of::<usize>(),
        zeros,
        if product.tiles.is_none() { plan.chunk * plan.slot() } else { 0 },
        Tails::bytes(product, some.len()),
        sums * SUMS * size_of::<f32>(),
    ];
    let sizes = sizes.map(|bytes| bytes.next_multiple_of(LINE));
    with_scratch(sizes.iter().sum(), |memory: &mut [u8]| {
        let mut rest = memory;
        let [pointers, outputs, zeros, left, tails, sums] = sizes.map(|bytes| {
            let (part, behind) = std::mem::take(&mut rest).split_at_mut(bytes);
            rest = behind;
            part
        });
        pointers.fill(0);
        zeros.fill(0);
        // SAFETY: aligned to 64, long enough, and zeroed (as null pointers) before use.
        let pointers = unsafe {
            std::slice::from_raw_parts_mut(pointers.as_mut_ptr().cast::<[*const u8; ROWS]>(), table)
        };
        let outputs = &mut bytemuck::cast_slice_mut::<u8, usize>(outputs)[..rows];
        fill(&mut RowBlock { item, first, pointers, outputs, zeros: zeros.as_ptr() });
        // SAFETY: the caller's promise; the memory was sized for it; no other unit is taken while this one is.
        unsafe {
            let tails = Tails::make(strips, some.clone(), tails.as_mut_ptr());
            let task = Task {
                product,
                plan,
                strips,
                some,
                first,
                unit: Unit::take(),
                pointers,
                outputs,
                left: left.as_mut_ptr(),
                tails,
                kept: !whole,
                sums: sums.as_mut_ptr().cast(),
            };
            match product.kernels.steps {
                Steps::Bytes => task.run::<true>(),
                _ => task.run::<false>(),
            }
        }
    });
}

/// Some rows of a product by some strips.
struct Task<'a> {
    product: &'a Product<'a>,
    plan: &'a Plan,
    strips: &'a Strips<'a>,
    some: Range<usize>,
    /// The first row.
    first: usize,
    unit: Unit,
    /// Of rows, as in [`RowBlock`].
    pointers: &'a [[*const u8; ROWS]],
    outputs: &'a [usize],
    /// A chunk of a pair of tiles of rows.
    left: *mut u8,
    tails: Tails,
    /// Whether there are sums of each pair of tiles of rows by each strip, or of one at a time.
    kept: bool,
    sums: *mut f32,
}

/// A pair of tiles of rows by a strip.
#[derive(Clone, Copy)]
struct Block {
    pair: usize,
    /// Of the strip.
    number: usize,
    /// Whether there are two tiles of rows, and of columns.
    two: [bool; 2],
    /// Whether its sums are those of all of the depth.
    ends: bool,
}

impl Task<'_> {
    /// # Safety
    /// All pointers are valid for the extents of the product.
    unsafe fn run<const OF_BYTES: bool>(&self) {
        let pairs = self.outputs.len().div_ceil(PAIR);
        let mut first = 0;
        // The block whose sums are in the registers.
        let mut before = None;
        // A product without depth is zero, too.
        loop {
            let slots = first..self.plan.slots.min(first + self.plan.chunk);
            for pair in 0..pairs {
                // SAFETY: the caller's promise.
                unsafe { self.chunk::<OF_BYTES>(slots.clone(), pair, pairs, &mut before) };
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

    /// Rows of a pair of tiles.
    fn rows(&self, pair: usize) -> Range<usize> {
        pair * PAIR..self.outputs.len().min((pair + 1) * PAIR)
    }

    /// A pair of tiles of rows by all strips.
    ///
    /// # Safety
    /// As for [`Task::run`].
    unsafe fn chunk<const OF_BYTES: bool>(
        &self,
        slots: Range<usize>,
        pair: usize,
        pairs: usize,
        before: &mut Option<Block>,
    ) {
        let rows = self.rows(pair);
        let left = match self.product.tiles {
            Some(tiles) => {
                let pair = (self.first + rows.start) / PAIR;
                tiles.wrapping_add((pair * self.plan.slots + slots.start) * unit::TILES)
            }
            None => {
                let (rows, slots) = (rows.clone(), slots.clone());
                // SAFETY: the caller's promise; there is room for a chunk.
                unsafe { left::copy(self.product, self.plan, self.pointers, rows, slots, self.left) };
                self.left.cast_const()
            }
        };
        let upcoming = slots.end..self.plan.slots.min(slots.end + self.plan.chunk);
        for number in 0..self.some.len() {
            let strip = self.some.start + number;
            let (start, panels) = (self.strips.start(strip), self.strips.panels(strip));
            if self.plan.ahead {
                self.fetch(start, panels, upcoming.clone(), pair, pairs);
            }
            let two = [rows.len() > SIDE, panels > 1];
            let block = Block { pair, number, two, ends: slots.end == self.plan.slots };
            // SAFETY: the caller's promise.
            unsafe {
                match two {
                    [true, true] => self.tiles::<OF_BYTES, 2, 2>(&slots, left, start, &block, before),
                    [true, false] => self.tiles::<OF_BYTES, 2, 1>(&slots, left, start, &block, before),
                    [false, true] => self.tiles::<OF_BYTES, 1, 2>(&slots, left, start, &block, before),
                    [false, false] => self.tiles::<OF_BYTES, 1, 1>(&slots, left, start, &block, before),
                }
            }
            *before = Some(block);
        }
    }

    /// Brings part `part` of `parts` of some slots of a strip into the second-level cache.
    fn fetch(&self, start: Right, panels: usize, slots: Range<usize>, part: usize, parts: usize) {
        for [line, first, count] in self.plan.lines(slots) {
            for offset in 0..self.plan.slide.taps {
                let from = self.slot(start, line, offset, first).from;
                let lines = count * SIDE * ROW / LINE;
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
    fn slot(&self, start: Right, line: usize, offset: usize, unit: usize) -> Right {
        let steps = self.plan.segment(line, offset) * self.product.steps + unit * SIDE;
        Right { from: start.from.wrapping_add(steps * start.stride), ..start }
    }

    /// Sums of a pair of tiles of rows and strip number `number`.
    fn sums(&self, pair: usize, number: usize) -> *mut f32 {
        let place = if self.kept { pair * self.some.len() + number } else { 0 };
        self.sums.wrapping_add(place * SUMS)
    }

    /// Sums from the registers to memory.
    ///
    /// # Safety
    /// They are of this block.
    #[inline(always)]
    unsafe fn store(&self, block: &Block) {
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
    unsafe fn finish(&self, block: &Block, rows: Range<usize>) {
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

    /// Adds up the slots of a chunk: the sums stay in the registers. Meanwhile those that are there are stored and finished.
    ///
    /// # Safety
    /// As for [`Task::run`]; there is room for the sums.
    #[inline(always)]
    unsafe fn tiles<const OF_BYTES: bool, const R: usize, const C: usize>(
        &self,
        slots: &Range<usize>,
        left: *const u8,
        start: Right,
        block: &Block,
        before: &Option<Block>,
    ) {
        let slot = self.plan.slot();
        let sums = self.sums(block.pair, block.number);
        let from = (slots.start > 0).then_some(sums.cast_const());
        let mut rows = before.map_or(0..0, |before| self.rows(before.pair));
        // A gate takes long: a few rows of it come after some of the products, and then again.
        let long = before.is_some_and(|before| before.ends) && self.product.finish.gate.is_some();
        let together = match long {
            true => (slots.len() * self.plan.slide.taps / (PAIR / LONG_ROWS + 1)).max(1),
            false => usize::MAX,
        };
        // Where the sums of before go when the registers are needed.
        let mut waiting = match before {
            Some(before) if R * C == 4 && before.two == [true, true] && !slots.is_empty() => {
                Some(self.sums(before.pair, before.number))
            }
            _ => None,
        };
        // SAFETY: the caller's promise.
        unsafe {
            if waiting.is_none() {
                if let Some(before) = before {
                    self.store(before);
                }
                match from {
                    None => unit::clear::<R, C>(&self.unit),
                    Some(from) => unit::load::<R, C>(&self.unit, from, PAIR),
                }
            }
        }
        let mut next = self.sums(block.pair, block.number + 1).cast_const();
        let mut remaining = slots.len() * self.plan.slide.taps;
        let fetching = if self.kept { FETCHING } else { 0 };
        let mut multiply = |count: usize, a: *const u8, b: Right| {
            let mut first = 0;
            while first < count {
                let a = At { from: a.wrapping_add(first * slot), stride: slot };
                let b = b.later(first);
                // SAFETY: the caller's promise.
                unsafe {
                    if let Some(to) = waiting.take() {
                        unit::exchange::<OF_BYTES>(&self.unit, a, b, to, from, PAIR);
                        first += 1;
                        remaining -= 1;
                        continue;
                    }
                    let mut part = together.min(count - first);
                    if remaining > fetching {
                        part = part.min(remaining - fetching);
                        unit::multiply_passing::<OF_BYTES, R, C>(&self.unit, part, a, b, Fetched::Nothing);
                    } else {
                        unit::multiply_passing::<OF_BYTES, R, C>(&self.unit, part, a, b, Fetched::Sums(next));
                        next = next.wrapping_add(part * FETCHED_SUMS);
                    }
                    remaining -= part;
                    if let (true, Some(before)) = (long, before) {
                        let some = rows.start..rows.end.min(rows.start + LONG_ROWS);
                        rows.start = some.end;
                        self.finish(before, some);
                    }
                    first += part;
                }
            }
        };
        // SAFETY: the caller's promise.
        unsafe {
            for [line, first, count] in self.plan.lines(slots.clone()) {
                let left = left.wrapping_add((line * self.plan.units + first - slots.start) * slot);
                for offset in 0..self.plan.slide.taps {
                    let a = left.wrapping_add(offset * ROW);
                    let b = self.slot(start, line, offset, first);
                    let whole = count.min((self.product.steps / SIDE).saturating_sub(first));
                    multiply(whole, a, b);
                    if whole < count {
                        multiply(1, a.wrapping_add(whole * slot), self.tails.at(block.number, line));
                    }
                }
            }
            if let Some(before) = before {
                self.finish(before, rows);
            }
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
