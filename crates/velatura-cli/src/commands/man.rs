//! `velatura man`

use std::path::PathBuf;

use clap::CommandFactory;
use velatura_weights::atomic_write;

use crate::cli::Cli;
use crate::failure::Failure;
use crate::terminal;

/// Prints the manual page, for example: velatura man | man -l -
#[derive(clap::Args)]
pub struct Args {
    /// The page of this subcommand
    command: Option<String>,
    /// Write the pages of all commands into this folder instead
    #[arg(long, value_name = "FOLDER", conflicts_with = "command")]
    dir: Option<PathBuf>,
}

/// Prints one page, or writes all.
pub fn run(args: &Args) -> Result<(), Failure> {
    let mut root = Cli::command();
    root.build();
    if let Some(folder) = &args.dir {
        let all = std::iter::once(&root).chain(root.get_subcommands().filter(|c| !c.is_hide_set()));
        for command in all {
            let name = page_name(command);
            let page = page(command)?;
            atomic_write(folder.join(format!("{name}.1")), |out| out.write_all(&page))?;
        }
        return Ok(());
    }
    let command = match &args.command {
        None => &root,
        Some(name) => root.find_subcommand(name).ok_or_else(|| {
            Failure::Usage(format!("there is no command \"{name}\"; velatura --help lists them"))
        })?,
    };
    terminal::print(&String::from_utf8_lossy(&page(command)?))
}

fn page_name(command: &clap::Command) -> String {
    command.get_display_name().unwrap_or_else(|| command.get_name()).to_string()
}

fn page(command: &clap::Command) -> Result<Vec<u8>, Failure> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).title(page_name(command)).render(&mut page)?;
    Ok(page)
}
