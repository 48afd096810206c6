//! Sums, means and maxima over any set of axes. The order of additions depends on the shape alone: a long
//! axis is cut into fixed parts whose results are added in order.

use half::bf16;

use super::dispatch::{BLOCK, Out, Shared, buffer_len, for_chunks, read, simd, with_scratch};
use super::shape::{MAX_DIMS, contiguous_strides};
use crate::{Data, DataMut, Isa, ThreadPool};

/// What to compute over the reduced axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    /// Sum.
    Sum,
    /// Sum divided by the number of elements.
    Mean,
    /// Greatest element; NaN where there is one.
    Max,
}

/// Rows of a column-wise reduction that one task handles.
const ROWS: usize = 256;
/// Elements of a row-wise reduction that one task handles.
const PART: usize = 16 * BLOCK;

/// Reduces `axes` of `x`; `out` has the remaining axes in order (kept axes of length one or dropped ones
/// are the same memory). Any mix of `F32` and `Bf16`; accumulation in `F32` lanes over short parts.
pub fn reduce(
    pool: &ThreadPool,
    isa: Isa,
    op: Reduce,
    x: Data<'_>,
    shape: &[usize],
    axes: &[usize],
    out: DataMut<'_>,
) {
    assert_eq!(x.len(), shape.iter().product::<usize>(), "reduce: input and its shape");
    let (groups, count) = merge(shape, axes);
    let reduced: usize = groups[..count].iter().filter(|g| g.1).map(|g| g.0).product();
    let kept: usize = groups[..count].iter().filter(|g| !g.1).map(|g| g.0).product();
    assert_eq!(out.len(), kept, "reduce: output size");
    if kept == 0 {
        return;
    }
    let scale = if op == Reduce::Mean { 1.0 / reduced as f32 } else { 1.0 };
    let max = op == Reduce::Max;
    let out = Out::new(out);
    match groups[..count] {
        [] => rows(pool, isa, max, scale, x, 1, 1, &out),
        [(n, false)] => rows(pool, isa, max, scale, x, n, 1, &out),
        [(n, true)] => rows(pool, isa, max, scale, x, 1, n, &out),
        [(n, false), (m, true)] => rows(pool, isa, max, scale, x, n, m, &out),
        [(m, true), (c, false)] => columns(pool, isa, max, scale, x, [1, m, c], &out),
        [(n, false), (m, true), (c, false)] => columns(pool, isa, max, scale, x, [n, m, c], &out),
        _ => general(pool, isa, max, scale, x, shape, axes, &out, kept),
    }
}

/// Neighbouring axes of the same kind become one: `(length, reduced)`.
fn merge(shape: &[usize], axes: &[usize]) -> ([(usize, bool); MAX_DIMS], usize) {
    assert!(shape.len() <= MAX_DIMS, "reduce: at most {MAX_DIMS} axes");
    let mut groups = [(1, false); MAX_DIMS];
    let mut count = 0;
    for (axis, &n) in shape.iter().enumerate() {
        let reduced = axes.contains(&axis);
        if n == 1 {
            continue;
        }
        if count > 0 && groups[count - 1].1 == reduced {
            groups[count - 1].0 *= n;
        } else {
            groups[count] = (n, reduced);
            count += 1;
        }
    }
    (groups, count)
}

fn start_value(max: bool) -> f32 {
    if max { f32::NEG_INFINITY } else { 0.0 }
}

fn join(max: bool, a: f32, b: f32) -> f32 {
    if !max {
        a + b
    } else if a > b || a.is_nan() {
        a
    } else {
        b
    }
}

