//! Packing of operands into panels that the tile kernel streams.
//!
//! A panel holds `width` columns: `[segments][steps][width]` 32-bit cells, where a cell is one
//! single-precision number, or two successive brain floating-point numbers of a column. Depths that do not
//! fill the last pair, and columns that do not fill the last vector, are zero.

use half::{bf16, f16};

use super::gather::gather;
use super::tile::{Kernels, ROWS, STEP};
use crate::kernels::Streaming;
use crate::kernels::elementwise::dispatch::simd;
use crate::{Isa, ThreadPool};

/// The bits of the nearest brain floating-point number, ties to even.
#[inline(always)]
pub(super) fn bf16_bits(x: f32) -> u16 {
    crate::kernels::elementwise::dispatch::round_bf16(x).to_bits()
}

/// An element type that can be packed.
pub(super) trait Number: Copy + Send + Sync {
    fn single(self) -> f32;
    fn half(self) -> u16;
}

impl Number for f32 {
    #[inline(always)]
    fn single(self) -> f32 {
        self
    }
    #[inline(always)]
    fn half(self) -> u16 {
        bf16_bits(self)
    }
}

impl Number for bf16 {
    #[inline(always)]
    fn single(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn half(self) -> u16 {
        self.to_bits()
    }
}

impl Number for f16 {
    /// Exact, and without a branch: infinities and what is not a number keep an exponent of all ones.
    #[inline(always)]
    fn single(self) -> f32 {
        let bits = u32::from(self.to_bits());
        let sign = (bits & 0x8000) << 16;
        // The exponents' biases differ by 112; numbers below the least normal one come out right as well.
        let scaled = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
        let special = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
        f32::from_bits(scaled.to_bits() | special | sign)
    }
    #[inline(always)]
    fn half(self) -> u16 {
        bf16_bits(self.single())
    }
}

/// How the columns of a matrix are divided into panels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub columns: usize,
    /// Columns of a full panel.
    pub panel: usize,
    /// The last panel's columns are rounded up to a multiple of it.
    pub granule: usize,
    /// Steps of all segments together.
    pub steps: usize,
}

impl Layout {
    /// Panels of the second operand.
    pub(super) fn right(kernels: &Kernels, columns: usize, steps: usize) -> Self {
        Layout { columns, panel: kernels.panel, granule: kernels.lanes, steps }
    }

    /// Panels of the rows of the first operand, where its depth is not contiguous.
    pub(super) fn left(rows: usize, steps: usize) -> Self {
        Layout { columns: rows, panel: ROWS, granule: ROWS, steps }
    }

    pub(super) fn panels(&self) -> usize {
        self.columns.div_ceil(self.panel)
    }

    /// Columns of the matrix in panel `p`.
    pub(super) fn valid(&self, p: usize) -> usize {
        self.panel.min(self.columns - p * self.panel)
    }

    /// Columns of panel `p` with its padding.
    pub(super) fn width(&self, p: usize) -> usize {
        self.valid(p).next_multiple_of(self.granule)
    }

    /// Cells before panel `p`.
    pub(super) fn start(&self, p: usize) -> usize {
        p * self.panel * self.steps
    }

    /// Cells of all panels.
    pub(super) fn cells(&self) -> usize {
        self.columns.next_multiple_of(self.granule) * self.steps
    }

    pub(super) fn bytes(&self) -> usize {
        self.cells() * STEP
    }
}

/// Where the elements of the matrix are: `data[base + item * item_stride + tap + k * depth_stride + n *
/// column_stride]` for depth `k` and column `n`, one segment for each tap.
#[derive(Clone, Copy)]
pub(super) struct Source<'a, T> {
    pub data: &'a [T],
    pub items: usize,
    pub item_stride: usize,
    pub taps: &'a [usize],
    pub depth: usize,
    pub depth_stride: usize,
    pub column_stride: usize,
}

/// Steps of one task of packing: with 64 columns a task writes 16 KiB.
const CHUNK: usize = 64;
/// Of one that gathers, of all taps together: columns that lie apart are read in runs worth asking for.
const GATHERED: usize = 288;

/// Where panels go.
#[derive(Clone, Copy)]
pub(super) struct Cells(pub *mut u32);

// SAFETY: tasks write disjoint cells.
unsafe impl Sync for Cells {}

impl Cells {
    pub(super) fn at(&self, offset: usize) -> *mut u32 {
        self.0.wrapping_add(offset)
    }
}

