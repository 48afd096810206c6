//! What is said where: results to standard output, everything else to standard error.

use std::io::{IsTerminal, Write};

use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// Environment variable with log directives, such as `velatura=debug`.
const LOG_VARIABLE: &str = "VELATURA_LOG";

/// Sends the log to standard error, at the level that `-v` asks for.
pub fn start_log(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = std::env::var(LOG_VARIABLE)
        .ok()
        .and_then(|directives| EnvFilter::try_new(directives).ok())
        .unwrap_or_else(|| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_timer(tracing_subscriber::fmt::time::uptime())
        .init();
}

/// Prints a result.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Prints a result and ends the line.
pub fn print_line(text: &str) -> Result<(), Failure> {
    print(&format!("{text}\n"))
}

/// Prints a result as JSON.
pub fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    print_line(&serde_json::to_string_pretty(value)?)
}

/// Says something to the person. Whether anyone listens does not matter.
pub fn remark(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
