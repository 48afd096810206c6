//! `velatura eval`

use std::path::PathBuf;

use velatura::{Precision, SHIPPED_NAME};
use velatura_train::eval::{self, EvalOptions};
use velatura_train::{Observer, TrainError};

use crate::failure::Failure;
use crate::progress::TrainingBar;
use crate::{interrupt, models, parse, terminal};

/// Measures how often a model's pictures show what their prompts ask for.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    velatura eval --prompts 200 --output sheet.png\n  \
    velatura eval --model runs/diffusion/model.safetensors --json > report.json\n\n\
    It needs the Noto Color Emoji font (Debian package fonts-noto-color-emoji) to draw true pictures.")]
pub struct Args {
    /// A model: a file, a folder, a short name that `velatura models` lists, or a hub's owner/name; the model that ships
    /// with velatura when not given
    #[arg(short, long, value_name = "MODEL")]
    model: Option<String>,
    /// Prompts of pairs that training saw; half as many of held-out pairs are added
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1000,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    prompts: u32,
    /// Another number of prompts of held-out pairs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    held_out: Option<u32>,
    /// Write the first 64 pictures with their prompts as one PNG file
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Seed of the prompts and the pictures
    #[arg(short, long, value_name = "N", value_parser = parse::seed, default_value_t = 0)]
    seed: u64,
    /// Another number of sampling steps than the model's
    #[arg(long, value_name = "N", value_parser = parse::steps)]
    steps: Option<u32>,
    /// Another guidance than the model's
    #[arg(short, long, value_name = "SCALE", value_parser = parse::guidance)]
    guidance: Option<f32>,
    /// f32, bf16 or int8; bf16 where the processor multiplies it when not given
    #[arg(long, value_name = "NAME", value_parser = parse::precision)]
    precision: Option<Precision>,
    /// The emoji font
    #[arg(long, value_name = "FILE", default_value = velatura_scenes::DEFAULT_FONT)]
    font: PathBuf,
    /// The classifier for judge B and the Frechet distance; the one that ships when not given
    #[arg(long, value_name = "FILE")]
    classifier: Option<PathBuf>,
    /// Threads; the result does not depend on it
    #[arg(long, value_name = "N", value_parser = parse::threads, env = "VELATURA_THREADS")]
    threads: Option<usize>,
    /// Print JSON, all shares as fractions
    #[arg(long)]
    json: bool,
}

/// Measures, and prints a table or JSON.
pub fn run(args: Args, quiet: bool) -> Result<(), Failure> {
    let cancel = interrupt::token();
    let json = args.json;
    let named = args.model.as_deref().filter(|name| *name != SHIPPED_NAME);
    let options = EvalOptions {
        model: named.map(|name| models::locate(name, quiet)).transpose()?,
        font: args.font,
        prompts: args.prompts as usize,
        held_out: args.held_out.map(|n| n as usize),
        seed: args.seed,
        steps: args.steps,
        guidance: args.guidance,
        precision: args.precision,
        threads: args.threads,
        output: args.output,
        classifier: args.classifier,
        ..EvalOptions::default()
    };
    let mut watcher = Watcher(TrainingBar::new(quiet));
    let result = eval::run(&options, &mut watcher, &cancel);
    watcher.0.finish();
    match result {
        Ok(report) if json => terminal::print_json(&report.to_json()),
        Ok(report) => terminal::print(&report.to_table()),
        Err(error) if error.is_cancelled() => {
            Err(Failure::Interrupted("interrupted; nothing was measured".into()))
        }
        Err(TrainError::Engine(error)) => Err((*error).into()),
        Err(error) => Err(Failure::Failed(error.to_string())),
    }
}

/// Shows what is being done.
struct Watcher(TrainingBar);

impl Observer for Watcher {
    fn stage(&mut self, what: &str, done: u64, total: u64) {
        self.0.stage(what, done, total);
    }
}
