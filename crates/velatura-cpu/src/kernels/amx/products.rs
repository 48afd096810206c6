//! Products with sums of two by two tiles.

use std::arch::asm;

use super::{At, ROW, Right, SIDE, Unit, load, store};
use crate::kernels::LINE;

/// The loop over 16 steps after 16 steps. The lines of one round follow the operands.
macro_rules! rounds {
    ($count:expr, $a:expr, $b:expr, $next:expr, $step:expr, [$($line:expr),+]) => {
        asm!(
            "2:",
            $($line,)+
            "add {a}, {unit}",
            "add {b}, {after}",
            "add {c}, {after}",
            "dec {n}",
            "jnz 2b",
            n = inout(reg) $count => _,
            a = inout(reg) $a.from => _, row = in(reg) ROW, unit = in(reg) $a.stride,
            b = inout(reg) $b.from => _, bs = in(reg) $b.stride, after = in(reg) $b.stride * SIDE,
            c = inout(reg) $b.from.wrapping_add($b.apart) => _, apart = in(reg) $b.apart,
            next = inout(reg) $next => _, step = in(reg) $step,
            options(nostack, readonly)
        )
    };
}

// Tiles of the left operand, and of the right one by the instruction that is named.
macro_rules! a {
    (0) => {
        "tileloadd tmm4, [{a} + {row}*1]"
    };
    (1) => {
        "tileloadd tmm5, [{a} + {row}*1 + 1024]"
    };
}
macro_rules! b {
    ($load:literal, 0) => {
        concat!($load, " tmm6, [{b} + {bs}*1]")
    };
    ($load:literal, 1) => {
        concat!($load, " tmm7, [{c} + {bs}*1]")
    };
}

/// What is fetched at each of the [`PLACES`] of a round, from `next` on. They go by pairs.
macro_rules! fetched {
    (nothing, $place:ident) => {
        "# {next} {step} {apart}"
    };
    (sums, $place:ident) => {
        "prefetchw [{next}]\nprefetchw [{next} + 64]\nadd {next}, {step} # {apart}"
    };
    (far, first) => {
        "prefetcht1 [{next}]"
    };
    (far, second) => {
        "prefetcht1 [{next} + {apart}*1]\nadd {next}, {step}"
    };
}

/// The rounds for sums of so many tiles: the instructions of products and of loads of the right operand, and what is fetched with
/// two by two tiles.
macro_rules! products {
    ($product:literal, $load:literal, $fetched:ident, $rows:expr, $columns:expr, $($operand:expr),+) => {
        match ($rows, $columns) {
            (1, 1) => rounds!($($operand),+, [
                b!($load, 0),
                a!(0),
                concat!($product, " tmm0, tmm4, tmm6"),
                fetched!(nothing, first)
            ]),
            (1, _) => rounds!($($operand),+, [
                b!($load, 0),
                a!(0),
                concat!($product, " tmm0, tmm4, tmm6"),
                b!($load, 1),
                concat!($product, " tmm1, tmm4, tmm7"),
                fetched!(nothing, first)
            ]),
            (_, 1) => rounds!($($operand),+, [
                b!($load, 0),
                a!(0),
                concat!($product, " tmm0, tmm4, tmm6"),
                a!(1),
                concat!($product, " tmm2, tmm5, tmm6"),
                fetched!(nothing, first)
            ]),
            (_, _) => rounds!($($operand),+, [
                b!($load, 0),
                a!(0),
                fetched!($fetched, first),
                concat!($product, " tmm0, tmm4, tmm6"),
                a!(1),
                fetched!($fetched, second),
                concat!($product, " tmm2, tmm5, tmm6"),
                b!($load, 1),
                fetched!($fetched, first),
                concat!($product, " tmm1, tmm4, tmm7"),
                fetched!($fetched, second),
                concat!($product, " tmm3, tmm5, tmm7")
            ]),
        }
    };
}

/// What is brought nearer with each 16 steps of two by two tiles. It need not be there.
#[derive(Clone, Copy)]
pub(crate) enum Fetched {
    Nothing,
    /// [`FETCHED_SUMS`] into the first-level cache, to be written.
    Sums(*const f32),
    /// [`PLACES`] lines into the second-level cache, at every other place one that is [apart](Right::apart); those of a panel are
    /// a stride from each other. Of a stream one line of four is nearly as good as all.
    Far(At),
}

/// Places of a round at which something is fetched.
pub(crate) const PLACES: usize = 4;
/// Bytes that [`Fetched::Sums`] brings at each of them, and sums with the whole round.
const FETCHED: usize = 2 * LINE;
pub(crate) const FETCHED_SUMS: usize = PLACES * FETCHED / size_of::<f32>();

/// Adds the products of `count` times 16 steps to the sums of `R` by `C` tiles. `a` has two tiles of rows for each 16 steps, one
/// after the other, and its stride is that from 16 steps to the next; `b` begins with the first step. Steps are pairs of brain
/// floating-point numbers, or, `OF_BYTES`, four numbers without a sign of `a` and with one of `b`. Sums from `next` on are
/// [fetched](Fetched::Sums).
///
/// # Safety
/// The operands have so many steps, and `count` is not zero; the unit is of this thread.
#[inline(always)]
pub(crate) unsafe fn multiply<const OF_BYTES: bool, const R: usize, const C: usize>(
    _unit: &Unit,
    count: usize,
    a: At,
    b: Right,
    next: *const f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match OF_BYTES {
            true => products!("tdpbusd", "tileloadd", sums, R, C, count, a, b, next, FETCHED),
            false => products!("tdpbf16ps", "tileloadd", sums, R, C, count, a, b, next, FETCHED),
        }
    }
}

