//! `velatura models`

use std::fmt::Write;
use std::path::Path;

use serde_json::{Value, json};
use velatura::SHIPPED_NAME;
use velatura::manifest::METADATA_KEY;
use velatura_hub::{HubSettings, ModelsFolder, cached};
use velatura_weights::{Checkpoint, OpenOptions, Other, WeightsError, open_tensors};

use crate::commands::inspect::{checkpoint, other, table::size};
use crate::failure::Failure;
use crate::terminal;

/// Lists the models of the models folder and of the hub's cache.
#[derive(clap::Args)]
#[command(
    after_help = "The models folder is that of the variable VELATURA_MODELS, else velatura/models where the system keeps a\n\
    person's data. The hub's cache is that of HF_HUB_CACHE or HF_HOME. A name in the list can be given to --model."
)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A line of the list.
struct Row {
    name: String,
    place: &'static str,
    path: String,
    bytes: u64,
    what: String,
}

/// Prints the list.
pub fn run(args: &Args) -> Result<(), Failure> {
    let (folder, cache) = (ModelsFolder::from_env(), HubSettings::from_env().cache);
    let row = |place: &'static str, name: String, path: &Path, bytes: u64| Row {
        name,
        place,
        path: path.display().to_string(),
        bytes,
        what: what(path),
    };
    let shipped = velatura::shipped_file()?;
    let mut rows = vec![Row {
        name: SHIPPED_NAME.into(),
        place: "program",
        path: String::new(),
        bytes: shipped.file_bytes() as u64,
        what: "Velatura model".into(),
    }];
    rows.extend(folder.list().into_iter().map(|f| row("folder", f.name, &f.path, f.bytes)));
    rows.extend(cached(&cache).into_iter().map(|c| row("hub", c.name, &c.path, c.bytes)));
    if args.json {
        let models: Vec<Value> = rows
            .iter()
            .map(|r| json!({"name": r.name, "place": r.place, "path": r.path, "bytes": r.bytes, "what": r.what}))
            .collect();
        return terminal::print_json(&json!({"folder": folder.path(), "cache": cache, "models": models}));
    }
    let width = rows.iter().map(|r| r.name.chars().count()).max().unwrap_or(0).min(60);
    let mut text = String::new();
    for r in &rows {
        let _ = writeln!(text, "{:<width$}  {:>10}  {}", r.name, size(r.bytes as usize), r.what);
    }
    let _ = writeln!(text, "\nmodels folder: {}\nhub cache: {}", folder.path().display(), cache.display());
    terminal::print(&text)
}

/// What a file or folder is, in a few words; what cannot be read says why.
fn what(path: &Path) -> String {
    match Checkpoint::open(path, &OpenOptions::default()) {
        Ok(model) => checkpoint::title(&model),
        Err(WeightsError::Unrecognised { .. }) if path.is_file() => match open_tensors(path) {
            Ok(file) if file.metadata().contains_key(METADATA_KEY) => "Velatura model".into(),
            Ok(file) => other::title(&Other::of(file.as_ref())),
            Err(error) => format!("cannot be read: {error}"),
        },
        Err(error) => format!("cannot be read: {error}"),
    }
}
