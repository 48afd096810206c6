//! The form of a CLIP tokenizer in a model file: the vocabulary that ships by its name, another by its contents.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::added::AddedToken;
use super::bpe::Bpe;
use super::{ClipTokenizer, openai_bpe};
use crate::TokenizerError;

/// Ids from here on are nobody's: a table with so many rows would not fit a machine.
const MOST_IDS: i32 = 1 << 24;

/// Which vocabulary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Vocabulary {
    /// The one that ships.
    Openai,
    /// One that came with a model.
    Own(Arc<OwnVocabulary>),
}

/// The contents of `vocab.json` and `merges.txt`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OwnVocabulary {
    pub tokens: BTreeMap<String, i32>,
    pub merges: Vec<String>,
}

impl OwnVocabulary {
    /// # Errors
    /// When an id is negative or absurd, or a merge does not fit the tokens.
    pub fn bpe(&self) -> Result<Bpe, TokenizerError> {
        for (token, &id) in &self.tokens {
            check_id(token, id)?;
        }
        let tokens: HashMap<&str, i32> =
            self.tokens.iter().map(|(token, &id)| (token.as_str(), id)).collect();
        Bpe::new(&tokens, self.merges.iter().map(String::as_str))
    }
}

pub(super) fn check_id(token: &str, id: i32) -> Result<(), TokenizerError> {
    if (0..MOST_IDS).contains(&id) {
        return Ok(());
    }
    Err(TokenizerError::BadWord {
        word: token.to_owned(),
        reason: "has an id that is negative or beyond 16 million",
    })
}

impl Vocabulary {
    /// One more than the greatest id, the start and the end included.
    pub fn size(&self) -> usize {
        match self {
            Self::Openai => ClipTokenizer::OPENAI_END as usize + 1,
            Self::Own(own) => own.tokens.values().max().map_or(0, |&id| id as usize + 1),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stored {
    vocabulary: Vocabulary,
    context: usize,
    start: i32,
    end: i32,
    pad: i32,
    unknown: i32,
    added: Vec<AddedToken>,
}

impl From<ClipTokenizer> for Stored {
    fn from(tokenizer: ClipTokenizer) -> Self {
        let special = tokenizer.special;
        Self {
            vocabulary: tokenizer.vocabulary,
            context: tokenizer.context,
            start: special.start,
            end: special.end,
            pad: special.pad,
            unknown: tokenizer.unknown,
            added: tokenizer.added,
        }
    }
}

impl TryFrom<Stored> for ClipTokenizer {
    type Error = TokenizerError;

    fn try_from(stored: Stored) -> Result<Self, TokenizerError> {
        let bpe = match &stored.vocabulary {
            Vocabulary::Openai => openai_bpe(),
            Vocabulary::Own(own) => Arc::new(own.bpe()?),
        };
        let Stored { vocabulary, context, start, end, pad, unknown, added } = stored;
        for (name, id) in [("start", start), ("end", end), ("padding", pad), ("unknown", unknown)] {
            check_id(name, id)?;
        }
        for token in &added {
            check_id(&token.content, token.id)?;
        }
        Self::build(bpe, vocabulary, added, [start, end, pad], unknown, context)
    }
}
