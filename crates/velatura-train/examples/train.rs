//! Trains from a recipe, with a line every few seconds.
//!
//! `train autoencoder|diffusion RECIPE [--resume] [--steps N] [--output FOLDER] [--threads N]`

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use velatura_train::{
    CancelToken, Observer, RunInfo, StepReport, TrainOptions, train_autoencoder, train_diffusion,
};

struct Lines {
    last: Instant,
}

impl Observer for Lines {
    fn started(&mut self, info: &RunInfo) {
        println!("{info:?}");
    }
    fn step(&mut self, r: &StepReport) {
        if self.last.elapsed() > Duration::from_secs(5) || r.step == r.steps || r.step <= 3 {
            self.last = Instant::now();
            let metrics: Vec<String> = r.metrics.iter().map(|(n, v)| format!("{n} {v:.4}")).collect();
            println!(
                "{}/{} loss {:.4} {} norm {:.3} lr {:.2e} {:.1}/s {:.0} s left",
                r.step,
                r.steps,
                r.loss,
                metrics.join(" "),
                r.gradient_norm,
                r.learning_rate,
                r.samples_per_second,
                r.seconds_left
            );
        }
    }
    fn stage(&mut self, what: &str, done: u64, total: u64) {
        if self.last.elapsed() > Duration::from_secs(5) || done == total {
            self.last = Instant::now();
            println!("{what}: {done}/{total}");
        }
    }
    fn note(&mut self, message: &str) {
        println!("{message}");
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut options = TrainOptions::default();
    let mut rest = arguments.iter().skip(2);
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--resume" => options.resume = true,
            "--steps" => options.steps = rest.next().and_then(|n| n.parse().ok()),
            "--threads" => options.threads = rest.next().and_then(|n| n.parse().ok()),
            "--output" => options.output = rest.next().map(PathBuf::from),
            other => {
                eprintln!("error: {other} is not known");
                return ExitCode::FAILURE;
            }
        }
    }
    let (Some(kind), Some(recipe)) = (arguments.first(), arguments.get(1)) else {
        eprintln!("error: say autoencoder or diffusion, and a recipe");
        return ExitCode::FAILURE;
    };
    let (mut observer, cancel) = (Lines { last: Instant::now() }, CancelToken::default());
    let result = match kind.as_str() {
        "autoencoder" => train_autoencoder(recipe.as_ref(), &options, &mut observer, &cancel),
        _ => train_diffusion(recipe.as_ref(), &options, &mut observer, &cancel),
    };
    match result {
        Ok(finished) => {
            println!("{finished:?}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
