//! The one inner loop of attention: a product whose left operand is broadcast and whose right operand runs
//! along the lanes. All operands are packed in *units* of four bytes along the contraction: one `f32`, or a
//! pair of bf16 numbers that one instruction multiplies and adds.
//!
//! ```text
//! C[i][lane] (+)= sum over steps s of A[i * row + s * step] * B[s * width + lane]      i < rows
//! ```
//!
//! Safety contract of everything here: called from a function compiled for the product's instruction set,
//! with operands that reach as far as the formula says.

use super::vector::Vector;

pub(super) trait Product: Copy {
    type V: Vector;
    type Operand: Copy;
    /// Elements in a unit: 1 or 2.
    const PAIR: usize;
    /// Whether there are registers for eight rows of three vectors (else six rows of two).
    const WIDE: bool;
    /// Whether probabilities need more precision than bf16 holds.
    const FINE: bool;
    unsafe fn broadcast(from: *const u32) -> Self::Operand;
    unsafe fn load(from: *const u32) -> Self::Operand;
    unsafe fn step(total: Self::V, a: Self::Operand, b: Self::Operand) -> Self::V;
    /// Whether scores are products of bytes, four of them in a unit: whole numbers, in registers as their bits.
    const BYTES: bool = false;
    /// As [`Product::step`], of the bytes of `a`, without sign, and those of `b`, with one.
    #[inline(always)]
    unsafe fn step_bytes(_total: Self::V, _a: Self::Operand, _b: Self::Operand) -> Self::V {
        unreachable!("the scores of this product are not of bytes")
    }
    /// Whole numbers in single precision.
    #[inline(always)]
    unsafe fn whole(_total: Self::V) -> Self::V {
        unreachable!("the scores of this product are not of bytes")
    }
    /// Whether the upper lanes of a vector can be left out at half the price.
    const HALVES: bool = false;
    /// As [`Product::step`], of the lower half of the lanes; the others may become anything.
    #[inline(always)]
    unsafe fn step_half(_total: Self::V, _a: Self::Operand, _b: Self::Operand) -> Self::V {
        unreachable!("the vectors of this product have no halves")
    }
    /// Whether weights are made in two parts, of whole numbers: see [`Product::exponents`].
    const WHOLE: bool = false;
    /// What the exponents of weights are counted from.
    const BASE: f32 = 0.0;
    /// The nearest number that may be subtracted from exponents.
    #[inline(always)]
    unsafe fn shift(greatest: Self::V) -> Self::V {
        greatest
    }
    /// A vector of units that [`Product::powers`] makes `2^(x - BASE)` of, of lanes of `first` and `second`; and what was seen
    /// so far, for [`Product::in_range`].
    #[inline(always)]
    unsafe fn exponents(_first: Self::V, _second: Self::V, _seen: Self::V) -> (Self::Operand, Self::V) {
        unreachable!("the weights of this product are made in one part")
    }
    /// See [`Product::exponents`].
    #[inline(always)]
    unsafe fn powers(_exponents: Self::Operand) -> Self::Operand {
        unreachable!("the weights of this product are made in one part")
    }
    /// Whether all exponents that were seen are numbers below the greatest: weights are wrong otherwise.
    #[inline(always)]
    unsafe fn in_range(_seen: Self::V) -> bool {
        unreachable!("the weights of this product are made in one part")
    }
    /// Stores a vector of units.
    unsafe fn store(units: Self::Operand, to: *mut u32);
    /// Stores one vector of units made of lanes of `first` and (for pairs) `second`.
    unsafe fn store_units(first: Self::V, second: Self::V, to: *mut u32);
    /// Stores lanes one after another in the element type: `LANES / PAIR` units.
    unsafe fn store_row(x: Self::V, to: *mut u32);
    /// A unit of two elements in single precision (the second counts for pairs only).
    fn unit(first: f32, second: f32) -> u32;
}

/// Single precision on any vector.
#[derive(Clone, Copy)]
pub(super) struct Single<V, const WIDE: bool>(std::marker::PhantomData<V>);

