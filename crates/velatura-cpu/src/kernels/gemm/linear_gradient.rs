//! The gradient of a linear layer's weight: a reduction over rows.
//!
//! `dW[o][i] = sum over rows of dy[row][o] * x[row][i]`. A task takes some rows, and some columns of either operand;
//! it copies them, a few rows at a time, into panels that stay in its caches, and adds up their products. What tasks
//! found over different rows is added up last, in order. All of this depends on the shapes alone.

use super::error::{GemmError, check_len};
use super::linear::kernels_for;
use super::pack::{Block, Layout, Number, pack_pairs, pack_singles};
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
/// The most outputs and inputs of a task, whole panels of either.
const OUTPUTS: usize = 5 * LEFT;
const INPUTS: usize = 256;
/// Columns of a panel of the left operand: whole tiles, and whole vectors of every instruction set.
pub(super) const LEFT: usize = 8 * ROWS;
/// Tasks that keep a few threads evenly busy.
const ENOUGH_TASKS: usize = 16;

/// How the work is divided.
struct Plan {
    kernels: &'static Kernels,
    rows: usize,
    inputs: usize,
    outputs: usize,
    /// Outputs and inputs of a task.
    outputs_of_task: usize,
    inputs_of_task: usize,
    /// Steps of all rows, of one part of them, and of the panels made at a time.
    steps: usize,
    part: usize,
    block: usize,
    parts: usize,
}

impl Plan {
    fn new(kernels: &'static Kernels, [rows, inputs, outputs]: [usize; 3]) -> Self {
        let steps = rows.div_ceil(kernels.depth());
        // Whole panels, in blocks of about the same size.
        let even = |columns: usize, most: usize, panel: usize| {
            columns.div_ceil(panel).div_ceil(columns.div_ceil(most).max(1)).max(1) * panel
        };
        let outputs_of_task = even(outputs, OUTPUTS, LEFT);
        let inputs_of_task = even(inputs, INPUTS, kernels.panel);
        let blocks = outputs.div_ceil(outputs_of_task) * inputs.div_ceil(inputs_of_task);
        let parts = ENOUGH_TASKS.div_ceil(blocks.max(1)).min(steps.div_ceil(PART)).max(1);
        let part = steps.div_ceil(parts).max(1);
        let width = outputs.min(outputs_of_task) + inputs.min(inputs_of_task);
        let block = (PANELS / STEP / width.max(1)).clamp(8, part.max(8));
        let parts = steps.div_ceil(part).max(1);
        Plan { kernels, rows, inputs, outputs, outputs_of_task, inputs_of_task, steps, part, block, parts }
    }

    /// Columns of the sums: whole vectors.
    fn stride(&self) -> usize {
        self.inputs.next_multiple_of(self.kernels.lanes)
    }

    /// Whether the sums are the result as they are.
    fn is_direct(&self) -> bool {
        self.parts == 1 && self.stride() == self.inputs
    }

    fn bytes(&self) -> usize {
        if self.is_direct() { 0 } else { self.parts * self.outputs * self.stride() * size_of::<f32>() }
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
    scratch::total(&[Plan::new(kernels_for(isa, storage), [m, inputs, outputs]).bytes()])
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
    let plan = Plan::new(kernels_for(isa, x.dtype()), [m, inputs, outputs]);
    let [memory] = scratch::cut(operation, scratch, [plan.bytes()])?;
    if m == 0 || out.is_empty() {
        out.fill(0.0);
        return Ok(());
    }
    // SAFETY: the memory was cut for it, aligned to 64, and is exclusively ours.
    let partial =
        unsafe { std::slice::from_raw_parts_mut(memory.cast::<f32>(), plan.bytes() / size_of::<f32>()) };
    let sums = Sums(if plan.is_direct() { out.as_mut_ptr() } else { partial.as_mut_ptr() });
    match (x, dy) {
        (Data::F32(x), Data::F32(dy)) => multiply(pool, &plan, x, dy, sums),
        (Data::Bf16(x), Data::Bf16(dy)) => multiply(pool, &plan, x, dy, sums),
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

fn multiply<T: Number>(pool: &ThreadPool, plan: &Plan, x: &[T], dy: &[T], sums: Sums) {
    let sums = &sums;
    let (outputs, inputs) = (plan.outputs_of_task, plan.inputs_of_task);
    let columns = plan.inputs.div_ceil(inputs);
    let blocks = plan.outputs.div_ceil(outputs) * columns;
    pool.run(blocks * plan.parts, |index, _| {
        let (block, part) = (index % blocks, index / blocks);
        let (output, input) = (block / columns * outputs, block % columns * inputs);
        let task = Task {
            plan,
            left: Side {
                data: dy,
                first: output,
                count: outputs.min(plan.outputs - output),
                all: plan.outputs,
            },
            right: Side { data: x, first: input, count: inputs.min(plan.inputs - input), all: plan.inputs },
            steps: part * plan.part..plan.steps.min((part + 1) * plan.part),
            sums: sums.0.wrapping_add((part * plan.outputs + output) * plan.stride() + input),
        };
        task.run();
    });
}

/// Some columns of an operand `[rows, all]`.
struct Side<'a, T> {
    data: &'a [T],
    first: usize,
    count: usize,
    all: usize,
}

impl<T: Number> Side<'_, T> {
    /// Brings some steps into the second-level cache: each of their rows lies far from the last, where the processor does not
    /// look for it by itself.
    fn fetch(&self, plan: &Plan, steps: &Range<usize>) {
        let depth = plan.kernels.depth();
        for row in steps.start * depth..(steps.end * depth).min(plan.rows) {
            let from = self.data.as_ptr().wrapping_add(row * self.all + self.first).cast::<u8>();
            for at in (0..self.count * size_of::<T>()).step_by(LINE) {
                fetch_far(from.wrapping_add(at));
            }
        }
    }

    /// Copies some steps into panels.
    fn pack(&self, plan: &Plan, layout: &Layout, steps: &Range<usize>, cells: &mut [u32]) {
        let depth = plan.kernels.depth();
        let (first, end) = (steps.start * depth, (steps.end * depth).min(plan.rows));
        for p in 0..layout.panels() {
            let width = layout.width(p);
            let cells = &mut cells[layout.start(p)..][..steps.len() * width];
            let block = Block {
                depth: end - first,
                depth_stride: self.all,
                columns: layout.valid(p),
                column_stride: 1,
                width,
            };
            let data = &self.data[first * self.all + self.first + p * layout.panel..];
            match plan.kernels.pairs() {
                true => pack_pairs(plan.kernels.isa, data, block, cells),
                false => pack_singles(plan.kernels.isa, data, block, cells),
            }
        }
    }
}

struct Task<'a, T> {
    plan: &'a Plan,
    left: Side<'a, T>,
    right: Side<'a, T>,
    steps: Range<usize>,
    sums: *mut f32,
}

