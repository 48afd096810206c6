//! Training a denoiser and its text transformer, jointly, on the denoising loss.

pub mod bench;
mod export;
mod latents;
mod layout;
mod samples;
mod source;
mod start;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use velatura::conditioning::TokenVars;
use velatura::manifest::{TEXT_PREFIX, UNET_PREFIX};
use velatura_cpu::{CancelToken, Runtime};
use velatura_graph::{Builder, DType, Graph, loss};
use velatura_models::{TextConfig, UNetConfig};
use velatura_scenes::caption;
use velatura_text::{Tokenizer, WordTokenizer};

use crate::TrainError;
use crate::codec::Codec;
use crate::observer::{Finished, Observer};
use crate::recipe::DiffusionRecipe;
use crate::step::{LOSS, Step};
use crate::trainer::{Hooks, TrainOptions, Trainer, read_recipe};

use export::Exporter;
use latents::Latents;
use samples::Sampling;
use source::{Complete, Source};
use start::Start;

/// Name of the finished model in its output folder.
pub const MODEL_FILE: &str = "model.safetensors";

/// Names of the graph's inputs, and of what becomes them.
mod names {
    pub const SAMPLE: &str = "sample";
    pub const TIMESTEP: &str = "timestep";
    pub const TARGET: &str = "target";
    pub const WEIGHT: &str = "weight";
    pub const IDS: &str = "ids";
    pub const MASK: &str = "mask";
    pub const END_ROWS: &str = "end_rows";
    /// Clean latents, before they are noised.
    pub const LATENT: &str = "latent";
    /// Pictures, before they are encoded.
    pub const PICTURE: &str = "picture";
    pub const NOISE: &str = "noise";
    /// What stands in each place, where the layout is asked for.
    pub const PLACES: &str = "places";
}

/// Trains the denoiser of a recipe on the latents of a finished autoencoder. The finished file is `model.safetensors`
/// in the output folder: text transformer and denoiser (the running average of their weights), autoencoder, and
/// description.
///
/// # Errors
/// [`TrainError`]; the last good state is kept in a checkpoint.
pub fn train_diffusion(
    recipe: &Path,
    options: &TrainOptions,
    observer: &mut dyn Observer,
    cancel: &CancelToken,
) -> Result<Finished, TrainError> {
    let file = recipe;
    let (recipe, text) = read_recipe::<DiffusionRecipe>(file, options)?;
    let codec = Arc::new(open_codec(file, &recipe)?);
    let glyphs = recipe.data.load_glyphs()?;
    let scenes = recipe.data.scenes(&glyphs)?;
    let tokenizer = tokenizer(recipe.context)?;
    let runtime = Runtime::new(recipe.training.threads);
    let networks = Networks::new(&recipe, &tokenizer);
    let step = networks.step(&recipe, &runtime, recipe.data.size as usize / codec.factor())?;
    let start = recipe.start.as_ref().map(Start::open).transpose()?;
    let inputs = inputs(&codec, start.as_ref());
    let mut trainer = Trainer::new(Arc::clone(&runtime), &recipe, step, inputs, options.resume)?;
    if let Some(start) = start.as_ref().filter(|_| trainer.state.step == 0) {
        start.fill(trainer.step.table(), &mut trainer.state)?;
    }
    trainer.announce("diffusion", observer);

    let latents = Latents::prepare(&recipe, &codec, &scenes, &runtime, observer, cancel)?;
    let start = start.map(|start| start.training);
    let exporter =
        Exporter { recipe: recipe.clone(), text, networks, codec: Arc::clone(&codec), tokenizer, start };
    let source = Source::new(&recipe, scenes, latents, exporter.tokenizer.clone(), &codec)?;
    let sampling = Sampling::new(&recipe, &glyphs, &runtime)?;
    let mut hooks = Both { complete: Complete::new(&recipe, &codec, &runtime)?, sampling, exporter };
    if let Some(stopped) = trainer.run(&source, &mut hooks, observer, cancel)? {
        return Ok(stopped);
    }
    let (table, state) = (trainer.step.table(), &trainer.state);
    // Written before the last samples, which may be stopped.
    let file = hooks.exporter.write(&recipe.output.join(MODEL_FILE), table, state)?;
    let measured = match hooks.sample(table, state, observer, cancel) {
        Err(error) if error.is_cancelled() => Vec::new(),
        measured => measured?,
    };
    Ok(Finished { step: state.step, stopped: false, file, measured })
}

/// Writes the model as it is in the newest checkpoint of a run that is over, goes on or was stopped; with the decoder of
/// another autoencoder, where one is given that has the same encoder.
///
/// # Errors
/// [`TrainError::NoCheckpoint`], an autoencoder of another encoder, or whatever keeps the file from being written.
pub fn export_checkpoint(
    recipe: &Path,
    options: &TrainOptions,
    decoder: Option<&Path>,
    output: &Path,
) -> Result<PathBuf, TrainError> {
    let file = recipe;
    let (recipe, text) = read_recipe::<DiffusionRecipe>(file, options)?;
    let codec = Arc::new(open_codec(file, &recipe)?);
    let tokenizer = tokenizer(recipe.context)?;
    let runtime = Runtime::new(recipe.training.threads);
    let networks = Networks::new(&recipe, &tokenizer);
    let step = networks.step(&recipe, &runtime, recipe.data.size as usize / codec.factor())?;
    let start = recipe.start.as_ref().map(Start::open).transpose()?;
    let trainer = Trainer::new(runtime, &recipe, step, inputs(&codec, start.as_ref()), true)?;
    let codec = decoder.map_or(Ok(Arc::clone(&codec)), |path| with_decoder(&codec, path))?;
    let start = start.map(|start| start.training);
    let exporter = Exporter { recipe, text, networks, codec, tokenizer, start };
    exporter.write(output, trainer.step.table(), &trainer.state)
}

