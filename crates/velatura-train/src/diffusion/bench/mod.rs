//! How long a training step takes on this machine.

mod unet;

pub use unet::{UNetStep, unet_step};

use std::path::Path;
use std::time::Instant;

use velatura::conditioning::TokenBatch;
use velatura_cpu::{CancelToken, Profile, Runtime};
use velatura_samplers::NoiseTable;
use velatura_samplers::noise::CounterRng;
use velatura_text::{Tokenizer, WordTokenizer};

use super::source::{Complete, noise_table};
use super::{Networks, layout, names, tokenizer};
use crate::TrainError;
use crate::optimize::Optimization;
use crate::parameters::State;
use crate::recipe::{DiffusionRecipe, load};
use crate::step::Batch;

/// The stream of random numbers for latents, noise and tokens.
const STREAM: u32 = 0xbe4c;

/// What is measured.
#[derive(Clone, Debug, PartialEq)]
pub struct StepOptions {
    /// Another batch than the recipe's.
    pub batch: Option<usize>,
    /// Height and width of the latents.
    pub side: usize,
    /// Another number of threads than the recipe's.
    pub threads: Option<usize>,
    /// Steps that are timed, after one that is not.
    pub runs: usize,
    /// Whether to note where the time goes.
    pub by_layer: bool,
}