impl<V: Vector, const WIDE: bool> Product for Single<V, WIDE> {
    type V = V;
    type Operand = V;
    const PAIR: usize = 1;
    const WIDE: bool = WIDE;
    const FINE: bool = true;
    #[inline(always)]
    unsafe fn broadcast(from: *const u32) -> V {
        // SAFETY: the contract of this module.
        unsafe { V::splat(from.cast::<f32>().read()) }
    }
    #[inline(always)]
    unsafe fn load(from: *const u32) -> V {
        // SAFETY: the contract of this module.
        unsafe { V::load(from.cast()) }
    }
    #[inline(always)]
    unsafe fn step(total: V, a: V, b: V) -> V {
        // SAFETY: the contract of this module.
        unsafe { a.fma(b, total) }
    }
    #[inline(always)]
    unsafe fn store(units: V, to: *mut u32) {
        // SAFETY: the contract of this module.
        unsafe { units.store(to.cast()) }
    }
    #[inline(always)]
    unsafe fn store_units(first: V, _second: V, to: *mut u32) {
        // SAFETY: the contract of this module.
        unsafe { first.store(to.cast()) }
    }
    #[inline(always)]
    unsafe fn store_row(x: V, to: *mut u32) {
        // SAFETY: the contract of this module.
        unsafe { x.store(to.cast()) }
    }
    #[inline(always)]
    fn unit(first: f32, _second: f32) -> u32 {
        first.to_bits()
    }
}

/// Evaluates the body for each of `M` by `N` values. Loops of constant length over places keep the values in registers.
macro_rules! for_values {
    ($m:expr, $n:expr, $i:ident, $j:ident => $body:block) => {{
        let mut $i = 0;
        while $i < $m {
            let mut $j = 0;
            while $j < $n {
                $body
                $j += 1;
            }
            $i += 1;
        }
    }};
}

/// What becomes of finished rows of the product.
pub(super) trait Finish<P: Product, const N: usize> {
    /// Steps that the product takes in a round: four leave fewer instructions beside its products. The gradient is slower with
    /// them, and on AVX-512 nothing is faster.
    const ROUND: usize = 1;
    /// Pieces of work that the rows before have left, to be done one with each step of the next product.
    #[inline(always)]
    fn waiting(&self) -> usize {
        0
    }
    /// One of them.
    #[inline(always)]
    unsafe fn beside(&mut self) {}
    /// Rows from an even one on.
    unsafe fn rows<const M: usize>(&mut self, first: usize, values: [[P::V; N]; M]);
}

/// The left operand: where it starts and the distances of rows and steps, in units.
#[derive(Clone, Copy)]
pub(super) struct Left {
    pub(super) start: *const u32,
    pub(super) row: usize,
    pub(super) step: usize,
}

/// The right operand: where it starts and the distance of steps, in units.
#[derive(Clone, Copy)]
pub(super) struct Right {
    pub(super) start: *const u32,
    pub(super) step: usize,
}

/// What is special about a product: nothing, that it is of bytes, or that it takes the lower half of the last vector of lanes
/// only. Constants of the code, which cannot be of an enum's type.
const PLAIN: u8 = 0;
const OF_BYTES: u8 = 1;
const HALF: u8 = 2;

/// All rows of a product over `N` vectors of lanes.
#[inline(always)]
pub(super) unsafe fn multiply<P: Product, const N: usize>(
    a: Left,
    b: Right,
    rows: usize,
    steps: usize,
    finish: &mut impl Finish<P, N>,
) {
    // SAFETY: the contract of this module.
    unsafe {
        tiles::<P, N, PLAIN>(a, b, rows, steps, std::ptr::null(), finish);
    }
}

/// [`multiply`]; nobody reads the upper `half` of the last vector of lanes, if so said.
#[inline(always)]
pub(super) unsafe fn multiply_columns<P: Product, const N: usize>(
    a: Left,
    b: Right,
    rows: usize,
    steps: usize,
    half: bool,
    finish: &mut impl Finish<P, N>,
) {
    // SAFETY: the contract of this module.
    unsafe {
        match P::HALVES && half {
            true => tiles::<P, N, HALF>(a, b, rows, steps, std::ptr::null(), finish),
            false => tiles::<P, N, PLAIN>(a, b, rows, steps, std::ptr::null(), finish),
        }
    }
}

/// [`multiply`] for scores, which may be products of bytes: sums then start from those at `start`, a vector for each lane.
#[inline(always)]
pub(super) unsafe fn multiply_scores<P: Product, const N: usize>(
    a: Left,
    b: Right,
    rows: usize,
    steps: usize,
    start: *const f32,
    finish: &mut impl Finish<P, N>,
) {
    // SAFETY: the contract of this module.
    unsafe {
        match P::BYTES {
            true => tiles::<P, N, OF_BYTES>(a, b, rows, steps, start, finish),
            false => tiles::<P, N, PLAIN>(a, b, rows, steps, start, finish),
        }
    }
}

