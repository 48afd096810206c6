//! What becomes of finished rows of a product, while they are in registers. The safety contract is that of `product`.

use super::product::{Finish, Product, for_values};
use super::vector::Vector;

/// The factor of the scores: one, or, for those of bytes, one for each lane.
#[derive(Clone, Copy)]
pub(super) struct Scale<V, const N: usize>(pub(super) [V; N]);

impl<V: Copy, const N: usize> Scale<V, N> {
    #[inline(always)]
    fn of<P: Product<V = V>>(&self, j: usize) -> V {
        self.0[if P::BYTES { j } else { 0 }]
    }
}

/// Stores `scale * product` in rows of `N` vectors and keeps the greatest of each lane.
pub(super) struct Scores<V, const N: usize> {
    pub(super) to: *mut f32,
    pub(super) scale: Scale<V, N>,
    pub(super) greatest: [V; N],
}

impl<P: Product, const N: usize> Finish<P, N> for Scores<P::V, N> {
    const ROUND: usize = if P::WIDE { 1 } else { 4 };
    #[inline(always)]
    unsafe fn rows<const M: usize>(&mut self, first: usize, values: [[P::V; N]; M]) {
        for_values!(M, N, i, j => {
            let (row, value) = (first + i, values[i][j]);
            // SAFETY: the contract of this module.
            unsafe {
                let score = value.mul(self.scale.of::<P>(j));
                self.greatest[j] = score.max(self.greatest[j]);
                score.store(self.to.add((row * N + j) * P::V::LANES));
            }
        });
    }
}

/// Stores the weights `2^(scale * product + offset)` and adds them up, in single precision. No product is stored, and the
/// exponentials of a tile are worked on beside the products of the next.
pub(super) struct Weights<V, const N: usize> {
    pub(super) to: *mut u32,
    pub(super) scale: Scale<V, N>,
    pub(super) offset: [V; N],
    pub(super) total: [V; N],
}

impl<P: Product, const N: usize> Finish<P, N> for Weights<P::V, N> {
    const ROUND: usize = if P::WIDE { 1 } else { 4 };
    #[inline(always)]
    unsafe fn rows<const M: usize>(&mut self, first: usize, values: [[P::V; N]; M]) {
        for_values!(M, N, i, j => {
            // SAFETY: the contract of this module.
            unsafe {
                let exponent = values[i][j].fma(self.scale.of::<P>(j), self.offset[j]);
                let one = weight::<P>(exponent);
                self.total[j] = self.total[j].add(one);
                one.store(self.to.cast::<f32>().add(((first + i) * N + j) * P::V::LANES));
            }
        });
    }
}

/// The same for pairs, in two parts: what is to be the weights of a tile is stored first, and made so beside the products of
/// the next, on units of the processor that multiply nothing.
pub(super) struct Powers<V, const N: usize> {
    pub(super) scale: Scale<V, N>,
    /// With the base of exponents.
    pub(super) offset: [V; N],
    pub(super) seen: V,
    /// Sums of the weights, a vector for each of `N`.
    pub(super) totals: *mut f32,
    /// Behind the rows of pairs that are stored.
    pub(super) end: *mut u32,
    /// How many of them are not weights yet.
    pub(super) waiting: usize,
}

impl<V: Vector, const N: usize> Powers<V, N> {
    /// Makes the weights of the first row of pairs that waits.
    #[inline(always)]
    unsafe fn row<P: Product<V = V>>(&mut self) {
        // SAFETY: the contract of this module.
        unsafe {
            let row = self.end.sub(self.waiting * N * V::LANES);
            let ones = P::broadcast(&ONES);
            let mut j = 0;
            while j < N {
                let at = row.add(j * V::LANES);
                let weights = P::powers(P::load(at));
                P::store(weights, at);
                let total = self.totals.add(j * V::LANES);
                P::step(V::load(total), weights, ones).store(total);
                j += 1;
            }
        }
        self.waiting -= 1;
    }

    /// Makes what weights are left.
    #[inline(always)]
    pub(super) unsafe fn rest<P: Product<V = V>>(&mut self) {
        while self.waiting > 0 {
            // SAFETY: the contract of this module.
            unsafe { self.row::<P>() };
        }
    }
}

/// A pair of ones in bf16.
const ONES: u32 = 0x3f80_3f80;

impl<P: Product, const N: usize> Finish<P, N> for Powers<P::V, N> {
    const ROUND: usize = if P::WIDE { 1 } else { 4 };
    #[inline(always)]
    fn waiting(&self) -> usize {
        self.waiting
    }

    #[inline(always)]
    unsafe fn beside(&mut self) {
        // SAFETY: the contract of this module.
        unsafe { self.row::<P>() };
    }

    #[inline(always)]
    unsafe fn rows<const M: usize>(&mut self, _first: usize, values: [[P::V; N]; M]) {
        // SAFETY: the contract of this module.
        unsafe {
            self.rest::<P>();
            let mut i = 0;
            while i < M {
                let mut j = 0;
                while j < N {
                    let (scale, offset) = (self.scale.of::<P>(j), self.offset[j]);
                    let first = values[i][j].fma(scale, offset);
                    // Where there is no second, one that weighs nothing.
                    let second =
                        if i + 1 < M { values[i + 1][j].fma(scale, offset) } else { P::V::splat(0.0) };
                    let (units, seen) = P::exponents(first, second, self.seen);
                    self.seen = seen;
                    P::store(units, self.end.add(j * P::V::LANES));
                    j += 1;
                }
                self.end = self.end.add(N * P::V::LANES);
                self.waiting += 1;
                i += 2;
            }
        }
    }
}

