//! The backward pass: see the other kernels' [`backward`](super::super::backward) for what is computed. A task owns one head.
//!
//! ```text
//! S [keys, queries]       = K [keys, channels] . Q' [channels, queries]       then P = exp(S)
//! dP [keys, queries]      = V [keys, channels] . dO' [channels, queries]      then dS = P (dP - D)
//! dV [keys, channels]     = P [keys, queries] . dO [queries, channels]
//! dK [keys, channels]     = dS [keys, queries] . Q [queries, channels]
//! dQ' [channels, queries] = K' [channels, keys] . dS [keys, queries]
//! ```

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::backward::{Job, query_sums, write_row};
use super::super::block::apply_mask;
use super::super::forward::{Parts, head_rows};
use super::super::pack as copies;
use super::super::product::Product;
use super::super::vector::Vector;
use super::pack::{self, Turned};
use super::{CELLS, PAIR, Pairs, SQUARE, tiles};
use crate::ThreadPool;
use crate::kernels::amx::{self, Right, SIDE, Unit};
use crate::kernels::elementwise::dispatch::with_scratch;
use crate::kernels::transpose::transpose;

/// Units of keys of a block, and runs of queries that its probabilities are kept of: they stay in the second-level cache.
const BLOCK: usize = if cfg!(test) { 2 } else { 4 };
const RUNS: usize = if cfg!(test) { 2 } else { 8 };

#[derive(Clone, Copy)]
struct Sizes {
    /// Units of 32 channels.
    channels: usize,
    /// Tiles of 16 channels.
    tiles: usize,
    /// Runs of 32 queries.
    runs: usize,
}

impl Sizes {
    /// Pairs of tiles of channels.
    fn pairs(&self) -> usize {
        self.tiles.div_ceil(2)
    }

    /// Channels of rows of sums: whole tiles.
    fn columns(&self) -> usize {
        self.tiles * SIDE
    }
}

fn sizes(job: &Job<'_>) -> Sizes {
    let (d, queries) = (job.shape.head_dim, job.shape.q_tokens);
    Sizes { channels: d.div_ceil(PAIR), tiles: d.div_ceil(SIDE), runs: queries.div_ceil(PAIR) }
}

const PARTS: usize = 16;

/// Cells of the parts of a task's memory, in the order in which it takes them.
fn lens(job: &Job<'_>) -> [usize; PARTS] {
    let Sizes { channels, runs, .. } = sizes(job);
    let (pairs, columns) = (sizes(job).pairs(), sizes(job).columns());
    let [lanes, tokens] = [runs * channels * CELLS, runs * SIDE * columns];
    let rows = BLOCK * channels * CELLS;
    let sums = BLOCK * PAIR * columns;
    let probabilities = BLOCK * RUNS * CELLS;
    [
        lanes,
        lanes,
        tokens,
        tokens,
        runs * pairs * SQUARE,
        runs * PAIR,
        runs * PAIR,
        rows,
        rows,
        pairs * BLOCK * CELLS,
        sums,
        sums,
        probabilities,
        probabilities,
        4 * SQUARE + BLOCK * CELLS,
        PAIR * job.shape.head_dim.max(PAIR),
    ]
}

/// See [`backward`](super::super::backward): all inputs are brain floating-point numbers.
pub(in super::super) fn backward(pool: &ThreadPool, job: &Job<'_>) {
    pool.run(job.shape.batch * job.shape.heads, |head, _| {
        let lens = lens(job);
        let len = lens.iter().map(|len| len.next_multiple_of(SIDE)).sum();
        // The buffer is taken here because a closure inside the task would not be compiled for its instruction set.
        with_scratch(len, |scratch: &mut [u32]| {
            let mut parts = Parts(scratch);
            // SAFETY: the kernel was chosen for a processor that has the tiles.
            unsafe { task(job, head, lens.map(|len| parts.take(len))) };
        });
    });
}

