//! The gradient of a convolution's weight: a reduction over pixels.
//!
//! For every tap, `dW[o][c] = sum over pixels of dy[pixel][o] * x[pixel + tap][c]`. A task has some channels of either
//! operand and some lines of the images. It copies both, a few lines at a time, into panels over channels that stay in
//! its caches, with a step for each pixel; a tap is then nothing but another place to start reading. What tasks found
//! over different lines is added up last, in order. All of this depends on the shapes alone.
//!
//! In brain floating point a step holds two pixels. They are not neighbours, which would tie the copies to the parity
//! of the tap: they are the same place in the upper and the lower half of the image.
//!
//! On AMX tiles it is one product: see `amx::weight_gradient`.

#[cfg(target_arch = "x86_64")]
use super::amx::weight_gradient::WeightGradient;
use super::conv::{ConvAlgorithm, ConvGeometry};
use super::error::{GemmError, check_len};
use super::linear::kernels_for;
use super::linear_gradient::{LEFT, PANELS, linear_weight_gradient, linear_weight_gradient_scratch_bytes};
use super::pack::{Block, Layout, Number, pack_halves, pack_singles};
use super::tile::{Add, Kernels, Lines, ROWS, STEP, Tile};
use super::{scratch, winograd};
use crate::kernels::elementwise::dispatch::{Shared, with_scratch};
use crate::{Data, Isa, ThreadPool};
use std::ops::Range;
use velatura_graph::DType;

/// Tasks that keep a few threads evenly busy.
const ENOUGH_TASKS: usize = 16;
/// Channels of the right operand in a task.
const RIGHT: usize = 64;

/// One of the operands.
#[derive(Clone, Copy, Debug)]
struct Operand {
    /// Channels of a group, of all groups, and of a task.
    channels: usize,
    all_channels: usize,
    block: usize,
    /// Rows of the image; pixels of a row of the copy and of the image behind it.
    height: usize,
    columns: usize,
    width: usize,
    /// Zeros before the image: top, left.
    padding: [usize; 2],
    /// Rows of the image from a step's first number to its second.
    half: usize,
    /// Rows and pixels of the copy from one output pixel to the next.
    stride: [usize; 2],
    /// Rows that the taps reach over, and whether they move this operand at all.
    taps: usize,
    moves: bool,
}

impl Operand {
    /// Rows of the copy for some lines of the output.
    fn rows(&self, lines: usize) -> usize {
        lines.saturating_sub(1) * self.stride[0] + self.taps
    }

    /// Steps to the place of a tap.
    fn shift(&self, tap: [usize; 2]) -> usize {
        if self.moves { tap[0] * self.columns + tap[1] } else { 0 }
    }

    /// How many tasks its channels make.
    fn blocks(&self) -> usize {
        self.channels.div_ceil(self.block)
    }

    /// Channels of a task.
    fn part(&self, index: usize) -> Range<usize> {
        index * self.block..self.channels.min((index + 1) * self.block)
    }
}

/// How the work is laid out and divided. Depends on the shapes alone.
struct Plan {
    g: ConvGeometry,
    kernels: &'static Kernels,
    /// Whether the image is the left operand: cheaper where it has few channels.
    swapped: bool,
    left: Operand,
    right: Operand,
    /// Lines of the output that a step's two halves, or its one number, run over.
    lines: usize,
    out_width: usize,
    /// Lines of a unit, which are an image's or fewer; units of an image; and units that are copied at a time.
    unit: usize,
    units_of_image: usize,
    together: usize,
    /// Parts of the reduction that are summed separately, and the units of one.
    parts: usize,
    part: usize,
}

