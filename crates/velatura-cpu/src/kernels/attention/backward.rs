//! The backward pass: a task owns one head of one sequence, so that nothing is added up across tasks. The
//! scores of a tile are computed again from Q, K and the stored logarithms.
//!
//! With `P = exp(scale Q K^T + mask - lse)` and `D = sum(dO * O)` for each query:
//! `dV = P^T dO`, `dS = P (dO V^T - D) scale`, `dQ = dS K`, `dK = dS^T Q`.

use super::forward::{KEYS, MAX_LANES, Parts, apply_mask, head_rows};
use super::pack::{self, Head};
#[cfg(target_arch = "x86_64")]
use super::product::Dot;
use super::product::{Accumulate, Left, Product, Right, Scores, Single, for_runs, multiply};
use super::vector::{Plain, Vector};
use super::{AttentionShape, Kernel, Mask, Rows, dispatch};
use crate::kernels::elementwise::dispatch::{Out, with_scratch};
use crate::{Data, DataMut, Isa, ThreadPool};

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
    pool.run(shape.batch * shape.heads, |head, _| run(kernel, &job, head));
}

struct Job<'a> {
    isa: Isa,
    shape: &'a AttentionShape,
    q: Rows<'a>,
    k: Rows<'a>,
    v: Rows<'a>,
    mask: Option<Mask<'a>>,
    out: Rows<'a>,
    dout: Rows<'a>,
    lse: &'a [f32],
    dq: Out<'a>,
    dk: Out<'a>,
    dv: Out<'a>,
}

