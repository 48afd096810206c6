//! `velatura samplers`

use std::fmt::Write;

use serde_json::json;
use velatura_samplers::{Elsewhere, samplers, spacings};

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
                    "comfyui": s.name, "a1111": s.title, "diffusers": diffusers(s.aliases),
                    "stochastic": s.stochastic, "evaluations_per_step": s.order, "reads": s.reads})
            })
            .collect();
        let schedules: Vec<_> = spacings()
            .iter()
            .map(|s| {
                json!({"name": s.name(), "title": s.title, "aliases": s.aliases, "when": s.when,
                    "elsewhere": s.elsewhere})
            })
            .collect();
        return terminal::print_json(&json!({"samplers": samplers, "schedules": schedules}));
    }
    let mut text = String::from("Samplers (--sampler): as ComfyUI, A1111 and diffusers spell them\n");
    for s in samplers() {
        let class = diffusers(s.aliases).unwrap_or("-");
        let noise = if s.stochastic { " New noise in every step." } else { "" };
        let flags: Vec<String> = s.reads.iter().map(|name| format!("--{}", name.replace('_', "-"))).collect();
        let reads = if flags.is_empty() { String::new() } else { format!(" Reads {}.", flags.join(", ")) };
        let _ = writeln!(text, "\n  {}  |  {}  |  {class}\n      {}{noise}{reads}", s.name, s.title, s.when);
    }
    text.push_str("\nSchedules (--schedule), and what ComfyUI, A1111 and diffusers call them\n");
    for s in spacings() {
        let Elsewhere { a1111, comfyui, diffusers } = s.elsewhere;
        let [comfyui, a1111, diffusers] = [comfyui, a1111, diffusers].map(|name| name.unwrap_or("-"));
        let _ =
            writeln!(text, "\n  {}\n      {comfyui}  |  {a1111}  |  {diffusers}\n      {}", s.name(), s.when);
    }
    text.push_str(
        "\nCapitals, spaces and punctuation do not matter, and a sampler's name may carry its schedule: \"DPM++ 2M Karras\".\n",
    );
    terminal::print(&text)
}

/// diffusers' class among a sampler's spellings.
fn diffusers<'a>(aliases: &[&'a str]) -> Option<&'a str> {
    aliases.iter().copied().find(|alias| alias.ends_with("Scheduler"))
}
