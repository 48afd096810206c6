//! 32 queries against packed keys and values.
//!
//! The exponentials of some keys run beside the products of the next: of 16 keys where the queries stay in registers, which saves
//! most of the loads, else of 32. The weights of all keys are made before the first value is read, so that sums of values stay
//! in registers, too.
//! Behind the channels of the values there is one of ones, whose sum is that of the weights.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::block::{GREATEST_SUM, LEAST_SUM, apply_mask};
use super::super::forward::Job;
use super::super::product::Product;
use super::super::vector::Vector;
use super::forward::Sizes;
use super::{CELLS, PAIR, Pairs, SQUARE, tiles};
use crate::kernels::amx::{self, At, Right, SIDE, Unit};

/// Units of keys whose scores are known together, and whose exponents are checked.
pub(super) const BLOCK: usize = if cfg!(test) { 2 } else { 8 };

/// 32 queries.
pub(super) struct State {
    pub first: usize,
    pub count: usize,
    /// Packed.
    pub queries: *const u32,
    /// Of each channel of the values, then of the weights: rows of 32.
    pub sums: *mut f32,
    /// What the weights are relative to.
    pub greatest: *mut f32,
}

pub(super) struct Run<'a> {
    pub job: &'a Job<'a>,
    pub head: usize,
    pub sizes: Sizes,
    pub unit: Unit,
    pub keys: *const u32,
    pub values: *const u32,
    /// Of a block, `[keys][32 queries]`.
    pub scores: *mut f32,
    /// Of all packed keys, `[pairs of keys][32 queries]`.
    pub weights: *mut u32,
    /// Of up to three tiles of channels.
    pub rest: *mut f32,
}

/// What scores are turned into weights with, and what was seen of the exponents.
struct Powers {
    scale: __m512,
    offset: [__m512; 2],
    seen: __m512,
}

/// Tiles of rows that are summed up together, from `first` of `all` on: three where no single one is left over.
fn together(first: usize, all: usize) -> usize {
    match all - first {
        left @ 0..=3 => left,
        4 => 2,
        _ => 3,
    }
}

