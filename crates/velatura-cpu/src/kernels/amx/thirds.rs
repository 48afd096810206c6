//! Products of numbers in thirds: see [`gemm::thirds`](crate::kernels::gemm). Six of the nine products of two numbers' thirds are
//! made, each of which meets an operand that the one before has left in the registers.

use std::arch::asm;

use super::{At, Fetched, ROW, Right, SIDE, TILE, Unit, exchange};
use crate::kernels::LINE;

/// Tiles of the same steps.
const PARTS: usize = 3;
/// The first third of `b`: the low one. The first of `a` is the high one.
const FIRST: usize = 2 * TILE;

/// A line if there are two tiles of it.
macro_rules! of_two {
    (one, $line:expr) => {
        ""
    };
    (two, $line:expr) => {
        $line
    };
}

/// A tile of the left operand: of a third, and which of the two.
macro_rules! a {
    ($part:literal, 0) => {
        concat!("tileloadd tmm4, [{", $part, "} + {row}*1]")
    };
    ($part:literal, 1) => {
        concat!("tileloadd tmm5, [{", $part, "} + {row}*1 + 1024]")
    };
}

/// A tile of the right operand: where its third begins, and which of the two.
macro_rules! b {
    ($at:literal, 0) => {
        concat!("tileloaddt1 tmm6, [{b} + {row}*1 + ", $at, "]")
    };
    ($at:literal, 1) => {
        concat!("tileloaddt1 tmm7, [{c} + {row}*1 + ", $at, "]")
    };
}

/// What is fetched at each of the [`PLACES_OF_THIRDS`] of a round, from `next` on. They go by pairs.
macro_rules! fetched {
    (nothing, $place:ident) => {
        "# {next} {step} {apart}"
    };
    (far, first) => {
        "prefetcht1 [{next}]"
    };
    (far, second) => {
        "prefetcht1 [{next} + {apart}*1]\nadd {next}, {step}"
    };
    (sums, $place:ident) => {
        concat!(
            "prefetchw [{next}]\nprefetchw [{next} + 64]\nprefetchw [{next} + 128]\nprefetchw [{next} + 192]\n",
            "add {next}, 256 # {step} {apart}"
        )
    };
}

/// Products with another third of the left operand.
macro_rules! by_a {
    ($rows:ident, $columns:ident, $fetched:ident, $place:ident, $part:literal) => {
        concat!(
            a!($part, 0),
            "\ntdpbf16ps tmm0, tmm4, tmm6\n",
            of_two!($columns, "tdpbf16ps tmm1, tmm4, tmm7\n"),
            fetched!($fetched, $place),
            "\n",
            of_two!($rows, concat!(a!($part, 1), "\ntdpbf16ps tmm2, tmm5, tmm6\n")),
            of_both!($rows, $columns, "tdpbf16ps tmm3, tmm5, tmm7")
        )
    };
}
macro_rules! of_both {
    (two, two, $line:literal) => {
        $line
    };
    ($rows:ident, $columns:ident, $line:literal) => {
        ""
    };
}

/// Products with another third of the right operand.
macro_rules! by_b {
    ($rows:ident, $columns:ident, $fetched:ident, $place:ident, $at:literal) => {
        concat!(
            b!($at, 0),
            "\ntdpbf16ps tmm0, tmm4, tmm6\n",
            of_two!($rows, "tdpbf16ps tmm2, tmm5, tmm6\n"),
            fetched!($fetched, $place),
            "\n",
            of_two!($columns, concat!(b!($at, 1), "\ntdpbf16ps tmm1, tmm4, tmm7\n")),
            of_both!($rows, $columns, "tdpbf16ps tmm3, tmm5, tmm7")
        )
    };
}

