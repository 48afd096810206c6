use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::{Encoding, SpecialIds, TokenizerError, UnknownWord};

/// A tokenizer with one id per word: lower case, split at everything that is not a letter or digit, and between
/// letters and digits. Plurals and synonyms are simply words of their own.
///
/// Ids: 0 pads, 1 starts, 2 ends, 3 is any unknown word, and from 4 on come the words in alphabetical order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct WordTokenizer {
    words: Vec<String>,
    ids: HashMap<String, i32>,
    context: usize,
}

/// The form in a model file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    context: usize,
    words: Vec<String>,
}

/// Unknown words longer than this are nobody's typing error; comparing them would only take long.
const LONGEST_COMPARED: usize = 40;
/// A prompt with more unknown words than this has more wrong with it than a list could show.
const MOST_UNKNOWN: usize = 16;
/// Jaro-Winkler likeness below which a known word is no help.
const LEAST_LIKENESS: f64 = 0.8;

impl WordTokenizer {
    /// Id of the padding behind the end.
    pub const PAD: i32 = 0;
    /// Id in front of the first word.
    pub const START: i32 = 1;
    /// Id behind the last word.
    pub const END: i32 = 2;
    /// Id of every word that is not in the vocabulary.
    pub const UNKNOWN: i32 = 3;
    const SPECIAL: usize = 4;
    pub(crate) const SPECIAL_IDS: SpecialIds =
        SpecialIds { start: Self::START, end: Self::END, pad: Self::PAD, comma: None };

    /// A tokenizer for every word that the texts contain, with `context` ids per prompt.
    ///
    /// # Errors
    /// When the context is shorter than three or the texts have no word.
    pub fn from_texts<S: AsRef<str>>(
        texts: impl IntoIterator<Item = S>,
        context: usize,
    ) -> Result<Self, TokenizerError> {
        let mut all = BTreeSet::new();
        for text in texts {
            all.extend(words(text.as_ref()));
        }
        Self::build(all.into_iter().collect(), context)
    }

    fn build(words: Vec<String>, context: usize) -> Result<Self, TokenizerError> {
        if context < 3 {
            return Err(TokenizerError::ContextTooShort { context });
        }
        if words.is_empty() {
            return Err(TokenizerError::Empty);
        }
        let ids =
            words.iter().enumerate().map(|(i, word)| (word.clone(), (i + Self::SPECIAL) as i32)).collect();
        Ok(Self { words, ids, context })
    }

    /// The ids of a prompt, always [`WordTokenizer::context`] of them. Words that do not fit are left out from
    /// the end, and counted.
    pub fn encode(&self, text: &str) -> Encoding {
        let mut ids = vec![Self::START];
        let mut unknown: Vec<UnknownWord> = Vec::new();
        let mut dropped = 0;
        for word in words(text) {
            if ids.len() + 1 >= self.context {
                dropped += 1;
                continue;
            }
            let id = self.ids.get(&word).copied();
            ids.push(id.unwrap_or(Self::UNKNOWN));
            let new = id.is_none() && unknown.len() < MOST_UNKNOWN && unknown.iter().all(|u| u.word != word);
            if new {
                unknown.push(UnknownWord { nearest: self.nearest(&word), word });
            }
        }
        ids.push(Self::END);
        let length = ids.len();
        ids.resize(self.context, Self::PAD);
        Encoding { ids, length, unknown, dropped }
    }

    /// The ids of a text alone: no start, no end, no padding, no limit.
    pub fn ids(&self, text: &str) -> Vec<i32> {
        words(text).iter().map(|word| self.ids.get(word).copied().unwrap_or(Self::UNKNOWN)).collect()
    }

    /// The known words that look most like `word`, best first, at most three.
    fn nearest(&self, word: &str) -> Vec<String> {
        if word.len() > LONGEST_COMPARED {
            return Vec::new();
        }
        let likeness = |known: &String| (strsim::jaro_winkler(known, word), known.clone());
        let mut near: Vec<(f64, String)> = self.words.iter().map(likeness).collect();
        near.retain(|&(likeness, _)| likeness > LEAST_LIKENESS);
        near.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        near.into_iter().take(3).map(|(_, known)| known).collect()
    }

    /// How many ids a prompt has.
    pub fn context(&self) -> usize {
        self.context
    }

    /// How many different ids there are, the four special ones included.
    pub fn vocabulary_size(&self) -> usize {
        self.words.len() + Self::SPECIAL
    }

    /// The known words, in the order of their ids.
    pub fn words(&self) -> &[String] {
        &self.words
    }
}

impl From<WordTokenizer> for Stored {
    fn from(tokenizer: WordTokenizer) -> Self {
        Self { context: tokenizer.context, words: tokenizer.words }
    }
}

impl TryFrom<Stored> for WordTokenizer {
    type Error = TokenizerError;