/// Packs all items one after another into `to`.
///
/// # Safety
/// `to` has room for `source.items * layout.cells()` cells, which nothing else uses meanwhile; the source's
/// strides stay inside its data (checked by slicing).
pub(super) unsafe fn pack<T: Number>(
    pool: &ThreadPool,
    isa: Isa,
    pairs: bool,
    source: &Source<'_, T>,
    layout: &Layout,
    to: *mut u32,
) {
    let per_step = if pairs { 2 } else { 1 };
    let steps = source.depth.div_ceil(per_step);
    debug_assert_eq!(steps * source.taps.len(), layout.steps);
    // What lies apart is gathered for all taps at once.
    let gathered = source.column_stride != 1;
    let chunk = if gathered { (GATHERED / source.taps.len()).max(8) } else { CHUNK };
    let chunks = steps.div_ceil(chunk);
    // Narrow panels are packed several at a time, so that each cache line is read once.
    let group = (64 / layout.panel).max(1);
    let groups = layout.panels().div_ceil(group);
    let (to, bytes) = (Cells(to), source.items * layout.bytes());
    pool.run(source.items * groups * chunks, |index, _| {
        let (at, index) = (index % chunks, index / chunks);
        let (first, item) = (index % groups * group, index / groups);
        let first_step = at * chunk;
        let streaming = Streaming::new(isa, bytes);
        let count = chunk.min(steps - first_step);
        for p in first..layout.panels().min(first + group) {
            let width = layout.width(p);
            let base = item * source.item_stride
                + first_step * per_step * source.depth_stride
                + p * layout.panel * source.column_stride;
            let cells = |segment: usize| {
                let start = item * layout.cells() + layout.start(p) + (segment * steps + first_step) * width;
                // SAFETY: inside the room that the caller promises, and in no other task's part.
                unsafe { std::slice::from_raw_parts_mut(to.at(start), count * width) }
            };
            let block = Block {
                depth: (source.depth - first_step * per_step).min(count * per_step),
                depth_stride: source.depth_stride,
                columns: layout.valid(p),
                column_stride: source.column_stride,
                width,
            };
            if gathered {
                gather(isa, pairs, &source.data[base..], block, source.taps, &streaming, cells);
                continue;
            }
            for (segment, tap) in source.taps.iter().enumerate() {
                let data = &source.data[base + tap..];
                streaming.write(cells(segment), |to| match pairs {
                    true => pack_pairs(isa, data, block, to),
                    false => pack_singles(isa, data, block, to),
                });
            }
        }
    });
}

/// A part of a panel: `depth` by `columns` elements into rows of `width` cells.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub depth: usize,
    pub depth_stride: usize,
    pub columns: usize,
    pub column_stride: usize,
    pub width: usize,
}

simd! {
    /// One segment: every row of `data` is a step, and columns are neighbours.
    pub(super) fn pack_singles<T: Number>(data: &[T], b: Block, cells: &mut [u32]) {
        if b.columns < b.width {
            cells.fill(0);
        }
        for (k, row) in cells.chunks_exact_mut(b.width).enumerate() {
            fill_singles(row, &data[k * b.depth_stride..][..b.columns]);
        }
    }
}

/// Makes one row of cells by position. The panels of A are narrow: unrolled they pack much faster.
#[inline(always)]
fn fill_row(row: &mut [u32], count: usize, cell: impl Fn(usize) -> u32) {
    if let (ROWS, Some(row)) = (count, row.first_chunk_mut::<ROWS>()) {
        for i in 0..ROWS {
            row[i] = cell(i);
        }
    } else {
        for (i, to) in row.iter_mut().take(count).enumerate() {
            *to = cell(i);
        }
    }
}

/// Makes one row of single-precision numbers.
#[inline(always)]
fn fill_singles<T: Number>(row: &mut [u32], from: &[T]) {
    if from.len() == ROWS {
        fill_row(row, ROWS, |i| from[i].single().to_bits());
    } else {
        // As below.
        for (to, from) in row.iter_mut().zip(from) {
            *to = from.single().to_bits();
        }
    }
}

/// Makes one row of pairs.
#[inline(always)]
fn fill_pairs<T: Number>(row: &mut [u32], low: &[T], high: &[T]) {
    if low.len() == ROWS {
        fill_row(row, ROWS, |i| pair(low[i].half(), high[i].half()));
    } else {
        // Without bounds to check the loop vectorises.
        for ((to, low), high) in row.iter_mut().zip(low).zip(high) {
            *to = pair(low.half(), high.half());
        }
    }
}

#[inline(always)]
pub(super) fn pair(low: u16, high: u16) -> u32 {
    u32::from(low) | u32::from(high) << 16
}

simd! {
    /// One segment of pairs: every two rows of `data` are a step, and columns are neighbours.
    pub(super) fn pack_pairs<T: Number>(data: &[T], b: Block, cells: &mut [u32]) {
        if b.columns < b.width {
            cells.fill(0);
        }
        for (k, row) in cells.chunks_exact_mut(b.width).enumerate() {
            let low = &data[2 * k * b.depth_stride..][..b.columns];
            if 2 * k + 1 < b.depth {
                let high = &data[(2 * k + 1) * b.depth_stride..][..b.columns];
                fill_pairs(row, low, high);
            } else {
                fill_row(row, b.columns, |i| pair(low[i].half(), 0));
            }
        }
    }
}

simd! {
    /// One segment of pairs: every row of `low` and `high` is a step; either may be missing. `stride` elements
    /// from row to row, of which `columns` are taken.
    pub(super) fn pack_halves<T: Number>(
        low: Option<&[T]>,
        high: Option<&[T]>,
        stride: usize,
        columns: usize,
        width: usize,
        cells: &mut [u32],
    ) {
        if columns < width {
            cells.fill(0);
        }
        let rows = cells.chunks_exact_mut(width);
        match (low, high) {
            (Some(low), Some(high)) => {
                for ((row, low), high) in rows.zip(low.chunks(stride)).zip(high.chunks(stride)) {
                    fill_pairs(row, &low[..columns], &high[..columns]);
                }
            }
            (Some(low), None) => {
                for (row, low) in rows.zip(low.chunks(stride)) {
                    let low = &low[..columns];
                    fill_row(row, columns, |i| pair(low[i].half(), 0));
                }
            }
            (None, Some(high)) => {
                for (row, high) in rows.zip(high.chunks(stride)) {
                    let high = &high[..columns];
                    fill_row(row, columns, |i| pair(0, high[i].half()));
                }
            }
            (None, None) => cells.fill(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_sixteen_bits_is_widened_exactly() {
        for bits in 0..=u16::MAX {
            let x = f16::from_bits(bits);
            assert!(x.is_nan() == x.single().is_nan(), "{bits:x}");
            assert!(x.is_nan() || x.to_f32().to_bits() == x.single().to_bits(), "{bits:x}");
        }
    }
}
