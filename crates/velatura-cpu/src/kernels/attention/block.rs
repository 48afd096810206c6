//! One block of keys against one run of queries: scores, weights, and the values by their weights.

use super::finish::{Accumulate, Powers, Rescale, Scale, Scores, Weights, weight};
use super::forward::Job;
use super::product::{Finish, Left, Product, Right, multiply, multiply_scores};
use super::vector::Vector;
use super::{AttentionShape, Mask};

/// The sum of a block's weights from which on they are made anew, relative to a greater score: far from what overflows.
pub(super) const GREATEST_SUM: f32 = (1u64 << 40) as f32;

/// The same for the first block, where a sum may be too little.
pub(super) const LEAST_SUM: f32 = 1.0 / GREATEST_SUM;

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

pub(super) struct Block<'a> {
    pub(super) job: &'a Job<'a>,
    pub(super) head: usize,
    pub(super) first_q: usize,
    pub(super) queries: usize,
    pub(super) first_k: usize,
    pub(super) keys: usize,
    pub(super) units: usize,
    /// Of bytes: by lane.
    pub(super) query_worths: *const f32,
    pub(super) starts: *const f32,
    pub(super) key_worth: f32,
    pub(super) packed_q: *const u32,
    pub(super) packed_k: *const u32,
    pub(super) packed_v: *const u32,
    pub(super) scores: &'a mut [f32],
    pub(super) weights: *mut u32,
    pub(super) totals: *mut f32,
    pub(super) out: *mut f32,
    pub(super) greatest: *mut f32,
    pub(super) sum: *mut f32,
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
pub(super) unsafe fn block<P: Product, const N: usize>(mut b: Block<'_>) {
    // SAFETY: the contract of this function.
    unsafe {
        if b.is_masked() || !against_known::<P, N>(&b) {
            against_greatest::<P, N>(&mut b);
        }
    }
}

/// A block whose scores are taken relative to the greatest of the blocks before, those of the first to zero, which is exact as
/// long as no sum is out of all proportion: nothing then need be known before the exponentials. Whether that was so; else
/// nothing is changed.
///
/// # Safety
/// As of [`block`].
#[inline(always)]
unsafe fn against_known<P: Product, const N: usize>(b: &Block<'_>) -> bool {
    let lanes = P::V::LANES;
    // SAFETY: the contract of this function.
    unsafe {
        let scale = b.scale::<P, N>();
        let mut offset = [P::V::splat(P::BASE); N];
        let mut total = [P::V::splat(0.0); N];
        let first = b.first_k == 0;
        if !first {
            for (j, offset) in offset.iter_mut().enumerate() {
                *offset = offset.sub(P::V::load(b.greatest.add(j * lanes)));
            }
        }
        if P::WHOLE {
            for (j, total) in total.iter().enumerate() {
                total.store(b.totals.add(j * lanes));
            }
            let seen = P::V::splat(0.0);
            let mut powers = Powers { scale, offset, seen, totals: b.totals, end: b.weights, waiting: 0 };
            b.score::<P, N>(&mut powers);
            powers.rest::<P>();
            if !P::in_range(powers.seen) {
                return false;
            }
            for (j, total) in total.iter_mut().enumerate() {
                *total = P::V::load(b.totals.add(j * lanes));
            }
        } else {
            let mut weights = Weights { to: b.weights, scale, offset, total };
            b.score::<P, N>(&mut weights);
            total = weights.total;
        }
        for total in &total {
            let negative = P::V::splat(0.0).sub(*total);
            if !total.all_below(GREATEST_SUM) || (first && !negative.all_below(-LEAST_SUM)) {
                return false;
            }
        }
        for (j, total) in total.iter().enumerate() {
            if first {
                P::V::splat(0.0).store(b.greatest.add(j * lanes));
            }
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
            let new = P::shift(block_greatest[j].max(old));
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
