//! Tokenizers: what turns a prompt into the ids that a text transformer reads.
//!
//! [`WordTokenizer`] serves the model that ships with Velatura: one id per word of a small, closed vocabulary.
//! [`Tokenizer`] is what the rest of the program holds, whichever kind a model needs.
//!
//! The crate knows nothing of networks, pictures or what the words mean.

mod word;

use serde::{Deserialize, Serialize};

pub use word::WordTokenizer;

/// A prompt as a text transformer reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids, padded to the context length of the tokenizer.
    pub ids: Vec<i32>,
    /// How many of them are not padding, start and end included.
    pub length: usize,
    /// The words that the tokenizer does not know, each once, in the order of the prompt.
    pub unknown: Vec<UnknownWord>,
    /// How many words did not fit and were left out.
    pub dropped: usize,
}

/// A word that is not in the vocabulary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownWord {
    /// The word, lower case.
    pub word: String,
    /// Known words that look most like it, best first, at most three; often none.
    pub nearest: Vec<String>,
}

/// What can go wrong when a tokenizer is made or read.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The context has no room for the start, a word and the end.
    #[error("a context of {context} tokens is too short: it must hold the start, a word and the end")]
    ContextTooShort {
        /// The context length that was asked for.
        context: usize,
    },
    /// There is no word.
    #[error("the vocabulary is empty")]
    Empty,
    /// The stored form has words that no prompt can contain, or has them twice.
    #[error("the stored vocabulary is damaged: the word \"{word}\" {reason}")]
    BadWord {
        /// The word.
        word: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The stored form is not the JSON of a tokenizer.
    #[error("the stored tokenizer cannot be read: {0}")]
    Json(#[from] serde_json::Error),
}

/// Any tokenizer, as it is stored in the metadata of a model file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Tokenizer {
    /// One id per word.
    Word(WordTokenizer),
}

impl Tokenizer {
    /// The ids of a prompt.
    pub fn encode(&self, text: &str) -> Encoding {
        match self {
            Self::Word(tokenizer) => tokenizer.encode(text),
        }
    }

    /// How many ids [`Tokenizer::encode`] gives.
    pub fn context(&self) -> usize {
        match self {
            Self::Word(tokenizer) => tokenizer.context(),
        }
    }

    /// How many different ids there are: the rows of the embedding table.
    pub fn vocabulary_size(&self) -> usize {
        match self {
            Self::Word(tokenizer) => tokenizer.vocabulary_size(),
        }
    }

    /// The stored form: one line of JSON.
    ///
    /// # Errors
    /// Never in practice: strings and numbers always serialise.
    pub fn to_json(&self) -> Result<String, TokenizerError> {
        Ok(serde_json::to_string(self)?)
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// When it is not the JSON of a known tokenizer, or its vocabulary is damaged.
    pub fn from_json(json: &str) -> Result<Self, TokenizerError> {
        Ok(serde_json::from_str(json)?)
    }
}

impl From<WordTokenizer> for Tokenizer {
    fn from(tokenizer: WordTokenizer) -> Self {
        Self::Word(tokenizer)
    }
}
