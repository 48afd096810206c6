//! `velatura inspect FILE`

pub mod checkpoint;
pub mod other;
mod own;
mod picture;
pub mod table;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use velatura::manifest::METADATA_KEY;
use velatura::{Format, SHIPPED_NAME};
use velatura_weights::{
    Checkpoint, FileFormat, OpenOptions, SafetensorsFile, TensorSource, WeightsError, open_tensors,
};

use crate::failure::Failure;
use crate::models;

/// Shows what is in a model file or folder, or how a picture was made.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    velatura inspect panda-7.png\n  \
    velatura inspect v1-5-pruned-emaonly.ckpt\n  \
    velatura inspect stable-diffusion-v1-5 --variant fp16 --json")]
pub struct Args {
    /// A model file (safetensors, .ckpt, .pt, .bin, GGUF), a folder in diffusers' layout, a picture (PNG, JPEG, WebP), a name that
    /// `velatura models` lists, or `shipped` for the model that ships with velatura
    file: PathBuf,
    /// Which of a folder's variants to look at, for example fp16
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
    /// List every tensor of a model
    #[arg(long)]
    tensors: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints what the file is.
pub fn run(args: &Args, quiet: bool) -> Result<(), Failure> {
    if is_picture(&args.file) {
        return picture::print(args);
    }
    if args.file == Path::new(SHIPPED_NAME) && !args.file.exists() {
        return own::print(args, &velatura::shipped_file()?);
    }
    let path = match args.file.to_str() {
        Some(name) => models::locate(name, quiet)?,
        None => args.file.clone(),
    };
    if path.is_file()
        && FileFormat::of(&path)? == FileFormat::Safetensors
        && let file = SafetensorsFile::open(&path)?
        && file.metadata().contains_key(METADATA_KEY)
    {
        return own::print(args, &file);
    }
    let options = OpenOptions { variant: args.variant.clone() };
    match Checkpoint::open(&path, &options) {
        Ok(checkpoint) => checkpoint::print(args, &checkpoint),
        Err(WeightsError::Unrecognised { file, .. }) if file.is_file() => {
            other::print(args, open_tensors(&file)?.as_ref())
        }
        Err(error) => Err(error.into()),
    }
}

fn is_picture(path: &Path) -> bool {
    let mut start = [0; 12];
    path.is_file()
        && std::fs::File::open(path).is_ok_and(|mut f| f.read_exact(&mut start).is_ok())
        && Format::of_start(&start).is_some()
}

impl Args {
    /// Every tensor, where that was asked for.
    fn listed(&self, source: &dyn TensorSource) -> Vec<Value> {
        let all = source.tensors().iter().filter(|_| self.tensors);
        all.map(|(name, e)| json!({"name": name, "shape": e.shape, "type": e.dtype.name()})).collect()
    }

    fn write_tensors(&self, text: &mut String, source: &dyn TensorSource) {
        if self.tensors {
            text.push('\n');
            for (name, entry) in source.tensors() {
                let _ = writeln!(text, "{name}  {:?}  {}", entry.shape, entry.dtype);
            }
        }
    }
}

fn metadata(source: &dyn TensorSource) -> BTreeMap<&str, &str> {
    source.metadata().iter().map(|(k, v)| (k.as_str(), v.as_str())).collect()
}

/// Long values are cut; `--json` has them whole.
fn write_metadata(text: &mut String, texts: &BTreeMap<&str, &str>) {
    const LONGEST: usize = 200;
    if texts.is_empty() {
        return;
    }
    text.push_str("\nmetadata\n");
    for (key, value) in texts {
        let line: String =
            value.chars().take(LONGEST).map(|c| if c.is_control() { ' ' } else { c }).collect();
        let more = if value.chars().nth(LONGEST).is_some() { " ... (--json shows all)" } else { "" };
        let _ = writeln!(text, "  {key}: {line}{more}");
    }
}
