//! The forward pass. A task is a run of queries of one head: they are packed once, keys and values block by
//! block, and for each block the scores live in the first-level cache only.

use super::finish::{Accumulate, Rescale, Scale, Scores, Weights, weight};
use super::pack::{self, Head};
#[cfg(target_arch = "x86_64")]
use super::product::Dot;
use super::product::{Finish, Left, Product, Right, Single, for_runs, multiply, multiply_scores};
use super::vector::{Plain, Vector};
use super::{AttentionShape, Kernel, Mask, Rows, bytes, compute_dtype, dispatch, scores_are_of_bytes};
use crate::kernels::elementwise::dispatch::{Out, Shared, with_scratch};
use crate::kernels::fetch;
use crate::{DataMut, Isa, ThreadPool};

/// Queries of a task: a multiple of a run of vectors of every instruction set, enough to make packing the keys
/// and values for each task cheap.
const TASK: usize = 768;

/// Keys of a block: the scores of a block and three vectors of queries stay in the first-level cache.
pub(super) const KEYS: usize = 64;

/// Blocks whose keys and values are packed at a time. Each run of queries meets all of them while its sums are in the
/// first-level cache; keys and values come from the second, only to be read.
const BLOCKS: usize = 8;

/// The sum of a block's weights from which on they are made anew, relative to a greater score: far from what overflows.
const GREATEST_SUM: f32 = (1u64 << 40) as f32;

/// Sums of a run that are brought into the first-level cache beforehand; more would push out what is read meanwhile.
const FETCHED: usize = 4096;

/// `out = softmax(scale Q K^T + mask) V` for each head, `[batch, q_tokens, heads * head_dim]`.
///
/// `lse`, where given, receives `[batch, heads, q_tokens]`: the natural logarithm of the sum of
/// exponentials of each query's scores, negative infinity for a query that sees no key.
///
/// With `int8` the scores are products of bytes where there are many keys and the processor has AVX-512 with BF16.
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
    lse: Option<&mut [f32]>,
) {
    shape.check_rows("q", &q, shape.q_tokens);
    shape.check_rows("k", &k, shape.k_tokens);
    shape.check_rows("v", &v, shape.k_tokens);
    shape.check_mask(&mask);
    assert_eq!(out.len(), shape.q_len(), "attention: output size");
    assert!(
        lse.as_ref().is_none_or(|l| l.len() == shape.batch * shape.heads * shape.q_tokens),
        "attention: size of lse"
    );
    let kernel = Kernel::choose(isa, &[q.data, k.data, v.data]);
    let computed = compute_dtype(isa, [q, k, v].map(|rows| rows.data.dtype()));
    let bytes = int8 && scores_are_of_bytes(computed, shape.k_tokens);
    let kernel = if bytes { kernel.with_bytes() } else { kernel };
    let job = Job { isa, shape, q, k, v, mask, out: Out::new(out), lse: lse.map(Shared::new) };
    let tasks = shape.q_tokens.div_ceil(TASK);
    pool.run(shape.batch * shape.heads * tasks, |index, _| {
        let (head, task) = (index / tasks, index % tasks);
        let job = &job;
        run(kernel, job, head, task * TASK);
    });
}

fn run(kernel: Kernel, job: &Job<'_>, head: usize, first: usize) {
    let d = job.shape.head_dim;
    let width = TASK.min(job.shape.q_tokens - first).next_multiple_of(MAX_LANES);
    // Enough for every kernel: units of one element, the widest vectors. The buffer is taken here because
    // a closure inside the task would not be compiled for the task's instruction set.
    let products =
        2 * d * width + 2 * width + 2 * BLOCKS * KEYS * d + (2 * KEYS + d) * 3 * MAX_LANES + 8 * 16;
    let of_bytes = 2 * width + (KEYS + 1) * bytes::row(d) + BLOCKS + 5 * 16;
    let len = products + of_bytes;
    with_scratch(len, |scratch: &mut [u32]| {
        dispatch!(kernel, task(job: &Job<'_>, head: usize, first: usize, scratch: &mut [u32]));
    });
}

/// Lanes of the widest vectors.
pub(super) const MAX_LANES: usize = 16;

struct Job<'a> {
    isa: Isa,
    shape: &'a AttentionShape,
    q: Rows<'a>,
    k: Rows<'a>,
    v: Rows<'a>,
    mask: Option<Mask<'a>>,
    out: Out<'a>,
    lse: Option<Shared<'a, f32>>,
}

/// The rows of one head of one sequence.
pub(super) fn head_rows<'a>(shape: &AttentionShape, rows: &Rows<'a>, tokens: usize, head: usize) -> Head<'a> {
    let (sequence, head) = (head / shape.heads, head % shape.heads);
    Head {
        data: rows.data,
        start: sequence * tokens * rows.stride + head * shape.head_dim,
        stride: rows.stride,
        width: shape.head_dim,
    }
}

