//! Errors on their way to a person, and exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

use std::io::{ErrorKind, Write};

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, error::ErrorKind as UsageKind};

use crate::cli::Cli;

/// Exit code of a failure.
const FAILED: u8 = 1;
/// Exit code of wrong usage.
const USAGE: u8 = 2;
/// Exit code after Ctrl-C: 128 and the signal's number, as shells have it.
const INTERRUPTED: u8 = 130;

/// Why the command ends early.
#[derive(Debug)]
pub enum Failure {
    /// Something failed; one sentence.
    Failed(String),
    /// The arguments contradict each other or the model; one sentence.
    Usage(String),
    /// The person stopped it; what was kept, in one sentence.
    Interrupted(String),
    /// Nobody reads the output any more.
    ClosedPipe,
}

impl Failure {
    /// Tells the person, and says the exit code.
    pub fn report(self) -> u8 {
        let (text, code) = match self {
            Failure::Failed(text) => (format!("error: {text}"), FAILED),
            Failure::Usage(text) => (format!("error: {text}"), USAGE),
            Failure::Interrupted(text) => (text, INTERRUPTED),
            Failure::ClosedPipe => return 0,
        };
        // When standard error is gone too there is nobody left to tell.
        let _ = writeln!(std::io::stderr(), "{text}");
        code
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::BrokenPipe => Failure::ClosedPipe,
            _ => Failure::Failed(error.to_string()),
        }
    }
}

impl From<velatura::Error> for Failure {
    fn from(error: velatura::Error) -> Self {
        match error {
            velatura::Error::Request(error) => error.into(),
            error => Failure::Failed(error.to_string()),
        }
    }
}

impl From<velatura::RequestError> for Failure {
    fn from(error: velatura::RequestError) -> Self {
        match error {
            velatura::RequestError::Memory { .. } => Failure::Failed(error.to_string()),
            error => Failure::Usage(error.to_string()),
        }
    }
}

impl From<velatura_weights::WeightsError> for Failure {
    fn from(error: velatura_weights::WeightsError) -> Self {
        Failure::Failed(error.to_string())
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Failure::Failed(error.to_string())
    }
}

/// Reports what is wrong with the arguments, or prints the help that was asked for.
pub fn usage(error: &clap::Error) -> u8 {
    if error.kind() == UsageKind::InvalidSubcommand
        && let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand)
    {
        return Failure::Usage(no_such_command(word)).report();
    }
    // A closed pipe is no reason to complain about help.
    let _ = error.print();
    if error.use_stderr() { USAGE } else { 0 }
}

fn no_such_command(word: &str) -> String {
    let shown: String = word.chars().take(60).collect();
    let command = Cli::command();
    let names = command.get_subcommands().map(clap::Command::get_name);
    let nearest = names
        .map(|name| (strsim::damerau_levenshtein(name, &shown.to_lowercase()), name))
        .min()
        .filter(|(distance, name)| *distance <= 2.max(name.len() / 3));
    match nearest {
        Some((_, name)) => format!("there is no command \"{shown}\"; did you mean \"velatura {name}\"?"),
        None => format!(
            "there is no command \"{shown}\"; to make a picture of it: velatura generate \"{shown}\" (velatura --help lists the commands)"
        ),
    }
}
