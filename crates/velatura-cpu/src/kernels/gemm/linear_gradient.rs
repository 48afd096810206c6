//! The gradient of a linear layer's weight: a reduction over rows.
//!
//! `dW[o][i] = sum over rows of dy[row][o] * x[row][i]`. The operand with fewer columns is copied into panels first, once for
//! all. A task then takes some rows and some columns of the other; it copies them, a few rows at a time, into panels that stay
//! in its caches, and adds up their products with all of the first. What tasks found over different rows is added up last, in
//! order. All of this depends on the shapes alone. On AMX tiles it is a convolution's: see `amx::weight_gradient`.

#[cfg(target_arch = "x86_64")]
use super::amx::weight_gradient::WeightGradient;
use super::error::{GemmError, check_len};
use super::linear::kernels_for;
use super::pack::{Block, Cells, Layout, Number, pack_pairs, pack_singles};
use super::scratch;
use super::tile::{Add, Kernels, Lines, ROWS, STEP, Tile};
use crate::kernels::elementwise::dispatch::{Shared, for_chunks, simd, with_scratch};
use crate::kernels::{LINE, fetch, fetch_far};
use crate::{Data, Isa, ThreadPool};
use std::ops::Range;
use velatura_graph::DType;

/// Bytes of panels that are made at a time: well inside the second-level cache, where the sums are too. Tests take
/// less of everything, so that small shapes are divided too.
pub(super) const PANELS: usize = if cfg!(test) { 2 << 10 } else { 192 << 10 };
/// Steps that are worth a task of their own.
const PART: usize = if cfg!(test) { 4 } else { 128 };
/// Sums of a task that stay in the second-level cache while more is added to them.
const SUMS: usize = if cfg!(test) { 1 << 10 } else { 96 << 10 };
/// The fewest and the most columns of a task; in between as many as those sums allow.
const OWN: [usize; 2] = if cfg!(test) { [LEFT, 64] } else { [128, 256] };
/// Columns of a panel of the left operand: whole tiles, and whole vectors of every instruction set.
pub(super) const LEFT: usize = 8 * ROWS;
/// Tasks that keep a few threads evenly busy.
const ENOUGH_TASKS: usize = 16;

/// How the work is divided.
struct Plan {
    kernels: &'static Kernels,
    rows: usize,
    /// Columns of the left operand, `dy`, and of the right one, `x`.
    outputs: usize,
    inputs: usize,
    /// Columns of a task, of the operand that has more.
    own: usize,
    /// Steps of all rows, of one part of them, and of the panels made at a time.
    steps: usize,
    part: usize,
    block: usize,
    parts: usize,
}

impl Plan {
    fn new(kernels: &'static Kernels, [rows, inputs, outputs]: [usize; 3]) -> Self {
        let steps = rows.div_ceil(kernels.depth());
        let (columns, panel) = if outputs >= inputs { (outputs, LEFT) } else { (inputs, kernels.panel) };
        let shared = outputs.min(inputs);
        // Whole panels, as many for each task.
        let most = ((SUMS / shared.max(1)).clamp(OWN[0], OWN[1]) / panel).max(1);
        let panels = columns.div_ceil(panel);
        let own = panels.div_ceil(panels.div_ceil(most).max(1)).max(1) * panel;
        let tasks = columns.div_ceil(own);
        let parts = ENOUGH_TASKS.div_ceil(tasks.max(1)).min(steps.div_ceil(PART)).max(1);
        let part = steps.div_ceil(parts).max(1);
        let parts = steps.div_ceil(part).max(1);
        let block = (PANELS / STEP / (own + LEFT)).clamp(8, part.max(8));
        Plan { kernels, rows, inputs, outputs, own, steps, part, block, parts }
    }

    /// Whether tasks divide the left operand, and share the right one.
    fn divides_left(&self) -> bool {
        self.outputs >= self.inputs
    }

    /// The panels of some steps of the left operand.
    fn left(&self, columns: usize, steps: usize) -> Layout {
        Layout { columns, panel: LEFT, granule: self.kernels.lanes, steps }
    }

    /// Those of the operand that tasks share.
    fn shared(&self, steps: usize) -> Layout {
        match self.divides_left() {
            true => Layout::right(self.kernels, self.inputs, steps),
            false => self.left(self.outputs, steps),
        }
    }

