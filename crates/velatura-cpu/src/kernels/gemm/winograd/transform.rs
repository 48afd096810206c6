//! The transforms of tiles: `B' d B` of the input, `A' m A` of the products. Matrices of Lavin and Gray 2016, section 4.

use super::super::lanes::{Lanes, Plain};
use super::{MOST_IN, Tiling};

/// A tile of the input.
pub(in super::super) struct InputTile {
    /// The first channel of each pixel; of a smaller tile those in the upper left.
    pub pixels: [[*const u8; MOST_IN]; MOST_IN],
    /// Bytes from channel to channel; 0 where the pixel is zero throughout.
    pub steps: [[usize; MOST_IN]; MOST_IN],
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
    /// The pixels of each tile, rows of `width`.
    pub to: *mut f32,
}

/// The transforms of the input and of the products.
pub(super) type Both = (unsafe fn(&InputTile), unsafe fn(&OutputTiles));

/// The transforms of an instruction set, by tiling.
pub(in super::super) struct Transforms {
    pub small: Both,
    pub large: Both,
}

impl Transforms {
    pub(super) fn of(&self, tiling: Tiling) -> &Both {
        match tiling {
            Tiling::Small => &self.small,
            Tiling::Large => &self.large,
        }
    }
}

/// The same number in every lane.
#[inline(always)]
unsafe fn splat<L: Lanes>(x: f32) -> L {
    // SAFETY: the contract of `Lanes`.
    unsafe { L::splat_bits((&raw const x).cast()) }
}

/// `x + a * n`
#[inline(always)]
unsafe fn plus<L: Lanes>(x: L, a: L, n: f32) -> L {
    // SAFETY: the contract of `Lanes`.
    unsafe { x.multiply_add(a, splat(n)) }
}

/// `B' d`: along one axis.
#[inline(always)]
unsafe fn input_line<L: Lanes, const IN: usize>(d: [L; IN]) -> [L; IN] {
    let mut out = d;
    // SAFETY: the contract of `Lanes`.
    unsafe {
        if IN == 4 {
            out[0] = d[0].sub(d[2]);
            out[1] = d[1].add(d[2]);
            out[2] = d[2].sub(d[1]);
            out[3] = d[1].sub(d[3]);
        } else {
            let (even, odd) = (plus(d[4], d[2], -4.0), plus(d[3], d[1], -4.0));
            let (near, far) = (d[4].sub(d[2]), d[3].sub(d[1]));
            out[0] = plus(plus(d[4], d[2], -5.0), d[0], 4.0);
            out[1] = even.add(odd);
            out[2] = even.sub(odd);
            out[3] = plus(near, far, 2.0);
            out[4] = plus(near, far, -2.0);
            out[5] = plus(plus(d[5], d[3], -5.0), d[1], 4.0);
        }
    }
    out
}

/// `A' m`: along one axis.
#[inline(always)]
unsafe fn output_line<L: Lanes, const IN: usize, const OUT: usize>(m: [L; IN]) -> [L; OUT] {
    // SAFETY: the contract of `Lanes`.
    unsafe {
        let mut out = [L::zero(); OUT];
        if IN == 4 {
            out[0] = m[0].add(m[1]).add(m[2]);
            out[1] = m[1].sub(m[2]).sub(m[3]);
        } else {
            let (sum, difference) = (m[1].add(m[2]), m[1].sub(m[2]));
            let (outer_sum, outer_difference) = (m[3].add(m[4]), m[3].sub(m[4]));
            out[0] = m[0].add(sum).add(outer_sum);
            out[1] = plus(difference, outer_difference, 2.0);
            out[2] = plus(sum, outer_sum, 4.0);
            out[3] = plus(difference, outer_difference, 8.0).add(m[5]);
        }
        out
    }
}

/// Transforms all channels of a tile; `PAIRS` stores brain floating-point numbers.
///
/// # Safety
/// All pixels are readable at their steps, and the points writable, for all channels.
#[inline(always)]
unsafe fn input<L: Lanes, const PAIRS: bool, const NARROW: bool, const IN: usize>(t: &InputTile) {
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
                let column: [L; IN] = input_line(std::array::from_fn(|i| lines[i][j]));
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
/// All points of the tiles' rows are readable, rows for all pixels of each tile writable.
#[inline(always)]
unsafe fn output<L: Lanes, const IN: usize, const OUT: usize>(t: &OutputTiles) {
    for tile in 0..t.tiles {
        for column in (0..t.width).step_by(L::WIDTH) {
            // SAFETY: the caller's promise.
            unsafe {
                let from = t.from.add(tile * t.width + column);
                let mut lines = [[L::zero(); OUT]; IN];
                for i in 0..IN {
                    lines[i] = output_line::<L, IN, OUT>(std::array::from_fn(|j| {
                        L::load(from.add((i * IN + j) * t.point))
                    }));
                }
                for j in 0..OUT {
                    let pixels = output_line::<L, IN, OUT>(std::array::from_fn(|i| lines[i][j]));
                    for (i, x) in pixels.into_iter().enumerate() {
                        x.store(t.to.add((tile * OUT * OUT + i * OUT + j) * t.width + column));
                    }
                }
            }
        }
    }
}

macro_rules! compiled {
    ($(#[$features:meta])? $lanes:ty) => {
        $(#[$features])?
        pub(in super::super::super) unsafe fn input<const IN: usize>(t: &InputTile) {
            // SAFETY: the contract of `input`.
            unsafe {
                match t.narrow {
                    true => super::input::<$lanes, false, true, IN>(t),
                    false => super::input::<$lanes, false, false, IN>(t),
                }
            }
        }

        $(#[$features])?
        pub(in super::super::super) unsafe fn output<const IN: usize, const OUT: usize>(t: &OutputTiles) {
            // SAFETY: the contract of `output`.
            unsafe { super::output::<$lanes, IN, OUT>(t) }
        }

        pub(in super::super::super) const TRANSFORMS: Transforms =
            Transforms { small: (input::<4>, output::<4, 2>), large: (input::<6>, output::<6, 4>) };
    };
}

pub(in super::super) mod portable {
    use super::{InputTile, OutputTiles, Plain, Transforms};

    compiled!(Plain);
}

#[cfg(target_arch = "x86_64")]
pub(in super::super) mod avx2 {
    use std::arch::x86_64::__m256;

    use super::{InputTile, OutputTiles, Transforms};

    compiled!(
        #[target_feature(enable = "avx2,fma,f16c")]
        __m256
    );
}

#[cfg(target_arch = "x86_64")]
pub(in super::super) mod avx512 {
    use std::arch::x86_64::__m512;

    use super::{InputTile, OutputTiles, Transforms};

    compiled!(
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
        __m512
    );

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    unsafe fn input_bf16<const IN: usize>(t: &InputTile) {
        // SAFETY: the contract of `input`.
        unsafe { super::input::<__m512, true, true, IN>(t) }
    }

    /// For products of brain floating-point numbers.
    pub(in super::super::super) const TRANSFORMS_BF16: Transforms =
        Transforms { small: (input_bf16::<4>, output::<4, 2>), large: (input_bf16::<6>, output::<6, 4>) };
}
