//! The gradient of a convolution's weight: a reduction over pixels.
//!
//! For every tap, `dW[o][c] = sum over pixels of dy[pixel][o] * x[pixel + tap][c]`. Both operands are copied
//! into panels over channels, with a step for each pixel; a tap is then nothing but another place to start
//! reading. In brain floating point a step holds two pixels. They are not neighbours, which would tie the
//! copies to the parity of the tap: they are the same place in the upper and the lower half of the image.

use super::conv::ConvGeometry;
use super::driver::PANEL_BLOCK;
use super::error::{GemmError, check_len};
use super::linear::{kernels_for, linear_weight_gradient, linear_weight_gradient_scratch_bytes};
use super::pack::{Block, Layout, Number, pack_halves, pack_singles};
use super::scratch;
use super::tile::{Kernels, ROWS, STEP, Tile};
use crate::kernels::elementwise::dispatch::{Shared, with_scratch};
use crate::{Data, Isa, ThreadPool};
use std::ops::Range;
use velatura_graph::DType;

/// Tasks that keep a few threads evenly busy.
const ENOUGH_TASKS: usize = 16;

/// Bytes of panels that are made at a time: they should stay in the last-level cache until they are used.
/// Tests take less, so that small shapes are divided too; it changes no bit.
const COPY: usize = if cfg!(test) { 16 << 10 } else { 6 << 20 };

/// One of the operands as panels.
#[derive(Clone, Copy, Debug)]
struct Operand {
    layout: Layout,
    /// Channels of a group, and of all groups.
    channels: usize,
    all_channels: usize,
    /// Rows of the copy and of the image behind it; pixels of a row likewise.
    lines: usize,
    height: usize,
    columns: usize,
    width: usize,
    /// Zeros before the image: top, left.
    padding: [usize; 2],
    /// Rows of the image from a step's first number to its second.
    half: usize,
    /// Rows and pixels of the copy from one output pixel to the next.
    stride: [usize; 2],
    /// Whether taps move it.
    moves: bool,
}

impl Operand {
    /// The step of the first output pixel of a line of an image.
    fn origin(&self, image: usize, line: usize) -> usize {
        (image * self.lines + line * self.stride[0]) * self.columns
    }

    /// Steps to the place of a tap.
    fn shift(&self, tap: [usize; 2]) -> usize {
        if self.moves { tap[0] * self.columns + tap[1] } else { 0 }
    }
}

/// How the work for one group of channels is laid out and divided. Depends on the shapes alone.
struct Plan {
    g: ConvGeometry,
    kernels: &'static Kernels,
    /// Whether the image is the left operand: cheaper where it has few channels.
    swapped: bool,
    left: Operand,
    right: Operand,
    /// Rows of the output that a step's two halves, or its one number, run over.
    lines: usize,
    out_width: usize,
    /// Images that are copied at a time.
    images: usize,
    /// Parts of the reduction that are summed separately, then together.
    chunks: usize,
    /// Tiles of rows in a task, and taps of the window's rows in it.
    block: usize,
    tap_rows: usize,
}

impl Plan {
    fn new(g: &ConvGeometry, kernels: &'static Kernels) -> Self {
        let (inputs, outputs) = (g.in_channels / g.groups, g.out_channels / g.groups);
        let (lines, out_width) = (g.out_height().div_ceil(kernels.depth()), g.out_width());
        let whole = |channels: usize| channels.next_multiple_of(kernels.lanes);
        let swapped = 6 * whole(outputs) * inputs < 5 * whole(inputs) * outputs;
        let layout = |channels, left| {
            if left { Layout::left(channels, 0) } else { Layout::right(kernels, channels, 0) }
        };
        let mut image = Operand {
            layout: layout(inputs, swapped),
            channels: inputs,
            all_channels: g.in_channels,
            lines: lines.saturating_sub(1) * g.stride[0] + g.kernel[0],
            height: g.height,
            columns: out_width.saturating_sub(1) * g.stride[1] + g.kernel[1],
            width: g.width,
            padding: [g.padding[0], g.padding[1]],
            half: lines * g.stride[0],
            stride: g.stride,
            moves: true,
        };
        let mut gradient = Operand {
            layout: layout(outputs, !swapped),
            channels: outputs,
            all_channels: g.out_channels,
            lines,
            height: g.out_height(),
            columns: out_width,
            width: out_width,
            padding: [0, 0],
            half: lines,
            stride: [1, 1],
            moves: false,
        };
        let bytes: usize = [image, gradient]
            .iter()
            .map(|o| o.lines * o.columns * o.channels.next_multiple_of(o.layout.granule) * STEP)
            .sum();
        let images = (COPY / bytes.max(1)).clamp(1, g.batch.max(1));
        image.layout.steps = images * image.lines * image.columns;
        gradient.layout.steps = images * gradient.lines * gradient.columns;
        let (left, right) = if swapped { (image, gradient) } else { (gradient, image) };
        let tiles = left.layout.panels();
        let (mut block, mut tap_rows, mut chunks) = (tiles, g.kernel[0], 1);
        loop {
            let tasks =
                right.layout.panels() * tiles.div_ceil(block) * g.kernel[0].div_ceil(tap_rows) * chunks;
            if tasks >= ENOUGH_TASKS {
                break;
            }
            if block > 2 {
                block = block.div_ceil(2);
            } else if tap_rows > 1 {
                tap_rows = 1;
            } else if block > 1 {
                block = 1;
            } else if chunks < 8 && images * lines >= 16 * chunks {
                chunks *= 2;
            } else {
                break;
            }
        }
        Plan { g: *g, kernels, swapped, left, right, lines, out_width, images, chunks, block, tap_rows }
    }

