//! Linear layers with seven products for eight by Strassen's algorithm (Strassen 1969, "Gaussian elimination is not optimal"), or
//! with 49 for 64, where each of the seven is divided once more.
//!
//! ```text
//! C11 C12     A11 A12   B11 B12      A1., C1. even rows, A2., C2. odd ones; A.1, B1. the first half of the depth, A.2, B2. the
//! C21 C22  =  A21 A22 . B21 B22      second; B.1, C.1 even panels of columns, B.2, C.2 odd ones
//! ```
//!
//! Neighbouring rows make a pair, so that what a row becomes does not depend on how many there are; of two levels four rows make a
//! group, the first level pairing halves of it. Sums of the weight's quadrants are made first, into memory; then a task makes those
//! of its rows in its caches, and for each group of panels the products, which are added up there before the epilogue meets them.
//! Sums of brain floating-point numbers are rounded to such.

mod left;
mod right;
mod sums;
mod task;
mod terms;

use super::driver::{self, Product};
use super::finish::Finish;
use super::linear;
use super::pack::Layout;
use super::packed::PackedMatrix;
use super::prepare::Rows;
use super::tile::{Kernels, ROWS, STEP};
use crate::ThreadPool;
use crate::kernels::LINE;
use right::Right;
#[cfg(target_arch = "x86_64")]
pub(super) use sums::x86;
pub(super) use sums::{Operations, PORTABLE};
use terms::{QUADRANTS, STEPS, Step, WHOLE};
use velatura_graph::DType;

/// Tiles of groups of rows of a task, by levels: twice divided panels are read in half the time, so more rows have to share them.
const TASK_TILES: [usize; 2] = [8, 12];
/// Columns whose products are made at a time: a left operand is read once for them.
const GROUP_COLUMNS: usize = 64;
/// Tasks of each thread that keep all of them evenly busy.
const ENOUGH_TASKS: usize = 8;
/// The least groups of panels of a task that repay the sums of its rows.
const LEAST_GROUPS: usize = 4;

/// Elements of the largest weight that a few hundred rows repay: 32 MB.
const MOST_WEIGHTS: usize = 8 << 20;

/// The levels by which a linear layer of `tokens` rows for each image is faster, if by any: enough rows to repay the sums of the
/// weight, and a depth that repays adding up the products. `computed` is the type of the products
/// ([`compute_dtype`](super::compute_dtype)); the rounded sums of brain floating-point numbers have to gain more, and of two
/// levels round so much that only `rough` allows them.
pub fn strassen_pays(
    tokens: usize,
    inputs: usize,
    outputs: usize,
    computed: DType,
    rough: bool,
) -> Option<Levels> {
    // Groups of rows must not reach from one image into the next.
    let divides = |rows: usize, depth: usize| tokens.is_multiple_of(rows) && inputs.is_multiple_of(depth);
    let (least, wide) = match computed {
        DType::Bf16 => (1024 * 1024, outputs >= 640),
        _ => (256 * 1024, inputs.max(outputs) >= 640),
    };
    // For few rows the sums of a weight that has to come from memory cost what the products gain.
    let near = tokens >= 512 || inputs * outputs <= MOST_WEIGHTS;
    let once = divides(2, 4) && wide && near && inputs >= 320 && tokens * inputs >= least;
    let large = tokens >= 1024 && inputs.min(outputs) >= 1280;
    let twice = once && large && divides(4, 8) && rough && computed == DType::Bf16;
    if twice { Some(Levels::Two) } else { once.then_some(Levels::One) }
}

/// From one operand to the next, for operands of `bytes` bytes that are written and read side by side: not a multiple of 4096,
/// where all of them would meet in the same lines of the first-level cache.
fn apart(bytes: usize) -> usize {
    bytes.next_multiple_of(8 * LINE) + LINE
}

/// How often a product is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Levels {
    /// Seven products for eight.
    One,
    /// Each of the seven again: 49 products for 64.
    Two,
}

/// How a product is divided: into products of groups of rows and groups of panels, with half the depth, or a quarter.
#[derive(Clone, Copy)]
struct Plan {
    kernels: &'static Kernels,
    layout: Layout,
    levels: Levels,
    /// Groups of rows: pairs, or fours.
    rows: usize,
    /// Steps of a part of the depth.
    steps: usize,
    /// Groups of panels: pairs, or fours.
    groups: usize,
}

