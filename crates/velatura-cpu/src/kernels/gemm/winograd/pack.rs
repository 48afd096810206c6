//! The transform of the weights, `G g G'`, into panels: one segment for each point. Matrices as of the other transforms.

use std::f32::consts::{FRAC_1_SQRT_2, SQRT_2};
use std::ops::Range;

use super::super::pack::{Cells, Layout, Number, bf16_bits};
use super::super::tile::Kernels;
use super::{MOST_IN, Tiling};
use crate::kernels::elementwise::dispatch::{simd, with_scratch};
use crate::kernels::transpose::transpose;
use crate::{Isa, ThreadPool};

/// Taps of a window.
const TAPS: usize = 9;
/// Depth of one task of packing.
const DEPTH: usize = 32;
/// The greatest [`Tiling::points`].
const MOST_POINTS: usize = MOST_IN * MOST_IN;
/// Columns that are transformed at a time.
const LANES: usize = 64;
/// Elements from tap to tap: an odd number of lines of the caches, so that a column of taps does not fall on a few of them.
const ROW: usize = LANES + 16;

/// Taps to points of one row of a panel: by tiling.
type Transform = fn(Isa, &[f32], &mut [[f32; LANES]; MOST_POINTS]);

/// The 3x3 windows of a weight: that of depth `k` and column `n` begins at `k * depth_stride + n * column_stride`.
pub(in super::super) struct Windows<'a, T> {
    pub data: &'a [T],
    pub depth: usize,
    pub depth_stride: usize,
    pub column_stride: usize,
    /// Whether they are read from the last tap to the first, as the gradient of the input wants them.
    pub turned: bool,
}

impl<T: Number> Windows<'_, T> {
    /// The taps of some depths and columns, [`ROW`] elements apart, a column each; what is missing of [`LANES`] columns is
    /// zero. `runs` has room for as many.
    fn read(
        &self,
        isa: Isa,
        depths: Range<usize>,
        columns: Range<usize>,
        runs: &mut [f32],
        taps: &mut [f32],
    ) {
        if columns.len() < LANES {
            taps.fill(0.0);
        }
        let first = depths.start * self.depth_stride + columns.start * self.column_stride;
        // Columns lie apart, or depths do; the other axis is a run.
        if self.depth_stride == TAPS {
            let run = depths.len() * TAPS;
            for (n, to) in runs.chunks_exact_mut(run).take(columns.len()).enumerate() {
                widen(isa, &self.data[first + n * self.column_stride..][..run], to);
            }
            turn(isa, runs, [columns.len(), run], taps);
        } else {
            let run = columns.len() * TAPS;
            for (k, taps) in taps.chunks_exact_mut(TAPS * ROW).take(depths.len()).enumerate() {
                widen(isa, &self.data[first + k * self.depth_stride..][..run], &mut runs[..run]);
                turn(isa, runs, [columns.len(), TAPS], taps);
            }
        }
        if self.turned {
            for taps in taps.chunks_exact_mut(TAPS * ROW) {
                for t in 0..TAPS / 2 {
                    let (before, after) = taps.split_at_mut((TAPS - 1 - t) * ROW);
                    before[t * ROW..][..LANES].swap_with_slice(&mut after[..LANES]);
                }
            }
        }
    }
}

/// Rows to columns, [`ROW`] elements apart.
fn turn(isa: Isa, from: &[f32], [rows, columns]: [usize; 2], to: &mut [f32]) {
    let (from, to) = (bytemuck::cast_slice(from), bytemuck::cast_slice_mut(to));
    transpose(isa, from, columns, [rows, columns], to, ROW);
}