/// Hides keys from the scores of one block: `scores[key][lane]`, already scaled and in units of log2.
pub(super) fn apply_mask(
    shape: &AttentionShape,
    mask: Option<Mask<'_>>,
    head: usize,
    [first_q, queries, lanes]: [usize; 3],
    [first_k, keys]: [usize; 2],
    scores: &mut [f32],
) {
    if let Some(mask) = mask {
        let [sb, sh, sq, _] = mask.strides();
        let base = head / shape.heads * sb + head % shape.heads * sh + first_k;
        for lane in 0..queries {
            let row = &mask.data[base + (first_q + lane) * sq..][..keys];
            for (score, mask) in scores[lane..].iter_mut().step_by(lanes).zip(row) {
                *score += mask * std::f32::consts::LOG2_E;
            }
        }
    }
    if shape.causal && first_k + keys > first_q + 1 {
        for key in 0..keys {
            let hidden = (first_k + key).saturating_sub(first_q).min(lanes);
            scores[key * lanes..key * lanes + hidden].fill(f32::NEG_INFINITY);
        }
    }
}

/// # Safety
/// Called from code compiled for the product's instruction set.
#[inline(always)]
unsafe fn task<P: Product>(job: &Job<'_>, head: usize, first: usize, scratch: &mut [u32]) {
    let shape = job.shape;
    let d = shape.head_dim;
    let lanes = P::V::LANES;
    let queries = TASK.min(shape.q_tokens - first);
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
        BLOCKS * KEYS * units,
        BLOCKS * KEYS / P::PAIR * d,
        KEYS * 3 * lanes,
    ];
    let mut parts = Parts(scratch);
    let [packed_q, out, state, packed_k, packed_v, scores] = sizes.map(|n| parts.take(n));
    let weights = parts.take(KEYS * 3 * lanes);
    let rows = parts.take(d * 3 * lanes);
    let out: &mut [f32] = bytemuck::cast_slice_mut(out);
    let scores: &mut [f32] = bytemuck::cast_slice_mut(scores);
    let state: &mut [f32] = bytemuck::cast_slice_mut(state);
    out.fill(0.0);
    let (greatest, sum) = state.split_at_mut(width);
    // Of bytes: what a unit of each query and of each block of keys is worth, what sums start from, the mean of the keys.
    let sizes = if P::BYTES { [width, width, BLOCKS, bytes::row(d), KEYS * bytes::row(d)] } else { [0; 5] };
    let [query_worths, starts, key_worths, mean, buffer] = sizes.map(|n| parts.take(n));
    let query_worths: &mut [f32] = bytemuck::cast_slice_mut(query_worths);
    let starts: &mut [f32] = bytemuck::cast_slice_mut(starts);
    let key_worths: &mut [f32] = bytemuck::cast_slice_mut(key_worths);
    let mean: &mut [f32] = bytemuck::cast_slice_mut(mean);
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
            pack::transposed::<P>(q, first + start, count, N * lanes, rows, to);
        }
    });
    let mut keys_end = shape.k_tokens;
    if shape.causal {
        keys_end = keys_end.min(first + queries);
    }
    for first_k in (0..keys_end).step_by(BLOCKS * KEYS) {
        let blocks = first_k..(first_k + BLOCKS * KEYS).min(keys_end);
        if P::BYTES {
            bytes::keys(&k, [first_k, blocks.len(), KEYS], mean, buffer, packed_k, key_worths);
        } else {
            pack::rows::<P>(k, first_k, blocks.len(), packed_k);
        }
        pack::tokens::<P>(v, first_k, blocks.len(), d, packed_v);
        for_runs!(P, vectors, N, run => {
            let start = run * lanes;
            let count = (N * lanes).min(queries - start);
            for first_k in blocks.clone().step_by(KEYS) {
                let keys = KEYS.min(blocks.end - first_k);
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
                            key_worth: if P::BYTES { key_worths[before / KEYS] } else { 1.0 },
                            packed_q: packed_q[units * start..].as_ptr(),
                            packed_k: packed_k[before * units..].as_ptr(),
                            packed_v: packed_v[before / P::PAIR * d..].as_ptr(),
                            scores: &mut scores[..keys * N * lanes],
                            weights: weights.as_mut_ptr(),
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

struct Block<'a> {
    job: &'a Job<'a>,
    head: usize,
    first_q: usize,
    queries: usize,
    first_k: usize,
    keys: usize,
    units: usize,
    /// Of bytes: by lane.
    query_worths: *const f32,
    starts: *const f32,
    key_worth: f32,
    packed_q: *const u32,
    packed_k: *const u32,
    packed_v: *const u32,
    scores: &'a mut [f32],
    weights: *mut u32,
    out: *mut f32,
    greatest: *mut f32,
    sum: *mut f32,
}

impl Block<'_> {
    /// Whether some of the keys are hidden from some of the queries.
    fn is_masked(&self) -> bool {
        self.job.mask.is_some() || (self.job.shape.causal && self.first_k + self.keys > self.first_q + 1)
    }

    fn keys_rows(&self) -> Left {
        Left { start: self.packed_k, row: self.units, step: 1 }
    }

    fn queries_lanes<P: Product, const N: usize>(&self) -> Right {
        Right { start: self.packed_q, step: N * P::V::LANES }
    }

    /// The factor of the scores in units of log2.
    #[inline(always)]
    unsafe fn scale<P: Product, const N: usize>(&self) -> Scale<P::V, N> {
        // SAFETY: as of `block`.
        unsafe {
            let factor = P::V::splat(self.job.shape.scale * std::f32::consts::LOG2_E * self.key_worth);
            let mut scale = [factor; N];
            if P::BYTES {
                let mut j = 0;
                while j < N {
                    scale[j] = factor.mul(P::V::load(self.query_worths.add(j * P::V::LANES)));
                    j += 1;
                }
            }
            Scale(scale)
        }
    }

    /// The products of keys and queries.
    #[inline(always)]
    unsafe fn score<P: Product, const N: usize>(&self, finish: &mut impl Finish<P, N>) {
        let (keys, queries) = (self.keys_rows(), self.queries_lanes::<P, N>());
        // SAFETY: as of `block`.
        unsafe { multiply_scores::<P, N>(keys, queries, self.keys, self.units, self.starts, finish) };
    }

    /// The values by their weights.
    #[inline(always)]
    unsafe fn weigh_values<P: Product, const N: usize>(&self, finish: &mut impl Finish<P, N>) {
        let d = self.job.shape.head_dim;
        let values = Left { start: self.packed_v, row: 1, step: d };
        let weights = Right { start: self.weights, step: N * P::V::LANES };
        // SAFETY: as of `block`.
        unsafe { multiply::<P, N>(values, weights, d, self.keys.div_ceil(P::PAIR), finish) };
    }
}

/// One block of keys against one run of queries.
///
/// # Safety
/// Pointers reach as far as the sizes say; called from code compiled for the product's instruction set.
#[inline(always)]
unsafe fn block<P: Product, const N: usize>(mut b: Block<'_>) {
    // SAFETY: the contract of this function.
    unsafe {
        // Meanwhile what is added to later comes from the second-level cache.
        let out = b.job.shape.head_dim * N * P::V::LANES;
        if out <= FETCHED {
            fetch(b.out.cast(), out * size_of::<f32>());
        }
        if b.first_k == 0 || b.is_masked() || !against_known::<P, N>(&b) {
            against_greatest::<P, N>(&mut b);
        }
    }
}

/// A block whose scores are taken relative to the greatest of the blocks before, which is exact as long as no sum grows
/// out of all proportion: nothing then need be known before the exponentials. Whether that was so; else nothing is changed.
///
/// # Safety
/// As of [`block`].
#[inline(always)]
unsafe fn against_known<P: Product, const N: usize>(b: &Block<'_>) -> bool {
    let lanes = P::V::LANES;
    // SAFETY: the contract of this function.
    unsafe {
        let mut weights = Weights {
            to: b.weights,
            scale: b.scale::<P, N>(),
            offset: [P::V::splat(0.0); N],
            total: [P::V::splat(0.0); N],
        };
        for j in 0..N {
            weights.offset[j] = P::V::splat(0.0).sub(P::V::load(b.greatest.add(j * lanes)));
        }
        b.score::<P, N>(&mut weights);
        let total = weights.total;
        for total in &total {
            if !total.all_below(GREATEST_SUM) {
                return false;
            }
        }
        for (j, total) in total.iter().enumerate() {
            let sum = b.sum.add(j * lanes);
            P::V::load(sum).add(*total).store(sum);
        }
        let mut add = Accumulate { to: b.out, stride: N * lanes };
        b.weigh_values::<P, N>(&mut add);
        true
    }
}

/// A block whose scores are taken relative to the greatest of all so far; what was added up before is corrected.
///
/// # Safety
/// As of [`block`].
#[inline(always)]
unsafe fn against_greatest<P: Product, const N: usize>(b: &mut Block<'_>) {
    let (shape, keys, lanes) = (b.job.shape, b.keys, P::V::LANES);
    let width = N * lanes;
    // SAFETY: the contract of this function.
    unsafe {
        let low = P::V::splat(f32::NEG_INFINITY);
        let mut scores = Scores { to: b.scores.as_mut_ptr(), scale: b.scale::<P, N>(), greatest: [low; N] };
        b.score::<P, N>(&mut scores);
        let mut block_greatest = scores.greatest;
        if b.is_masked() {
            let lanes_of_run = [b.first_q, b.queries, width];
            apply_mask(shape, b.job.mask, b.head, lanes_of_run, [b.first_k, keys], b.scores);
            block_greatest = [low; N];
            for key in 0..keys {
                let mut j = 0;
                while j < N {
                    let score = P::V::load(b.scores.as_ptr().add((key * N + j) * lanes));
                    block_greatest[j] = score.max(block_greatest[j]);
                    j += 1;
                }
            }
        }
        // The new maximum; where every key so far is hidden, a finite number, so that nothing is subtracted from
        // negative infinity.
        let mut shift = [P::V::splat(0.0); N];
        let mut correction = [P::V::splat(0.0); N];
        let mut total = [P::V::splat(0.0); N];
        let finite = P::V::splat(f32::MIN);
        let mut j = 0;
        while j < N {
            let old = P::V::load(b.greatest.add(j * lanes));
            let new = block_greatest[j].max(old);
            new.store(b.greatest.add(j * lanes));
            shift[j] = new.max(finite);
            correction[j] = old.sub(shift[j]).exp2::<true>();
            total[j] = P::V::load(b.sum.add(j * lanes)).mul(correction[j]);
            j += 1;
        }
        let source = b.scores.as_ptr();
        let mut key = 0;
        while key < keys {
            let mut j = 0;
            while j < N {
                let at = source.add((key * N + j) * lanes);
                let first = weight::<P>(P::V::load(at).sub(shift[j]));
                total[j] = total[j].add(first);
                let mut second = P::V::splat(0.0);
                if P::PAIR == 2 && key + 1 < keys {
                    second = weight::<P>(P::V::load(at.add(width)).sub(shift[j]));
                    total[j] = total[j].add(second);
                }
                P::store_units(first, second, b.weights.add((key / P::PAIR * N + j) * lanes));
                j += 1;
            }
            key += P::PAIR;
        }
        let mut j = 0;
        while j < N {
            total[j].store(b.sum.add(j * lanes));
            j += 1;
        }
        let mut rescale = Rescale { to: b.out, factor: correction };
        b.weigh_values::<P, N>(&mut rescale);
    }
}

/// Divides by the sums and writes the rows of the output.
#[inline(always)]
fn finish(
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
    pack::transpose(bytemuck::cast_slice(out), d, lanes, rows);
    let rows: &mut [f32] = bytemuck::cast_slice_mut(rows);
    for (lane, (&sum, values)) in sum.iter().zip(rows.chunks_exact_mut(d)).enumerate() {
        let factor = if sum == 0.0 { 0.0 } else { 1.0 / sum };
        for value in values.iter_mut() {
            *value *= factor;
        }
        let row = sequence * shape.q_tokens + first + lane;
        // SAFETY: each row of a head belongs to one task.
        unsafe { job.out.store(job.isa, (row * shape.heads + in_sequence) * d, values) };
    }
    if let Some(lse) = &job.lse {
        // SAFETY: as above.
        let lse = unsafe { lse.slice(head * shape.q_tokens + first, sum.len()) };
        for ((to, &sum), &greatest) in lse.iter_mut().zip(sum).zip(greatest) {
            *to = if sum == 0.0 { f32::NEG_INFINITY } else { greatest * std::f32::consts::LN_2 + sum.ln() };
        }
    }
}
