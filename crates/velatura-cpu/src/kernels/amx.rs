//! The tile registers of AMX and their products: Intel, "Intel 64 and IA-32 Architectures Software Developer's Manual", volume 1,
//! chapter "Programming with Intel AMX".
//!
//! Registers 0 to 3 hold sums of two by two tiles, 4 and 5 tiles of the left operand, 6 and 7 of the right one, if nothing else
//! is said. A tile has 16 rows of 64 bytes: sums of 16 rows and 16 columns; 16 rows of 16 steps; 16 steps of 16 columns. The compiler uses none of these
//! registers, so that they keep their content from one call to the next.

use std::arch::asm;

/// Rows of a tile, its columns, and the steps that one product adds up.
pub(crate) const SIDE: usize = 16;
/// Bytes of a row of a tile.
pub(crate) const ROW: usize = 64;

/// Bytes of two tiles.
pub(crate) const TILES: usize = 2 * SIDE * ROW;

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// All eight registers whole.
static WHOLE: Configuration = {
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    let mut i = 0;
    while i < 8 {
        row_bytes[i] = ROW as u16;
        rows[i] = SIDE as u8;
        i += 1;
    }
    Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
};

/// The tile registers of this thread, in use until it is dropped.
pub(crate) struct Unit(());

impl Unit {
    /// # Safety
    /// The processor has [`Isa::Amx`](crate::Isa::Amx), and this thread no other unit.
    #[inline(always)]
    pub(crate) unsafe fn take() -> Unit {
        // SAFETY: the caller's promise; reads the 64 bytes of the configuration.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const WHOLE, options(nostack, preserves_flags)) };
        Unit(())
    }
}

impl Drop for Unit {
    /// Threads whose tiles are in use are slower to switch between.
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: they were taken.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags)) };
    }
}

/// Memory that tiles are loaded from.
#[derive(Clone, Copy)]
pub(crate) struct At {
    pub from: *const u8,
    /// Bytes from one to the next: rows, or what else is said.
    pub stride: usize,
}

/// An instruction on one of the registers of sums, between what is before its number and behind it.
macro_rules! on {
    ($register:expr, $before:literal, $after:literal $(, $operand:ident)*) => {
        match $register {
            0 => asm!(concat!($before, "0", $after), $(in(reg) $operand,)* options(nostack, preserves_flags)),
            1 => asm!(concat!($before, "1", $after), $(in(reg) $operand,)* options(nostack, preserves_flags)),
            2 => asm!(concat!($before, "2", $after), $(in(reg) $operand,)* options(nostack, preserves_flags)),
            3 => asm!(concat!($before, "3", $after), $(in(reg) $operand,)* options(nostack, preserves_flags)),
            4 => asm!(concat!($before, "4", $after), $(in(reg) $operand,)* options(nostack, preserves_flags)),
            _ => asm!(concat!($before, "5", $after), $(in(reg) $operand,)* options(nostack, preserves_flags)),
        }
    };
}

/// Sums of `R` by `C` tiles become zero.
///
/// # Safety
/// The unit is of this thread.
#[inline(always)]
pub(crate) unsafe fn clear<const R: usize, const C: usize>(_unit: &Unit) {
    for r in 0..R {
        for c in 0..C {
            // SAFETY: a register of the unit.
            unsafe { on!(2 * r + c, "tilezero tmm", "") };
        }
    }
}

/// Sums of `R` by `C` tiles come from memory: rows of `stride` elements.
///
/// # Safety
/// All of them are there; the unit is of this thread.
#[inline(always)]
pub(crate) unsafe fn load<const R: usize, const C: usize>(_unit: &Unit, sums: *const f32, stride: usize) {
    for r in 0..R {
        for c in 0..C {
            let (at, stride) = (sums.wrapping_add(r * SIDE * stride + c * SIDE), stride * size_of::<f32>());
            // SAFETY: the caller's promise.
            unsafe { on!(2 * r + c, "tileloadd tmm", ", [{} + {}*1]", at, stride) };
        }
    }
}

/// Sums of `R` by `C` tiles go to memory: rows of `stride` elements.
///
/// # Safety
/// There is room for all of them; the unit is of this thread.
#[inline(always)]
pub(crate) unsafe fn store<const R: usize, const C: usize>(_unit: &Unit, sums: *mut f32, stride: usize) {
    for r in 0..R {
        for c in 0..C {
            let (at, stride) = (sums.wrapping_add(r * SIDE * stride + c * SIDE), stride * size_of::<f32>());
            // SAFETY: the caller's promise.
            unsafe { on!(2 * r + c, "tilestored [{} + {}*1], tmm", "", at, stride) };
        }
    }
}

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

