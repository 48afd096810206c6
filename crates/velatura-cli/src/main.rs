//! The `velatura` command: reads arguments, calls the engine, the trainer and the benchmarks, and talks to people. It
//! decides nothing about pictures; every option is a field of the engine's request or of a recipe.

mod cli;
mod commands;
mod failure;
mod graphics;
mod interrupt;
mod models;
mod naming;
mod parse;
mod progress;
mod styles;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use failure::Failure;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(failure::usage(&error)),
    };
    terminal::start_log(cli.verbose);
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => ExitCode::from(failure.report()),
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let quiet = cli.quiet;
    match cli.command {
        Command::Generate(args) => commands::generate::run(*args, quiet),
        Command::Plan(args) => commands::plan::run(&args, quiet),
        Command::Train(args) => commands::train::run(args, quiet),
        Command::Eval(args) => commands::eval::run(args, quiet),
        Command::Bench(args) => commands::bench::run(&args),
        Command::Inspect(args) => commands::inspect::run(&args, quiet),
        Command::Convert(args) => commands::convert::run(&args, quiet),
        Command::Models(args) => commands::models::run(&args),
        Command::Samplers(args) => commands::samplers::run(&args),
        Command::Completions(args) => commands::completions::run(&args),
        Command::Man(args) => commands::man::run(&args),
    }
}
