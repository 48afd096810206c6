//! `velatura train KIND RECIPE`

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;
use velatura_train::{
    CancelToken, Finished, Observer, RunInfo, StepReport, TrainError, TrainOptions, export_checkpoint,
    train_autoencoder, train_classifier, train_diffusion,
};

use crate::failure::Failure;
use crate::progress::TrainingBar;
use crate::{interrupt, parse, terminal};

/// Trains a model as a recipe says.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    velatura train autoencoder recipes/autoencoder.toml\n  \
    velatura train diffusion recipes/diffusion.toml --resume\n  \
    velatura train export recipes/diffusion.toml model.safetensors\n\n\
    A run that was stopped, by Ctrl-C or by a power cut, goes on with --resume as if nothing had happened.")]
pub struct Args {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(clap::Subcommand)]
enum Kind {
    /// Train an autoencoder: pictures to latents and back
    Autoencoder(RunArgs),
    /// Train a denoiser and its text transformer on the latents of an autoencoder
    Diffusion(RunArgs),
    /// Train the glyph classifier by which `velatura eval` judges
    Classifier(RunArgs),
    /// Write the model as it is in the newest checkpoint of a diffusion run, which may still be going on
    Export(ExportArgs),
}

#[derive(clap::Args)]
struct ExportArgs {
    /// The recipe of the run, TOML
    recipe: PathBuf,
    /// The model file to write
    output: PathBuf,
    /// Another folder of the run than the recipe's
    #[arg(long, value_name = "FOLDER")]
    run: Option<PathBuf>,
    /// Take the decoder of this autoencoder, which was trained on with the same encoder
    #[arg(long, value_name = "FILE")]
    decoder: Option<PathBuf>,
}

#[derive(clap::Args)]
struct RunArgs {
    /// The recipe, TOML
    recipe: PathBuf,
    /// Go on from the newest checkpoint in the output folder
    #[arg(long)]
    resume: bool,
    /// Another output folder than the recipe's
    #[arg(short, long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// Another number of steps than the recipe's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// Threads; the result does not depend on it
    #[arg(long, value_name = "N", value_parser = parse::threads, env = "VELATURA_THREADS")]
    threads: Option<usize>,
    /// Print what came of it as JSON
    #[arg(long)]
    json: bool,
}

/// How often a log that is no terminal gets a line.
const BETWEEN_LINES: Duration = Duration::from_secs(30);

type Train = fn(&Path, &TrainOptions, &mut dyn Observer, &CancelToken) -> Result<Finished, TrainError>;

/// Trains until the recipe's last step, or until it is stopped.
pub fn run(args: Args, quiet: bool) -> Result<(), Failure> {
    let (train, args): (Train, RunArgs) = match args.kind {
        Kind::Autoencoder(args) => (train_autoencoder, args),
        Kind::Diffusion(args) => (train_diffusion, args),
        Kind::Classifier(args) => (train_classifier, args),
        Kind::Export(args) => return export(args),
    };
    let cancel = interrupt::token();
    let RunArgs { recipe, resume, output, steps, threads, json } = args;
    let options = TrainOptions { resume, output, steps, threads };
    let log = !quiet && !std::io::stderr().is_terminal();
    let mut watcher = Watcher { bar: TrainingBar::new(quiet), quiet, log, last_line: None };
    let result = train(&recipe, &options, &mut watcher, &cancel);
    watcher.bar.finish();
    match result {
        Ok(finished) => report(&recipe, &finished, json),
        Err(error) if error.is_cancelled() => {
            Err(Failure::Interrupted("interrupted between steps; no step that was kept is lost".into()))
        }
        Err(error) => Err(Failure::Failed(error.to_string())),
    }
}

fn export(args: ExportArgs) -> Result<(), Failure> {
    let options = TrainOptions { output: args.run, ..TrainOptions::default() };
    match export_checkpoint(&args.recipe, &options, args.decoder.as_deref(), &args.output) {
        Ok(file) => terminal::print_line(&file.display().to_string()),
        Err(error) => Err(Failure::Failed(error.to_string())),
    }
}

fn report(recipe: &Path, finished: &Finished, as_json: bool) -> Result<(), Failure> {
    let file = finished.file.display().to_string();
    if as_json {
        let measured: serde_json::Map<String, serde_json::Value> =
            finished.measured.iter().map(|(name, value)| (name.to_string(), json!(value))).collect();
        terminal::print_json(
            &json!({"step": finished.step, "stopped": finished.stopped, "file": file, "measured": measured}),
        )?;
    }
    if finished.stopped {
        return Err(Failure::Interrupted(format!(
            "interrupted after step {}; {file} is kept: add --resume to go on ({})",
            finished.step,
            recipe.display()
        )));
    }
    if as_json { Ok(()) } else { terminal::print_line(&file) }
}

/// Shows a run to a person.
struct Watcher {
    bar: TrainingBar,
    quiet: bool,
    /// Whether to write lines, because there is no terminal for a bar.
    log: bool,
    last_line: Option<Instant>,
}

impl Watcher {
    /// Whether it is time for a line.
    fn line_is_due(&mut self, always: bool) -> bool {
        let due = self.log && (always || self.last_line.is_none_or(|last| last.elapsed() >= BETWEEN_LINES));
        if due {
            self.last_line = Some(Instant::now());
        }
        due
    }
}

impl Observer for Watcher {
    fn started(&mut self, info: &RunInfo) {
        if !self.quiet {
            let (millions, mib) = (info.parameters as f64 / 1e6, info.arena_bytes >> 20);
            self.note(&format!(
                "{}: {millions:.2}M parameters, {} samples a step, {mib} MiB of activations, output in {}",
                info.kind,
                info.samples_per_step,
                info.output.display()
            ));
        }
        self.bar.start(info.from_step, info.steps);
    }

    fn step(&mut self, report: &StepReport) {
        let StepReport { step, steps, loss, samples_per_second, seconds_left, .. } = report;
        let text = format!("loss {loss:.4}  {samples_per_second:.0} samples/s  {} left", time(*seconds_left));
        if self.line_is_due(step == steps) {
            terminal::remark(&format!("{step}/{steps}  {text}"));
        }
        self.bar.set(*step, text);
    }

    fn stage(&mut self, what: &str, done: u64, total: u64) {
        if self.line_is_due(false) {
            terminal::remark(&format!("{what}: {done}/{total}"));
        }
        self.bar.stage(what, done, total);
    }

    fn note(&mut self, message: &str) {
        if !self.quiet {
            self.bar.remark(message);
        }
    }
}

/// Seconds as people say them.
fn time(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "?".into();
    }
    let seconds = seconds as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m}:{s:02} min"),
        (h, m, _) => format!("{h}:{m:02} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn times_are_short() {
        assert_eq!([time(7.9), time(75.0), time(7260.0), time(f64::NAN)], ["7 s", "1:15 min", "2:01 h", "?"]);
    }
}