#[inline(always)]
unsafe fn tiles<P: Product, const N: usize, const KIND: u8>(
    a: Left,
    b: Right,
    rows: usize,
    steps: usize,
    start: *const f32,
    finish: &mut impl Finish<P, N>,
) {
    let mut row = 0;
    // SAFETY: the contract of this module.
    unsafe {
        if P::WIDE {
            while row + 8 <= rows {
                tile::<P, 8, N, KIND, _>(a, b, row, steps, start, finish);
                row += 8;
            }
        } else {
            while row + 6 <= rows {
                tile::<P, 6, N, KIND, _>(a, b, row, steps, start, finish);
                row += 6;
            }
        }
        if row + 4 <= rows {
            tile::<P, 4, N, KIND, _>(a, b, row, steps, start, finish);
            row += 4;
        }
        if row + 2 <= rows {
            tile::<P, 2, N, KIND, _>(a, b, row, steps, start, finish);
            row += 2;
        }
        if row < rows {
            tile::<P, 1, N, KIND, _>(a, b, row, steps, start, finish);
        }
    }
}

#[inline(always)]
unsafe fn tile<P: Product, const M: usize, const N: usize, const KIND: u8, F: Finish<P, N>>(
    a: Left,
    b: Right,
    first: usize,
    steps: usize,
    start: *const f32,
    finish: &mut F,
) {
    // SAFETY: the contract of this module.
    unsafe {
        let mut total = [[P::V::splat(0.0); N]; M];
        if KIND == OF_BYTES {
            for_values!(M, N, i, j => {
                total[i][j] = P::V::load(start.add(j * P::V::LANES));
            });
        }
        let mut left = a.start.add(first * a.row);
        let mut right = b.start;
        // Two loops: with a branch in it values would not stay in registers.
        let beside = finish.waiting().min(steps);
        for _ in 0..beside {
            step::<P, M, N, KIND>(&mut total, left, a.row, right);
            finish.beside();
            left = left.wrapping_add(a.step);
            right = right.wrapping_add(b.step);
        }
        let rounds = if F::ROUND > 1 { (steps - beside) / F::ROUND } else { 0 };
        for _ in 0..rounds {
            let mut i = 0;
            while i < F::ROUND {
                step::<P, M, N, KIND>(&mut total, left, a.row, right);
                left = left.wrapping_add(a.step);
                right = right.wrapping_add(b.step);
                i += 1;
            }
        }
        for _ in beside + rounds * F::ROUND..steps {
            step::<P, M, N, KIND>(&mut total, left, a.row, right);
            left = left.wrapping_add(a.step);
            right = right.wrapping_add(b.step);
        }
        if KIND == OF_BYTES {
            for_values!(M, N, i, j => {
                total[i][j] = P::whole(total[i][j]);
            });
        }
        finish.rows(first, total);
    }
}

#[inline(always)]
unsafe fn step<P: Product, const M: usize, const N: usize, const KIND: u8>(
    total: &mut [[P::V; N]; M],
    left: *const u32,
    row: usize,
    right: *const u32,
) {
    // SAFETY: the contract of this module.
    unsafe {
        let mut lanes = [P::load(right); N];
        let mut j = 1;
        while j < N {
            lanes[j] = P::load(right.add(j * P::V::LANES));
            j += 1;
        }
        let mut i = 0;
        while i < M {
            let x = P::broadcast(left.add(i * row));
            let mut j = 0;
            while j < N {
                total[i][j] = match KIND {
                    OF_BYTES => P::step_bytes(total[i][j], x, lanes[j]),
                    HALF if j == N - 1 => P::step_half(total[i][j], x, lanes[j]),
                    _ => P::step(total[i][j], x, lanes[j]),
                };
                j += 1;
            }
            i += 1;
        }
    }
}

/// Splits `vectors` into runs of at most three (two without the registers for it), as even as can be, and
/// evaluates the body for each with its length as a constant and its first vector.
macro_rules! for_runs {
    ($product:ident, $vectors:expr, $n:ident, $first:ident => $body:expr) => {{
        let vectors: usize = $vectors;
        let mut runs = vectors.div_ceil(if $product::WIDE { 3 } else { 2 });
        let mut $first = 0;
        while runs > 0 {
            let run = (vectors - $first).div_ceil(runs);
            match run {
                1 => {
                    const $n: usize = 1;
                    $body
                }
                3 if $product::WIDE => {
                    const $n: usize = 3;
                    $body
                }
                _ => {
                    const $n: usize = 2;
                    $body
                }
            }
            $first += run;
            runs -= 1;
        }
    }};
}
pub(super) use {for_runs, for_values};
