//! The gradient of a weight by Winograd's algorithm, F(3x3, 2x2): what is slid over the image are the gradients of two by two
//! pixels of the output, and what comes out are the nine taps.
//!
//! ```text
//! dW = A' [ sum over tiles of (G e G') . (B' d B') ] A        e being 2x2 pixels of the output's gradient,
//!                                                             d 4x4 pixels of the input
//! ```
//!
//! Tiles of both operands are transformed first, into panels over channels with a step for each tile, or for each two where a
//! step is a pair; the panels of all points of a few steps lie together, so that a task of transforming writes to one place.
//! A task of multiplying has some channels of either; it sums the products of its channels point by point, tiles being what
//! is summed over, and transforms the sums into taps. What tasks found over different tiles is added up last, in order. All
//! of this depends on the shapes alone.

use super::super::conv::ConvGeometry;
use super::super::error::GemmError;
use super::super::linear_gradient::add_parts;
use super::super::pack::{Cells, Layout};
use super::super::scratch;
use super::super::tile::{Add, Kernels, Lines, ROWS, STEP, Tile};
use super::tiles::{Pixels, Reader, Tiles};
use super::transform::{PanelTiles, TapSums};
use super::{Tiling, apart, image, slides};
use crate::kernels::Streaming;
use crate::kernels::elementwise::dispatch::{Shared, with_scratch};
use crate::kernels::transpose::transpose;
use crate::{Data, ThreadPool};
use std::ops::Range;

const TILING: Tiling = Tiling::Small;
const POINTS: usize = TILING.points();
const TAPS: usize = 9;

/// Channels of the output in a task: whole tiles of the kernel, and whole vectors of every instruction set.
const LEFT: usize = 8 * ROWS;
/// Steps that lie together. Tests take less of everything, so that small shapes are divided too.
const TOGETHER: usize = if cfg!(test) { 3 } else { 32 };
/// Such groups that are summed before the next point's: both operands then stay in the second-level cache.
const BLOCK: usize = if cfg!(test) { 2 } else { 16 };
/// Groups that are worth a task of their own.
const PART: usize = if cfg!(test) { 3 } else { 4 };
/// Tasks that keep a few threads evenly busy.
const ENOUGH_TASKS: usize = 16;

/// The tiling by which the gradient of such a convolution's weight is faster than directly: for 3x3 windows of stride 1,
/// channels that fill vectors, and images whose tiles are not mostly outside of them.
pub fn winograd_pays_for_weight_gradient(g: &ConvGeometry) -> Option<Tiling> {
    let wide = g.in_channels >= 64 && g.out_channels >= 64;
    let pays = applies(g) && wide && g.out_height().min(g.out_width()) >= 4;
    pays.then_some(TILING)
}

/// How the work is laid out and divided.
struct Plan {
    g: ConvGeometry,
    kernels: &'static Kernels,
    tiles: usize,
    /// Steps of a group.
    together: usize,
    /// Groups: all, and a part of them that is summed separately.
    groups: usize,
    part: usize,
    parts: usize,
    /// Of a group.
    left: Layout,
    right: Layout,
}

impl Plan {
    fn new(kernels: &'static Kernels, g: &ConvGeometry) -> Self {
        let tiles = g.batch * Tiles::new(TILING, g).of_image();
        let steps = tiles.div_ceil(kernels.depth());
        // Groups of the same size, so that hardly any of the last one's steps are for nothing.
        let together = steps.div_ceil(steps.div_ceil(TOGETHER).max(1)).max(1);
        let groups = steps.div_ceil(together);
        let left = Layout { columns: g.out_channels, panel: LEFT, granule: kernels.lanes, steps: together };
        let right = Layout::right(kernels, g.in_channels, together);
        let tasks = left.panels() * right.panels();
        let parts = ENOUGH_TASKS.div_ceil(tasks.max(1)).min(groups.div_ceil(PART)).max(1);
        let part = groups.div_ceil(parts).max(1);
        let parts = groups.div_ceil(part).max(1);
        Plan { g: *g, kernels, tiles, together, groups, part, parts, left, right }
    }

    /// Elements of the weight.
    fn weight(&self) -> usize {
        self.g.out_channels * self.g.in_channels * TAPS
    }

    /// Bytes of the transformed operands, and of what the parts sum to.
    fn bytes(&self) -> [usize; 3] {
        let sums = if self.parts == 1 { 0 } else { self.parts * self.weight() * size_of::<f32>() };
        [self.groups * group_bytes(&self.left), self.groups * group_bytes(&self.right), sums]
    }
}

