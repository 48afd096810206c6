//! The forward pass. A task is a run of queries of one head: they are packed once, keys and values block by
//! block, and for each block the scores live in the first-level cache only.

use std::ops::Range;

use super::block::{Block, block};
#[cfg(target_arch = "x86_64")]
use super::dot::Dot;
use super::pack::{self, Head};
use super::product::{Product, Single, for_runs};
#[cfg(target_arch = "x86_64")]
use super::tiles;
use super::vector::{Plain, Vector};
use super::{
    AttentionShape, Kernel, Mask, Rows, bytes, compute_dtype, dispatch, reads_tiles, scores_are_of_bytes,
};
use crate::kernels::elementwise::dispatch::{Out, Shared, with_scratch};
use crate::kernels::transpose::transpose;
use crate::kernels::{Order, fetch};
use crate::{DataMut, Isa, ThreadPool};

/// Queries of a task, enough to make packing the keys and values for each task cheap, and more while their sums stay in the
/// second-level cache.
const TASK: usize = 768;
const SUMS: usize = 1 << 16;
/// Queries of a task are a multiple, so that runs of vectors of every instruction set are whole.
const RUN: usize = 3 * MAX_LANES;

/// Units of keys of a block: keys, values and weights of a block stay in the first-level cache.
const UNITS: usize = 64;

/// The most keys of a block.
const MOST_KEYS: usize = 2 * UNITS;

/// Sums of a run that are brought into the first-level cache beforehand; more would push out what is read meanwhile.
const FETCHED: usize = 4096;

/// Blocks whose keys and values are packed at a time. Each run of queries meets all of them while its sums are in the
/// first-level cache; keys and values come from the second, only to be read.
const BLOCKS: usize = 4;

/// `out = softmax(scale Q K^T + mask) V` for each head, `[batch, q_tokens, heads * head_dim]`.
///
/// `lse`, where given, receives `[batch, heads, q_tokens]`: the natural logarithm of the sum of
/// exponentials of each query's scores, negative infinity for a query that sees no key.
///
/// The output lies in `order`. With `int8` the scores are products of bytes where there are many keys and the processor has AVX-512
/// with BF16.
#[allow(clippy::too_many_arguments)]
pub fn forward(
    pool: &ThreadPool,
    isa: Isa,
    shape: &AttentionShape,
    q: Rows<'_>,
    k: Rows<'_>,
    v: Rows<'_>,
    mask: Option<Mask<'_>>,
    int8: bool,
    out: DataMut<'_>,
    order: Order,
    lse: Option<&mut [f32]>,
) {
    shape.check_rows("q", &q, shape.q_tokens);
    shape.check_rows("k", &k, shape.k_tokens);
    shape.check_rows("v", &v, shape.k_tokens);
    shape.check_mask(&mask);
    assert_eq!(out.len(), shape.q_len(), "attention: output size");
    let rows = [shape.batch * shape.q_tokens, shape.heads * shape.head_dim];
    assert!(order.takes(rows), "attention: an output that does not fill tiles");
    assert!(
        lse.as_ref().is_none_or(|l| l.len() == shape.batch * shape.heads * shape.q_tokens),
        "attention: size of lse"
    );
    let kernel = Kernel::choose(isa, &[q.data, k.data, v.data]);
    let computed = compute_dtype(isa, [q, k, v].map(|rows| rows.data.dtype()));
    for rows in [&q, &k, &v] {
        let can = rows.order == Order::Rows || reads_tiles(isa, computed, shape.head_dim);
        assert!(can, "attention: an input in tiles, which {kernel:?} does not read");
    }
    let bytes = int8 && scores_are_of_bytes(isa, computed, shape.k_tokens);
    let kernel = if bytes { kernel.with_bytes() } else { kernel };
    let job = Job { isa, shape, q, k, v, mask, out: Out::new(out), order, lse: lse.map(Shared::new) };
    #[cfg(target_arch = "x86_64")]
    if kernel == Kernel::Tiles {
        return tiles::forward(pool, &job);
    }
    let tasks = shape.q_tokens.div_ceil(TASK.max(SUMS / shape.head_dim.max(1))).max(1);
    let queries = shape.q_tokens.div_ceil(tasks).next_multiple_of(RUN);
    pool.run(shape.batch * shape.heads * tasks, |index, _| {
        let (head, first) = (index / tasks, index % tasks * queries);
        if first < shape.q_tokens {
            run(kernel, &job, head, first..shape.q_tokens.min(first + queries));
        }
    });
}