/// [`multiply`] with a right operand that passes by: it leaves the first-level cache to the left one.
///
/// # Safety
/// As for [`multiply`].
#[inline(always)]
pub(crate) unsafe fn multiply_passing<const OF_BYTES: bool, const R: usize, const C: usize>(
    _unit: &Unit,
    count: usize,
    a: At,
    b: Right,
    fetched: Fetched,
) {
    macro_rules! passing {
        ($fetched:ident, $next:expr, $step:expr) => {
            match OF_BYTES {
                true => products!("tdpbusd", "tileloaddt1", $fetched, R, C, count, a, b, $next, $step),
                false => products!("tdpbf16ps", "tileloaddt1", $fetched, R, C, count, a, b, $next, $step),
            }
        };
    }
    // SAFETY: the caller's promise.
    unsafe {
        match fetched {
            Fetched::Nothing => passing!(nothing, a.from, FETCHED),
            Fetched::Sums(next) => passing!(sums, next, FETCHED),
            Fetched::Far(At { from, stride }) => passing!(far, from, stride),
        }
    }
}

/// How a tile of sums begins. `$at` is behind the name of a base.
macro_rules! begun {
    (zero, $tile:literal, $at:literal) => {
        concat!("tilezero tmm", $tile)
    };
    (load, $tile:literal, $at:literal) => {
        concat!("tileloadd tmm", $tile, ", [{from", $at, " + {stride}*1]")
    };
}

/// A tile of sums goes to memory, begins anew and takes its first product.
macro_rules! exchanged {
    ($product:literal, $begin:ident, $tile:literal, $at:literal, $operands:literal) => {
        concat!(
            concat!("tilestored [{to", $at, " + {stride}*1], tmm", $tile, "\n"),
            begun!($begin, $tile, $at),
            concat!("\n", $product, " tmm", $tile, $operands)
        )
    };
}

/// The round of [`exchange`].
macro_rules! exchange {
    ($product:literal, $begin:ident, $a:expr, $b:expr, $to:expr, $stride:expr $(, $name:ident = $from:expr)*) => {
        asm!(
            b!("tileloadd", 0),
            a!(0),
            exchanged!($product, $begin, 0, "}", ", tmm4, tmm6"),
            a!(1),
            exchanged!($product, $begin, 2, "_low}", ", tmm5, tmm6"),
            b!("tileloadd", 1),
            exchanged!($product, $begin, 1, "} + 64", ", tmm4, tmm7"),
            exchanged!($product, $begin, 3, "_low} + 64", ", tmm5, tmm7"),
            a = in(reg) $a.from, row = in(reg) ROW,
            b = in(reg) $b.from, bs = in(reg) $b.stride, c = in(reg) $b.from.wrapping_add($b.apart),
            to = in(reg) $to, to_low = in(reg) $to.wrapping_byte_add(SIDE * $stride),
            $($name = in(reg) $from,)*
            stride = in(reg) $stride,
            options(nostack, preserves_flags)
        )
    };
}

/// The first round of [`multiply`] for new sums of two by two tiles, which begin with those at `from`, or with zeros; the sums
/// that are in the registers go to `to`. A sum is there long after its last product began: stored only where its register is
/// needed again, it keeps no product waiting. Rows of sums in memory have `stride` elements.
///
/// # Safety
/// As for [`load`], [`store`] and [`multiply`].
#[inline(always)]
pub(crate) unsafe fn exchange<const OF_BYTES: bool>(
    _unit: &Unit,
    a: At,
    b: Right,
    to: *mut f32,
    from: Option<*const f32>,
    stride: usize,
) {
    let stride = stride * size_of::<f32>();
    // SAFETY: the caller's promise.
    unsafe {
        match (OF_BYTES, from) {
            (true, None) => exchange!("tdpbusd", zero, a, b, to, stride),
            (false, None) => exchange!("tdpbf16ps", zero, a, b, to, stride),
            (true, Some(from)) => {
                let low = from.wrapping_byte_add(SIDE * stride);
                exchange!("tdpbusd", load, a, b, to, stride, from = from, from_low = low)
            }
            (false, Some(from)) => {
                let low = from.wrapping_byte_add(SIDE * stride);
                exchange!("tdpbf16ps", load, a, b, to, stride, from = from, from_low = low)
            }
        }
    }
}

/// [`multiply`] for pairs of numbers, onto sums in memory: rows of `stride` elements.
///
/// # Safety
/// As for [`load`] and [`multiply`].
#[inline(always)]
pub(crate) unsafe fn add_up<const R: usize, const C: usize>(
    unit: &Unit,
    count: usize,
    a: At,
    b: Right,
    sums: *mut f32,
    stride: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        load::<R, C>(unit, sums, stride);
        multiply::<false, R, C>(unit, count, a, b, sums);
        store::<R, C>(unit, sums, stride);
    }
}
