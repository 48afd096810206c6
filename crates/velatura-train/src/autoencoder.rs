//! Training an autoencoder: reconstruction, edges, and a little Kullback-Leibler divergence.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use velatura::manifest::VAE_PREFIX;
use velatura_cpu::{CancelToken, Runtime};
use velatura_graph::{Builder, DType, Graph, Var, loss};
use velatura_models::AutoencoderConfig;
use velatura_samplers::noise::CounterRng;
use velatura_scenes::{RgbImage, Scenes};

use crate::TrainError;
use crate::codec::{self, AutoencoderNote, Codec, Coder, decoder_graph, encoder_graph};
use crate::observer::{Finished, Observer};
use crate::parameters::{Entry, State, Table};
use crate::picture::{grid, psnr, push_picture, save};
use crate::recipe::{AutoencoderRecipe, StartSettings};
use crate::step::{Batch, Frozen, LOSS, Step};
use crate::trainer::{BatchSource, Hooks, TrainOptions, Trainer, read_recipe};

/// Name of the finished autoencoder in its output folder.
pub const AUTOENCODER_FILE: &str = "autoencoder.safetensors";

const PICTURE: &str = "picture";
const NOISE: &str = "noise";
/// The stream of random numbers for the latents' noise.
const NOISE_STREAM: u32 = 0xae01;
/// Held-out pictures that are reconstructed to measure.
const MEASURED: u64 = 64;
/// Pictures over which the latents' mean and deviation are taken.
const SCALED_OVER: u64 = 512;
/// Pictures that are coded at once when measuring.
const TOGETHER: usize = 16;

/// Trains the autoencoder of a recipe. The finished file is `autoencoder.safetensors` in the output folder: the running
/// average of the weights, with the measured scale and shift of the latents.
///
/// # Errors
/// [`TrainError`]; the last good state is kept in a checkpoint.
pub fn train_autoencoder(
    recipe: &Path,
    options: &TrainOptions,
    observer: &mut dyn Observer,
    cancel: &CancelToken,
) -> Result<Finished, TrainError> {
    let (recipe, text) = read_recipe::<AutoencoderRecipe>(recipe, options)?;
    let glyphs = recipe.data.load_glyphs()?;
    let runtime = Runtime::new(recipe.training.threads);
    let forward = forward_graph(&recipe)?;
    let precision = recipe.training.precision.into();
    let start = recipe.start.as_ref().map(Start::open).transpose()?;
    let frozen = start.as_ref().map(Start::frozen).unwrap_or_default();
    let step = Step::new(&runtime, forward, precision, &["l1", "edge", "kl"], frozen)?;
    let inputs = start.as_ref().map(|start| start.codec.hash.clone()).unwrap_or_default();
    let mut trainer = Trainer::new(Arc::clone(&runtime), &recipe, step, inputs, options.resume)?;
    if let Some(start) = start.as_ref().filter(|_| trainer.state.step == 0) {
        start.fill(trainer.step.table(), &mut trainer.state)?;
    }
    trainer.announce("autoencoder", observer);

    let source = Source::new(&recipe, recipe.data.scenes(&glyphs)?);
    let unseen = recipe.data.unseen_scenes(&glyphs)?;
    let mut hooks = Measure { recipe: recipe.clone(), start, runtime, unseen, psnr: 0.0 };
    if let Some(stopped) = trainer.run(&source, &mut hooks, observer, cancel)? {
        return Ok(stopped);
    }
    let (table, state) = (trainer.step.table(), &trainer.state);
    let finished = hooks
        .sample(table, state, observer, cancel)
        .and_then(|_| hooks.scaled_config(&source.scenes, table, state, cancel));
    let config = match finished {
        // Every step was taken, and the checkpoint of the last is kept.
        Err(error) if error.is_cancelled() => return Ok(trainer.stopped()),
        config => config?,
    };
    let note = AutoencoderNote {
        format: 1,
        config,
        size: recipe.data.size,
        steps: state.step,
        samples: state.step * recipe.training.samples_per_step() as u64,
        psnr: hooks.psnr,
        recipe: text,
    };
    let weights = hooks.weights(table, state);
    let file = codec::write(&recipe.output.join(AUTOENCODER_FILE), &weights, &note)?;
    let scale = f64::from(note.config.scaling_factor);
    let measured = vec![
        ("psnr", note.psnr),
        ("latent_scale", scale),
        ("latent_shift", f64::from(note.config.shift_factor.unwrap_or(0.0))),
    ];
    Ok(Finished { step: state.step, stopped: false, file, measured })
}

