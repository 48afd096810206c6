//! 3x3 convolutions of stride 1 with fewer multiplications than are written: Winograd's F(2x2, 3x3), F(2x4, 3x3) and
//! F(4x4, 3x3) (Lavin and Gray 2016, "Fast algorithms for convolutional neural networks").
//!
//! ```text
//! Y = A' [ (G g G') . (B' d B') ] A        for every 2x2 pixels of the output, d being 4x4 pixels of the input,
//!                                          or for 2x4 of 4x6, or 4x4 of 6x6
//! ```
//!
//! Lines of two are interpolated at 0, 1, -1 and infinity. Lines of four at 0, ±1/√2, ±√2 and infinity: with the usual 0, ±1,
//! ±2 and infinity rounding errors are twice as large (Barabasz et al. 2020, "Error analysis and improving the accuracy of
//! Winograd convolution for deep neural networks", on how they follow from the points).
//!
//! Each of the 16, 24 or 36 points of the transformed tiles is a product of matrices, `[tiles, in] x [in, out]`. They are made
//! for some tiles at a time, in two passes: all threads transform the input of those tiles into memory that stays in the
//! third-level cache; then each takes some tiles and one panel of columns, makes the products of all points in its
//! second-level cache, and transforms them back into pixels, where the epilogue meets them. On AMX tiles a task does all of that for
//! some tiles: see `amx`.

#[cfg(target_arch = "x86_64")]
mod amx;
mod pack;
mod tiles;
mod transform;
mod weight_gradient;

pub(super) use pack::{Windows, pack};
use tiles::{Reader, Tiles};
use transform::{InputTile, OutputTiles, SOME};
pub(super) use transform::{Transforms, avx2, avx512, portable};
pub use weight_gradient::winograd_pays_for_weight_gradient;
pub(super) use weight_gradient::{weight_gradient, weight_gradient_bytes};

use std::ops::Range;

use super::conv::ConvGeometry;
use super::error::GemmError;
use super::finish::{Finish, Sums};
use super::packed::PackedMatrix;
use super::tile::{Add, Kernels, Lines, ROWS, STEP, Tile};
use crate::kernels::LINE;
use crate::kernels::elementwise::dispatch::with_scratch;
use crate::{Data, Isa, ThreadPool};
use velatura_graph::DType;

/// How large the tiles are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tiling {
    /// F(2x2, 3x3): 16 multiplications for 36.
    Small,
    /// F(2x4, 3x3): 24 multiplications for 72. Its weights take 24 ninths of their memory, those of the small tiling 16.
    Wide,
    /// F(4x4, 3x3): 36 multiplications for 144; weights of four times their memory.
    Large,
}

impl Tiling {
    /// All of them.
    pub const ALL: [Tiling; 3] = [Tiling::Small, Tiling::Wide, Tiling::Large];

    /// Pixels of an output tile, down and across.
    const fn out(self) -> [usize; 2] {
        match self {
            Tiling::Small => [2, 2],
            Tiling::Wide => [2, 4],
            Tiling::Large => [4, 4],
        }
    }

    /// Pixels of an input tile, down and across.
    const fn input(self) -> [usize; 2] {
        let [down, across] = self.out();
        [down + 2, across + 2]
    }

    /// Products: points of a transformed tile.
    pub(super) const fn points(self) -> usize {
        let [down, across] = self.input();
        down * across
    }

    /// Pixels of an output tile.
    const fn pixels(self) -> usize {
        let [down, across] = self.out();
        down * across
    }

    /// Tiles of a task: the more, the seldomer the weight comes from the third-level cache, while the products of all points stay in
    /// the second.
    const fn block(self) -> usize {
        match self {
            Tiling::Small => 16 * ROWS,
            Tiling::Wide => 12 * ROWS,
            Tiling::Large => 8 * ROWS,
        }
    }
}

/// The longest line of [`Tiling::input`] and of [`Tiling::out`].
const MOST_IN: usize = Tiling::Large.input()[0];
const MOST_OUT: usize = Tiling::Large.out()[0];

