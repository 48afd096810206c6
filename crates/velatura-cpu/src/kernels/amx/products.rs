//! Products with sums of two by two tiles.

use std::arch::asm;

use super::{At, ROW, SIDE, Unit, load, store};

/// The loop over 16 steps after 16 steps. The lines of one round follow the operands.
macro_rules! rounds {
    ($count:expr, $a:expr, $b:expr, $next:expr, [$($line:expr),+]) => {
        asm!(
            "2:",
            $($line,)+
            "add {a}, {unit}",
            "add {b}, {after}",
            "add {next}, 512",
            "dec {n}",
            "jnz 2b",
            n = inout(reg) $count => _,
            a = inout(reg) $a.from => _, row = in(reg) ROW, unit = in(reg) $a.stride,
            b = inout(reg) $b.from => _, bs = in(reg) $b.stride, after = in(reg) $b.stride * SIDE,
            next = inout(reg) $next => _,
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
        concat!($load, " tmm7, [{b} + {bs}*1 + 64]")
    };
}

/// Two of the eight lines that are fetched with a round.
macro_rules! fetched {
    ($first:literal) => {
        concat!("prefetchw [{next} + ", $first, "]\nprefetchw [{next} + ", $first, " + 64]")
    };
}

/// The rounds for sums of so many tiles: the instructions of products and of loads of the right operand, and what is between the
/// products of two by two tiles.
macro_rules! products {
    ($product:literal, $load:literal, [$first:expr, $second:expr, $third:expr, $fourth:expr], $rows:expr, $columns:expr, $($operand:expr),+) => {
        match ($rows, $columns) {
            (1, 1) => rounds!($($operand),+, [b!($load, 0), a!(0), concat!($product, " tmm0, tmm4, tmm6")]),
            (1, _) => rounds!($($operand),+, [
                b!($load, 0),
                a!(0),
                concat!($product, " tmm0, tmm4, tmm6"),
                b!($load, 1),
                concat!($product, " tmm1, tmm4, tmm7")
            ]),
            (_, 1) => rounds!($($operand),+, [
                b!($load, 0),
                a!(0),
                concat!($product, " tmm0, tmm4, tmm6"),
                a!(1),
                concat!($product, " tmm2, tmm5, tmm6")
            ]),
            (_, _) => rounds!($($operand),+, [
                b!($load, 0),
                a!(0),
                $first,
                concat!($product, " tmm0, tmm4, tmm6"),
                a!(1),
                $second,
                concat!($product, " tmm2, tmm5, tmm6"),
                b!($load, 1),
                $third,
                concat!($product, " tmm1, tmm4, tmm7"),
                $fourth,
                concat!($product, " tmm3, tmm5, tmm7")
            ]),
        }
    };
}

/// Rounds that fetch what `next` points at.
macro_rules! fetching {
    ($product:literal, $($rest:expr),+) => {
        products!($product, "tileloadd", [fetched!(0), fetched!(128), fetched!(256), fetched!(384)], $($rest),+)
    };
}

/// Rounds whose right operand does not stay in the first-level cache, and those that fetch what `next` points at besides.
macro_rules! passing {
    ($product:literal, $($rest:expr),+) => {
        products!($product, "tileloaddt1", ["", "", "", ""], $($rest),+)
    };
}
macro_rules! passing_fetching {
    ($product:literal, $($rest:expr),+) => {
        products!($product, "tileloaddt1", [fetched!(0), fetched!(128), fetched!(256), fetched!(384)], $($rest),+)
    };
}

/// Adds the products of `count` times 16 steps to the sums of `R` by `C` tiles. `a` has two tiles of rows for each 16 steps, one
/// after the other, and its stride is that from 16 steps to the next; `b` begins with the first step of `16 * C` columns. Steps
/// are pairs of brain floating-point numbers, or, `OF_BYTES`, four numbers without a sign of `a` and with one of `b`. With each
/// 16 steps of two by two tiles eight lines from `next` on, which need not be there, are brought into the first-level cache, to
/// be written.
///
/// # Safety
/// The operands have so many steps, and `count` is not zero; the unit is of this thread.
#[inline(always)]
pub(crate) unsafe fn multiply<const OF_BYTES: bool, const R: usize, const C: usize>(
    _unit: &Unit,
    count: usize,
    a: At,
    b: At,
    next: *const f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match OF_BYTES {
            true => fetching!("tdpbusd", R, C, count, a, b, next),
            false => fetching!("tdpbf16ps", R, C, count, a, b, next),
        }
    }
}

/// [`multiply`] with a right operand that passes by: it leaves the first-level cache to the left one. Nothing is fetched without
/// `next`.
///
/// # Safety
/// As for [`multiply`].
#[inline(always)]
pub(crate) unsafe fn multiply_passing<const OF_BYTES: bool, const R: usize, const C: usize>(
    _unit: &Unit,
    count: usize,
    a: At,
    b: At,
    next: Option<*const f32>,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match (OF_BYTES, next) {
            (true, None) => passing!("tdpbusd", R, C, count, a, b, a.from),
            (false, None) => passing!("tdpbf16ps", R, C, count, a, b, a.from),
            (true, Some(next)) => passing_fetching!("tdpbusd", R, C, count, a, b, next),
            (false, Some(next)) => passing_fetching!("tdpbf16ps", R, C, count, a, b, next),
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
            b = in(reg) $b.from, bs = in(reg) $b.stride,
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
    b: At,
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
    b: At,
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