impl Plan {
    fn new(g: &ConvGeometry, kernels: &'static Kernels) -> Self {
        let (inputs, outputs) = (g.in_channels / g.groups, g.out_channels / g.groups);
        let (lines, out_width) = (g.out_height().div_ceil(kernels.depth()), g.out_width());
        let whole = |channels: usize| channels.next_multiple_of(kernels.lanes);
        let swapped = 6 * whole(outputs) * inputs < 5 * whole(inputs) * outputs;
        // The left operand is divided evenly into whole tiles.
        let block = |channels: usize, left: bool| {
            if left {
                let tiles = channels.div_ceil(ROWS);
                tiles.div_ceil(channels.div_ceil(LEFT)) * ROWS
            } else {
                RIGHT
            }
        };
        let image = Operand {
            channels: inputs,
            all_channels: g.in_channels,
            block: block(inputs, swapped),
            height: g.height,
            columns: out_width.saturating_sub(1) * g.stride[1] + g.kernel[1],
            width: g.width,
            padding: [g.padding[0], g.padding[1]],
            half: lines * g.stride[0],
            stride: g.stride,
            taps: g.kernel[0],
            moves: true,
        };
        let gradient = Operand {
            channels: outputs,
            all_channels: g.out_channels,
            block: block(outputs, !swapped),
            height: g.out_height(),
            columns: out_width,
            width: out_width,
            padding: [0, 0],
            half: lines,
            stride: [1, 1],
            taps: 1,
            moves: false,
        };
        let (left, right) = if swapped { (image, gradient) } else { (gradient, image) };
        let bytes = |lines: usize| -> usize {
            let copy = |o: &Operand| o.rows(lines) * o.columns * whole(o.block.min(o.channels)) * STEP;
            copy(&left) + copy(&right)
        };
        let unit = (1..=lines.max(1)).rev().find(|&n| bytes(n) <= PANELS).unwrap_or(1);
        let units_of_image = lines.div_ceil(unit).max(1);
        // Halves of equal size, where an image does not fit.
        let unit = lines.div_ceil(units_of_image).max(1);
        let together = if units_of_image == 1 { (PANELS / bytes(unit).max(1)).max(1) } else { 1 };
        let units = g.batch * units_of_image;
        let blocks = g.groups * left.blocks() * right.blocks();
        let part = units.div_ceil(ENOUGH_TASKS.div_ceil(blocks.max(1)).min(units).max(1)).max(1);
        Plan {
            g: *g,
            kernels,
            swapped,
            left,
            right,
            lines,
            out_width,
            unit,
            units_of_image,
            together: together.min(part),
            parts: units.div_ceil(part).max(1),
            part,
        }
    }

    fn taps(&self) -> usize {
        self.g.kernel[0] * self.g.kernel[1]
    }

    /// Columns of the sums: whole vectors.
    fn sums_stride(&self) -> usize {
        self.right.channels.next_multiple_of(self.kernels.lanes)
    }

    /// Elements of the sums of one part of a group: `[taps, left channels, stride]`.
    fn sums(&self) -> usize {
        self.taps() * self.left.channels * self.sums_stride()
    }

    fn bytes(&self) -> usize {
        self.g.groups * self.parts * self.sums() * size_of::<f32>()
    }
}

