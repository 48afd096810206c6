//! Moving elements: casts, fills, and the strided copy that permutation, concatenation, slicing and padding
//! are made of.

use super::dispatch::{BLOCK, CHUNK, Out, Shared, blocks, for_chunks, read, round_bf16};
use super::shape::{MAX_DIMS, Strides, broadcast_strides, contiguous_strides};
use crate::{Data, DataMut, Isa, ThreadPool};

/// Copies with conversion: `F32` to `Bf16` rounds to nearest even; between `I32` and floating point the
/// value is kept where it can be (towards zero, limited to the range).
pub fn cast(pool: &ThreadPool, isa: Isa, x: Data<'_>, out: DataMut<'_>) {
    assert_eq!(x.len(), out.len(), "cast: sizes differ");
    let count = x.len();
    match (x, out) {
        (Data::I32(x), DataMut::I32(out)) => out.copy_from_slice(x),
        (Data::Bf16(x), DataMut::Bf16(out)) => parallel_copy(pool, x, out),
        (Data::I32(x), DataMut::F32(out)) => out.iter_mut().zip(x).for_each(|(o, &x)| *o = x as f32),
        (Data::I32(x), DataMut::Bf16(out)) => {
            out.iter_mut().zip(x).for_each(|(o, &x)| *o = round_bf16(x as f32));
        }
        (Data::F32(x), DataMut::I32(out)) => out.iter_mut().zip(x).for_each(|(o, &x)| *o = x as i32),
        (Data::Bf16(x), DataMut::I32(out)) => {
            out.iter_mut().zip(x).for_each(|(o, &x)| *o = x.to_f32() as i32);
        }
        (x, out) => {
            let out = Out::new(out);
            for_chunks(pool, count, CHUNK, |start, len| {
                let mut buffer = [0.0; BLOCK];
                for (start, len) in blocks(start, len) {
                    let x = read(isa, x, start, len, &mut buffer);
                    // SAFETY: chunks are disjoint.
                    unsafe { out.write(isa, start, len, |out| out.copy_from_slice(x)) };
                }
            });
        }
    }
}

fn parallel_copy<T: Copy + Send + Sync>(pool: &ThreadPool, x: &[T], out: &mut [T]) {
    let shared = Shared::new(out);
    for_chunks(pool, x.len(), CHUNK, |start, len| {
        // SAFETY: chunks are disjoint.
        unsafe { shared.slice(start, len) }.copy_from_slice(&x[start..start + len]);
    });
}

/// Sets every element to `value`, rounded to the element type.
pub fn fill(pool: &ThreadPool, out: DataMut<'_>, value: f32) {
    fn each<T: Copy + Send + Sync>(pool: &ThreadPool, out: &mut [T], value: T) {
        let count = out.len();
        let shared = Shared::new(out);
        for_chunks(pool, count, CHUNK, |start, len| {
            // SAFETY: chunks are disjoint.
            unsafe { shared.slice(start, len) }.fill(value);
        });
    }
    match out {
        DataMut::F32(out) => each(pool, out, value),
        DataMut::Bf16(out) => each(pool, out, round_bf16(value)),
        DataMut::I32(out) => each(pool, out, value as i32),
    }
}

/// A rectangular set of elements inside a tensor: where it starts and how far apart neighbours on each axis
/// lie, in elements. A step of zero repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Element of the first corner.
    pub offset: usize,
    /// Distance between neighbours, one for each axis.
    pub strides: Vec<usize>,
}

/// Copies `shape` elements (at most six axes) from one view to another. Both sides have the same element
/// type, and the views of the output do not overlap themselves.
pub fn strided_copy(
    pool: &ThreadPool,
    shape: &[usize],
    x: Data<'_>,
    from: &View,
    out: DataMut<'_>,
    to: &View,
) {
    assert!(from.strides.len() == shape.len() && to.strides.len() == shape.len(), "strided_copy: axes");
    let job = Job::new(shape, from.offset, &from.strides, to.offset, &to.strides);
    copy_job(pool, x, out, &job);
}

/// Reorders axes: axis `i` of the output is axis `order[i]` of `x`.
pub fn permute(pool: &ThreadPool, x: Data<'_>, shape: &[usize], order: &[usize], out: DataMut<'_>) {
    assert_eq!(shape.len(), order.len(), "permute: one entry for each axis");
    assert_eq!(x.len(), out.len(), "permute: sizes differ");
    let own = contiguous_strides(shape);
    let (mut dims, mut strides) = ([1; MAX_DIMS], [0; MAX_DIMS]);
    for (i, &axis) in order.iter().enumerate() {
        dims[i] = shape[axis];
        strides[i] = own[axis];
    }
    let dims = &dims[..shape.len()];
    let to = contiguous_strides(dims);
    copy_job(pool, x, out, &Job::new(dims, 0, &strides[..dims.len()], 0, &to[..dims.len()]));
}