impl Plan {
    /// `None` where the rows or the depth cannot be divided, or all columns fit less than a group of panels; and where products run
    /// on AMX tiles, which are faster than its sums.
    fn new(kernels: &'static Kernels, [m, depth, columns]: [usize; 3], levels: Levels) -> Option<Plan> {
        let steps = depth.div_ceil(kernels.depth());
        let layout = Layout::right(kernels, columns, steps);
        let parts = if levels == Levels::Two { 4 } else { 2 };
        let groups = columns / kernels.panel / parts;
        let divides = !kernels.amx && m.is_multiple_of(parts) && steps.is_multiple_of(parts) && groups > 0;
        divides.then_some(Plan { kernels, layout, levels, rows: m / parts, steps: steps / parts, groups })
    }

    fn twice(&self) -> bool {
        self.levels == Levels::Two
    }

    /// The products of the first of two levels.
    fn outer_steps(&self) -> &'static [Step] {
        if self.twice() { &STEPS } else { &WHOLE }
    }

    /// Into how many parts the first of two levels divides rows, depth and columns.
    fn sides(&self) -> usize {
        if self.twice() { 2 } else { 1 }
    }

    /// Rows, and panels, of a group.
    fn group_rows(&self) -> usize {
        2 * self.sides()
    }

    /// Blocks of sums of a group of rows by a group of panels, with those of a product that begins no quadrant.
    fn blocks(&self) -> usize {
        if self.twice() { 5 * QUADRANTS } else { QUADRANTS }
    }

    /// Bytes of a panel of an operand.
    fn panel_bytes(&self) -> usize {
        self.steps * self.kernels.panel * STEP
    }

    /// Bytes of a row of an operand.
    fn row_bytes(&self) -> usize {
        self.steps * STEP
    }

    /// Panels in groups.
    fn panels(&self) -> usize {
        self.groups * self.group_rows()
    }

    /// Columns that are left for the direct product.
    fn rest(&self) -> usize {
        self.layout.columns - self.panels() * self.kernels.panel
    }
}

/// Bytes of memory for the sums of a weight's quadrants: `[m, depth]` by `[depth, columns]`.
pub(super) fn scratch_bytes(kernels: &'static Kernels, sizes: [usize; 3], levels: Levels) -> usize {
    Plan::new(kernels, sizes, levels).map_or(0, |plan| Right::bytes(&plan))
}

/// The product of rows and the only part of a weight with one tap.
///
/// # Safety
/// `x` has `m` rows of the weight's depth; `finish` was bound for `m` rows; `sums` has room for [`scratch_bytes`].
pub(super) unsafe fn product(
    pool: &ThreadPool,
    weight: &PackedMatrix,
    x: Rows,
    m: usize,
    finish: &Finish,
    levels: Levels,
    sums: *mut u8,
) {
    let Some(plan) = Plan::new(weight.kernels, [m, weight.depth, weight.columns], levels) else {
        // SAFETY: the caller's promise.
        return unsafe { linear::product(pool, weight, x, m, None, finish) };
    };
    let right = Right { plan, panels: weight.panels(0), sums };
    // SAFETY: the caller's promise; what is left over is the end of the weight's panels.
    unsafe {
        right.add_up(pool);
        run(pool, &right, x, finish);
        if plan.rest() > 0 {
            let product = Product {
                columns: plan.rest(),
                first_column: weight.columns - plan.rest(),
                panels: right.panels.wrapping_add(plan.layout.start(plan.panels()) * STEP),
                ..linear::whole(weight, m, None, finish)
            };
            driver::run(pool, &product, 0, |block| linear::fill(x, 0, block));
        }
    }
}

/// Makes all groups of panels.
///
/// # Safety
/// As for [`product`]; the sums of the weight are made.
unsafe fn run(pool: &ThreadPool, right: &Right, x: Rows, finish: &Finish) {
    let plan = &right.plan;
    let tiles = plan.rows.div_ceil(ROWS);
    let threads = pool.threads();
    // Where there are few blocks, as many for each thread.
    let blocks = tiles.div_ceil(TASK_TILES[plan.levels as usize]);
    let blocks = if blocks < ENOUGH_TASKS * threads { blocks.next_multiple_of(threads) } else { blocks };
    let together = (GROUP_COLUMNS / plan.kernels.panel).max(1);
    let most_parts = (plan.groups / (LEAST_GROUPS * together)).max(1);
    let part = plan.groups.div_ceil((ENOUGH_TASKS * threads).div_ceil(blocks).min(most_parts));
    let parts = plan.groups.div_ceil(part);
    pool.run(blocks * parts, |index, _| {
        let (block, panel) = (index / parts, index % parts * part);
        let [row, end] = [block, block + 1].map(|block| plan.rows.min(tiles * block / blocks * ROWS));
        let panels = panel..plan.groups.min(panel + part);
        if row < end {
            // SAFETY: the caller's promise; tasks have rows or columns of their own.
            unsafe { task::task(right, x, finish, row..end, panels, together) };
        }
    });
}