impl Run<'_> {
    /// # Safety
    /// The operands are packed, those of keys and values for `group`; called from code compiled for the instruction set.
    #[inline(always)]
    pub(super) unsafe fn group(&self, state: &State, group: Range<usize>) {
        let shape = self.job.shape;
        // Keys behind the last query are hidden from all.
        let visible = if shape.causal { group.end.min(state.first + state.count) } else { group.end };
        let mut keys = group.start..visible.max(group.start);
        while !keys.is_empty() {
            let first = (keys.start - group.start) / PAIR;
            // Those that no query is hidden from; whole units, as the queries are.
            let end = match (self.job.mask, shape.causal) {
                (Some(_), _) => keys.start,
                (None, true) => keys.end.min(state.first),
                (None, false) => keys.end,
            };
            // SAFETY: the caller's promise.
            unsafe {
                let known =
                    if end > keys.start { self.against_known(state, &(keys.start..end), first) } else { 0 };
                if known > 0 {
                    keys.start = keys.end.min(keys.start + known * PAIR);
                } else {
                    let block = keys.start..keys.end.min(keys.start + BLOCK * PAIR);
                    self.against_greatest(state, &block, first);
                    keys.start = block.end;
                }
            }
        }
    }

    /// Packed queries.
    fn queries(&self, state: &State) -> Right {
        Right::rows(state.queries, PAIR)
    }

    /// Packed keys of a unit.
    fn keys(&self, unit: usize) -> At {
        tiles(self.keys.wrapping_add(unit * self.sizes.channels * CELLS))
    }

    /// The products of a unit of keys with the queries begin; their sums are in registers.
    #[inline(always)]
    unsafe fn score(&self, state: &State, unit: usize, next: *const f32) {
        // SAFETY: the caller's promise.
        unsafe {
            amx::clear::<2, 2>(&self.unit);
            amx::multiply::<false, 2, 2>(
                &self.unit,
                self.sizes.channels,
                self.keys(unit),
                self.queries(state),
                next,
            );
        }
    }

    /// Adds the values by the weights of some units, from unit `first` on, to the sums, unless that of the weights is out of all
    /// proportion: then nothing is changed.
    #[inline(always)]
    unsafe fn weigh(&self, state: &State, first: usize, units: usize, begins: bool) -> bool {
        let mut last = 0;
        while last + together(last, self.sizes.rows) < self.sizes.rows {
            last += together(last, self.sizes.rows);
        }
        // SAFETY: the caller's promise.
        unsafe {
            let sums = state.sums.add(last * SIDE * PAIR);
            self.weigh_tiles(last, first, units, sums, self.rest);
            // The sum of the weights, before anything is changed.
            let row = self.job.shape.head_dim % SIDE * PAIR + (self.sizes.rows - 1 - last) * SIDE * PAIR;
            for j in [0, SIDE] {
                let before = _mm512_loadu_ps(sums.add(row + j));
                let total = _mm512_sub_ps(_mm512_loadu_ps(self.rest.add(row + j)), before);
                let negative = _mm512_sub_ps(_mm512_setzero_ps(), total);
                if !total.all_below(GREATEST_SUM) || (begins && !negative.all_below(-LEAST_SUM)) {
                    return false;
                }
            }
            std::ptr::copy_nonoverlapping(self.rest, sums, (self.sizes.rows - last) * SIDE * PAIR);
            self.weigh_until(state, last, first, units);
        }
        true
    }

    /// Adds the values by the weights of some units to the sums of the tiles of rows before `end`.
    #[inline(always)]
    unsafe fn weigh_until(&self, state: &State, end: usize, first: usize, units: usize) {
        let mut tile = 0;
        while tile < end {
            // SAFETY: the caller's promise.
            unsafe {
                let sums = state.sums.add(tile * SIDE * PAIR);
                self.weigh_tiles(tile, first, units, sums, sums);
            }
            tile += together(tile, self.sizes.rows);
        }
    }

    /// The sums at `from`, with those of the values by the weights of some units, go to `to`: of the tiles of rows that are
    /// summed up together from `tile` on.
    #[inline(always)]
    unsafe fn weigh_tiles(&self, tile: usize, first: usize, units: usize, from: *const f32, to: *mut f32) {
        let (size, plane) =
            (SIDE * SIDE * size_of::<u32>(), self.sizes.keys * SIDE * SIDE * size_of::<u32>());
        let values = self.values.cast::<u8>().wrapping_add(tile * plane + first * size);
        let weights = self.weights.wrapping_add(first * CELLS).cast_const();
        let weights = Right::rows(weights, PAIR);
        macro_rules! rows {
            ($count:literal) => {{
                amx::load::<$count, 2>(&self.unit, from, PAIR);
                amx::multiply_planes::<$count>(&self.unit, units, values, plane, weights);
                amx::store::<$count, 2>(&self.unit, to, PAIR);
            }};
        }
        // SAFETY: the caller's promise.
        unsafe {
            match together(tile, self.sizes.rows) {
                1 => rows!(1),
                2 => rows!(2),
                _ => rows!(3),
            }
        }
    }

    /// See `against_known` in `block`. For how many units that was so: zero, or up to a block in which it was not.
    #[inline(always)]
    unsafe fn against_known(&self, state: &State, keys: &Range<usize>, first: usize) -> usize {
        let begins = keys.start == 0;
        // SAFETY: the caller's promise.
        unsafe {
            let mut offset = [_mm512_set1_ps(Pairs::BASE); 2];
            if !begins {
                for (j, offset) in offset.iter_mut().enumerate() {
                    let greatest = _mm512_loadu_ps(state.greatest.add(j * SIDE));
                    *offset = _mm512_sub_ps(*offset, greatest);
                }
            }
            let scale = _mm512_set1_ps(self.job.shape.scale * std::f32::consts::LOG2_E);
            let powers = Powers { scale, offset, seen: _mm512_setzero_ps() };
            let units = keys.len().div_ceil(PAIR);
            let units = match self.sizes.channels {
                1 => self.weights::<1>(state, first, units, powers),
                2 => self.weights::<2>(state, first, units, powers),
                _ => self.weights::<0>(state, first, units, powers),
            };
            if units == 0 || !self.weigh(state, first, units, begins) {
                return 0;
            }
            if begins {
                for j in 0..2 {
                    _mm512_storeu_ps(state.greatest.add(j * SIDE), _mm512_setzero_ps());
                }
            }
            units
        }
    }

    /// The weights of some units of keys. For how many units exponents were in range. `HELD` is the number of units of channels
    /// of queries that stay in registers, or zero where there are too many.
    #[inline(always)]
    unsafe fn weights<const HELD: usize>(
        &self,
        state: &State,
        first: usize,
        units: usize,
        mut powers: Powers,
    ) -> usize {
        // Pieces of one tile of keys by two of queries, or of two by two.
        let tiles = if HELD > 0 { 1 } else { 2 };
        let (of_unit, pieces) = (2 / tiles, 2 * units / tiles);
        let scores = |piece: usize| self.scores.wrapping_add(piece % 2 * tiles * SIDE * PAIR);
        let weights = |piece: usize| self.weights.wrapping_add(first * CELLS + piece * tiles * CELLS / 2);
        // SAFETY: the caller's promise.
        unsafe {
            if HELD > 0 {
                amx::hold::<HELD>(&self.unit, self.queries(state));
            }
            for piece in 0..pieces {
                let unit = first + piece / of_unit;
                if HELD > 0 {
                    let mut keys = self.keys(unit);
                    keys.from = keys.from.wrapping_add(piece % 2 * amx::TILES / 2);
                    amx::multiply_held::<HELD>(&self.unit, keys);
                } else {
                    self.score(state, unit, scores(piece));
                }
                if piece > 0 {
                    self.powers(tiles, scores(piece - 1), weights(piece - 1), &mut powers);
                    if piece % (of_unit * BLOCK) == 0 && !Pairs::in_range(powers.seen) {
                        return piece / of_unit - BLOCK;
                    }
                }
                if HELD > 0 {
                    amx::store::<1, 2>(&self.unit, scores(piece), PAIR);
                } else {
                    amx::store::<2, 2>(&self.unit, scores(piece), PAIR);
                }
            }
            self.powers(tiles, scores(pieces - 1), weights(pieces - 1), &mut powers);
            if Pairs::in_range(powers.seen) { units } else { (units - 1) / BLOCK * BLOCK }
        }
    }

    /// The weights of some tiles of keys.
    #[inline(always)]
    unsafe fn powers(&self, tiles: usize, from: *const f32, to: *mut u32, powers: &mut Powers) {
        // SAFETY: the caller's promise.
        unsafe {
            for pair in 0..tiles * SIDE / 2 {
                for j in 0..2 {
                    let at = from.add(2 * pair * PAIR + j * SIDE);
                    let first = _mm512_fmadd_ps(_mm512_loadu_ps(at), powers.scale, powers.offset[j]);
                    let second =
                        _mm512_fmadd_ps(_mm512_loadu_ps(at.add(PAIR)), powers.scale, powers.offset[j]);
                    let (exponents, seen) = Pairs::exponents(first, second, powers.seen);
                    powers.seen = seen;
                    Pairs::store(Pairs::powers(exponents), to.add(pair * PAIR + j * SIDE));
                }
            }
        }
    }

    /// See `against_greatest` in `block`.
    #[inline(never)]
    #[target_feature(enable = "avx512vbmi,avx512bf16,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
    unsafe fn against_greatest(&self, state: &State, keys: &Range<usize>, first: usize) {
        let (shape, count) = (self.job.shape, keys.len());
        let units = count.div_ceil(PAIR);
        let weights = self.weights.wrapping_add(first * CELLS);
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
                    Pairs::store_units(a, b, weights.add(pair * PAIR + j * SIDE));
                }
            }
            self.weigh_until(state, self.sizes.rows, first, units);
        }
    }
}