/// `[n, m] -> [n]`
#[allow(clippy::too_many_arguments)]
fn rows(pool: &ThreadPool, isa: Isa, max: bool, scale: f32, x: Data<'_>, n: usize, m: usize, out: &Out<'_>) {
    let parts = m.div_ceil(PART).max(1);
    with_scratch(n * parts, |partial: &mut [f32]| {
        let shared = Shared::new(partial);
        // Short rows share a task.
        for_chunks(pool, n * parts, (PART / m.max(1)).max(1), |start, count| {
            let mut buffer = [0.0; BLOCK];
            // SAFETY: chunks are disjoint.
            let results = unsafe { shared.slice(start, count) };
            for (unit, result) in (start..).zip(results) {
                let (row, part) = (unit / parts, unit % parts);
                let end = ((part + 1) * PART).min(m);
                let mut total = start_value(max);
                for first in (part * PART..end).step_by(BLOCK) {
                    let len = BLOCK.min(end - first);
                    let x = read(isa, x, row * m + first, len, &mut buffer);
                    total = join(max, total, if max { max_of(isa, x) } else { sum_of(isa, x) });
                }
                *result = total;
            }
        });
        for_chunks(pool, n, PART, |start, count| {
            // SAFETY: chunks are disjoint, and all results are in place.
            unsafe {
                let results = shared.read(start * parts, count * parts);
                out.write(isa, start, count, |out| {
                    for (o, parts) in out.iter_mut().zip(results.chunks_exact(parts)) {
                        *o = scale * parts.iter().fold(start_value(max), |a, &b| join(max, a, b));
                    }
                });
            }
        });
    });
}

/// `[n, m, c] -> [n, c]`
fn columns(
    pool: &ThreadPool,
    isa: Isa,
    max: bool,
    scale: f32,
    x: Data<'_>,
    [n, m, c]: [usize; 3],
    out: &Out<'_>,
) {
    let parts = m.div_ceil(ROWS).max(1);
    with_scratch(n * parts * c, |partial: &mut [f32]| {
        let shared = Shared::new(partial);
        let per_task = (PART / (m.min(ROWS) * c).max(1)).max(1);
        for_chunks(pool, n * parts, per_task, |start, count| {
            with_scratch(buffer_len(x, c), |buffer: &mut [f32]| {
                for unit in start..start + count {
                    let (image, part) = (unit / parts, unit % parts);
                    // SAFETY: each unit has its own part.
                    let total = unsafe { shared.slice(unit * c, c) };
                    total.fill(start_value(max));
                    let rows = part * ROWS..((part + 1) * ROWS).min(m);
                    let elements = (image * m + rows.start) * c..(image * m + rows.end) * c;
                    match x {
                        Data::F32(x) if !max => add_rows(isa, &x[elements], total),
                        Data::Bf16(x) if !max => add_short_rows(isa, &x[elements], total),
                        _ => {
                            for start in elements.step_by(c) {
                                max_into(isa, read(isa, x, start, c, buffer), total);
                            }
                        }
                    }
                }
            });
        });
        let unit = CHANNELS.min(c.max(1));
        let per_image = c.div_ceil(unit);
        for_chunks(pool, n * per_image, 1, |index, _| {
            let (image, first) = (index / per_image, index % per_image * unit);
            let len = unit.min(c - first);
            let mut total = [0.0; CHANNELS];
            let total = &mut total[..len];
            total.fill(start_value(max));
            for part in 0..parts {
                // SAFETY: only read now.
                let x = unsafe { shared.read((image * parts + part) * c + first, len) };
                if max { max_into(isa, x, total) } else { add_into(isa, x, total) }
            }
            // SAFETY: indices have disjoint parts.
            unsafe {
                out.write(isa, image * c + first, len, |out| {
                    out.iter_mut().zip(&*total).for_each(|(o, t)| *o = scale * t);
                });
            }
        });
    });
}

const CHANNELS: usize = 512;

