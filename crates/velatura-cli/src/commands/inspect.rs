//! `velatura inspect FILE`

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use velatura::manifest::METADATA_KEY;
use velatura::{ModelManifest, PictureInfo, SHIPPED_NAME};
use velatura_weights::SafetensorsFile;

use crate::failure::Failure;
use crate::terminal;

/// Shows what is in a model file, or how a picture was made.
#[derive(clap::Args)]
pub struct Args {
    /// A model file (safetensors), a picture (PNG), or `shipped` for the model that ships with velatura
    file: PathBuf,
    /// List every tensor of a model
    #[arg(long)]
    tensors: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints what the file is.
pub fn run(args: &Args) -> Result<(), Failure> {
    if is_png(&args.file) {
        return picture(args);
    }
    if args.file == Path::new(SHIPPED_NAME) && !args.file.exists() {
        return model(args, &velatura::shipped_file()?);
    }
    model(args, &SafetensorsFile::open(&args.file)?)
}

fn is_png(path: &Path) -> bool {
    let mut magic = [0; 8];
    path.is_file()
        && std::fs::File::open(path).is_ok_and(|mut f| f.read_exact(&mut magic).is_ok())
        && magic == *b"\x89PNG\r\n\x1a\n"
}

fn picture(args: &Args) -> Result<(), Failure> {
    let info = PictureInfo::open(&args.file)?;
    if args.json {
        let texts: BTreeMap<&str, &str> = info.texts.iter().map(|(k, t)| (k.as_str(), t.as_str())).collect();
        let request = info.request(&args.file.display().to_string()).ok();
        return terminal::print_json(&json!({
            "kind": "picture", "width": info.width, "height": info.height,
            "request": request, "origin": info.origin(), "texts": texts,
        }));
    }
    let mut text = format!("PNG picture, {}x{}\n", info.width, info.height);
    if let Some(origin) = info.origin() {
        let _ = writeln!(
            text,
            "made by velatura {} ({}) with {} [{}]\n",
            origin.version, origin.instructions, origin.model.name, origin.model.hash
        );
    }
    match info.text("parameters") {
        Some(parameters) => {
            let _ = writeln!(text, "{parameters}");
        }
        None if info.texts.is_empty() => text.push_str("no metadata: nothing says how it was made\n"),
        None => {}
    }
    for (keyword, content) in info.texts.iter().filter(|(k, _)| k != "parameters" && k != "velatura") {
        let _ = writeln!(text, "\n{keyword}:\n{content}");
    }
    if info.request("").is_ok() {
        let _ = writeln!(text, "\nmake it again: velatura generate --from {}", args.file.display());
    }
    terminal::print(&text)
}

/// Sums over the tensors whose names begin alike.
#[derive(Default, serde::Serialize)]
struct Part {
    tensors: usize,
    parameters: usize,
    bytes: usize,
    types: BTreeSet<String>,
}

fn model(args: &Args, file: &SafetensorsFile) -> Result<(), Failure> {
    let mut parts: BTreeMap<String, Part> = BTreeMap::new();
    let mut total = Part::default();
    let mut tensors = Vec::new();
    for name in file.names() {
        let info = file.info(&name)?;
        let prefix = name.split('.').next().unwrap_or(&name).to_string();
        for part in [parts.entry(prefix).or_default(), &mut total] {
            part.tensors += 1;
            part.parameters += info.elements();
            part.bytes += info.bytes;
            part.types.insert(info.dtype.clone());
        }
        tensors.push((name, info));
    }
    let manifest = ModelManifest::of(file);
    let metadata: BTreeMap<&str, &str> = file
        .metadata()
        .iter()
        .filter(|(k, _)| k.as_str() != METADATA_KEY)
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    if args.json {
        let listed: Vec<Value> = tensors
            .iter()
            .filter(|_| args.tensors)
            .map(|(name, info)| json!({"name": name, "shape": info.shape, "type": info.dtype}))
            .collect();
        return terminal::print_json(&json!({
            "kind": "model", "bytes": file.file_bytes(), "parts": parts, "total": total,
            "manifest": manifest.as_ref().ok(), "problem": manifest.as_ref().err().map(ToString::to_string),
            "metadata": metadata, "tensors": listed,
        }));
    }
    let mut text = format!("safetensors, {}\n", size(file.file_bytes()));
    match &manifest {
        Ok(manifest) => describe(&mut text, manifest),
        Err(problem) => {
            let _ = writeln!(text, "{problem}");
        }
    }
    let _ = writeln!(text, "\n{:<24} {:>8} {:>14} {:>12}  types", "part", "tensors", "parameters", "size");
    let row = |text: &mut String, name: &str, part: &Part| {
        let types: Vec<&str> = part.types.iter().map(String::as_str).collect();
        let (count, bytes) = (grouped(part.parameters), size(part.bytes));
        let _ =
            writeln!(text, "{name:<24} {:>8} {count:>14} {bytes:>12}  {}", part.tensors, types.join(", "));
    };
    parts.iter().take(40).for_each(|(name, part)| row(&mut text, name, part));
    if parts.len() > 40 {
        let _ = writeln!(text, "... and {} more", parts.len() - 40);
    }
    row(&mut text, "all", &total);
    if !metadata.is_empty() {
        text.push_str("\nmetadata\n");
        for (key, value) in metadata {
            let _ = writeln!(text, "  {key}: {value}");
        }
    }
    if args.tensors {
        text.push('\n');
        for (name, info) in &tensors {
            let _ = writeln!(text, "{name}  {:?}  {}", info.shape, info.dtype);
        }
    }
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

/// Digits in groups of three.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

fn size(bytes: usize) -> String {
    let bytes = bytes as f64;
    match bytes {
        b if b >= 1e9 => format!("{:.2} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.1} MB", b / 1e6),
        b if b >= 1e3 => format!("{:.1} kB", b / 1e3),
        b => format!("{b} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(1234567), "1,234,567");
        assert_eq!(grouped(123456), "123,456");
        assert_eq!(size(1500), "1.5 kB");
    }
}
