//! `velatura bench unet|vae|text`

use std::fmt::Write;

use serde_json::json;
use velatura::bench::{Arch, NetworkOptions, Part, network};
use velatura::{CancelToken, Precision};

use super::by_layer::{LayerArgs, Layers};
use crate::failure::Failure;
use crate::{parse, terminal};

#[derive(clap::Args)]
pub struct Args {
    /// Whose network: random weights of the true shapes
    #[arg(long, value_name = "NAME", value_enum, default_value_t = ArchName::Sd15)]
    arch: ArchName,
    /// Images or prompts at once; the denoiser's two are one guided step
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: Option<u16>,
    /// Width and height of the pictures in pixels; what the network was trained for when not given
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u16).range(64..=4096))]
    size: Option<u16>,
    /// f32, bf16 or int8
    #[arg(long, value_name = "NAME", default_value = "bf16")]
    precision: Precision,
    /// How many runs are timed; the median counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
    /// Threads; all processors when not given
    #[arg(long, value_name = "N", value_parser = parse::threads, env = "VELATURA_THREADS")]
    threads: Option<usize>,
    #[command(flatten)]
    layers: LayerArgs,
    /// Also compare the result with single precision's; with --by-layer each layer by itself, too
    #[arg(long)]
    error: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct VaeArgs {
    #[command(flatten)]
    common: Args,
    /// Pictures to latents, not latents to pictures
    #[arg(long)]
    encode: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum ArchName {
    /// Stable Diffusion 1.5
    Sd15,
    /// Stable Diffusion 2.1
    Sd21,
    /// Stable Diffusion XL
    Sdxl,
    /// The model that ships with the program
    Shipped,
}

/// Measures a decoder or encoder.
pub fn vae(args: &VaeArgs) -> Result<(), Failure> {
    run(&args.common, if args.encode { Part::Encoder } else { Part::Decoder })
}

/// Measures a network and prints what it took.
pub fn run(args: &Args, part: Part) -> Result<(), Failure> {
    let arch = match args.arch {
        ArchName::Sd15 => Arch::Sd15,
        ArchName::Sd21 => Arch::Sd21,
        ArchName::Sdxl => Arch::Sdxl,
        ArchName::Shipped => Arch::Shipped,
    };
    let options = NetworkOptions {
        arch,
        part,
        batch: usize::from(args.batch.unwrap_or(if part == Part::Unet { 2 } else { 1 })),
        side: args.size.map(usize::from),
        precision: args.precision,
        threads: args.threads,
        runs: usize::from(args.runs),
        by_layer: args.layers.wanted(),
        error: args.error,
    };
    if options.side.is_some_and(|side| !side.is_multiple_of(64)) {
        return Err(Failure::Usage("--size must be a multiple of 64".into()));
    }
    args.layers.check()?;
    let times = network(&options, &CancelToken::default())?;
    let median = times.median_s();
    let measure = |profile| Layers::measure(profile, options.runs, times.threads, options.error);
    let layers = times.profile.as_ref().map(measure).transpose()?;
    if let (Some(layers), Some(picture)) = (&layers, args.layers.picture()) {
        layers.draw(picture, &title(args, &options))?;
    }
    if args.json {
        return terminal::print_json(&json!({
            "median_s": median, "seconds": times.seconds, "flops": times.flops,
            "prelude_flops": times.prelude_flops, "threads": times.threads,
            "weight_bytes": times.weight_bytes, "arena_bytes": times.arena_bytes, "error": times.error,
            "layers": layers.as_ref().map(Layers::to_json),
            "peak_flops": layers.as_ref().map(|layers| layers.machine.peaks_json()),
            "bandwidth": layers.as_ref().map(|layers| layers.machine.bandwidth),
        }));
    }
    let mut text = format!(
        "{:.1} ms, {:.0} GFLOP/s; {} MiB of weights, {} MiB of activations, {} threads\n",
        median * 1e3,
        times.flops / median / 1e9,
        times.weight_bytes >> 20,
        times.arena_bytes >> 20,
        times.threads
    );
    if times.prelude_flops > 0.0 {
        let giga = times.prelude_flops / 1e9;
        let _ = writeln!(text, "without {giga:.2} GFLOP that depend on the prompt alone and run once for it");
    }
    if let Some(error) = times.error {
        let _ = writeln!(text, "relative error against f32: {error:.2e}");
    }
    if let Some(layers) = &layers {
        text += &layers.table();
    }
    terminal::print(&text)
}

/// What was measured, for the picture.
fn title(args: &Args, options: &NetworkOptions) -> String {
    let name = match args.arch {
        ArchName::Sd15 => "Stable Diffusion 1.5",
        ArchName::Sd21 => "Stable Diffusion 2.1",
        ArchName::Sdxl => "Stable Diffusion XL",
        ArchName::Shipped => "the model that ships",
    };
    let part = match options.part {
        Part::Unet if options.batch == 2 => "a guided step of the denoiser",
        Part::Unet => "the denoiser",
        Part::Decoder => "the decoder",
        Part::Encoder => "the encoder",
        Part::Text => "the text encoder",
    };
    let size = match options.part {
        Part::Text => String::new(),
        _ => {
            let side = options.side.unwrap_or(options.arch.side());
            format!(", {side}x{side}")
        }
    };
    format!("{name}, {part}{size}, batch {}, {}", options.batch, options.precision.name())
}
