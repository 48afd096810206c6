//! The forward pass. A task packs the keys and values of its head once, as many as stay in the second-level cache, and lets its
//! queries meet them. The exponentials of 32 keys run beside the products of the next. Behind the channels of the values there is
//! one of ones, whose sum is that of the weights.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::block::{GREATEST_SUM, LEAST_SUM, apply_mask};
use super::super::forward::{Job, Parts, finish, head_rows};
use super::super::product::Product;
use super::super::vector::Vector;
use super::pack::{self, Turned};
use super::{CELLS, PAIR, Pairs, SQUARE, tiles};
use crate::ThreadPool;
use crate::kernels::amx::{self, At, SIDE, Unit};
use crate::kernels::elementwise::dispatch::with_scratch;

/// Units of keys of a block: its weights stay in the first-level cache.
const BLOCK: usize = if cfg!(test) { 2 } else { 8 };
/// Cells of packed keys and values that stay in the second-level cache.
const PACKED: usize = if cfg!(test) { 8 << 10 } else { 300 << 10 };
/// Queries of a task where there are more than enough heads to keep threads busy, and where there are few.
const MANY: usize = 4096;
const FEW: usize = 512;
/// Tasks that keep a few threads evenly busy.
const ENOUGH_TASKS: usize = 8;

/// How many pieces of 16 channels there are in two tiles each.
#[derive(Clone, Copy)]
struct Sizes {
    /// Units of 32 channels of queries and keys.
    channels: usize,
    /// Tiles of 16 channels of the values, with that of ones.
    rows: usize,
    /// Units of keys that are packed at a time.
    keys: usize,
}

impl Sizes {
    fn new(head_dim: usize, keys: usize) -> Sizes {
        let (channels, rows) = (head_dim.div_ceil(PAIR), (head_dim + 1).div_ceil(SIDE));
        let most = (PACKED / ((channels + rows.div_ceil(2)) * CELLS)).max(BLOCK) / BLOCK * BLOCK;
        Sizes { channels, rows, keys: keys.div_ceil(PAIR).min(most).max(1) }
    }

    /// Pairs of tiles of the values.
    fn pairs(&self) -> usize {
        self.rows.div_ceil(2)
    }

    /// Elements of the sums of a run.
    fn sums(&self) -> usize {
        self.pairs() * SQUARE
    }
}

/// See [`forward`](super::super::forward): all inputs are brain floating-point numbers.
pub(in super::super) fn forward(pool: &ThreadPool, job: &Job<'_>) {
    let shape = job.shape;
    let heads = shape.batch * shape.heads;
    let queries = if heads >= ENOUGH_TASKS { MANY } else { FEW };
    let tasks = shape.q_tokens.div_ceil(queries).max(1);
    let queries = shape.q_tokens.div_ceil(tasks).next_multiple_of(PAIR).max(PAIR);
    pool.run(heads * tasks, |index, _| {
        let (head, first) = (index / tasks, index % tasks * queries);
        if first < shape.q_tokens {
            let range = first..shape.q_tokens.min(first + queries);
            let lens = lens(job, range.len());
            let len = lens.iter().map(|len| len.next_multiple_of(SIDE)).sum();
            // The buffer is taken here because a closure inside the task would not be compiled for its instruction set.
            with_scratch(len, |scratch: &mut [u32]| {
                let mut parts = Parts(scratch);
                // SAFETY: the kernel was chosen for a processor that has the tiles.
                unsafe { task(job, head, range, lens.map(|len| parts.take(len))) };
            });
        }
    });
}

/// Cells of the parts of a task's memory: packed keys, values and queries, sums, what weights are relative to, scores, weights, two
/// tiles of sums, and rows on the way.
fn lens(job: &Job<'_>, queries: usize) -> [usize; 9] {
    let sizes = Sizes::new(job.shape.head_dim, job.shape.k_tokens);
    let runs = queries.div_ceil(PAIR);
    [
        sizes.keys * sizes.channels * CELLS,
        sizes.keys * sizes.pairs() * CELLS,
        runs * sizes.channels * CELLS,
        runs * sizes.sums(),
        runs * PAIR,
        BLOCK * SQUARE,
        BLOCK * CELLS,
        SQUARE,
        PAIR * job.shape.head_dim.max(PAIR),
    ]
}

