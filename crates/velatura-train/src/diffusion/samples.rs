//! Sample pictures while training, and how many of them show what was asked for.

use std::sync::Arc;

use velatura::{Engine, EngineOptions, GenerateRequest, Progress};
use velatura_cpu::{CancelToken, Runtime};
use velatura_scenes::{Glyphs, Intent, Judge, Mix, RgbImage, Scenes, Scores, Split, caption};

use super::export::Exporter;
use crate::TrainError;
use crate::observer::Observer;
use crate::parameters::{State, Table};
use crate::picture::{grid, save};
use crate::recipe::DiffusionRecipe;

/// Prompts with their seeds, and the judge.
pub(super) struct Sampling {
    prompts: Vec<(String, u64)>,
    /// What each prompt asks for, where the judge can say.
    intents: Vec<Option<Intent>>,
    judge: Judge,
    runtime: Arc<Runtime>,
}

/// Seed of the scenes whose captions are sampled: not the one that is trained on.
const PROMPT_SEED: u64 = 0x5a3b_1e5e_ed00;

impl Sampling {
    pub fn new(
        recipe: &DiffusionRecipe,
        glyphs: &Arc<Glyphs>,
        runtime: &Arc<Runtime>,
    ) -> Result<Self, TrainError> {
        let texts: Vec<String> = if recipe.samples.prompts.is_empty() {
            let scenes = Scenes::with_glyphs(Arc::clone(glyphs), PROMPT_SEED, Split::Seen, recipe.data.size)?;
            let scenes = scenes.with_mix(Mix::up_to_two_objects())?;
            (0..recipe.samples.count as u64).map(|i| scenes.prompt(i).caption).collect()
        } else {
            recipe.samples.prompts.clone()
        };
        let intents = texts.iter().map(|text| caption::parse(text).ok()).collect();
        let prompts = texts.into_iter().zip(0..).collect();
        Ok(Sampling { prompts, intents, judge: Judge::new(glyphs), runtime: Arc::clone(runtime) })
    }

    pub fn sample(
        &self,
        exporter: &Exporter,
        table: &Table,
        state: &State,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<Vec<(&'static str, f64)>, TrainError> {
        let weights = Arc::new(exporter.weights(table, state));
        let manifest = exporter.manifest(state.step);
        let engine =
            Engine::from_weights(manifest, weights, EngineOptions::default())?.on_runtime(&self.runtime);
        let mut progress = |event: Progress<'_>| {
            if let Progress::Step { done, steps, .. } = event {
                observer.stage("sampling", done as u64, steps as u64);
            }
        };
        let made = engine.generate_each(&GenerateRequest::default(), &self.prompts, &mut progress, cancel)?;
        let picture =
            |p: &velatura::Picture| RgbImage::from_raw(p.width as u32, p.height as u32, p.rgb.clone());
        let pictures: Vec<RgbImage> = made.pictures.iter().filter_map(picture).collect();
        let mut scores = Scores::default();
        for (picture, intent) in pictures.iter().zip(&self.intents) {
            if let Some(intent) = intent {
                scores.add(&self.judge.read(picture).verdict(intent));
            }
        }
        let measured: Vec<(&'static str, f64)> = scores
            .named()
            .iter()
            .map(|(name, tally)| (*name, tally.fraction().unwrap_or(f64::NAN)))
            .collect();
        let folder = exporter.recipe.output.join("samples");
        std::fs::create_dir_all(&folder).map_err(TrainError::write(&folder))?;
        let path = folder.join(format!("sample-{:07}.png", state.step));
        save(&path, &grid(&pictures, 8))?;
        let prompts: Vec<&str> = self.prompts.iter().map(|(text, _)| text.as_str()).collect();
        let list = folder.join("prompts.txt");
        std::fs::write(&list, prompts.join("\n") + "\n").map_err(TrainError::write(&list))?;
        let shares: Vec<String> =
            measured.iter().map(|(name, share)| format!("{name} {:.0}%", share * 100.0)).collect();
        observer.note(&format!("step {}: {}, {}", state.step, shares.join(", "), path.display()));
        Ok(measured)
    }
}