/// Bytes of transformed input that are worked on at a time. Tests take less, so that small images are divided too; it
/// changes no bit.
const CHUNK_BYTES: usize = if cfg!(test) { 64 << 10 } else { 6 << 20 };
/// Columns for which a task reads the transformed input of its tiles, which comes from the third-level cache, once.
const GROUP_COLUMNS: usize = 64;
/// Tasks of each thread that keep all of them evenly busy.
const ENOUGH_TASKS: usize = 8;
/// Tiles that a task transforms.
const TRANSFORMED: usize = 8;

/// The tiling by which a convolution of this shape is faster than directly, and no less exact than is good for it: large
/// enough that products and not transforms take the time. `computed` is the type of the products
/// ([`compute_dtype`](super::compute_dtype)).
///
/// Weights that are `kept` are packed once; then the images of a batch are not counted, so that a picture does not depend on
/// it. Weights that are packed at every step of a training pay from many pixels on, whatever images they belong to. `rough`
/// allows brain floating-point numbers the largest tiling, which rounds them half as much again.
///
/// Single precision [in thirds](super::in_thirds) is as fast directly where an image has less than 256 pixels. On AMX tiles weights must be
/// kept, and the largest tiling gains nothing over the wide one in a network, for all that is faster
/// by itself.
pub fn winograd_pays(
    isa: Isa,
    geometry: &ConvGeometry,
    computed: DType,
    kept: bool,
    rough: bool,
) -> Option<Tiling> {
    let g = geometry;
    let wide = g.in_channels >= 64 && g.in_channels.is_multiple_of(16) && g.out_channels >= 64;
    let repaid = kept || (g.out_pixels() >= 1024 && g.out_height().min(g.out_width()) >= 4);
    // Of smaller images the weights, not the pixels, are most of what is read and kept. More points to a tile round more, which
    // single precision bears.
    match (g.out_height() * g.out_width(), computed) {
        _ if !slides(g) || !wide || !repaid => None,
        _ if super::on_tiles(isa, computed) => pays_on_tiles(g, kept).then_some(Tiling::Wide),
        (..256, _) if super::in_thirds(isa, computed) => None,
        (16..1024, _) if !kept => Some(Tiling::Small),
        (1024.., DType::F32) => Some(Tiling::Large),
        (1024.., _) if rough => Some(Tiling::Large),
        (1024.., _) | (256.., DType::F32) => Some(Tiling::Wide),
        (64.., _) => Some(Tiling::Small),
        _ => None,
    }
}

/// Inputs times outputs of the largest convolution that is faster so on AMX tiles: one of 1280 to 1280 channels is not, one of 1920
/// to 640 by a tenth for 2.7 times the weights.
const MOST_WEIGHTS: usize = 1 << 20;

/// Whether a convolution pays on AMX tiles. As elsewhere small images, which have wide layers, are not worth the memory.
fn pays_on_tiles(g: &ConvGeometry, kept: bool) -> bool {
    let size = g.out_height() * g.out_width() >= 1024 && g.in_channels * g.out_channels <= MOST_WEIGHTS;
    kept && size && fills_tiles(g)
}

/// Whether the channels fill the steps of AMX tiles.
fn fills_tiles(g: &ConvGeometry) -> bool {
    g.in_channels.is_multiple_of(SOME)
}

/// Tiles that are worked on at a time.
fn chunk(tiling: Tiling, g: &ConvGeometry, number: usize) -> usize {
    let all = g.batch * Tiles::new(tiling, g).of_image();
    let most = CHUNK_BYTES / (tiling.points() * g.in_channels * number);
    // To the nearest number of whole blocks: where few fit, one more or less decides whether threads end together.
    let most = ((most + tiling.block() / 2) / tiling.block()).max(1) * tiling.block();
    // Chunks of the same size leave no thread with less to do at the end.
    all.div_ceil(all.div_ceil(most).max(1)).next_multiple_of(ROWS)
}

