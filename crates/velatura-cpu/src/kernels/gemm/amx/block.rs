//! The products of a pair of tiles of rows and a strip.

use std::ops::Range;

use super::super::tile::{BYTES, THIRDS};
use super::task::Task;
use super::{PAIR, SUMS};
use crate::kernels::LINE;
use crate::kernels::amx::{
    self as unit, At, FETCHED_SUMS, FETCHED_WITH_THIRDS, Fetched, PLACES, PLACES_OF_THIRDS, ROW, Right,
};

/// Rows that are finished at a time where that takes long.
const LONG_ROWS: usize = 8;

/// A pair of tiles of rows by a strip.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub pair: usize,
    /// Of the strip.
    pub number: usize,
    /// Whether there are two tiles of rows, and of columns.
    pub two: [bool; 2],
    /// Whether its sums are those of all of the depth.
    pub ends: bool,
}

/// What is fetched with the products of a block. It need not be there.
pub(super) struct Ahead {
    /// The sums of the next block.
    pub sums: *mut f32,
    /// Where a part of the next strip begins in its first panel, and the bytes of it; in the second one it lies alike.
    pub strip: Option<(*const u8, usize)>,
}

impl Ahead {
    pub const NOTHING: Ahead = Ahead { sums: std::ptr::null_mut(), strip: None };
}

impl Task<'_> {
    /// Adds up the slots of a chunk: the sums stay in the registers. Meanwhile those that are there are stored and finished.
    ///
    /// # Safety
    /// As for [`Task::run`]; there is room for the sums.
    #[inline(always)]
    pub unsafe fn tiles<const STEPS: u8, const R: usize, const C: usize>(
        &self,
        slots: &Range<usize>,
        left: *const u8,
        block: &Block,
        ahead: &Ahead,
        before: &Option<Block>,
    ) {
        let slot = self.plan.slot();
        let from = (slots.start > 0).then_some(self.sums(block.pair, block.number).cast_const());
        let mut rows = before.map_or(0..0, |before| self.rows(before.pair));
        // A gate takes long: a few rows of it come after some of the products, and then again.
        let long = before.is_some_and(|before| before.ends) && self.product.finish.gate.is_some();
        let together = match long {
            true => (slots.len() * self.plan.slide.taps / (PAIR / LONG_ROWS + 1)).max(1),
            false => usize::MAX,
        };
        // Where the sums of before go when the registers are needed.
        let mut waiting = match before {
            Some(before) if R * C == 4 && before.two == [true, true] && !slots.is_empty() => {
                Some(self.sums(before.pair, before.number))
            }
            _ => None,
        };
        // SAFETY: the caller's promise.
        unsafe {
            if waiting.is_none() {
                if let Some(before) = before {
                    self.store(before);
                }
                match from {
                    None => unit::clear::<R, C>(&self.unit),
                    Some(from) => unit::load::<R, C>(&self.unit, from, PAIR),
                }
            }
        }
        let rounds = slots.len() * self.plan.slide.taps;
        let mut remaining = rounds;
        // The last rounds of a chunk fetch the sums that come next, those before them a part of the next strip.
        let fetched = if STEPS == THIRDS { FETCHED_WITH_THIRDS } else { FETCHED_SUMS };
        let fetching = if self.kept { SUMS.div_ceil(fetched) } else { 0 };
        let places = if STEPS == THIRDS { PLACES_OF_THIRDS } else { PLACES } / 2;
        let (mut sums, mut strip) = (ahead.sums.cast_const(), ahead.strip.map(|(from, _)| from));
        let far = ahead.strip.map_or(0, |(_, bytes)| bytes / (places * rounds).max(1)).next_multiple_of(LINE);
        // Whether the first products of a round were made with the exchange.
        let mut begun = false;
        let mut multiply = |count: usize, a: *const u8, b: Right| {
            let mut first = 0;
            while first < count {
                let a = At { from: a.wrapping_add(first * slot), stride: slot };
                let b = b.later(first * self.plan.planes);
                // SAFETY: the caller's promise.
                unsafe {
                    match (waiting.take(), STEPS) {
                        (None, _) => {}
                        (Some(to), THIRDS) => {
                            unit::exchange_thirds(&self.unit, a, b, to, from, PAIR);
                            begun = true;
                        }
                        (Some(to), _) => {
                            match STEPS {
                                BYTES => unit::exchange::<true>(&self.unit, a, b, to, from, PAIR),
                                _ => unit::exchange::<false>(&self.unit, a, b, to, from, PAIR),
                            }
                            first += 1;
                            remaining -= 1;
                            continue;
                        }
                    }
                    let mut part = together.min(count - first);
                    let fetched = match &mut strip {
                        _ if remaining <= fetching => {
                            let next = sums;
                            sums = sums.wrapping_add(part * fetched);
                            Fetched::Sums(next)
                        }
                        strip => {
                            part = part.min(remaining - fetching);
                            strip.as_mut().map_or(Fetched::Nothing, |strip| {
                                let from = *strip;
                                *strip = strip.wrapping_add(part * places * far);
                                Fetched::Far(At { from, stride: far })
                            })
                        }
                    };
                    match STEPS {
                        BYTES => unit::multiply_passing::<true, R, C>(&self.unit, part, a, b, fetched),
                        THIRDS => {
                            let plane = self.plan.plane();
                            unit::multiply_thirds::<R, C>(&self.unit, part, a, plane, b, begun, fetched);
                            begun = false;
                        }
                        _ => unit::multiply_passing::<false, R, C>(&self.unit, part, a, b, fetched),
                    }
                    remaining -= part;
                    if let (true, Some(before)) = (long, before) {
                        let some = rows.start..rows.end.min(rows.start + LONG_ROWS);
                        rows.start = some.end;
                        self.finish(before, some);
                    }
                    first += part;
                }
            }
        };
        let start = self.strips.start(self.some.start + block.number);
        // SAFETY: the caller's promise.
        unsafe {
            for [line, first, count] in self.plan.lines(slots.clone()) {
                let left = left.wrapping_add((line * self.plan.units + first - slots.start) * slot);
                for offset in 0..self.plan.slide.taps {
                    let a = left.wrapping_add(offset * ROW);
                    let b = self.slot(start, line, offset, first);
                    let whole = count.min(self.plan.whole.saturating_sub(first));
                    multiply(whole, a, b);
                    if whole < count {
                        multiply(1, a.wrapping_add(whole * slot), self.tails.at(block.number, line));
                    }
                }
            }
            if let Some(before) = before {
                self.finish(before, rows);
            }
        }
    }
}
