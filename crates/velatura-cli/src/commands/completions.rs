//! `velatura completions SHELL`

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use crate::cli::Cli;
use crate::failure::Failure;
use crate::terminal;

/// Prints a completion script, for example: velatura completions bash > ~/.local/share/bash-completion/completions/velatura
#[derive(clap::Args)]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Prints the script.
pub fn run(args: &Args) -> Result<(), Failure> {
    let mut script = Vec::new();
    generate(args.shell, &mut Cli::command(), "velatura", &mut script);
    terminal::print(&String::from_utf8_lossy(&script))
}
