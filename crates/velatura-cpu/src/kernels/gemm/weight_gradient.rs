//! The gradient of a convolution's weight: a reduction over pixels.
//!
//! For every tap, `dW[o][c] = sum over pixels of dy[pixel][o] * x[pixel + tap][c]`. Both operands are copied
//! once into panels over channels, with a step for each pixel; a tap is then nothing but another place to
//! start reading. In brain floating point a step holds two pixels. They are not neighbours, which would tie
//! the copies to the parity of the tap: they are the same place in the upper and the lower half of the image.

use super::conv::ConvGeometry;
use super::driver::PANEL_BLOCK;
use super::error::{GemmError, check_len};
use super::linear::{kernels_for, linear_weight_gradient, linear_weight_gradient_scratch_bytes};
use super::pack::{Layout, Number};
use super::scratch;
use super::tile::{Kernels, ROWS, STEP, Target, Tile};
use crate::kernels::elementwise::dispatch::{Shared, simd, with_scratch};
use crate::{Data, Isa, ThreadPool};
use velatura_graph::DType;

/// Tasks that keep a few threads evenly busy.
const ENOUGH_TASKS: usize = 16;

/// How the work for one group of channels is laid out and divided. Depends on the shapes alone.
struct Plan {
    g: ConvGeometry,
    kernels: &'static Kernels,
    /// Channels of a group.
    inputs: usize,
    outputs: usize,
    /// Rows of the output that a step's two halves, or its one number, run over.
    lines: usize,
    out_width: usize,
    /// Rows and columns of a half of the padded image.
    padded_height: usize,
    padded_width: usize,
    /// Panels of x: a step for each padded pixel.
    right: Layout,
    /// Panels of dy: a step for each output pixel.
    left: Layout,
    /// Parts of the reduction that are summed separately, then together.
    chunks: usize,
    /// Tiles of rows in a task, and taps of the window's rows in it.
    block: usize,
    tap_rows: usize,
}

impl Plan {
    fn new(g: &ConvGeometry, kernels: &'static Kernels) -> Self {
        let (inputs, outputs) = (g.in_channels / g.groups, g.out_channels / g.groups);
        let lines = g.out_height().div_ceil(kernels.depth());
        let out_width = g.out_width();
        let padded_height = lines.saturating_sub(1) * g.stride[0] + g.kernel[0];
        let padded_width = out_width.saturating_sub(1) * g.stride[1] + g.kernel[1];
        let right = Layout::right(kernels, inputs, g.batch * padded_height * padded_width);
        let left = Layout::left(outputs, g.batch * lines * out_width);
        let tiles = left.panels();
        let (mut block, mut tap_rows, mut chunks) = (tiles, g.kernel[0], 1);
        loop {
            let tasks = right.panels() * tiles.div_ceil(block) * g.kernel[0].div_ceil(tap_rows) * chunks;
            if tasks >= ENOUGH_TASKS {
                break;
            }
            if block > 2 {
                block = block.div_ceil(2);
            } else if tap_rows > 1 {
                tap_rows = 1;
            } else if block > 1 {
                block = 1;
            } else if chunks < 8 && g.batch * lines >= 16 * chunks {
                chunks *= 2;
            } else {
                break;
            }
        }
        Plan {
            g: *g,
            kernels,
            inputs,
            outputs,
            lines,
            out_width,
            padded_height,
            padded_width,
            right,
            left,
            chunks,
            block,
            tap_rows,
        }
    }

    fn taps(&self) -> usize {
        self.g.kernel[0] * self.g.kernel[1]
    }

    /// Columns of the sums: whole vectors.
    fn sums_stride(&self) -> usize {
        self.inputs.next_multiple_of(self.kernels.lanes)
    }

    /// Elements of the sums of one chunk: `[taps, outputs, stride]`.
    fn sums(&self) -> usize {
        self.taps() * self.outputs * self.sums_stride()
    }