/// What a resumed run must begin with: the autoencoder, and the model that it goes on from.
fn inputs(codec: &Codec, start: Option<&Start>) -> String {
    start.map_or_else(|| codec.hash.clone(), |start| format!("{} {}", codec.hash, start.hash()))
}

/// The autoencoder in a file, which must have the same encoder.
fn with_decoder(codec: &Codec, path: &Path) -> Result<Arc<Codec>, TrainError> {
    let other = Codec::open(path)?;
    if !other.encodes_like(codec) {
        let reason = "its encoder is not the one whose latents the denoiser was trained on; train it with \
                      start.decoder_only = true from the autoencoder of the denoiser's recipe";
        return Err(TrainError::bad_file(path, reason));
    }
    Ok(Arc::new(other))
}

fn open_codec(file: &Path, recipe: &DiffusionRecipe) -> Result<Codec, TrainError> {
    let codec = Codec::open(&recipe.autoencoder)?;
    let wrong = |key: &str, reason: String| TrainError::RecipeValue {
        file: file.to_path_buf(),
        key: key.to_string(),
        reason,
    };
    let channels = codec.note.config.latent_channels;
    if recipe.unet.in_channels != channels || recipe.unet.out_channels != channels {
        let reason =
            format!("it and unet.out_channels must be the autoencoder's latent channels, {channels}");
        return Err(wrong("unet.in_channels", reason));
    }
    if !(recipe.data.size as usize).is_multiple_of(codec.factor()) {
        let reason =
            format!("it must be a multiple of {}, by which the autoencoder shrinks pictures", codec.factor());
        return Err(wrong("data.size", reason));
    }
    Ok(codec)
}

fn tokenizer(context: usize) -> Result<Tokenizer, TrainError> {
    let tokenizer = WordTokenizer::from_texts(caption::all_words(), context);
    Ok(tokenizer.map_err(|e| TrainError::Internal(e.to_string()))?.into())
}

/// The configurations of the networks that are trained, with what follows from the data filled in.
struct Networks {
    text: TextConfig,
    unet: UNetConfig,
}

impl Networks {
    fn new(recipe: &DiffusionRecipe, tokenizer: &Tokenizer) -> Self {
        let gradient_checkpointing = recipe.training.gradient_checkpointing;
        Networks {
            text: TextConfig {
                vocab_size: tokenizer.vocabulary_size(),
                max_positions: tokenizer.context(),
                eos_token_id: WordTokenizer::END,
                gradient_checkpointing,
                ..recipe.text.clone()
            },
            unet: UNetConfig { gradient_checkpointing, ..recipe.unet.clone() },
        }
    }

    /// The step that is trained with, on latents `side` high and wide.
    fn step(
        &self,
        recipe: &DiffusionRecipe,
        runtime: &Arc<Runtime>,
        side: usize,
    ) -> Result<Step, TrainError> {
        let metrics: &[&'static str] = if recipe.layout.weight > 0.0 { &[layout::LAYOUT] } else { &[] };
        let forward = self.forward_graph(recipe, side)?;
        Step::new(runtime, forward, recipe.training.precision.into(), metrics, Default::default())
    }

    /// The loss of a batch of latents, `side` high and wide.
    fn forward_graph(&self, recipe: &DiffusionRecipe, side: usize) -> Result<Graph, TrainError> {
        let (n, tokens) = (recipe.training.batch, recipe.context);
        let shape = [n, side, side, self.unet.in_channels];
        let b = Builder::new();
        let p = b.params();
        let vars = TokenVars {
            ids: b.input(names::IDS, &[n, tokens], DType::I32),
            mask: b.input(names::MASK, &[n, tokens], DType::F32),
            end_rows: b.input(names::END_ROWS, &[n], DType::I32),
            replaced: None,
        };
        let sample = b.input(names::SAMPLE, &shape, DType::F32);
        let timestep = b.input(names::TIMESTEP, &[n], DType::F32);
        let target = b.input(names::TARGET, &shape, DType::F32);
        let weight = b.input(names::WEIGHT, &[n], DType::F32);
        let condition = recipe.conditioning.encode(&self.text, &p.at(TEXT_PREFIX), vars);
        let at = (sample, timestep);
        let output = recipe.conditioning.denoise(&self.unet, &p.at(UNET_PREFIX), at, condition, vars.mask);
        let mut loss = loss::weighted_mse(output, target, weight);
        if recipe.layout.weight > 0.0 {
            let places = b.input(names::PLACES, &[n * layout::PLACES], DType::I32);
            let p = p.at(layout::LAYOUT);
            let layout = layout::loss(&p, condition.context, vars.mask, places, self.text.heads);
            b.output(layout::LAYOUT, layout);
            loss = loss + layout * recipe.layout.weight;
        }
        b.output(LOSS, loss);
        Ok(b.finish()?)
    }
}

/// What the loop calls: completing batches, and sampling.
struct Both {
    complete: Complete,
    sampling: Sampling,
    exporter: Exporter,
}

impl Hooks for Both {
    fn complete(&mut self, batch: crate::step::Batch) -> Result<crate::step::Batch, TrainError> {
        self.complete.complete(batch)
    }

    fn sample(
        &mut self,
        table: &crate::parameters::Table,
        state: &crate::parameters::State,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<Vec<(&'static str, f64)>, TrainError> {
        self.sampling.sample(&self.exporter, table, state, observer, cancel)
    }
}