/// Whether a window of 3x3 goes over all channels pixel by pixel.
fn slides(g: &ConvGeometry) -> bool {
    g.kernel == [3, 3] && g.stride == [1, 1] && g.groups == 1
}

/// Bytes of a transformed number.
fn number(kernels: &Kernels) -> usize {
    if kernels.pairs() { 2 } else { 4 }
}

/// Bytes of memory for the transformed input.
pub(super) fn bytes(kernels: &Kernels, tiling: Tiling, g: &ConvGeometry) -> usize {
    #[cfg(target_arch = "x86_64")]
    if amx::takes(kernels, g) {
        return 0;
    }
    let (tiles, row) = (chunk(tiling, g, number(kernels)), g.in_channels * number(kernels));
    // Blocks are of at least half their size, unless there is but one.
    let blocks = tiles.div_ceil(tiling.block() / 2);
    tiling.points() * (tiles * row + blocks * 2 * LINE)
}

/// Bytes from point to point: an odd number of lines, because the points of a tile are written and read together,
/// and would fall on the same few lines of the first-level cache.
fn apart(bytes: usize) -> usize {
    let lines = bytes.div_ceil(LINE);
    (lines | 1) * LINE
}

/// The transformed input of some tiles: for each block of them `[points][tiles of the block][channels]`.
#[derive(Clone, Copy)]
struct Transformed {
    data: *mut u8,
    points: usize,
    /// Tiles.
    count: usize,
    block: usize,
    /// Bytes of a tile at one point.
    row: usize,
}

// SAFETY: tasks write disjoint tiles, and read when all are written.
unsafe impl Sync for Transformed {}

impl Transformed {
    /// Tiles of a block.
    fn len(&self, block: usize) -> usize {
        self.block.min(self.count - block * self.block)
    }

    /// Bytes from point to point of a block.
    fn point(&self, block: usize) -> usize {
        apart(self.len(block) * self.row)
    }

    /// Where a block begins.
    fn start(&self, block: usize) -> *mut u8 {
        self.data.wrapping_add(block * self.points * apart(self.block * self.row))
    }
}

/// The first element of an image that a product can read, and whether it is stored in 16 bits.
fn image(operation: &'static str, kernels: &Kernels, x: Data<'_>) -> Result<(*const u8, bool), GemmError> {
    match x {
        Data::F32(x) if !kernels.pairs() => Ok((x.as_ptr().cast(), false)),
        Data::Bf16(x) => Ok((x.as_ptr().cast(), true)),
        x => Err(GemmError::Storage {
            operation,
            operand: "the input",
            expected: if kernels.pairs() { "bf16" } else { "f32 or bf16" },
            found: x.dtype(),
        }),
    }
}

