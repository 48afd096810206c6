//! `velatura samplers`

use std::fmt::Write;

use serde_json::json;
use velatura_samplers::{samplers, spacings};

use crate::failure::Failure;
use crate::terminal;

/// Lists samplers and schedules.
#[derive(clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints the lists.
pub fn run(args: &Args) -> Result<(), Failure> {
    if args.json {
        let samplers: Vec<_> = samplers()
            .iter()
            .map(|s| {
                json!({"name": s.name, "title": s.title, "aliases": s.aliases, "when": s.when,
                    "stochastic": s.stochastic, "evaluations_per_step": s.order})
            })
            .collect();
        let schedules: Vec<_> = spacings()
            .iter()
            .map(|s| json!({"name": s.name(), "title": s.title, "aliases": s.aliases, "when": s.when}))
            .collect();
        return terminal::print_json(&json!({"samplers": samplers, "schedules": schedules}));
    }
    let mut text = String::from("Samplers (--sampler)\n");
    for s in samplers() {
        let _ = writeln!(text, "  {:<16} {:<10} {}", s.name, s.title, s.when);
    }
    text.push_str("\nSchedules (--schedule)\n");
    for s in spacings() {
        let _ = writeln!(text, "  {:<16} {:<12} {}", s.name(), s.title, s.when);
    }
    text.push_str("\nNames are read in the spelling of A1111, diffusers and ComfyUI; \"DPM++ 2M Karras\" is both at once.\n");
    terminal::print(&text)
}
