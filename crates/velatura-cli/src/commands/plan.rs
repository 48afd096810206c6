//! `velatura plan PROMPT`

use std::fmt::Write;
use std::sync::Arc;

use serde_json::json;
use velatura::preview::Previewer;
use velatura::{Engine, EngineOptions, GenerateRequest, RunPlan};

use super::generate;
use crate::failure::Failure;
use crate::{models, terminal};

/// Shows what making pictures would need, without making them: the parts of the model and their memory, what is decided so
/// that it fits, and an estimate of the time. Takes the flags of generate; nothing is written.
#[derive(clap::Args)]
#[command(
    about = "Show what making pictures would need, without making them",
    after_help = "Examples:\n  \
        velatura plan \"a panda\" --batch 16\n  \
        velatura plan \"a lake\" --model v1-5.safetensors --width 1024 --height 1024 --memory 4G\n\n\
        Weights and activations are those that are held at once. Where they do not fit, these are tried in this order: the\n\
        VAE in tiles, parts released after use, fewer pictures at once, weights read from the file at every step, bf16.\n\
        The time is an estimate: the arithmetic of the networks at a usual share of this machine's speed, which is measured."
)]
pub struct Args {
    #[command(flatten)]
    generate: generate::Args,
}

/// Prints the plan.
pub fn run(args: &Args, quiet: bool) -> Result<(), Failure> {
    let args = &args.generate;
    let from = args.from.as_deref().map(generate::read_origin).transpose()?;
    let requests = args.requests(from.as_ref().map(|(request, _)| request))?;
    requests.iter().try_for_each(GenerateRequest::check)?;
    let embeddings = args.prompts.embeddings()?;
    let Some(first) = requests.first() else { return Ok(()) };
    let located = models::located(first, quiet)?;
    let options = EngineOptions { threads: args.threads, memory: args.memory, one_run: requests.len() == 1 };
    let engine = Engine::for_request(&located, options)?.with_embeddings(Arc::new(embeddings));
    let engine = match args.show.preview_by_model() {
        Some(name) => {
            let previewer = Previewer::tiny(&engine, &models::locate(name, quiet)?)?;
            engine.with_previewer(&previewer)
        }
        None => engine,
    };
    // Several prompts are one run after another: the peak is the greatest one's, the time that of all.
    let plans = requests.iter().map(|request| engine.plan_run(request)).collect::<Result<Vec<_>, _>>()?;
    let seconds = plans.iter().map(|plan| engine.expected_seconds(plan)).sum();
    let Some(plan) = plans.into_iter().max_by_key(|plan| plan.peak) else { return Ok(()) };
    if args.output.json {
        return terminal::print_json(&json!({
            "model": engine.manifest().name,
            "parts": plan.parts,
            "pictures": plan.pictures,
            "decisions": plan.decisions,
            "together": plan.together,
            "peak": plan.peak,
            "limit": plan.limit,
            "expected_seconds": seconds,
            "request": plan.request,
        }));
    }
    terminal::print(&table(&engine.manifest().name, &plan, seconds))
}

fn table(model: &str, plan: &RunPlan, seconds: f64) -> String {
    let request = &plan.request;
    let (width, height) = (request.width.unwrap_or_default(), request.height.unwrap_or_default());
    let pictures =
        if request.batch == 1 { "1 picture".into() } else { format!("{} pictures", request.batch) };
    let steps = request.steps.unwrap_or_default();
    let mut text = format!("{model}: {pictures} of {width}x{height}, {steps} steps\n\n");
    let _ = writeln!(text, "{:24}{:>9}{:>14}{:>14}", "part", "precision", "weights", "activations");
    for part in &plan.parts {
        let (weights, activations) = (mib(part.weights), mib(part.activations));
        let _ = writeln!(text, "{:24}{:>9}{weights:>14}{activations:>14}", part.name, part.precision.name());
    }
    let _ = writeln!(text, "{:24}{:>9}{:>14}{:>14}\n", "pictures and latents", "", "", mib(plan.pictures));
    for decision in &plan.decisions {
        let _ = writeln!(text, "decided    {decision}");
    }
    if plan.decisions.is_empty() {
        text.push_str("decided    nothing: all fits as it is\n");
    }
    let limit = plan.limit.map_or("an unknown amount".into(), mib);
    let _ = writeln!(text, "peak       {} of {limit} that may be used", mib(plan.peak));
    let _ = writeln!(text, "time       about {} (an estimate)", time(seconds));
    text
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}

/// Two digits are more than an estimate holds.
fn time(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}
