//! What the picture shows, and how that is read.

use std::io::Read;
use std::path::PathBuf;

use velatura::{Dialect, EmbeddingsFolder, Emphasis, GenerateRequest};
use velatura_hub::ModelsFolder;
use velatura_text::prompt::styles::{StylesError, apply};

use super::super::LONGEST_INPUT;
use super::{set, set_some};
use crate::failure::Failure;
use crate::styles;

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
    /// A style of the styles file to put the prompts into; may be given several times
    #[arg(long = "style", value_name = "NAME")]
    styles: Vec<String>,
    /// The styles file, as A1111 keeps it; styles.csv in the models folder when not given
    #[arg(long, value_name = "FILE")]
    styles_file: Option<PathBuf>,
    /// Folder of embeddings (textual inversion) that prompts may name; embeddings in the models folder when not given
    #[arg(long, value_name = "FOLDER")]
    embeddings: Option<PathBuf>,
}

impl PromptArgs {
    pub(super) fn apply(&self, request: &mut GenerateRequest) {
        set(&mut request.negative, &self.negative);
        set(&mut request.prompt_dialect, &self.prompt_dialect);
        set_some(&mut request.emphasis, &self.emphasis);
    }

    /// Puts the prompts into the styles.
    pub(super) fn style(&self, request: &mut GenerateRequest) -> Result<(), Failure> {
        if self.styles.is_empty() {
            return Ok(());
        }
        let file = self.styles_file.clone();
        let file = file.unwrap_or_else(|| ModelsFolder::from_env().path().join("styles.csv"));
        let styles = styles::find(&file, &self.styles)?;
        let failed = |error: StylesError| Failure::Usage(format!("{}: {error}", file.display()));
        let prompts = styles.iter().map(|style| (style.name.as_str(), style.prompt.as_str()));
        request.prompt = apply(&request.prompt, prompts).map_err(failed)?;
        let negatives = styles.iter().map(|style| (style.name.as_str(), style.negative.as_str()));
        request.negative = apply(&request.negative, negatives).map_err(failed)?;
        Ok(())
    }

    /// The embeddings that prompts may name; none where there is no folder and none was given.
    pub fn embeddings(&self) -> Result<EmbeddingsFolder, Failure> {
        let own = ModelsFolder::from_env().embeddings();
        match &self.embeddings {
            Some(folder) => Ok(EmbeddingsFolder::open(folder)?),
            None if own.is_dir() => Ok(EmbeddingsFolder::open(own)?),
            None => Ok(EmbeddingsFolder::default()),
        }
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
