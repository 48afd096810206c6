//! Single precision on AMX tiles, which multiply brain floating-point numbers: a number is the sum of three of those.
//!
//! ```text
//! x = high + middle + low                 8 of its 24 bits each, exactly
//! x y ~ high high + high middle + middle high + middle middle + high low + low high
//! ```
//!
//! Of the nine products of thirds the three that are left out are less than `2^-21` of the whole; a middle third is less than `2^-7`
//! of a number, a low one than `2^-15` (Henry, Tang and Heinecke 2019, "Leveraging the bfloat16 artificial intelligence datatype
//! for higher-precision computations"). Numbers below `2^-103` lose their low third, for tiles take what is below `2^-126` as
//! zero; an infinity becomes no number.
//!
//! A tile of a panel has 16 steps of 16 columns, and is one third of 32 numbers of a column: the pair of a step is that of two
//! numbers that lie 16 apart. The three tiles of the same numbers follow one another, and the last ones are filled with zeros.

use super::gather::gather;
use super::pack::{Block, Cells, Layout, Number, Source, pack_singles};
use super::tile::STEP;
use crate::kernels::Streaming;
use crate::kernels::elementwise::dispatch::{simd, with_scratch};
use crate::{Isa, ThreadPool};

/// Thirds of a number.
pub(super) const PARTS: usize = 3;
/// Products of thirds that are made of two numbers.
pub const PRODUCTS: usize = 6;
/// Numbers of a row that meet a tile.
pub(super) const DEPTH: usize = 32;
/// Steps of their panel.
pub(super) const STEPS: usize = PARTS * DEPTH / 2;
/// The bits that the high third of a number takes from it.
pub(super) const HIGH: u32 = 0xffff_0000;

/// Numbers of one task of packing, of all taps together, and of one tap: runs worth asking for.
const CHUNK: usize = 288;
/// Panels that are packed together, so that each line of the caches is read once.
const GROUP: usize = 4;

/// Packs all items one after another into `to`, as [`pack`](super::pack::pack) does.
///
/// # Safety
/// As for that; panels are as wide as a tile.
pub(super) unsafe fn pack<T: Number>(
    pool: &ThreadPool,
    isa: Isa,
    source: &Source<'_, T>,
    layout: &Layout,
    to: *mut u32,
) {
    let (taps, width) = (source.taps.len(), layout.panel);
    let steps = source.depth.div_ceil(DEPTH) * STEPS;
    debug_assert_eq!(steps * taps, layout.steps);
    let chunk = (CHUNK / taps).max(1).next_multiple_of(DEPTH);
    let (chunks, groups) = (source.depth.div_ceil(chunk), layout.panels().div_ceil(GROUP));
    let (to, bytes) = (Cells(to), source.items * layout.cells() * STEP);
    pool.run(source.items * groups * chunks, |index, _| {
        let (first, index) = (index % chunks * chunk, index / chunks);
        let (group, item) = (index % groups * GROUP, index / groups);
        let streaming = Streaming::new(isa, bytes);
        let depth = chunk.min(source.depth - first);
        with_scratch((taps * depth + STEPS) * width, |scratch: &mut [u32]| {
            let (singles, tiles) = scratch.split_at_mut(taps * depth * width);
            for p in group..layout.panels().min(group + GROUP) {
                let base = item * source.item_stride
                    + first * source.depth_stride
                    + p * layout.panel * source.column_stride;
                let block = Block {
                    depth,
                    depth_stride: source.depth_stride,
                    columns: layout.valid(p),
                    column_stride: source.column_stride,
                    width,
                };
                // SAFETY: inside the room that the caller promises, and in no other task's part.
                unsafe {
                    singles_of(isa, &source.data[base..], block, source.taps, Cells(singles.as_mut_ptr()))
                };
                for (segment, singles) in singles.chunks_exact(depth * width).enumerate() {
                    let start = item * layout.cells() + layout.start(p);
                    let start = start + (segment * steps + first / DEPTH * STEPS) * width;
                    for (number, some) in singles.chunks(DEPTH * width).enumerate() {
                        split(isa, some, width, tiles);
                        // SAFETY: as above.
                        let to = unsafe {
                            let to = to.at(start + number * STEPS * width);
                            std::slice::from_raw_parts_mut(to, STEPS * width)
                        };
                        streaming.copy(tiles, to);
                    }
                }
            }
        });
    });
}

