//! What the backward pass makes of finished rows of its products: probabilities, and slopes of the scores. The safety contract
//! is that of `product`.
//!
//! Both are wanted as rows of elements, for products that sum over queries, and as units along the keys. Where there is no second
//! key for the last unit, a row behind the last is written that nobody reads.

use super::finish::weight;
use super::product::{Finish, Product};
use super::vector::Vector;

/// Stores `2^(scale * product + offset)` as rows of elements, and as units along the keys in rows of `N` vectors.
#[derive(Clone, Copy)]
pub(super) struct Probabilities<V, const N: usize> {
    pub(super) units: *mut u32,
    pub(super) rows: *mut u32,
    /// Units from row to row.
    pub(super) row_units: usize,
    pub(super) scale: V,
    pub(super) offset: [V; N],
}

impl<V: Vector, const N: usize> Probabilities<V, N> {
    #[inline(always)]
    unsafe fn store<P: Product<V = V>>(&self, row: usize, j: usize, exponents: [V; 2]) {
        // SAFETY: the contract of this module.
        unsafe {
            let first = weight::<P>(exponents[0]);
            let second = if P::PAIR == 2 { weight::<P>(exponents[1]) } else { first };
            let to = self.rows.add(row * self.row_units + j * V::LANES / P::PAIR);
            let units = self.units.add((row / P::PAIR * N + j) * V::LANES);
            P::store_both(first, second, [to, to.wrapping_add(self.row_units)], units);
        }
    }

    /// The same for the rows of a unit, of so many rows, whose scaled products are where the units go, masked.
    #[inline(always)]
    pub(super) unsafe fn of_scores<P: Product<V = V>>(&self, row: usize, rows: usize) {
        let mut j = 0;
        while j < N {
            // SAFETY: the contract of this module; the units of two rows are where scores have been read.
            unsafe {
                let mut exponents = [self.offset[j]; 2];
                let mut k = 0;
                while k < P::PAIR && row + k < rows {
                    let scores = self.units.cast::<f32>().add(((row + k) * N + j) * V::LANES);
                    exponents[k] = V::load(scores).add(self.offset[j]);
                    k += 1;
                }
                self.store::<P>(row, j, exponents);
            }
            j += 1;
        }
    }
}

impl<P: Product, const N: usize> Finish<P, N> for Probabilities<P::V, N> {
    #[inline(always)]
    unsafe fn rows<const M: usize>(&mut self, first: usize, values: [[P::V; N]; M]) {
        let mut i = 0;
        while i < M {
            let mut j = 0;
            while j < N {
                // SAFETY: the contract of this module.
                unsafe {
                    let mut exponents = [self.offset[j]; 2];
                    let mut k = 0;
                    while k < P::PAIR && i + k < M {
                        exponents[k] = values[i + k][j].fma(self.scale, self.offset[j]);
                        k += 1;
                    }
                    self.store::<P>(first + i, j, exponents);
                }
                j += 1;
            }
            i += P::PAIR;
        }
    }
}

/// The same for pairs, in two parts: as the weights of the forward pass.
pub(super) struct ProbabilityPowers<V, const N: usize> {
    scale: V,
    /// With the base of exponents.
    offset: [V; N],
    pub(super) seen: V,
    /// Behind the units that are stored.
    end: *mut u32,
    /// The row of the first unit that is none yet.
    row: *mut u32,
    row_units: usize,
    /// How many of them are left.
    waiting: usize,
}

impl<V: Vector, const N: usize> ProbabilityPowers<V, N> {
    #[inline(always)]
    pub(super) unsafe fn new<P: Product<V = V>>(to: Probabilities<V, N>) -> Self {
        let Probabilities { units: end, rows: row, row_units, scale, mut offset } = to;
        // SAFETY: the contract of this module.
        unsafe {
            let mut j = 0;
            while j < N {
                offset[j] = offset[j].add(V::splat(P::BASE));
                j += 1;
            }
            ProbabilityPowers { scale, offset, seen: V::splat(0.0), end, row, row_units, waiting: 0 }
        }
    }

    /// Makes the probabilities of the first row of pairs that waits.
    #[inline(always)]
    unsafe fn row<P: Product<V = V>>(&mut self) {
        // SAFETY: the contract of this module.
        unsafe {
            let units = self.end.sub(self.waiting * N * V::LANES);
            let mut j = 0;
            while j < N {
                let at = units.add(j * V::LANES);
                let powers = P::powers(P::load(at));
                P::store(powers, at);
                let row = self.row.add(j * V::LANES / P::PAIR);
                P::store_rows(powers, [row, row.wrapping_add(self.row_units)]);
                j += 1;
            }
        }
        self.row = self.row.wrapping_add(2 * self.row_units);
        self.waiting -= 1;
    }

    /// Makes what is left.
    #[inline(always)]
    pub(super) unsafe fn rest<P: Product<V = V>>(&mut self) {
        while self.waiting > 0 {
            // SAFETY: the contract of this module.
            unsafe { self.row::<P>() };
        }
    }
}

impl<P: Product, const N: usize> Finish<P, N> for ProbabilityPowers<P::V, N> {
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
                    let first = values[i][j].fma(self.scale, self.offset[j]);
                    let second = match i + 1 < M {
                        true => values[i + 1][j].fma(self.scale, self.offset[j]),
                        false => P::V::splat(0.0),
                    };
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

/// Stores `probability * (scale * product + offset)` as [`Probabilities`] are stored.
pub(super) struct Slopes<V, const N: usize> {
    /// Units along the keys.
    pub(super) probabilities: *const u32,
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
                unsafe {
                    let at = ((first + i) / P::PAIR * N + j) * P::V::LANES;
                    let probabilities = P::parted(P::load(self.probabilities.add(at)));
                    let mut slopes = [P::V::splat(0.0); 2];
                    let mut k = 0;
                    while k < P::PAIR && i + k < M {
                        slopes[k] = values[i + k][j].fma(self.scale, self.offset[j]).mul(probabilities[k]);
                        k += 1;
                    }
                    let row = self.rows.add((first + i) * self.row_units + j * P::V::LANES / P::PAIR);
                    let rows = [row, row.wrapping_add(self.row_units)];
                    P::store_both(slopes[0], slopes[1], rows, self.units.add(at));
                }
                j += 1;
            }
            i += P::PAIR;
        }
    }
}
