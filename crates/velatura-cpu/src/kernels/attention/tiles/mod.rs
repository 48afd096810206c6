//! Attention on AMX tiles. As elsewhere in this folder lanes run along the queries, which suits tiles without a copy: 32 keys by 32
//! queries of scores are two by two tiles, whose rows in pairs become the steps of the weights, and these meet the values, turned
//! so that a row is a channel, in the next product.
//!
//! ```text
//! S [keys, queries]      = K [keys, channels] . Q' [channels, queries]
//! O' [channels, queries] = V' [channels, keys] . P [keys, queries]
//! ```

mod backward;
mod forward;
mod pack;
mod run;

pub(super) use backward::backward;
pub(super) use forward::forward;

use super::dot::Dot;
use crate::kernels::amx::{At, SIDE, TILES};

type Pairs = Dot<false>;

/// Queries of a run, and keys of a unit: two tiles.
const PAIR: usize = 2 * SIDE;
/// Elements of two by two tiles of sums.
const SQUARE: usize = PAIR * PAIR;
/// Cells (pairs of numbers) of two tiles of an operand.
const CELLS: usize = 2 * SIDE * SIDE;

/// A left operand, two tiles after two tiles.
#[inline(always)]
fn tiles(from: *const u32) -> At {
    At { from: from.cast(), stride: TILES }
}