/// The numbers of a block, for each tap `depth` rows of its width one after the other.
///
/// # Safety
/// `to` has room for those of all taps, which nothing else uses meanwhile.
unsafe fn singles_of<T: Number>(isa: Isa, data: &[T], block: Block, taps: &[usize], to: Cells) {
    let cells = |segment: usize| {
        let len = block.depth * block.width;
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(to.at(segment * len), len) }
    };
    // Tasks that are this small find them in their caches.
    let streaming = Streaming::new(isa, 0);
    if block.column_stride != 1 {
        return gather(isa, false, data, block, taps, &streaming, cells);
    }
    for (segment, tap) in taps.iter().enumerate() {
        pack_singles(isa, &data[*tap..], block, cells(segment));
    }
}

simd! {
    /// The tiles of up to [`DEPTH`] rows of numbers; those that are missing are zeros.
    fn split(singles: &[u32], width: usize, tiles: &mut [u32]) {
        let half = DEPTH / 2 * width;
        let (lower, upper) = singles.split_at(half.min(singles.len()));
        let (high, rest) = tiles.split_at_mut(half);
        let (middle, low) = rest.split_at_mut(half);
        let tiles = high.iter_mut().zip(middle).zip(low).enumerate();
        for (i, ((high, middle), low)) in tiles {
            let [x, y] = [lower, upper].map(|row| row.get(i).copied().unwrap_or(0));
            let ([x, x_middle, x_low], [y, y_middle, y_low]) = (thirds(x), thirds(y));
            *high = x >> 16 | y;
            *middle = x_middle >> 16 | y_middle;
            *low = x_low >> 16 | y_low;
        }
    }
}

/// The thirds of a number, each as the bits of a number in single precision.
#[inline(always)]
fn thirds(x: u32) -> [u32; PARTS] {
    let high = x & HIGH;
    let rest = f32::from_bits(x) - f32::from_bits(high);
    let middle = rest.to_bits() & HIGH;
    let low = rest - f32::from_bits(middle);
    [high, middle, low.to_bits() & HIGH]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirds_are_all_of_a_number() {
        let mut bits = 1u32;
        for _ in 0..100_000 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let x = f32::from_bits(bits);
            // Of smaller ones the low third is no normal number.
            if !x.is_finite() || x.abs() < f32::MIN_POSITIVE * 8_388_608.0 {
                continue;
            }
            let [high, middle, low] = thirds(bits).map(f32::from_bits);
            assert_eq!(f64::from(high) + f64::from(middle) + f64::from(low), f64::from(x), "{x}");
            assert!(middle.abs() < x.abs() / 128.0 && low.abs() < x.abs() / 32768.0, "{x}");
        }
        for x in [f32::INFINITY, f32::NAN, f32::from_bits(0x7f80_0001)] {
            assert!(thirds(x.to_bits()).map(f32::from_bits).iter().sum::<f32>().is_nan(), "{x}");
        }
    }

    #[test]
    fn tiles_are_thirds_of_numbers_that_lie_sixteen_apart() {
        let width = 3;
        for isa in Isa::supported() {
            for rows in [1, 16, 19, DEPTH] {
                let numbers: Vec<f32> = (0..rows * width).map(|i| (i as f32 + 1.0).recip()).collect();
                let mut tiles = vec![1; STEPS * width];
                split(isa, bytemuck::cast_slice(&numbers), width, &mut tiles);
                for i in 0..DEPTH * width {
                    let (step, odd) = (i % (DEPTH / 2 * width), i >= DEPTH / 2 * width);
                    let part = |part: usize| {
                        let pair = tiles[part * DEPTH / 2 * width + step];
                        f64::from(f32::from_bits(if odd { pair & HIGH } else { pair << 16 }))
                    };
                    let expected = numbers.get(i).copied().unwrap_or(0.0);
                    assert_eq!(part(0) + part(1) + part(2), f64::from(expected), "{isa:?}, {rows}, {i}");
                }
            }
        }
    }
}
