//! Training the classifier with cross-entropy.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use velatura_cpu::{CancelToken, Runtime};
use velatura_graph::passes::Precision;
use velatura_graph::{Builder, DType, Graph};

use super::crops::Crops;
use super::{ClassifierNote, INPUT, PREFIX, Part, TOGETHER, best, features, graph, logits, write};
use crate::TrainError;
use crate::codec::Coder;
use crate::observer::{Finished, Observer};
use crate::parameters::{State, Table};
use crate::picture::{grid, push_picture, save};
use crate::recipe::ClassifierRecipe;
use crate::step::{Batch, LOSS, Step};
use crate::trainer::{BatchSource, Hooks, TrainOptions, Trainer, read_recipe};

/// Name of the finished classifier in its output folder.
pub const CLASSIFIER_FILE: &str = "classifier.safetensors";

const CLASS: &str = "class";
/// Crops that are not trained on, to measure.
const MEASURED: u64 = 2048;

/// Trains the classifier of a recipe. The finished file is `classifier.safetensors` in the output folder: the running
/// average of the weights.
///
/// # Errors
/// [`TrainError`]; the last good state is kept in a checkpoint.
pub fn train_classifier(
    recipe: &Path,
    options: &TrainOptions,
    observer: &mut dyn Observer,
    cancel: &CancelToken,
) -> Result<Finished, TrainError> {
    let (recipe, text) = read_recipe::<ClassifierRecipe>(recipe, options)?;
    let glyphs = recipe.data.load_glyphs()?;
    let classes = glyphs.present().len();
    let runtime = Runtime::new(recipe.training.threads);
    let forward = forward_graph(&recipe, classes)?;
    let step = Step::new(&runtime, forward, recipe.training.precision.into(), &[], Default::default())?;
    let mut trainer = Trainer::new(Arc::clone(&runtime), &recipe, step, String::new(), options.resume)?;
    trainer.announce("classifier", observer);

    let crops = Crops::new(&glyphs, recipe.data.seed, recipe.size);
    let source = Source { crops, batch: recipe.training.batch };
    let unseen = Crops::new(&glyphs, !recipe.data.seed, recipe.size);
    let mut hooks = Measure { recipe: recipe.clone(), classes, runtime, unseen };
    if let Some(stopped) = trainer.run(&source, &mut hooks, observer, cancel)? {
        return Ok(stopped);
    }
    let (table, state) = (trainer.step.table(), &trainer.state);
    let measured = hooks.sample(table, state, observer, cancel)?;
    let note = ClassifierNote {
        format: 1,
        size: recipe.size,
        channels: recipe.channels.clone(),
        glyphs: glyphs.present().iter().map(|g| g.name().to_string()).collect(),
        steps: state.step,
        accuracy: measured.first().map_or(f64::NAN, |m| m.1),
        recipe: text,
    };
    let file = write(&recipe.output.join(CLASSIFIER_FILE), table, &state.ema, &note)?;
    Ok(Finished { step: state.step, stopped: false, file, measured })
}

fn forward_graph(recipe: &ClassifierRecipe, classes: usize) -> Result<Graph, TrainError> {
    let (n, size) = (recipe.training.batch, recipe.size as usize);
    let b = Builder::new();
    let p = b.params().at(PREFIX);
    let picture = b.input(INPUT, &[n, size, size, 3], DType::F32);
    let class = b.input(CLASS, &[n], DType::I32);
    let logits = logits(&p, features(&p, picture, &recipe.channels), classes);
    b.output(LOSS, logits.cross_entropy(class).mean_all());
    Ok(b.finish()?)
}

struct Source {
    crops: Crops,
    batch: usize,
}

impl BatchSource for Source {
    fn batch(&self, index: u64) -> Result<Batch, TrainError> {
        let (mut pictures, mut classes) = (Vec::new(), Vec::with_capacity(self.batch));
        for i in 0..self.batch as u64 {
            let (crop, class) = self.crops.get(index * self.batch as u64 + i);
            push_picture(&crop, &mut pictures);
            classes.push(class as i32);
        }
        Ok(vec![(INPUT, pictures.into()), (CLASS, classes.into())])
    }
}

struct Measure {
    recipe: ClassifierRecipe,
    classes: usize,
    runtime: Arc<Runtime>,
    unseen: Crops,
}

impl Hooks for Measure {
    fn sample(
        &mut self,
        table: &Table,
        state: &State,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<Vec<(&'static str, f64)>, TrainError> {
        let graph = graph(&self.recipe.channels, self.classes, TOGETHER, self.recipe.size, Part::Logits)?;
        let find = |name: &str| table.entry(name).map(|entry| Cow::Borrowed(entry.of(&state.ema)));
        let mut coder = Coder::new(&self.runtime, graph, Precision::F32, TOGETHER, &find)?;
        let (crops, classes): (Vec<_>, Vec<_>) = (0..MEASURED).map(|i| self.unseen.get(i)).unzip();
        let mut items = Vec::new();
        crops.iter().for_each(|crop| push_picture(crop, &mut items));
        let logits = coder.run(&items, cancel)?;
        let named = logits.chunks_exact(self.classes.max(1)).zip(&classes);
        let hits = named.filter(|(row, class)| best(row).is_some_and(|(named, _)| named == **class)).count();
        let accuracy = hits as f64 / MEASURED as f64;
        let folder = self.recipe.output.join("samples");
        std::fs::create_dir_all(&folder).map_err(TrainError::write(&folder))?;
        save(&folder.join("crops.png"), &grid(&crops[..64.min(crops.len())], 8))?;
        observer.note(&format!(
            "step {}: {:.2}% of unseen crops are named rightly",
            state.step,
            accuracy * 100.0
        ));
        Ok(vec![("accuracy", accuracy)])
    }
}
