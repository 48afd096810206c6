//! Prompts as the text encoders read them, in the way of their tokenizers: plain words for a word vocabulary, A1111's
//! grammar for CLIP's.

use std::collections::{BTreeMap, BTreeSet};

use velatura_text::prompt::{self, Dialect, NetworkKind, PromptOptions, PromptWarning, Steps, Weighting};
use velatura_text::{Encoding, Tokenizer};

use crate::embeddings::{EmbeddingsFolder, OfEncoder};
use crate::engine::Warning;
use crate::request::{Emphasis, MOST_CHUNKS, RequestError};
use crate::{Error, TextEncoder};

/// How prompts are read: a model's text encoders, and what a request says of the grammar.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub encoders: &'a [TextEncoder],
    pub embeddings: &'a EmbeddingsFolder,
    pub style: PromptStyle,
    /// How often the denoiser will be called.
    pub calls: usize,
}

/// Whose grammar, and what weights do; the grammar's own way where `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct PromptStyle {
    pub dialect: Dialect,
    pub emphasis: Option<Emphasis>,
}

/// A prompt, read: what holds at which calls of the denoiser.
pub(crate) struct Reading {
    /// What `AND` joins; one part where there is no `AND`.
    pub parts: Vec<Part>,
    /// How weights are applied to the vectors.
    pub weighting: Weighting,
    /// The embeddings that it names.
    pub embeddings: BTreeSet<String>,
    /// What was odd.
    pub warnings: Vec<Warning>,
}

/// One of the prompts that are joined.
pub(crate) struct Part {
    /// Its weight.
    pub weight: f32,
    /// Its different texts, each as chunks; all have as many.
    pub texts: Vec<Vec<Chunk>>,
    /// The last call, counted from 0, at which a text holds, and which text; never empty.
    pub schedule: Vec<(usize, usize)>,
}

/// What is read at once, as each of the text encoders reads it.
pub(crate) type Chunk = Vec<Tokens>;

/// What a text transformer reads at once.
#[derive(Clone)]
pub(crate) struct Tokens {
    pub encoding: Encoding,
    /// What each token's vector is multiplied with.
    pub multipliers: Vec<f32>,
    /// What stands in place of tokens.
    pub replaced: Option<Vectors>,
}

/// Vectors in place of tokens.
#[derive(Clone)]
pub(crate) struct Vectors {
    /// 0 for a token that is replaced, 1 for any other.
    pub kept: Vec<f32>,
    /// `[tokens, features]`, 0 where a token is kept.
    pub vectors: Vec<f32>,
}

impl Reader<'_> {
    /// Reads a prompt, or a negative prompt.
    ///
    /// # Errors
    /// A prompt of more than [`MOST_CHUNKS`] chunks, and embeddings that cannot be used.
    pub fn read(&self, text: &str, negative: bool) -> Result<Reading, Error> {
        let grammatical = self.encoders.iter().any(|e| matches!(e.tokenizer, Tokenizer::Clip(_)));
        if grammatical { grammar(self, text, negative) } else { Ok(words(self.encoders, text)) }
    }
}

/// The empty prompt, as a text encoder reads it.
pub(crate) fn empty(tokenizer: &Tokenizer) -> Tokens {
    plain_tokens(&prompt::empty_chunk(tokenizer), tokenizer)
}

fn words(encoders: &[TextEncoder], text: &str) -> Reading {
    let mut warnings = Vec::new();
    let mut warn = |warning| {
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    };
    let read = |TextEncoder { tokenizer, .. }: &TextEncoder| {
        let mut encoding = tokenizer.encode(text);
        std::mem::take(&mut encoding.unknown).into_iter().map(Warning::UnknownWord).for_each(&mut warn);
        if encoding.dropped > 0 {
            warn(Warning::Dropped { words: encoding.dropped, context: tokenizer.context() });
        }
        Tokens { multipliers: vec![1.0; encoding.ids.len()], encoding, replaced: None }
    };
    let texts = vec![vec![encoders.iter().map(read).collect()]];
    let part = Part { weight: 1.0, texts, schedule: vec![(usize::MAX, 0)] };
    Reading { parts: vec![part], weighting: Weighting::Ignore, embeddings: BTreeSet::new(), warnings }
}

