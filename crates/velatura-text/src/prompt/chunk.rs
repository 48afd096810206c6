//! Segments to chunks: token ids with multipliers, as many as the text model reads at once.

use std::collections::BTreeSet;

use super::comfy::{Piece, pieces};
use super::embeddings::ByTokens;
use super::{EmbeddingUse, Embeddings, PromptWarning, Segment};
use crate::{SpecialIds, Tokenizer};

/// What a text model reads at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// Token ids, [`Tokenizer::context`] of them: start, tokens, end, padding. 0 stands where embeddings go.
    pub ids: Vec<i32>,
    /// What each token's vector is multiplied with; 1 for start, end and padding; finite.
    pub multipliers: Vec<f32>,
    /// Embeddings in place of tokens, in order.
    pub embeddings: Vec<EmbeddingUse>,
}

/// The chunks of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    /// At least one.
    pub chunks: Vec<Chunk>,
    /// How many tokens the text has, as the tool counts them: padding before the last chunk counts.
    pub tokens: usize,
    /// What was left out.
    pub warnings: Vec<PromptWarning>,
}

/// ComfyUI keeps pieces of fewer tokens than this whole.
const LARGE_PIECE: usize = 8;

/// The chunk of the empty prompt, for both dialects.
pub fn empty_chunk(tokenizer: &Tokenizer) -> Chunk {
    Draft::default().finish(tokenizer.special(), tokenizer.context() - 2)
}

/// A chunk without its start and end.
#[derive(Default)]
struct Draft {
    ids: Vec<i32>,
    multipliers: Vec<f32>,
    /// Places count from the first token, not from the start.
    embeddings: Vec<EmbeddingUse>,
}

impl Draft {
    fn push(&mut self, id: i32, weight: f64) {
        self.ids.push(id);
        self.multipliers.push((weight as f32).clamp(f32::MIN, f32::MAX));
    }

    fn push_embedding(&mut self, name: &str, first: usize, count: usize, weight: f64) {
        let at = self.ids.len();
        self.embeddings.push(EmbeddingUse { at, name: name.to_owned(), first, count });
        for _ in 0..count {
            self.push(0, weight);
        }
    }

    /// Everything from the place `at` on.
    fn split_off(&mut self, at: usize) -> Self {
        let moved = self.embeddings.partition_point(|embedding| embedding.at < at);
        let mut embeddings = self.embeddings.split_off(moved);
        embeddings.iter_mut().for_each(|embedding| embedding.at -= at);
        Self { ids: self.ids.split_off(at), multipliers: self.multipliers.split_off(at), embeddings }
    }

    /// Start, the tokens, end, and padding behind it.
    fn finish(self, special: SpecialIds, room: usize) -> Chunk {
        let mut ids = vec![special.start];
        ids.extend(self.ids);
        ids.push(special.end);
        ids.resize(room + 2, special.pad);
        let mut multipliers = vec![1.0];
        multipliers.extend(self.multipliers);
        multipliers.resize(room + 2, 1.0);
        let mut embeddings = self.embeddings;
        embeddings.iter_mut().for_each(|embedding| embedding.at += 1);
        Chunk { ids, multipliers, embeddings }
    }
}

