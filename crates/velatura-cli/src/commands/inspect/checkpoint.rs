//! A model in another tool's layout: which one, which parts, what lacks and what was left aside.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde_json::{Value, json};
use velatura_weights::{Checkpoint, FileFormat, Task, TensorSource};

use super::Args;
use super::table::{Sums, size, write_head, write_row};
use crate::failure::Failure;
use crate::terminal;

/// Names of tensors that a listing shows of each kind; `--json` has them all.
const MOST_NAMES: usize = 8;

/// Prints a model or some parts of one.
pub fn print(args: &Args, model: &Checkpoint) -> Result<(), Failure> {
    let tensors = model.tensors();
    if args.json {
        let mut value = describe(model);
        value["tensors"] = args.listed(&tensors).into();
        return terminal::print_json(&value);
    }
    let mut text = format!(
        "{}, {}\n{}\n",
        format(model.path()),
        size(Sums::of(tensors.tensors().values()).bytes),
        title(model)
    );
    if let Some((prediction, known_by)) = model.prediction().zip(model.prediction_known_by()) {
        let _ = writeln!(text, "predicts {}, {}", prediction.name(), known_by.describe());
    } else if model.family().is_some() {
        text.push_str("it does not say what it predicts, epsilon or v\n");
    }
    if model.scaled() > 0 {
        let _ = writeln!(
            text,
            "{} weights have a scale beside them (scaled fp8) and are read as F32",
            model.scaled()
        );
    }
    write_head(&mut text);
    for part in model.parts() {
        let name = format!("{} ({})", part.kind, part.class_name());
        write_row(&mut text, &name, &Sums::of(part.tensors.tensors().values()));
    }
    write_row(&mut text, "all", &Sums::of(tensors.tensors().values()));
    for part in model.parts() {
        write_names(&mut text, &format!("{} lacks", part.kind), &part.missing);
    }
    if !model.missing_parts().is_empty() {
        let parts: Vec<&str> = model.missing_parts().iter().map(|p| p.name()).collect();
        let _ = writeln!(text, "\nmissing parts: {}", parts.join(", "));
    }
    write_names(&mut text, "belongs to no known part", model.unmatched());
    let left = left_aside(model);
    if !left.is_empty() {
        text.push_str("\nleft aside\n");
        for (reason, count) in &left {
            let _ =
                writeln!(text, "  {count:>5} {}: {reason}", if *count == 1 { "tensor" } else { "tensors" });
        }
    }
    super::write_metadata(&mut text, &metadata(model));
    args.write_tensors(&mut text, &tensors);
    terminal::print(&text)
}

/// All that is known of a model, without its tensors.
pub fn describe(model: &Checkpoint) -> Value {
    let parts: Vec<Value> = model
        .parts()
        .iter()
        .map(|part| {
            let sums = Sums::of(part.tensors.tensors().values());
            json!({
                "name": part.kind.name(), "class": part.class_name(), "tensors": sums.tensors,
                "parameters": sums.parameters, "bytes": sums.bytes, "types": sums.types,
                "config_is_given": part.config_is_given, "missing": part.missing,
            })
        })
        .collect();
    let missing: Vec<&str> = model.missing_parts().iter().map(|p| p.name()).collect();
    let problem = model.family().and_then(|_| model.check_complete().err()).map(|e| e.to_string());
    json!({
        "kind": if model.family().is_some() { "checkpoint" } else { "parts" },
        "format": format(model.path()),
        "title": title(model),
        "bytes": Sums::of(model.tensors().tensors().values()).bytes,
        "family": model.family().map(|f| f.name()),
        "task": model.task().map(task),
        "distilled": model.is_distilled(),
        "guidance_embedding": model.has_guidance_embedding(),
        "scaled": model.scaled(),
        "prediction": model.prediction().map(|p| p.name()),
        "prediction_known_by": model.prediction_known_by().map(|k| k.describe()),
        "parts": parts,
        "missing_parts": missing,
        "unmatched": model.unmatched(),
        "left_aside": left_aside(model),
        "metadata": metadata(model),
        "problem": problem,
    })
}

/// The format of the file, or what kind of folder it is.
pub fn format(path: &Path) -> String {
    match FileFormat::of(path) {
        _ if path.join("model_index.json").is_file() => "diffusers folder".into(),
        _ if path.is_dir() => "folder".into(),
        Ok(format) => format.name().into(),
        Err(_) => "unknown format".into(),
    }
}

/// The model in a few words: family, task and peculiarities, or the parts.
pub fn title(model: &Checkpoint) -> String {
    let Some(family) = model.family() else {
        let parts: Vec<&str> = model.parts().iter().map(|p| p.class_name()).collect();
        return format!("no whole model: {} alone", parts.join(" and "));
    };
    let mut title = family.name().to_string();
    match model.task().map(task) {
        None | Some("text to image" | "upscaling") => {}
        Some(task) => title += &format!(", {task}"),
    }
    if model.is_distilled() {
        title += ", distilled (fewer blocks)";
    }
    if model.has_guidance_embedding() {
        title += ", told the guidance scale (LCM)";
    }
    title
}

fn task(task: Task) -> &'static str {
    match task {
        Task::TextToImage => "text to image",
        Task::Inpainting => "inpainting",
        Task::InstructPix2Pix => "InstructPix2Pix",
        Task::Upscaling => "upscaling",
        Task::Variation => "variations of a picture (unCLIP)",
        Task::Other(_) => "an unusual number of input channels",
    }
}

fn left_aside(model: &Checkpoint) -> BTreeMap<&'static str, usize> {
    let mut left = BTreeMap::new();
    for (_, reason) in model.unused() {
        *left.entry(*reason).or_default() += 1;
    }
    left
}

/// The texts of all files.
fn metadata(model: &Checkpoint) -> BTreeMap<&str, &str> {
    model
        .parts()
        .iter()
        .flat_map(|p| super::metadata(&p.tensors))
        .filter(|(key, _)| *key != "format")
        .collect()
}

fn write_names(text: &mut String, what: &str, names: &[String]) {
    if names.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{what} ({}):", names.len());
    for name in names.iter().take(MOST_NAMES) {
        let _ = writeln!(text, "  {name}");
    }
    if names.len() > MOST_NAMES {
        let _ = writeln!(text, "  ... and {} more (--json lists them)", names.len() - MOST_NAMES);
    }
}
