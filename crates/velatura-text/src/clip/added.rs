//! Tokens that are found in a text before it is split into words: the start, the end, and what a folder adds.

use aho_corasick::{AhoCorasick, MatchKind};
use serde::{Deserialize, Serialize};

use super::split::normalize;
use crate::TokenizerError;

/// A token that is read as a whole wherever its text stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AddedToken {
    /// Its text.
    pub content: String,
    /// Its id.
    pub id: i32,
    /// Whether it is looked for in the normalised text, whatever the case of its letters.
    pub normalized: bool,
}

/// Finds added tokens, the leftmost first and of those the longest.
#[derive(Clone, Debug, Default)]
pub(super) struct Finder {
    raw: Option<(AhoCorasick, Vec<i32>)>,
    normalized: Option<(AhoCorasick, Vec<i32>)>,
}

/// Part of a text.
pub(super) enum Part<'a> {
    /// Normalised text without added tokens.
    Text(&'a str),
    /// An added token.
    Token(i32),
}

impl Finder {
    /// # Errors
    /// When there are more tokens than an automaton can hold.
    pub fn new<'a>(tokens: impl Iterator<Item = &'a AddedToken>) -> Result<Self, TokenizerError> {
        let mut lists: [(Vec<String>, Vec<i32>); 2] = Default::default();
        for token in tokens.filter(|token| !token.content.is_empty()) {
            let list = &mut lists[usize::from(token.normalized)];
            list.0.push(if token.normalized { normalize(&token.content) } else { token.content.clone() });
            list.1.push(token.id);
        }
        let build = |(patterns, ids): (Vec<String>, Vec<i32>)| {
            if patterns.is_empty() {
                return Ok(None);
            }
            let automaton = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&patterns);
            automaton
                .map(|automaton| Some((automaton, ids)))
                .map_err(|_| TokenizerError::TooManyTokens { count: patterns.len() })
        };
        let [raw, normalized] = lists;
        Ok(Self { raw: build(raw)?, normalized: build(normalized)? })
    }

    /// Calls `part` for each part of the text in order.
    pub fn parts(&self, text: &str, mut part: impl FnMut(Part)) {
        split(&self.raw, text, |piece| match piece {
            Part::Text(piece) => split(&self.normalized, &normalize(piece), &mut part),
            Part::Token(id) => part(Part::Token(id)),
        });
    }
}

fn split(automaton: &Option<(AhoCorasick, Vec<i32>)>, text: &str, mut part: impl FnMut(Part)) {
    let mut from = 0;
    if let Some((automaton, ids)) = automaton {
        for found in automaton.find_iter(text) {
            part(Part::Text(&text[from..found.start()]));
            part(Part::Token(ids[found.pattern().as_usize()]));
            from = found.end();
        }
    }
    part(Part::Text(&text[from..]));
}