/// Rounds whose right operand does not stay in the first-level cache.
macro_rules! passing {
    ($product:literal, $($rest:expr),+) => {
        products!($product, "tileloaddt1", ["", "", "", ""], $($rest),+)
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

/// [`multiply`] with a right operand that passes by: it leaves the first-level cache to the left one. Nothing is fetched.
///
/// # Safety
/// As for [`multiply`].
#[inline(always)]
pub(crate) unsafe fn multiply_passing<const OF_BYTES: bool, const R: usize, const C: usize>(
    _unit: &Unit,
    count: usize,
    a: At,
    b: At,
) {
    let next = a.from;
    // SAFETY: the caller's promise.
    unsafe {
        match OF_BYTES {
            true => passing!("tdpbusd", R, C, count, a, b, next),
            false => passing!("tdpbf16ps", R, C, count, a, b, next),
        }
    }
}

/// A tile of sums goes to memory, begins anew and takes its first product. `$at` is behind the name of a base.
macro_rules! exchanged {
    ($product:literal, zero, $tile:literal, $at:literal, $operands:literal) => {
        concat!(
            "tilestored [{to",
            $at,
            " + {stride}*1], tmm",
            $tile,
            "\ntilezero tmm",
            $tile,
            "\n",
            $product,
            " tmm",
            $tile,
            $operands
        )
    };
    ($product:literal, load, $tile:literal, $at:literal, $operands:literal) => {
        concat!(
            "tilestored [{to",
            $at,
            " + {stride}*1], tmm",
            $tile,
            "\ntileloadd tmm",
            $tile,
            ", [{from",
            $at,
            " + {stride}*1]\n",
            $product,
            " tmm",
            $tile,
            $operands
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

/// A right operand of two tiles of columns and once or twice (`STEPS`) 16 steps comes into registers 4 to 7.
///
/// # Safety
/// As for [`multiply`].
#[inline(always)]
pub(crate) unsafe fn hold<const STEPS: usize>(_unit: &Unit, b: At) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("tileloadd tmm4, [{b} + {bs}*1]", "tileloadd tmm5, [{b} + {bs}*1 + 64]",
            b = in(reg) b.from, bs = in(reg) b.stride, options(nostack, readonly, preserves_flags));
        if STEPS == 2 {
            asm!("tileloadd tmm6, [{b} + {bs}*1]", "tileloadd tmm7, [{b} + {bs}*1 + 64]",
                b = in(reg) b.from.wrapping_add(SIDE * b.stride), bs = in(reg) b.stride,
                options(nostack, readonly, preserves_flags));
        }
    }
}

/// The sums of one by two tiles become the products of pairs of numbers with what [`hold`] holds.
///
/// # Safety
/// As for [`multiply`], with as many steps as are held.
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
/// As for [`multiply`].
#[inline(always)]
pub(crate) unsafe fn multiply_planes<const R: usize>(
    _unit: &Unit,
    count: usize,
    a: *const u8,
    plane: usize,
    b: At,
) {
    macro_rules! planes {
        ([$($line:expr),+] $(, $name:ident = $number:literal)*) => {
            asm!(
                "2:",
                $($line,)+
                "add {a}, 1024",
                $(concat!("add {", stringify!($name), "}, 1024"),)*
                "add {b}, {after}",
                "dec {n}",
                "jnz 2b",
                n = inout(reg) count => _, a = inout(reg) a => _, row = in(reg) ROW,
                $($name = inout(reg) a.wrapping_add($number * plane) => _,)*
                b = inout(reg) b.from => _, bs = in(reg) b.stride, after = in(reg) SIDE * b.stride,
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
                "tileloadd tmm7, [{b} + {bs}*1 + 64]",
                "tdpbf16ps tmm1, tmm6, tmm7"
            ]),
            2 => planes!(
                [
                    "tileloadd tmm7, [{b} + {bs}*1]",
                    "tileloadd tmm6, [{a} + {row}*1]",
                    "tdpbf16ps tmm0, tmm6, tmm7",
                    "tileloadd tmm5, [{a1} + {row}*1]",
                    "tdpbf16ps tmm2, tmm5, tmm7",
                    "tileloadd tmm7, [{b} + {bs}*1 + 64]",
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
                    "tileloadd tmm7, [{b} + {bs}*1 + 64]",
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