/// Chunks as A1111 makes them: full, unless a comma stands among the last `backtrack` tokens: what follows it then
/// begins the next. One thing is not kept: A1111 leaves the vectors of an embedding behind when it moves the
/// embedding's place.
pub(super) fn chunks(
    segments: &[Segment],
    tokenizer: &Tokenizer,
    embeddings: &dyn Embeddings,
    backtrack: usize,
) -> Encoded {
    let special = tokenizer.special();
    let room = tokenizer.context() - 2;
    let by_tokens = ByTokens::new(embeddings, tokenizer);
    let mut chunks = Vec::new();
    let mut warnings = Warnings::default();
    let mut tokens_before = 0;
    let mut draft = Draft::default();
    let mut last_comma = None;
    let mut next_chunk = |draft: &mut Draft, last_comma: &mut Option<usize>, rest: Draft| {
        chunks.push(std::mem::replace(draft, rest).finish(special, room));
        *last_comma = None;
        tokens_before += room;
    };

    for segment in segments {
        let (text, weight) = match segment {
            Segment::Break => {
                next_chunk(&mut draft, &mut last_comma, Draft::default());
                continue;
            }
            Segment::Text { text, weight } => (text, *weight),
        };
        let tokens = tokenizer.prompt_ids(text);
        let mut at = 0;
        while at < tokens.len() {
            if Some(tokens[at]) == special.comma {
                last_comma = Some(draft.ids.len());
            } else if let Some(comma) = last_comma
                && backtrack != 0
                && draft.ids.len() == room
                && draft.ids.len() - comma <= backtrack
            {
                let rest = draft.split_off(comma + 1);
                next_chunk(&mut draft, &mut last_comma, rest);
            }
            if draft.ids.len() == room {
                next_chunk(&mut draft, &mut last_comma, Draft::default());
            }
            let found = by_tokens.find(&tokens[at..]);
            let found = found.and_then(|(name, length)| {
                Some((name, length, embeddings.vectors(name).filter(|&n| n > 0)?))
            });
            let Some((name, length, vectors)) = found else {
                draft.push(tokens[at], weight);
                at += 1;
                continue;
            };
            let used = warnings.fitting(name, vectors, room);
            if draft.ids.len() + used > room {
                next_chunk(&mut draft, &mut last_comma, Draft::default());
            }
            draft.push_embedding(name, 0, used, weight);
            at += length;
        }
    }
    let mut tokens = tokens_before;
    if !draft.ids.is_empty() || chunks.is_empty() {
        tokens += draft.ids.len();
        chunks.push(draft.finish(special, room));
    }
    Encoded { chunks, tokens, warnings: warnings.list }
}

/// Windows as ComfyUI makes them: a piece of a few tokens goes to the next window whole where it does not fit; a
/// longer one is broken where the window is full.
pub(super) fn windows(segments: &[Segment], tokenizer: &Tokenizer, embeddings: &dyn Embeddings) -> Encoded {
    let special = tokenizer.special();
    let room = tokenizer.context() - 2;
    let mut chunks = Vec::new();
    let mut warnings = Warnings::default();
    let mut draft = Draft::default();
    let mut tokens = 0;
    for segment in segments {
        let Segment::Text { text, weight } = segment else { continue };
        for piece in pieces(text, embeddings, &mut warnings.list) {
            let content = match &piece {
                Piece::Text(text) => Content::Tokens(tokenizer.prompt_ids(text)),
                Piece::Embedding { name, vectors } => {
                    Content::Vectors(name, warnings.fitting(name, *vectors, MOST_VECTORS))
                }
            };
            let length = content.len();
            let large = length >= LARGE_PIECE || length > room;
            let mut done = 0;
            tokens += length;
            while done < length {
                let free = room - draft.ids.len();
                let fits = length - done <= free;
                let count = if fits {
                    length - done
                } else if large {
                    free
                } else {
                    0
                };
                content.push(&mut draft, done, count, *weight);
                done += count;
                if !fits {
                    chunks.push(std::mem::take(&mut draft).finish(special, room));
                }
            }
        }
    }
    chunks.push(draft.finish(special, room));
    Encoded { chunks, tokens, warnings: warnings.list }
}

/// No embedding anybody has is longer; windows would go on without end.
const MOST_VECTORS: usize = 1024;

enum Content<'a> {
    Tokens(Vec<i32>),
    Vectors(&'a str, usize),
}

impl Content<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Tokens(ids) => ids.len(),
            Self::Vectors(_, count) => *count,
        }
    }

    fn push(&self, draft: &mut Draft, from: usize, count: usize, weight: f64) {
        match self {
            Self::Tokens(ids) => ids[from..from + count].iter().for_each(|&id| draft.push(id, weight)),
            Self::Vectors(name, _) if count > 0 => draft.push_embedding(name, from, count, weight),
            Self::Vectors(..) => (),
        }
    }
}

/// Warnings, each embedding once.
#[derive(Default)]
struct Warnings {
    list: Vec<PromptWarning>,
    long: BTreeSet<String>,
}

impl Warnings {
    /// How many vectors of an embedding fit.
    fn fitting(&mut self, name: &str, vectors: usize, most: usize) -> usize {
        if vectors > most && self.long.insert(name.to_owned()) {
            self.list.push(PromptWarning::LongEmbedding { name: name.to_owned(), vectors, used: most });
        }
        vectors.min(most)
    }
}
