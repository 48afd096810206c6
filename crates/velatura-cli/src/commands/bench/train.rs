//! `velatura bench train`

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::json;
use velatura::CancelToken;
use velatura_models::UNetConfig;
use velatura_train::bench::{StepOptions, StepTimes, UNetStep, diffusion_step, unet_step};
use velatura_train::recipe::PrecisionName;

use super::by_layer;
use crate::failure::Failure;
use crate::{parse, terminal};

#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("network").required(true).args(["recipe", "arch"])))]
pub struct Args {
    /// A diffusion recipe, TOML, of which a whole step is timed; neither its autoencoder nor its font need exist
    #[arg(long, value_name = "RECIPE")]
    recipe: Option<PathBuf>,
    /// A published denoiser with random weights, of which loss and gradients are timed, and packing the changed weights;
    /// no optimizer
    #[arg(long, value_name = "NAME", value_enum)]
    arch: Option<Arch>,
    /// With --arch: train adapters of this rank beside the projections of all attentions (LoRA), not the weights
    #[arg(long, value_name = "RANK", conflicts_with = "recipe", value_parser = clap::value_parser!(u16).range(1..=1024))]
    lora: Option<u16>,
    /// With --arch: keep the edges of each block alone and compute its inside again; less memory, more arithmetic
    #[arg(long, conflicts_with = "recipe")]
    checkpointing: bool,
    /// With --arch: single precision throughout
    #[arg(long, conflicts_with = "recipe")]
    f32: bool,
    /// Samples of a step; the recipe's, else 1, when not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: Option<u32>,
    /// Height and width of the latents; 16 of a recipe's and the network's own of a published one's when not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    side: Option<u32>,
    /// How many steps are timed; the median counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
    /// Threads; the recipe's, else all processors, when not given
    #[arg(long, value_name = "N", value_parser = parse::threads, env = "VELATURA_THREADS")]
    threads: Option<usize>,
    /// Also say what the time went to
    #[arg(long)]
    by_layer: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Arch {
    /// Stable Diffusion 1.5
    Sd15,
    /// Stable Diffusion 2.1
    Sd21,
    /// Stable Diffusion XL
    Sdxl,
}

/// Measures a step and prints what it took.
pub fn run(args: &Args) -> Result<(), Failure> {
    let times = match (&args.recipe, args.arch) {
        (Some(recipe), _) => of_recipe(args, recipe),
        (None, arch) => of_arch(args, arch.unwrap_or(Arch::Sd15)),
    };
    print(args, times.map_err(|error| Failure::Failed(error.to_string()))?)
}

fn of_recipe(args: &Args, recipe: &Path) -> Result<StepTimes, velatura_train::TrainError> {
    let options = StepOptions {
        batch: args.batch.map(|n| n as usize),
        side: args.side.unwrap_or(16) as usize,
        threads: args.threads,
        runs: usize::from(args.runs),
        by_layer: args.by_layer,
    };
    diffusion_step(recipe, &options, &CancelToken::default())
}

fn of_arch(args: &Args, arch: Arch) -> Result<StepTimes, velatura_train::TrainError> {
    let config = match arch {
        Arch::Sd15 => UNetConfig::sd15(),
        Arch::Sd21 => UNetConfig::sd21(),
        Arch::Sdxl => UNetConfig::sdxl(),
    };
    let options = UNetStep {
        config: UNetConfig { gradient_checkpointing: args.checkpointing, ..config },
        side: args.side.map(|n| n as usize),
        batch: args.batch.unwrap_or(1) as usize,
        lora: args.lora.map(usize::from),
        precision: if args.f32 { PrecisionName::F32 } else { PrecisionName::Bf16 },
        threads: args.threads,
        runs: usize::from(args.runs),
        by_layer: args.by_layer,
    };
    unet_step(&options, &CancelToken::default())
}

fn print(args: &Args, times: StepTimes) -> Result<(), Failure> {
    let (median, pace, runs) = (times.median_s(), times.samples_per_second(), usize::from(args.runs));
    if args.json {
        return terminal::print_json(&json!({
            "median_s": median, "samples_per_second": pace, "arena_bytes": times.arena_bytes,
            "parameters": times.parameters, "batch": times.batch, "threads": times.threads,
            "seconds": times.seconds, "parts": times.parts.iter().copied().collect::<BTreeMap<_, _>>(),
            "layers": times.profile.map(|p| by_layer::to_json(&p, runs, times.threads)),
        }));
    }
    let mut text = format!(
        "{:.1} ms a step of {} samples, {pace:.1} samples/s; {:.2}M parameters, {} MiB of activations, {} threads\n",
        median * 1e3,
        times.batch,
        times.parameters as f64 / 1e6,
        times.arena_bytes >> 20,
        times.threads
    );
    if let Some(profile) = &times.profile {
        let parts = times.parts.iter().map(|(name, seconds)| format!("{name} {:.1} ms", seconds * 1e3));
        let _ = writeln!(text, "on average: {}", parts.collect::<Vec<_>>().join(", "));
        text += &by_layer::table(profile, runs, times.threads);
    }
    terminal::print(&text)
}
