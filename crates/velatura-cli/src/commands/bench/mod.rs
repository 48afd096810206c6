//! `velatura bench kernels|unet|vae|text|train|generate`

mod by_layer;
mod machine;
mod network;
mod roofline;
mod train;

use std::fmt::Write;
use std::time::Instant;

use serde_json::json;
use velatura::bench::Part;
use velatura::{CancelToken, Engine, EngineOptions, GenerateRequest};
use velatura_cpu::{Runtime, bench};

use crate::failure::Failure;
use crate::{parse, terminal};

/// Measures this machine.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// The kernels on the shapes of Stable Diffusion 1.5, as a share of the peak that is measured beside them
    Kernels(KernelArgs),
    /// One prediction of a denoiser
    Unet(network::Args),
    /// An autoencoder: latents to pictures
    Vae(network::VaeArgs),
    /// A text encoder, the larger one where there are two
    Text(network::Args),
    /// A training step: of a diffusion recipe, or of a published denoiser, on random data
    Train(train::Args),
    /// One picture and four of the shipped model, 30 guided steps each
    Generate(GenerateArgs),
}

#[derive(clap::Args)]
struct GenerateArgs {
    /// A model file; the model that ships with the program when not given
    #[arg(long, value_name = "FILE")]
    model: Option<String>,
    /// How often each is made; the median counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
    /// Threads; all processors when not given
    #[arg(long, value_name = "N", value_parser = parse::threads, env = "VELATURA_THREADS")]
    threads: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct KernelArgs {
    /// How often each kernel is run; the median counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
    /// Threads; all processors when not given
    #[arg(long, value_name = "N", value_parser = parse::threads, env = "VELATURA_THREADS")]
    threads: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Measures and prints a table.
pub fn run(args: &Args) -> Result<(), Failure> {
    match &args.what {
        What::Kernels(args) => kernels(args),
        What::Unet(args) => network::run(args, Part::Unet),
        What::Vae(args) => network::vae(args),
        What::Text(args) => network::run(args, Part::Text),
        What::Train(args) => train::run(args),
        What::Generate(args) => generate(args),
    }
}

/// Guided steps of each measured picture.
const STEPS: u32 = 30;

fn generate(args: &GenerateArgs) -> Result<(), Failure> {
    let start = Instant::now();
    let engine = Engine::named(
        args.model.as_deref(),
        EngineOptions { threads: args.threads, ..EngineOptions::default() },
    )?;
    let open_s = start.elapsed().as_secs_f64();
    let mut measured = Vec::new();
    for pictures in [1, 4] {
        let request = GenerateRequest {
            prompt: "two red apples above a cat on a sky blue background".into(),
            seed: Some(1),
            steps: Some(STEPS),
            batch: pictures,
            ..GenerateRequest::default()
        };
        let time = || -> Result<f64, Failure> {
            let start = Instant::now();
            engine.generate(&request, &mut |_| {}, &CancelToken::default())?;
            Ok(start.elapsed().as_secs_f64())
        };
        // The first plans the networks and packs their weights.
        let first = time()?;
        let mut times = (0..args.runs.max(1)).map(|_| time()).collect::<Result<Vec<f64>, Failure>>()?;
        times.sort_by(f64::total_cmp);
        measured.push((pictures, first, times[times.len() / 2]));
    }
    if args.json {
        let pictures: Vec<_> = measured
            .iter()
            .map(|(n, first, median)| json!({"pictures": n, "first_s": first, "median_s": median}))
            .collect();
        return terminal::print_json(&json!({"steps": STEPS, "open_s": open_s, "generate": pictures}));
    }
    let mut text = format!("model opened in {:.1} ms; {STEPS} guided steps\n", open_s * 1e3);
    for (pictures, first, median) in measured {
        let _ = writeln!(text, "{pictures} at once: {median:.3} s (median), {first:.3} s the first time");
    }
    terminal::print(&text)
}

fn kernels(args: &KernelArgs) -> Result<(), Failure> {
    let runtime = Runtime::new(args.threads);
    let report =
        bench::kernels(&runtime, usize::from(args.runs)).map_err(|e| Failure::Failed(e.to_string()))?;
    if args.json {
        let kernels: Vec<_> = report
            .kernels
            .iter()
            .map(|k| {
                json!({"name": k.name, "type": k.dtype.to_string(), "median_seconds": k.median_s, "flops": k.flops,
                    "share_of_peak": k.share_of_peak})
            })
            .collect();
        return terminal::print_json(&json!({
            "instructions": report.isa, "threads": report.threads,
            "peak_f32": report.peak_f32, "peak_bf16": report.peak_bf16, "kernels": kernels,
        }));
    }
    let mut text = format!(
        "{}, {} threads; multiply-add peak {:.0} GFLOP/s in f32, {:.0} in bf16\n\n{:<44} {:>5} {:>10} {:>9} {:>8}\n",
        report.isa,
        report.threads,
        report.peak_f32 / 1e9,
        report.peak_bf16 / 1e9,
        "kernel",
        "type",
        "median ms",
        "GFLOP/s",
        "of peak"
    );
    for k in &report.kernels {
        let _ = writeln!(
            text,
            "{:<44} {:>5} {:>10.2} {:>9.0} {:>7.0}%",
            k.name,
            k.dtype.to_string(),
            k.median_s * 1e3,
            k.flops / 1e9,
            k.share_of_peak * 100.0
        );
    }
    terminal::print(&text)
}
