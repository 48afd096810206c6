//! The transforms of tiles: `B' d B` of the input, `A' m A` of the products.

use super::super::lanes::{Lanes, Plain};
use super::{IN, OUT};

/// A tile of the input.
pub(in super::super) struct InputTile {
    /// The first channel of each pixel.
    pub pixels: [[*const u8; IN]; IN],
    /// Bytes from channel to channel; 0 where the pixel is zero throughout.
    pub steps: [[usize; IN]; IN],
    /// Whether pixels are brain floating-point numbers.
    pub narrow: bool,
    /// A multiple of the vector's lanes.
    pub channels: usize,
    /// The first point's channels.
    pub to: *mut u8,
    /// Bytes from point to point.
    pub point: usize,
}

/// Products of some tiles.
pub(in super::super) struct OutputTiles {
    /// The first point's sums of the first tile: rows of `width` columns.
    pub from: *const f32,
    /// Elements from point to point.
    pub point: usize,
    pub tiles: usize,
    /// Whole vectors.
    pub width: usize,
    /// Four pixels for each tile, rows of `width`.
    pub to: *mut f32,
}

pub(in super::super) type InputFn = unsafe fn(&InputTile);
pub(in super::super) type OutputFn = unsafe fn(&OutputTiles);

/// `B' d`: along one axis.
#[inline(always)]
unsafe fn input_line<L: Lanes>(d: [L; IN]) -> [L; IN] {
    // SAFETY: the contract of `Lanes`.
    unsafe { [d[0].sub(d[2]), d[1].add(d[2]), d[2].sub(d[1]), d[1].sub(d[3])] }
}

/// `A' m`: along one axis.
#[inline(always)]
unsafe fn output_line<L: Lanes>(m: [L; IN]) -> [L; OUT] {
    // SAFETY: the contract of `Lanes`.
    unsafe { [m[0].add(m[1]).add(m[2]), m[1].sub(m[2]).sub(m[3])] }
}

/// Transforms all channels of a tile; `PAIRS` stores brain floating-point numbers.
///
/// # Safety
/// All pixels are readable at their steps, and the points writable, for all channels.
#[inline(always)]
unsafe fn input<L: Lanes, const PAIRS: bool, const NARROW: bool>(t: &InputTile) {
    for channel in (0..t.channels).step_by(L::WIDTH) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut d = [[L::zero(); IN]; IN];
            for i in 0..IN {
                for j in 0..IN {
                    let from = t.pixels[i][j].wrapping_add(channel * t.steps[i][j]);
                    d[i][j] = if NARROW { L::load_bf16(from.cast()) } else { L::load(from.cast()) };
                }
            }
            let lines: [[L; IN]; IN] = std::array::from_fn(|i| input_line(d[i]));
            for j in 0..IN {
                let column = input_line(std::array::from_fn(|i| lines[i][j]));
                for (i, x) in column.into_iter().enumerate() {
                    let size = if PAIRS { 2 } else { 4 };
                    let to = t.to.wrapping_add((i * IN + j) * t.point + channel * size);
                    if PAIRS {
                        x.store_bf16(to.cast());
                    } else {
                        x.store(to.cast());
                    }
                }
            }
        }
    }
}

/// # Safety
/// Sixteen points of the tiles' rows are readable, four rows for each tile writable.
#[inline(always)]
unsafe fn output<L: Lanes>(t: &OutputTiles) {
    for tile in 0..t.tiles {
        for column in (0..t.width).step_by(L::WIDTH) {
            // SAFETY: the caller's promise.
            unsafe {
                let from = t.from.add(tile * t.width + column);
                let mut lines = [[L::zero(); OUT]; IN];
                for i in 0..IN {
                    lines[i] =
                        output_line(std::array::from_fn(|j| L::load(from.add((i * IN + j) * t.point))));
                }
                for j in 0..OUT {
                    let pixels = output_line(std::array::from_fn(|i| lines[i][j]));
                    for (i, x) in pixels.into_iter().enumerate() {
                        x.store(t.to.add((tile * OUT * OUT + i * OUT + j) * t.width + column));
                    }
                }
            }
        }
    }
}

pub(in super::super) mod portable {
    use super::{InputTile, OutputTiles, Plain};

    pub(in super::super::super) unsafe fn input(t: &InputTile) {
        // SAFETY: the contract of `input`.
        unsafe {
            match t.narrow {
                true => super::input::<Plain, false, true>(t),
                false => super::input::<Plain, false, false>(t),
            }
        }
    }

    pub(in super::super::super) unsafe fn output(t: &OutputTiles) {
        // SAFETY: the contract of `output`.
        unsafe { super::output::<Plain>(t) }
    }
}

#[cfg(target_arch = "x86_64")]
pub(in super::super) mod avx2 {
    use std::arch::x86_64::__m256;

    use super::{InputTile, OutputTiles};

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in super::super::super) unsafe fn input(t: &InputTile) {
        // SAFETY: the contract of `input`.
        unsafe {
            match t.narrow {
                true => super::input::<__m256, false, true>(t),
                false => super::input::<__m256, false, false>(t),
            }
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in super::super::super) unsafe fn output(t: &OutputTiles) {
        // SAFETY: the contract of `output`.
        unsafe { super::output::<__m256>(t) }
    }
}

#[cfg(target_arch = "x86_64")]
pub(in super::super) mod avx512 {
    use std::arch::x86_64::__m512;

    use super::{InputTile, OutputTiles};

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    pub(in super::super::super) unsafe fn input(t: &InputTile) {
        // SAFETY: the contract of `input`.
        unsafe {
            match t.narrow {
                true => super::input::<__m512, false, true>(t),
                false => super::input::<__m512, false, false>(t),
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    pub(in super::super::super) unsafe fn input_bf16(t: &InputTile) {
        // SAFETY: the contract of `input`.
        unsafe { super::input::<__m512, true, true>(t) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    pub(in super::super::super) unsafe fn output(t: &OutputTiles) {
        // SAFETY: the contract of `output`.
        unsafe { super::output::<__m512>(t) }
    }
}
