//! Packing of columns that are not neighbours: what lies in runs is copied in the order of memory, turned in registers, and
//! divided among the taps.

use super::pack::{Block, Number, pair};
use crate::Isa;
use crate::kernels::elementwise::dispatch::{simd, with_scratch};
use crate::kernels::transpose::transpose;
use crate::kernels::{LINE, Streaming, fetch_far};

/// How many runs ahead memory is asked for one: each lies far from the last, where the processor does not look for it by itself.
const AHEAD: usize = 2;

/// Packs a block for all taps, as numbers or as pairs of them; `cells` are those of each.
pub(super) fn gather<'c, T: Number>(
    isa: Isa,
    pairs: bool,
    data: &[T],
    b: Block,
    taps: &[usize],
    streaming: &Streaming,
    cells: impl Fn(usize) -> &'c mut [u32],
) {
    let last_tap = taps.iter().copied().max().unwrap_or(0);
    // Runs go along the axis whose elements are nearer.
    match b.depth_stride <= b.column_stride {
        true => along_depth(isa, pairs, data, b, taps, streaming, last_tap, cells),
        false => along_columns(isa, pairs, data, b, taps, streaming, last_tap, cells),
    }
}

/// A run for each column: two depths of a tap are a whole number of cells apart, or a half more.
fn along_depth<'c, T: Number>(
    isa: Isa,
    pairs: bool,
    data: &[T],
    b: Block,
    taps: &[usize],
    streaming: &Streaming,
    last_tap: usize,
    cells: impl Fn(usize) -> &'c mut [u32],
) {
    let (per_step, run) = (if pairs { 2 } else { 1 }, (b.depth - 1) * b.depth_stride + last_tap + 1);
    let steps = b.depth.div_ceil(per_step);
    // Cells of a run, with what is missing of the last pair.
    let row = steps * b.depth_stride;
    with_scratch(row * (b.columns + b.width) + b.width, |scratch: &mut [u32]| {
        let (runs, turned) = scratch.split_at_mut(row * b.columns);
        let (turned, step) = turned.split_at_mut(row * b.width);
        for (n, to) in runs.chunks_exact_mut(row).enumerate() {
            let from = &data[n * b.column_stride..][..run];
            fetch_run(data, (n + AHEAD) * b.column_stride, run);
            match pairs {
                true => halves(isa, from, bytemuck::cast_slice_mut(to)),
                false => singles(isa, from, to),
            }
        }
        if b.columns < b.width {
            turned.fill(0);
        }
        transpose(isa, runs, row, [b.columns, row], turned, b.width);
        if b.depth_stride == 1 {
            return streaming.copy(turned, cells(0));
        }
        for (segment, &tap) in taps.iter().enumerate() {
            for (k, to) in cells(segment).chunks_exact_mut(b.width).enumerate() {
                let at = tap + k * per_step * b.depth_stride;
                match pairs {
                    true => {
                        pair_halves(isa, turned, at, b.depth_stride, step);
                        streaming.copy(step, to);
                    }
                    false => streaming.copy(&turned[at * b.width..][..b.width], to),
                }
            }
        }
    });
}

/// A run for each step.
fn along_columns<'c, T: Number>(
    isa: Isa,
    pairs: bool,
    data: &[T],
    b: Block,
    taps: &[usize],
    streaming: &Streaming,
    last_tap: usize,
    cells: impl Fn(usize) -> &'c mut [u32],
) {
    let (per_step, window) = (if pairs { 2 } else { 1 }, last_tap + 1);
    let run = (b.columns - 1) * b.column_stride + window;
    with_scratch(run + window * b.width, |scratch: &mut [u32]| {
        let (row, turned) = scratch.split_at_mut(run);
        turned.fill(0);
        for k in 0..b.depth.div_ceil(per_step) {
            let depth = |i: usize| &data[i * b.depth_stride..][..run];
            for i in 0..per_step {
                fetch_run(data, (k * per_step + i + AHEAD) * b.depth_stride, run);
            }
            match (pairs, 2 * k + 1 < b.depth) {
                (true, true) => paired(isa, depth(2 * k), depth(2 * k + 1), row),
                (true, false) => unpaired(isa, depth(2 * k), row),
                (false, _) => singles(isa, depth(k), row),
            }
            transpose(isa, row, b.column_stride, [b.columns, window], turned, b.width);
            for (segment, &tap) in taps.iter().enumerate() {
                let to = &mut cells(segment)[k * b.width..][..b.width];
                streaming.copy(&turned[tap * b.width..][..b.width], to);
            }
        }
    });
}

/// Brings the lines of a run, which may not be there, into the second-level cache.
fn fetch_run<T>(data: &[T], start: usize, run: usize) {
    let from = data.as_ptr().wrapping_add(start).cast::<u8>();
    for at in (0..run * size_of::<T>()).step_by(LINE) {
        fetch_far(from.wrapping_add(at));
    }
}

simd! {
    /// The nearest brain floating-point numbers, then zeros.
    fn halves<T: Number>(from: &[T], to: &mut [u16]) {
        let (to, rest) = to.split_at_mut(from.len());
        for (to, from) in to.iter_mut().zip(from) {
            *to = from.half();
        }
        rest.fill(0);
    }
}

simd! {
    /// The bits of numbers in single precision, then zeros.
    fn singles<T: Number>(from: &[T], to: &mut [u32]) {
        let (to, rest) = to.split_at_mut(from.len());
        for (to, from) in to.iter_mut().zip(from) {
            *to = from.single().to_bits();
        }
        rest.fill(0);
    }
}

simd! {
    fn paired<T: Number>(low: &[T], high: &[T], to: &mut [u32]) {
        for ((to, low), high) in to.iter_mut().zip(low).zip(high) {
            *to = pair(low.half(), high.half());
        }
    }
}

simd! {
    fn unpaired<T: Number>(low: &[T], to: &mut [u32]) {
        for (to, low) in to.iter_mut().zip(low) {
            *to = pair(low.half(), 0);
        }
    }
}

simd! {
    /// Pairs of the halves `at` and `at + stride` of each column, of which each row has two.
    fn pair_halves(rows: &[u32], at: usize, stride: usize, to: &mut [u32]) {
        let low = &rows[at / 2 * to.len()..][..to.len()];
        let high = &rows[(at + stride) / 2 * to.len()..][..to.len()];
        let (low_shift, high_shift) = (at % 2 * 16, (at + stride + 1) % 2 * 16);
        for ((to, low), high) in to.iter_mut().zip(low).zip(high) {
            *to = low >> low_shift & 0xffff | high << high_shift & 0xffff_0000;
        }
    }
}
