//! The loop that all kinds of training share.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use velatura_cpu::{CancelToken, CpuError, Runtime};

use crate::TrainError;
use crate::checkpoint::{self, Note, Restored};
use crate::logs::{Logs, Row};
use crate::observer::{Finished, Observer, RunInfo, StepReport};
use crate::optimize::Optimization;
use crate::parameters::{State, Table};
use crate::recipe::{LogSettings, Recipe, TrainingSettings, load};
use crate::step::{Batch, Step};

/// What the caller decides beside the recipe.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrainOptions {
    /// Goes on from the newest checkpoint in the output folder.
    pub resume: bool,
    /// Another output folder than the recipe's.
    pub output: Option<PathBuf>,
    /// Another number of steps than the recipe's.
    pub steps: Option<u64>,
    /// Another number of threads than the recipe's.
    pub threads: Option<usize>,
}

/// Reads a recipe and puts what the caller decides in the place of what it says.
pub(crate) fn read_recipe<R: Recipe>(file: &Path, options: &TrainOptions) -> Result<(R, String), TrainError> {
    let loaded = load::<R>(file)?;
    let mut recipe = loaded.recipe;
    if let Some(output) = &options.output {
        recipe.set_output(output);
    }
    if let Some(steps) = options.steps {
        recipe.training_mut().steps = steps.max(1);
    }
    if let Some(threads) = options.threads {
        recipe.training_mut().threads = Some(threads.max(1));
    }
    Ok((recipe, loaded.text))
}

/// Makes batches; called on a thread of its own, in order.
pub(crate) trait BatchSource: Sync {
    /// The inputs of one batch. It depends on nothing but `index`, which counts batches over the whole run.
    fn batch(&self, index: u64) -> Result<Batch, TrainError>;
}

