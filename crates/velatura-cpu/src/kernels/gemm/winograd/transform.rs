//! The transforms of tiles: `B' d B` of the input, `A' m A` of the products, `G e G'` of a gradient that is slid over the input. Lines of two by the matrices of Lavin and Gray
//! 2016, section 4; lines of four by those of the Toom-Cook construction at the points that the module names.

use std::f32::consts::{FRAC_1_SQRT_2, SQRT_2};

use super::super::lanes::{Lanes, Plain};
use super::Tiling;
use super::tiles::Pixels;

/// A tile of the input.
pub(in super::super) struct InputTile {
    pub pixels: Pixels,
    /// The first point's channels.
    pub to: *mut u8,
    /// Bytes from point to point.
    pub point: usize,
    /// Bytes from [`SOME`] channels to the next.
    pub some: usize,
}

/// Channels that lie together: the steps of a row of an AMX tile.
pub(super) const SOME: usize = 32;

/// Some tiles that become steps of panels over channels: each a step of single numbers, or two of them one of pairs.
pub(in super::super) struct PanelTiles<'a> {
    /// By step; the second tile is for pairs.
    pub steps: &'a [[Pixels; 2]],
    /// Columns of a full panel.
    pub panel: usize,
    /// The panels of the first point.
    pub to: *mut u32,
    /// Cells from point to point.
    pub point: usize,
}

/// Sums over tiles, of one row.
pub(in super::super) struct TapSums {
    /// The first point's.
    pub from: *const f32,
    /// Elements from point to point.
    pub point: usize,
    /// Whole vectors.
    pub width: usize,
    /// Nine rows of `width`.
    pub to: *mut f32,
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
    pub wide: Both,
    pub large: Both,
    /// For the gradient of a weight: of the input, of the output's gradient, and of the sums of their products.
    pub input_panels: unsafe fn(&PanelTiles<'_>),
    pub gradient_panels: unsafe fn(&PanelTiles<'_>),
    pub taps: unsafe fn(&TapSums),
}

impl Transforms {
    pub(super) fn of(&self, tiling: Tiling) -> &Both {
        match tiling {
            Tiling::Small => &self.small,
            Tiling::Wide => &self.wide,
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
            let (near_even, near_odd) = (plus(d[4], d[2], -2.0), plus(d[3], d[1], -2.0));
            let (far_even, far_odd) = (plus(d[4], d[2], -0.5), plus(d[3], d[1], -0.5));
            out[0] = plus(d[0].add(d[4]), d[2], -2.5);
            out[1] = plus(near_even, near_odd, FRAC_1_SQRT_2);
            out[2] = plus(near_even, near_odd, -FRAC_1_SQRT_2);
            out[3] = plus(far_even, far_odd, SQRT_2);
            out[4] = plus(far_even, far_odd, -SQRT_2);
            out[5] = plus(d[1].add(d[5]), d[3], -2.5);
        }
    }
    out
}

/// `G e`: two pixels of a gradient at four points, the middle two of twice their size. Along one axis.
#[inline(always)]
unsafe fn gradient_line<L: Lanes>(e: [L; 2]) -> [L; 4] {
    // SAFETY: the contract of `Lanes`.
    unsafe { [e[0], e[0].add(e[1]), e[0].sub(e[1]), e[1]] }
}

/// `A' m` for three taps, where the middle two points are of twice their size. Along one axis.
#[inline(always)]
unsafe fn tap_line<L: Lanes>(m: [L; 4]) -> [L; 3] {
    // SAFETY: the contract of `Lanes`.
    unsafe {
        let (sum, difference) = (m[1].add(m[2]), m[1].sub(m[2]));
        let half = plus(L::zero(), sum, 0.5);
        [m[0].add(half), plus(L::zero(), difference, 0.5), half.sub(m[3])]
    }
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
            let (near_sum, near_difference) = (m[1].add(m[2]), m[1].sub(m[2]));
            let (far_sum, far_difference) = (m[3].add(m[4]), m[3].sub(m[4]));
            out[0] = m[0].add(near_sum).add(far_sum);
            out[1] = plus(plus(L::zero(), near_difference, FRAC_1_SQRT_2), far_difference, SQRT_2);
            out[2] = plus(plus(L::zero(), near_sum, 0.5), far_sum, 2.0);
            out[3] = plus(plus(m[5], near_difference, 0.5 * FRAC_1_SQRT_2), far_difference, 2.0 * SQRT_2);
        }
        out
    }
}

// Loops over places, and no iterators or closures: a closure is not compiled for the instruction set of what it is in, and
// each of its operations becomes a call.

/// Some channels of a tile's pixels.
///
/// # Safety
/// The pixels inside of the image are readable.
#[inline(always)]
unsafe fn read<L: Lanes, const NARROW: bool, const DOWN: usize, const ACROSS: usize>(
    pixels: &Pixels,
    channel: usize,
) -> [[L; ACROSS]; DOWN] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut d = [[L::zero(); ACROSS]; DOWN];
        let inside = pixels.are_inside(DOWN, ACROSS);
        for i in 0..DOWN {
            for j in 0..ACROSS {
                let from = match inside {
                    true => pixels.at(i, j, channel),
                    false => pixels.at_or_zero(i, j, channel),
                };
                d[i][j] = if NARROW { L::load_bf16(from.cast()) } else { L::load(from.cast()) };
            }
        }
        d
    }
}

