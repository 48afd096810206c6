//! Copies of operands in the order in which the products read them, in units of `P::PAIR` elements.

use half::bf16;

use super::product::Product;
use crate::Data;
use crate::kernels::{LINE, fetch};

/// One head's rows of a `[B, T, heads * D]` tensor: element `start + token * stride + d`.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) data: Data<'a>,
    pub(super) start: usize,
    pub(super) stride: usize,
    pub(super) width: usize,
}

impl Head<'_> {
    #[inline(always)]
    fn row<T>(&self, x: &[T], token: usize) -> std::ops::Range<usize> {
        let start = self.start + token * self.stride;
        debug_assert!(start + self.width <= x.len());
        start..start + self.width
    }

    /// Asks for the row that will be copied after some others. A head's rows lie far apart, where the processor does not look
    /// for the next by itself.
    #[inline(always)]
    fn fetch_ahead(&self, token: usize) {
        let (from, size) = match self.data {
            Data::F32(x) => (x.as_ptr().cast::<u8>(), size_of::<f32>()),
            Data::Bf16(x) => (x.as_ptr().cast::<u8>(), size_of::<bf16>()),
            Data::I32(_) => unreachable!("checked on entry"),
        };
        let row = from.wrapping_add((self.start + (token + AHEAD) * self.stride) * size);
        let before = row as usize % LINE;
        fetch(row.wrapping_sub(before), before + self.width * size);
    }

    /// Some of a token's channels, as pairs of brain floating-point numbers, of which the last may be half a one.
    #[inline(always)]
    pub(super) fn pairs(&self, token: usize, first: usize, to: &mut [u32]) {
        let Data::Bf16(x) = self.data else { unreachable!("chosen for brain floating-point numbers") };
        let x = &x[self.row(x, token)][2 * first..];
        let count = x.len().min(2 * to.len());
        if let Some(last) = to.last_mut() {
            *last = 0;
        }
        bytemuck::cast_slice_mut::<u32, bf16>(to)[..count].copy_from_slice(&x[..count]);
    }
}

/// Rows between that which is copied and that which is fetched.
const AHEAD: usize = 8;

#[inline(always)]
pub(super) fn wide(x: bf16) -> f32 {
    f32::from_bits(u32::from(x.to_bits()) << 16)
}

#[inline(always)]
fn bits_pair(a: bf16, b: bf16) -> u32 {
    u32::from(a.to_bits()) | u32::from(b.to_bits()) << 16
}

/// `[count][ceil(D / PAIR)]`: units along the channels, one row for each token.
#[inline(always)]
pub(super) fn rows<P: Product>(head: Head<'_>, first: usize, count: usize, to: &mut [u32]) {
    let units = head.width.div_ceil(P::PAIR);
    for (token, to) in to.chunks_exact_mut(units).take(count).enumerate() {
        head.fetch_ahead(first + token);
        match head.data {
            Data::F32(x) => {
                let x = &x[head.row(x, first + token)];
                if P::PAIR == 1 {
                    for (to, &x) in to.iter_mut().zip(x) {
                        *to = x.to_bits();
                    }
                } else {
                    for (to, x) in to.iter_mut().zip(x.chunks(2)) {
                        *to = P::unit(x[0], x.get(1).copied().unwrap_or(0.0));
                    }
                }
            }
            Data::Bf16(x) => {
                let x = &x[head.row(x, first + token)];
                if P::PAIR == 1 {
                    for (to, &x) in to.iter_mut().zip(x) {
                        *to = wide(x).to_bits();
                    }
                } else {
                    // Pairs in memory are units already; an odd last channel is paired with zero.
                    to[units - 1] = 0;
                    bytemuck::cast_slice_mut::<u32, bf16>(to)[..head.width].copy_from_slice(x);
                }
            }
            Data::I32(_) => unreachable!("checked on entry"),
        }
    }
}