    fn taps(&self) -> usize {
        self.g.kernel[0] * self.g.kernel[1]
    }

    /// Columns of the sums: whole vectors.
    fn sums_stride(&self) -> usize {
        self.right.channels.next_multiple_of(self.kernels.lanes)
    }

    /// Elements of the sums of one chunk: `[taps, left channels, stride]`.
    fn sums(&self) -> usize {
        self.taps() * self.left.channels * self.sums_stride()
    }

    fn parts(&self) -> [usize; 3] {
        let sums = self.chunks * self.sums() * size_of::<f32>();
        [self.left.layout.bytes(), self.right.layout.bytes(), sums]
    }
}

/// Bytes of scratch memory that [`conv2d_weight_gradient`] needs for operands stored as `storage`.
pub fn conv2d_weight_gradient_scratch_bytes(isa: Isa, storage: DType, geometry: &ConvGeometry) -> usize {
    let g = geometry;
    if g.check().is_err() {
        return 0;
    }
    if g.is_pointwise() {
        return linear_weight_gradient_scratch_bytes(
            isa,
            storage,
            g.in_pixels(),
            g.in_channels,
            g.out_channels,
        );
    }
    scratch::total(&Plan::new(g, kernels_for(isa, storage)).parts())
}

/// The gradient of a convolution's weight: x `[N, H, W, in]` and dy `[N, H', W', out]`, stored alike, to
/// `[out, in / groups, kh, kw]`.
///
/// # Errors
/// Operands that do not fit together.
pub fn conv2d_weight_gradient(
    pool: &ThreadPool,
    isa: Isa,
    geometry: &ConvGeometry,
    x: Data<'_>,
    dy: Data<'_>,
    out: &mut [f32],
    scratch: &mut [u8],
) -> Result<(), GemmError> {
    let (operation, g) = ("conv2d_weight_gradient", geometry);
    g.check()?;
    check_len(operation, "the input", g.in_pixels() * g.in_channels, x.len())?;
    check_len(operation, "the gradient", g.out_pixels() * g.out_channels, dy.len())?;
    check_len(operation, "the output", g.weight_shape().iter().product(), out.len())?;
    if g.is_pointwise() {
        let shape = [g.in_pixels(), g.in_channels, g.out_channels];
        return linear_weight_gradient(pool, isa, x, dy, shape, out, scratch);
    }
    if out.is_empty() || g.out_pixels() == 0 {
        out.fill(0.0);
        return Ok(());
    }
    let plan = Plan::new(g, kernels_for(isa, x.dtype()));
    let [left, right, sums] = scratch::cut(operation, scratch, plan.parts())?;
    match (x, dy) {
        (Data::F32(x), Data::F32(dy)) => groups(pool, &plan, x, dy, out, left, right, sums),
        (Data::Bf16(x), Data::Bf16(dy)) => groups(pool, &plan, x, dy, out, left, right, sums),
        (x, dy) => {
            let (operand, found) =
                if x.dtype() == DType::I32 { ("the input", x) } else { ("the gradient", dy) };
            let expected = "the same floating-point type as the other operand";
            return Err(GemmError::Storage { operation, operand, expected, found: found.dtype() });
        }
    }
    Ok(())
}