/// Bytes of scratch memory that [`conv2d_weight_gradient`] needs for operands stored as `storage`.
pub fn conv2d_weight_gradient_scratch_bytes(
    isa: Isa,
    storage: DType,
    geometry: &ConvGeometry,
    algorithm: ConvAlgorithm,
) -> usize {
    let g = geometry;
    if g.check().is_err() {
        return 0;
    }
    if let ConvAlgorithm::Winograd(_) = algorithm {
        return winograd::weight_gradient_bytes(kernels_for(isa, storage), g);
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
    let kernels = kernels_for(isa, storage);
    #[cfg(target_arch = "x86_64")]
    if runs_on_tiles(kernels, g) {
        return scratch::total(&WeightGradient::new(kernels, g).bytes());
    }
    scratch::total(&[Plan::new(g, kernels).bytes()])
}

/// The gradient of a convolution's weight: x `[N, H, W, in]` and dy `[N, H', W', out]`, stored alike, to
/// `[out, in / groups, kh, kw]`. By Winograd's algorithm, which has one tiling here, only 3x3 windows of stride 1 over channels
/// that are multiples of 16.
///
/// # Errors
/// Operands that do not fit together.
pub fn conv2d_weight_gradient(
    pool: &ThreadPool,
    isa: Isa,
    geometry: &ConvGeometry,
    algorithm: ConvAlgorithm,
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
    if let ConvAlgorithm::Winograd(_) = algorithm {
        return winograd::weight_gradient(pool, kernels_for(isa, x.dtype()), g, x, dy, out, scratch);
    }
    let kernels = kernels_for(isa, x.dtype());
    #[cfg(target_arch = "x86_64")]
    if runs_on_tiles(kernels, g) {
        let gradient = WeightGradient::new(kernels, g);
        let memory = scratch::cut(operation, scratch, gradient.bytes())?;
        return match (x, dy) {
            // SAFETY: lengths were checked, and the scratch memory was cut for it.
            (Data::Bf16(x), Data::Bf16(dy)) => unsafe { gradient.run(pool, operation, x, dy, out, memory) },
            (x, dy) => Err(GemmError::mixed(operation, x.dtype(), dy.dtype())),
        };
    }
    let plan = Plan::new(g, kernels);
    let [memory] = scratch::cut(operation, scratch, [plan.bytes()])?;
    let sums = Sums(memory.cast());
    match (x, dy) {
        (Data::F32(x), Data::F32(dy)) => multiply(pool, &plan, x, dy, sums),
        (Data::Bf16(x), Data::Bf16(dy)) => multiply(pool, &plan, x, dy, sums),
        (x, dy) => return Err(GemmError::mixed(operation, x.dtype(), dy.dtype())),
    }
    // SAFETY: the memory was cut for it, aligned to 64, and every task has written its part.
    let sums = unsafe { std::slice::from_raw_parts(memory.cast::<f32>(), plan.bytes() / size_of::<f32>()) };
    collect(pool, &plan, sums, Shared::new(out));
    Ok(())
}

/// Whether it runs on AMX tiles: groups of few channels would not fill them.
#[cfg(target_arch = "x86_64")]
fn runs_on_tiles(kernels: &Kernels, g: &ConvGeometry) -> bool {
    kernels.amx && g.groups == 1
}

#[derive(Clone, Copy)]
struct Sums(*mut f32);

// SAFETY: tasks write disjoint elements.
unsafe impl Sync for Sums {}

fn multiply<T: Number>(pool: &ThreadPool, plan: &Plan, x: &[T], dy: &[T], sums: Sums) {
    let sums = &sums;
    let (for_left, for_right) = if plan.swapped { (x, dy) } else { (dy, x) };
    let (lefts, rights) = (plan.left.blocks(), plan.right.blocks());
    let units = plan.g.batch * plan.units_of_image;
    pool.run(plan.g.groups * plan.parts * lefts * rights, |index, _| {
        let (left, index) = (plan.left.part(index % lefts), index / lefts);
        let (right, index) = (plan.right.part(index % rights), index / rights);
        let (part, group) = (index % plan.parts, index / plan.parts);
        let place = left.start * plan.sums_stride() + right.start;
        let task = Task {
            plan,
            left: Side {
                operand: &plan.left,
                data: for_left,
                first: group * plan.left.channels + left.start,
            },
            right: Side {
                operand: &plan.right,
                data: for_right,
                first: group * plan.right.channels + right.start,
            },
            left_layout: Layout {
                columns: left.len(),
                panel: LEFT,
                granule: plan.kernels.lanes,
                steps: plan.together * plan.left.rows(plan.unit) * plan.left.columns,
            },
            right_layout: Layout::right(
                plan.kernels,
                right.len(),
                plan.together * plan.right.rows(plan.unit) * plan.right.columns,
            ),
            units: part * plan.part..units.min((part + 1) * plan.part),
            sums: sums.0.wrapping_add((group * plan.parts + part) * plan.sums() + place),
        };
        task.run();
    });
}

/// Some channels of an operand.
struct Side<'a, T> {
    operand: &'a Operand,
    data: &'a [T],
    /// The first channel, of all groups'.
    first: usize,
}

