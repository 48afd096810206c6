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
//! Numbers [in thirds](super::thirds) load less for each product. There all rows of a task are copied for a chunk, and meet one strip
//! before the next: both come from the second-level cache.
//!
//! Rows that lie [in tiles](crate::kernels::Order::Tiles) are not copied, but taken from where they are. Copied rows also are the end
//! of all questions: where they come from (pixels of a convolution), how they are aligned, and whether the depth is a multiple of
//! what a tile holds (there are zeros behind it).

mod block;
mod left;
mod plan;
mod strip;
mod tail;
mod task;
pub(super) mod weight_gradient;

use std::ops::Range;

use super::driver::{Product, RowBlock, Slide};
use super::tile::{BYTES, PAIRS, ROWS, STEP, Steps, THIRDS};
use crate::ThreadPool;
use crate::kernels::LINE;
use crate::kernels::amx::{SIDE, Unit};
use crate::kernels::elementwise::dispatch::with_scratch;
use plan::Plan;
use strip::Strips;
use tail::Tails;
use task::Task;

/// Rows of two tiles, and columns of a strip.
pub(super) const PAIR: usize = 2 * SIDE;
const _: () = assert!(PAIR == Slide::ROWS);
/// Elements of the sums of a pair of tiles of rows and a strip.
const SUMS: usize = PAIR * PAIR;
/// Bytes of 16 steps of a strip, and of a pair of tiles of rows.
const UNIT: usize = SIDE * PAIR * STEP;

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
        match product.tiles {
            None if plan.strips_first => rows.div_ceil(PAIR) * plan.chunk * plan.slot(),
            None => plan.chunk * plan.slot(),
            Some(_) => 0,
        },
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
                Steps::Bytes => task.run::<BYTES>(),
                Steps::Thirds => task.run::<THIRDS>(),
                Steps::Single | Steps::Pairs => task.run::<PAIRS>(),
            }
        }
    });
}