impl Default for StepOptions {
    fn default() -> Self {
        StepOptions { batch: None, side: 16, threads: None, runs: 5, by_layer: false }
    }
}

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct StepTimes {
    /// Samples of a step.
    pub batch: usize,
    /// Threads in use.
    pub threads: usize,
    /// Trained weights.
    pub parameters: usize,
    /// Bytes of activations, as planned.
    pub arena_bytes: usize,
    /// Seconds of each step, in order.
    pub seconds: Vec<f64>,
    /// Loss of each step, in order.
    pub losses: Vec<f64>,
    /// Mean seconds of the parts of a step. Of a recipe's: making the batch, loss and gradients, their norm, the update,
    /// packing the new weights.
    pub parts: Vec<(&'static str, f64)>,
    /// What loss and gradients were spent on, over all timed steps; with [`StepOptions::by_layer`].
    pub profile: Option<Profile>,
}

impl StepTimes {
    /// Median seconds of a step.
    pub fn median_s(&self) -> f64 {
        velatura_cpu::bench::median(self.seconds.clone())
    }

    /// Samples a second, of the median step.
    pub fn samples_per_second(&self) -> f64 {
        self.batch as f64 / self.median_s()
    }
}

/// Times whole training steps of a diffusion recipe: noising, forward, backward, clipping, update, running average,
/// and packing the changed weights for the next step. Latents and tokens are random, so that neither a font nor an
/// autoencoder is needed, and nothing is written.
///
/// # Errors
/// [`TrainError`] of a recipe that cannot be used, or when the caller stops it.
pub fn diffusion_step(
    recipe: &Path,
    options: &StepOptions,
    cancel: &CancelToken,
) -> Result<StepTimes, TrainError> {
    let mut recipe = load::<DiffusionRecipe>(recipe)?.recipe;
    let training = &mut recipe.training;
    training.batch = options.batch.unwrap_or(training.batch).max(1);
    training.threads = options.threads.or(training.threads);
    training.accumulation = 1;
    let tokenizer = tokenizer(recipe.context)?;
    let runtime = Runtime::new(recipe.training.threads);
    let networks = Networks::new(&recipe, &tokenizer);
    let mut step = networks.step(&recipe, &runtime, options.side)?;
    let mut state = State::initial(step.table(), recipe.training.seed);
    step.load(&state.weights)?;

    let optimization = Optimization::new(&recipe.training, step.table());
    let (mut complete, table) = (Complete::of_latents(&recipe)?, noise_table(&recipe)?);
    let mut gradients = vec![0.0; step.table().len()];
    // A training run reads its latents from where they are kept.
    let latents = random(&recipe, options.side, u64::MAX);
    let (mut seconds, mut losses) = (Vec::new(), Vec::new());
    let parts = ["batch", "gradients", "their norm", "update", "packing"];
    let mut parts = parts.map(|name| (name, 0.0)).to_vec();
    let runs = options.runs.max(1);
    for run in 0..=runs {
        // The first touches all memory for the first time.
        let timed = run > 0;
        if run == 1 && options.by_layer {
            step.watch();
        }
        let mut clock = Clock::start();
        let batch = complete.complete(random_batch(&recipe, &table, &latents, &tokenizer, run as u64))?;
        clock.lap();
        let (loss, _) = step.run(&batch, &mut gradients, true, cancel)?;
        clock.lap();
        let norm = optimization.gradient_norm(&runtime, &gradients);
        clock.lap();
        optimization.step(&runtime, &mut state, &gradients, norm);
        clock.lap();
        step.load(&state.weights)?;
        clock.lap();
        if timed {
            parts.iter_mut().zip(&clock.laps).for_each(|((_, sum), lap)| *sum += lap / runs as f64);
            seconds.push(clock.laps.iter().sum());
            losses.push(loss);
        }
    }
    Ok(StepTimes {
        batch: recipe.training.batch,
        threads: runtime.pool.threads(),
        parameters: step.table().len(),
        arena_bytes: step.arena_bytes(),
        seconds,
        losses,
        parts,
        profile: step.profile().cloned(),
    })
}

/// Seconds between one point and the next.
struct Clock {
    last: Instant,
    laps: Vec<f64>,
}

impl Clock {
    fn start() -> Self {
        Clock { last: Instant::now(), laps: Vec::new() }
    }

    fn lap(&mut self) {
        let now = Instant::now();
        self.laps.push((now - self.last).as_secs_f64());
        self.last = now;
    }
}

/// Gaussian numbers in the shape of a batch of latents.
fn random(recipe: &DiffusionRecipe, side: usize, index: u64) -> Vec<f32> {
    let mut values = vec![0.0; recipe.training.batch * side * side * recipe.unet.in_channels];
    CounterRng::new(recipe.training.seed, STREAM).at(index).fill_normal(&mut values);
    values
}

/// Noise, times and prompts of full length for these latents.
fn random_batch(
    recipe: &DiffusionRecipe,
    table: &NoiseTable,
    latents: &[f32],
    tokenizer: &Tokenizer,
    index: u64,
) -> Batch {
    let (n, context) = (recipe.training.batch, recipe.context);
    let mut draws = CounterRng::new(recipe.training.seed, STREAM).at(index);
    let mut noise = vec![0.0; latents.len()];
    draws.fill_normal(&mut noise);
    let times: Vec<f32> =
        (0..n).map(|_| table.draw_timestep(recipe.noise.times, &mut draws) as f32).collect();
    let words = tokenizer.vocabulary_size().max(1) as u32;
    let mut ids: Vec<i32> = (0..n * context).map(|_| draws.below(words) as i32).collect();
    ids.chunks_mut(context).for_each(|prompt| prompt[context - 1] = WordTokenizer::END);
    let end_rows = (1..=n).map(|i| (i * context - 1) as i32).collect();
    let tokens = TokenBatch { prompts: n, mask: vec![1.0; ids.len()], ids, end_rows };
    let mut batch: Batch = vec![
        (names::LATENT, latents.to_vec().into()),
        (names::NOISE, noise.into()),
        (names::TIMESTEP, times.into()),
        (names::WEIGHT, vec![1f32; n].into()),
        (names::IDS, tokens.ids.into()),
        (names::MASK, tokens.mask.into()),
        (names::END_ROWS, tokens.end_rows.into()),
    ];
    if recipe.layout.weight > 0.0 {
        batch.push((names::PLACES, vec![0; n * layout::PLACES].into()));
    }
    batch
}