/// For the backward pass: stores `2^(scale * product + offset)` in rows of `N` vectors, and as rows of elements.
pub(super) struct Probabilities<V, const N: usize> {
    pub(super) to: *mut f32,
    pub(super) rows: *mut u32,
    /// Units from row to row.
    pub(super) row_units: usize,
    pub(super) scale: V,
    pub(super) offset: [V; N],
}

impl<V: Vector, const N: usize> Probabilities<V, N> {
    #[inline(always)]
    unsafe fn store<P: Product<V = V>>(&self, row: usize, j: usize, exponent: V) {
        // SAFETY: the contract of this module.
        unsafe {
            let p = weight::<P>(exponent);
            p.store(self.to.add((row * N + j) * V::LANES));
            P::store_row(p, self.rows.add(row * self.row_units + j * V::LANES / P::PAIR));
        }
    }

    /// The same for a row whose scaled products are there, masked.
    #[inline(always)]
    pub(super) unsafe fn of_scores<P: Product<V = V>>(&self, row: usize) {
        let mut j = 0;
        while j < N {
            // SAFETY: the contract of this module.
            unsafe {
                let score = V::load(self.to.add((row * N + j) * V::LANES));
                self.store::<P>(row, j, score.add(self.offset[j]));
            }
            j += 1;
        }
    }
}

impl<P: Product, const N: usize> Finish<P, N> for Probabilities<P::V, N> {
    #[inline(always)]
    unsafe fn rows<const M: usize>(&mut self, first: usize, values: [[P::V; N]; M]) {
        for_values!(M, N, i, j => {
            // SAFETY: the contract of this module.
            unsafe { self.store::<P>(first + i, j, values[i][j].fma(self.scale, self.offset[j])) };
        });
    }
}

/// For the backward pass: stores `probability * (scale * product + offset)` as rows of elements, and as units along the rows.
pub(super) struct Slopes<V, const N: usize> {
    pub(super) probabilities: *const f32,
    pub(super) rows: *mut u32,
    /// Units from row to row.
    pub(super) row_units: usize,
    pub(super) units: *mut u32,
    pub(super) scale: V,
    pub(super) offset: [V; N],
}

impl<P: Product, const N: usize> Finish<P, N> for Slopes<P::V, N> {
    #[inline(always)]
    unsafe fn rows<const M: usize>(&mut self, first: usize, values: [[P::V; N]; M]) {
        let mut i = 0;
        while i < M {
            let mut j = 0;
            while j < N {
                // SAFETY: the contract of this module.
                let mut slopes = [unsafe { P::V::splat(0.0) }; 2];
                let mut k = 0;
                while k < P::PAIR && i + k < M {
                    let row = first + i + k;
                    // SAFETY: the contract of this module.
                    unsafe {
                        let p = P::V::load(self.probabilities.add((row * N + j) * P::V::LANES));
                        slopes[k] = values[i + k][j].fma(self.scale, self.offset[j]).mul(p);
                        P::store_row(
                            slopes[k],
                            self.rows.add(row * self.row_units + j * P::V::LANES / P::PAIR),
                        );
                    }
                    k += 1;
                }
                // SAFETY: the contract of this module.
                unsafe {
                    let to = self.units.add(((first + i) / P::PAIR * N + j) * P::V::LANES);
                    P::store_units(slopes[0], slopes[1], to);
                }
                j += 1;
            }
            i += P::PAIR;
        }
    }
}

/// `2^x`, as exact as the product needs its operands.
#[inline(always)]
pub(super) unsafe fn weight<P: Product>(x: P::V) -> P::V {
    // SAFETY: the caller is compiled for the product's instruction set.
    unsafe { if P::FINE { x.exp2::<true>() } else { x.exp2::<false>() } }
}

/// `C[row] = C[row] * factor + product`
pub(super) struct Rescale<V, const N: usize> {
    pub(super) to: *mut f32,
    pub(super) factor: [V; N],
}

impl<P: Product, const N: usize> Finish<P, N> for Rescale<P::V, N> {
    const ROUND: usize = if P::WIDE { 1 } else { 4 };
    #[inline(always)]
    unsafe fn rows<const M: usize>(&mut self, first: usize, values: [[P::V; N]; M]) {
        for_values!(M, N, i, j => {
            let (row, value) = (first + i, values[i][j]);
            // SAFETY: the contract of this module.
            unsafe {
                let at = self.to.add((row * N + j) * P::V::LANES);
                P::V::load(at).fma(self.factor[j], value).store(at);
            }
        });
    }
}

/// `C[row] += product`, rows a given distance apart.
pub(super) struct Accumulate {
    pub(super) to: *mut f32,
    pub(super) stride: usize,
}

impl<P: Product, const N: usize> Finish<P, N> for Accumulate {
    #[inline(always)]
    unsafe fn rows<const M: usize>(&mut self, first: usize, values: [[P::V; N]; M]) {
        for_values!(M, N, i, j => {
            let (row, value) = (first + i, values[i][j]);
            // SAFETY: the contract of this module.
            unsafe {
                let at = self.to.add(row * self.stride + j * P::V::LANES);
                P::V::load(at).add(value).store(at);
            }
        });
    }
}
