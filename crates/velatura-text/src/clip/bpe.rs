//! Byte-pair encoding (Sennrich et al. 2016) over the bytes of a piece of text, as CLIP uses it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use crate::TokenizerError;

/// The merges of OpenAI's vocabulary in their order, as pairs of little-endian 16-bit ids.
static OPENAI_MERGES: &[u8] = include_bytes!("openai.merges");

/// What ends the last token of a word in a vocabulary file.
const END_OF_WORD: &str = "</w>";

/// A vocabulary, ready to encode.
#[derive(Debug, PartialEq)]
pub(super) struct Bpe {
    /// Id of each byte inside a word, `None` where the vocabulary lacks it.
    inner: [Option<i32>; 256],
    /// Id of each byte at the end of a word.
    last: [Option<i32>; 256],
    /// Pairs of ids that merge, sorted by [`key`].
    merges: Vec<Merge>,
    /// Id of the comma as a word of its own.
    comma: Option<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Merge {
    key: u64,
    /// Earlier merges go first.
    rank: u32,
    /// What the pair becomes.
    id: i32,
}

/// OpenAI's tokens by their ids, but for the start and the end, and the merges as `merges.txt` has them.
pub(super) fn openai_tokens() -> (Vec<String>, Vec<String>) {
    let mut tokens: Vec<String> = alphabet().into_iter().map(|(_, symbol)| symbol.to_string()).collect();
    let last: Vec<String> = tokens.iter().map(|symbol| format!("{symbol}{END_OF_WORD}")).collect();
    tokens.extend(last);
    let mut merges = Vec::new();
    for pair in OPENAI_MERGES.chunks_exact(4) {
        let id = |at: usize| usize::from(u16::from_le_bytes([pair[at], pair[at + 1]]));
        let (left, right) = (&tokens[id(0)], &tokens[id(2)]);
        merges.push(format!("{left} {right}"));
        tokens.push(format!("{left}{right}"));
    }
    (tokens, merges)
}

fn key(left: i32, right: i32) -> u64 {
    (u64::from(left as u32) << 32) | u64::from(right as u32)
}

impl Bpe {
    /// OpenAI's vocabulary: ids 0 to 255 are the bytes, 256 to 511 the bytes that end a word, then one id per merge.
    pub fn openai() -> Self {
        let mut inner = [None; 256];
        let mut last = [None; 256];
        for (id, (byte, _)) in alphabet().into_iter().enumerate() {
            inner[byte as usize] = Some(id as i32);
            last[byte as usize] = Some(id as i32 + 256);
        }
        let merge = |(rank, pair): (usize, &[u8])| {
            let id = |at: usize| i32::from(u16::from_le_bytes([pair[at], pair[at + 1]]));
            Merge { key: key(id(0), id(2)), rank: rank as u32, id: 512 + rank as i32 }
        };
        let merges = OPENAI_MERGES.chunks_exact(4).enumerate().map(merge).collect();
        Self::sorted(inner, last, merges)
    }

    /// A vocabulary from the contents of `vocab.json` and `merges.txt`: tokens are written in GPT-2's alphabet for
    /// bytes, and end with `</w>` where they end a word.
    ///
    /// # Errors
    /// When a merge is not two tokens, or it or its result is not in the vocabulary.
    pub fn new<'a>(
        vocabulary: &HashMap<&str, i32>,
        merges: impl Iterator<Item = &'a str>,
    ) -> Result<Self, TokenizerError> {
        let mut inner = [None; 256];
        let mut last = [None; 256];
        for (byte, symbol) in alphabet() {
            inner[byte as usize] = vocabulary.get(symbol.to_string().as_str()).copied();
            last[byte as usize] = vocabulary.get(format!("{symbol}{END_OF_WORD}").as_str()).copied();
        }
        let mut table = Vec::new();
        for (rank, merge) in merges.enumerate() {
            let bad = |reason| TokenizerError::BadMerge { merge: merge.to_owned(), number: rank + 1, reason };
            let (left, right) = merge.split_once(' ').ok_or_else(|| bad("is not two tokens"))?;
            let known = |token: &str| vocabulary.get(token).copied();
            let (Some(a), Some(b), Some(id)) = (known(left), known(right), known(&format!("{left}{right}")))
            else {
                return Err(bad("uses or makes a token that the vocabulary lacks"));
            };
            table.push(Merge { key: key(a, b), rank: rank as u32, id });
        }
        Ok(Self::sorted(inner, last, table))
    }

