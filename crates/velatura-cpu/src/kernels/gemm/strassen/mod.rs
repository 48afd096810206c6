//! Linear layers with seven products for eight: one level of Strassen's algorithm (Strassen 1969, "Gaussian elimination is
//! not optimal").
//!
//! ```text
//! C11 C12     A11 A12   B11 B12      A1., C1. even rows, A2., C2. odd ones; A.1, B1. the first half of the depth, A.2, B2. the
//! C21 C22  =  A21 A22 . B21 B22      second; B.1, C.1 even panels of columns, B.2, C.2 odd ones
//! ```
//!
//! Neighbouring rows make a pair, so that what a row becomes does not depend on how many there are. Sums of the weight's
//! quadrants are made first, into memory; then a task makes those of its rows in its caches, and for each pair of panels the
//! seven products, which are added up in its second-level cache before the epilogue meets them. Sums of brain floating-point numbers are rounded to such.

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
use velatura_graph::DType;

/// Tiles of pairs of rows of a task.
const TASK_TILES: usize = 8;
/// Columns whose products are made at a time: a left operand is read once for them.
const GROUP_COLUMNS: usize = 64;
/// Tasks of each thread that keep all of them evenly busy.
const ENOUGH_TASKS: usize = 8;
/// The least pairs of panels of a task that repay the sums of its rows.
const LEAST_PAIRS: usize = 4;

/// Whether a linear layer of `tokens` rows for each image is faster so: enough rows to repay the sums of the weight, and a depth
/// that repays adding up the products. `computed` is the type of the products ([`compute_dtype`](super::compute_dtype)); the
/// rounded sums of brain floating-point numbers have to gain more.
pub fn strassen_pays(tokens: usize, inputs: usize, outputs: usize, computed: DType) -> bool {
    // Pairs of rows must not reach from one image into the next.
    let pairs = tokens.is_multiple_of(2) && inputs.is_multiple_of(4);
    let (least, wide) = match computed {
        DType::Bf16 => (1024 * 1024, outputs >= 640),
        _ => (256 * 1024, inputs.max(outputs) >= 640),
    };
    pairs && wide && inputs >= 320 && tokens * inputs >= least
}

/// From one operand to the next, for operands of `bytes` bytes that are written and read side by side: not a multiple of 4096,
/// where all of them would meet in the same lines of the first-level cache.
fn apart(bytes: usize) -> usize {
    bytes.next_multiple_of(8 * LINE) + LINE
}

/// How a product is divided.
#[derive(Clone, Copy)]
struct Plan {
    kernels: &'static Kernels,
    layout: Layout,
    /// Pairs of rows.
    rows: usize,
    /// Steps of half the depth.
    steps: usize,
    /// Pairs of panels.
    panels: usize,
}

impl Plan {
    /// `None` where the rows or the depth cannot be halved, or all columns fit one panel.
    fn new(kernels: &'static Kernels, [m, depth, columns]: [usize; 3]) -> Option<Plan> {
        let steps = depth.div_ceil(kernels.depth());
        let layout = Layout::right(kernels, columns, steps);
        let panels = columns / kernels.panel / 2;
        let halved = m.is_multiple_of(2) && steps.is_multiple_of(2) && panels > 0;
        halved.then_some(Plan { kernels, layout, rows: m / 2, steps: steps / 2, panels })
    }

    /// Bytes of a panel of a quadrant of the weight.
    fn panel_bytes(&self) -> usize {
        self.steps * self.kernels.panel * STEP
    }

    /// Bytes of a row of a quadrant of the input.
    fn row_bytes(&self) -> usize {
        self.steps * STEP
    }

    /// Columns that are left for the direct product.
    fn rest(&self) -> usize {
        self.layout.columns - 2 * self.panels * self.kernels.panel
    }
}

/// Bytes of memory for the sums of a weight's quadrants: `[m, depth]` by `[depth, columns]`.
pub(super) fn scratch_bytes(kernels: &'static Kernels, sizes: [usize; 3]) -> usize {
    Plan::new(kernels, sizes).map_or(0, |plan| Right::bytes(&plan))
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
    sums: *mut u8,
) {
    let Some(plan) = Plan::new(weight.kernels, [m, weight.depth, weight.columns]) else {
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
                panels: right.panels.wrapping_add(plan.layout.start(2 * plan.panels) * STEP),
                ..linear::whole(weight, m, None, finish)
            };
            driver::run(pool, &product, 0, |block| linear::fill(x, 0, block));
        }
    }
}

/// Makes all pairs of panels.
///
/// # Safety
/// As for [`product`]; the sums of the weight are made.
unsafe fn run(pool: &ThreadPool, right: &Right, x: Rows, finish: &Finish) {
    let plan = &right.plan;
    let tiles = plan.rows.div_ceil(ROWS);
    let threads = pool.threads();
    // Of few blocks every thread gets as many.
    let blocks = tiles.div_ceil(TASK_TILES);
    let blocks = if blocks < ENOUGH_TASKS * threads { blocks.next_multiple_of(threads) } else { blocks };
    let together = (GROUP_COLUMNS / plan.kernels.panel).max(1);
    let most_parts = (plan.panels / (LEAST_PAIRS * together)).max(1);
    let part = plan.panels.div_ceil((ENOUGH_TASKS * threads).div_ceil(blocks).min(most_parts));
    let parts = plan.panels.div_ceil(part);
    pool.run(blocks * parts, |index, _| {
        let (block, panel) = (index / parts, index % parts * part);
        // Of the same size, but for a tile.
        let [first, end] = [block, block + 1].map(|block| plan.rows.min(tiles * block / blocks * ROWS));
        let (rows, panels) = (first..end, panel..plan.panels.min(panel + part));
        if rows.is_empty() {
            return;
        }
        // SAFETY: the caller's promise; tasks have rows or columns of their own.
        unsafe { task::task(right, x, finish, rows, panels, together) };
    });
}
