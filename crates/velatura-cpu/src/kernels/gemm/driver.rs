//! The loops around the tile kernel: blocks of rows by groups of panels, in parallel.
//!
//! A task keeps its rows of A and one block of a panel of B in the second-level cache. Depth is cut into
//! blocks where a panel is too big for that; sums are then carried on in memory, which changes no bit of
//! the result. Nor does any other choice made here, since an element is always one chain of additions.

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::finish::{Finish, Sums};
use super::int8;
use super::pack::Layout;
use super::tile::{Add, Kernels, Lines, ROWS, STEP, Tile};
use crate::ThreadPool;
use crate::kernels::LINE;
use crate::kernels::elementwise::dispatch::with_scratch;

/// Bytes of a panel that are used at a time: less than half of the second-level cache, the rest is for A.
/// Tests take less, so that small shapes are divided too; it changes no bit.
pub(super) const PANEL_BLOCK: usize = if cfg!(test) { 2 << 10 } else { 448 << 10 };

/// Full tiles of one task.
const TASK_TILES: usize = 16;

/// Cycles of work that are worth a task: some thirty microseconds.
const TASK_CYCLES: usize = 100_000;

/// Tasks that keep a few threads evenly busy.
const ENOUGH_TASKS: usize = 16;

/// Many products of the same shape, `[rows, segments * steps] x [segments * steps, columns]`.
pub(super) struct Product<'a> {
    pub kernels: &'static Kernels,
    pub items: usize,
    /// Rows of each product.
    pub rows: usize,
    pub columns: usize,
    pub segments: usize,
    /// Steps of each segment.
    pub steps: usize,
    /// Bytes from step to step of a row.
    pub row_step: usize,
    /// Panels of the first product's B.
    pub panels: *const u8,
    /// Bytes to the panels of the next product: zero where they share one B.
    pub item_panels: usize,
    /// Columns of the output from one product to the next: groups of channels.
    pub item_columns: usize,
    /// The first column of the output.
    pub first_column: usize,
    /// Whether successive segments read a row's neighbours: see [`Slide`].
    pub slide: Option<Slide>,
    /// The rows of one product and segment, in [`Order::Tiles`](crate::kernels::Order::Tiles): on AMX tiles only. Pointers to rows are
    /// not wanted then.
    pub tiles: Option<*const u8>,
    /// For products of bytes.
    pub dequantize: Option<Dequantize<'a>>,
    pub finish: &'a Finish,
    /// Whether the output's rows are the columns of the product, in single precision with nothing added: on AMX tiles only.
    pub turned: bool,
}

impl<'a> Product<'a> {
    /// One product of rows whose steps lie together: `[rows, steps]` by the `columns` that `panels` begin.
    pub(super) fn new(
        kernels: &'static Kernels,
        [rows, steps, columns]: [usize; 3],
        panels: *const u8,
        finish: &'a Finish,
    ) -> Self {
        Product {
            kernels,
            items: 1,
            rows,
            columns,
            segments: 1,
            steps,
            row_step: STEP,
            panels,
            item_panels: 0,
            item_columns: 0,
            first_column: 0,
            slide: None,
            tiles: None,
            dequantize: None,
            finish,
            turned: false,
        }
    }
}

/// What is known of a convolution whose window slides pixel by pixel along lines of whole multiples of [`Slide::ROWS`] rows: of
/// each `taps` successive segments the second reads what the first does, one row later, and so on; or one row earlier.
#[derive(Clone, Copy)]
pub(super) struct Slide {
    pub taps: usize,
    pub backward: bool,
}

impl Slide {
    /// Rows of a pair of AMX tiles.
    pub(super) const ROWS: usize = 32;
}

/// What takes whole numbers back to what they stand for.
#[derive(Clone, Copy)]
pub(super) struct Dequantize<'a> {
    /// By column, counted over all products.
    pub columns: &'a int8::Columns,
    /// Scale of each row.
    pub rows: &'a [f32],
}

// SAFETY: the pointers are to operands that outlive the product; tasks write disjoint parts of the output.
unsafe impl Sync for Product<'_> {}

/// Rows of some tiles, to be filled in by the operation.
pub(super) struct RowBlock<'a> {
    /// The product.
    pub item: usize,
    /// The first row, a multiple of [`ROWS`].
    pub first: usize,
    /// For each tile, and in it for each segment, the pointers of its rows.
    pub pointers: &'a mut [[*const u8; ROWS]],
    /// For each row its row of the output, counted over all products.
    pub outputs: &'a mut [usize],
    /// Zeros: as many bytes as asked for.
    pub zeros: *const u8,
}