/// `B' d B` of some channels.
///
/// # Safety
/// That of [`read`].
#[inline(always)]
unsafe fn input_points<L: Lanes, const NARROW: bool, const DOWN: usize, const ACROSS: usize>(
    pixels: &Pixels,
    channel: usize,
) -> [[L; ACROSS]; DOWN] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut d = read::<L, NARROW, DOWN, ACROSS>(pixels, channel);
        for i in 0..DOWN {
            d[i] = input_line(d[i]);
        }
        for j in 0..ACROSS {
            let mut column = [L::zero(); DOWN];
            for i in 0..DOWN {
                column[i] = d[i][j];
            }
            let column = input_line(column);
            for i in 0..DOWN {
                d[i][j] = column[i];
            }
        }
        d
    }
}

/// `G e G'` of some channels.
///
/// # Safety
/// That of [`read`].
#[inline(always)]
unsafe fn gradient_points<L: Lanes, const NARROW: bool>(pixels: &Pixels, channel: usize) -> [[L; 4]; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let e = read::<L, NARROW, 2, 2>(pixels, channel);
        let lines = [gradient_line(e[0]), gradient_line(e[1])];
        let mut points = [[L::zero(); 4]; 4];
        for j in 0..4 {
            let column = gradient_line([lines[0][j], lines[1][j]]);
            for i in 0..4 {
                points[i][j] = column[i];
            }
        }
        points
    }
}

/// Transforms all channels of a tile; `PAIRS` stores brain floating-point numbers.
///
/// # Safety
/// The pixels inside of the image are readable, and the points writable, for all channels.
#[inline(always)]
unsafe fn input<L: Lanes, const PAIRS: bool, const NARROW: bool, const DOWN: usize, const ACROSS: usize>(
    t: &InputTile,
) {
    for channel in (0..t.pixels.channels).step_by(L::WIDTH) {
        // SAFETY: the caller's promise.
        unsafe {
            let points = input_points::<L, NARROW, DOWN, ACROSS>(&t.pixels, channel);
            let size = if PAIRS { 2 } else { 4 };
            let to = t.to.wrapping_add(channel / SOME * t.some + channel % SOME * size);
            for i in 0..DOWN {
                for j in 0..ACROSS {
                    let to = to.wrapping_add((i * ACROSS + j) * t.point);
                    if PAIRS {
                        points[i][j].store_bf16(to.cast());
                    } else {
                        points[i][j].store(to.cast());
                    }
                }
            }
        }
    }
}

/// Transforms all channels of tiles into panels: of the input, or (`GRADIENT`) of the output's gradient; `PAIRS` makes pairs.
///
/// # Safety
/// The pixels inside of the images are readable, and the panels writable, for all channels.
#[inline(always)]
unsafe fn panels<L: Lanes, const PAIRS: bool, const NARROW: bool, const GRADIENT: bool>(t: &PanelTiles<'_>) {
    let channels = t.steps[0][0].channels;
    for before in (0..channels).step_by(t.panel) {
        let width = t.panel.min(channels - before);
        let mut to = t.to.wrapping_add(before * t.steps.len());
        for tiles in t.steps {
            for at in (0..width).step_by(L::WIDTH) {
                // SAFETY: the caller's promise.
                unsafe {
                    let mut points = [[[L::zero(); 4]; 4]; 2];
                    for tile in 0..if PAIRS { 2 } else { 1 } {
                        points[tile] = match GRADIENT {
                            true => gradient_points::<L, NARROW>(&tiles[tile], before + at),
                            false => input_points::<L, NARROW, 4, 4>(&tiles[tile], before + at),
                        };
                    }
                    for i in 0..4 {
                        for j in 0..4 {
                            let to = to.wrapping_add((i * 4 + j) * t.point + at);
                            if PAIRS {
                                points[0][i][j].pairs(points[1][i][j]).store(to.cast());
                            } else {
                                points[0][i][j].store(to.cast());
                            }
                        }
                    }
                }
            }
            to = to.wrapping_add(width);
        }
    }
}

/// From points to taps.
///
/// # Safety
/// All points are readable, and the taps writable, for all columns.
#[inline(always)]
unsafe fn taps<L: Lanes>(t: &TapSums) {
    for column in (0..t.width).step_by(L::WIDTH) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut lines = [[L::zero(); 3]; 4];
            for i in 0..4 {
                let mut points = [L::zero(); 4];
                for j in 0..4 {
                    points[j] = L::load(t.from.add((i * 4 + j) * t.point + column));
                }
                lines[i] = tap_line(points);
            }
            for j in 0..3 {
                let taps = tap_line([lines[0][j], lines[1][j], lines[2][j], lines[3][j]]);
                for i in 0..3 {
                    taps[i].store(t.to.add((i * 3 + j) * t.width + column));
                }
            }
        }
    }
}

