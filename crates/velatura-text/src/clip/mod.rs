//! CLIP's tokenizer (Radford et al. 2021, "Learning transferable visual models from natural language supervision"):
//! byte-pair encoding of lower-case text, 49,408 ids, 77 of them to a prompt.
//!
//! The vocabulary ships with the program, as pairs of ids instead of text: nothing has to be parsed, and the
//! tokenizer is ready in two milliseconds. That is why the code here is our own: the `tokenizers` crate would read
//! three megabytes of JSON at every start, which takes it about 100 ms, and brings dozens of crates for a pattern
//! of one line. What it does to a text is imitated to the id, and held against it over every character that Unicode
//! 14 assigns. One difference is known: several combining marks on one letter are put in the standard's order also
//! where they are newer than that crate's tables (Dogra, Masaram Gondi and the like), in which case it leaves them as
//! they are typed.
//!
//! **Which of the readings in the wild.** The original (`open_clip`, and A1111 with it) repairs text with `ftfy`
//! and undoes HTML entities before it encodes; transformers' tokenizer, which every diffusers pipeline and ComfyUI
//! use, does neither: canonical composition (NFC), whitespace to single spaces, lower case. This one reads as
//! transformers does. The two part at curly quotes (`it’s` is `it ’ s` here, `it's` there), full-width and
//! compatibility characters, HTML entities (`&amp;` stays as it is typed), control characters, and the final sigma.

mod added;
mod bpe;
mod folder;
mod split;
mod stored;
mod write;

use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use crate::{Encoding, SpecialIds, TokenizerError};
use added::{AddedToken, Finder, Part};
use bpe::Bpe;
use stored::{Stored, Vocabulary};

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
/// How many ids a prompt has where a folder does not say.
const CONTEXT: usize = 77;

/// CLIP's tokenizer with OpenAI's vocabulary or one from a model folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct ClipTokenizer {
    bpe: Arc<Bpe>,
    vocabulary: Vocabulary,
    added: Vec<AddedToken>,
    /// Finds all added tokens.
    finder: Finder,
    /// Finds all but padding: see [`ClipTokenizer::prompt_ids`].
    prompt_finder: Finder,
    special: SpecialIds,
    unknown: i32,
    context: usize,
}

impl ClipTokenizer {
    /// Id in front of the first word in OpenAI's vocabulary.
    pub const OPENAI_START: i32 = 49406;
    /// Id behind the last word in OpenAI's vocabulary; Stable Diffusion 1 and the first text model of SDXL pad with
    /// it too.
    pub const OPENAI_END: i32 = 49407;

    /// The tokenizer of Stable Diffusion 1: OpenAI's vocabulary, 77 ids, padded with the end.
    pub fn openai() -> Self {
        Self::openai_padded(Self::OPENAI_END)
    }

    /// OpenAI's vocabulary, 77 ids, padded with `pad`: 0 for Stable Diffusion 2 and the second text model of SDXL.
    pub fn openai_padded(pad: i32) -> Self {
        let added = vec![
            AddedToken { content: START.to_owned(), id: Self::OPENAI_START, normalized: true },
            AddedToken { content: END.to_owned(), id: Self::OPENAI_END, normalized: false },
        ];
        let special = [Self::OPENAI_START, Self::OPENAI_END, pad];
        // Two patterns always fit an automaton.
        Self::build(openai_bpe(), Vocabulary::Openai, added, special, Self::OPENAI_END, CONTEXT)
            .unwrap_or_else(|error| unreachable!("{error}"))
    }

    fn build(
        bpe: Arc<Bpe>,
        vocabulary: Vocabulary,
        added: Vec<AddedToken>,
        [start, end, pad]: [i32; 3],
        unknown: i32,
        context: usize,
    ) -> Result<Self, TokenizerError> {
        if context < 3 {
            return Err(TokenizerError::ContextTooShort { context });
        }
        let finder = Finder::new(added.iter())?;
        let padding = |token: &&AddedToken| token.id == pad && pad != end && pad != start;
        let prompt_finder = match added.iter().any(|token| padding(&token)) {
            true => Finder::new(added.iter().filter(|token| !padding(token)))?,
            false => finder.clone(),
        };
        let special = SpecialIds { start, end, pad, comma: bpe.comma() };
        Ok(Self { bpe, vocabulary, added, finder, prompt_finder, special, unknown, context })
    }

    /// The ids of a prompt as diffusers makes them: start, words, end, padding, always [`ClipTokenizer::context`]
    /// of them. What does not fit is cut off, also within a word.
    pub fn encode(&self, text: &str) -> Encoding {
        let room = self.context - 2;
        let mut ids = vec![self.special.start];
        let mut dropped = 0;
        self.each_word(&self.finder, text, &mut ids, |ids| {
            if ids.len() - 1 > room {
                ids.truncate(room + 1);
                dropped += 1;
            }
        });
        ids.push(self.special.end);
        let length = ids.len();
        ids.resize(self.context, self.special.pad);
        Encoding { ids, length, unknown: Vec::new(), dropped }
    }

    /// The ids of a text alone: no start, no end, no padding, no limit.
    pub fn ids(&self, text: &str) -> Vec<i32> {
        let mut ids = Vec::new();
        self.each_word(&self.finder, text, &mut ids, |_| ());
        ids
    }

    /// The ids of a text in a prompt for A1111 or ComfyUI. They differ from [`ClipTokenizer::ids`] where a folder
    /// pads with a character that people type: Stable Diffusion 2 and SDXL pad with `!`, and transformers then
    /// takes every `!` in a prompt for padding; those tools do not.
    pub fn prompt_ids(&self, text: &str) -> Vec<i32> {
        let mut ids = Vec::new();
        self.each_word(&self.prompt_finder, text, &mut ids, |_| ());
        ids
    }

    /// Appends the ids of a text and calls `after_word` behind each word.
    fn each_word(
        &self,
        finder: &Finder,
        text: &str,
        ids: &mut Vec<i32>,
        mut after_word: impl FnMut(&mut Vec<i32>),
    ) {
        finder.parts(text, |part| match part {
            Part::Token(id) => {
                ids.push(id);
                after_word(ids);
            }
            Part::Text(text) => split::words(text, |word| {
                self.bpe.encode(word, self.unknown, ids);
                after_word(ids);
            }),
        });
    }

    /// The ids with a meaning of their own.
    pub fn special(&self) -> SpecialIds {
        self.special
    }

    /// How many ids [`ClipTokenizer::encode`] gives.
    pub fn context(&self) -> usize {
        self.context
    }

    /// How many different ids there are: the rows of the embedding table.
    pub fn vocabulary_size(&self) -> usize {
        let added = self.added.iter().map(|token| token.id as usize + 1).max().unwrap_or(0);
        self.vocabulary.size().max(added)
    }
}

impl PartialEq for ClipTokenizer {
    /// What is stored is all there is; the rest follows from it.
    fn eq(&self, other: &Self) -> bool {
        self.vocabulary == other.vocabulary
            && self.added == other.added
            && self.special == other.special
            && self.unknown == other.unknown
            && self.context == other.context
    }
}

impl Eq for ClipTokenizer {}

/// OpenAI's vocabulary, made once.
fn openai_bpe() -> Arc<Bpe> {
    static OPENAI: OnceLock<Arc<Bpe>> = OnceLock::new();
    OPENAI.get_or_init(|| Arc::new(Bpe::openai())).clone()
}
