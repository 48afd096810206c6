//! The backward pass: a task owns one head of one sequence, so that nothing is added up across tasks. The
//! scores of a tile are computed again from Q, K and the stored logarithms.
//!
//! With `P = exp(scale Q K^T + mask - lse)` and `D = sum(dO * O)` for each query:
//! `dV = P^T dO`, `dS = P (dO V^T - D) scale`, `dQ = dS K`, `dK = dS^T Q`. P and dS are made of the products in the registers, so
//! that the exponentials of a tile are worked on beside the products of the next.

use super::block::apply_mask;
#[cfg(target_arch = "x86_64")]
use super::dot::Dot;
use super::finish::{Accumulate, Probabilities, Scale, Scores, Slopes};
use super::forward::{MAX_LANES, Parts, head_rows};
use super::pack::{self, Head};
use super::product::{Left, Product, Right, Single, for_runs, multiply, multiply_columns};
#[cfg(target_arch = "x86_64")]
use super::tiles;
use super::vector::{Plain, Vector};
use super::{AttentionShape, Kernel, Mask, Rows, dispatch};
use crate::kernels::elementwise::dispatch::{Out, with_scratch};
use crate::kernels::transpose::transpose;
use crate::{Data, DataMut, Isa, ThreadPool};

/// Keys of a block. The operands of all queries, which do not fit the second-level cache, pass by for each.
const KEYS: usize = if cfg!(test) { 64 } else { 128 };

/// Vectors of queries of a block: two runs of either length. The gradients of keys and values are sums over queries that are
/// taken up again for each.
const BLOCK: usize = 6;

/// Evaluates the body for each run of vectors of queries, block by block.
macro_rules! for_runs_of_blocks {
    ($product:ident, $vectors:expr, $n:ident, $first:ident => $body:expr) => {{
        for block in (0..$vectors).step_by(BLOCK) {
            for_runs!($product, BLOCK.min($vectors - block), $n, run => {
                let $first = block + run;
                $body
            });
        }
    }};
}

/// Gradients of Q, K and V, contiguous `[batch, tokens, heads * head_dim]`.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// Of Q.
    pub q: DataMut<'a>,
    /// Of K.
    pub k: DataMut<'a>,
    /// Of V.
    pub v: DataMut<'a>,
}

/// The gradients of [`forward`](super::forward) from its inputs, its output, its `lse` and the gradient of
/// its output; `out` and `dout` are contiguous. The mask gets no gradient.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    pool: &ThreadPool,
    isa: Isa,
    shape: &AttentionShape,
    q: Rows<'_>,
    k: Rows<'_>,
    v: Rows<'_>,
    mask: Option<Mask<'_>>,
    out: Data<'_>,
    lse: &[f32],
    dout: Data<'_>,
    gradients: Gradients<'_>,
) {
    shape.check_rows("q", &q, shape.q_tokens);
    shape.check_rows("k", &k, shape.k_tokens);
    shape.check_rows("v", &v, shape.k_tokens);
    shape.check_mask(&mask);
    let out = Rows::packed(out, shape);
    let dout = Rows::packed(dout, shape);
    shape.check_rows("out", &out, shape.q_tokens);
    shape.check_rows("dout", &dout, shape.q_tokens);
    assert_eq!(lse.len(), shape.batch * shape.heads * shape.q_tokens, "attention: size of lse");
    assert_eq!(gradients.q.len(), shape.q_len(), "attention: size of the gradient of q");
    assert_eq!(gradients.k.len(), shape.k_len(), "attention: size of the gradient of k");
    assert_eq!(gradients.v.len(), shape.k_len(), "attention: size of the gradient of v");
    let kernel = Kernel::choose(isa, &[q.data, k.data, v.data, dout.data]);
    let job = Job {
        isa,
        shape,
        q,
        k,
        v,
        mask,
        out,
        dout,
        lse,
        dq: Out::new(gradients.q),
        dk: Out::new(gradients.k),
        dv: Out::new(gradients.v),
    };
    #[cfg(target_arch = "x86_64")]
    if kernel == Kernel::Tiles {
        return tiles::backward(pool, &job);
    }
    pool.run(shape.batch * shape.heads, |head, _| run(kernel, &job, head));
}

pub(super) struct Job<'a> {
    pub(super) isa: Isa,
    pub(super) shape: &'a AttentionShape,
    pub(super) q: Rows<'a>,
    pub(super) k: Rows<'a>,
    pub(super) v: Rows<'a>,
    pub(super) mask: Option<Mask<'a>>,
    pub(super) out: Rows<'a>,
    pub(super) dout: Rows<'a>,
    pub(super) lse: &'a [f32],
    pub(super) dq: Out<'a>,
    pub(super) dk: Out<'a>,
    pub(super) dv: Out<'a>,
}