/// The loop. `begun` enters it behind the first pair of thirds.
macro_rules! rounds {
    ($rows:ident, $columns:ident, $fetched:ident, $count:expr, $a:expr, $plane:expr, $b:expr, $begun:expr, $next:expr, $step:expr) => {
        asm!(
            "test {begun}, {begun}",
            "jnz 3f",
            "2:",
            a!("high", 0),
            of_two!($rows, a!("high", 1)),
            by_b!($rows, $columns, $fetched, first, "2048"),
            "3:",
            by_b!($rows, $columns, $fetched, second, "1024"),
            by_a!($rows, $columns, $fetched, first, "middle"),
            by_b!($rows, $columns, $fetched, second, "0"),
            by_a!($rows, $columns, $fetched, first, "low"),
            by_a!($rows, $columns, $fetched, second, "high"),
            "add {high}, {slot}",
            "add {middle}, {slot}",
            "add {low}, {slot}",
            "add {b}, {after}",
            "add {c}, {after}",
            "dec {n}",
            "jnz 2b",
            n = inout(reg) $count => _,
            high = inout(reg) $a.from => _,
            middle = inout(reg) $a.from.wrapping_add($plane) => _,
            low = inout(reg) $a.from.wrapping_add(2 * $plane) => _,
            slot = in(reg) $a.stride, row = in(reg) ROW,
            b = inout(reg) $b.from => _,
            c = inout(reg) $b.from.wrapping_add($b.apart) => _,
            after = const PARTS * TILE,
            begun = in(reg) usize::from($begun),
            next = inout(reg) $next => _, apart = in(reg) $b.apart, step = in(reg) $step,
            options(nostack, readonly)
        )
    };
}

/// Places of a round of [`multiply_thirds`] at which something is fetched: one with each pair of thirds.
pub(crate) const PLACES_OF_THIRDS: usize = 6;
/// Sums that [`Fetched::Sums`] brings with a round: four lines at each place.
pub(crate) const FETCHED_WITH_THIRDS: usize = PLACES_OF_THIRDS * 4 * LINE / size_of::<f32>();

/// Adds the products of `count` times 32 numbers to the sums of `R` by `C` tiles. For each, `a` has the high thirds of two tiles of
/// rows, and `plane` and twice as many bytes later the middle and the low ones; its stride is that from 32 numbers to the next. `b`
/// has three tiles for each, one after the other. If it is `begun` by [`exchange_thirds`], the first of them are what that began
/// with. As with [`multiply`](super::multiply) something is fetched meanwhile with two by two tiles.
///
/// # Safety
/// The operands have so many numbers, and `count` is not zero; the unit is of this thread.
#[inline(always)]
pub(crate) unsafe fn multiply_thirds<const R: usize, const C: usize>(
    _unit: &Unit,
    count: usize,
    a: At,
    plane: usize,
    b: Right,
    begun: bool,
    fetched: Fetched,
) {
    macro_rules! shapes {
        ($fetched:ident, $next:expr, $step:expr) => {
            match (R, C) {
                (1, 1) => rounds!(one, one, nothing, count, a, plane, b, begun, $next, $step),
                (1, _) => rounds!(one, two, nothing, count, a, plane, b, begun, $next, $step),
                (_, 1) => rounds!(two, one, nothing, count, a, plane, b, begun, $next, $step),
                (_, _) => rounds!(two, two, $fetched, count, a, plane, b, begun, $next, $step),
            }
        };
    }
    // SAFETY: the caller's promise.
    unsafe {
        match fetched {
            Fetched::Nothing => shapes!(nothing, a.from, ROW),
            Fetched::Sums(next) => shapes!(sums, next, ROW),
            Fetched::Far(At { from, stride }) => shapes!(far, from, stride),
        }
    }
}

/// [`exchange`] for the first pair of thirds of new sums.
///
/// # Safety
/// As for that.
#[inline(always)]
pub(crate) unsafe fn exchange_thirds(
    unit: &Unit,
    a: At,
    b: Right,
    to: *mut f32,
    from: Option<*const f32>,
    stride: usize,
) {
    let b = Right { from: b.from.wrapping_add(FIRST), ..b };
    debug_assert!(b.stride == ROW && TILE == SIDE * ROW);
    // SAFETY: the caller's promise.
    unsafe { exchange::<false>(unit, a, b, to, from, stride) }
}