    fn sorted(inner: [Option<i32>; 256], last: [Option<i32>; 256], mut merges: Vec<Merge>) -> Self {
        // Of two equal merges the later counts, as in the original's dictionary.
        merges.sort_unstable_by_key(|merge| (merge.key, Reverse(merge.rank)));
        merges.dedup_by_key(|merge| merge.key);
        let comma = last[usize::from(b',')];
        Self { inner, last, merges, comma }
    }

    /// Id of the comma as a word of its own.
    pub fn comma(&self) -> Option<i32> {
        self.comma
    }

    fn merge(&self, left: i32, right: i32) -> Option<Merge> {
        let wanted = key(left, right);
        let at = self.merges.binary_search_by_key(&wanted, |merge| merge.key).ok()?;
        Some(self.merges[at])
    }

    /// Appends the ids of one piece: its bytes, merged by rank and, among equals, from the left. Bytes that the
    /// vocabulary lacks become `unknown`. Time grows as `n log n`, so that a word of a million letters is no
    /// trouble.
    pub fn encode(&self, piece: &str, unknown: i32, ids: &mut Vec<i32>) {
        let bytes = piece.as_bytes();
        let Some(end) = bytes.len().checked_sub(1) else { return };
        let symbol = |(i, &byte): (usize, &u8)| {
            let table = if i == end { &self.last } else { &self.inner };
            Symbol {
                id: table[byte as usize].unwrap_or(unknown),
                previous: i.checked_sub(1),
                next: Some(i + 1),
            }
        };
        let mut symbols: Vec<Symbol> = bytes.iter().enumerate().map(symbol).collect();
        symbols[end].next = None;

        let mut queue = BinaryHeap::new();
        let offer = |queue: &mut BinaryHeap<_>, symbols: &[Symbol], at: usize| {
            if let Some(next) = symbols[at].next
                && let Some(merge) = self.merge(symbols[at].id, symbols[next].id)
            {
                queue.push(Reverse((merge.rank, at, merge.id)));
            }
        };
        for at in 0..end {
            offer(&mut queue, &symbols, at);
        }
        while let Some(Reverse((rank, at, id))) = queue.pop() {
            // What was offered may have been merged away since.
            let Some(next) = symbols[at].next else { continue };
            if symbols[at].id == GONE
                || self.merge(symbols[at].id, symbols[next].id).is_none_or(|merge| merge.rank != rank)
            {
                continue;
            }
            symbols[at].id = id;
            symbols[at].next = symbols[next].next;
            symbols[next].id = GONE;
            if let Some(after) = symbols[at].next {
                symbols[after].previous = Some(at);
            }
            offer(&mut queue, &symbols, at);
            if let Some(before) = symbols[at].previous {
                offer(&mut queue, &symbols, before);
            }
        }
        ids.extend(symbols.iter().map(|symbol| symbol.id).filter(|&id| id != GONE));
    }
}

/// Id of a symbol that was merged into the one before it; no vocabulary has negative ids.
const GONE: i32 = -1;

struct Symbol {
    id: i32,
    previous: Option<usize>,
    next: Option<usize>,
}

/// GPT-2's alphabet: a visible character for every byte, in the order of the ids.
fn alphabet() -> Vec<(u8, char)> {
    let visible = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut letters: Vec<(u8, char)> =
        (0..=255u8).filter(|&b| visible(b)).map(|b| (b, char::from(b))).collect();
    let hidden = (0..=255u8).filter(|&b| !visible(b));
    letters.extend(hidden.zip('\u{100}'..).collect::<Vec<_>>());
    letters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_go_by_rank_and_from_the_left() {
        let vocabulary =
            HashMap::from([("a", 0), ("a</w>", 1), ("b", 2), ("b</w>", 3), ("aa", 4), ("aab", 5)]);
        let bpe = Bpe::new(&vocabulary, ["a a", "aa b"].into_iter()).unwrap();
        let encode = |text| {
            let mut ids = Vec::new();
            bpe.encode(text, 9, &mut ids);
            ids
        };
        assert_eq!(encode("aaab"), [4, 0, 3]);
        assert_eq!(encode("aaaab"), [4, 4, 3]);
        assert_eq!(encode("aaba"), [5, 1]);
        assert_eq!(encode("xb"), [9, 3]);
        assert_eq!(encode(""), [0; 0]);
    }

    #[test]
    fn damaged_merges_are_refused() {
        let vocabulary = HashMap::from([("a", 0), ("b", 1)]);
        for (merge, reason) in [("ab", "two tokens"), ("a b", "lacks"), ("a c", "lacks")] {
            let error = Bpe::new(&vocabulary, [merge].into_iter()).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_long_word_takes_no_time() {
        let mut ids = Vec::new();
        Bpe::openai().encode(&"ha".repeat(500_000), 0, &mut ids);
        assert!(ids.len() > 10_000);
    }
}