    /// Those of `columns` columns of the other.
    fn own(&self, columns: usize, steps: usize) -> Layout {
        match self.divides_left() {
            true => self.left(columns, steps),
            false => Layout::right(self.kernels, columns, steps),
        }
    }

    /// Columns of the operand that tasks divide.
    fn divided(&self) -> usize {
        self.outputs.max(self.inputs)
    }

    /// Columns of the sums: whole vectors.
    fn stride(&self) -> usize {
        self.inputs.next_multiple_of(self.kernels.lanes)
    }

    /// Whether the sums are the result as they are.
    fn is_direct(&self) -> bool {
        self.parts == 1 && self.stride() == self.inputs
    }

    /// Bytes of the sums, where they are not the result, and of the panels that tasks share.
    fn bytes(&self) -> [usize; 2] {
        let sums =
            if self.is_direct() { 0 } else { self.parts * self.outputs * self.stride() * size_of::<f32>() };
        [sums, self.shared(self.steps).bytes()]
    }
}

/// Bytes of scratch memory that [`linear_weight_gradient`] needs.
pub fn linear_weight_gradient_scratch_bytes(
    isa: Isa,
    storage: DType,
    m: usize,
    inputs: usize,
    outputs: usize,
) -> usize {
    let kernels = kernels_for(isa, storage);
    #[cfg(target_arch = "x86_64")]
    if kernels.amx {
        return scratch::total(&WeightGradient::linear(kernels, [m, inputs, outputs]).bytes());
    }
    scratch::total(&Plan::new(kernels, [m, inputs, outputs]).bytes())
}