    fn try_from(stored: Stored) -> Result<Self, TokenizerError> {
        let mut seen = BTreeSet::new();
        for word in &stored.words {
            let bad = |reason| TokenizerError::BadWord { word: word.clone(), reason };
            if words(word) != [word.as_str()] {
                return Err(bad("is not a single lower-case word"));
            }
            if !seen.insert(word) {
                return Err(bad("is there twice"));
            }
        }
        Self::build(stored.words, stored.context)
    }
}

/// Lower-case words of a text: runs of letters, and runs of digits.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut digits = false;
    for c in text.chars() {
        if !word.is_empty() && (!c.is_alphanumeric() || c.is_numeric() != digits) {
            words.push(std::mem::take(&mut word));
        }
        if c.is_alphanumeric() {
            digits = c.is_numeric();
            // Some lower-case forms carry a combining mark, which is no letter.
            word.extend(c.to_lowercase().filter(|c| c.is_alphanumeric()));
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tokenizer;
    use proptest::prelude::*;

    fn tokenizer() -> WordTokenizer {
        let texts =
            ["two red apples above a cat", "an owl, 3 bananas on a sky blue background", "apple banana"];
        WordTokenizer::from_texts(texts, 8).unwrap()
    }

    #[test]
    fn words_become_ids_between_start_and_end() {
        let tokenizer = tokenizer();
        let id = |word: &str| tokenizer.words().iter().position(|w| w == word).unwrap() as i32 + 4;
        let got = tokenizer.encode("Two RED apples!");
        assert_eq!(got.ids, [1, id("two"), id("red"), id("apples"), 2, 0, 0, 0]);
        assert_eq!((got.length, got.dropped, got.unknown.len()), (5, 0, 0));
        assert_eq!(tokenizer.encode("").ids, [1, 2, 0, 0, 0, 0, 0, 0]);
        assert_eq!(tokenizer.encode("3bananas").ids[1..3], [id("3"), id("bananas")]);
    }

    #[test]
    fn unknown_words_are_named_with_their_nearest() {
        let got = tokenizer().encode("a bananna on a xylophone, bananna");
        assert_eq!(got.ids[2], WordTokenizer::UNKNOWN);
        let named: Vec<_> = got.unknown.iter().map(|u| u.word.as_str()).collect();
        assert_eq!(named, ["bananna", "xylophone"]);
        assert_eq!(got.unknown[0].nearest[..2], ["banana", "bananas"]);
        assert!(got.unknown[1].nearest.is_empty());
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let got = tokenizer().encode("a cat above a cat above a cat");
        assert_eq!((got.ids.len(), got.length, got.dropped), (8, 8, 2));
        assert_eq!(got.ids[7], WordTokenizer::END);
    }

    #[test]
    fn the_stored_form_comes_back() {
        let tokenizer = Tokenizer::from(tokenizer());
        let json = tokenizer.to_json().unwrap();
        assert!(json.starts_with(r#"{"kind":"word","context":8,"words":["3","a","above""#), "{json}");
        assert_eq!(Tokenizer::from_json(&json).unwrap(), tokenizer);
    }

    #[test]
    fn damaged_stored_forms_are_refused() {
        for (json, reason) in [
            (r#"{"kind":"word","context":8,"words":["a","a"]}"#, "twice"),
            (r#"{"kind":"word","context":8,"words":["A"]}"#, "lower-case"),
            (r#"{"kind":"word","context":8,"words":[""]}"#, "single"),
            (r#"{"kind":"word","context":8,"words":[]}"#, "empty"),
            (r#"{"kind":"word","context":2,"words":["a"]}"#, "too short"),
            (r#"{"kind":"clop","context":8,"words":["a"]}"#, "clop"),
            (r#"{"kind":"word","context":8}"#, "words"),
            ("", "EOF"),
        ] {
            let error = Tokenizer::from_json(json).expect_err(json).to_string();
            assert!(error.contains(reason), "{json}: {error}");
        }
    }

    proptest! {
        #[test]
        fn a_tokenizer_of_any_text_can_be_stored(text in ".{0,60}") {
            if let Ok(tokenizer) = WordTokenizer::from_texts([text.as_str()], 16) {
                let tokenizer = Tokenizer::from(tokenizer);
                prop_assert_eq!(Tokenizer::from_json(&tokenizer.to_json().unwrap()).unwrap(), tokenizer);
            }
        }

        #[test]
        fn any_text_encodes(text in ".{0,200}") {
            let got = tokenizer().encode(&text);
            prop_assert_eq!(got.ids.len(), 8);
            prop_assert!(got.ids.iter().all(|&id| (0..tokenizer().vocabulary_size() as i32).contains(&id)));
            prop_assert_eq!(got.ids[got.length - 1], WordTokenizer::END);
        }
    }
}
