//! A model file of Velatura's own.

use std::fmt::Write;

use serde_json::json;
use velatura::ModelManifest;
use velatura::manifest::METADATA_KEY;
use velatura_weights::{SafetensorsFile, TensorSource};

use super::table::{Table, grouped, size};
use super::{Args, metadata};
use crate::failure::Failure;
use crate::terminal;

/// Prints a model of Velatura's own.
pub fn print(args: &Args, file: &SafetensorsFile) -> Result<(), Failure> {
    let table = Table::by_prefix(file.tensors());
    let manifest = ModelManifest::of(file);
    let mut texts = metadata(file);
    texts.remove(METADATA_KEY);
    if args.json {
        return terminal::print_json(&json!({
            "kind": "model", "bytes": file.file_bytes(), "parts": table.parts, "total": table.total,
            "manifest": manifest.as_ref().ok(), "problem": manifest.as_ref().err().map(ToString::to_string),
            "metadata": texts, "tensors": args.listed(file),
        }));
    }
    let mut text = format!("safetensors, {}\n", size(file.file_bytes()));
    match &manifest {
        Ok(manifest) => describe(&mut text, manifest),
        Err(problem) => {
            let _ = writeln!(text, "{problem}");
        }
    }
    table.write(&mut text);
    super::write_metadata(&mut text, &texts);
    args.write_tensors(&mut text, file);
    terminal::print(&text)
}

fn describe(text: &mut String, manifest: &ModelManifest) {
    let d = &manifest.defaults;
    let _ = writeln!(text, "Velatura model \"{}\"", manifest.name);
    let _ = writeln!(
        text,
        "\npictures      {}x{} unless asked otherwise, sides in multiples of {}",
        d.width,
        d.height,
        manifest.size_factor()
    );
    let (factor, channels) = (manifest.latent_factor(), manifest.latent_channels());
    let _ = writeln!(text, "latents       1/{factor} of the side, {channels} channels");
    let _ = writeln!(
        text,
        "sampling      {} steps of {}, {}, guidance {}",
        d.steps, d.sampler, d.schedule, d.guidance
    );
    let kind = json!(manifest.schedule.kind);
    let (kind, prediction) = (kind.as_str().unwrap_or_default(), manifest.schedule.prediction.name());
    let _ = writeln!(text, "noise         {kind}, predicts {prediction}");
    for encoder in &manifest.text_encoders {
        let (words, tokens) = (encoder.tokenizer.vocabulary_size(), encoder.tokenizer.context());
        let _ = writeln!(text, "text          {words} words, {tokens} tokens");
    }
    let training = &manifest.training;
    if training.steps > 0 {
        let _ = writeln!(
            text,
            "trained       {} steps, {} samples",
            grouped(training.steps as usize),
            grouped(training.samples as usize)
        );
    }
    for licence in &training.licences {
        let _ = writeln!(text, "licence       {licence}");
    }
    for (key, value) in &training.notes {
        let _ = match value.lines().count() {
            0 | 1 => writeln!(text, "{key:<13} {value}"),
            n => writeln!(text, "{key:<13} ({n} lines; --json shows them)"),
        };
    }
}