fn run(kernel: Kernel, job: &Job<'_>, head: usize, queries: Range<usize>) {
    let d = job.shape.head_dim;
    let width = queries.len().next_multiple_of(MAX_LANES);
    // Enough for every kernel: units of one element, the widest vectors. The buffer is taken here because
    // a closure inside the task would not be compiled for the task's instruction set.
    let products = 2 * d * width
        + 2 * width
        + 2 * BLOCKS * MOST_KEYS * d
        + (2 * MOST_KEYS + d + 1) * 3 * MAX_LANES
        + 9 * 16;
    let of_bytes = 2 * width + (MOST_KEYS + 1) * bytes::row(d) + BLOCKS + 5 * 16;
    let len = products + of_bytes;
    with_scratch(len, |scratch: &mut [u32]| {
        let queries = [queries.start, queries.end];
        dispatch!(kernel, task(job: &Job<'_>, head: usize, queries: [usize; 2], scratch: &mut [u32]));
    });
}

/// Lanes of the widest vectors.
pub(super) const MAX_LANES: usize = 16;

pub(super) struct Job<'a> {
    pub(super) isa: Isa,
    pub(super) shape: &'a AttentionShape,
    pub(super) q: Rows<'a>,
    pub(super) k: Rows<'a>,
    pub(super) v: Rows<'a>,
    pub(super) mask: Option<Mask<'a>>,
    pub(super) out: Out<'a>,
    pub(super) order: Order,
    pub(super) lse: Option<Shared<'a, f32>>,
}

/// The rows of one head of one sequence.
pub(super) fn head_rows<'a>(shape: &AttentionShape, rows: &Rows<'a>, tokens: usize, head: usize) -> Head<'a> {
    let (sequence, head) = (head / shape.heads, head % shape.heads);
    Head {
        data: rows.data,
        order: rows.order,
        first: sequence * tokens,
        column: head * shape.head_dim,
        stride: rows.stride,
        width: shape.head_dim,
    }
}

/// # Safety
/// Called from code compiled for the product's instruction set.
#[inline(always)]
unsafe fn task<P: Product>(job: &Job<'_>, head: usize, [first, end]: [usize; 2], scratch: &mut [u32]) {
    let shape = job.shape;
    let d = shape.head_dim;
    let block_keys = UNITS * P::PAIR;
    let lanes = P::V::LANES;
    let queries = end - first;
    let vectors = queries.div_ceil(lanes);
    let width = vectors * lanes;
    let units = if P::BYTES { bytes::units(d) } else { d.div_ceil(P::PAIR) };
    let q = head_rows(shape, &job.q, shape.q_tokens, head);
    let k = head_rows(shape, &job.k, shape.k_tokens, head);
    let v = head_rows(shape, &job.v, shape.k_tokens, head);
    // Everything is laid out by runs of at most three vectors; a run's part starts at its first lane.
    let sizes = [
        units * width,
        d * width,
        2 * width,
        BLOCKS * block_keys * units,
        BLOCKS * block_keys / P::PAIR * d,
        block_keys * 3 * lanes,
    ];
    let mut parts = Parts(scratch);
    let [packed_q, out, state, packed_k, packed_v, scores] = sizes.map(|n| parts.take(n));
    let weights = parts.take(block_keys * 3 * lanes);
    let totals = parts.take(3 * lanes);
    let rows = parts.take(d * 3 * lanes);
    let out: &mut [f32] = bytemuck::cast_slice_mut(out);
    let scores: &mut [f32] = bytemuck::cast_slice_mut(scores);
    let state: &mut [f32] = bytemuck::cast_slice_mut(state);
    out.fill(0.0);
    let (greatest, sum) = state.split_at_mut(width);
    // Of bytes: what a unit of each query and of each block of keys is worth, what sums start from, the mean of the keys.
    let sizes =
        if P::BYTES { [width, width, BLOCKS, bytes::row(d), block_keys * bytes::row(d)] } else { [0; 5] };
    let [query_worths, starts, key_worths, mean, buffer] = sizes.map(|n| parts.take(n));
    let mean: &mut [f32] = bytemuck::cast_slice_mut(mean);
    let query_worths: &mut [f32] = bytemuck::cast_slice_mut(query_worths);
    let starts: &mut [f32] = bytemuck::cast_slice_mut(starts);
    let key_worths: &mut [f32] = bytemuck::cast_slice_mut(key_worths);
    let buffer: &mut [f32] = bytemuck::cast_slice_mut(buffer);
    if P::BYTES {
        bytes::mean(&k, shape.k_tokens, buffer, mean);
    }
    greatest.fill(f32::NEG_INFINITY);
    sum.fill(0.0);
    for_runs!(P, vectors, N, run => {
        let start = run * lanes;
        let count = (N * lanes).min(queries - start);
        let to = &mut packed_q[units * start..];
        if P::BYTES {
            let (worths, starts) = (&mut query_worths[start..], &mut starts[start..]);
            bytes::queries(&q, [first + start, count, N * lanes], buffer, to, worths, starts);
        } else {
            pack::transposed::<P>(job.isa, q, first + start, count, N * lanes, rows, to);
        }
    });
    let mut keys_end = shape.k_tokens;
    if shape.causal {
        keys_end = keys_end.min(first + queries);
    }
    for first_k in (0..keys_end).step_by(BLOCKS * block_keys) {
        let blocks = first_k..(first_k + BLOCKS * block_keys).min(keys_end);
        if P::BYTES {
            bytes::keys(&k, [first_k, blocks.len(), block_keys], mean, buffer, packed_k, key_worths);
        } else {
            pack::rows::<P>(k, first_k, blocks.len(), packed_k);
        }
        pack::tokens::<P>(v, first_k, blocks.len(), d, packed_v);
        for_runs!(P, vectors, N, run => {
            let start = run * lanes;
            let count = (N * lanes).min(queries - start);
            // While the first scores are made what is added to later comes from the second-level cache.
            let sums = d * N * lanes;
            if sums <= FETCHED {
                fetch(out[d * start..].as_ptr().cast(), sums * size_of::<f32>());
            }
            for first_k in blocks.clone().step_by(block_keys) {
                let keys = block_keys.min(blocks.end - first_k);
                let before = first_k - blocks.start;
                // A run whose last query precedes the block sees none of it.
                if !shape.causal || first_k < first + start + count {
                    // SAFETY: operands were packed with these sizes; the contract of this function.
                    unsafe {
                        block::<P, N>(Block {
                            job,
                            head,
                            first_q: first + start,
                            queries: count,
                            first_k,
                            keys,
                            units,
                            query_worths: query_worths.as_ptr().wrapping_add(start),
                            starts: starts.as_ptr().wrapping_add(start),
                            key_worth: if P::BYTES { key_worths[before / block_keys] } else { 1.0 },
                            packed_q: packed_q[units * start..].as_ptr(),
                            packed_k: packed_k[before * units..].as_ptr(),
                            packed_v: packed_v[before / P::PAIR * d..].as_ptr(),
                            scores: &mut scores[..keys * N * lanes],
                            weights: weights.as_mut_ptr(),
                            totals: totals.as_mut_ptr().cast(),
                            out: out[d * start..].as_mut_ptr(),
                            greatest: greatest[start..].as_mut_ptr(),
                            sum: sum[start..].as_mut_ptr(),
                        });
                    }
                }
            }
        });
    }
    for_runs!(P, vectors, N, run => {
        let start = run * lanes;
        let count = (N * lanes).min(queries - start);
        let out = &out[d * start..][..d * N * lanes];
        let state = [&greatest[start..][..count], &sum[start..][..count]];
        finish(job, head, first + start, N * lanes, out, state, rows);
        if P::BYTES && let Some(lse) = &job.lse {
            // SAFETY: a query belongs to one task.
            let lse = unsafe { lse.slice(head * shape.q_tokens + first + start, count) };
            for (lane, lse) in lse.iter_mut().enumerate() {
                *lse += shape.scale * bytes::of_mean(&q, first + start + lane, mean, buffer);
            }
        }
    });
}