/// The network as it is trained.
fn trained_config(recipe: &AutoencoderRecipe) -> AutoencoderConfig {
    let gradient_checkpointing = recipe.training.gradient_checkpointing;
    AutoencoderConfig { gradient_checkpointing, ..recipe.model.clone() }
}

fn forward_graph(recipe: &AutoencoderRecipe) -> Result<Graph, TrainError> {
    let config = trained_config(recipe);
    let (n, size) = (recipe.training.batch, recipe.data.size as usize);
    let side = size / config.downsampling();
    let b = Builder::new();
    let picture = b.input(PICTURE, &[n, size, size, 3], DType::F32);
    let noise = b.input(NOISE, &[n, side, side, config.latent_channels], DType::F32);
    let p = b.params().at(VAE_PREFIX);
    let moments = config.encode(&p, picture);
    let error = config.decode(&p, moments.sample(noise)) - picture;

    let weights = recipe.loss;
    let l1 = error.abs().mean_all();
    let edge = along(error, 1).abs().mean_all() + along(error, 2).abs().mean_all();
    let elements = (side * side * config.latent_channels) as f32;
    let kl = loss::kl_divergence(moments.mean, moments.log_variance) * (1.0 / elements);
    let mut total = l1 * weights.l1 + edge * weights.edge + kl * weights.kl;
    if weights.l2 > 0.0 {
        total = total + error.square().mean_all() * weights.l2;
    }
    for (name, value) in [(LOSS, total), ("l1", l1), ("edge", edge), ("kl", kl)] {
        b.output(name, value);
    }
    Ok(b.finish()?)
}

