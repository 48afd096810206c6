//! Operands of attention, cut into tiles. Rows are given as units of 32 (two tiles), in pairs of numbers.
//!
//! Safety contract of everything here: called from a function compiled for AVX-512 with BW, on a processor that has it.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::pack::Head;
use super::{CELLS, PAIR};
use crate::kernels::amx::SIDE;
use crate::kernels::transpose::transpose;
use crate::{Data, Isa};

/// `[32 tokens][16 pairs]` of a unit of channels, with zeros where there is nothing.
#[inline(always)]
unsafe fn square(head: &Head<'_>, tokens: Range<usize>, unit: usize, to: &mut [u32]) {
    let Data::Bf16(x) = head.data else { unreachable!("chosen for brain floating-point numbers") };
    let count = PAIR.min(head.width.saturating_sub(unit * PAIR));
    let mask = u32::MAX.checked_shr((PAIR - count) as u32).unwrap_or(0);
    for (index, to) in to.chunks_exact_mut(SIDE).take(PAIR).enumerate() {
        let token = tokens.start + index;
        // SAFETY: only channels of a row that is there are read; `to` is a vector.
        unsafe {
            let mut cells = _mm512_setzero_si512();
            if token < tokens.end {
                if unit == 0 {
                    head.fetch_ahead(token);
                }
                let at = head.at(token, unit * PAIR);
                assert!(count == 0 || at + count <= x.len());
                let from = x.as_ptr().wrapping_add(at);
                cells = _mm512_maskz_loadu_epi16(mask, from.cast());
            }
            _mm512_storeu_si512(to.as_mut_ptr().cast(), cells);
        }
    }
}

/// `[units of channels][16 pairs][32 queries]`, with zeros where there is nothing.
#[inline(always)]
pub(super) unsafe fn lanes(
    isa: Isa,
    head: &Head<'_>,
    tokens: Range<usize>,
    channels: usize,
    rows: &mut [u32],
    to: &mut [u32],
) {
    for (unit, to) in to.chunks_exact_mut(CELLS).take(channels).enumerate() {
        // SAFETY: the contract of this module.
        unsafe { square(head, tokens.clone(), unit, &mut rows[..CELLS]) };
        transpose(isa, &rows[..CELLS], SIDE, [PAIR, SIDE], to, PAIR);
    }
}

/// `[units of keys][units of channels][32 keys][16 pairs]`, with zeros where there is nothing.
#[inline(always)]
pub(super) unsafe fn rows(head: &Head<'_>, keys: Range<usize>, channels: usize, to: &mut [u32]) {
    let units = keys.len().div_ceil(PAIR);
    for (index, to) in to.chunks_exact_mut(CELLS).take(units * channels).enumerate() {
        let first = keys.start + index / channels * PAIR;
        // SAFETY: the contract of this module.
        unsafe { square(head, first..keys.end.min(first + PAIR), index % channels, to) };
    }
}

/// What [`turned`] makes.
#[derive(Clone, Copy)]
pub(super) struct Turned {
    /// Channels of a plane: one or two tiles.
    pub together: usize,
    pub planes: usize,
    /// Units of keys that there is room for.
    pub units: usize,
    /// Whether a channel of ones follows the others.
    pub with_ones: bool,
}

/// Where numbers of 16 bits come from in two vectors of cells: the lower halves, and the upper ones.
const HALVES: [[u16; 32]; 2] = {
    let mut halves = [[0; 32]; 2];
    let mut i = 0;
    while i < 32 {
        halves[0][i] = 2 * i as u16;
        halves[1][i] = 2 * i as u16 + 1;
        i += 1;
    }
    halves
};
const ONE: i16 = 0x3f80;

/// `[planes of channels][units of keys][channels][16 pairs of keys]`; zeros where there is nothing.
#[inline(always)]
pub(super) unsafe fn turned(
    isa: Isa,
    head: &Head<'_>,
    keys: Range<usize>,
    sizes: Turned,
    rows: &mut [u32],
    to: &mut [u32],
) {
    let together = sizes.together;
    let (from, turned) = rows[..2 * CELLS].split_at_mut(CELLS);
    for unit in 0..keys.len().div_ceil(PAIR) {
        let first = keys.start + unit * PAIR;
        let tokens = first..keys.end.min(first + PAIR);
        let at = |channel: usize| {
            ((channel / together * sizes.units + unit) * together + channel % together) * SIDE
        };
        for channel in (0..sizes.planes * together).step_by(PAIR) {
            // SAFETY: the contract of this module.
            unsafe { square(head, tokens.clone(), channel / PAIR, from) };
            transpose(isa, from, SIDE, [PAIR, SIDE], turned, PAIR);
            // Two channels of each key.
            for (i, two) in turned.chunks_exact(PAIR).enumerate() {
                for (half, order) in HALVES.iter().enumerate() {
                    let channel = channel + 2 * i + half;
                    if channel < sizes.planes * together {
                        let to = &mut to[at(channel)..][..SIDE];
                        // SAFETY: the contract of this module; vectors of memory that is there.
                        unsafe {
                            let [a, b] = [0, SIDE].map(|i| _mm512_loadu_si512(two[i..].as_ptr().cast()));
                            let order = _mm512_loadu_si512(order.as_ptr().cast());
                            let keys = _mm512_permutex2var_epi16(a, order, b);
                            _mm512_storeu_si512(to.as_mut_ptr().cast(), keys);
                        }
                    }
                }
            }
        }
        if sizes.with_ones {
            let ones = &mut to[at(head.width)..][..SIDE];
            let mask = u32::MAX >> (PAIR - tokens.len());
            // SAFETY: as above.
            unsafe { _mm512_storeu_si512(ones.as_mut_ptr().cast(), _mm512_maskz_set1_epi16(mask, ONE)) };
        }
    }
}
