//! Prompt grammar: what people write around the words, as A1111's web UI and as ComfyUI read it.
//!
//! The way of a prompt:
//!
//! 1. [`styles::apply`] puts it into the styles that are chosen, where there are any;
//! 2. [`Prompt::read`] undoes the grammar: which texts hold at which calls of the denoiser, in which parts with
//!    which weights, and which networks it names;
//! 3. [`Prompt::encode`] makes [`Chunk`]s of a text: token ids with a multiplier each, as many as a text model
//!    reads at once;
//! 4. the text model turns each chunk into vectors, and a [`Weighting`] applies the multipliers to them.
//!
//! Nothing here fails: what the grammar cannot read is read as it is written, and a [`PromptWarning`] says so. All
//! of it takes time in proportion to the length of the prompt and never recurses.
//!
//! | | [`Dialect::A1111`] | [`Dialect::ComfyUi`] |
//! |---|---|---|
//! | `(a)` `((a))` | 1.1, 1.21 | 1.1, 1.21 |
//! | `(a:1.3)` `((a:1.3))` | 1.3, 1.43 | 1.3, 1.3 |
//! | `[a]` | 1 / 1.1 | literal |
//! | unclosed `(a` | 1.1 | literal |
//! | `[a:b:0.5]` `[a\|b]` `AND` `BREAK` `# comment` `<lora:a:1>` | grammar | literal |
//! | embedding | its bare name | `embedding:name` |
//! | more than fits | chunks, broken at a comma | windows, short pieces kept whole |

mod a1111;
mod chunk;
mod comfy;
mod embeddings;
pub mod styles;
mod warning;
pub mod weighting;

use serde::{Deserialize, Serialize};

pub use a1111::{NetworkKind, NetworkTag, ScheduledText, attention, prompt_schedule, strip_comments};
pub use chunk::{Chunk, Encoded, empty_chunk};
pub use comfy::token_weights;
pub use embeddings::{EmbeddingUse, Embeddings};
pub use warning::PromptWarning;
pub use weighting::Weighting;

use crate::Tokenizer;

/// Whose grammar a prompt is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// That of the web UI by AUTOMATIC1111 and of its descendants, Forge among them.
    #[default]
    A1111,
    /// That of ComfyUI's text encoder.
    ComfyUi,
}

impl std::str::FromStr for Dialect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "a1111" => Ok(Self::A1111),
            "comfy" | "comfyui" => Ok(Self::ComfyUi),
            _ => Err("must be a1111 or comfy".to_string()),
        }
    }
}

impl Dialect {
    /// As the tool writes its name.
    pub fn title(self) -> &'static str {
        match self {
            Self::A1111 => "A1111",
            Self::ComfyUi => "ComfyUI",
        }
    }

    /// Whether it is the one that is read where nobody says.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// How the tool applies weights by default.
    pub fn weighting(self) -> Weighting {
        match self {
            Self::A1111 => Weighting::Original,
            Self::ComfyUi => Weighting::Interpolate,
        }
    }
}

/// How the numbers of `[a:b:number]` count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepNumbers {
    /// A number with a point is a fraction of the steps, any other a step (A1111 from version 1.6 on).
    #[default]
    PointIsFraction,
    /// A number below 1 is a fraction of the steps, any other a step (A1111 before; its "old prompt editing
    /// timelines").
    BelowOneIsFraction,
}

/// The steps that schedules refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    /// How many calls of the denoiser there will be. A1111 counts calls, not steps: twice as many for samplers that
    /// call it twice a step.
    pub count: usize,
    /// In a second pass (high-resolution fix), the steps of the first: fractions from 1 to 2 and steps beyond the
    /// first pass then belong to the second.
    pub first_pass: Option<usize>,
    /// How numbers count.
    pub numbers: StepNumbers,
}

impl Steps {
    /// A single pass of `count` calls, with numbers as A1111 reads them now.
    pub fn new(count: usize) -> Self {
        Self { count, first_pass: None, numbers: StepNumbers::default() }
    }
}

/// How to read a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptOptions {
    /// Whose grammar.
    pub dialect: Dialect,
    /// The steps that schedules refer to.
    pub steps: Steps,
    /// Whether this is the negative prompt: A1111 reads neither `AND` nor networks there.
    pub negative: bool,
    /// Whether brackets weigh. Without, they are letters, and A1111 reads no `BREAK` either (its emphasis "None").
    pub weights: bool,
    /// How many tokens A1111 may move behind a comma into the next chunk; 0 never moves any. Its default is 20.
    pub comma_backtrack: usize,
}

impl PromptOptions {
    /// The tool's own defaults for a prompt.
    pub fn new(dialect: Dialect, steps: Steps) -> Self {
        Self { dialect, steps, negative: false, weights: true, comma_backtrack: 20 }
    }

    /// The same for the negative prompt.
    pub fn negative(dialect: Dialect, steps: Steps) -> Self {
        Self { negative: true, ..Self::new(dialect, steps) }
    }
}

