//! Prompts as the text transformer reads them, in the way of the model's tokenizer: plain words for a word
//! vocabulary, A1111's grammar for CLIP's.

use std::collections::BTreeMap;

use velatura_text::prompt::{self, Dialect, NetworkKind, PromptOptions, Steps, Weighting};
use velatura_text::{Encoding, Tokenizer};

use crate::engine::Warning;
use crate::request::{MOST_CHUNKS, RequestError};

/// A prompt, read: what holds at which calls of the denoiser.
pub(crate) struct Reading {
    /// What `AND` joins; one part where there is no `AND`.
    pub parts: Vec<Part>,
    /// How weights are applied to the vectors.
    pub weighting: Weighting,
    /// What was odd.
    pub warnings: Vec<Warning>,
}

/// One of the prompts that are joined.
pub(crate) struct Part {
    /// Its weight.
    pub weight: f32,
    /// Its different texts, each as chunks of tokens; all have as many chunks.
    pub texts: Vec<Vec<Tokens>>,
    /// The last call, counted from 0, at which a text holds, and which text; never empty.
    pub schedule: Vec<(usize, usize)>,
}

/// What the text transformer reads at once.
pub(crate) struct Tokens {
    pub encoding: Encoding,
    /// What each token's vector is multiplied with.
    pub multipliers: Vec<f32>,
}

impl Reading {
    /// Reads a prompt, or a negative prompt, for a run of so many calls of the denoiser.
    ///
    /// # Errors
    /// A prompt of more than [`MOST_CHUNKS`] chunks.
    pub fn new(
        tokenizer: &Tokenizer,
        text: &str,
        negative: bool,
        calls: usize,
    ) -> Result<Self, RequestError> {
        match tokenizer {
            Tokenizer::Clip(_) => grammar(tokenizer, text, negative, calls),
            _ => Ok(words(tokenizer, text)),
        }
    }
}

fn words(tokenizer: &Tokenizer, text: &str) -> Reading {
    let mut encoding = tokenizer.encode(text);
    let mut warnings: Vec<Warning> =
        std::mem::take(&mut encoding.unknown).into_iter().map(Warning::UnknownWord).collect();
    if encoding.dropped > 0 {
        warnings.push(Warning::Dropped { words: encoding.dropped, context: tokenizer.context() });
    }
    let multipliers = vec![1.0; encoding.ids.len()];
    let texts = vec![vec![Tokens { encoding, multipliers }]];
    let part = Part { weight: 1.0, texts, schedule: vec![(usize::MAX, 0)] };
    Reading { parts: vec![part], weighting: Weighting::Ignore, warnings }
}

fn grammar(tokenizer: &Tokenizer, text: &str, negative: bool, calls: usize) -> Result<Reading, RequestError> {
    let dialect = Dialect::A1111;
    let options = PromptOptions { negative, ..PromptOptions::new(dialect, Steps::new(calls)) };
    let prompt = prompt::Prompt::read(text, &options);
    let no_embeddings = BTreeMap::<String, usize>::new();
    let mut warnings: Vec<Warning> = prompt.warnings.iter().map(|w| Warning::Prompt(w.to_string())).collect();
    for network in &prompt.networks {
        let kind = match network.kind {
            NetworkKind::Lora => "lora",
            NetworkKind::Lycoris => "lyco",
            NetworkKind::Hypernetwork => "hypernet",
        };
        warnings.push(Warning::Prompt(format!(
            "<{kind}:{}> is left out: networks beside the model are not applied",
            network.name
        )));
    }
    let encoded: Vec<prompt::Encoded> =
        (0..prompt.texts.len()).map(|text| prompt.encode(text, tokenizer, &no_embeddings)).collect();
    for text in &encoded {
        warnings.extend(text.warnings.iter().map(|w| Warning::Prompt(w.to_string())));
        if text.chunks.len() > MOST_CHUNKS {
            let which = if negative { "negative prompt" } else { "prompt" };
            let most = MOST_CHUNKS * (tokenizer.context() - 2);
            return Err(RequestError::PromptTokens { which, tokens: text.tokens, most });
        }
    }
    let end = tokenizer.special().end;
    let tokens = |chunk: &prompt::Chunk| Tokens {
        encoding: Encoding {
            length: chunk.ids.iter().position(|&id| id == end).map_or(chunk.ids.len(), |at| at + 1),
            ids: chunk.ids.clone(),
            unknown: Vec::new(),
            dropped: 0,
        },
        multipliers: chunk.multipliers.clone(),
    };
    let empty = prompt::empty_chunk(tokenizer);
    let part = |part: &prompt::PromptPart| {
        let mut used: Vec<usize> = part.schedule.iter().map(|entry| entry.text).collect();
        used.sort_unstable();
        used.dedup();
        // A1111 fills shorter texts of a schedule with empty chunks, so that the context does not change its length.
        let chunks = used.iter().map(|&text| encoded[text].chunks.len()).max().unwrap_or(1);
        let texts = used
            .iter()
            .map(|&text| {
                let own = encoded[text].chunks.iter().chain(std::iter::repeat(&empty));
                own.take(chunks).map(&tokens).collect()
            })
            .collect();
        let place = |text: usize| used.binary_search(&text).unwrap_or_default();
        Part {
            weight: part.weight as f32,
            texts,
            schedule: part.schedule.iter().map(|entry| (entry.last_call, place(entry.text))).collect(),
        }
    };
    Ok(Reading { parts: prompt.parts.iter().map(part).collect(), weighting: dialect.weighting(), warnings })
}

#[cfg(test)]
mod tests {
    use velatura_text::ClipTokenizer;

    use super::*;

    fn read(text: &str, negative: bool) -> Reading {
        Reading::new(&ClipTokenizer::openai().into(), text, negative, 10).unwrap()
    }

    #[test]
    fn long_prompts_have_several_chunks_and_are_bounded() {
        let reading = read(&"lake ".repeat(100), false);
        assert_eq!(reading.parts[0].texts[0].len(), 2);
        assert!(reading.warnings.is_empty());
        let long = "lake ".repeat(75 * MOST_CHUNKS + 1);
        let error = Reading::new(&ClipTokenizer::openai().into(), &long, true, 10).err().unwrap();
        assert!(error.to_string().contains("negative prompt"), "{error}");
    }

    #[test]
    fn weights_parts_and_schedules_are_kept() {
        let reading = read("a (red:1.5) lake AND a [cat:dog:0.5]:0.5", false);
        let [first, second] = reading.parts.as_slice() else { panic!() };
        assert_eq!(first.texts[0][0].multipliers[..4], [1.0, 1.0, 1.5, 1.0]);
        assert_eq!((first.weight, second.weight), (1.0, 0.5));
        assert_eq!((second.texts.len(), second.schedule.len()), (2, 2));
        assert_eq!(second.schedule[0], (5, second.schedule[0].1));
        // A negative prompt has no parts.
        assert_eq!(read("a AND b", true).parts.len(), 1);
    }

    #[test]
    fn a_schedule_keeps_the_length_of_the_context() {
        let reading = read(&format!("[a:{}:0.5]", "lake ".repeat(100)), false);
        assert!(reading.parts[0].texts.iter().all(|text| text.len() == 2));
    }

    #[test]
    fn networks_are_said_to_be_left_out() {
        let warnings = read("a lake <lora:add_detail:0.7>", false).warnings;
        assert!(warnings[0].to_string().contains("<lora:add_detail>"), "{warnings:?}");
    }
}