/// The convolution, by a weight that was packed for it. `memory` has [`bytes`].
///
/// # Safety
/// The operands have the shapes of the geometry; `finish` was bound for its output.
pub(super) unsafe fn conv2d(
    pool: &ThreadPool,
    tiling: Tiling,
    g: &ConvGeometry,
    x: Data<'_>,
    weight: &PackedMatrix,
    finish: &Finish,
    memory: *mut u8,
) -> Result<(), GemmError> {
    let kernels = weight.kernels;
    let (image, narrow) = image("conv2d", kernels, x)?;
    let places = Tiles::new(tiling, g);
    let all = g.batch * places.of_image();
    let reader = Reader {
        image,
        narrow,
        height: g.height,
        width: g.width,
        channels: g.in_channels,
        padding: [g.padding[0], g.padding[1]],
        size: tiling.input(),
        places,
    };
    #[cfg(target_arch = "x86_64")]
    if amx::takes(kernels, g) {
        // SAFETY: the caller's promise; the kernels were chosen for the processor.
        unsafe { amx::conv2d(pool, g, &reader, weight, finish) };
        return Ok(());
    }
    let step = chunk(tiling, g, number(kernels));
    for first in (0..all).step_by(step.max(1)) {
        let count = step.min(all - first);
        let blocks = count.div_ceil(tiling.block());
        // Blocks of about the same size, of whole rows of the kernel.
        let block = count.div_ceil(blocks).next_multiple_of(ROWS);
        let row = g.in_channels * number(kernels);
        let transformed = Transformed { data: memory, points: tiling.points(), count, block, row };
        pool.run(count.div_ceil(TRANSFORMED), |index, _| {
            for tile in index * TRANSFORMED..count.min((index + 1) * TRANSFORMED) {
                let (block, at) = (tile / transformed.block, tile % transformed.block);
                let input = InputTile {
                    pixels: reader.pixels(first + tile),
                    to: transformed.start(block).wrapping_add(at * transformed.row),
                    point: transformed.point(block),
                    some: SOME * number(kernels),
                };
                // SAFETY: the caller's promise: pixels inside of the image have all channels; one task for each tile.
                unsafe { (kernels.winograd.of(tiling).0)(&input) };
            }
        });
        let (blocks, panels) = (count.div_ceil(block), weight.layout(0).panels());
        // All threads work on the same panels, so that the weights come from memory once.
        let most = panels * blocks / (ENOUGH_TASKS * pool.threads());
        let group = (GROUP_COLUMNS / weight.layout(0).panel).min(most).max(1);
        pool.run(blocks * panels.div_ceil(group), |index, _| {
            let (block, panel) = (index % blocks, index / blocks * group);
            let panels = panel..panels.min(panel + group);
            // SAFETY: the caller's promise; tasks write disjoint pixels or columns.
            unsafe { products(weight, &transformed, block, panels, first, &places, finish) };
        });
    }
    Ok(())
}

/// The products of a block of tiles with some panels, one for each point and panel, and back to pixels.
unsafe fn products(
    weight: &PackedMatrix,
    transformed: &Transformed,
    block: usize,
    panels: Range<usize>,
    first: usize,
    places: &Tiles,
    finish: &Finish,
) {
    let (kernels, layout, steps) = (weight.kernels, weight.layout(0), weight.steps());
    let count = transformed.len(block);
    let start = |panel: usize| weight.panels(0).wrapping_add(layout.start(panel) * STEP);
    let point = apart(count.next_multiple_of(ROWS) * layout.panel * size_of::<f32>()) / size_of::<f32>();
    let (points, pixels) = (places.tiling.points(), ROWS * places.tiling.pixels());
    with_scratch(panels.len() * points * point + pixels * layout.panel, |memory: &mut [f32]| {
        let (sums, pixels) = memory.split_at_mut(panels.len() * points * point);
        for p in 0..points {
            let rows = transformed.start(block).wrapping_add(p * transformed.point(block));
            for (panel, sums) in panels.clone().zip(sums.chunks_exact_mut(points * point)) {
                let width = layout.width(panel);
                let bytes = |panel: usize| steps * layout.width(panel) * STEP;
                // What comes after this panel at this point: the next panel, or the next point.
                let last = panel + 1 == panels.end;
                let (upcoming, at_point) = if last { (panels.start, p + 1) } else { (panel + 1, p) };
                let more = at_point < points;
                let next_rows = if last && more { ROWS * transformed.row } else { 0 };
                let next_bytes = if more { bytes(upcoming) } else { 0 };
                let next_panel = start(upcoming).wrapping_add(at_point * bytes(upcoming));
                for at in (0..count).step_by(ROWS) {
                    let n = ROWS.min(count - at);
                    let row =
                        |r: usize| rows.wrapping_add((at + r.min(n - 1)) * transformed.row).cast_const();
                    let next = rows.wrapping_add(transformed.point(block) + at * transformed.row);
                    let tile = Tile {
                        rows: &[0, 1, 2, 3, 4, 5].map(row),
                        segments: 1,
                        steps,
                        offset: 0,
                        row_step: STEP,
                        panel: start(panel).wrapping_add(p * bytes(panel)),
                        panel_step: width * STEP,
                        panel_segment: 0,
                        panel_offsets: std::ptr::null(),
                        carry: false,
                        sums: sums[p * point + at * width..].as_mut_ptr(),
                        sums_stride: width,
                        adds: [Add::NONE; 2],
                        kept: true,
                        next: [
                            Lines::part(next, next_rows, 0, 1),
                            Lines::part(next_panel, next_bytes, at / ROWS, count.div_ceil(ROWS)),
                        ],
                    };
                    // SAFETY: the caller's promise; the sums have `ROWS` rows for every tile of the kernel.
                    unsafe { kernels.run(n, width, &tile) };
                }
            }
        }
        let tiles = first + block * transformed.block;
        for (panel, sums) in panels.zip(sums.chunks_exact(points * point)) {
            let (width, column, columns) = (layout.width(panel), panel * layout.panel, layout.valid(panel));
            let made = Made { sums, point, width, column, columns };
            // SAFETY: the caller's promise; all points of all tiles were made.
            unsafe { made.write(kernels, places, tiles..tiles + count, finish, pixels) };
        }
    });
}