/// What a kind of training adds to the loop.
pub(crate) trait Hooks {
    /// Completes a batch on the loop's own thread, where networks can be run.
    fn complete(&mut self, batch: Batch) -> Result<Batch, TrainError> {
        Ok(batch)
    }
    /// Samples and measures at a step; returns numbers for the log.
    fn sample(
        &mut self,
        table: &Table,
        state: &State,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<Vec<(&'static str, f64)>, TrainError>;
}

/// One run: its step, settings and state.
pub(crate) struct Trainer {
    pub runtime: Arc<Runtime>,
    pub step: Step,
    pub state: State,
    output: PathBuf,
    note: Note,
    training: TrainingSettings,
    log: LogSettings,
    from_step: u64,
    /// The step whose checkpoint this run has read or written.
    saved: Option<u64>,
    /// What is wrong with checkpoints that were passed over.
    damaged: Vec<TrainError>,
}

/// Why the loop ended.
enum Ended {
    Done,
    Stopped,
}

impl Trainer {
    /// Prepares a run: the output folder, and the state from the beginning or from the newest checkpoint. `inputs` is
    /// the hash of what the run reads beside its recipe.
    pub fn new<R: Recipe>(
        runtime: Arc<Runtime>,
        recipe: &R,
        step: Step,
        inputs: String,
        resume: bool,
    ) -> Result<Self, TrainError> {
        let output = recipe.output().to_path_buf();
        std::fs::create_dir_all(&output).map_err(TrainError::write(&output))?;
        let internal = |e: serde_json::Error| TrainError::Internal(e.to_string());
        let note = Note {
            format: 1,
            kind: R::KIND.to_string(),
            step: 0,
            recipe: serde_json::to_value(recipe).map_err(internal)?,
            inputs,
        };
        let (state, saved, damaged) = match (resume, checkpoint::steps(&output).last()) {
            (true, _) => {
                let Restored { state, damaged } = checkpoint::load_newest(&output, step.table(), &note)?;
                let saved = Some(state.step);
                (state, saved, damaged)
            }
            (false, Some(&step)) => return Err(TrainError::AlreadyThere { folder: output, step }),
            (false, None) => (State::initial(step.table(), recipe.training().seed), None, Vec::new()),
        };
        velatura_weights::check_writable(checkpoint::path(&output, 0))?;
        let (training, log) = (recipe.training().clone(), recipe.log().clone());
        let from_step = state.step;
        Ok(Trainer { runtime, step, state, output, note, training, log, from_step, saved, damaged })
    }

    /// Tells the observer what begins.
    pub fn announce(&self, kind: &'static str, observer: &mut dyn Observer) {
        observer.started(&RunInfo {
            kind,
            output: self.output.clone(),
            parameters: self.step.table().len(),
            from_step: self.from_step,
            steps: self.training.steps,
            samples_per_step: self.training.samples_per_step(),
            arena_bytes: self.step.arena_bytes(),
        });
        for damage in &self.damaged {
            observer.note(&format!("warning: {damage}; going on from step {} instead", self.from_step));
        }
    }

    /// Takes all remaining steps. `None` when the last one was taken; when the caller stopped it, what to report.
    pub fn run(
        &mut self,
        source: &dyn BatchSource,
        hooks: &mut dyn Hooks,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<Option<Finished>, TrainError> {
        self.step.load(&self.state.weights)?;
        let mut logs = Logs::open(&self.output, self.step.metrics(), self.state.step)?;
        let first = self.state.step * self.training.accumulation as u64;
        let last = self.training.steps * self.training.accumulation as u64;
        let ended = std::thread::scope(|scope| {
            let (sender, batches) = sync_channel(2);
            scope.spawn(move || produce(source, first..last, &sender));
            // The receiver is dropped at the end of this closure, which ends the thread.
            self.steps(&batches, hooks, &mut logs, observer, cancel)
        });
        // Logs are for looking at; they must not cost the state.
        let drawn = logs.finish();
        if let Ended::Done = ended? {
            drawn?;
            self.save()?;
            return Ok(None);
        }
        let file = self.save()?;
        Ok(Some(Finished { step: self.state.step, stopped: true, file, measured: Vec::new() }))
    }

    fn steps(
        &mut self,
        batches: &Receiver<Result<Batch, TrainError>>,
        hooks: &mut dyn Hooks,
        logs: &mut Logs,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<Ended, TrainError> {
        let optimization = Optimization::new(&self.training, self.step.table());
        let mut gradients = vec![0.0; self.step.table().len()];
        let mut pace = Pace::default();
        while self.state.step < self.training.steps {
            let start = Instant::now();
            if cancel.is_cancelled() {
                return Ok(Ended::Stopped);
            }
            let Some((loss, metrics)) = self.gradients(batches, hooks, &mut gradients, cancel)? else {
                return Ok(Ended::Stopped);
            };
            let norm = optimization.gradient_norm(&self.runtime, &gradients);
            for (what, value) in [("loss", loss), ("gradient norm", norm)] {
                if !value.is_finite() {
                    return Err(self.not_finite(self.state.step + 1, what, value)?);
                }
            }
            let lr = optimization.step(&self.runtime, &mut self.state, &gradients, norm);
            self.step.load(&self.state.weights)?;

            pace.add(start.elapsed().as_secs_f64());
            let step = self.state.step;
            let report = StepReport {
                step,
                steps: self.training.steps,
                loss,
                metrics: self.step.metrics().iter().copied().zip(metrics).collect(),
                gradient_norm: norm,
                learning_rate: lr,
                samples_per_second: self.training.samples_per_step() as f64 / pace.seconds,
                seconds_left: (self.training.steps - step) as f64 * pace.seconds,
            };
            observer.step(&report);
            logs.add(&Row::of(&report));
            let steps = self.training.steps;
            let due = |every: u64| every > 0 && step.is_multiple_of(every) && step < steps;
            if due(self.log.every) || step == self.training.steps {
                logs.write()?;
            }
            if due(self.log.checkpoint_every) {
                self.save()?;
            }
            if due(self.log.sample_every) {
                logs.draw()?;
                match hooks.sample(self.step.table(), &self.state, observer, cancel) {
                    Ok(measured) => logs.measured(step, &measured)?,
                    Err(error) if error.is_cancelled() => return Ok(Ended::Stopped),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(Ended::Done)
    }

    /// Sums the gradients of one step's batches; mean loss and metrics. `None` when stopped.
    fn gradients(
        &mut self,
        batches: &Receiver<Result<Batch, TrainError>>,
        hooks: &mut dyn Hooks,
        gradients: &mut [f32],
        cancel: &CancelToken,
    ) -> Result<Option<(f64, Vec<f64>)>, TrainError> {
        let count = self.training.accumulation;
        let mut total = (0.0, vec![0.0; self.step.metrics().len()]);
        for i in 0..count {
            let ended = || TrainError::Internal("the thread that makes batches has ended".into());
            let batch = hooks.complete(batches.recv().map_err(|_| ended())??);
            let result = batch.and_then(|batch| self.step.run(&batch, gradients, i == 0, cancel));
            match result {
                Ok((loss, metrics)) => {
                    total.0 += loss / count as f64;
                    total.1.iter_mut().zip(metrics).for_each(|(sum, m)| *sum += m / count as f64);
                }
                Err(TrainError::Cpu(CpuError::Cancelled)) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(total))
    }

    /// The error of a run that came upon a number that is none, after the last good state was kept.
    fn not_finite(&mut self, step: u64, what: &'static str, value: f64) -> Result<TrainError, TrainError> {
        let kept = match self.state.is_finite() {
            true => Some(self.save()?),
            // What the state was before is gone; the last checkpoint is older, and good.
            false => checkpoint::newest(&self.output),
        };
        Ok(TrainError::NotFinite { step, what, value, kept })
    }

    /// Writes a checkpoint of the state as it is, unless this step has one. A state that is not finite is refused, so
    /// that it never takes the place of a good one.
    fn save(&mut self) -> Result<PathBuf, TrainError> {
        let step = self.state.step;
        if self.saved == Some(step) {
            return Ok(checkpoint::path(&self.output, step));
        }
        if !self.state.is_finite() {
            let kept = checkpoint::newest(&self.output);
            return Err(TrainError::NotFinite { step, what: "weights", value: f64::NAN, kept });
        }
        self.note.step = step;
        let file = checkpoint::save(&self.output, self.step.table(), &self.state, &self.note)?;
        self.saved = Some(step);
        Ok(file)
    }

    /// The checkpoint of the last step, for a run that was stopped while it was finished.
    pub fn stopped(&self) -> Finished {
        let file = checkpoint::path(&self.output, self.state.step);
        Finished { step: self.state.step, stopped: true, file, measured: Vec::new() }
    }
}

/// Makes batches ahead of the loop, until it wants no more.
fn produce(
    source: &dyn BatchSource,
    indices: std::ops::Range<u64>,
    sender: &SyncSender<Result<Batch, TrainError>>,
) {
    for index in indices {
        let batch = source.batch(index);
        let failed = batch.is_err();
        if sender.send(batch).is_err() || failed {
            return;
        }
    }
}

/// Seconds a step, over the last steps.
#[derive(Default)]
struct Pace {
    seconds: f64,
    steps: u64,
}

impl Pace {
    fn add(&mut self, seconds: f64) {
        self.steps += 1;
        let weight = (1.0 / self.steps as f64).max(0.05);
        self.seconds += (seconds - self.seconds) * weight;
    }
}
