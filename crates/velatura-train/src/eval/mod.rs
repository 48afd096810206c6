//! Measuring a finished model: does a picture show what its prompt asks for?
//!
//! Prompts of one or two objects are drawn from scenes that training did not use, pictures are made for them, and two
//! judges read the pictures: A by template matching ([`velatura_scenes::judge`]), B by a trained classifier
//! ([`crate::Classifier`]). Beside the result stand what it must be held against: the same pictures with
//! shuffled prompts (chance), true renders (the judges' own errors), and true renders after the autoencoder (the
//! ceiling). The Frechet distance on the classifier's features has its floor, between two sets of true renders, beside
//! it.

mod frechet;
mod judges;
mod report;
mod sheet;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use velatura::{Engine, EngineOptions, GenerateRequest, Precision, Progress};
use velatura_cpu::{CancelToken, Runtime};
use velatura_graph::passes;
use velatura_models::Autoencoder;
use velatura_scenes::{DEFAULT_FONT, Glyphs, Intent, Mix, RgbImage, SceneError, Scenes, Split};

use crate::TrainError;
use crate::classifier::Classifier;
use crate::codec::{Coder, decoder_graph, encoder_graph};
use crate::observer::Observer;
use crate::recipe::{self, DiffusionRecipe};

pub use frechet::Gaussian;
pub use report::{Report, Sets};

use judges::{Judges, Seen, score};

/// Seed of the scenes, combined with the caller's: no recipe uses it.
const SCENES_SEED: u64 = 0xe7a1_5eed_c0de_0001;
/// Most true renders that go through the autoencoder.
const MOST_RECONSTRUCTED: usize = 512;
/// Pictures that go through the autoencoder together.
const TOGETHER: usize = 16;

/// What is measured, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalOptions {
    /// The model file; the one that ships when `None`.
    pub model: Option<PathBuf>,
    /// The emoji font.
    pub font: PathBuf,
    /// Prompts of pairs that training saw; at least 1.
    pub prompts: usize,
    /// Prompts of held-out pairs; half of `prompts` when `None`, none for 0.
    pub held_out: Option<usize>,
    /// Seed of the prompts and of the pictures.
    pub seed: u64,
    /// Another number of sampling steps than the model's.
    pub steps: Option<u32>,
    /// Another guidance than the model's.
    pub guidance: Option<f32>,
    /// Arithmetic of the pictures; what this processor is fast at when `None`. The judges do not change with it.
    pub precision: Option<Precision>,
    /// Threads; all processors when `None`. Never changes a result.
    pub threads: Option<usize>,
    /// Pictures that are made before they are judged and let go.
    pub batch: usize,
    /// Where to write the contact sheet of the first 64 pictures, a PNG file.
    pub output: Option<PathBuf>,
    /// The classifier's file; the one that ships when `None`.
    pub classifier: Option<PathBuf>,
}

impl Default for EvalOptions {
    fn default() -> Self {
        EvalOptions {
            model: None,
            font: DEFAULT_FONT.into(),
            prompts: 1000,
            held_out: None,
            seed: 0,
            steps: None,
            guidance: None,
            precision: None,
            threads: None,
            batch: 32,
            output: None,
            classifier: None,
        }
    }
}

/// Measures a model.
///
/// # Errors
/// [`TrainError`]: a missing font, model or classifier, or a contact sheet that cannot be written, before the work
/// starts; [`TrainError::is_cancelled`] when the token stopped it.
pub fn run(
    options: &EvalOptions,
    observer: &mut dyn Observer,
    cancel: &CancelToken,
) -> Result<Report, TrainError> {
    let start = Instant::now();
    if let Some(sheet) = &options.output {
        velatura_weights::check_writable(sheet)?;
    }
    let classifier = Classifier::choose(options.classifier.as_deref())?;
    let runtime = Runtime::new(options.threads);
    let mut evaluation = Evaluation::new(options, &runtime, &classifier)?;
    let mut report = evaluation.run(observer, cancel)?;
    report.seconds = start.elapsed().as_secs_f64();
    Ok(report)
}

/// Everything that an evaluation needs, ready.
struct Evaluation<'o> {
    options: &'o EvalOptions,
    runtime: Arc<Runtime>,
    engine: Engine,
    scenes: Scenes,
    /// `None` when the glyphs are too few for held-out pairs.
    held_out: Option<Scenes>,
    judges: Judges,
}

