//! Cleaning of text and its splitting into words, as transformers' CLIP tokenizer does both.

use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// Canonical composition, each run of whitespace one space, lower case (each character by itself: a capital sigma
/// at the end of a word becomes the ordinary small one).
pub(super) fn normalize(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut in_space = false;
    for c in text.nfc() {
        if c.is_whitespace() {
            if !in_space {
                clean.push(' ');
            }
        } else {
            clean.extend(c.to_lowercase());
        }
        in_space = c.is_whitespace();
    }
    clean
}

/// Endings of English words that are words of their own.
const CONTRACTIONS: [&str; 7] = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"];
/// Where one of these stands in a text and is not taken as a special token, it still starts a word: the original's
/// pattern has both.
const SPECIAL: [&str; 2] = ["<|startoftext|>", "<|endoftext|>"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Space,
    Letter,
    Number,
    Other,
}

fn class(c: char) -> Class {
    if c.is_whitespace() {
        return Class::Space;
    }
    match c.general_category_group() {
        GeneralCategoryGroup::Letter => Class::Letter,
        GeneralCategoryGroup::Number => Class::Number,
        _ => Class::Other,
    }
}

/// Calls `word` for each piece of normalised text that is encoded by itself: contractions, runs of letters, single
/// numerals, runs of anything else but space.
pub(super) fn words<'a>(text: &'a str, mut word: impl FnMut(&'a str)) {
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if let Some(contraction) = CONTRACTIONS.iter().find(|c| rest.starts_with(**c)) {
            let (piece, after) = rest.split_at(contraction.len());
            word(piece);
            rest = after;
            continue;
        }
        if let Some(special) = SPECIAL.iter().find(|special| rest.starts_with(**special)) {
            let (piece, after) = rest.split_at(special.len());
            let name = piece.trim_matches(['<', '>', '|']);
            for part in ["<|", name, "|>"] {
                word(part);
            }
            rest = after;
            continue;
        }
        let kind = class(first);
        let length = match kind {
            Class::Number => first.len_utf8(),
            _ => rest.find(|c| class(c) != kind).unwrap_or(rest.len()),
        };
        let (piece, after) = rest.split_at(length);
        if kind != Class::Space {
            word(piece);
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<&str> {
        let mut pieces = Vec::new();
        words(text, |word| pieces.push(word));
        pieces
    }

    #[test]
    fn words_are_letters_single_numerals_and_other_signs() {
        assert_eq!(split("it's 24mm!! o'clock"), ["it", "'s", "2", "4", "mm", "!!", "o", "'", "clock"]);
        assert_eq!(split("!<|endoftext|>!"), ["!<|", "endoftext", "|>!"]);
        assert_eq!(split("<|endoftext|>!"), ["<|", "endoftext", "|>", "!"]);
        assert_eq!(split(" \n"), [""; 0]);
    }

    #[test]
    fn text_is_composed_lowered_and_evenly_spaced() {
        assert_eq!(normalize("A\u{30A}  B\t\n\u{3000}C"), "å b c");
        assert_eq!(normalize("ΟΔΟΣ"), "οδοσ");
    }
}