/// Bytes from a point of a group to the next.
fn point_bytes(layout: &Layout) -> usize {
    apart(layout.bytes())
}

/// Bytes of all points of a group.
fn group_bytes(layout: &Layout) -> usize {
    POINTS * point_bytes(layout)
}

/// Bytes of scratch memory that [`weight_gradient`] needs.
pub(in super::super) fn weight_gradient_bytes(kernels: &'static Kernels, g: &ConvGeometry) -> usize {
    scratch::total(&Plan::new(kernels, g).bytes())
}

/// The gradient of the weight: x `[N, H, W, in]` and dy `[N, H', W', out]`, of the geometry's sizes and stored alike, to
/// `[out, in, 3, 3]`. Channels are multiples of 16, windows 3x3 of stride 1.
pub(in super::super) fn weight_gradient(
    pool: &ThreadPool,
    kernels: &'static Kernels,
    g: &ConvGeometry,
    x: Data<'_>,
    dy: Data<'_>,
    out: &mut [f32],
    memory: &mut [u8],
) -> Result<(), GemmError> {
    let operation = "conv2d_weight_gradient";
    if !applies(g) {
        return Err(GemmError::Geometry(format!("{g:?}, for Winograd's weight gradient")));
    }
    if x.dtype() != dy.dtype() {
        return Err(GemmError::mixed(operation, x.dtype(), dy.dtype()));
    }
    let plan = Plan::new(kernels, g);
    let [left, right, sums] = scratch::cut(operation, memory, plan.bytes())?;
    let places = Tiles::new(TILING, g);
    let reader = |image, narrow, size, [height, width, channels]: [usize; 3], padding| Reader {
        image,
        narrow,
        height,
        width,
        channels,
        padding,
        size,
        places,
    };
    let (from, narrow) = image(operation, kernels, dy)?;
    let gradient =
        reader(from, narrow, TILING.out(), [g.out_height(), g.out_width(), g.out_channels], [0; 2]);
    let (from, narrow) = image(operation, kernels, x)?;
    let padding = [g.padding[0], g.padding[1]];
    let input = reader(from, narrow, TILING.input(), [g.height, g.width, g.in_channels], padding);
    let (left, right) = (Cells(left.cast()), Cells(right.cast()));
    // SAFETY: lengths were checked, and the memory was cut for both.
    unsafe {
        transform(pool, &plan, &gradient, &plan.left, kernels.winograd.gradient_panels, left);
        transform(pool, &plan, &input, &plan.right, kernels.winograd.input_panels, right);
    }
    let operands = Operands { left, right };
    if plan.parts == 1 {
        multiply(pool, &plan, &operands, &Shared::new(out));
        return Ok(());
    }
    // SAFETY: the memory was cut for it, aligned to 64, and is exclusively ours.
    let parts = unsafe { std::slice::from_raw_parts_mut(sums.cast(), plan.parts * plan.weight()) };
    multiply(pool, &plan, &operands, &Shared::new(parts));
    let columns = g.in_channels * TAPS;
    add_parts(pool, kernels.isa, [g.out_channels, columns, columns], parts, out);
    Ok(())
}

/// Whether [`weight_gradient`] can compute it.
fn applies(g: &ConvGeometry) -> bool {
    slides(g) && g.in_channels.is_multiple_of(16) && g.out_channels.is_multiple_of(16)
}

/// Transforms all tiles of an operand.
///
/// # Safety
/// The reader's images are there, and memory for all points at `to`.
unsafe fn transform(
    pool: &ThreadPool,
    plan: &Plan,
    reader: &Reader,
    layout: &Layout,
    transform: unsafe fn(&PanelTiles),
    to: Cells,
) {
    let depth = plan.kernels.depth();
    pool.run(plan.groups, |group, _| {
        let first = group * plan.together;
        let pixels = |tile: usize| match tile < plan.tiles {
            true => reader.pixels(tile),
            false => Pixels::zero(reader.narrow, reader.channels),
        };
        let tiles = |step: usize| [pixels(step * depth), pixels(step * depth + depth - 1)];
        let steps: [_; TOGETHER] = std::array::from_fn(|step| tiles(first + step));
        let tiles = PanelTiles {
            steps: &steps[..plan.together],
            panel: layout.panel,
            to: to.at(group * group_bytes(layout) / STEP),
            point: point_bytes(layout) / STEP,
        };
        // SAFETY: the caller's promise; a group belongs to one task.
        unsafe { transform(&tiles) };
    });
}

