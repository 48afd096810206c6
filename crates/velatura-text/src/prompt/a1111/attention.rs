//! Weights: `(a)`, `(a:1.2)`, `[a]`, escapes, and `BREAK`.

use super::whole_words;
use crate::prompt::{Segment, finite, is_space};

/// Brackets deeper than this do not weigh: 1.1 to this power is 445 already, and time stays in proportion to the
/// prompt.
pub(super) const DEEPEST: usize = 64;

const ROUND: f64 = 1.1;
const SQUARE: f64 = 1.0 / 1.1;

/// A text's pieces with their weights, as A1111's `parse_prompt_attention` gives them. Neighbours of equal weight
/// are one piece.
///
/// Where A1111 stops with an error, at `(a:1.2.3)` or `(a:.)`, the colon and what follows are text and the bracket
/// is an ordinary one. `BREAK` is a break within brackets too; A1111 makes it a word with a negative weight there.
/// Brackets deeper than 64 do not weigh.
pub fn attention(text: &str) -> Vec<Segment> {
    read(text).0
}

/// The pieces, and whether brackets were too deep.
pub(super) fn read(text: &str) -> (Vec<Segment>, bool) {
    let mut pieces = Pieces::default();
    let mut round = Vec::new();
    let mut square = Vec::new();
    let mut deep = false;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let mut length = first.len_utf8();
        match first {
            '\\' => {
                // A backslash before anything that needs none vanishes.
                let escaped = rest[1..].starts_with(['(', ')', '[', ']', '\\']);
                length += usize::from(escaped);
                pieces.push(&rest[1..length]);
            }
            '(' => round.push(pieces.list.len()),
            '[' => square.push(pieces.list.len()),
            ')' if !round.is_empty() => deep |= pieces.close(&mut round, ROUND),
            ']' if !square.is_empty() => deep |= pieces.close(&mut square, SQUARE),
            ':' if !round.is_empty() => match weight(rest) {
                Some((weight, end)) => {
                    deep |= pieces.close(&mut round, weight);
                    length = end;
                }
                None => pieces.push(":"),
            },
            ')' | ']' | ':' => pieces.push(&rest[..1]),
            _ => {
                length = rest.find(['\\', '(', ')', '[', ']', ':']).unwrap_or(rest.len());
                pieces.push_broken(&rest[..length]);
            }
        }
        rest = &rest[length..];
    }
    while !round.is_empty() {
        deep |= pieces.close(&mut round, ROUND);
    }
    while !square.is_empty() {
        deep |= pieces.close(&mut square, SQUARE);
    }
    (pieces.merged(), deep)
}

/// The weight in `:1.2)` at the start of a text, and the length of all that.
fn weight(text: &str) -> Option<(f64, usize)> {
    let after = text[1..].trim_start_matches(is_space);
    let digits = after.strip_prefix(['+', '-']).unwrap_or(after);
    let digits = digits.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let number = &after[..after.len() - digits.len()];
    let end = digits.trim_start_matches(is_space).strip_prefix(')')?;
    Some((finite(number)?, text.len() - end.len()))
}

#[derive(Default)]
struct Pieces {
    list: Vec<Segment>,
}

impl Pieces {
    fn push(&mut self, text: &str) {
        self.list.push(Segment::text(text, 1.0));
    }

    /// Text in which `BREAK` may stand; space around it goes with it.
    fn push_broken(&mut self, text: &str) {
        let mut from = 0;
        for at in whole_words(text, "BREAK") {
            self.push(text[from..at].trim_end_matches(is_space));
            self.list.push(Segment::Break);
            let after = &text[at + "BREAK".len()..];
            from = text.len() - after.trim_start_matches(is_space).len();
        }
        self.push(&text[from..]);
    }

    /// Closes the last of `open`: everything from there on is multiplied. True where it was too deep to weigh.
    fn close(&mut self, open: &mut Vec<usize>, multiplier: f64) -> bool {
        let Some(from) = open.pop() else { return false };
        if open.len() >= DEEPEST {
            return true;
        }
        for piece in &mut self.list[from..] {
            if let Segment::Text { weight, .. } = piece {
                *weight = (*weight * multiplier).clamp(f64::MIN, f64::MAX);
            }
        }
        false
    }

    /// Neighbours of equal weight joined; at least one piece.
    fn merged(self) -> Vec<Segment> {
        let mut merged: Vec<Segment> = Vec::new();
        for piece in self.list {
            match (merged.last_mut(), &piece) {
                (Some(Segment::Text { text, weight }), Segment::Text { text: more, weight: same })
                    if weight == same =>
                {
                    text.push_str(more);
                }
                _ => merged.push(piece),
            }
        }
        if merged.is_empty() {
            merged.push(Segment::text("", 1.0));
        }
        merged
    }
}