/// Full tiles of a task, and panels of a task.
fn plan(product: &Product<'_>, panels: usize) -> (usize, usize) {
    let tiles = product.rows.div_ceil(ROWS);
    let tile_cycles = 64 + product.segments * product.steps * ROWS * 4;
    let mut block = tiles.min(TASK_TILES);
    // Rows that only one segment reads come from far away for the first panel, so give them some more: as many as stay in
    // the second-level cache beside them.
    let panel = product.segments * product.steps * product.kernels.panel * STEP;
    let least = if product.segments > 1 { 1 } else { (PANEL_BLOCK / panel.max(1)).clamp(1, 8).min(panels) };
    let mut group = (TASK_CYCLES / (block * tile_cycles)).clamp(least, panels);
    loop {
        let tasks = product.items * tiles.div_ceil(block) * panels.div_ceil(group);
        let small = block * group * tile_cycles < TASK_CYCLES / 3;
        if tasks >= ENOUGH_TASKS || small || (block <= 2 && group == 1) {
            return (block, group);
        }
        if group > 1 {
            group = group.div_ceil(2);
        } else {
            block = block.div_ceil(2);
        }
    }
}

/// Computes the products. `fill` names the rows of a block; it may use `zeros` bytes of zeros.
///
/// # Safety
/// The pointers of the product and those that `fill` gives are valid for the extents of the shapes, and the
/// output's rows are disjoint.
pub(super) unsafe fn run(
    pool: &ThreadPool,
    product: &Product<'_>,
    zeros: usize,
    fill: impl Fn(&mut RowBlock<'_>) + Sync,
) {
    if product.items * product.rows * product.columns == 0 {
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if amx::takes(product) {
        // SAFETY: the caller's promise; the kernels were chosen for the processor.
        return unsafe { amx::run(pool, product, zeros, fill) };
    }
    debug_assert!(!product.turned, "only tiles turn their output");
    let layout = Layout::right(product.kernels, product.columns, product.segments * product.steps);
    let (block, group) = plan(product, layout.panels());
    let blocks = product.rows.div_ceil(ROWS).div_ceil(block);
    let groups = layout.panels().div_ceil(group);
    // Neighbouring tasks share the bigger operand, so that it comes from memory once.
    let share_panels = product.columns * product.segments > product.rows;
    pool.run(product.items * groups * blocks, |index, _| {
        let (index, item) = (index % (groups * blocks), index / (groups * blocks));
        let (at, panels) = if share_panels {
            (index % blocks, index / blocks * group)
        } else {
            (index / groups, index % groups * group)
        };
        let first = at * block * ROWS;
        let rows = (block * ROWS).min(product.rows - first);
        let panels = panels..layout.panels().min(panels + group);
        // SAFETY: the caller's promise; the task's rows and panels are inside the shapes.
        unsafe { task(product, &layout, item, first, rows, panels, zeros, &fill) };
    });
}

#[allow(clippy::too_many_arguments)]
unsafe fn task(
    product: &Product<'_>,
    layout: &Layout,
    item: usize,
    first: usize,
    rows: usize,
    panels: std::ops::Range<usize>,
    zeros: usize,
    fill: &(impl Fn(&mut RowBlock<'_>) + Sync),
) {
    let tiles = rows.div_ceil(ROWS);
    let table_bytes = (tiles * product.segments * size_of::<[*const u8; ROWS]>()).next_multiple_of(64);
    let outputs_bytes = (rows * size_of::<usize>()).next_multiple_of(64);
    let zeros = zeros.next_multiple_of(64);
    let partial_bytes = tiles * ROWS * product.kernels.panel * size_of::<f32>();
    with_scratch(table_bytes + outputs_bytes + zeros + partial_bytes, |memory: &mut [u8]| {
        let (table, memory) = memory.split_at_mut(table_bytes);
        let (outputs, memory) = memory.split_at_mut(outputs_bytes);
        let (zeros, partial) = memory.split_at_mut(zeros);
        zeros.fill(0);
        table.fill(0);
        // SAFETY: the parts are 64-aligned, long enough, and zeroed (as null pointers) before use.
        let pointers = unsafe {
            std::slice::from_raw_parts_mut(
                table.as_mut_ptr().cast::<[*const u8; ROWS]>(),
                tiles * product.segments,
            )
        };
        let outputs = &mut bytemuck::cast_slice_mut::<u8, usize>(outputs)[..rows];
        fill(&mut RowBlock { item, first, pointers, outputs, zeros: zeros.as_ptr() });
        let partial = partial.as_mut_ptr().cast::<f32>();
        let (first, end) = (panels.start, panels.end);
        for panel in panels {
            let rows = panel == first && product.segments == 1;
            let upcoming = Upcoming { rows, panel: (panel + 1 < end).then_some(panel + 1) };
            // SAFETY: the caller's promise.
            unsafe { run_panel(product, layout, item, panel, upcoming, pointers, outputs, partial) };
        }
    });
}

/// # Safety
/// The sums hold the rows and columns that they name.
pub(super) unsafe fn dequantize(product: &Product<'_>, sums: &Sums<'_>) {
    let Some(Dequantize { columns, rows }) = product.dequantize else { return };
    let range = sums.column..sums.column + sums.columns;
    let (offsets, scales) = (&columns.offsets[range.clone()], &columns.scales[range]);
    for (r, &row) in sums.rows.iter().enumerate() {
        // SAFETY: the caller's promise.
        let sums = unsafe { std::slice::from_raw_parts_mut(sums.data.add(r * sums.width), sums.columns) };
        int8::dequantize(product.kernels.isa, sums, offsets, scales, rows[row]);
    }
}

/// A range of segments, or of steps of the only segment.
struct DepthBlock {
    segments: usize,
    steps: usize,
    count: usize,
}

fn depth_block(product: &Product<'_>, width: usize) -> DepthBlock {
    let segment = product.steps * width * STEP;
    let whole = DepthBlock { segments: product.segments, steps: product.steps, count: 1 };
    if product.segments * segment <= PANEL_BLOCK {
        return whole;
    }
    if product.segments > 1 {
        let count = product.segments.div_ceil((PANEL_BLOCK / segment).max(1));
        let segments = product.segments.div_ceil(count);
        return DepthBlock { segments, count: product.segments.div_ceil(segments), ..whole };
    }
    let count = segment.div_ceil(PANEL_BLOCK);
    let steps = product.steps.div_ceil(count);
    DepthBlock { steps, count: product.steps.div_ceil(steps), ..whole }
}

/// What a task has not in its second-level cache yet.
#[derive(Clone, Copy)]
struct Upcoming {
    /// Whether it is the task's first panel, and the rows of the next tiles come from far away: where only one segment reads
    /// them, for a convolution's other taps read the same ones.
    rows: bool,
    /// The panel that follows.
    panel: Option<usize>,
}

/// The lines of a tile's rows, each of which is `bytes` long, where they follow one another as those of a matrix do.
fn neighbours(rows: &[*const u8; ROWS], bytes: usize) -> Lines {
    let apart = (rows[1] as usize).wrapping_sub(rows[0] as usize);
    if apart > 2 * bytes {
        return Lines::NONE;
    }
    Lines { from: rows[0], count: (ROWS * apart).div_ceil(LINE) }
}

/// Where a panel begins.
pub(super) fn panel_start(product: &Product<'_>, layout: &Layout, item: usize, panel: usize) -> *const u8 {
    product.panels.wrapping_add(item * product.item_panels + layout.start(panel) * STEP)
}

#[allow(clippy::too_many_arguments)]
unsafe fn run_panel(
    product: &Product<'_>,
    layout: &Layout,
    item: usize,
    panel: usize,
    upcoming: Upcoming,
    pointers: &[[*const u8; ROWS]],
    outputs: &[usize],
    partial: *mut f32,
) {
    let width = layout.width(panel);
    let block = depth_block(product, width);
    let base = panel_start(product, layout, item, panel);
    for b in 0..block.count {
        let first_segment = if product.segments > 1 { b * block.segments } else { 0 };
        let first_step = if product.segments > 1 { 0 } else { b * block.steps };
        let segments = block.segments.min(product.segments - first_segment);
        let steps = block.steps.min(product.steps - first_step);
        let (next_panel, next_width) = match upcoming.panel {
            _ if b + 1 < block.count => {
                (base.wrapping_add((b + 1) * block.segments * block.steps * width * STEP), width)
            }
            Some(next) => (panel_start(product, layout, item, next), layout.width(next)),
            None => (base, 0),
        };
        let next_bytes = block.segments * block.steps * next_width * STEP;
        let tiles = outputs.len().div_ceil(ROWS);
        for (tile, rows) in outputs.chunks(ROWS).enumerate() {
            let next_rows = pointers.get((tile + 1) * product.segments).filter(|_| upcoming.rows);
            let next = [
                next_rows.map_or(Lines::NONE, |rows| neighbours(rows, steps * product.row_step)),
                Lines::part(next_panel, next_bytes, tile, tiles),
            ];
            let sums = partial.wrapping_add(tile * ROWS * width);
            let tile = Tile {
                rows: pointers.as_ptr().wrapping_add(tile * product.segments + first_segment),
                segments,
                steps,
                offset: first_step * product.row_step,
                row_step: product.row_step,
                panel: base.wrapping_add((first_segment * product.steps + first_step) * width * STEP),
                panel_step: width * STEP,
                panel_segment: steps * width * STEP,
                panel_offsets: std::ptr::null(),
                carry: b > 0,
                sums,
                sums_stride: width,
                adds: [Add::NONE; 2],
                kept: true,
                next,
            };
            let finished = Sums {
                data: sums,
                width,
                rows,
                column: product.first_column + item * product.item_columns + panel * layout.panel,
                columns: layout.valid(panel),
            };
            if b + 1 == block.count {
                product.finish.fetch(rows, finished.column, finished.columns);
            }
            // SAFETY: the caller's promise; `partial` holds a panel's width for every row of the block.
            unsafe {
                product.kernels.run(rows.len(), width, &tile);
                if b + 1 == block.count {
                    dequantize(product, &finished);
                    (product.kernels.finish)(product.finish, &finished);
                }
            }
        }
    }
}