/// # Safety
/// The processor has [`Isa::Amx`](crate::Isa::Amx); the parts are of [`lens`].
#[target_feature(enable = "avx512vbmi,avx512bf16,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
unsafe fn task(job: &Job<'_>, head: usize, parts: [&mut [u32]; PARTS]) {
    let [
        q_lanes,
        dout_lanes,
        q_tokens,
        dout_tokens,
        dq,
        lse,
        delta,
        k_rows,
        v_rows,
        k_turned,
        dk,
        dv,
        p_rows,
        ds_rows,
        squares,
        rows,
    ] = parts;
    let (shape, sizes) = (job.shape, sizes(job));
    let (d, columns) = (shape.head_dim, sizes.columns());
    let [q, dout] = [&job.q, &job.dout].map(|rows| head_rows(shape, rows, shape.q_tokens, head));
    let [k, v] = [&job.k, &job.v].map(|rows| head_rows(shape, rows, shape.k_tokens, head));
    let [dq, lse, delta, dk, dv] =
        [dq, lse, delta, dk, dv].map(|cells| -> &mut [f32] { bytemuck::cast_slice_mut(cells) });
    dq.fill(0.0);
    query_sums(job, head, lse, delta);
    let (of_lanes, of_tokens, of_sums) = (sizes.channels * CELLS, SIDE * columns, sizes.pairs() * SQUARE);
    for run in 0..sizes.runs {
        let first = run * PAIR;
        let count = PAIR.min(shape.q_tokens - first);
        for (head, lanes, tokens) in
            [(&q, &mut *q_lanes, &mut *q_tokens), (&dout, &mut *dout_lanes, &mut *dout_tokens)]
        {
            let lanes = &mut lanes[run * of_lanes..][..of_lanes];
            // SAFETY: compiled for the instruction set.
            unsafe { pack::lanes(job.isa, head, first..first + count, sizes.channels, rows, lanes) };
            let tokens = &mut tokens[run * of_tokens..][..of_tokens];
            tokens[count.div_ceil(2) * columns..].fill(0);
            copies::tokens::<Pairs>(*head, first, count, columns, tokens);
        }
    }
    let turned = Turned { together: PAIR, planes: sizes.pairs(), units: BLOCK, with_ones: false };
    // SAFETY: the caller's promise; no other unit is taken while this one is.
    let unit = unsafe { Unit::take() };
    let task = Task {
        job,
        head,
        sizes,
        unit,
        k_rows: k_rows.as_ptr(),
        v_rows: v_rows.as_ptr(),
        k_turned: k_turned.as_ptr(),
        p_rows: p_rows.as_mut_ptr(),
        ds_rows: ds_rows.as_mut_ptr(),
        squares: squares.as_mut_ptr().cast(),
        slopes: squares[4 * SQUARE..].as_mut_ptr(),
    };
    for first_k in (0..shape.k_tokens).step_by(BLOCK * PAIR) {
        let keys = first_k..shape.k_tokens.min(first_k + BLOCK * PAIR);
        // SAFETY: compiled for the instruction set.
        unsafe {
            pack::rows(&k, keys.clone(), sizes.channels, k_rows);
            pack::rows(&v, keys.clone(), sizes.channels, v_rows);
            pack::turned(job.isa, &k, keys.clone(), turned, rows, k_turned);
        }
        dk.fill(0.0);
        dv.fill(0.0);
        for first in (0..sizes.runs).step_by(RUNS) {
            let block = first..sizes.runs.min(first + RUNS);
            if shape.causal && first_k >= (block.end * PAIR).min(shape.q_tokens) {
                continue;
            }
            for run in block.clone() {
                let queries = Queries {
                    first: run * PAIR,
                    count: PAIR.min(shape.q_tokens - run * PAIR),
                    number: run - block.start,
                    runs: block.len(),
                    q: q_lanes[run * of_lanes..].as_ptr(),
                    dout: dout_lanes[run * of_lanes..].as_ptr(),
                    lse: lse[run * PAIR..].as_ptr(),
                    delta: delta[run * PAIR..].as_ptr(),
                    dq: dq[run * of_sums..].as_mut_ptr(),
                };
                // SAFETY: the operands were packed for these sizes; compiled for the instruction set.
                unsafe { task.run(&queries, keys.clone()) };
            }
            let units = keys.len().div_ceil(PAIR);
            for (rows, tokens, sums) in
                [(&*p_rows, &*dout_tokens, &mut *dv), (&*ds_rows, &*q_tokens, &mut *dk)]
            {
                let tokens = tokens[block.start * of_tokens..].as_ptr();
                // SAFETY: as above.
                unsafe { task.add_up(units, block.len(), rows.as_ptr(), tokens, sums.as_mut_ptr()) };
            }
        }
        for (out, values) in [(&job.dk, &*dk), (&job.dv, &*dv)] {
            for (key, row) in values.chunks_exact(columns).take(keys.len()).enumerate() {
                write_row(job, out, shape.k_tokens, head, first_k + key, &row[..d]);
            }
        }
    }
    for run in 0..sizes.runs {
        let count = PAIR.min(shape.q_tokens - run * PAIR);
        let dq = &dq[run * of_sums..][..d * PAIR];
        transpose(job.isa, bytemuck::cast_slice(dq), PAIR, [d, PAIR], rows, d);
        let rows: &[f32] = bytemuck::cast_slice(rows);
        for (lane, row) in rows.chunks_exact(d).take(count).enumerate() {
            write_row(job, &job.dq, shape.q_tokens, head, run * PAIR + lane, row);
        }
    }
}