/// Products of some tiles by a panel: for each point, `point` elements apart, a row of `width` for each tile.
struct Made<'a> {
    sums: &'a [f32],
    point: usize,
    width: usize,
    /// The first column of the output, and how many there are.
    column: usize,
    columns: usize,
}

impl Made<'_> {
    /// Back to pixels, and through the epilogue. `pixels` has room for those of [`ROWS`] tiles.
    ///
    /// # Safety
    /// There are all points of the tiles; the output of `finish` has their pixels, which no other task writes meanwhile.
    unsafe fn write(
        &self,
        kernels: &Kernels,
        places: &Tiles,
        tiles: Range<usize>,
        finish: &Finish,
        pixels: &mut [f32],
    ) {
        let (width, column, columns, [down, across]) =
            (self.width, self.column, self.columns, places.tiling.out());
        let mut outputs = [0; ROWS * MOST_OUT * MOST_OUT];
        for first in tiles.clone().step_by(ROWS) {
            let n = ROWS.min(tiles.end - first);
            // Where the next tiles go, which are far apart.
            for tile in first + ROWS..tiles.end.min(first + 2 * ROWS) {
                let [image, y, x] = places.place(tile);
                for i in 0..down {
                    let row = (image * places.out_height + y + i) * places.out_width + x;
                    finish.fetch(&[row, row + 1, row + 2, row + 3][..across], column, columns);
                }
            }
            let tiles = OutputTiles {
                from: self.sums[(first - tiles.start) * width..].as_ptr(),
                point: self.point,
                tiles: n,
                width,
                to: pixels.as_mut_ptr(),
            };
            // SAFETY: all points of `n` rows; all pixels for each.
            unsafe { (kernels.winograd.of(places.tiling).1)(&tiles) };
            let rows =
                outside_dropped(pixels, width, &mut outputs, |tile| places.place(first + tile), n, places);
            let finished = Sums { data: pixels.as_mut_ptr(), width, rows: &outputs[..rows], column, columns };
            // SAFETY: the caller's promise.
            unsafe { (kernels.finish)(finish, &finished) };
        }
    }
}

/// Names the output rows of the pixels of some tiles, and closes the gaps of pixels that lie outside of the image.
fn outside_dropped(
    pixels: &mut [f32],
    width: usize,
    outputs: &mut [usize],
    place: impl Fn(usize) -> [usize; 3],
    tiles: usize,
    places: &Tiles,
) -> usize {
    let (mut kept, [down, across]) = (0, places.tiling.out());
    for tile in 0..tiles {
        let [image, y, x] = place(tile);
        for i in 0..down * across {
            let (y, x, from) = (y + i / across, x + i % across, tile * down * across + i);
            if y >= places.out_height || x >= places.out_width {
                continue;
            }
            if kept != from {
                pixels.copy_within(from * width..(from + 1) * width, kept * width);
            }
            outputs[kept] = (image * places.out_height + y) * places.out_width + x;
            kept += 1;
        }
    }
    kept
}