/// One group of channels after the other, and some images after the other, in the same memory.
fn groups<T: Number>(
    pool: &ThreadPool,
    plan: &Plan,
    x: &[T],
    dy: &[T],
    out: &mut [f32],
    left: *mut u8,
    right: *mut u8,
    sums: *mut u8,
) {
    // SAFETY: the memory was cut for these counts, aligned to 64, and is exclusively ours.
    let (left, right, sums) = unsafe {
        (
            std::slice::from_raw_parts_mut(left.cast::<u32>(), plan.left.layout.cells()),
            std::slice::from_raw_parts_mut(right.cast::<u32>(), plan.right.layout.cells()),
            std::slice::from_raw_parts_mut(sums.cast::<f32>(), plan.chunks * plan.sums()),
        )
    };
    let (for_left, for_right) = if plan.swapped { (x, dy) } else { (dy, x) };
    let size = out.len() / plan.g.groups;
    for (group, out) in out.chunks_exact_mut(size).enumerate() {
        for first in (0..plan.g.batch).step_by(plan.images) {
            let images = first..plan.g.batch.min(first + plan.images);
            copy(pool, plan, [for_left, for_right], group, &images, [left, right]);
            reduce(pool, plan, left, right, images.len(), first > 0, sums);
        }
        collect(pool, plan, sums, Shared::new(out));
    }
}

/// Copies both operands of some images into panels.
fn copy<T: Number>(
    pool: &ThreadPool,
    plan: &Plan,
    from: [&[T]; 2],
    group: usize,
    images: &Range<usize>,
    to: [&mut [u32]; 2],
) {
    let to = to.map(Shared::new);
    let lefts = images.len() * plan.left.lines;
    pool.run(lefts + images.len() * plan.right.lines, |index, _| {
        let (side, operand, index) =
            if index < lefts { (0, &plan.left, index) } else { (1, &plan.right, index - lefts) };
        copy_line(plan.kernels, operand, from[side], group, images.start, index, &to[side]);
    });
}

/// Copies one row, counted over the images from `first` on.
fn copy_line<T: Number>(
    kernels: &Kernels,
    o: &Operand,
    from: &[T],
    group: usize,
    first: usize,
    index: usize,
    to: &Shared<'_, u32>,
) {
    let (image, line) = (first + index / o.lines, index % o.lines);
    // Pixels of the copy that are inside the image.
    let start = o.padding[1].min(o.columns);
    let end = (o.padding[1] + o.width).min(o.columns).max(start);
    let row = |line: usize| {
        let line = line.checked_sub(o.padding[0]).filter(|&line| line < o.height && end > start)?;
        let pixel = (image * o.height + line) * o.width;
        Some(&from[pixel * o.all_channels..(pixel + end - start) * o.all_channels])
    };
    let (low, high) = (row(line), if kernels.pairs { row(line + o.half) } else { None });
    for p in 0..o.layout.panels() {
        let (width, columns) = (o.layout.width(p), o.layout.valid(p));
        let at = o.layout.start(p) + index * o.columns * width;
        // SAFETY: every row of every panel is written by one task.
        let cells = unsafe { to.slice(at, o.columns * width) };
        cells[..start * width].fill(0);
        cells[end * width..].fill(0);
        let cells = &mut cells[start * width..end * width];
        let channel = group * o.channels + p * o.layout.panel;
        let (low, high) = (low.map(|x| &x[channel..]), high.map(|x| &x[channel..]));
        if kernels.pairs {
            pack_halves(kernels.isa, low, high, o.all_channels, columns, width, cells);
        } else if let Some(low) = low {
            let block =
                Block { depth: end - start, depth_stride: o.all_channels, columns, column_stride: 1, width };
            pack_singles(kernels.isa, low, block, cells);
        } else {
            cells.fill(0);
        }
    }
}

/// Sums `[chunk][tap][left][right]` over the pixels of the images copied; `carry` on from what is there.
fn reduce(
    pool: &ThreadPool,
    plan: &Plan,
    left: &[u32],
    right: &[u32],
    images: usize,
    carry: bool,
    sums: &mut [f32],
) {
    let segments = images * plan.lines;
    let (tiles, panels) = (plan.left.layout.panels(), plan.right.layout.panels());
    let (blocks, tap_blocks) = (tiles.div_ceil(plan.block), plan.g.kernel[0].div_ceil(plan.tap_rows));
    let per_chunk = segments.div_ceil(plan.chunks);
    let sums = Sums(sums.as_mut_ptr());
    pool.run(panels * blocks * tap_blocks * plan.chunks, |index, _| {
        let (block, index) = (index % blocks, index / blocks);
        let (tap_block, index) = (index % tap_blocks, index / tap_blocks);
        let (panel, chunk) = (index % panels, index / panels);
        let task = Task {
            panel,
            tiles: block * plan.block..tiles.min((block + 1) * plan.block),
            tap_rows: tap_block * plan.tap_rows..plan.g.kernel[0].min((tap_block + 1) * plan.tap_rows),
            segments: (chunk * per_chunk).min(segments)..segments.min((chunk + 1) * per_chunk),
            carry,
            sums: sums.at(chunk * plan.sums()),
        };
        reduce_task(plan, left, right, &task);
    });
}

