//! `velatura bench train`

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::json;
use velatura::CancelToken;
use velatura_models::UNetConfig;
use velatura_train::bench::{StepOptions, StepTimes, UNetStep, diffusion_step, unet_step};
use velatura_train::recipe::PrecisionName;

use super::by_layer::{LayerArgs, Layers};
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
    #[command(flatten)]
    layers: LayerArgs,
    /// With --by-layer: also compare each layer by itself with single precision
    #[arg(long)]
    error: bool,
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
    if args.error && !args.layers.wanted() {
        return Err(Failure::Usage("--error is of layers; add --by-layer".into()));
    }
    args.layers.check()?;
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
        by_layer: args.layers.wanted(),
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
        by_layer: args.layers.wanted(),
    };
    unet_step(&options, &CancelToken::default())
}

/// Whose step it is, for the picture.
fn name(args: &Args) -> String {
    let recipe = args.recipe.as_deref().and_then(Path::file_stem);
    match (recipe, args.arch) {
        (Some(recipe), _) => recipe.to_string_lossy().into_owned(),
        (None, Some(Arch::Sdxl)) => "Stable Diffusion XL".to_string(),
        (None, Some(Arch::Sd21)) => "Stable Diffusion 2.1".to_string(),
        (None, _) => "Stable Diffusion 1.5".to_string(),
    }
}

fn print(args: &Args, times: StepTimes) -> Result<(), Failure> {
    let (median, pace, runs) = (times.median_s(), times.samples_per_second(), usize::from(args.runs));
    let measure = |profile| Layers::measure(profile, runs, times.threads, args.error);
    let layers = times.profile.as_ref().map(measure).transpose()?;
    if let (Some(layers), Some(picture)) = (&layers, args.layers.picture()) {
        layers.draw(picture, &format!("{}, loss and gradients, batch {}", name(args), times.batch))?;
    }
    if args.json {
        return terminal::print_json(&json!({
            "median_s": median, "samples_per_second": pace, "arena_bytes": times.arena_bytes,
            "parameters": times.parameters, "batch": times.batch, "threads": times.threads,
            "seconds": times.seconds, "parts": times.parts.iter().copied().collect::<BTreeMap<_, _>>(),
            "layers": layers.as_ref().map(Layers::to_json),
            "peak_flops": layers.as_ref().map(|layers| layers.machine.peaks_json()),
            "bandwidth": layers.as_ref().map(|layers| layers.machine.bandwidth),
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
    if let Some(layers) = &layers {
        let parts = times.parts.iter().map(|(name, seconds)| format!("{name} {:.1} ms", seconds * 1e3));
        let _ = writeln!(text, "on average: {}", parts.collect::<Vec<_>>().join(", "));
        text += &layers.table();
    }
    terminal::print(&text)
}
