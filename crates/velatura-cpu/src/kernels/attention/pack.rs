//! Copies of operands in the order in which the products read them, in units of `P::PAIR` elements.

use half::bf16;

use super::product::Product;
use crate::kernels::Order;
use crate::kernels::transpose::transpose;
use crate::kernels::{LINE, fetch};
use crate::{Data, Isa};

/// One head's rows of a `[B, T, heads * D]` tensor.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) data: Data<'a>,
    pub(super) order: Order,
    /// The row of the first token.
    pub(super) first: usize,
    /// The first of its columns.
    pub(super) column: usize,
    pub(super) stride: usize,
    pub(super) width: usize,
}

impl Head<'_> {
    /// Elements before a channel of a token.
    #[inline(always)]
    pub(super) fn at(&self, token: usize, channel: usize) -> usize {
        self.order.place(self.first + token, self.column + channel, self.stride)
    }

    /// The channels of a token, of rows that lie one after another.
    #[inline(always)]
    pub(super) fn row<T>(&self, x: &[T], token: usize) -> std::ops::Range<usize> {
        let start = self.at(token, 0);
        debug_assert!(start + self.width <= x.len());
        start..start + self.width
    }

    /// Asks for the row that will be copied after some others. If not in tiles, a head's rows lie far apart, where the processor does
    /// not look for the next by itself.
    #[inline(always)]
    pub(super) fn fetch_ahead(&self, token: usize) {
        let (from, size) = match self.data {
            Data::F32(x) => (x.as_ptr().cast::<u8>(), size_of::<f32>()),
            Data::Bf16(x) => (x.as_ptr().cast::<u8>(), size_of::<bf16>()),
            Data::I32(_) => unreachable!("checked on entry"),
        };
        if self.order == Order::Tiles {
            return;
        }
        let row = from.wrapping_add(self.at(token + AHEAD, 0) * size);
        let before = row as usize % LINE;
        fetch(row.wrapping_sub(before), before + self.width * size);
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
    isa: Isa,
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
    transpose(isa, rows_buffer, units, [lanes, units], to, lanes);
}
