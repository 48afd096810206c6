//! The arguments. One struct for each subcommand lives with that subcommand.

use clap::{Parser, Subcommand};

use crate::commands::{
    bench, completions, convert, eval, generate, inspect, man, models, plan, samplers, train,
};

/// Trains latent diffusion models and makes pictures with them.
#[derive(Parser)]
#[command(
    name = "velatura",
    version,
    about,
    propagate_version = true,
    arg_required_else_help = true,
    args_override_self = true,
    after_help = "Examples:\n  \
        velatura generate \"two red apples above a cat on a sky blue background\"\n  \
        velatura generate \"a panda\" --batch 4 --seed 7 --output 'panda-{seed}.png'\n  \
        velatura generate --from panda-7.png          the same bits again\n  \
        velatura inspect panda-7.png                  how it was made"
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// Say more on standard error; twice for still more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// No progress bar and no remarks; results and errors only
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

#[derive(Subcommand)]
pub enum Command {
    /// Make pictures from a prompt
    Generate(Box<generate::Args>),
    /// Show what making pictures would need, without making them
    Plan(Box<plan::Args>),
    /// Train a model as a recipe says
    Train(train::Args),
    /// Measure how often a model's pictures show what their prompts ask for
    Eval(eval::Args),
    /// Measure the speed of this machine
    Bench(bench::Args),
    /// Show what is in a model file, or how a picture was made
    Inspect(inspect::Args),
    /// Write a model in another layout or format
    Convert(convert::Args),
    /// List the models that are there
    Models(models::Args),
    /// List samplers and schedules, and when to use them
    Samplers(samplers::Args),
    /// Print the completion script for a shell
    Completions(completions::Args),
    /// Print the manual page
    Man(man::Args),
}