fn grammar(reader: &Reader<'_>, text: &str, negative: bool) -> Result<Reading, Error> {
    let Reader { encoders, embeddings, style: PromptStyle { dialect, emphasis }, calls } = *reader;
    let weights = emphasis != Some(Emphasis::None);
    let options = PromptOptions { negative, weights, ..PromptOptions::new(dialect, Steps::new(calls)) };
    let prompt = prompt::Prompt::read(text, &options);
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
    // By text, then by encoder.
    let mut encoded: Vec<Vec<Vec<Tokens>>> = Vec::new();
    let mut named = BTreeSet::new();
    for text in 0..prompt.texts.len() {
        let mut of_text = Vec::new();
        for (index, encoder) in encoders.iter().enumerate() {
            let tokenizer = &encoder.tokenizer;
            let own = embeddings.of(encoders, index, dialect);
            let read = prompt.encode(text, tokenizer, &own);
            if read.chunks.len() > MOST_CHUNKS {
                let which = if negative { "negative prompt" } else { "prompt" };
                let most = MOST_CHUNKS * (tokenizer.context() - 2);
                return Err(RequestError::PromptTokens { which, tokens: read.tokens, most }.into());
            }
            named
                .extend(read.chunks.iter().flat_map(|chunk| &chunk.embeddings).map(|used| used.name.clone()));
            let chunks = read.chunks.iter().map(|chunk| tokens(chunk, encoder, &own));
            of_text.push(chunks.collect::<Result<_, Error>>()?);
            for warning in encoded_warnings(&read.warnings, &own.check()?, dialect) {
                if !warnings.contains(&warning) {
                    warnings.push(warning);
                }
            }
        }
        encoded.push(of_text);
    }
    // A1111 fills shorter texts with empty chunks, so that the context does not change its length.
    let part = |part: &prompt::PromptPart| {
        let mut used: Vec<usize> = part.schedule.iter().map(|entry| entry.text).collect();
        used.sort_unstable();
        used.dedup();
        let chunks = used.iter().flat_map(|&text| &encoded[text]).map(Vec::len).max().unwrap_or(1);
        let chunk = |text: usize, at: usize| -> Chunk {
            let of_text = encoders.iter().zip(&encoded[text]);
            let tokens = of_text.map(|(encoder, read)| match read.get(at) {
                Some(tokens) => tokens.clone(),
                None => empty(&encoder.tokenizer),
            });
            tokens.collect()
        };
        let texts = used.iter().map(|&text| (0..chunks).map(|at| chunk(text, at)).collect()).collect();
        let place = |text: usize| used.binary_search(&text).unwrap_or_default();
        Part {
            weight: part.weight as f32,
            texts,
            schedule: part.schedule.iter().map(|entry| (entry.last_call, place(entry.text))).collect(),
        }
    };
    let weighting = emphasis.map_or(dialect.weighting(), Emphasis::weighting);
    Ok(Reading { parts: prompt.parts.iter().map(part).collect(), weighting, embeddings: named, warnings })
}

/// What was odd where an encoder read a text. Embeddings of other models are words in A1111 and nothing in ComfyUI, and both
/// say no more than that in their logs.
fn encoded_warnings(
    read: &[PromptWarning],
    unfit: &BTreeMap<String, String>,
    dialect: Dialect,
) -> Vec<Warning> {
    let instead = match dialect {
        Dialect::A1111 => "its name is read as text",
        Dialect::ComfyUi => "it is left out",
    };
    let of_others = unfit.iter().map(|(name, why)| {
        Warning::Prompt(format!(
            "the embedding \"{name}\" was made for another family of models, so {instead}: {why}"
        ))
    });
    // ComfyUI's grammar takes what does not fit for missing.
    let known =
        |w: &&PromptWarning| !matches!(w, PromptWarning::NoEmbedding { name } if unfit.contains_key(name));
    of_others.chain(read.iter().filter(known).map(|w| Warning::Prompt(w.to_string()))).collect()
}

/// A chunk with the vectors of its embeddings.
fn tokens(chunk: &prompt::Chunk, encoder: &TextEncoder, own: &OfEncoder<'_>) -> Result<Tokens, Error> {
    let mut tokens = plain_tokens(chunk, &encoder.tokenizer);
    if !chunk.embeddings.is_empty() {
        let (length, width) = (chunk.ids.len(), encoder.config.hidden_size);
        let (mut kept, mut vectors) = (vec![1.0; length], vec![0.0; length * width]);
        for used in &chunk.embeddings {
            let places = used.at..used.at + used.count;
            kept[places.clone()].fill(0.0);
            let values = own.values(&used.name, used.first, used.count)?;
            vectors[places.start * width..places.end * width].copy_from_slice(&values);
        }
        tokens.replaced = Some(Vectors { kept, vectors });
    }
    Ok(tokens)
}

