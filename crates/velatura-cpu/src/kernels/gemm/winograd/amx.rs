//! Winograd's convolution with products on AMX tiles.
//!
//! A task transforms the input of some tiles into its second-level cache, in the order in which the registers are loaded, and takes
//! them through all panels of the weight: what comes from further away is the weight alone, and line after line.

use super::super::conv::ConvGeometry;
use super::super::finish::Finish;
use super::super::packed::PackedMatrix;
use super::super::tile::{Kernels, ROWS, STEP};
use super::tiles::Reader;
use super::transform::{InputTile, SOME};
use super::{Made, Tiling, apart, fills_tiles};
use crate::ThreadPool;
use crate::kernels::amx::{self as unit, At, Fetched, PLACES, ROW, Right, SIDE, TILES, Unit};
use crate::kernels::elementwise::dispatch::with_scratch;

/// Image tiles in two tile registers.
const PAIR: usize = 2 * SIDE;
/// Bytes of transformed input of a task: what stays in the second-level cache beside the sums and a panel.
const INPUT_BYTES: usize = if cfg!(test) { 1 << 18 } else { 800 << 10 };
/// The most pairs of a task, and tasks that keep a few threads evenly busy.
const MOST_PAIRS: usize = 2;
const ENOUGH_TASKS: usize = 8;

/// Whether the products of such a convolution run on tiles.
pub(super) fn takes(kernels: &Kernels, g: &ConvGeometry) -> bool {
    kernels.amx && fills_tiles(g)
}

/// Image tiles of a task, of `all`.
fn block(tiling: Tiling, g: &ConvGeometry, all: usize) -> usize {
    let pair = tiling.points() * PAIR * g.in_channels * 2;
    let most = (INPUT_BYTES / pair).clamp(1, MOST_PAIRS);
    let blocks = all.div_ceil(most * PAIR).max(ENOUGH_TASKS.min(all.div_ceil(PAIR)));
    all.div_ceil(blocks.max(1)).next_multiple_of(PAIR)
}

/// See [`conv2d`](super::conv2d).
///
/// # Safety
/// That of [`conv2d`](super::conv2d); the processor has [`Isa::Amx`](crate::Isa::Amx), and tiles [take](takes) the convolution.
pub(super) unsafe fn conv2d(
    pool: &ThreadPool,
    g: &ConvGeometry,
    reader: &Reader,
    weight: &PackedMatrix,
    finish: &Finish,
) {
    let all = g.batch * reader.places.of_image();
    let block = block(reader.places.tiling, g, all);
    pool.run(all.div_ceil(block.max(1)), |index, _| {
        let first = index * block;
        // SAFETY: the caller's promise; tasks write disjoint pixels.
        unsafe { task(reader, weight, finish, first, block.min(all - first)) };
    });
}

/// `count` image tiles from the first on, by all panels.
unsafe fn task(reader: &Reader, weight: &PackedMatrix, finish: &Finish, first: usize, count: usize) {
    let (kernels, layout, places) = (weight.kernels, weight.layout(0), &reader.places);
    let (points, pairs, units) = (places.tiling.points(), count.div_ceil(PAIR), weight.depth / SOME);
    let input_point = apart(pairs * units * TILES);
    let point = apart(pairs * PAIR * PAIR * size_of::<f32>());
    let pixels = ROWS * places.tiling.pixels() * PAIR * size_of::<f32>();
    with_scratch(points * (input_point + point) + pixels, |memory: &mut [u8]| {
        let (input, memory) = memory.split_at_mut(points * input_point);
        let (sums, pixels) = memory.split_at_mut(points * point);
        let (sums, pixels) = (bytemuck::cast_slice_mut::<u8, f32>(sums), bytemuck::cast_slice_mut(pixels));
        for tile in 0..count {
            let place = tile / PAIR * units * TILES + tile % PAIR * ROW;
            let input = InputTile {
                pixels: reader.pixels(first + tile),
                to: input[place..].as_mut_ptr(),
                point: input_point,
                some: TILES,
            };
            // SAFETY: the caller's promise: pixels inside of the image have all channels.
            unsafe { (kernels.winograd.of(places.tiling).0)(&input) };
        }
        // SAFETY: the caller's promise; no other unit is taken while this one is.
        let unit = unsafe { Unit::take() };
        // Panels are as wide as a tile, and taken two by two.
        for panel in (0..layout.panels()).step_by(2) {
            let two = panel + 1 < layout.panels();
            let products = Products {
                unit: &unit,
                input: input.as_ptr(),
                input_point,
                units,
                panels: Right {
                    from: weight.panels(0).wrapping_add(layout.start(panel) * STEP),
                    stride: ROW,
                    apart: layout.start(1) * STEP,
                },
                sums: sums.as_mut_ptr(),
                point: point / size_of::<f32>(),
            };
            // SAFETY: the input was made; panels have a segment for each point, and there is room for all sums.
            unsafe {
                match two {
                    true => products.run::<2>(points, pairs),
                    false => products.run::<1>(points, pairs),
                }
            }
            let column = panel * layout.panel;
            let (width, columns) = (if two { PAIR } else { SIDE }, PAIR.min(layout.columns - column));
            let made = Made { sums, point: point / size_of::<f32>(), width, column, columns };
            // SAFETY: the caller's promise; all points of all tiles were made.
            unsafe { made.write(kernels, places, first..first + count, finish, pixels) };
        }
    });
}

/// The products of a task with two panels, or one.
struct Products<'a> {
    unit: &'a Unit,
    /// For each point and pair of tiles of rows, and [`SOME`] channels at a time, two tiles.
    input: *const u8,
    /// Bytes from point to point.
    input_point: usize,
    /// Times [`SOME`] channels.
    units: usize,
    panels: Right,
    sums: *mut f32,
    /// Elements from point to point.
    point: usize,
}

impl Products<'_> {
    /// By `C` panels.
    ///
    /// # Safety
    /// All operands are there, and room for the sums.
    unsafe fn run<const C: usize>(&self, points: usize, pairs: usize) {
        let width = C * SIDE;
        let segment = self.units * SIDE * ROW;
        // Where those go that are in the registers.
        let mut before: Option<*mut f32> = None;
        for point in 0..points {
            let panels = self.panels.later(point * self.units);
            for pair in 0..pairs {
                let input = self.input.wrapping_add(point * self.input_point + pair * self.units * TILES);
                let mut a = At { from: input, stride: TILES };
                let mut b = panels;
                let sums = self.sums.wrapping_add(point * self.point + pair * PAIR * width);
                // A part of the weight of the next point.
                let next = panels.from.wrapping_add(segment + segment / pairs * pair);
                let far = Fetched::Far(At { from: next, stride: TILES / pairs / PLACES });
                // SAFETY: the caller's promise.
                unsafe {
                    match before {
                        Some(before) if C == 2 => {
                            unit::exchange::<false>(self.unit, a, b, before, None, width);
                            a.from = a.from.wrapping_add(TILES);
                            b = b.later(1);
                            if self.units > 1 {
                                unit::multiply_passing::<false, 2, C>(self.unit, self.units - 1, a, b, far);
                            }
                        }
                        _ => {
                            unit::clear::<2, C>(self.unit);
                            unit::multiply_passing::<false, 2, C>(self.unit, self.units, a, b, far);
                            if C < 2 {
                                unit::store::<2, C>(self.unit, sums, width);
                            }
                        }
                    }
                }
                before = Some(sums);
            }
        }
        if let Some(last) = before.filter(|_| C == 2) {
            // SAFETY: the caller's promise.
            unsafe { unit::store::<2, C>(self.unit, last, width) };
        }
    }
}