/// `[ceil(count / PAIR)][width]`: units along the tokens; columns past D and tokens past `count` are zero.
#[inline(always)]
pub(super) fn tokens<P: Product>(head: Head<'_>, first: usize, count: usize, width: usize, to: &mut [u32]) {
    let units = count.div_ceil(P::PAIR);
    for (unit, to) in to.chunks_exact_mut(width).take(units).enumerate() {
        let token = first + unit * P::PAIR;
        let second = P::PAIR == 2 && unit * 2 + 1 < count;
        for token in token..token + P::PAIR {
            head.fetch_ahead(token);
        }
        let (to, padding) = to.split_at_mut(head.width);
        padding.fill(0);
        match head.data {
            Data::F32(x) => {
                let a = &x[head.row(x, token)];
                if second {
                    let b = &x[head.row(x, token + 1)];
                    for ((to, &a), &b) in to.iter_mut().zip(a).zip(b) {
                        *to = P::unit(a, b);
                    }
                } else {
                    for (to, &a) in to.iter_mut().zip(a) {
                        *to = P::unit(a, 0.0);
                    }
                }
            }
            Data::Bf16(x) => {
                let a = &x[head.row(x, token)];
                if P::PAIR == 1 {
                    for (to, &a) in to.iter_mut().zip(a) {
                        *to = wide(a).to_bits();
                    }
                } else if second {
                    let b = &x[head.row(x, token + 1)];
                    for ((to, &a), &b) in to.iter_mut().zip(a).zip(b) {
                        *to = bits_pair(a, b);
                    }
                } else {
                    for (to, &a) in to.iter_mut().zip(a) {
                        *to = bits_pair(a, bf16::ZERO);
                    }
                }
            }
            Data::I32(_) => unreachable!("checked on entry"),
        }
    }
}

/// `[ceil(D / PAIR)][lanes]`: units along the channels, tokens along the lanes; lanes past `count` are zero.
/// `rows_buffer` holds `lanes` rows of units.
#[inline(always)]
pub(super) fn transposed<P: Product>(
    head: Head<'_>,
    first: usize,
    count: usize,
    lanes: usize,
    rows_buffer: &mut [u32],
    to: &mut [u32],
) {
    let units = head.width.div_ceil(P::PAIR);
    rows::<P>(head, first, count, rows_buffer);
    rows_buffer[count * units..lanes * units].fill(0);
    transpose(rows_buffer, lanes, units, to);
}

/// `to[column][row] = from[row][column]`, both contiguous.
#[inline(always)]
pub(super) fn transpose(from: &[u32], rows: usize, columns: usize, to: &mut [u32]) {
    let (from, to) = (&from[..rows * columns], &mut to[..rows * columns]);
    let (whole_rows, whole_columns) = (rows / 4 * 4, columns / 4 * 4);
    for row in (0..whole_rows).step_by(4) {
        for column in (0..whole_columns).step_by(4) {
            // SAFETY: the square of four is inside of both.
            unsafe {
                square(
                    from.as_ptr().add(row * columns + column),
                    columns,
                    to.as_mut_ptr().add(column * rows + row),
                    rows,
                );
            }
        }
        for column in whole_columns..columns {
            for i in row..row + 4 {
                to[column * rows + i] = from[i * columns + column];
            }
        }
    }
    for row in whole_rows..rows {
        for column in 0..columns {
            to[column * rows + row] = from[row * columns + column];
        }
    }
}

/// Transposes four by four elements.
///
/// # Safety
/// Four rows of four elements at these distances are inside of both allocations.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn square(from: *const u32, from_stride: usize, to: *mut u32, to_stride: usize) {
    use std::arch::x86_64::*;
    // SAFETY: the caller's promise; every x86-64 processor has these instructions.
    unsafe {
        let load = |row: usize| _mm_loadu_ps(from.add(row * from_stride).cast());
        let (a, b, c, d) = (load(0), load(1), load(2), load(3));
        let (ab_low, ab_high) = (_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
        let (cd_low, cd_high) = (_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
        let store = |row: usize, x: __m128| _mm_storeu_ps(to.add(row * to_stride).cast(), x);
        store(0, _mm_movelh_ps(ab_low, cd_low));
        store(1, _mm_movehl_ps(cd_low, ab_low));
        store(2, _mm_movelh_ps(ab_high, cd_high));
        store(3, _mm_movehl_ps(cd_high, ab_high));
    }
}

/// Transposes four by four elements.
///
/// # Safety
/// Four rows of four elements at these distances are inside of both allocations.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
unsafe fn square(from: *const u32, from_stride: usize, to: *mut u32, to_stride: usize) {
    for row in 0..4 {
        for column in 0..4 {
            // SAFETY: the caller's promise.
            unsafe { *to.add(column * to_stride + row) = *from.add(row * from_stride + column) };
        }
    }
}