fn run(kernel: Kernel, job: &Job<'_>, head: usize) {
    let d = job.shape.head_dim.next_multiple_of(MAX_LANES);
    let width = job.shape.q_tokens.next_multiple_of(MAX_LANES);
    // As in the forward pass: enough for every kernel, taken outside of the code for one.
    let len = 5 * d * width + 2 * width + 5 * KEYS * d + (5 * KEYS + d) * 3 * MAX_LANES + 24 * 16;
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
    let [scores, products] = [KEYS * 3 * lanes; 2].map(|n| parts.take(n));
    let [p_rows, ds_rows, ds_units] = [KEYS * 3 * lanes; 3].map(|n| parts.take(n));
    let rows = parts.take(d * 3 * lanes);
    let dq: &mut [f32] = bytemuck::cast_slice_mut(dq);
    let lse: &mut [f32] = bytemuck::cast_slice_mut(lse);
    let delta: &mut [f32] = bytemuck::cast_slice_mut(delta);
    let dk: &mut [f32] = bytemuck::cast_slice_mut(dk);
    let dv: &mut [f32] = bytemuck::cast_slice_mut(dv);
    let scores: &mut [f32] = bytemuck::cast_slice_mut(scores);
    dq.fill(0.0);
    query_sums(job, head, lse, delta);
    for_runs!(P, vectors, N, run => {
        let start = run * lanes;
        let count = (N * lanes).min(shape.q_tokens - start);
        pack::transposed::<P>(q, start, count, N * lanes, rows, &mut q_lanes[units * start..]);
        pack::transposed::<P>(dout, start, count, N * lanes, rows, &mut dout_lanes[units * start..]);
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
        for_runs!(P, vectors, N, run => {
            let start = run * lanes;
            let count = (N * lanes).min(shape.q_tokens - start);
            if !shape.causal || first_k < start + count {
                // SAFETY: operands were packed with these sizes; the contract of this function.
                unsafe {
                    tile::<P, N>(Tile {
                        job,
                        head,
                        first_q: start,
                        queries: count,
                        first_k,
                        keys,
                        units,
                        columns,
                        q_lanes: q_lanes[units * start..].as_ptr(),
                        dout_lanes: dout_lanes[units * start..].as_ptr(),
                        q_tokens: q_tokens[start / P::PAIR * columns..].as_ptr(),
                        dout_tokens: dout_tokens[start / P::PAIR * columns..].as_ptr(),
                        k_rows: k_rows.as_ptr(),
                        v_rows: v_rows.as_ptr(),
                        k_tokens: k_tokens.as_ptr(),
                        lse: lse[start..].as_ptr(),
                        delta: delta[start..].as_ptr(),
                        scores: &mut scores[..keys * N * lanes],
                        products: products.as_mut_ptr().cast(),
                        p_rows: p_rows.as_mut_ptr(),
                        ds_rows: ds_rows.as_mut_ptr(),
                        ds_units: ds_units.as_mut_ptr(),
                        dq: dq[d * start..].as_mut_ptr(),
                        dk: dk.as_mut_ptr(),
                        dv: dv.as_mut_ptr(),
                    });
                }
            }
        });
        for (out, values) in [(&job.dk, &*dk), (&job.dv, &*dv)] {
            for (key, row) in values.chunks_exact(columns).take(keys).enumerate() {
                write_row(job, out, shape.k_tokens, head, first_k + key, &row[..d]);
            }
        }
    }
    for_runs!(P, vectors, N, run => {
        let start = run * lanes;
        let count = (N * lanes).min(shape.q_tokens - start);
        let dq = &dq[d * start..][..d * N * lanes];
        pack::transpose(bytemuck::cast_slice(dq), d, N * lanes, rows);
        let rows: &[f32] = bytemuck::cast_slice(rows);
        for (lane, row) in rows.chunks_exact(d).take(count).enumerate() {
            write_row(job, &job.dq, shape.q_tokens, head, start + lane, row);
        }
    });
}

/// The logarithms in units of log2, infinite where nothing is to come out, and `D = sum(dO * O)`.
#[inline(always)]
fn query_sums(job: &Job<'_>, head: usize, lse: &mut [f32], delta: &mut [f32]) {
    let shape = job.shape;
    let out = head_rows(shape, &job.out, shape.q_tokens, head);
    let dout = head_rows(shape, &job.dout, shape.q_tokens, head);
    lse.fill(f32::INFINITY);
    delta.fill(0.0);
    let given = &job.lse[head * shape.q_tokens..][..shape.q_tokens];
    for (token, &value) in given.iter().enumerate() {
        if value != f32::NEG_INFINITY {
            lse[token] = value * std::f32::consts::LOG2_E;
        }
        delta[token] = dot(&out, &dout, token);
    }
}

/// The scalar product of a row of each.
#[inline(always)]
fn dot(a: &Head<'_>, b: &Head<'_>, token: usize) -> f32 {
    const LANES: usize = 8;
    let rows =
        [a, b].map(|head| head.start + token * head.stride..head.start + token * head.stride + head.width);
    macro_rules! sum {
        ($a:ident, $b:ident, $x:ident => $wide_x:expr, $y:ident => $wide_y:expr) => {{
            let mut total = [0.0f32; LANES];
            for ($a, $b) in $a[rows[0].clone()].chunks(LANES).zip($b[rows[1].clone()].chunks(LANES)) {
                for ((total, $x), $y) in total.iter_mut().zip($a).zip($b) {
                    *total += $wide_x * $wide_y;
                }
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
fn write_row(job: &Job<'_>, out: &Out<'_>, tokens: usize, head: usize, token: usize, values: &[f32]) {
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
    columns: usize,
    q_lanes: *const u32,
    dout_lanes: *const u32,
    q_tokens: *const u32,
    dout_tokens: *const u32,
    k_rows: *const u32,
    v_rows: *const u32,
    k_tokens: *const u32,
    lse: *const f32,
    delta: *const f32,
    scores: &'a mut [f32],
    products: *mut f32,
    p_rows: *mut u32,
    ds_rows: *mut u32,
    ds_units: *mut u32,
    dq: *mut f32,
    dk: *mut f32,
    dv: *mut f32,
}

/// One block of keys against one run of queries.
///
/// # Safety
/// Pointers reach as far as the sizes say; called from code compiled for the product's instruction set.
#[inline(always)]
unsafe fn tile<P: Product, const N: usize>(t: Tile<'_>) {
    let Tile { job, keys, units, columns, .. } = t;
    let shape = job.shape;
    let d = shape.head_dim;
    let lanes = P::V::LANES;
    let width = N * lanes;
    let row_units = width / P::PAIR;
    // SAFETY: the contract of this function.
    unsafe {
        let low = P::V::splat(f32::NEG_INFINITY);
        let mut scores = Scores {
            to: t.scores.as_mut_ptr(),
            scale: P::V::splat(shape.scale * std::f32::consts::LOG2_E),
            greatest: [low; N],
        };
        let left = Left { start: t.k_rows, row: units, step: 1 };
        multiply::<P, N>(left, Right { start: t.q_lanes, step: width }, keys, units, &mut scores);
        if job.mask.is_some() || (shape.causal && t.first_k + keys > t.first_q + 1) {
            apply_mask(shape, job.mask, t.head, [t.first_q, t.queries, width], [t.first_k, keys], t.scores);
        }
        let mut products = Scores { to: t.products, scale: P::V::splat(1.0), greatest: [low; N] };
        let left = Left { start: t.v_rows, row: units, step: 1 };
        multiply::<P, N>(left, Right { start: t.dout_lanes, step: width }, keys, units, &mut products);

        let source = t.scores.as_ptr();
        let scale = P::V::splat(shape.scale);
        let mut key = 0;
        while key < keys {
            let mut j = 0;
            while j < N {
                let lse = P::V::load(t.lse.add(j * lanes));
                let delta = P::V::load(t.delta.add(j * lanes));
                let mut slopes = [P::V::splat(0.0); 2];
                let mut i = 0;
                while i < P::PAIR && key + i < keys {
                    let at = ((key + i) * N + j) * lanes;
                    let p = P::V::load(source.add(at)).sub(lse).exp2::<true>();
                    let slope = p.mul(P::V::load(t.products.add(at)).sub(delta)).mul(scale);
                    let row = (key + i) * row_units + j * lanes / P::PAIR;
                    P::store_row(p, t.p_rows.add(row));
                    P::store_row(slope, t.ds_rows.add(row));
                    slopes[i] = slope;
                    i += 1;
                }
                P::store_units(slopes[0], slopes[1], t.ds_units.add((key / P::PAIR * N + j) * lanes));
                j += 1;
            }
            key += P::PAIR;
        }

        for_runs!(P, columns / lanes, M, first => {
            let at = first * lanes;
            let left = Left { start: t.p_rows, row: row_units, step: 1 };
            let right = Right { start: t.dout_tokens.add(at), step: columns };
            let mut sum = Accumulate { to: t.dv.add(at), stride: columns };
            accumulate::<P, M>(left, right, keys, row_units, &mut sum);
            let left = Left { start: t.ds_rows, row: row_units, step: 1 };
            let right = Right { start: t.q_tokens.add(at), step: columns };
            let mut sum = Accumulate { to: t.dk.add(at), stride: columns };
            accumulate::<P, M>(left, right, keys, row_units, &mut sum);
        });
        let left = Left { start: t.k_tokens, row: 1, step: d };
        let right = Right { start: t.ds_units, step: width };
        let mut sum = Accumulate { to: t.dq, stride: width };
        accumulate::<P, N>(left, right, d, keys.div_ceil(P::PAIR), &mut sum);
    }
}

/// [`multiply`] with its finishing step named, for inference.
///
/// # Safety
/// As for [`multiply`].
#[inline(always)]
unsafe fn accumulate<P: Product, const N: usize>(
    left: Left,
    right: Right,
    rows: usize,
    steps: usize,
    sum: &mut Accumulate,
) {
    // SAFETY: the contract of this function.
    unsafe { multiply::<P, N>(left, right, rows, steps, sum) }
}