/// Differences between neighbours along an axis.
fn along(x: Var<'_>, axis: usize) -> Var<'_> {
    let length = x.shape().get(axis).map_or(0, |n| n.saturating_sub(1));
    x.slice(axis, 1, length) - x.slice(axis, 0, length)
}

/// A finished autoencoder from which training goes on.
struct Start {
    path: PathBuf,
    codec: Codec,
    decoder_only: bool,
}

impl Start {
    fn open(settings: &StartSettings) -> Result<Self, TrainError> {
        let (path, decoder_only) = (settings.autoencoder.clone(), settings.decoder_only);
        Ok(Start { codec: Codec::open(&path)?, path, decoder_only })
    }

    /// Weights that stay as they are, with their shapes.
    fn kept(&self) -> impl Iterator<Item = (&String, &(Vec<usize>, Vec<f32>))> {
        self.codec.weights.iter().filter(|(name, _)| self.decoder_only && Codec::is_of_encoder(name))
    }

    fn frozen(&self) -> Frozen {
        self.kept().map(|(name, (_, values))| (name.clone(), values.clone())).collect()
    }

    /// Puts its weights in the place of drawn ones.
    fn fill(&self, table: &Table, state: &mut State) -> Result<(), TrainError> {
        let find = |entry: &Entry| {
            let found = self.codec.weights.get(&entry.name).filter(|(shape, _)| *shape == entry.shape);
            found.map(|(_, values)| Cow::Borrowed(values.as_slice()))
        };
        state.fill(table, |_| true, find).map_err(|entry| TrainError::does_not_fit(&self.path, entry))
    }
}

struct Source {
    scenes: Scenes,
    noise: CounterRng,
    batch: usize,
    latent: usize,
}

impl Source {
    fn new(recipe: &AutoencoderRecipe, scenes: Scenes) -> Self {
        let side = recipe.data.size as usize / recipe.model.downsampling();
        Source {
            scenes,
            noise: CounterRng::new(recipe.training.seed, NOISE_STREAM),
            batch: recipe.training.batch,
            latent: side * side * recipe.model.latent_channels,
        }
    }
}

impl BatchSource for Source {
    fn batch(&self, index: u64) -> Result<Batch, TrainError> {
        let size = self.scenes.size() as usize;
        let mut pictures = Vec::with_capacity(self.batch * size * size * 3);
        let mut noise = vec![0.0; self.batch * self.latent];
        for (i, noise) in noise.chunks_mut(self.latent.max(1)).enumerate() {
            let sample = index * self.batch as u64 + i as u64;
            push_picture(&self.scenes.get(sample).image, &mut pictures);
            self.noise.at(sample).fill_normal(noise);
        }
        Ok(vec![(PICTURE, pictures.into()), (NOISE, noise.into())])
    }
}

struct Measure {
    recipe: AutoencoderRecipe,
    start: Option<Start>,
    runtime: Arc<Runtime>,
    unseen: Scenes,
    psnr: f64,
}

impl Measure {
    /// An encoder or decoder with the running average of the weights.
    fn coder(&self, graph: Graph, table: &Table, state: &State) -> Result<Coder, TrainError> {
        let kept: HashMap<&str, &[f32]> =
            self.kept().map(|(name, (_, values))| (name.as_str(), values.as_slice())).collect();
        let trained = |name: &str| table.entry(name).map(|entry| entry.of(&state.ema));
        let find = |name: &str| trained(name).or_else(|| kept.get(name).copied()).map(Cow::Borrowed);
        Coder::new(&self.runtime, graph, self.recipe.training.precision.into(), TOGETHER, &find)
    }

    fn kept(&self) -> impl Iterator<Item = (&String, &(Vec<usize>, Vec<f32>))> {
        self.start.iter().flat_map(Start::kept)
    }

    /// All weights with their shapes: the running average of the trained ones, and those that stayed.
    fn weights<'a>(&'a self, table: &'a Table, state: &'a State) -> Vec<(&'a str, &'a [usize], &'a [f32])> {
        let trained = table.entries().iter().map(|e| (e.name.as_str(), e.shape.as_slice(), e.of(&state.ema)));
        let kept =
            self.kept().map(|(name, (shape, values))| (name.as_str(), shape.as_slice(), values.as_slice()));
        trained.chain(kept).collect()
    }

    /// The configuration with the scale and shift that bring latents of training pictures to mean 0, deviation 1.
    fn scaled_config(
        &self,
        scenes: &Scenes,
        table: &Table,
        state: &State,
        cancel: &CancelToken,
    ) -> Result<AutoencoderConfig, TrainError> {
        if let Some(start) = self.start.as_ref().filter(|start| start.decoder_only) {
            // The same encoder: the scale is part of what denoisers were trained on.
            return Ok(start.codec.note.config.clone());
        }
        let graph = encoder_graph(&self.recipe.model, TOGETHER, self.recipe.data.size, false)?;
        let mut encoder = self.coder(graph, table, state)?;
        let (mut count, mut sum, mut squares) = (0.0, 0.0, 0.0);
        for start in (0..SCALED_OVER).step_by(TOGETHER) {
            let pictures: Vec<RgbImage> =
                (start..start + TOGETHER as u64).map(|i| scenes.get(i).image).collect();
            for z in encoder.encode(&pictures, cancel)? {
                let z = f64::from(z);
                (count, sum, squares) = (count + 1.0, sum + z, squares + z * z);
            }
        }
        let mean = sum / count;
        let deviation = (squares / count - mean * mean).max(0.0).sqrt();
        if !(deviation.is_finite() && deviation > 0.0) {
            return Err(TrainError::Internal(format!("the latents' deviation is {deviation}")));
        }
        Ok(AutoencoderConfig {
            scaling_factor: (1.0 / deviation) as f32,
            shift_factor: Some(mean as f32),
            ..self.recipe.model.clone()
        })
    }

    fn picture_path(&self, step: u64) -> PathBuf {
        self.recipe.output.join(format!("samples/reconstruction-{step:07}.png"))
    }
}

impl Hooks for Measure {
    fn sample(
        &mut self,
        table: &Table,
        state: &State,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<Vec<(&'static str, f64)>, TrainError> {
        let (config, size) = (&self.recipe.model, self.recipe.data.size);
        let mut encoder = self.coder(encoder_graph(config, TOGETHER, size, false)?, table, state)?;
        let mut decoder = self.coder(decoder_graph(config, TOGETHER, size, false)?, table, state)?;
        let pictures: Vec<RgbImage> = (0..MEASURED).map(|i| self.unseen.get(i).image).collect();
        let latents = encoder.encode(&pictures, cancel)?;
        let decoded = decoder.decode(&latents, size, cancel)?;
        let sum: f64 = pictures.iter().zip(&decoded).map(|(a, b)| psnr(a, b)).sum();
        self.psnr = sum / pictures.len() as f64;
        // Rows of eight originals, each above its reconstructions.
        let rows = pictures.chunks(8).zip(decoded.chunks(8)).take(4);
        let shown: Vec<RgbImage> = rows.flat_map(|(a, b)| a.iter().chain(b)).cloned().collect();
        let path = self.picture_path(state.step);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(TrainError::write(folder))?;
        }
        save(&path, &grid(&shown, 8))?;
        observer.note(&format!(
            "step {}: {:.2} dB on held-out pictures, {}",
            state.step,
            self.psnr,
            path.display()
        ));
        Ok(vec![("psnr", self.psnr)])
    }
}
