//! The tile registers of AMX and their products: Intel, "Intel 64 and IA-32 Architectures Software Developer's Manual", volume 1,
//! chapter "Programming with Intel AMX".
//!
//! Registers 0 to 3 hold sums of two by two tiles, 4 and 5 tiles of the left operand, 6 and 7 of the right one, if nothing else
//! is said. A tile has 16 rows of 64 bytes: sums of 16 rows and 16 columns; 16 rows of 16 steps; 16 steps of 16 columns. The
//! compiler uses none of these registers, so that they keep their content from one call to the next.

mod planes;
mod products;
mod thirds;

use std::arch::asm;

pub(crate) use planes::{hold, multiply_held, multiply_planes};
pub(crate) use products::{FETCHED_SUMS, Fetched, PLACES, add_up, exchange, multiply, multiply_passing};
pub(crate) use thirds::{FETCHED_WITH_THIRDS, PLACES_OF_THIRDS, exchange_thirds, multiply_thirds};

/// Rows of a tile, its columns, and the steps that one product adds up.
pub(crate) const SIDE: usize = 16;
/// Bytes of a row of a tile.
pub(crate) const ROW: usize = 64;

/// Bytes of a tile, and of two.
pub(crate) const TILE: usize = SIDE * ROW;
pub(crate) const TILES: usize = 2 * TILE;

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

/// Memory that two tiles of columns are loaded from.
#[derive(Clone, Copy)]
pub(crate) struct Right {
    /// The first step of the first tile.
    pub from: *const u8,
    /// Bytes from step to step.
    pub stride: usize,
    /// Bytes from the first tile to the second.
    pub apart: usize,
}

impl Right {
    /// Rows of `columns` cells, of which the first ones are those of the tiles.
    pub(crate) fn rows(from: *const u32, columns: usize) -> Right {
        Right { from: from.cast(), stride: columns * size_of::<u32>(), apart: ROW }
    }

    /// The tiles of `count` times 16 steps later.
    pub(crate) fn later(self, count: usize) -> Right {
        Right { from: self.from.wrapping_add(count * SIDE * self.stride), ..self }
    }
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

/// Asks for a line of the caches, to be written soon; a hint, which any address may be given.
#[inline(always)]
pub(crate) fn fetch_to_write(line: *const u8) {
    // SAFETY: fetching touches nothing.
    unsafe { asm!("prefetchw [{}]", in(reg) line, options(nostack, preserves_flags, readonly)) };
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