/// A run of 32 queries.
struct Queries {
    first: usize,
    count: usize,
    /// Which of how many runs of a block it is.
    number: usize,
    runs: usize,
    q: *const u32,
    dout: *const u32,
    lse: *const f32,
    delta: *const f32,
    dq: *mut f32,
}

struct Task<'a> {
    job: &'a Job<'a>,
    head: usize,
    sizes: Sizes,
    unit: Unit,
    /// Of a block of keys.
    k_rows: *const u32,
    v_rows: *const u32,
    k_turned: *const u32,
    /// `[units of keys][runs][32 keys][16 pairs of queries]`
    p_rows: *mut u32,
    ds_rows: *mut u32,
    /// Scores of two units of keys in turn, and what slopes are made of.
    squares: *mut f32,
    /// `[units of keys][16 pairs of keys][32 queries]`
    slopes: *mut u32,
}

impl Task<'_> {
    /// A block of keys against a run of queries: probabilities, slopes, and the gradient of the queries.
    ///
    /// # Safety
    /// The operands are packed; called from code compiled for the instruction set.
    #[inline(always)]
    unsafe fn run(&self, queries: &Queries, keys: Range<usize>) {
        let units = keys.len().div_ceil(PAIR);
        let square =
            |unit: usize, of_slopes: usize| self.squares.wrapping_add((unit % 2 * 2 + of_slopes) * SQUARE);
        // SAFETY: the caller's promise.
        unsafe {
            for unit in 0..units {
                let (scores, slopes) = (square(unit, 0), square(unit, 1));
                self.multiply(self.k_rows, unit, queries.q, scores);
                amx::store::<2, 2>(&self.unit, scores, PAIR);
                self.multiply(self.v_rows, unit, queries.dout, slopes);
                if unit > 0 {
                    self.finish(queries, &keys, unit - 1, square(unit - 1, 0), square(unit - 1, 1));
                }
                amx::store::<2, 2>(&self.unit, slopes, PAIR);
            }
            self.finish(queries, &keys, units - 1, square(units - 1, 0), square(units - 1, 1));
            let slopes = Right::rows(self.slopes.cast_const(), PAIR);
            for pair in 0..self.sizes.pairs() {
                let turned = tiles(self.k_turned.wrapping_add(pair * BLOCK * CELLS));
                let sums = queries.dq.wrapping_add(pair * SQUARE);
                match self.sizes.tiles - 2 * pair >= 2 {
                    true => amx::add_up::<2, 2>(&self.unit, units, turned, slopes, sums, PAIR),
                    false => amx::add_up::<1, 2>(&self.unit, units, turned, slopes, sums, PAIR),
                }
            }
        }
    }

    /// The products of a unit of keys with queries begin; their sums are in registers.
    #[inline(always)]
    unsafe fn multiply(&self, rows: *const u32, unit: usize, lanes: *const u32, next: *const f32) {
        let rows = rows.wrapping_add(unit * self.sizes.channels * CELLS);
        let lanes = Right::rows(lanes, PAIR);
        // SAFETY: the caller's promise.
        unsafe {
            amx::clear::<2, 2>(&self.unit);
            amx::multiply::<false, 2, 2>(&self.unit, self.sizes.channels, tiles(rows), lanes, next);
        }
    }

    /// Probabilities and slopes of a unit of keys.
    #[inline(always)]
    unsafe fn finish(
        &self,
        queries: &Queries,
        keys: &Range<usize>,
        unit: usize,
        scores: *mut f32,
        products: *mut f32,
    ) {
        let shape = self.job.shape;
        let first_k = keys.start + unit * PAIR;
        let count = PAIR.min(keys.end - first_k);
        let mut factor = shape.scale * std::f32::consts::LOG2_E;
        // SAFETY: the caller's promise.
        unsafe {
            if self.job.mask.is_some() || (shape.causal && first_k + count > queries.first + 1) {
                let scores = std::slice::from_raw_parts_mut(scores, count * PAIR);
                for score in scores.iter_mut() {
                    *score *= factor;
                }
                let lanes = [queries.first, queries.count, PAIR];
                apply_mask(shape, self.job.mask, self.head, lanes, [first_k, count], scores);
                factor = 1.0;
            }
            let (factor, scale) = (_mm512_set1_ps(factor), _mm512_set1_ps(shape.scale));
            let lse = [0, SIDE].map(|at| _mm512_loadu_ps(queries.lse.add(at)));
            let delta = [0, SIDE].map(|at| _mm512_loadu_ps(queries.delta.add(at)));
            let rows = (unit * queries.runs + queries.number) * CELLS;
            let (p_rows, ds_rows) = (self.p_rows.add(rows), self.ds_rows.add(rows));
            let units = self.slopes.add(unit * CELLS);
            for pair in 0..SIDE {
                for j in 0..2 {
                    let mut slopes = [_mm512_setzero_ps(); 2];
                    for (k, slope) in slopes.iter_mut().enumerate() {
                        let row = 2 * pair + k;
                        let at = row * PAIR + j * SIDE;
                        let score = _mm512_fmadd_ps(_mm512_loadu_ps(scores.add(at)), factor, lse[j]);
                        let p = Vector::exp2::<false>(score);
                        let product = _mm512_loadu_ps(products.add(at));
                        *slope = _mm512_mul_ps(_mm512_fmadd_ps(product, scale, delta[j]), p);
                        let to = row * SIDE + j * SIDE / 2;
                        Pairs::store_row(p, p_rows.add(to));
                        Pairs::store_row(*slope, ds_rows.add(to));
                    }
                    Pairs::store_units(slopes[0], slopes[1], units.add(pair * PAIR + j * SIDE));
                }
            }
            // Keys that are not there.
            for missing in count..PAIR {
                let (pair, half) = (missing / 2, missing % 2);
                for cell in std::slice::from_raw_parts_mut(units.add(pair * PAIR), PAIR) {
                    *cell &= if half == 1 { 0xffff } else { 0 };
                }
            }
        }
    }

    /// Adds the products of rows of keys over some runs of queries to sums of the keys.
    ///
    /// # Safety
    /// As for [`Task::run`].
    #[inline(always)]
    unsafe fn add_up(&self, units: usize, runs: usize, rows: *const u32, tokens: *const u32, sums: *mut f32) {
        let columns = self.sizes.columns();
        for unit in 0..units {
            let rows = tiles(rows.wrapping_add(unit * runs * CELLS));
            for pair in 0..self.sizes.pairs() {
                let sums = sums.wrapping_add(unit * PAIR * columns + pair * PAIR);
                let tokens = Right::rows(tokens.wrapping_add(pair * PAIR), columns);
                // SAFETY: the caller's promise.
                unsafe {
                    match self.sizes.tiles - 2 * pair >= 2 {
                        true => amx::add_up::<2, 2>(&self.unit, runs, rows, tokens, sums, columns),
                        false => amx::add_up::<2, 1>(&self.unit, runs, rows, tokens, sums, columns),
                    }
                }
            }
        }
    }
}