/// # Safety
/// The processor has [`Isa::Amx`](crate::Isa::Amx); the parts are of [`lens`].
#[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
unsafe fn task(job: &Job<'_>, head: usize, queries: Range<usize>, parts: [&mut [u32]; 9]) {
    let shape = job.shape;
    let sizes = Sizes::new(shape.head_dim, shape.k_tokens);
    let runs = queries.len().div_ceil(PAIR);
    let [keys, values, packed, sums, greatest, scores, weights, rest, rows] = parts;
    sums.fill(0);
    let run = Run {
        job,
        head,
        sizes,
        // SAFETY: the caller's promise; no other unit is taken while this one is.
        unit: unsafe { Unit::take() },
        keys: keys.as_ptr(),
        values: values.as_ptr(),
        scores: scores.as_mut_ptr().cast(),
        weights: weights.as_mut_ptr(),
        rest: rest.as_mut_ptr().cast(),
    };
    let (sums, greatest): (&mut [f32], &mut [f32]) =
        (bytemuck::cast_slice_mut(sums), bytemuck::cast_slice_mut(greatest));
    greatest.fill(f32::NEG_INFINITY);
    let [q, k, v] = [(&job.q, shape.q_tokens), (&job.k, shape.k_tokens), (&job.v, shape.k_tokens)]
        .map(|(rows, tokens)| head_rows(shape, rows, tokens, head));
    let of_run = |run: usize| {
        let first = queries.start + run * PAIR;
        (first, PAIR.min(queries.end - first))
    };
    let packed_len = sizes.channels * CELLS;
    for (index, to) in packed.chunks_exact_mut(packed_len).enumerate() {
        let (first, count) = of_run(index);
        pack::lanes(&q, first, count, rows, to);
    }
    let turned = Turned { pairs: sizes.pairs(), units: sizes.keys, with_ones: true };
    let end = if shape.causal { shape.k_tokens.min(queries.end) } else { shape.k_tokens };
    for first in (0..end).step_by(sizes.keys * PAIR) {
        let group = first..end.min(first + sizes.keys * PAIR);
        pack::rows(&k, group.clone(), sizes.channels, keys);
        pack::turned(&v, group.clone(), turned, rows, values);
        for index in 0..runs {
            let (first_q, count) = of_run(index);
            let state = State {
                first: first_q,
                count,
                queries: packed[index * packed_len..].as_ptr(),
                sums: sums[index * sizes.sums()..].as_mut_ptr(),
                greatest: greatest[index * PAIR..].as_mut_ptr(),
            };
            for first_k in group.clone().step_by(BLOCK * PAIR) {
                let block = first_k..group.end.min(first_k + BLOCK * PAIR);
                if !shape.causal || block.start < first_q + count {
                    // SAFETY: the operands were packed for these sizes; compiled for the instruction set.
                    unsafe { run.block(&state, group.start, block) };
                }
            }
        }
    }
    for index in 0..runs {
        let (first, count) = of_run(index);
        let sums = &sums[index * sizes.sums()..][..(shape.head_dim + 1) * PAIR];
        let (out, sum) = sums.split_at(shape.head_dim * PAIR);
        let state = [&greatest[index * PAIR..][..count], &sum[..count]];
        finish(job, head, first, PAIR, out, state, rows);
    }
}

/// 32 queries.
struct State {
    first: usize,
    count: usize,
    /// Packed.
    queries: *const u32,
    /// Of each channel of the values, then of the weights: rows of 32.
    sums: *mut f32,
    /// What the weights are relative to.
    greatest: *mut f32,
}

struct Run<'a> {
    job: &'a Job<'a>,
    head: usize,
    sizes: Sizes,
    unit: Unit,
    keys: *const u32,
    values: *const u32,
    /// Of a block, `[keys][32 queries]`.
    scores: *mut f32,
    /// Of a block, `[pairs of keys][32 queries]`.
    weights: *mut u32,
    /// Of two tiles of channels.
    rest: *mut f32,
}

/// Two vectors of lanes.
type Lanes = [__m512; 2];