/// A piece of text with its weight, or the end of a chunk.
#[derive(Clone, Debug, PartialEq)]
pub enum Segment {
    /// Text that is tokenised by itself.
    Text {
        /// The text, without brackets and escapes.
        text: String,
        /// What its tokens are multiplied with; finite.
        weight: f64,
    },
    /// `BREAK`: the chunk ends here.
    Break,
}

impl Segment {
    fn text(text: impl Into<String>, weight: f64) -> Self {
        Self::Text { text: text.into(), weight }
    }
}

/// One of the prompts that `AND` joins.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptPart {
    /// Its weight; 1 where none is written.
    pub weight: f64,
    /// Its texts in time, never empty. A1111 encodes them as one batch, which matters where the mean of the vectors
    /// is restored ([`weighting::original`]); a text that comes up twice is in that batch twice.
    pub schedule: Vec<Scheduled>,
}

/// A text and the time it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheduled {
    /// The last call of the denoiser, counted from 0, at which it holds. (A1111 writes the schedule in steps from 1
    /// and looks it up by calls from 0, so every change comes one call later than the number says. That is kept.)
    pub last_call: usize,
    /// Which of [`Prompt::texts`].
    pub text: usize,
}

/// Calls of the denoiser for which nothing changes.
#[derive(Clone, Debug, PartialEq)]
pub struct CallRange {
    /// The first call, counted from 0.
    pub first: usize,
    /// The last call.
    pub last: usize,
    /// Weight and text of every part.
    pub parts: Vec<(f64, usize)>,
}

/// A prompt, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// The different texts, each once.
    pub texts: Vec<Vec<Segment>>,
    /// What `AND` joins; one part where there is no `AND`.
    pub parts: Vec<PromptPart>,
    /// The networks that the prompt names, in its order.
    pub networks: Vec<NetworkTag>,
    /// What was read otherwise than it may have been meant.
    pub warnings: Vec<PromptWarning>,
    options: PromptOptions,
}

impl Prompt {
    /// Reads a prompt; any string is one.
    pub fn read(text: &str, options: &PromptOptions) -> Self {
        match options.dialect {
            Dialect::A1111 => a1111::read(text, options),
            Dialect::ComfyUi => {
                let segments = match options.weights {
                    true => comfy::token_weights(text),
                    false => vec![Segment::text(text, 1.0)],
                };
                let schedule = vec![Scheduled { last_call: options.steps.count, text: 0 }];
                let parts = vec![PromptPart { weight: 1.0, schedule }];
                let (networks, warnings) = (Vec::new(), Vec::new());
                Self { texts: vec![segments], parts, networks, warnings, options: *options }
            }
        }
    }

    /// Weight and text of every part at a call of the denoiser, counted from 0.
    pub fn at(&self, call: usize) -> Vec<(f64, usize)> {
        let text = |part: &PromptPart| {
            let at = part.schedule.partition_point(|entry| entry.last_call < call);
            (part.weight, part.schedule[at.min(part.schedule.len() - 1)].text)
        };
        self.parts.iter().map(text).collect()
    }

    /// The calls of the denoiser in ranges without a change, in order and without gaps; empty where there are no
    /// calls.
    pub fn ranges(&self) -> Vec<CallRange> {
        let calls = self.options.steps.count;
        let mut lasts: Vec<usize> =
            self.parts.iter().flat_map(|part| &part.schedule).map(|entry| entry.last_call).collect();
        lasts.push(calls.saturating_sub(1));
        lasts.retain(|&last| last < calls);
        lasts.sort_unstable();
        lasts.dedup();
        let mut ranges: Vec<CallRange> = Vec::new();
        for last in lasts {
            let first = ranges.last().map_or(0, |range| range.last + 1);
            let parts = self.at(first);
            match ranges.last_mut() {
                Some(before) if before.parts == parts => before.last = last,
                _ => ranges.push(CallRange { first, last, parts }),
            }
        }
        ranges
    }

    /// The chunks of one of [`Prompt::texts`], for a text model that reads [`Tokenizer::context`] ids at once.
    /// Models with two text encoders encode with each one's tokenizer.
    ///
    /// # Panics
    /// When there is no such text.
    pub fn encode(&self, text: usize, tokenizer: &Tokenizer, embeddings: &dyn Embeddings) -> Encoded {
        let segments = &self.texts[text];
        match self.options.dialect {
            Dialect::A1111 => chunk::chunks(segments, tokenizer, embeddings, self.options.comma_backtrack),
            Dialect::ComfyUi => chunk::windows(segments, tokenizer, embeddings),
        }
    }
}

/// Whitespace as Python's regular expressions and strings have it: Unicode's and four separators more.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// A number as both tools' grammars write them, where it is one that can be multiplied with.
fn finite(number: &str) -> Option<f64> {
    number.parse().ok().filter(|number: &f64| number.is_finite())
}