impl<'o> Evaluation<'o> {
    fn new(
        options: &'o EvalOptions,
        runtime: &Arc<Runtime>,
        classifier: &Classifier,
    ) -> Result<Self, TrainError> {
        let engine_options = EngineOptions { threads: options.threads, ..EngineOptions::default() };
        let engine = match &options.model {
            Some(path) => Engine::open(path, engine_options)?,
            None => Engine::shipped(engine_options)?,
        };
        let engine = engine.on_runtime(runtime);
        let recipe = recipe_of(&engine);
        let glyphs = match recipe.as_ref().map(|r| r.data.glyphs.as_slice()) {
            None | Some([]) => Glyphs::load(&options.font)?,
            Some(names) => Glyphs::load_named(&options.font, names)?,
        };
        let (glyphs, mut seed) = (Arc::new(glyphs), SCENES_SEED ^ options.seed);
        if recipe.is_some_and(|r| r.data.seed == seed) {
            seed = !seed;
        }
        let size = engine.manifest().defaults.width;
        let scenes = |split| -> Result<Scenes, SceneError> {
            Scenes::with_glyphs(Arc::clone(&glyphs), seed, split, size)?.with_mix(Mix::up_to_two_objects())
        };
        let held_out = match scenes(Split::HeldOut) {
            Ok(scenes) => Some(scenes),
            Err(SceneError::EmptySplit { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let threads = options
            .threads
            .or_else(|| std::thread::available_parallelism().ok().map(|n| n.get()))
            .unwrap_or(1);
        let judges = Judges::new(&glyphs, classifier, runtime, threads)?;
        Ok(Evaluation {
            options,
            runtime: Arc::clone(runtime),
            engine,
            scenes: scenes(Split::Seen)?,
            held_out,
            judges,
        })
    }

    fn run(&mut self, observer: &mut dyn Observer, cancel: &CancelToken) -> Result<Report, TrainError> {
        let count = self.options.prompts.max(1);
        let held_out_count = self.options.held_out.unwrap_or(count.div_ceil(2));
        let mut notes = Vec::new();

        let (renders, features) = self.renders(count, observer, cancel)?;
        let reconstructions =
            self.reconstructions(count.min(MOST_RECONSTRUCTED), &mut notes, observer, cancel)?;
        let mut samples = Vec::new();
        let scenes = self.scenes.clone();
        let seen =
            self.generated(&scenes, count, "pictures of seen pairs", &mut samples, observer, cancel)?;
        if let Some(path) = &self.options.output {
            sheet::write(path, &samples)?;
        }
        let held_out = match (self.held_out.clone(), held_out_count) {
            (_, 0) => None,
            (Some(scenes), n) => {
                let made = self.generated(
                    &scenes,
                    n,
                    "pictures of held-out pairs",
                    &mut Vec::new(),
                    observer,
                    cancel,
                )?;
                Some((made, intents(&scenes, n)))
            }
            (None, _) => {
                notes.push("no pair of the model's glyphs and colours is held out".into());
                None
            }
        };

        let wanted = intents(&scenes, count);
        let sets = |readings: fn(&Seen) -> &[velatura_scenes::Reading]| Sets {
            seen: score(readings(&seen), &wanted, 0),
            shuffled: score(readings(&seen), &wanted, 1),
            held_out: held_out
                .as_ref()
                .map(|(made, wanted)| score(readings(made), wanted, 0))
                .unwrap_or_default(),
            renders: score(readings(&renders), &wanted, 0),
            reconstructions: score(readings(&reconstructions), &wanted, 0),
        };
        let width = self.judges.feature_width();
        let fit = |features: &[f32]| Gaussian::fit(features, width);
        let distance = |features: &[f32], other: &[f32]| fit(features)?.distance(&fit(other)?);
        if count <= 2 * width {
            notes.push(format!(
                "{count} pictures are few for the Frechet distance and its floor: both are too high, alike"
            ));
        }
        Ok(Report {
            model: self.engine.manifest().name.clone(),
            prompts: count,
            held_out_prompts: held_out.as_ref().map_or(0, |(_, wanted)| wanted.len()),
            judge_a: sets(|seen| &seen.a),
            judge_b: sets(|seen| &seen.b),
            frechet: distance(&seen.features, &features),
            frechet_floor: distance(&renders.features, &features),
            seconds: 0.0,
            notes,
        })
    }

    /// True renders of the prompts' scenes, judged; and the features of as many renders of other scenes.
    fn renders(
        &mut self,
        count: usize,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<(Seen, Vec<f32>), TrainError> {
        let (mut own, mut other) = (Seen::default(), Seen::default());
        let total = 2 * count;
        for at in (0..total).step_by(self.options.batch.max(1)) {
            observer.stage("true renders", at as u64, total as u64);
            // A part may not reach from the prompts' scenes into the others.
            let end = (at + self.options.batch.max(1)).min(total);
            for (range, seen) in [(at..end.min(count), &mut own), (at.max(count)..end, &mut other)] {
                let pictures: Vec<RgbImage> = range.map(|i| self.scenes.get(i as u64).image).collect();
                self.judges.look(&pictures, seen, cancel)?;
            }
        }
        observer.stage("true renders", total as u64, total as u64);
        Ok((own, other.features))
    }

    /// The first true renders after the model's own autoencoder, judged.
    fn reconstructions(
        &mut self,
        count: usize,
        notes: &mut Vec<String>,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<Seen, TrainError> {
        let mut seen = Seen::default();
        let encoder_there = |name: &String| name.starts_with("vae.encoder.");
        let file = self.engine.file().filter(|file| file.names().iter().any(encoder_there));
        let (Some(file), Autoencoder::Kl(config)) = (file, &self.engine.manifest().autoencoder) else {
            notes.push("the model has no encoder: reconstructions were left out".into());
            return Ok(seen);
        };
        let precision = match self.engine.default_precision() {
            Precision::F32 => passes::Precision::F32,
            Precision::Bf16 | Precision::Int8 => passes::Precision::Bf16,
        };
        let size = self.scenes.size();
        let find = |name: &str| file.f32(name).ok();
        let coder = |graph| Coder::new(&self.runtime, graph, precision, TOGETHER, &find);
        let mut encoder = coder(encoder_graph(config, TOGETHER, size, true)?)?;
        let mut decoder = coder(decoder_graph(config, TOGETHER, size, true)?)?;
        for at in (0..count).step_by(TOGETHER) {
            observer.stage("autoencoder", at as u64, count as u64);
            let end = (at + TOGETHER).min(count);
            let pictures: Vec<RgbImage> = (at..end).map(|i| self.scenes.get(i as u64).image).collect();
            let latents = encoder.encode(&pictures, cancel)?;
            self.judges.look(&decoder.decode(&latents, size, cancel)?, &mut seen, cancel)?;
        }
        observer.stage("autoencoder", count as u64, count as u64);
        Ok(seen)
    }

    /// Pictures made for the prompts of scenes, judged; the first 64 are kept with their prompts.
    fn generated(
        &mut self,
        scenes: &Scenes,
        count: usize,
        what: &str,
        samples: &mut Vec<(RgbImage, String)>,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<Seen, TrainError> {
        let EvalOptions { steps, guidance, precision, seed, .. } = *self.options;
        let request = GenerateRequest { steps, guidance, precision, ..GenerateRequest::default() };
        let prompt = |i: usize| (scenes.prompt(i as u64).caption, seed.wrapping_add(i as u64));
        let prompts: Vec<(String, u64)> = (0..count).map(prompt).collect();
        let mut seen = Seen::default();
        let mut done_before = 0;
        observer.stage(what, 0, count as u64);
        for part in prompts.chunks(self.options.batch.max(1)) {
            let mut progress = |event: Progress<'_>| {
                if let Progress::Step { done, steps, .. } = event {
                    // Not the whole: the last word is spoken below.
                    let at = done_before + part.len() * done / steps.max(1);
                    observer.stage(what, at.min(count.saturating_sub(1)) as u64, count as u64);
                }
            };
            let made = self.engine.generate_each(&request, part, &mut progress, cancel)?;
            done_before += part.len();
            let picture =
                |p: &velatura::Picture| RgbImage::from_raw(p.width as u32, p.height as u32, p.rgb.clone());
            let pictures: Vec<RgbImage> = made.pictures.iter().filter_map(picture).collect();
            self.judges.look(&pictures, &mut seen, cancel)?;
            let room = (sheet::SIDE * sheet::SIDE).saturating_sub(samples.len());
            samples.extend(pictures.into_iter().zip(part.iter().map(|(text, _)| text.clone())).take(room));
        }
        observer.stage(what, count as u64, count as u64);
        Ok(seen)
    }
}

fn intents(scenes: &Scenes, count: usize) -> Vec<Intent> {
    (0..count as u64).map(|i| scenes.prompt(i).intent).collect()
}

/// The recipe that a model was trained by, where it carries one that this version can read.
fn recipe_of(engine: &Engine) -> Option<DiffusionRecipe> {
    recipe::parse(Path::new("recipe"), &engine.manifest().training.recipe).ok()
}