/// `IN` points and `OUT` pixels, each down (`D`) and across (`A`).
///
/// # Safety
/// All points of the tiles' rows are readable, rows for all pixels of each tile writable.
#[inline(always)]
unsafe fn output<L: Lanes, const IN_D: usize, const IN_A: usize, const OUT_D: usize, const OUT_A: usize>(
    t: &OutputTiles,
) {
    for tile in 0..t.tiles {
        for column in (0..t.width).step_by(L::WIDTH) {
            // SAFETY: the caller's promise.
            unsafe {
                let from = t.from.add(tile * t.width + column);
                let mut lines = [[L::zero(); OUT_A]; IN_D];
                for i in 0..IN_D {
                    let mut points = [L::zero(); IN_A];
                    for j in 0..IN_A {
                        points[j] = L::load(from.add((i * IN_A + j) * t.point));
                    }
                    lines[i] = output_line::<L, IN_A, OUT_A>(points);
                }
                for j in 0..OUT_A {
                    let mut points = [L::zero(); IN_D];
                    for i in 0..IN_D {
                        points[i] = lines[i][j];
                    }
                    let pixels = output_line::<L, IN_D, OUT_D>(points);
                    for i in 0..OUT_D {
                        pixels[i].store(t.to.add(((tile * OUT_D + i) * OUT_A + j) * t.width + column));
                    }
                }
            }
        }
    }
}

macro_rules! compiled {
    ($(#[$features:meta])? $lanes:ty) => {
        $(#[$features])?
        pub(in super::super::super) unsafe fn input<const D: usize, const A: usize>(t: &InputTile) {
            // SAFETY: the contract of `input`.
            unsafe {
                match t.pixels.narrow {
                    true => super::input::<$lanes, false, true, D, A>(t),
                    false => super::input::<$lanes, false, false, D, A>(t),
                }
            }
        }

        $(#[$features])?
        pub(in super::super::super) unsafe fn output<
            const IN_D: usize,
            const IN_A: usize,
            const OUT_D: usize,
            const OUT_A: usize,
        >(
            t: &OutputTiles,
        ) {
            // SAFETY: the contract of `output`.
            unsafe { super::output::<$lanes, IN_D, IN_A, OUT_D, OUT_A>(t) }
        }

        $(#[$features])?
        unsafe fn panels<const GRADIENT: bool>(t: &PanelTiles<'_>) {
            // SAFETY: the contract of `panels`.
            unsafe {
                match t.steps[0][0].narrow {
                    true => super::panels::<$lanes, false, true, GRADIENT>(t),
                    false => super::panels::<$lanes, false, false, GRADIENT>(t),
                }
            }
        }

        $(#[$features])?
        unsafe fn taps(t: &TapSums) {
            // SAFETY: the contract of `taps`.
            unsafe { super::taps::<$lanes>(t) }
        }

        pub(in super::super::super) const TRANSFORMS: Transforms = Transforms {
            small: (input::<4, 4>, output::<4, 4, 2, 2>),
            wide: (input::<4, 6>, output::<4, 6, 2, 4>),
            large: (input::<6, 6>, output::<6, 6, 4, 4>),
            input_panels: panels::<false>,
            gradient_panels: panels::<true>,
            taps,
        };
    };
}

pub(in super::super) mod portable {
    use super::{InputTile, OutputTiles, PanelTiles, Plain, TapSums, Transforms};

    compiled!(Plain);
}

#[cfg(target_arch = "x86_64")]
pub(in super::super) mod avx2 {
    use std::arch::x86_64::__m256;

    use super::{InputTile, OutputTiles, PanelTiles, TapSums, Transforms};

    compiled!(
        #[target_feature(enable = "avx2,fma,f16c")]
        __m256
    );
}

#[cfg(target_arch = "x86_64")]
pub(in super::super) mod avx512 {
    use std::arch::x86_64::__m512;

    use super::{InputTile, OutputTiles, PanelTiles, TapSums, Transforms};

    compiled!(
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
        __m512
    );

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    unsafe fn input_bf16<const D: usize, const A: usize>(t: &InputTile) {
        // SAFETY: the contract of `input`.
        unsafe { super::input::<__m512, true, true, D, A>(t) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    unsafe fn panels_bf16<const GRADIENT: bool>(t: &PanelTiles<'_>) {
        // SAFETY: the contract of `panels`.
        unsafe { super::panels::<__m512, true, true, GRADIENT>(t) }
    }

    /// For products of brain floating-point numbers.
    pub(in super::super::super) const TRANSFORMS_BF16: Transforms = Transforms {
        small: (input_bf16::<4, 4>, output::<4, 4, 2, 2>),
        wide: (input_bf16::<4, 6>, output::<4, 6, 2, 4>),
        large: (input_bf16::<6, 6>, output::<6, 6, 4, 4>),
        input_panels: panels_bf16::<false>,
        gradient_panels: panels_bf16::<true>,
        taps,
    };
}