impl<T: Number> Side<'_, T> {
    /// Copies the rows that some lines of an image's output need, from step `at` of the panels on.
    fn copy(
        &self,
        kernels: &Kernels,
        layout: &Layout,
        image: usize,
        lines: &Range<usize>,
        at: usize,
        to: &mut [u32],
    ) {
        let o = self.operand;
        // Pixels of the copy that are inside the image.
        let start = o.padding[1].min(o.columns);
        let end = (o.padding[1] + o.width).min(o.columns).max(start);
        for row in 0..o.rows(lines.len()) {
            let line = lines.start * o.stride[0] + row;
            let pixels = |line: usize| {
                let line = line.checked_sub(o.padding[0]).filter(|&line| line < o.height && end > start)?;
                let pixel = (image * o.height + line) * o.width;
                Some(&self.data[pixel * o.all_channels..(pixel + end - start) * o.all_channels])
            };
            let (low, high) = (pixels(line), if kernels.pairs() { pixels(line + o.half) } else { None });
            for p in 0..layout.panels() {
                let (width, columns) = (layout.width(p), layout.valid(p));
                let cells = &mut to[layout.start(p) + (at + row * o.columns) * width..][..o.columns * width];
                cells[..start * width].fill(0);
                cells[end * width..].fill(0);
                let cells = &mut cells[start * width..end * width];
                let channel = self.first + p * layout.panel;
                let (low, high) = (low.map(|x| &x[channel..]), high.map(|x| &x[channel..]));
                if kernels.pairs() {
                    pack_halves(kernels.isa, low, high, o.all_channels, columns, width, cells);
                } else if let Some(low) = low {
                    let (depth, depth_stride) = (end - start, o.all_channels);
                    let block = Block { depth, depth_stride, columns, column_stride: 1, width };
                    pack_singles(kernels.isa, low, block, cells);
                } else {
                    cells.fill(0);
                }
            }
        }
    }
}

/// Some channels of both operands, over some lines.
struct Task<'a, T> {
    plan: &'a Plan,
    left: Side<'a, T>,
    right: Side<'a, T>,
    left_layout: Layout,
    right_layout: Layout,
    units: Range<usize>,
    /// Of the first tap, the first channels.
    sums: *mut f32,
}

/// For a line of the output: the row pointers of the left operand as addresses, and the step of the right one.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Segment {
    rows: [usize; ROWS],
    step: usize,
}