/// The gradient of a linear layer's weight: x `[m, in]` and dy `[m, out]`, stored alike, to `[out, in]`.
///
/// # Errors
/// Operands that do not fit together.
pub fn linear_weight_gradient(
    pool: &ThreadPool,
    isa: Isa,
    x: Data<'_>,
    dy: Data<'_>,
    [m, inputs, outputs]: [usize; 3],
    out: &mut [f32],
    scratch: &mut [u8],
) -> Result<(), GemmError> {
    let operation = "linear_weight_gradient";
    check_len(operation, "the input", m * inputs, x.len())?;
    check_len(operation, "the gradient", m * outputs, dy.len())?;
    check_len(operation, "the output", outputs * inputs, out.len())?;
    let kernels = kernels_for(isa, x.dtype());
    if m == 0 || out.is_empty() {
        out.fill(0.0);
        return Ok(());
    }
    #[cfg(target_arch = "x86_64")]
    if kernels.amx {
        let gradient = WeightGradient::linear(kernels, [m, inputs, outputs]);
        let memory = scratch::cut(operation, scratch, gradient.bytes())?;
        return match (x, dy) {
            // SAFETY: lengths were checked, and the scratch memory was cut for it.
            (Data::Bf16(x), Data::Bf16(dy)) => unsafe { gradient.run(pool, operation, x, dy, out, memory) },
            (x, dy) => Err(GemmError::mixed(operation, x.dtype(), dy.dtype())),
        };
    }
    let plan = Plan::new(kernels, [m, inputs, outputs]);
    let [memory, shared] = scratch::cut(operation, scratch, plan.bytes())?;
    // SAFETY: the memory was cut for it, aligned to 64, and is exclusively ours.
    let partial =
        unsafe { std::slice::from_raw_parts_mut(memory.cast::<f32>(), plan.bytes()[0] / size_of::<f32>()) };
    let shared = Cells(shared.cast());
    let sums = Sums(if plan.is_direct() { out.as_mut_ptr() } else { partial.as_mut_ptr() });
    match (x, dy) {
        (Data::F32(x), Data::F32(dy)) => multiply(pool, &plan, x, dy, shared, sums),
        (Data::Bf16(x), Data::Bf16(dy)) => multiply(pool, &plan, x, dy, shared, sums),
        (x, dy) => return Err(GemmError::mixed(operation, x.dtype(), dy.dtype())),
    }
    if !plan.is_direct() {
        add_parts(pool, isa, [outputs, inputs, plan.stride()], partial, out);
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Sums(*mut f32);

// SAFETY: tasks write disjoint elements.
unsafe impl Sync for Sums {}

fn multiply<T: Number>(pool: &ThreadPool, plan: &Plan, x: &[T], dy: &[T], shared: Cells, sums: Sums) {
    let (sums, shared) = (&sums, &shared);
    let [(divided, of_divided), (other, of_other)] = match plan.divides_left() {
        true => [(dy, plan.outputs), (x, plan.inputs)],
        false => [(x, plan.inputs), (dy, plan.outputs)],
    };
    let other = Side { data: other, first: 0, all: of_other };
    let panels = plan.shared(1).panels();
    // Blocks as tasks will take them.
    let blocks_of_part = plan.part.div_ceil(plan.block);
    pool.run(plan.parts * blocks_of_part * panels, |index, _| {
        let (p, block) = (index % panels, index / panels);
        let (part, block) = (block / blocks_of_part, block % blocks_of_part);
        let end = plan.steps.min((part + 1) * plan.part);
        let first = part * plan.part + block * plan.block;
        if first < end {
            let steps = first..end.min(first + plan.block);
            let layout = plan.shared(steps.len());
            let at = plan.shared(first).cells() + layout.start(p);
            let count = steps.len() * layout.width(p);
            // SAFETY: the memory was cut for all steps; panels of a block are disjoint.
            let cells = unsafe { std::slice::from_raw_parts_mut(shared.at(at), count) };
            other.pack_panel(plan, &layout, p, &steps, cells);
        }
    });
    let tasks = plan.divided().div_ceil(plan.own);
    pool.run(tasks * plan.parts, |index, _| {
        let (first, part) = (index % tasks * plan.own, index / tasks);
        let place = if plan.divides_left() { first * plan.stride() } else { first };
        let task = Task {
            plan,
            own: Side { data: divided, first, all: of_divided },
            columns: plan.own.min(plan.divided() - first),
            shared: shared.0,
            steps: part * plan.part..plan.steps.min((part + 1) * plan.part),
            sums: sums.0.wrapping_add(part * plan.outputs * plan.stride() + place),
        };
        task.run();
    });
}

/// Columns of an operand `[rows, all]` from one on.
struct Side<'a, T> {
    data: &'a [T],
    first: usize,
    all: usize,
}

impl<T: Number> Side<'_, T> {
    /// Brings `columns` columns of some steps into the second-level cache: each of their rows lies far from the last, where the
    /// processor does not look for it by itself.
    fn fetch(&self, plan: &Plan, columns: usize, steps: &Range<usize>) {
        let depth = plan.kernels.depth();
        for row in steps.start * depth..(steps.end * depth).min(plan.rows) {
            let from = self.data.as_ptr().wrapping_add(row * self.all + self.first).cast::<u8>();
            for at in (0..columns * size_of::<T>()).step_by(LINE) {
                fetch_far(from.wrapping_add(at));
            }
        }
    }

    /// Copies some steps into a panel.
    fn pack_panel(&self, plan: &Plan, layout: &Layout, p: usize, steps: &Range<usize>, cells: &mut [u32]) {
        let depth = plan.kernels.depth();
        let (first, end) = (steps.start * depth, (steps.end * depth).min(plan.rows));
        let block = Block {
            depth: end - first,
            depth_stride: self.all,
            columns: layout.valid(p),
            column_stride: 1,
            width: layout.width(p),
        };
        let data = &self.data[first * self.all + self.first + p * layout.panel..];
        match plan.kernels.pairs() {
            true => pack_pairs(plan.kernels.isa, data, block, cells),
            false => pack_singles(plan.kernels.isa, data, block, cells),
        }
    }
}

struct Task<'a, T> {
    plan: &'a Plan,
    own: Side<'a, T>,
    columns: usize,
    shared: *const u32,
    steps: Range<usize>,
    sums: *mut f32,
}

