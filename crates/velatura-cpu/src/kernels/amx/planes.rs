//! Products of attention: against queries that stay in registers, and with sums of up to three by two tiles.

use std::arch::asm;

use super::{At, ROW, Right, SIDE, Unit};

/// A right operand of two tiles of columns and once or twice (`STEPS`) 16 steps comes into registers 4 to 7.
///
/// # Safety
/// As for [`multiply`](super::multiply).
#[inline(always)]
pub(crate) unsafe fn hold<const STEPS: usize>(_unit: &Unit, b: Right) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("tileloadd tmm4, [{b} + {bs}*1]", "tileloadd tmm5, [{c} + {bs}*1]",
            b = in(reg) b.from, c = in(reg) b.from.wrapping_add(b.apart), bs = in(reg) b.stride,
            options(nostack, readonly, preserves_flags));
        if STEPS == 2 {
            let b = b.later(1);
            asm!("tileloadd tmm6, [{b} + {bs}*1]", "tileloadd tmm7, [{c} + {bs}*1]",
                b = in(reg) b.from, c = in(reg) b.from.wrapping_add(b.apart), bs = in(reg) b.stride,
                options(nostack, readonly, preserves_flags));
        }
    }
}

/// The sums of one by two tiles become the products of pairs of numbers with what [`hold`] holds.
///
/// # Safety
/// As for [`multiply`](super::multiply); nothing but this and sums of one by two tiles came into registers since so many steps were
/// held.
#[inline(always)]
pub(crate) unsafe fn multiply_held<const STEPS: usize>(_unit: &Unit, a: At) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("tilezero tmm0", "tileloadd tmm2, [{a} + {row}*1]", "tdpbf16ps tmm0, tmm2, tmm4",
            "tilezero tmm1", "tdpbf16ps tmm1, tmm2, tmm5",
            a = in(reg) a.from, row = in(reg) ROW, options(nostack, readonly, preserves_flags));
        if STEPS == 2 {
            asm!("tileloadd tmm3, [{a} + {row}*1]", "tdpbf16ps tmm0, tmm3, tmm6", "tdpbf16ps tmm1, tmm3, tmm7",
                a = in(reg) a.from.wrapping_add(a.stride), row = in(reg) ROW,
                options(nostack, readonly, preserves_flags));
        }
    }
}

/// Adds the products of `count` times 16 steps of pairs of numbers to the sums of `R` by two tiles, one to three by two: registers
/// 0 to 5. Tiles of the left operand lie one after the other for each 16 rows, which begin `plane` bytes after the 16 before.
///
/// # Safety
/// As for [`multiply`](super::multiply).
#[inline(always)]
pub(crate) unsafe fn multiply_planes<const R: usize>(
    _unit: &Unit,
    count: usize,
    a: *const u8,
    plane: usize,
    b: Right,
) {
    macro_rules! planes {
        ([$($line:expr),+] $(, $name:ident = $number:literal)*) => {
            asm!(
                "2:",
                $($line,)+
                "add {a}, 1024",
                $(concat!("add {", stringify!($name), "}, 1024"),)*
                "add {b}, {after}",
                "add {c}, {after}",
                "dec {n}",
                "jnz 2b",
                n = inout(reg) count => _, a = inout(reg) a => _, row = in(reg) ROW,
                $($name = inout(reg) a.wrapping_add($number * plane) => _,)*
                b = inout(reg) b.from => _, c = inout(reg) b.from.wrapping_add(b.apart) => _,
                bs = in(reg) b.stride, after = in(reg) SIDE * b.stride,
                options(nostack, readonly)
            )
        };
    }
    // SAFETY: the caller's promise.
    unsafe {
        match R {
            1 => planes!([
                "tileloadd tmm7, [{b} + {bs}*1]",
                "tileloadd tmm6, [{a} + {row}*1]",
                "tdpbf16ps tmm0, tmm6, tmm7",
                "tileloadd tmm7, [{c} + {bs}*1]",
                "tdpbf16ps tmm1, tmm6, tmm7"
            ]),
            2 => planes!(
                [
                    "tileloadd tmm7, [{b} + {bs}*1]",
                    "tileloadd tmm6, [{a} + {row}*1]",
                    "tdpbf16ps tmm0, tmm6, tmm7",
                    "tileloadd tmm5, [{a1} + {row}*1]",
                    "tdpbf16ps tmm2, tmm5, tmm7",
                    "tileloadd tmm7, [{c} + {bs}*1]",
                    "tdpbf16ps tmm1, tmm6, tmm7",
                    "tdpbf16ps tmm3, tmm5, tmm7"
                ],
                a1 = 1
            ),
            _ => planes!(
                [
                    "tileloadd tmm7, [{b} + {bs}*1]",
                    "tileloadd tmm6, [{a} + {row}*1]",
                    "tdpbf16ps tmm0, tmm6, tmm7",
                    "tileloadd tmm6, [{a1} + {row}*1]",
                    "tdpbf16ps tmm2, tmm6, tmm7",
                    "tileloadd tmm6, [{a2} + {row}*1]",
                    "tdpbf16ps tmm4, tmm6, tmm7",
                    "tileloadd tmm7, [{c} + {bs}*1]",
                    "tdpbf16ps tmm5, tmm6, tmm7",
                    "tileloadd tmm6, [{a1} + {row}*1]",
                    "tdpbf16ps tmm3, tmm6, tmm7",
                    "tileloadd tmm6, [{a} + {row}*1]",
                    "tdpbf16ps tmm1, tmm6, tmm7"
                ],
                a1 = 1,
                a2 = 2
            ),
        }
    }
}
