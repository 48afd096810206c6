//! Batches of noisy latents with their captions.

use std::sync::Arc;

use velatura::conditioning::TokenBatch;
use velatura_cpu::{CancelToken, Runtime};
use velatura_samplers::noise::CounterRng;
use velatura_samplers::{NoiseTable, TimeSampling};
use velatura_scenes::{Rng, Scene, Scenes, caption};
use velatura_text::Tokenizer;

use super::latents::Latents;
use super::{layout, names};
use crate::TrainError;
use crate::codec::{Codec, Coder};
use crate::picture::push_picture;
use crate::recipe::DiffusionRecipe;
use crate::step::{Batch, Tensor};
use crate::trainer::BatchSource;

// Streams of random numbers.
const NOISE_STREAM: u32 = 0xd1f1;
const TIME_STREAM: u32 = 0xd1f2;
const CAPTION_STREAM: u32 = 0xd1f3;
const ORDER_STREAM: u32 = 0xd1f4;

/// Draws latents (or pictures), noise, times and captions.
pub(super) struct Source {
    scenes: Scenes,
    latents: Option<Latents>,
    tokenizer: Tokenizer,
    table: NoiseTable,
    times: TimeSampling,
    min_snr: Option<f64>,
    dropout: f64,
    unsaid: f32,
    /// Whether the layout is asked for.
    layout: bool,
    seed: u64,
    batch: usize,
    /// Numbers of one latent.
    each: usize,
}

impl Source {
    pub fn new(
        recipe: &DiffusionRecipe,
        scenes: Scenes,
        latents: Option<Latents>,
        tokenizer: Tokenizer,
        codec: &Codec,
    ) -> Result<Self, TrainError> {
        let side = recipe.data.size as usize / codec.factor();
        Ok(Source {
            scenes,
            latents,
            tokenizer,
            table: noise_table(recipe)?,
            times: recipe.noise.times,
            min_snr: recipe.noise.min_snr,
            dropout: recipe.noise.caption_dropout,
            unsaid: recipe.data.mix.unsaid_background,
            layout: recipe.layout.weight > 0.0,
            seed: recipe.training.seed,
            batch: recipe.training.batch,
            each: side * side * codec.note.config.latent_channels,
        })
    }

    fn stream(&self, stream: u32) -> CounterRng {
        CounterRng::new(self.seed, stream)
    }

    /// The scene of a sample. A cache is gone through again and again, each time in another order, so that other
    /// scenes meet in a batch.
    fn scene_of(&self, sample: u64) -> u64 {
        let Some(latents) = &self.latents else { return sample };
        let (pass, place, count) = (sample / latents.count(), sample % latents.count(), latents.count());
        let mut draws = self.stream(ORDER_STREAM).at(pass);
        let offset = draws.next_u64() % count;
        let mut stride = draws.next_u64() % count;
        // An affine map is a permutation when its factor shares no divisor with the count.
        while gcd(stride, count) != 1 {
            stride = (stride + 1) % count.max(2);
        }
        ((u128::from(place) * u128::from(stride) + u128::from(offset)) % u128::from(count)) as u64
    }

