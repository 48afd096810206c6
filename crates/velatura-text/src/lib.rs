//! Tokenizers: what turns a prompt into the ids that a text transformer reads.
//!
//! [`WordTokenizer`] serves the model that ships with Velatura: one id per word of a small, closed vocabulary.
//! [`ClipTokenizer`] serves Stable Diffusion. [`Tokenizer`] is what the rest of the program holds, whichever kind a
//! model needs.
//!
//! [`prompt`] reads what people write around the words: weights, schedules, alternatives, breaks, tags.
//!
//! The crate knows nothing of networks, pictures or what the words mean.

mod clip;
pub mod prompt;
mod word;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use clip::ClipTokenizer;
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
    /// A merge of a byte-pair vocabulary does not fit its tokens.
    #[error("merge {number} of the vocabulary, {merge:?}, {reason}")]
    BadMerge {
        /// The merge as it is written.
        merge: String,
        /// Which one, from 1.
        number: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// More added tokens than a search can hold.
    #[error("{count} added tokens are too many to be searched for")]
    TooManyTokens {
        /// How many there are.
        count: usize,
    },
    /// A file of a tokenizer folder cannot be used.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file, or the folder where one is missing.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The stored form is not the JSON of a tokenizer.
    #[error("the stored tokenizer cannot be read: {0}")]
    Json(#[from] serde_json::Error),
}

/// Ids with a meaning of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialIds {
    /// In front of the first word.
    pub start: i32,
    /// Behind the last word.
    pub end: i32,
    /// Behind the end.
    pub pad: i32,
    /// A comma, where the vocabulary has it.
    pub comma: Option<i32>,
}

/// Any tokenizer, as it is stored in the metadata of a model file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Tokenizer {
    /// One id per word.
    Word(WordTokenizer),
    /// Byte pairs, as Stable Diffusion's text models read them.
    Clip(ClipTokenizer),
}

impl Tokenizer {
    /// The ids of a prompt.
    pub fn encode(&self, text: &str) -> Encoding {
        match self {
            Self::Word(tokenizer) => tokenizer.encode(text),
            Self::Clip(tokenizer) => tokenizer.encode(text),
        }
    }

    /// How many ids [`Tokenizer::encode`] gives.
    pub fn context(&self) -> usize {
        match self {
            Self::Word(tokenizer) => tokenizer.context(),
            Self::Clip(tokenizer) => tokenizer.context(),
        }
    }

    /// How many different ids there are: the rows of the embedding table.
    pub fn vocabulary_size(&self) -> usize {
        match self {
            Self::Word(tokenizer) => tokenizer.vocabulary_size(),
            Self::Clip(tokenizer) => tokenizer.vocabulary_size(),
        }
    }

    /// The ids of a piece of a prompt alone: no start, no end, no padding, no limit.
    pub fn prompt_ids(&self, text: &str) -> Vec<i32> {
        match self {
            Self::Word(tokenizer) => tokenizer.ids(text),
            Self::Clip(tokenizer) => tokenizer.prompt_ids(text),
        }
    }

    /// The ids with a meaning of their own.
    pub fn special(&self) -> SpecialIds {
        match self {
            Self::Word(_) => WordTokenizer::SPECIAL_IDS,
            Self::Clip(tokenizer) => tokenizer.special(),
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

impl From<ClipTokenizer> for Tokenizer {
    fn from(tokenizer: ClipTokenizer) -> Self {
        Self::Clip(tokenizer)
    }
}