impl<T: Number> Task<'_, T> {
    fn run(&self) {
        let plan = self.plan;
        let layouts = |steps| {
            let left = Layout { columns: self.left.count, panel: LEFT, granule: plan.kernels.lanes, steps };
            (left, Layout::right(plan.kernels, self.right.count, steps))
        };
        let (left, right) = layouts(plan.block);
        with_scratch(left.cells() + right.cells(), |cells: &mut [u32]| {
            let (left_cells, right_cells) = cells.split_at_mut(left.cells());
            for first in self.steps.clone().step_by(plan.block) {
                let steps = first..self.steps.end.min(first + plan.block);
                let (left, right) = layouts(steps.len());
                self.left.pack(plan, &left, &steps, left_cells);
                self.right.pack(plan, &right, &steps, right_cells);
                let next = steps.end..self.steps.end.min(steps.end + plan.block);
                self.add([&left, &right], [left_cells, right_cells], first > self.steps.start, next);
            }
        });
    }

    /// Adds the products of what was packed; `carry` on from what is there. Meanwhile the `next` steps are fetched.
    fn add(
        &self,
        [left, right]: [&Layout; 2],
        [left_cells, right_cells]: [&[u32]; 2],
        carry: bool,
        next: Range<usize>,
    ) {
        let plan = self.plan;
        let tiles = right.panels() * left.columns.div_ceil(ROWS);
        let share = next.len().div_ceil(tiles);
        let sums = |row: usize, p: usize| self.sums.wrapping_add(row * plan.stride() + p * right.panel);
        for p in 0..right.panels() {
            let width = right.width(p);
            for first in (0..left.columns).step_by(ROWS) {
                let panel = first / LEFT;
                let start = left_cells[left.start(panel) + first % LEFT..].as_ptr();
                let rows: [*const u8; ROWS] = std::array::from_fn(|r| start.wrapping_add(r).cast());
                let tile = p * left.columns.div_ceil(ROWS) + first / ROWS;
                let fetched = (next.start + tile * share).min(next.end);
                let fetched = fetched..next.end.min(fetched + share);
                self.left.fetch(plan, &fetched);
                self.right.fetch(plan, &fetched);
                if !carry {
                    // Where the next tile's sums go, which nothing has touched yet.
                    for row in first + ROWS..left.columns.min(first + 2 * ROWS) {
                        fetch(sums(row, p).cast(), width * STEP);
                    }
                }
                let tile = Tile {
                    rows: &rows,
                    segments: 1,
                    steps: left.steps,
                    offset: 0,
                    row_step: left.width(panel) * STEP,
                    panel: right_cells[right.start(p)..].as_ptr().cast(),
                    panel_step: width * STEP,
                    panel_segment: 0,
                    panel_offsets: std::ptr::null(),
                    carry,
                    sums: sums(first, p),
                    sums_stride: plan.stride(),
                    adds: [Add::NONE; 2],
                    kept: true,
                    next: [Lines::NONE; 2],
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