/// Packs the windows of a weight for a tiling.
///
/// # Safety
/// `to` has room for `layout.cells()`, whose steps are those of a segment of the windows' depth for each point.
pub(in super::super) unsafe fn pack<T: Number>(
    tiling: Tiling,
    pool: &ThreadPool,
    kernels: &Kernels,
    windows: &Windows<'_, T>,
    layout: &Layout,
    to: *mut u32,
) {
    let (isa, pairs) = (kernels.isa, kernels.pairs());
    let transform: Transform = match tiling {
        Tiling::Small => small,
        Tiling::Wide => wide,
        Tiling::Large => large,
    };
    let points = tiling.points();
    let steps = layout.steps / points;
    let (to, chunks) = (Cells(to), windows.depth.div_ceil(DEPTH));
    pool.run(layout.panels() * chunks, |index, _| {
        let (panel, first) = (index / chunks, index % chunks * DEPTH);
        let (count, width) = (DEPTH.min(windows.depth - first), layout.width(panel));
        let (mut low, mut high) = ([[0.0; LANES]; MOST_POINTS], [[0.0; LANES]; MOST_POINTS]);
        with_scratch(count * TAPS * (ROW + LANES), |scratch: &mut [f32]| {
            let (taps, runs) = scratch.split_at_mut(count * TAPS * ROW);
            let column = panel * layout.panel;
            windows.read(isa, first..first + count, column..column + layout.valid(panel), runs, taps);
            let per_step = if pairs { 2 } else { 1 };
            for k in (0..count).step_by(per_step) {
                let taps = &taps[k * TAPS * ROW..];
                let row = (first + k) / per_step;
                let cell = |point: usize| {
                    let at = layout.start(panel) + (point * steps + row) * width;
                    // SAFETY: the caller's promise; one task for each row of a panel.
                    unsafe { std::slice::from_raw_parts_mut(to.at(at), width) }
                };
                transform(isa, &taps[..TAPS * ROW], &mut low);
                if !pairs {
                    low[..points].iter().enumerate().for_each(|(p, x)| singles(isa, x, cell(p)));
                    continue;
                }
                match k + 1 < count {
                    true => transform(isa, &taps[TAPS * ROW..][..TAPS * ROW], &mut high),
                    false => high.as_flattened_mut().fill(0.0),
                }
                for (p, (low, high)) in low[..points].iter().zip(&high).enumerate() {
                    pair_up(isa, low, high, cell(p));
                }
            }
        });
    });
}

simd! {
    /// A run in single precision.
    fn widen<T: Number>(from: &[T], to: &mut [f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = from.single();
        }
    }
}

/// `G g` along one axis.
#[inline(always)]
fn line<const IN: usize>(g: [f32; 3]) -> [f32; IN] {
    let mut out = [0.0; IN];
    if IN == 4 {
        let (outer, middle) = (0.5 * (g[0] + g[2]), 0.5 * g[1]);
        out[0] = g[0];
        out[1] = outer + middle;
        out[2] = outer - middle;
        out[3] = g[2];
    } else {
        let (near, far) = (g[0] + 0.5 * g[2], g[0] + 2.0 * g[2]);
        out[0] = g[0];
        out[1] = (near + FRAC_1_SQRT_2 * g[1]) / -1.5;
        out[2] = (near - FRAC_1_SQRT_2 * g[1]) / -1.5;
        out[3] = (far + SQRT_2 * g[1]) / 6.0;
        out[4] = (far - SQRT_2 * g[1]) / 6.0;
        out[5] = g[2];
    }
    out
}

/// `G g G'` of every column, from rows of taps to rows of points, `DOWN` by `ACROSS`.
#[inline(always)]
fn transform<const DOWN: usize, const ACROSS: usize>(taps: &[f32], points: &mut [[f32; LANES]; MOST_POINTS]) {
    let tap = |t: usize| -> &[f32; LANES] { taps[t * ROW..][..LANES].try_into().unwrap_or(&[0.0; LANES]) };
    let taps: [&[f32; LANES]; TAPS] = std::array::from_fn(tap);
    for n in 0..LANES {
        let lines: [[f32; ACROSS]; 3] =
            std::array::from_fn(|i| line(std::array::from_fn(|j| taps[i * 3 + j][n])));
        for j in 0..ACROSS {
            let column: [f32; DOWN] = line([lines[0][j], lines[1][j], lines[2][j]]);
            for i in 0..DOWN {
                points[i * ACROSS + j][n] = column[i];
            }
        }
    }
}

simd! {
    fn small(taps: &[f32], points: &mut [[f32; LANES]; MOST_POINTS]) {
        transform::<4, 4>(taps, points);
    }
}

simd! {
    fn wide(taps: &[f32], points: &mut [[f32; LANES]; MOST_POINTS]) {
        transform::<4, 6>(taps, points);
    }
}

simd! {
    fn large(taps: &[f32], points: &mut [[f32; LANES]; MOST_POINTS]) {
        transform::<6, 6>(taps, points);
    }
}

simd! {
    fn singles(from: &[f32; LANES], cells: &mut [u32]) {
        for (cell, x) in cells.iter_mut().zip(from) {
            *cell = x.to_bits();
        }
    }
}

simd! {
    fn pair_up(low: &[f32; LANES], high: &[f32; LANES], cells: &mut [u32]) {
        for ((cell, low), high) in cells.iter_mut().zip(low).zip(high) {
            *cell = u32::from(bf16_bits(*low)) | u32::from(bf16_bits(*high)) << 16;
        }
    }
}