fn plain_tokens(chunk: &prompt::Chunk, tokenizer: &Tokenizer) -> Tokens {
    let end = tokenizer.special().end;
    Tokens {
        encoding: Encoding {
            length: chunk.ids.iter().position(|&id| id == end).map_or(chunk.ids.len(), |at| at + 1),
            ids: chunk.ids.clone(),
            unknown: Vec::new(),
            dropped: 0,
        },
        multipliers: chunk.multipliers.clone(),
        replaced: None,
    }
}

#[cfg(test)]
mod tests {
    use velatura_models::TextConfig;
    use velatura_text::ClipTokenizer;

    use super::*;

    fn encoders() -> Vec<TextEncoder> {
        [ClipTokenizer::openai(), ClipTokenizer::openai_padded(0)]
            .map(|tokenizer| TextEncoder {
                prefix: "text_encoder".into(),
                config: TextConfig::default(),
                tokenizer: tokenizer.into(),
            })
            .into()
    }

    fn read_as(style: PromptStyle, text: &str, negative: bool) -> Result<Reading, Error> {
        Reader { encoders: &encoders(), embeddings: &EmbeddingsFolder::default(), style, calls: 10 }
            .read(text, negative)
    }

    fn read(text: &str, negative: bool) -> Reading {
        read_as(PromptStyle::default(), text, negative).unwrap()
    }

    #[test]
    fn the_dialect_and_the_emphasis_are_chosen() {
        let text = "((a:1.5)) [b] AND c";
        let weights = |style| -> (usize, Vec<f32>) {
            let reading = read_as(style, text, false).unwrap();
            (reading.parts.len(), reading.parts[0].texts[0][0][0].multipliers[1..5].to_vec())
        };
        let style = |dialect, emphasis| PromptStyle { dialect, emphasis };
        let (parts, a1111) = weights(PromptStyle::default());
        assert_eq!((parts, a1111[0]), (2, 1.65));
        let (parts, comfy) = weights(style(Dialect::ComfyUi, None));
        assert_eq!((parts, &comfy[..2]), (1, &[1.5, 1.0][..]));
        let (parts, none) = weights(style(Dialect::A1111, Some(Emphasis::None)));
        assert_eq!((parts, none), (2, vec![1.0; 4]));
        let read = |style| read_as(style, "a", false).unwrap().weighting;
        assert_eq!(read(style(Dialect::ComfyUi, None)), Weighting::Interpolate);
        assert_eq!(read(style(Dialect::ComfyUi, Some(Emphasis::NoNorm))), Weighting::NoNorm);
        assert_eq!(read(PromptStyle::default()), Weighting::Original);
    }

    #[test]
    fn each_encoder_pads_in_its_own_way() {
        let reading = read("a lake!", false);
        let [first, second] = reading.parts[0].texts[0][0].as_slice() else { panic!() };
        assert_eq!(first.encoding.ids[..5], second.encoding.ids[..5]);
        assert_eq!((first.encoding.ids[5], second.encoding.ids[5]), (49407, 0));
        assert_eq!((first.encoding.length, second.encoding.length), (5, 5));
    }

    #[test]
    fn long_prompts_have_several_chunks_and_are_bounded() {
        let reading = read(&"lake ".repeat(100), false);
        assert_eq!(reading.parts[0].texts[0].len(), 2);
        assert!(reading.warnings.is_empty());
        let long = "lake ".repeat(75 * MOST_CHUNKS + 1);
        let error = read_as(PromptStyle::default(), &long, true).err().unwrap();
        assert!(error.to_string().contains("negative prompt"), "{error}");
    }

    #[test]
    fn weights_parts_and_schedules_are_kept() {
        let reading = read("a (red:1.5) lake AND a [cat:dog:0.5]:0.5", false);
        let [first, second] = reading.parts.as_slice() else { panic!() };
        assert_eq!(first.texts[0][0][1].multipliers[..4], [1.0, 1.0, 1.5, 1.0]);
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