impl<T: Number> Task<'_, T> {
    fn run(&self) {
        let plan = self.plan;
        with_scratch(self.left_layout.cells() + self.right_layout.cells(), |cells: &mut [u32]| {
            let (left, right) = cells.split_at_mut(self.left_layout.cells());
            with_scratch(plan.together * plan.unit, |segments: &mut [Segment]| {
                for first in self.units.clone().step_by(plan.together) {
                    let units = first..self.units.end.min(first + plan.together);
                    let count = self.copy(units, left, right, segments);
                    self.reduce(right, &segments[..count], first > self.units.start);
                }
            });
        });
    }

    /// Copies what some units need; how many segments that are.
    fn copy(
        &self,
        units: Range<usize>,
        left: &mut [u32],
        right: &mut [u32],
        segments: &mut [Segment],
    ) -> usize {
        let plan = self.plan;
        let (mut at_left, mut at_right, mut count) = (0, 0, 0);
        let width = self.left_layout.width(0);
        for unit in units {
            let (image, unit) = (unit / plan.units_of_image, unit % plan.units_of_image);
            let lines = unit * plan.unit..plan.lines.min((unit + 1) * plan.unit);
            self.left.copy(plan.kernels, &self.left_layout, image, &lines, at_left, left);
            self.right.copy(plan.kernels, &self.right_layout, image, &lines, at_right, right);
            for line in 0..lines.len() {
                let step = |o: &Operand| line * o.stride[0] * o.columns;
                let start = left.as_ptr().wrapping_add((at_left + step(&plan.left)) * width);
                segments[count] = Segment {
                    rows: std::array::from_fn(|r| start.wrapping_add(r) as usize),
                    step: at_right + step(&plan.right),
                };
                count += 1;
            }
            at_left += plan.left.rows(lines.len()) * plan.left.columns;
            at_right += plan.right.rows(lines.len()) * plan.right.columns;
        }
        count
    }

    /// Sums `[tap][left][right]` over what was copied; `carry` on from what is there.
    fn reduce(&self, right: &[u32], segments: &[Segment], carry: bool) {
        let plan = self.plan;
        let (a, b) = (&plan.left, &plan.right);
        let left_width = self.left_layout.width(0);
        with_scratch(segments.len(), |rows: &mut [[usize; ROWS]]| {
            with_scratch(segments.len(), |offsets: &mut [usize]| {
                rows.iter_mut().zip(segments).for_each(|(rows, segment)| *rows = segment.rows);
                for p in 0..self.right_layout.panels() {
                    let width = self.right_layout.width(p);
                    let panel = right[self.right_layout.start(p)..].as_ptr();
                    for (offset, segment) in offsets.iter_mut().zip(segments) {
                        *offset = segment.step * width * STEP;
                    }
                    for first in (0..self.left_layout.columns).step_by(ROWS) {
                        for tap in 0..plan.taps() {
                            let at = [tap / plan.g.kernel[1], tap % plan.g.kernel[1]];
                            let sums =
                                (tap * a.channels + first) * plan.sums_stride() + p * self.right_layout.panel;
                            let tile = Tile {
                                rows: rows.as_ptr().cast(),
                                segments: segments.len(),
                                steps: plan.out_width,
                                offset: (first + a.shift(at) * left_width) * STEP,
                                row_step: a.stride[1] * left_width * STEP,
                                panel: panel.wrapping_add(b.shift(at) * width).cast(),
                                panel_step: b.stride[1] * width * STEP,
                                panel_segment: 0,
                                panel_offsets: offsets.as_ptr(),
                                carry,
                                sums: self.sums.wrapping_add(sums),
                                sums_stride: plan.sums_stride(),
                                adds: [Add::NONE; 2],
                                kept: true,
                                next: [Lines::NONE; 2],
                            };
                            let rows = ROWS.min(self.left_layout.columns - first);
                            // SAFETY: the panels have a step for every pixel that a tap of an output pixel meets;
                            // the sums have whole vectors, and this task alone writes these.
                            unsafe { plan.kernels.run(rows, width, &tile) };
                        }
                    }
                }
            });
        });
    }
}

/// Adds the parts, and turns `[tap][left][right]` into `[output][input][tap]`.
fn collect(pool: &ThreadPool, plan: &Plan, sums: &[f32], out: Shared<'_, f32>) {
    let (taps, stride) = (plan.taps(), plan.sums_stride());
    let (inputs, outputs) = (plan.g.in_channels / plan.g.groups, plan.g.out_channels / plan.g.groups);
    let (for_output, for_input) = if plan.swapped { (1, stride) } else { (stride, 1) };
    pool.run(plan.g.groups * outputs, |index, _| {
        let (group, o) = (index / outputs, index % outputs);
        // SAFETY: every output channel is written by one task.
        let out = unsafe { out.slice(index * inputs * taps, inputs * taps) };
        for tap in 0..taps {
            for part in 0..plan.parts {
                let sums = &sums[(group * plan.parts + part) * plan.sums()..];
                let from = sums[tap * plan.left.channels * stride + o * for_output..].iter();
                let from = from.step_by(for_input).take(inputs);
                for (to, from) in out[tap..].iter_mut().step_by(taps).zip(from) {
                    *to = if part == 0 { *from } else { *to + *from };
                }
            }
        }
    });
}