/// Both operands, transformed.
struct Operands {
    left: Cells,
    right: Cells,
}

/// Makes the taps of all parts.
fn multiply(pool: &ThreadPool, plan: &Plan, operands: &Operands, to: &Shared<'_, f32>) {
    let (lefts, rights) = (plan.left.panels(), plan.right.panels());
    pool.run(plan.parts * lefts * rights, |index, _| {
        let (left, index) = (index % lefts, index / lefts);
        let (right, part) = (index % rights, index / rights);
        let groups = part * plan.part..plan.groups.min((part + 1) * plan.part);
        // SAFETY: the operands were transformed; every task has channels or a part of its own.
        unsafe { products(plan, operands, [left, right], groups, part, to) };
    });
}

/// Sums the products of two panels over some groups, and makes taps of the sums.
///
/// # Safety
/// The operands are complete; nobody else writes these taps of this part.
unsafe fn products(
    plan: &Plan,
    operands: &Operands,
    [left, right]: [usize; 2],
    groups: Range<usize>,
    part: usize,
    to: &Shared<'_, f32>,
) {
    let kernels = plan.kernels;
    let (rows, width) = (plan.left.valid(left), plan.right.width(right));
    let left_width = plan.left.width(left);
    let point = apart(rows * width * size_of::<f32>()) / size_of::<f32>();
    let left_start = operands.left.at(plan.left.start(left)).cast::<u8>().cast_const();
    let right_start = operands.right.at(plan.right.start(right)).cast::<u8>().cast_const();
    let (left_group, right_group) = (group_bytes(&plan.left), group_bytes(&plan.right));
    let streaming = Streaming::new(kernels.isa, plan.parts * plan.weight() * size_of::<f32>());
    with_scratch(POINTS * point + 2 * TAPS * width, |memory: &mut [f32]| {
        let (sums, taps) = memory.split_at_mut(POINTS * point);
        let (taps, turned) = taps.split_at_mut(TAPS * width);
        for first_group in groups.clone().step_by(BLOCK) {
            let block = BLOCK.min(groups.end - first_group);
            let offsets: [_; BLOCK] = std::array::from_fn(|i| (first_group + i) * right_group);
            let row = |i: usize, r: usize| left_start.wrapping_add((first_group + i) * left_group + r * STEP);
            let pointers: [[_; ROWS]; BLOCK] = std::array::from_fn(|i| std::array::from_fn(|r| row(i, r)));
            for p in 0..POINTS {
                for first in (0..rows).step_by(ROWS) {
                    let tile = Tile {
                        rows: pointers.as_ptr(),
                        segments: block,
                        steps: plan.together,
                        offset: p * point_bytes(&plan.left) + first * STEP,
                        row_step: left_width * STEP,
                        panel: right_start.wrapping_add(p * point_bytes(&plan.right)),
                        panel_step: width * STEP,
                        panel_segment: 0,
                        panel_offsets: offsets.as_ptr(),
                        carry: first_group > groups.start,
                        sums: sums[p * point + first * width..].as_mut_ptr(),
                        sums_stride: width,
                        adds: [Add::NONE; 2],
                        kept: true,
                        next: [Lines::NONE; 2],
                    };
                    // SAFETY: the caller's promise; the sums have a row for every channel.
                    unsafe { kernels.run(ROWS.min(rows - first), width, &tile) };
                }
            }
        }
        let (column, columns) = (right * plan.right.panel, plan.right.valid(right));
        for row in 0..rows {
            let output = left * LEFT + row;
            let from = part * plan.weight() + (output * plan.g.in_channels + column) * TAPS;
            let sums = TapSums { from: sums[row * width..].as_ptr(), point, width, to: taps.as_mut_ptr() };
            // SAFETY: all points of the row, room for all taps; and the caller's promise.
            unsafe {
                (kernels.winograd.taps)(&sums);
                let turned = bytemuck::cast_slice_mut(&mut turned[..columns * TAPS]);
                transpose(kernels.isa, bytemuck::cast_slice(taps), width, [TAPS, columns], turned, TAPS);
                streaming.copy(turned, bytemuck::cast_slice_mut(to.slice(from, columns * TAPS)));
            }
        }
    });
}