#[derive(Clone, Copy)]
struct Sums(*mut f32);

// SAFETY: tasks write disjoint elements.
unsafe impl Sync for Sums {}

impl Sums {
    fn at(&self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}

/// Some tiles of rows of one panel, for some taps, over some rows of the output.
struct Task {
    panel: usize,
    tiles: Range<usize>,
    tap_rows: Range<usize>,
    segments: Range<usize>,
    carry: bool,
    sums: *mut f32,
}

/// The row pointers of a segment, as addresses.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
struct Segment([usize; ROWS]);

fn reduce_task(plan: &Plan, left: &[u32], right: &[u32], task: &Task) {
    let (a, b) = (&plan.left, &plan.right);
    let width = b.layout.width(task.panel);
    let line_bytes = plan.out_width * b.stride[1] * b.stride[0] * width * STEP;
    let block = (PANEL_BLOCK / line_bytes).clamp(1, task.segments.len().max(1));
    with_scratch(block, |rows: &mut [Segment]| {
        with_scratch(block, |offsets: &mut [usize]| {
            let mut first = task.segments.start;
            // Without any segment there still are zeros to write.
            loop {
                let count = block.min(task.segments.end - first);
                for i in 0..count {
                    let (image, line) = ((first + i) / plan.lines, (first + i) % plan.lines);
                    offsets[i] = b.origin(image, line) * width * STEP;
                    let start = left.as_ptr().wrapping_add(a.origin(image, line) * ROWS);
                    rows[i] = Segment(std::array::from_fn(|r| start.wrapping_add(r) as usize));
                }
                let carry = task.carry || first > task.segments.start;
                reduce_block(plan, right, task, &rows[..count], offsets, carry);
                first += count;
                if first >= task.segments.end {
                    break;
                }
            }
        });
    });
}

fn reduce_block(plan: &Plan, right: &[u32], task: &Task, rows: &[Segment], offsets: &[usize], carry: bool) {
    let (a, b) = (&plan.left, &plan.right);
    let width = b.layout.width(task.panel);
    let panel = right.as_ptr().wrapping_add(b.layout.start(task.panel));
    for tile in task.tiles.clone() {
        for tap_y in task.tap_rows.clone() {
            for tap_x in 0..plan.g.kernel[1] {
                let tap = tap_y * plan.g.kernel[1] + tap_x;
                let row = tap * plan.left.channels + tile * ROWS;
                let tile_operands = Tile {
                    rows: rows.as_ptr().cast(),
                    segments: rows.len(),
                    steps: plan.out_width,
                    offset: (a.layout.start(tile) + a.shift([tap_y, tap_x]) * ROWS) * STEP,
                    row_step: a.stride[1] * ROWS * STEP,
                    panel: panel.wrapping_add(b.shift([tap_y, tap_x]) * width).cast(),
                    panel_step: b.stride[1] * width * STEP,
                    panel_segment: 0,
                    panel_offsets: offsets.as_ptr(),
                    carry,
                    sums: task.sums.wrapping_add(row * plan.sums_stride() + task.panel * b.layout.panel),
                    sums_stride: plan.sums_stride(),
                };
                // SAFETY: the panels have a step for every pixel that a tap of an output pixel meets; the sums
                // have whole vectors, and this task alone writes these.
                unsafe { plan.kernels.run(a.layout.valid(tile), width, &tile_operands) };
            }
        }
    }
}

/// Adds the chunks, and turns `[tap][left][right]` into `[output][input][tap]`.
fn collect(pool: &ThreadPool, plan: &Plan, sums: &[f32], out: Shared<'_, f32>) {
    let (taps, stride) = (plan.taps(), plan.sums_stride());
    let (inputs, outputs) = (plan.g.in_channels / plan.g.groups, plan.g.out_channels / plan.g.groups);
    let (for_output, for_input) = if plan.swapped { (1, stride) } else { (stride, 1) };
    pool.run(outputs, |o, _| {
        // SAFETY: every output channel is written by one task.
        let out = unsafe { out.slice(o * inputs * taps, inputs * taps) };
        for tap in 0..taps {
            for chunk in 0..plan.chunks {
                let start = chunk * plan.sums() + tap * plan.left.channels * stride + o * for_output;
                let from = sums[start..].iter().step_by(for_input).take(inputs);
                for (to, from) in out[tap..].iter_mut().step_by(taps).zip(from) {
                    *to = if chunk == 0 { *from } else { *to + *from };
                }
            }
        }
    });
}
