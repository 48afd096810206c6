//! Laying blocks of memory with lifetimes into the least space: dynamic storage allocation, which is NP-hard, by
//! greedy placement in several orders of which the best is kept.

use std::cmp::Reverse;

/// Memory wanted during an interval of time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    /// How much.
    pub(super) bytes: usize,
    /// First and last moment of use, both included.
    pub(super) first: usize,
    pub(super) last: usize,
}

/// Comparisons of two blocks after which no further order is tried: some 10 ms.
const EFFORT: usize = 10_000_000;
/// Attempts to improve the best order by moving the blocks that stick out to its front.
const REPAIRS: usize = 24;

/// An offset for each block, such that blocks alive at the same time do not overlap, and the end of the last one.
/// `live` is the most that is alive at once, a bound from below.
pub(super) fn lay_out(blocks: &[Block], live: usize) -> (Vec<usize>, usize) {
    let mut search = Search { blocks, effort: 0, best: (Vec::new(), usize::MAX), best_order: Vec::new() };
    for order in orders(blocks) {
        search.attempt(order);
        if search.done(live) {
            return search.best;
        }
    }
    for _ in 0..REPAIRS {
        // What ends above the bound goes first next time, so that it finds the bottom free.
        let (offsets, _) = &search.best;
        let sticks_out = |&i: &usize| offsets[i] + blocks[i].bytes > live;
        let (mut order, rest): (Vec<usize>, Vec<usize>) =
            search.best_order.iter().partition(|i| sticks_out(i));
        order.extend(rest);
        if order == search.best_order || !search.attempt(order) || search.done(live) {
            break;
        }
    }
    search.best
}

struct Search<'a> {
    blocks: &'a [Block],
    effort: usize,
    best: (Vec<usize>, usize),
    best_order: Vec<usize>,
}

impl Search<'_> {
    fn done(&self, live: usize) -> bool {
        self.best.1 <= live || self.effort > EFFORT
    }

    /// The end that a better layout has to stay below, once there is one.
    fn limit(&self) -> Option<usize> {
        (!self.best_order.is_empty()).then_some(self.best.1)
    }

    /// Places in this order; whether that is the best so far.
    fn attempt(&mut self, order: Vec<usize>) -> bool {
        let Some(found) = place(self.blocks, &order, self.limit(), &mut self.effort) else {
            return false;
        };
        self.best = found;
        self.best_order = order;
        true
    }
}

/// The orders to try, likeliest first.
fn orders(blocks: &[Block]) -> impl Iterator<Item = Vec<usize>> + '_ {
    let by_key = |key: &dyn Fn(&Block) -> (Reverse<u128>, usize)| {
        let mut order: Vec<usize> = (0..blocks.len()).collect();
        order.sort_by_key(|&i| key(&blocks[i]));
        order
    };
    let span = |b: &Block| (b.last - b.first + 1) as u128;
    (0..5).map(move |which| match which {
        // Greedy by size, Pisarchyk and Lee 2020, algorithm 3.
        0 => by_key(&|b| (Reverse(b.bytes as u128), b.first)),
        1 => by_key(&|b| (Reverse(b.bytes as u128 * span(b)), b.first)),
        2 => by_key(&|b| (Reverse(span(b)), b.first)),
        3 => by_breadth(blocks),
        _ => by_key(&|b| (Reverse(u128::MAX - b.first as u128), usize::MAX - b.bytes)),
    })
}

/// From the moment when most is alive to that when least is, at each the larger blocks first (Pisarchyk and Lee 2020,
/// algorithm 2).
fn by_breadth(blocks: &[Block]) -> Vec<usize> {
    let alive = alive(blocks);
    let breadth = |b: &Block| alive[b.first..=b.last].iter().copied().max().unwrap_or(0);
    let keys: Vec<(usize, usize)> = blocks.iter().map(|b| (breadth(b), b.bytes)).collect();
    let mut order: Vec<usize> = (0..blocks.len()).collect();
    order.sort_by_key(|&i| (Reverse(keys[i]), blocks[i].first));
    order
}

/// How many bytes are alive at each moment.
pub(super) fn alive(blocks: &[Block]) -> Vec<usize> {
    let end = blocks.iter().map(|b| b.last + 1).max().unwrap_or(0);
    let (mut born, mut gone) = (vec![0usize; end + 1], vec![0usize; end + 1]);
    for block in blocks {
        born[block.first] = born[block.first].saturating_add(block.bytes);
        gone[block.last + 1] = gone[block.last + 1].saturating_add(block.bytes);
    }
    let step = |now: &mut usize, (born, gone): (usize, usize)| {
        *now = now.saturating_sub(gone).saturating_add(born);
        Some(*now)
    };
    born.into_iter().zip(gone).scan(0, step).collect()
}

/// A block that has its place. Kept small and in a row: scanning these is all the work there is.
#[derive(Clone, Copy)]
struct Placed {
    start: usize,
    end: usize,
    first: u32,
    last: u32,
}

/// Puts each block at the lowest gap among those alive at the same time. `None` as soon as the end reaches `limit`.
fn place(
    blocks: &[Block],
    order: &[usize],
    limit: Option<usize>,
    effort: &mut usize,
) -> Option<(Vec<usize>, usize)> {
    // By ascending start, so that the first gap found is the lowest.
    let mut placed: Vec<Placed> = Vec::with_capacity(blocks.len());
    let (mut offsets, mut end) = (vec![0; blocks.len()], 0);
    for &i in order {
        let block = blocks[i];
        let (first, last) = (block.first as u32, block.last as u32);
        let mut offset = 0usize;
        for other in &placed {
            *effort += 1;
            if other.first <= last && first <= other.last {
                if other.start >= offset.saturating_add(block.bytes) {
                    break;
                }
                offset = offset.max(other.end);
            }
        }
        let stop = offset.saturating_add(block.bytes);
        if limit.is_some_and(|limit| stop >= limit) {
            return None;
        }
        end = end.max(stop);
        offsets[i] = offset;
        let at = placed.partition_point(|p| p.start < offset);
        placed.insert(at, Placed { start: offset, end: stop, first, last });
    }
    Some((offsets, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_layout_that_greedy_by_size_misses() {
        // Greedy by size alone needs 5 here: the 2s are stacked, and the 1 that meets both goes on top.
        let block = |bytes, first, last| Block { bytes, first, last };
        let blocks = [block(2, 0, 1), block(2, 1, 2), block(1, 2, 3), block(3, 3, 4), block(1, 0, 0)];
        let live = alive(&blocks).into_iter().max().unwrap();
        assert_eq!(live, 4);
        assert_eq!(lay_out(&blocks, live).1, 4);
    }

    #[test]
    fn nothing_takes_no_space() {
        assert_eq!(lay_out(&[], 0), (vec![], 0));
    }
}
