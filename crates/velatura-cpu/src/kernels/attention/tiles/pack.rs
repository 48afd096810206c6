//! Operands of attention, cut into tiles. Rows are given as units of 32 (two tiles), in pairs of numbers.

use std::ops::Range;

use super::super::pack::{self, Head};
use super::{CELLS, PAIR, Pairs};
use crate::kernels::amx::SIDE;

/// `[units of channels][16 pairs][32 queries]`, with zeros where there is nothing.
pub(super) fn lanes(head: &Head<'_>, first: usize, count: usize, rows: &mut [u32], to: &mut [u32]) {
    let pairs = head.width.div_ceil(2);
    to.fill(0);
    pack::transposed::<Pairs>(*head, first, count, PAIR, rows, &mut to[..pairs * PAIR]);
}

/// `[units of keys][units of channels][32 keys][16 pairs]`, with zeros where there is nothing.
pub(super) fn rows(head: &Head<'_>, keys: Range<usize>, channels: usize, to: &mut [u32]) {
    let pairs = head.width.div_ceil(2);
    let unit = channels * CELLS;
    for (index, to) in to.chunks_exact_mut(unit).take(keys.len().div_ceil(PAIR)).enumerate() {
        let first = keys.start + index * PAIR;
        let count = PAIR.min(keys.end - first);
        if count < PAIR || pairs < channels * SIDE {
            to.fill(0);
        }
        for key in 0..count {
            let mut row = [0u32; SIDE];
            for channel in (0..pairs).step_by(SIDE) {
                let n = SIDE.min(pairs - channel);
                head.pairs(first + key, channel, &mut row[..n]);
                to[channel / SIDE * CELLS + key * SIDE..][..n].copy_from_slice(&row[..n]);
            }
        }
    }
}

/// What [`turned`] makes.
#[derive(Clone, Copy)]
pub(super) struct Turned {
    /// Pairs of tiles of channels.
    pub pairs: usize,
    /// Units of keys that there is room for.
    pub units: usize,
    /// Whether a channel of ones follows the others.
    pub with_ones: bool,
}

/// `[pairs of tiles of channels][units of keys][32 channels][16 pairs of keys]`; zeros where there is nothing.
pub(super) fn turned(head: &Head<'_>, keys: Range<usize>, sizes: Turned, rows: &mut [u32], to: &mut [u32]) {
    let pairs = head.width.div_ceil(2);
    for unit in 0..keys.len().div_ceil(PAIR) {
        let first = keys.start + unit * PAIR;
        let count = PAIR.min(keys.end - first);
        let at = |channel: usize| (channel / PAIR * sizes.units + unit) * CELLS + channel % PAIR * SIDE;
        for pair in 0..sizes.pairs {
            to[at(pair * PAIR)..][..CELLS].fill(0);
        }
        for channel in (0..pairs).step_by(SIDE) {
            // Two channels of each key, turned: of each two channels a row of keys.
            let n = SIDE.min(pairs - channel);
            let (from, turned) = rows[..2 * CELLS].split_at_mut(CELLS);
            for key in 0..PAIR {
                let row = &mut from[key * n..][..n];
                match key < count {
                    true => head.pairs(first + key, channel, row),
                    false => row.fill(0),
                }
            }
            pack::transpose(&from[..PAIR * n], PAIR, n, &mut turned[..PAIR * n]);
            for (i, two) in turned[..PAIR * n].chunks_exact(PAIR).enumerate() {
                let low = &mut to[at(2 * (channel + i))..][..SIDE];
                for (to, keys) in low.iter_mut().zip(two.chunks_exact(2)) {
                    *to = keys[0] & 0xffff | keys[1] << 16;
                }
                if 2 * (channel + i) + 1 < head.width {
                    let high = &mut to[at(2 * (channel + i) + 1)..][..SIDE];
                    for (to, keys) in high.iter_mut().zip(two.chunks_exact(2)) {
                        *to = keys[0] >> 16 | keys[1] & 0xffff_0000;
                    }
                }
            }
        }
        if !sizes.with_ones {
            continue;
        }
        const ONE: u32 = 0x3f80;
        let ones = &mut to[at(head.width)..][..SIDE];
        for (i, to) in ones.iter_mut().enumerate() {
            *to = if 2 * i + 1 < count {
                ONE | ONE << 16
            } else if 2 * i < count {
                ONE
            } else {
                0
            };
        }
    }
}