fn run(kernel: Kernel, job: &Job<'_>, head: usize) {
    let d = job.shape.head_dim.next_multiple_of(MAX_LANES);
    let width = job.shape.q_tokens.next_multiple_of(MAX_LANES);
    // As in the forward pass: enough for every kernel, taken outside of the code for one.
    let len = 5 * d * width
        + 2 * width
        + 5 * KEYS * d
        + (2 * KEYS + d) * 3 * MAX_LANES
        + 2 * KEYS * BLOCK * MAX_LANES
        + 24 * 16;
    with_scratch(len, |scratch: &mut [u32]| {
        dispatch!(kernel, task(job: &Job<'_>, head: usize, scratch: &mut [u32]));
    });
}

/// # Safety
/// Called from code compiled for the product's instruction set.
#[inline(always)]
unsafe fn task<P: Product>(job: &Job<'_>, head: usize, scratch: &mut [u32]) {
    let shape = job.shape;
    let d = shape.head_dim;
    let lanes = P::V::LANES;
    let units = d.div_ceil(P::PAIR);
    let columns = d.next_multiple_of(lanes);
    let vectors = shape.q_tokens.div_ceil(lanes);
    let width = vectors * lanes;
    let q = head_rows(shape, &job.q, shape.q_tokens, head);
    let k = head_rows(shape, &job.k, shape.k_tokens, head);
    let v = head_rows(shape, &job.v, shape.k_tokens, head);
    let dout = head_rows(shape, &job.dout, shape.q_tokens, head);
    let mut parts = Parts(scratch);
    // Queries of the whole head, laid out by runs of at most three vectors: with lanes along the queries,
    // and with lanes along the channels.
    let [q_lanes, dout_lanes] = [units * width, units * width].map(|n| parts.take(n));
    let [q_tokens, dout_tokens] = [width / P::PAIR * columns; 2].map(|n| parts.take(n));
    let [dq, lse, delta] = [d * width, width, width].map(|n| parts.take(n));
    let [k_rows, v_rows] = [KEYS * units; 2].map(|n| parts.take(n));
    let k_tokens = parts.take(KEYS.div_ceil(P::PAIR) * d);
    let [dk, dv] = [KEYS * columns; 2].map(|n| parts.take(n));
    let scores = parts.take(KEYS * 3 * lanes);
    let [p_rows, ds_rows] = [KEYS * BLOCK * lanes; 2].map(|n| parts.take(n));
    let ds_units = parts.take(KEYS * 3 * lanes);
    let rows = parts.take(d * 3 * lanes);
    let dq: &mut [f32] = bytemuck::cast_slice_mut(dq);
    let lse: &mut [f32] = bytemuck::cast_slice_mut(lse);
    let delta: &mut [f32] = bytemuck::cast_slice_mut(delta);
    let dk: &mut [f32] = bytemuck::cast_slice_mut(dk);
    let dv: &mut [f32] = bytemuck::cast_slice_mut(dv);
    let scores: &mut [f32] = bytemuck::cast_slice_mut(scores);
    dq.fill(0.0);
    query_sums(job, head, lse, delta);
    for_runs_of_blocks!(P, vectors, N, run => {
        let start = run * lanes;
        let count = (N * lanes).min(shape.q_tokens - start);
        pack::transposed::<P>(job.isa, q, start, count, N * lanes, rows, &mut q_lanes[units * start..]);
        pack::transposed::<P>(job.isa, dout, start, count, N * lanes, rows, &mut dout_lanes[units * start..]);
        for (head, to) in [(q, &mut *q_tokens), (dout, &mut *dout_tokens)] {
            let to = &mut to[start / P::PAIR * columns..][..N * lanes / P::PAIR * columns];
            pack::tokens::<P>(head, start, count, columns, to);
            to[count.div_ceil(P::PAIR) * columns..].fill(0);
        }
    });
    for first_k in (0..shape.k_tokens).step_by(KEYS) {
        let keys = KEYS.min(shape.k_tokens - first_k);
        pack::rows::<P>(k, first_k, keys, k_rows);
        pack::rows::<P>(v, first_k, keys, v_rows);
        pack::tokens::<P>(k, first_k, keys, d, k_tokens);
        dk.fill(0.0);
        dv.fill(0.0);
        for block in (0..vectors).step_by(BLOCK) {
            let block = block..vectors.min(block + BLOCK);
            let (first_q, row_units) = (block.start * lanes, block.len() * lanes / P::PAIR);
            if shape.causal && first_k >= (block.end * lanes).min(shape.q_tokens) {
                continue;
            }
            for_runs!(P, block.len(), N, run => {
                let (start, at) = (first_q + run * lanes, run * lanes / P::PAIR);
                // SAFETY: operands were packed with these sizes; the contract of this function.
                unsafe {
                    tile::<P, N>(Tile {
                        job,
                        head,
                        first_q: start,
                        queries: (N * lanes).min(shape.q_tokens - start),
                        first_k,
                        keys,
                        units,
                        row_units,
                        q_lanes: q_lanes[units * start..].as_ptr(),
                        dout_lanes: dout_lanes[units * start..].as_ptr(),
                        k_rows: k_rows.as_ptr(),
                        v_rows: v_rows.as_ptr(),
                        k_tokens: k_tokens.as_ptr(),
                        lse: lse[start..].as_ptr(),
                        delta: delta[start..].as_ptr(),
                        scores: &mut scores[..keys * N * lanes],
                        p_rows: p_rows[at..].as_mut_ptr(),
                        ds_rows: ds_rows[at..].as_mut_ptr(),
                        ds_units: ds_units.as_mut_ptr(),
                        dq: dq[d * start..].as_mut_ptr(),
                    });
                }
            });
            let of_block = first_q / P::PAIR * columns;
            let products = [
                (&*p_rows, &dout_tokens[of_block..], &mut *dv),
                (&*ds_rows, &q_tokens[of_block..], &mut *dk),
            ];
            for (rows, tokens, sums) in products {
                for_runs!(P, columns / lanes, M, first => {
                    let at = first * lanes;
                    let left = Left { start: rows.as_ptr(), row: row_units, step: 1 };
                    let right = Right { start: tokens[at..].as_ptr(), step: columns };
                    let mut sum = Accumulate { to: sums[at..].as_mut_ptr(), stride: columns };
                    // Columns that fill up the last vector are not read.
                    let half = first + M == columns / lanes && columns - d >= lanes / 2;
                    // SAFETY: as above.
                    unsafe { multiply_columns::<P, M>(left, right, keys, row_units, half, &mut sum) };
                });
            }
        }
        for (out, values) in [(&job.dk, &*dk), (&job.dv, &*dv)] {
            for (key, row) in values.chunks_exact(columns).take(keys).enumerate() {
                write_row(job, out, shape.k_tokens, head, first_k + key, &row[..d]);
            }
        }
    }
    for_runs_of_blocks!(P, vectors, N, run => {
        let start = run * lanes;
        let count = (N * lanes).min(shape.q_tokens - start);
        let dq = &dq[d * start..][..d * N * lanes];
        transpose(job.isa, bytemuck::cast_slice(dq), N * lanes, [d, N * lanes], rows, d);
        let rows: &[f32] = bytemuck::cast_slice(rows);
        for (lane, row) in rows.chunks_exact(d).take(count).enumerate() {
            write_row(job, &job.dq, shape.q_tokens, head, start + lane, row);
        }
    });
}

/// The logarithms in units of log2, infinite where nothing is to come out, and `D = sum(dO * O)`, scaled; both negative, since
/// they are subtracted.
#[inline(always)]
pub(super) fn query_sums(job: &Job<'_>, head: usize, lse: &mut [f32], delta: &mut [f32]) {
    let shape = job.shape;
    let out = head_rows(shape, &job.out, shape.q_tokens, head);
    let dout = head_rows(shape, &job.dout, shape.q_tokens, head);
    lse.fill(f32::NEG_INFINITY);
    delta.fill(0.0);
    let given = &job.lse[head * shape.q_tokens..][..shape.q_tokens];
    for (token, &value) in given.iter().enumerate() {
        if value != f32::NEG_INFINITY {
            lse[token] = -value * std::f32::consts::LOG2_E;
        }
        delta[token] = -dot(&out, &dout, token) * shape.scale;
    }
}

/// The scalar product of a row of each.
#[inline(always)]
fn dot(a: &Head<'_>, b: &Head<'_>, token: usize) -> f32 {
    const LANES: usize = 8;
    let rows = [a, b].map(|head| head.at(token, 0)..head.at(token, 0) + head.width);
    macro_rules! sum {
        ($a:ident, $b:ident, $x:ident => $wide_x:expr, $y:ident => $wide_y:expr) => {{
            // Whole chunks first: their sums stay in registers.
            let (a, b) = ($a[rows[0].clone()].chunks_exact(LANES), $b[rows[1].clone()].chunks_exact(LANES));
            let rest = a.remainder().iter().zip(b.remainder());
            let mut total = [0.0f32; LANES];
            for (a, b) in a.zip(b) {
                let mut lane = 0;
                while lane < LANES {
                    let ($x, $y) = (&a[lane], &b[lane]);
                    total[lane] += $wide_x * $wide_y;
                    lane += 1;
                }
            }
            for (total, ($x, $y)) in total.iter_mut().zip(rest) {
                *total += $wide_x * $wide_y;
            }
            total.iter().sum()
        }};
    }
    match (a.data, b.data) {
        (Data::F32(a), Data::F32(b)) => sum!(a, b, x => *x, y => *y),
        (Data::F32(a), Data::Bf16(b)) => sum!(a, b, x => *x, y => pack::wide(*y)),
        (Data::Bf16(a), Data::F32(b)) => sum!(a, b, x => pack::wide(*x), y => *y),
        (Data::Bf16(a), Data::Bf16(b)) => sum!(a, b, x => pack::wide(*x), y => pack::wide(*y)),
        _ => unreachable!("checked on entry"),
    }
}

#[inline(always)]
pub(super) fn write_row(
    job: &Job<'_>,
    out: &Out<'_>,
    tokens: usize,
    head: usize,
    token: usize,
    values: &[f32],
) {
    let shape = job.shape;
    let (sequence, in_sequence) = (head / shape.heads, head % shape.heads);
    let row = (sequence * tokens + token) * shape.heads + in_sequence;
    // SAFETY: each row of a head belongs to one task.
    unsafe { out.store(job.isa, row * shape.head_dim, values) };
}

struct Tile<'a> {
    job: &'a Job<'a>,
    head: usize,
    first_q: usize,
    queries: usize,
    first_k: usize,
    keys: usize,
    units: usize,
    /// Units of a row of probabilities or slopes.
    row_units: usize,
    q_lanes: *const u32,
    dout_lanes: *const u32,
    k_rows: *const u32,
    v_rows: *const u32,
    k_tokens: *const u32,
    lse: *const f32,
    delta: *const f32,
    scores: &'a mut [f32],
    p_rows: *mut u32,
    ds_rows: *mut u32,
    ds_units: *mut u32,
    dq: *mut f32,
}

/// One block of keys against one run of queries: probabilities, slopes, and the gradient of the queries.
///
/// # Safety
/// Pointers reach as far as the sizes say; called from code compiled for the product's instruction set.
#[inline(always)]
unsafe fn tile<P: Product, const N: usize>(t: Tile<'_>) {
    let Tile { job, keys, units, row_units, .. } = t;
    let shape = job.shape;
    let d = shape.head_dim;
    let lanes = P::V::LANES;
    let width = N * lanes;
    // SAFETY: the contract of this function.
    unsafe {
        let mut probabilities = Probabilities {
            to: t.scores.as_mut_ptr(),
            rows: t.p_rows,
            row_units,
            scale: P::V::splat(shape.scale * std::f32::consts::LOG2_E),
            offset: loaded::<P, N>(t.lse),
        };
        let left = Left { start: t.k_rows, row: units, step: 1 };
        let right = Right { start: t.q_lanes, step: width };
        if job.mask.is_some() || (shape.causal && t.first_k + keys > t.first_q + 1) {
            let (to, scale) = (probabilities.to, probabilities.scale);
            let mut scores =
                Scores { to, scale: Scale([scale; N]), greatest: [P::V::splat(f32::NEG_INFINITY); N] };
            multiply::<P, N>(left, right, keys, units, &mut scores);
            apply_mask(shape, job.mask, t.head, [t.first_q, t.queries, width], [t.first_k, keys], t.scores);
            let mut key = 0;
            while key < keys {
                probabilities.of_scores::<P>(key);
                key += 1;
            }
        } else {
            multiply::<P, N>(left, right, keys, units, &mut probabilities);
        }
        let mut slopes = Slopes {
            probabilities: t.scores.as_ptr(),
            rows: t.ds_rows,
            row_units,
            units: t.ds_units,
            scale: P::V::splat(shape.scale),
            offset: loaded::<P, N>(t.delta),
        };
        let left = Left { start: t.v_rows, row: units, step: 1 };
        multiply::<P, N>(left, Right { start: t.dout_lanes, step: width }, keys, units, &mut slopes);

        let left = Left { start: t.k_tokens, row: 1, step: d };
        let right = Right { start: t.ds_units, step: width };
        let mut sum = Accumulate { to: t.dq, stride: width };
        multiply::<P, N>(left, right, d, keys.div_ceil(P::PAIR), &mut sum);
    }
}

/// `N` vectors.
///
/// # Safety
/// They are readable; called from code compiled for the product's instruction set.
#[inline(always)]
unsafe fn loaded<P: Product, const N: usize>(from: *const f32) -> [P::V; N] {
    // SAFETY: the contract of this function.
    unsafe {
        let mut vectors = [P::V::splat(0.0); N];
        let mut j = 0;
        while j < N {
            vectors[j] = P::V::load(from.add(j * P::V::LANES));
            j += 1;
        }
        vectors
    }
}
