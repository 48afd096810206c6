//! What the picture shows, and how that is read.

use std::io::Read;

use velatura::{Dialect, Emphasis, GenerateRequest};

use super::super::LONGEST_INPUT;
use super::{set, set_some};
use crate::failure::Failure;

/// How prompts are read.
#[derive(clap::Args)]
#[command(next_help_heading = "Prompts")]
pub struct PromptArgs {
    /// What it should not show
    #[arg(long, value_name = "PROMPT")]
    negative: Option<String>,
    /// Whose grammar the prompts are written in: a1111 ([a:b:0.5], AND, BREAK, bare names of embeddings) or comfy (weights
    /// and embedding:name); a1111 when not given
    #[arg(long, value_name = "NAME")]
    prompt_dialect: Option<Dialect>,
    /// What weights as in (word:1.3) do: original, no-norm, ignore, none (brackets are letters) or interpolate; when not
    /// given the dialect's own, which is original for a1111 and interpolate for comfy
    #[arg(long, value_name = "NAME")]
    emphasis: Option<Emphasis>,
}

impl PromptArgs {
    pub(super) fn apply(&self, request: &mut GenerateRequest) {
        set(&mut request.negative, &self.negative);
        set(&mut request.prompt_dialect, &self.prompt_dialect);
        set_some(&mut request.emphasis, &self.emphasis);
    }
}

/// The text of a file, or of standard input.
pub(super) fn read_text(file: &str, what: &str) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    match file {
        "-" => std::io::stdin().lock().take(LONGEST_INPUT).read_to_end(&mut bytes)?,
        _ => std::fs::File::open(file)
            .and_then(|opened| opened.take(LONGEST_INPUT).read_to_end(&mut bytes))
            .map_err(|e| Failure::Failed(format!("{file}: {e}")))?,
    };
    let place = if file == "-" { "on standard input" } else { file };
    String::from_utf8(bytes).map_err(|_| Failure::Usage(format!("{what} {place} is not UTF-8 text")))
}