/// Joins tensors along `axis`; all other axes agree. `out` holds the joined tensor.
pub fn concat(pool: &ThreadPool, inputs: &[(Data<'_>, &[usize])], axis: usize, mut out: DataMut<'_>) {
    let total: usize = inputs.iter().map(|(_, shape)| shape[axis]).sum();
    let mut before = 0;
    for (x, shape) in inputs {
        let mut whole = [0; MAX_DIMS];
        whole[..shape.len()].copy_from_slice(shape);
        whole[axis] = total;
        let whole = &whole[..shape.len()];
        assert_eq!(out.len(), whole.iter().product::<usize>(), "concat: output size");
        let (from, to) = (contiguous_strides(shape), contiguous_strides(whole));
        let rank = shape.len();
        let job = Job::new(shape, 0, &from[..rank], before * to[axis], &to[..rank]);
        copy_job(pool, *x, out.reborrow(), &job);
        before += shape[axis];
    }
}

/// Takes `out_shape` elements from `starts`, each axis with its own step.
pub fn slice(
    pool: &ThreadPool,
    x: Data<'_>,
    shape: &[usize],
    starts: &[usize],
    steps: &[usize],
    out: DataMut<'_>,
    out_shape: &[usize],
) {
    let rank = shape.len();
    assert!(starts.len() == rank && steps.len() == rank && out_shape.len() == rank, "slice: axes");
    let own = contiguous_strides(shape);
    let (mut offset, mut strides) = (0, [0; MAX_DIMS]);
    for axis in 0..rank {
        offset += starts[axis] * own[axis];
        strides[axis] = steps[axis] * own[axis];
        assert!(
            out_shape[axis] == 0 || starts[axis] + (out_shape[axis] - 1) * steps[axis] < shape[axis],
            "slice: outside of axis {axis}"
        );
    }
    let to = contiguous_strides(out_shape);
    copy_job(pool, x, out, &Job::new(out_shape, offset, &strides[..rank], 0, &to[..rank]));
}

/// Adds `before[i]` and `after[i]` elements of `value` around axis `i`. With zero it is the adjoint of
/// [`slice()`] at step one.
pub fn pad(
    pool: &ThreadPool,
    x: Data<'_>,
    shape: &[usize],
    before: &[usize],
    after: &[usize],
    value: f32,
    mut out: DataMut<'_>,
) {
    let rank = shape.len();
    assert!(before.len() == rank && after.len() == rank, "pad: axes");
    let mut whole = [0; MAX_DIMS];
    for axis in 0..rank {
        whole[axis] = before[axis] + shape[axis] + after[axis];
    }
    let whole = &whole[..rank];
    assert_eq!(out.len(), whole.iter().product::<usize>(), "pad: output size");
    if before.iter().chain(after).any(|&n| n > 0) {
        fill(pool, out.reborrow(), value);
    }
    let (from, to) = (contiguous_strides(shape), contiguous_strides(whole));
    let offset = (0..rank).map(|axis| before[axis] * to[axis]).sum();
    copy_job(pool, x, out, &Job::new(shape, 0, &from[..rank], offset, &to[..rank]));
}

/// Repeats axes of length one of `shape` to `out_shape` (NumPy's rule).
pub fn expand(pool: &ThreadPool, x: Data<'_>, shape: &[usize], out: DataMut<'_>, out_shape: &[usize]) {
    let from = broadcast_strides(shape, out_shape);
    let to = contiguous_strides(out_shape);
    let rank = out_shape.len();
    copy_job(pool, x, out, &Job::new(out_shape, 0, &from[..rank], 0, &to[..rank]));
}

/// A strided copy with its axes sorted by output stride, neighbours merged.
struct Job {
    dims: [usize; MAX_DIMS],
    from: Strides,
    to: Strides,
    rank: usize,
    from_offset: usize,
    to_offset: usize,
    empty: bool,
}

impl Job {
    fn new(shape: &[usize], from_offset: usize, from: &[usize], to_offset: usize, to: &[usize]) -> Self {
        assert!(shape.len() <= MAX_DIMS, "copy: at most {MAX_DIMS} axes");
        let mut axes = [0; MAX_DIMS];
        let mut used = 0;
        for (axis, &n) in shape.iter().enumerate() {
            if n != 1 {
                axes[used] = axis;
                used += 1;
            }
        }
        axes[..used].sort_by_key(|&axis| std::cmp::Reverse(to[axis]));
        let mut job = Job {
            dims: [1; MAX_DIMS],
            from: [0; MAX_DIMS],
            to: [0; MAX_DIMS],
            rank: 0,
            from_offset,
            to_offset,
            empty: shape.contains(&0),
        };
        for &axis in &axes[..used] {
            let n = shape[axis];
            let last = job.rank.wrapping_sub(1);
            let merge = job.rank > 0 && job.from[last] == from[axis] * n && job.to[last] == to[axis] * n;
            let at = if merge { last } else { job.rank };
            job.dims[at] *= n;
            job.from[at] = from[axis];
            job.to[at] = to[axis];
            job.rank = at + 1;
        }
        job.rank = job.rank.max(1);
        job
    }

    /// One past the last element touched on a side.
    fn extent(&self, offset: usize, strides: &Strides) -> usize {
        offset + (0..self.rank).map(|axis| (self.dims[axis] - 1) * strides[axis]).sum::<usize>() + 1
    }
}

fn copy_job(pool: &ThreadPool, x: Data<'_>, out: DataMut<'_>, job: &Job) {
    match (x, out) {
        (Data::F32(x), DataMut::F32(out)) => run(pool, x, out, job),
        (Data::Bf16(x), DataMut::Bf16(out)) => run(pool, x, out, job),
        (Data::I32(x), DataMut::I32(out)) => run(pool, x, out, job),
        _ => panic!("a copy keeps the element type; cast first"),
    }
}

/// Side of the square tile of a transposition.
const TILE: usize = 32;

fn run<T: Copy + Send + Sync>(pool: &ThreadPool, x: &[T], out: &mut [T], job: &Job) {
    if job.empty {
        return;
    }
    assert!(job.extent(job.from_offset, &job.from) <= x.len(), "copy: reads past the end");
    assert!(job.extent(job.to_offset, &job.to) <= out.len(), "copy: writes past the end");
    let inner = job.rank - 1;
    let (n, from_step, to_step) = (job.dims[inner], job.from[inner], job.to[inner]);
    // Rows of the innermost axis are copied several at a time. For a transposition the rows lie along the
    // axis that is contiguous on the reading side, and both are tiled; else along the next axis.
    let transposed = if from_step == 1 { None } else { (0..inner).find(|&axis| job.from[axis] == 1) };
    let row_axis = transposed.or(inner.checked_sub(1));
    let (rows, row_from, row_to) = row_axis.map_or((1, 0, 0), |a| (job.dims[a], job.from[a], job.to[a]));
    let outer: usize = (0..inner).filter(|&a| Some(a) != row_axis).map(|a| job.dims[a]).product();
    let inner_parts = n.div_ceil(CHUNK);
    let row_part = if transposed.is_some() { TILE } else { (CHUNK / n).max(1) };
    let row_parts = rows.div_ceil(row_part);
    let per_task = (CHUNK / (n.min(CHUNK) * rows.min(row_part))).max(1);
    let units = outer * row_parts * inner_parts;
    let source = x.as_ptr() as usize;
    let target = out.as_mut_ptr() as usize;
    for_chunks(pool, units, per_task, |start, count| {
        for unit in start..start + count {
            let (part, rest) = (unit % inner_parts, unit / inner_parts);
            let (rows_at, mut rest) = (rest % row_parts, rest / row_parts);
            let (mut from, mut to) = (job.from_offset, job.to_offset);
            for axis in (0..inner).rev().filter(|&a| Some(a) != row_axis) {
                let index = rest % job.dims[axis];
                rest /= job.dims[axis];
                from += index * job.from[axis];
                to += index * job.to[axis];
            }
            let first = part * CHUNK;
            let len = CHUNK.min(n - first);
            let first_row = rows_at * row_part;
            let row_len = row_part.min(rows - first_row);
            from += first * from_step + first_row * row_from;
            to += first * to_step + first_row * row_to;
            // SAFETY: both extents were checked against the slices, and units write disjoint elements
            // because the view of the output does not overlap itself.
            unsafe {
                let source = (source as *const T).add(from);
                let target = (target as *mut T).add(to);
                if transposed.is_some() {
                    transpose(source, [from_step, row_from], target, [to_step, row_to], [len, row_len]);
                } else {
                    for row in 0..row_len {
                        let (source, target) = (source.add(row * row_from), target.add(row * row_to));
                        copy_run(source, from_step, target, to_step, len);
                    }
                }
            }
        }
    });
}

/// # Safety
/// `len` elements at these steps are inside both allocations.
#[inline]
unsafe fn copy_run<T: Copy>(source: *const T, from: usize, target: *mut T, to: usize, len: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        if from == 1 && to == 1 {
            std::ptr::copy_nonoverlapping(source, target, len);
        } else if from == 0 && to == 1 {
            std::slice::from_raw_parts_mut(target, len).fill(*source);
        } else {
            for i in 0..len {
                *target.add(i * to) = *source.add(i * from);
            }
        }
    }
}

/// # Safety
/// As for [`copy_run`], for `len[1]` rows.
unsafe fn transpose<T: Copy>(
    source: *const T,
    from: [usize; 2],
    target: *mut T,
    to: [usize; 2],
    len: [usize; 2],
) {
    for first in (0..len[0]).step_by(TILE) {
        let end = (first + TILE).min(len[0]);
        for row in 0..len[1] {
            // SAFETY: the caller's promise.
            unsafe {
                let (source, target) = (source.add(row * from[1]), target.add(row * to[1]));
                for i in first..end {
                    *target.add(i * to[0]) = *source.add(i * from[0]);
                }
            }
        }
    }
}