/// Cuts a buffer into parts that start at a multiple of a cache line.
pub(super) struct Parts<'a>(pub(super) &'a mut [u32]);

impl<'a> Parts<'a> {
    pub(super) fn take(&mut self, len: usize) -> &'a mut [u32] {
        let rest = std::mem::take(&mut self.0);
        let (part, rest) = rest.split_at_mut(len.next_multiple_of(16));
        self.0 = rest;
        &mut part[..len]
    }
}

/// Divides by the sums and writes the rows of the output.
#[inline(always)]
pub(super) fn finish(
    job: &Job<'_>,
    head: usize,
    first: usize,
    lanes: usize,
    out: &[f32],
    [greatest, sum]: [&[f32]; 2],
    rows: &mut [u32],
) {
    let shape = job.shape;
    let d = shape.head_dim;
    let (sequence, in_sequence) = (head / shape.heads, head % shape.heads);
    transpose(job.isa, bytemuck::cast_slice(out), lanes, [d, lanes], rows, d);
    let rows: &mut [f32] = bytemuck::cast_slice_mut(rows);
    for (&sum, values) in sum.iter().zip(rows.chunks_exact_mut(d)) {
        let factor = if sum == 0.0 { 0.0 } else { 1.0 / sum };
        for value in values.iter_mut() {
            *value *= factor;
        }
    }
    let row = |lane: usize| sequence * shape.q_tokens + first + lane;
    let (column, columns, count) = (in_sequence * d, shape.heads * d, sum.len() * d);
    for (lane, values) in rows[..count].chunks_exact(d).enumerate() {
        // SAFETY: each row of a head belongs to one task.
        unsafe {
            match &job.out {
                Out::F32(out) => job.order.write(out, row(lane), column, columns, values),
                Out::Bf16(out) => job.order.write(out, row(lane), column, columns, values),
            }
        }
    }
    if let Some(lse) = &job.lse {
        // SAFETY: as above.
        let lse = unsafe { lse.slice(head * shape.q_tokens + first, sum.len()) };
        for ((to, &sum), &greatest) in lse.iter_mut().zip(sum).zip(greatest) {
            *to = if sum == 0.0 { f32::NEG_INFINITY } else { greatest * std::f32::consts::LN_2 + sum.ln() };
        }
    }
}