/// Any pattern of axes: one output element after another.
#[allow(clippy::too_many_arguments)]
fn general(
    pool: &ThreadPool,
    isa: Isa,
    max: bool,
    scale: f32,
    x: Data<'_>,
    shape: &[usize],
    axes: &[usize],
    out: &Out<'_>,
    kept: usize,
) {
    let strides = contiguous_strides(shape);
    let last_reduced = axes.contains(&(shape.len() - 1));
    let run = if last_reduced { shape[shape.len() - 1] } else { 1 };
    let inner: usize =
        (0..shape.len()).filter(|a| axes.contains(a)).map(|a| shape[a]).product::<usize>() / run.max(1);
    for_chunks(pool, kept, (PART / (inner * run).max(1)).clamp(1, BLOCK), |start, count| {
        with_scratch(buffer_len(x, run), |buffer: &mut [f32]| {
            // SAFETY: chunks are disjoint.
            unsafe {
                out.write(isa, start, count, |out| {
                    for (index, o) in (start..).zip(out) {
                        let base = offset(shape, &strides, index, |a| !axes.contains(&a));
                        let mut total = start_value(max);
                        for step in 0..inner {
                            let skip_last = |a: usize| axes.contains(&a) && (run == 1 || a + 1 < shape.len());
                            let at = base + offset(shape, &strides, step, skip_last);
                            let x = read(isa, x, at, run, buffer);
                            total = join(max, total, if max { max_of(isa, x) } else { sum_of(isa, x) });
                        }
                        *o = scale * total;
                    }
                });
            }
        });
    });
}

/// The offset of the `index`-th combination of the selected axes.
fn offset(shape: &[usize], strides: &[usize], mut index: usize, selected: impl Fn(usize) -> bool) -> usize {
    let mut offset = 0;
    for axis in (0..shape.len()).rev().filter(|&a| selected(a)) {
        offset += index % shape[axis] * strides[axis];
        index /= shape[axis];
    }
    offset
}

/// Lanes of the running sums: wide enough for two registers of the widest vectors.
const LANES: usize = 64;

simd! {
    /// The sum in a fixed order: lanes first, then a tree over the lanes.
    pub(crate) fn sum_of(x: &[f32]) -> f32 {
        let mut lanes = [0.0f32; LANES];
        let chunks = x.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for i in 0..LANES {
                lanes[i] += chunk[i];
            }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) {
            *lane += x;
        }
        let mut n = LANES / 2;
        while n > 0 {
            for i in 0..n {
                lanes[i] += lanes[i + n];
            }
            n /= 2;
        }
        lanes[0]
    }
}

simd! {
    /// The greatest element, NaN where there is one.
    pub(crate) fn max_of(x: &[f32]) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let mut nan = [0u32; LANES];
        let chunks = x.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for i in 0..LANES {
                let x = chunk[i];
                lanes[i] = if x > lanes[i] { x } else { lanes[i] };
                nan[i] |= u32::from(x.is_nan());
            }
        }
        let mut best = f32::NEG_INFINITY;
        for &x in rest.iter().chain(&lanes) {
            best = if x > best || x.is_nan() { x } else { best };
            if x.is_nan() {
                return x;
            }
        }
        if nan.iter().any(|&n| n != 0) { f32::NAN } else { best }
    }
}

simd! {
    pub(crate) fn add_into(x: &[f32], total: &mut [f32]) {
        for (t, x) in total.iter_mut().zip(x) {
            *t += x;
        }
    }
}

simd! {
    fn add_rows(x: &[f32], total: &mut [f32]) {
        for row in x.chunks_exact(total.len()) {
            for (t, x) in total.iter_mut().zip(row) {
                *t += x;
            }
        }
    }
}

simd! {
    fn add_short_rows(x: &[bf16], total: &mut [f32]) {
        for row in x.chunks_exact(total.len()) {
            for (t, x) in total.iter_mut().zip(row) {
                *t += f32::from_bits(u32::from(x.to_bits()) << 16);
            }
        }
    }
}

simd! {
    fn max_into(x: &[f32], total: &mut [f32]) {
        for (t, &x) in total.iter_mut().zip(x) {
            *t = if x > *t || x.is_nan() { x } else { *t };
        }
    }
}