impl Run<'_> {
    /// # Safety
    /// The operands are packed, those of keys and values from `start` on; called from code compiled for the instruction set.
    #[inline(always)]
    unsafe fn block(&self, state: &State, start: usize, keys: Range<usize>) {
        let causal = self.job.shape.causal && keys.end > state.first + 1;
        let masked = self.job.mask.is_some() || causal;
        let first = (keys.start - start) / PAIR;
        // SAFETY: the caller's promise.
        unsafe {
            if masked || !self.against_known(state, &keys, first) {
                self.against_greatest(state, &keys, first);
            }
        }
    }

    /// The products of a unit of keys with the queries begin; their sums are in registers.
    #[inline(always)]
    unsafe fn score(&self, state: &State, unit: usize, to: *const f32) {
        let keys = self.keys.wrapping_add(unit * self.sizes.channels * CELLS);
        let queries = At { from: state.queries.cast(), stride: PAIR * size_of::<u32>() };
        // SAFETY: the caller's promise.
        unsafe {
            amx::clear::<2, 2>(&self.unit);
            amx::multiply::<false, 2, 2>(&self.unit, self.sizes.channels, tiles(keys), queries, to);
        }
    }

    /// The products of a pair of tiles of channels with some units of weights begin, from the sums that are there.
    #[inline(always)]
    unsafe fn weigh(&self, state: &State, pair: usize, first: usize, units: usize) {
        let values = self.values.wrapping_add((pair * self.sizes.keys + first) * CELLS);
        let weights = At { from: self.weights.cast_const().cast(), stride: PAIR * size_of::<u32>() };
        let sums = state.sums.wrapping_add(pair * SQUARE);
        // SAFETY: the caller's promise.
        unsafe {
            match self.sizes.rows - 2 * pair >= 2 {
                true => {
                    amx::load::<2, 2>(&self.unit, sums, PAIR);
                    amx::multiply::<false, 2, 2>(&self.unit, units, tiles(values), weights, sums);
                }
                false => {
                    amx::load::<1, 2>(&self.unit, sums, PAIR);
                    amx::multiply::<false, 1, 2>(&self.unit, units, tiles(values), weights, sums);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn store(&self, pair: usize, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.sizes.rows - 2 * pair >= 2 {
                true => amx::store::<2, 2>(&self.unit, to, PAIR),
                false => amx::store::<1, 2>(&self.unit, to, PAIR),
            }
        }
    }

    /// See `against_known` in `block`.
    #[inline(always)]
    unsafe fn against_known(&self, state: &State, keys: &Range<usize>, first: usize) -> bool {
        let units = keys.len().div_ceil(PAIR);
        // SAFETY: the caller's promise.
        unsafe {
            let scale = _mm512_set1_ps(self.job.shape.scale * std::f32::consts::LOG2_E);
            let begins = keys.start == 0;
            let mut offset = [_mm512_set1_ps(Pairs::BASE); 2];
            if !begins {
                for (j, offset) in offset.iter_mut().enumerate() {
                    let greatest = _mm512_loadu_ps(state.greatest.add(j * SIDE));
                    *offset = _mm512_sub_ps(*offset, greatest);
                }
            }
            let mut seen = _mm512_setzero_ps();
            for unit in 0..units {
                let scores = self.scores.add(unit % 2 * SQUARE);
                self.score(state, first + unit, scores);
                if unit > 0 {
                    seen = self.powers(unit - 1, scale, offset, seen);
                }
                amx::store::<2, 2>(&self.unit, scores, PAIR);
            }
            seen = self.powers(units - 1, scale, offset, seen);
            if !Pairs::in_range(seen) {
                return false;
            }
            // The sum of the weights, which is with the last channels, before anything is changed.
            let (last, row) = (self.sizes.pairs() - 1, self.job.shape.head_dim % PAIR * PAIR);
            self.weigh(state, last, first, units);
            self.store(last, self.rest);
            for j in 0..2 {
                let before = _mm512_loadu_ps(state.sums.add(last * SQUARE + row + j * SIDE));
                let total = _mm512_sub_ps(_mm512_loadu_ps(self.rest.add(row + j * SIDE)), before);
                let negative = _mm512_sub_ps(_mm512_setzero_ps(), total);
                if !total.all_below(GREATEST_SUM) || (begins && !negative.all_below(-LEAST_SUM)) {
                    return false;
                }
            }
            self.store(last, state.sums.add(last * SQUARE));
            for pair in 0..last {
                self.weigh(state, pair, first, units);
                self.store(pair, state.sums.add(pair * SQUARE));
            }
            if begins {
                for j in 0..2 {
                    _mm512_storeu_ps(state.greatest.add(j * SIDE), _mm512_setzero_ps());
                }
            }
            true
        }
    }

    /// The weights of a unit of keys.
    #[inline(always)]
    unsafe fn powers(&self, unit: usize, scale: __m512, offset: Lanes, mut seen: __m512) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe {
            let from = self.scores.cast_const().add(unit % 2 * SQUARE);
            let to = self.weights.add(unit * CELLS);
            for pair in 0..SIDE {
                for (j, offset) in offset.into_iter().enumerate() {
                    let at = from.add(2 * pair * PAIR + j * SIDE);
                    let first = _mm512_fmadd_ps(_mm512_loadu_ps(at), scale, offset);
                    let second = _mm512_fmadd_ps(_mm512_loadu_ps(at.add(PAIR)), scale, offset);
                    let (exponents, both) = Pairs::exponents(first, second, seen);
                    seen = both;
                    Pairs::store(Pairs::powers(exponents), to.add(pair * PAIR + j * SIDE));
                }
            }
        }
        seen
    }

    /// See `against_greatest` in `block`.
    #[inline(never)]
    #[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
    unsafe fn against_greatest(&self, state: &State, keys: &Range<usize>, first: usize) {
        let (shape, count) = (self.job.shape, keys.len());
        let units = count.div_ceil(PAIR);
        // SAFETY: the caller's promise; there are scores for all units of a block.
        unsafe {
            for unit in 0..units {
                let scores = self.scores.add(unit * SQUARE);
                self.score(state, first + unit, scores);
                amx::store::<2, 2>(&self.unit, scores, PAIR);
            }
            let scores = std::slice::from_raw_parts_mut(self.scores, units * SQUARE);
            let scale = shape.scale * std::f32::consts::LOG2_E;
            for score in scores[..count * PAIR].iter_mut() {
                *score *= scale;
            }
            // Keys that are not there.
            scores[count * PAIR..].fill(f32::NEG_INFINITY);
            let lanes = [state.first, state.count, PAIR];
            apply_mask(
                shape,
                self.job.mask,
                self.head,
                lanes,
                [keys.start, count],
                &mut scores[..count * PAIR],
            );
            for j in 0..2 {
                let column = self.scores.cast_const().add(j * SIDE);
                let old = _mm512_loadu_ps(state.greatest.add(j * SIDE));
                let mut greatest = old;
                for key in 0..count {
                    let score = _mm512_loadu_ps(column.add(key * PAIR));
                    greatest = Vector::max(score, greatest);
                }
                let new = Pairs::shift(greatest);
                _mm512_storeu_ps(state.greatest.add(j * SIDE), new);
                // Where every key so far is hidden, a finite number, so that nothing is subtracted from negative infinity.
                let shift = Vector::max(new, _mm512_set1_ps(f32::MIN));
                let correction = Vector::exp2::<true>(_mm512_sub_ps(old, shift));
                for row in 0..=shape.head_dim {
                    let at = state.sums.add(row * PAIR + j * SIDE);
                    _mm512_storeu_ps(at, _mm512_mul_ps(_mm512_loadu_ps(at), correction));
                }
                for pair in 0..units * SIDE {
                    let [a, b] = [0, 1].map(|i| {
                        let score = _mm512_loadu_ps(column.add((2 * pair + i) * PAIR));
                        Vector::exp2::<false>(_mm512_sub_ps(score, shift))
                    });
                    Pairs::store_units(a, b, self.weights.add(pair * PAIR + j * SIDE));
                }
            }
            for pair in 0..self.sizes.pairs() {
                self.weigh(state, pair, first, units);
                self.store(pair, state.sums.add(pair * SQUARE));
            }
        }
    }
}