    fn parts(&self) -> [usize; 3] {
        [self.right.bytes(), self.left.bytes(), self.chunks * self.sums() * size_of::<f32>()]
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
    let [right, left, sums] = scratch::cut(operation, scratch, plan.parts())?;
    match (x, dy) {
        (Data::F32(x), Data::F32(dy)) => groups(pool, &plan, x, dy, out, right, left, sums),
        (Data::Bf16(x), Data::Bf16(dy)) => groups(pool, &plan, x, dy, out, right, left, sums),
        (x, dy) => {
            let (operand, found) =
                if x.dtype() == DType::I32 { ("the input", x) } else { ("the gradient", dy) };
            let expected = "the same floating-point type as the other operand";
            return Err(GemmError::Storage { operation, operand, expected, found: found.dtype() });
        }
    }
    Ok(())
}

/// One group of channels after the other, in the same memory.
#[allow(clippy::too_many_arguments)]
fn groups<T: Number>(
    pool: &ThreadPool,
    plan: &Plan,
    x: &[T],
    dy: &[T],
    out: &mut [f32],
    right: *mut u8,
    left: *mut u8,
    sums: *mut u8,
) {
    let cells = plan.right.cells();
    // SAFETY: the memory was cut for these counts, aligned to 64, and is exclusively ours.
    let (right, left, sums) = unsafe {
        (
            std::slice::from_raw_parts_mut(right.cast::<u32>(), cells),
            std::slice::from_raw_parts_mut(left.cast::<u32>(), plan.left.cells()),
            std::slice::from_raw_parts_mut(sums.cast::<f32>(), plan.chunks * plan.sums()),
        )
    };
    let size = out.len() / plan.g.groups;
    for (group, out) in out.chunks_exact_mut(size).enumerate() {
        interleave_input(pool, plan, x, group, Shared::new(right));
        interleave_gradient(pool, plan, dy, group, Shared::new(left));
        reduce(pool, plan, right, left, Shared::new(sums));
        collect(pool, plan, sums, Shared::new(out));
    }
}

/// A pixel's channels, or none in the padding.
fn pixel<T>(data: &[T], index: Option<usize>, channels: usize, first: usize, count: usize) -> &[T] {
    index.map_or(&[], |i| &data[i * channels + first..][..count])
}

/// Panels of the padded image, `[panel][image][row][column][width]`.
fn interleave_input<T: Number>(pool: &ThreadPool, plan: &Plan, x: &[T], group: usize, to: Shared<'_, u32>) {
    let g = &plan.g;
    let inside = |at: usize, padding: usize, size: usize| at.checked_sub(padding).filter(|&i| i < size);
    pool.run(g.batch * plan.padded_height, |index, _| {
        let (image, line) = (index / plan.padded_height, index % plan.padded_height);
        let low = inside(line, g.padding[0], g.height);
        let high = if plan.kernels.pairs {
            inside(line + plan.lines * g.stride[0], g.padding[0], g.height)
        } else {
            None
        };
        for column in 0..plan.padded_width {
            let at = inside(column, g.padding[1], g.width);
            let place = |line: Option<usize>| Some((image * g.height + line?) * g.width + at?);
            let [low, high] = [low, high]
                .map(|line| pixel(x, place(line), g.in_channels, group * plan.inputs, plan.inputs));
            let step = index * plan.padded_width + column;
            spread(plan.kernels, &plan.right, low, high, step, &to);
        }
    });
}

/// Panels of the gradient, `[panel][image][row][column][ROWS]`.
fn interleave_gradient<T: Number>(
    pool: &ThreadPool,
    plan: &Plan,
    dy: &[T],
    group: usize,
    to: Shared<'_, u32>,
) {
    let (g, height) = (&plan.g, plan.g.out_height());
    pool.run(g.batch * plan.lines, |index, _| {
        let (image, line) = (index / plan.lines, index % plan.lines);
        let second = Some(line + plan.lines).filter(|&line| plan.kernels.pairs && line < height);
        for column in 0..plan.out_width {
            let place = |line: Option<usize>| Some((image * height + line?) * plan.out_width + column);
            let [low, high] = [Some(line), second]
                .map(|line| pixel(dy, place(line), g.out_channels, group * plan.outputs, plan.outputs));
            spread(plan.kernels, &plan.left, low, high, index * plan.out_width + column, &to);
        }
    });
}

/// Writes one step of all panels.
#[inline]
fn spread<T: Number>(
    kernels: &Kernels,
    layout: &Layout,
    low: &[T],
    high: &[T],
    step: usize,
    to: &Shared<'_, u32>,
) {
    for p in 0..layout.panels() {
        let (width, valid) = (layout.width(p), layout.valid(p));
        // SAFETY: every step of a panel is written by one task.
        let cells = unsafe { to.slice(layout.start(p) + step * width, width) };
        let part = |x: &[T]| -> (usize, usize) {
            if x.is_empty() { (0, 0) } else { (p * layout.panel, p * layout.panel + valid) }
        };
        let ((a, b), (c, d)) = (part(low), part(high));
        cell_row(kernels.isa, kernels.pairs, &low[a..b], &high[c..d], cells);
    }
}

simd! {
    fn cell_row<T: Number>(pairs: bool, low: &[T], high: &[T], cells: &mut [u32]) {
        let valid = low.len().max(high.len());
        let (filled, rest) = cells.split_at_mut(valid);
        rest.fill(0);
        if !pairs {
            for (cell, x) in filled.iter_mut().zip(low) {
                *cell = x.single().to_bits();
            }
        } else if low.len() == high.len() {
            for ((cell, low), high) in filled.iter_mut().zip(low).zip(high) {
                *cell = u32::from(low.half()) | u32::from(high.half()) << 16;
            }
        } else if high.is_empty() {
            for (cell, low) in filled.iter_mut().zip(low) {
                *cell = u32::from(low.half());
            }
        } else {
            for (cell, high) in filled.iter_mut().zip(high) {
                *cell = u32::from(high.half()) << 16;
            }
        }
    }
}

/// Sums `[chunk][tap][output][input]` over the pixels.
fn reduce(pool: &ThreadPool, plan: &Plan, right: &[u32], left: &[u32], sums: Shared<'_, f32>) {
    let segments = plan.g.batch * plan.lines;
    let tiles = plan.left.panels();
    let (blocks, tap_blocks) = (tiles.div_ceil(plan.block), plan.g.kernel[0].div_ceil(plan.tap_rows));
    let per_chunk = segments.div_ceil(plan.chunks);
    // SAFETY: tasks write disjoint elements of the whole.
    let sums = Sums(unsafe { sums.slice(0, plan.chunks * plan.sums()) }.as_mut_ptr());
    pool.run(plan.right.panels() * blocks * tap_blocks * plan.chunks, |index, _| {
        let (block, index) = (index % blocks, index / blocks);
        let (tap_block, index) = (index % tap_blocks, index / tap_blocks);
        let (panel, chunk) = (index % plan.right.panels(), index / plan.right.panels());
        let tiles = block * plan.block..tiles.min((block + 1) * plan.block);
        let taps = tap_block * plan.tap_rows..plan.g.kernel[0].min((tap_block + 1) * plan.tap_rows);
        let range = chunk * per_chunk..segments.min((chunk + 1) * per_chunk);
        reduce_task(plan, right, left, sums.at(chunk * plan.sums()), panel, tiles, taps, range);
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

#[allow(clippy::too_many_arguments)]
fn reduce_task(
    plan: &Plan,
    right: &[u32],
    left: &[u32],
    sums: *mut f32,
    panel: usize,
    tiles: std::ops::Range<usize>,
    tap_rows: std::ops::Range<usize>,
    range: std::ops::Range<usize>,
) {
    let (g, width) = (&plan.g, plan.right.width(panel));
    let panel_base = right[plan.right.start(panel)..].as_ptr().cast::<u8>();
    let line_bytes = plan.padded_width * width * STEP;
    let block = (PANEL_BLOCK / (line_bytes * g.stride[0])).clamp(1, range.len().max(1));
    with_scratch(block * size_of::<Segment>(), |memory: &mut [Segment]| {
        with_scratch(block, |offsets: &mut [usize]| {
            let mut first = range.start;
            // An empty chunk still has to write its zeros.
            loop {
                let count = block.min(range.end.saturating_sub(first));
                for i in 0..count {
                    let (image, line) = ((first + i) / plan.lines, (first + i) % plan.lines);
                    offsets[i] = (image * plan.padded_height + line * g.stride[0]) * line_bytes;
                    let start = left.as_ptr().wrapping_add((first + i) * plan.out_width * ROWS);
                    memory[i] = Segment(std::array::from_fn(|r| start.wrapping_add(r) as usize));
                }
                for tile in tiles.clone() {
                    let rows = plan.left.valid(tile);
                    for tap_y in tap_rows.clone() {
                        for tap_x in 0..g.kernel[1] {
                            let tap = tap_y * g.kernel[1] + tap_x;
                            let to = sums.wrapping_add(
                                (tap * plan.outputs + tile * ROWS) * plan.sums_stride()
                                    + panel * plan.right.panel,
                            );
                            let tile = Tile {
                                rows: memory.as_ptr().cast(),
                                segments: count,
                                steps: plan.out_width,
                                offset: plan.left.start(tile) * STEP,
                                row_step: ROWS * STEP,
                                panel: panel_base.wrapping_add(tap_y * line_bytes + tap_x * width * STEP),
                                panel_step: g.stride[1] * width * STEP,
                                panel_segment: 0,
                                panel_offsets: offsets.as_ptr(),
                                start: if first > range.start { to } else { std::ptr::null() },
                                start_stride: plan.sums_stride(),
                                target: Target::Partial { to, stride: plan.sums_stride() },
                            };
                            // SAFETY: the panels have a step for every padded pixel that a tap of an output
                            // pixel meets; the sums have whole vectors, and this task alone writes these.
                            unsafe { plan.kernels.run(rows, width, &tile) };
                        }
                    }
                }
                first += count;
                if first >= range.end {
                    break;
                }
            }
        });
    });
}

/// The row pointers of a segment, as addresses.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
struct Segment([usize; ROWS]);

/// Adds the chunks, and turns `[tap][output][input]` into `[output][input][tap]`.
fn collect(pool: &ThreadPool, plan: &Plan, sums: &[f32], out: Shared<'_, f32>) {
    let (taps, stride) = (plan.taps(), plan.sums_stride());
    pool.run(plan.outputs, |o, _| {
        // SAFETY: every output channel is written by one task.
        let out = unsafe { out.slice(o * plan.inputs * taps, plan.inputs * taps) };
        for tap in 0..taps {
            for chunk in 0..plan.chunks {
                let from = &sums[chunk * plan.sums() + (tap * plan.outputs + o) * stride..][..plan.inputs];
                for (to, from) in out[tap..].iter_mut().step_by(taps).zip(from) {
                    *to = if chunk == 0 { *from } else { *to + *from };
                }
            }
        }
    });
}