impl<T: Number> Task<'_, T> {
    fn run(&self) {
        let plan = self.plan;
        with_scratch(plan.own(self.columns, plan.block).cells(), |cells: &mut [u32]| {
            for first in self.steps.clone().step_by(plan.block) {
                let steps = first..self.steps.end.min(first + plan.block);
                let layout = plan.own(self.columns, steps.len());
                for p in 0..layout.panels() {
                    let cells = &mut cells[layout.start(p)..][..steps.len() * layout.width(p)];
                    self.own.pack_panel(plan, &layout, p, &steps, cells);
                }
                let shared = self.shared.wrapping_add(plan.shared(first).cells());
                let (own, shared) = ((layout, cells.as_ptr()), (plan.shared(steps.len()), shared));
                let [left, right] = if plan.divides_left() { [own, shared] } else { [shared, own] };
                let next = steps.end..self.steps.end.min(steps.end + plan.block);
                self.add(left, right, first > self.steps.start, next);
            }
        });
    }

    /// Adds the products of what was packed; `carry` on from what is there. Meanwhile the `next` steps are fetched.
    fn add(
        &self,
        (left, left_cells): (Layout, *const u32),
        (right, right_cells): (Layout, *const u32),
        carry: bool,
        next: Range<usize>,
    ) {
        let plan = self.plan;
        let tiles = left.columns.div_ceil(ROWS);
        let share = next.len().div_ceil(right.panels() * tiles);
        let sums = |row: usize, p: usize| self.sums.wrapping_add(row * plan.stride() + p * right.panel);
        let panel_of = |layout: &Layout, cells: *const u32, p: usize| {
            let bytes = if p < layout.panels() { layout.steps * layout.width(p) * STEP } else { 0 };
            (cells.wrapping_add(layout.start(p)).cast::<u8>(), bytes)
        };
        for p in 0..right.panels() {
            let width = right.width(p);
            let next_panel = panel_of(&right, right_cells, p + 1);
            for (tile, first) in (0..left.columns).step_by(ROWS).enumerate() {
                let panel = first / LEFT;
                let start = left_cells.wrapping_add(left.start(panel) + first % LEFT);
                let rows: [*const u8; ROWS] = std::array::from_fn(|r| start.wrapping_add(r).cast());
                let fetched = (next.start + (p * tiles + tile) * share).min(next.end);
                self.own.fetch(plan, self.columns, &(fetched..next.end.min(fetched + share)));
                if !carry {
                    // Where the next tile's sums go, which nothing has touched yet.
                    for row in first + ROWS..left.columns.min(first + 2 * ROWS) {
                        fetch(sums(row, p).cast(), width * STEP);
                    }
                }
                // The next panel of the operand that is shared, and comes from further away.
                let lines = match plan.divides_left() {
                    true => Lines::part(next_panel.0, next_panel.1, tile, tiles),
                    false => {
                        let (from, bytes) = panel_of(&left, left_cells, panel + 1);
                        Lines::part(from, bytes, first % LEFT / ROWS, LEFT / ROWS)
                    }
                };
                let tile = Tile {
                    rows: &rows,
                    segments: 1,
                    steps: left.steps,
                    offset: 0,
                    row_step: left.width(panel) * STEP,
                    panel: right_cells.wrapping_add(right.start(p)).cast(),
                    panel_step: width * STEP,
                    panel_segment: 0,
                    panel_offsets: std::ptr::null(),
                    carry,
                    sums: sums(first, p),
                    sums_stride: plan.stride(),
                    adds: [Add::NONE; 2],
                    kept: true,
                    next: [lines, Lines::NONE],
                };
                // SAFETY: both panels have these steps, the sums have whole vectors, and this task alone writes these.
                unsafe { plan.kernels.run(ROWS.min(left.columns - first), width, &tile) };
            }
        }
    }
}

/// Adds up parts `[parts][rows][stride]` into `[rows][columns]`, in order.
pub(super) fn add_parts(
    pool: &ThreadPool,
    isa: Isa,
    [rows, columns, stride]: [usize; 3],
    parts: &[f32],
    out: &mut [f32],
) {
    let out = Shared::new(out);
    for_chunks(pool, rows, (PANELS / STEP / stride).max(1), |first, count| {
        // SAFETY: chunks are disjoint.
        let out = unsafe { out.slice(first * columns, count * columns) };
        for (part, from) in parts.chunks_exact(rows * stride).enumerate() {
            let from = &from[first * stride..][..count * stride];
            for (out, from) in out.chunks_exact_mut(columns).zip(from.chunks_exact(stride)) {
                match part {
                    0 => out.copy_from_slice(&from[..columns]),
                    _ => add(isa, from, out),
                }
            }
        }
    });
}

simd! {
    /// `total += x`
    fn add(x: &[f32], total: &mut [f32]) {
        for (t, x) in total.iter_mut().zip(x) {
            *t += x;
        }
    }
}
