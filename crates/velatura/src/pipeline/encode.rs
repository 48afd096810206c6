//! Prompts to what the denoiser looks at: chunks through the text transformers, weights applied, the encoders' vectors
//! side by side, chunks end to end.

use std::collections::HashMap;
use std::sync::Arc;

use velatura_cpu::CancelToken;
use velatura_text::prompt::{Dialect, Weighting};

use crate::Error;
use crate::engine::Engine;
use crate::networks::{Encoded, Network};
use crate::plans::{PlanKey, lock};
use crate::prompt::{self, Chunk, Part, Reading, Tokens};
use crate::request::{Precision, Settings};

/// A prompt, encoded: what each of its parts says at each call of the denoiser.
pub(crate) struct Conditions {
    parts: Vec<Scheduled>,
}

struct Scheduled {
    weight: f32,
    /// The last call at which a text holds, and the text.
    texts: Vec<(usize, Arc<Encoded>)>,
}

impl Conditions {
    /// Weight and text of every part at a call, counted from 0.
    pub fn at(&self, call: usize) -> impl Iterator<Item = (f32, &Encoded)> {
        self.parts.iter().filter_map(move |part| {
            let at = part.texts.partition_point(|(last, _)| *last < call);
            let (_, text) = part.texts.get(at).or(part.texts.last())?;
            Some((part.weight, text.as_ref()))
        })
    }

    /// Encodes a prompt, or a negative prompt, for pictures of these settings.
    ///
    /// # Errors
    /// A prompt that is too long, and whatever keeps the network from running.
    pub fn encode(
        engine: &Engine,
        text: &str,
        negative: bool,
        settings: &Settings,
        cancel: &CancelToken,
    ) -> Result<Self, Error> {
        let manifest = engine.manifest();
        let size = [settings.width, settings.height];
        let ids = manifest.time_ids().unwrap_or_default();
        let time_ids = settings.sizes.time_ids(ids, size, negative);
        // ComfyUI encodes an empty prompt like any other.
        let zeros = manifest.zeros_for_empty_prompt && settings.prompts.dialect == Dialect::A1111;
        if negative && text.is_empty() && zeros {
            let zeros = Encoded { time_ids, ..Encoded::zeros(manifest) };
            let texts = vec![(usize::MAX, Arc::new(zeros))];
            return Ok(Conditions { parts: vec![Scheduled { weight: 1.0, texts }] });
        }
        let reading = engine.reader(settings.prompts, settings.calls()).read(text, negative)?;
        let clip_skip = settings.clip_skip;
        let mut encoder = Encoder { engine, clip_skip, time_ids, cancel, known: HashMap::new() };
        let part = |part: &Part| -> Result<Scheduled, Error> {
            let texts = encoder.texts(part, &reading)?;
            let entry = |&(last, text): &(usize, usize)| Some((last, Arc::clone(texts.get(text)?)));
            Ok(Scheduled { weight: part.weight, texts: part.schedule.iter().filter_map(entry).collect() })
        };
        let parts = reading.parts.iter().map(part).collect::<Result<_, _>>()?;
        Ok(Conditions { parts })
    }
}

struct Encoder<'a> {
    engine: &'a Engine,
    clip_skip: u32,
    time_ids: Vec<f32>,
    cancel: &'a CancelToken,
    /// Chunks that were encoded, by encoder and ids.
    known: HashMap<(usize, Vec<i32>), Arc<Encoded>>,
}

impl Encoder<'_> {
    /// The different texts of a part.
    fn texts(&mut self, part: &Part, reading: &Reading) -> Result<Vec<Arc<Encoded>>, Error> {
        let chunks = part.texts.first().map_or(0, Vec::len);
        let mut texts: Vec<Encoded> = Vec::new();
        for chunk in 0..chunks {
            let of_all: Vec<&Chunk> = part.texts.iter().map(|text| &text[chunk]).collect();
            let mut encoded = self.chunk(0, &of_all, part, reading)?;
            for encoder in 1..self.engine.manifest().text_encoders.len() {
                let next = self.chunk(encoder, &of_all, part, reading)?;
                encoded.iter_mut().zip(&next).for_each(|(text, next)| text.lay_beside(next));
            }
            if chunk == 0 {
                texts = encoded;
            } else {
                texts.iter_mut().zip(&encoded).for_each(|(text, next)| text.append(next));
            }
        }
        let told = |text: Encoded| Arc::new(Encoded { time_ids: self.time_ids.clone(), ..text });
        Ok(texts.into_iter().map(told).collect())
    }

    /// One encoder's share of a chunk of all texts of a part, with weights applied.
    fn chunk(
        &mut self,
        encoder: usize,
        of_all: &[&Chunk],
        part: &Part,
        reading: &Reading,
    ) -> Result<Vec<Encoded>, Error> {
        let of_all: Vec<&Tokens> = of_all.iter().map(|chunk| &chunk[encoder]).collect();
        let mut encoded = Vec::with_capacity(of_all.len());
        for tokens in &of_all {
            encoded.push(Encoded::clone(&*self.plain(encoder, tokens)?));
        }
        if of_all.iter().all(|tokens| tokens.multipliers.iter().all(|&m| m == 1.0)) {
            return Ok(encoded);
        }
        // A1111 encodes a schedule as one batch and restores the mean over all of it, repetitions counted.
        let channels = self.engine.manifest().text_encoders[encoder].config.hidden_size;
        let batch = part.schedule.iter().map(|&(_, text)| text);
        let mut z: Vec<f32> = batch.clone().flat_map(|text| encoded[text].context.iter().copied()).collect();
        let multipliers: Vec<f32> =
            batch.clone().flat_map(|text| of_all[text].multipliers.iter().copied()).collect();
        let empty = match reading.weighting {
            Weighting::Interpolate => {
                let tokenizer = &self.engine.manifest().text_encoders[encoder].tokenizer;
                self.plain(encoder, &prompt::empty(tokenizer))?.context.clone()
            }
            _ => Vec::new(),
        };
        reading.weighting.apply(&mut z, &empty, channels, &multipliers);
        let length = encoded.first().map_or(1, |text| text.context.len()).max(1);
        for (text, weighted) in batch.zip(z.chunks_exact(length)) {
            encoded[text].context.copy_from_slice(weighted);
        }
        Ok(encoded)
    }

    /// A chunk without its weights.
    fn plain(&mut self, encoder: usize, tokens: &Tokens) -> Result<Arc<Encoded>, Error> {
        let key = (encoder, tokens.encoding.ids.clone());
        if let Some(known) = self.known.get(&key).filter(|_| tokens.replaced.is_none()) {
            return Ok(Arc::clone(known));
        }
        // Once a prompt, and small: the reference precision costs nothing here.
        let plan = self.engine.plan(PlanKey {
            network: Network::Text {
                encoder,
                clip_skip: self.clip_skip,
                replaced: tokens.replaced.is_some(),
            },
            batch: 1,
            height: 0,
            width: 0,
            precision: Precision::F32,
        })?;
        let encoded = Arc::new(Encoded::compute(tokens, &mut lock(&plan), self.cancel)?);
        if tokens.replaced.is_none() {
            self.known.insert(key, Arc::clone(&encoded));
        }
        Ok(encoded)
    }
}
