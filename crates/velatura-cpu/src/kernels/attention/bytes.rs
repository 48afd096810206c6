//! Scores from products of bytes (Zhang et al. 2024, "SageAttention: accurate 8-bit attention for plug-and-play inference
//! acceleration", [arXiv 2410.02367](https://arxiv.org/abs/2410.02367)): each query has a scale of its own, each block of keys
//! one. Keys are taken less their mean over all tokens, which adds the same to all scores of a query and so changes no
//! weight, but leaves more of a byte to what tells them apart.
//!
//! A unit is four bytes along the channels. Those of keys are without sign, 128 more than the number they stand for; sums start
//! from what makes up for it.

use super::pack::{Head, wide};
use crate::Data;

/// Channels in a unit.
const CHANNELS: usize = 4;
/// The greatest number of a byte with a sign that is used.
const GREATEST: f32 = 127.0;
/// Added to a small number it leaves the nearest whole one in the low bits.
const ROUND: f32 = 12_582_912.0;
/// Numbers that are worked on at a time; rows are filled up with zeros to a multiple.
const LANES: usize = 16;

/// Units of a token.
pub(super) fn units(width: usize) -> usize {
    width.div_ceil(CHANNELS)
}

/// Numbers of a row that is worked on.
pub(super) fn row(width: usize) -> usize {
    width.next_multiple_of(LANES)
}

// Loops without closures, which would not be compiled for the instruction set of what they are in.

/// A token's channels in single precision, then zeros.
#[inline(always)]
fn read(head: &Head<'_>, token: usize, to: &mut [f32]) {
    let start = head.at(token, 0);
    let (to, rest) = to.split_at_mut(head.width);
    rest.fill(0.0);
    match head.data {
        Data::F32(x) => to.copy_from_slice(&x[start..start + head.width]),
        Data::Bf16(x) => {
            for (to, &x) in to.iter_mut().zip(&x[start..start + head.width]) {
                *to = wide(x);
            }
        }
        Data::I32(_) => unreachable!("checked on entry"),
    }
}

/// The greatest magnitude of rows; not a number where one of theirs is none, or infinite.
#[inline(always)]
fn magnitude(x: &[f32]) -> f32 {
    let (mut most, mut wrong) = ([0.0f32; LANES], [0.0f32; LANES]);
    for x in x.chunks_exact(LANES) {
        for ((most, wrong), x) in most.iter_mut().zip(&mut wrong).zip(x) {
            *wrong += *x * 0.0;
            let x = x.abs();
            *most = if x > *most { x } else { *most };
        }
    }
    let (mut all, mut any) = (0.0f32, 0.0f32);
    for (most, wrong) in most.iter().zip(&wrong) {
        all = all.max(*most);
        any += wrong;
    }
    all + any
}

/// The byte of a number, as one with a sign.
#[inline(always)]
fn byte(x: f32, per_unit: f32) -> u8 {
    (x * per_unit + ROUND).to_bits() as u8
}

/// What numbers are multiplied by, and what a unit of the result is worth; what is all zero stays so.
#[inline(always)]
fn scales(magnitude: f32) -> [f32; 2] {
    [if magnitude > 0.0 { GREATEST / magnitude } else { 0.0 }, magnitude / GREATEST]
}

/// The mean of each channel over all tokens.
#[inline(always)]
pub(super) fn mean(head: &Head<'_>, tokens: usize, buffer: &mut [f32], mean: &mut [f32]) {
    mean.fill(0.0);
    for token in 0..tokens {
        let buffer = &mut buffer[..mean.len()];
        read(head, token, buffer);
        for (sum, x) in mean.iter_mut().zip(buffer) {
            *sum += *x;
        }
    }
    let part = 1.0 / tokens as f32;
    for sum in mean {
        *sum *= part;
    }
}

/// Keys less their mean, `[count][units]`; the worth of a unit of each block of `block` keys. The buffer holds rows of a block.
#[inline(always)]
pub(super) fn keys(
    head: &Head<'_>,
    [first, count, block]: [usize; 3],
    mean: &[f32],
    buffer: &mut [f32],
    to: &mut [u32],
    worths: &mut [f32],
) {
    let (row, units) = (mean.len(), units(head.width));
    for (index, to) in to[..count * units].chunks_mut(block * units).enumerate() {
        let keys = block.min(count - index * block);
        let buffer = &mut buffer[..keys * row];
        for (key, x) in buffer.chunks_exact_mut(row).enumerate() {
            read(head, first + index * block + key, x);
            for (x, mean) in x.iter_mut().zip(mean) {
                *x -= mean;
            }
        }
        let [per_unit, worth] = scales(magnitude(buffer));
        worths[index] = worth;
        for (x, to) in buffer.chunks_exact(row).zip(to.chunks_exact_mut(units)) {
            let to: &mut [u8] = bytemuck::cast_slice_mut(to);
            for (to, x) in to.iter_mut().zip(x) {
                *to = byte(*x, per_unit) ^ 0x80;
            }
        }
    }
}

/// Queries with lanes along them, `[units][lanes]`; the worth of a unit of each, and what its sums start from. Lanes past
/// `count` are zero.
#[inline(always)]
pub(super) fn queries(
    head: &Head<'_>,
    [first, count, lanes]: [usize; 3],
    buffer: &mut [f32],
    to: &mut [u32],
    worths: &mut [f32],
    starts: &mut [f32],
) {
    let units = units(head.width);
    let to = &mut to[..units * lanes];
    to.fill(0);
    worths[..lanes].fill(0.0);
    starts[..lanes].fill(0.0);
    for lane in 0..count {
        let x = &mut buffer[..row(head.width)];
        read(head, first + lane, x);
        let [per_unit, worth] = scales(magnitude(x));
        worths[lane] = worth;
        let mut sum = 0i32;
        for (unit, x) in x.chunks_exact(CHANNELS).take(units).enumerate() {
            let mut bytes = [0u8; CHANNELS];
            for (to, x) in bytes.iter_mut().zip(x) {
                *to = byte(*x, per_unit);
                sum += i32::from(*to as i8);
            }
            to[unit * lanes + lane] = u32::from_le_bytes(bytes);
        }
        starts[lane] = f32::from_bits((-128 * sum) as u32);
    }
}

/// What the mean of the keys adds to the scores of a query, to be multiplied by the factor of scores.
#[inline(always)]
pub(super) fn of_mean(head: &Head<'_>, token: usize, mean: &[f32], buffer: &mut [f32]) -> f32 {
    let buffer = &mut buffer[..mean.len()];
    read(head, token, buffer);
    let mut sum = 0.0;
    for (x, mean) in buffer.iter().zip(mean) {
        sum += x * mean;
    }
    sum
}