    /// A caption of a scene: another wording each time that the scene comes up, or none.
    fn caption(&self, scene: &Scene, sample: u64) -> Option<String> {
        let mut rng = Rng::new(&[self.seed, u64::from(CAPTION_STREAM), sample]);
        if rng.chance(self.dropout as f32) {
            return None;
        }
        let mention = !rng.chance(self.unsaid);
        Some(caption::write(scene, mention, &mut rng))
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The noise schedule of a recipe.
pub(super) fn noise_table(recipe: &DiffusionRecipe) -> Result<NoiseTable, TrainError> {
    recipe.noise.schedule.table().map_err(|e| TrainError::Internal(e.to_string()))
}

impl BatchSource for Source {
    fn batch(&self, index: u64) -> Result<Batch, TrainError> {
        let (mut values, mut tokens) = (Vec::new(), TokenBatch::default());
        let (mut timesteps, mut weights, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for i in 0..self.batch as u64 {
            let sample = index * self.batch as u64 + i;
            let index = self.scene_of(sample);
            match &self.latents {
                Some(latents) => latents.push(index, &mut values)?,
                None => push_picture(&self.scenes.get(index).image, &mut values),
            }
            let scene = self.scenes.prompt(index).scene;
            let caption = self.caption(&scene, sample);
            if self.layout {
                let shown = caption.as_ref().map(|_| self.scenes.layout(index, &scene));
                places.extend(layout::classes(shown.as_ref()));
            }
            tokens.push(&self.tokenizer.encode(&caption.unwrap_or_default()));
            let time = self.table.draw_timestep(self.times, &mut self.stream(TIME_STREAM).at(sample));
            let weight = self.min_snr.map_or(Ok(1.0), |gamma| self.table.min_snr_weight(time, gamma));
            weights.push(weight.map_err(|e| TrainError::Internal(e.to_string()))? as f32);
            timesteps.push(time as f32);
        }
        let mut noise = vec![0.0; self.each * self.batch];
        for (i, part) in noise.chunks_mut(self.each.max(1)).enumerate() {
            self.stream(NOISE_STREAM).at(index * self.batch as u64 + i as u64).fill_normal(part);
        }
        let kind = if self.latents.is_some() { names::LATENT } else { names::PICTURE };
        let mut batch: Batch = vec![
            (kind, values.into()),
            (names::NOISE, noise.into()),
            (names::TIMESTEP, timesteps.into()),
            (names::WEIGHT, weights.into()),
            (names::IDS, tokens.ids.into()),
            (names::MASK, tokens.mask.into()),
            (names::END_ROWS, tokens.end_rows.into()),
        ];
        if self.layout {
            batch.push((names::PLACES, places.into()));
        }
        Ok(batch)
    }
}

/// Encodes pictures where there is no cache, and adds the noise.
pub(super) struct Complete {
    table: NoiseTable,
    encoder: Option<Coder>,
}

impl Complete {
    pub fn new(recipe: &DiffusionRecipe, codec: &Codec, runtime: &Arc<Runtime>) -> Result<Self, TrainError> {
        let precision = recipe.training.precision.into();
        let encoder = match recipe.latents.cache {
            0 => Some(codec.encoder(runtime, recipe.training.batch, recipe.data.size, precision)?),
            _ => None,
        };
        Ok(Complete { table: noise_table(recipe)?, encoder })
    }

    /// For batches of latents only.
    pub fn of_latents(recipe: &DiffusionRecipe) -> Result<Self, TrainError> {
        Ok(Complete { table: noise_table(recipe)?, encoder: None })
    }

    pub fn complete(&mut self, batch: Batch) -> Result<Batch, TrainError> {
        let missing = || TrainError::Internal("a batch lacks something".into());
        let (mut clean, mut noise, mut rest) = (None, None, Batch::new());
        for (name, tensor) in batch {
            match (name, tensor) {
                (names::LATENT, Tensor::F32(values)) => clean = Some(values),
                (names::PICTURE, Tensor::F32(values)) => {
                    let encoder = self.encoder.as_mut().ok_or_else(missing)?;
                    clean = Some(encoder.run(&values, &CancelToken::default())?);
                }
                (names::NOISE, Tensor::F32(values)) => noise = Some(values),
                other => rest.push(other),
            }
        }
        let (clean, noise) = (clean.ok_or_else(missing)?, noise.ok_or_else(missing)?);
        let times: Vec<f64> = rest
            .iter()
            .filter_map(|(name, tensor)| match tensor {
                Tensor::F32(values) if *name == names::TIMESTEP => Some(values),
                _ => None,
            })
            .flatten()
            .map(|&t| f64::from(t))
            .collect();
        let internal = |e: velatura_samplers::ScheduleError| TrainError::Internal(e.to_string());
        rest.push((names::SAMPLE, self.table.add_noise(&clean, &noise, &times).map_err(internal)?.into()));
        rest.push((names::TARGET, self.table.target(&clean, &noise, &times).map_err(internal)?.into()));
        Ok(rest)
    }
}
