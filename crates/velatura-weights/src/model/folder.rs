//! diffusers' folders.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::checkpoint::{Checkpoint, OpenOptions, unrecognised};
use super::part::{Network, Part, PartKind};
use crate::layout::Naming;
use crate::layout::probe::Probe;
use crate::scaled::with_scales;
use crate::sharded::read_bounded;
use crate::{TensorSource, WeightsError, open_tensors};

/// Configuration files are a few kilobytes.
const MAX_CONFIG: u64 = 4 << 20;

pub(crate) fn open(path: &Path, options: &OpenOptions) -> Result<Checkpoint, WeightsError> {
    check_variant(path, options)?;
    let mut parts = Vec::new();
    let mut left = Vec::new();
    let mut sources = Vec::new();
    let mut scaled = 0;
    for kind in PartKind::ALL {
        let folder = path.join(kind.name());
        if folder.is_dir() {
            scaled += read_part(&folder, Some(kind), options, &mut parts, &mut left, &mut sources)?;
        }
    }
    if parts.is_empty() {
        // Perhaps the folder of one part.
        scaled += read_part(path, None, options, &mut parts, &mut left, &mut sources)?;
    }
    let scheduler = json(&path.join("scheduler").join("scheduler_config.json"))?;
    let low_res = json(&path.join("low_res_scheduler").join("scheduler_config.json"))?;
    let index = json(&path.join("model_index.json"))?;
    let mut checkpoint = Checkpoint::of_parts(path, parts, scheduler).with_index(index);
    checkpoint = checkpoint.with_low_res_scheduler(low_res).with_scaled(scaled);
    for (source, used) in &left {
        checkpoint.leave(source.as_ref(), used);
    }
    checkpoint.settle(&sources)?;
    Ok(checkpoint)
}

/// A variant may lack for some parts; one that lacks for all is a mistake.
fn check_variant(path: &Path, options: &OpenOptions) -> Result<(), WeightsError> {
    let Some(variant) = &options.variant else { return Ok(()) };
    let folders = std::iter::once(path.to_path_buf()).chain(PartKind::ALL.map(|k| path.join(k.name())));
    let names: Vec<String> = folders
        .filter_map(|f| std::fs::read_dir(f).ok())
        .flat_map(|entries| entries.flatten())
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|n| [".safetensors", ".bin", ".index.json"].iter().any(|e| n.ends_with(e)))
        .collect();
    if names.iter().any(|n| n.contains(&format!(".{variant}."))) {
        return Ok(());
    }
    let found = names.into_iter().take(8).collect();
    Err(WeightsError::NoVariant { file: path.to_path_buf(), variant: variant.clone(), found })
}

/// What a part's source has that no part took.
type Left = Vec<(Arc<dyn TensorSource>, BTreeSet<String>)>;

/// Adds what a folder holds; gives how many of its weights have a scale beside them.
fn read_part(
    folder: &Path,
    kind: Option<PartKind>,
    options: &OpenOptions,
    parts: &mut Vec<Part>,
    left: &mut Left,
    sources: &mut Vec<Arc<dyn TensorSource>>,
) -> Result<usize, WeightsError> {
    let weights = weights_file(folder, options)?;
    let (source, scaled) = with_scales(Arc::from(open_tensors(&weights)?))?;
    let file = folder.join("config.json");
    let config = json(&file)?;
    let mut used = BTreeSet::new();
    let kind = kind.or_else(|| config.as_ref().and_then(kind_of));
    match (kind, config) {
        (Some(kind), config) => {
            let probe = Probe { tensors: source.tensors(), prefix: "", naming: Naming::Diffusers };
            let tiny = config.as_ref().is_some_and(|c| class_of(c) == Some("AutoencoderTiny"));
            let network = match &config {
                Some(config) if !tiny => {
                    Network::from_config(kind, config).ok_or_else(|| WeightsError::Config {
                        file: file.clone(),
                        reason: format!("it does not describe a {kind} that is known here"),
                    })?
                }
                _ => Network::infer(kind, probe).ok_or_else(|| unrecognised(&weights, source.as_ref()))?,
            };
            let given = config.is_some();
            let config = config.unwrap_or_default();
            parts.push(Part::matched(kind, &source, probe, network, config, given, &mut used)?);
        }
        (None, _) => {
            let found = super::single::parts(&source, &mut used)?;
            if found.is_empty() {
                return Err(unrecognised(&weights, source.as_ref()));
            }
            parts.extend(found);
        }
    }
    left.push((source.clone(), used));
    sources.push(source);
    Ok(scaled)
}

fn class_of(config: &Value) -> Option<&str> {
    config.get("_class_name").or_else(|| config.pointer("/architectures/0")).and_then(Value::as_str)
}

fn kind_of(config: &Value) -> Option<PartKind> {
    match class_of(config)? {
        "UNet2DConditionModel" => Some(PartKind::Unet),
        "AutoencoderKL" | "AutoencoderTiny" => Some(PartKind::Vae),
        "CLIPTextModel" => Some(PartKind::TextEncoder),
        "CLIPTextModelWithProjection" => Some(PartKind::TextEncoder2),
        _ => None,
    }
}

/// A JSON file that need not be there.
fn json(file: &Path) -> Result<Option<Value>, WeightsError> {
    if !file.exists() {
        return Ok(None);
    }
    let bytes = read_bounded(file, MAX_CONFIG)?;
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|e| WeightsError::Config { file: file.to_path_buf(), reason: e.to_string() })?;
    if !value.is_object() {
        let reason = "it is no JSON object".into();
        return Err(WeightsError::Config { file: file.to_path_buf(), reason });
    }
    Ok(Some(value))
}

/// The file, or the index of shards, that holds a part's tensors.
fn weights_file(folder: &Path, options: &OpenOptions) -> Result<PathBuf, WeightsError> {
    const STEMS: [(&str, &str); 5] = [
        ("diffusion_pytorch_model", "safetensors"),
        ("model", "safetensors"),
        ("diffusion_pytorch_model", "bin"),
        ("pytorch_model", "bin"),
        ("model", "gguf"),
    ];
    let failed = |source| WeightsError::Read { file: folder.to_path_buf(), source };
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .map_err(failed)?
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    let has = |name: &String| names.binary_search(name).is_ok();
    let of = |stem: &str, extension: &str, variant: Option<&str>| {
        let middle = variant.map_or(String::new(), |v| format!(".{v}"));
        // Both spellings of a sharded variant's index are about.
        [
            format!("{stem}{middle}.{extension}"),
            format!("{stem}.{extension}.index{middle}.json"),
            format!("{stem}{middle}.{extension}.index.json"),
        ]
        .into_iter()
        .find(&has)
    };
    let wanted = options.variant.as_deref();
    let chosen = STEMS.iter().find_map(|(s, e)| of(s, e, wanted)).or_else(|| {
        // A variant is wanted for some parts and may not exist for others; and none may be wanted where one is all
        // there is.
        if wanted.is_some() {
            return STEMS.iter().find_map(|(s, e)| of(s, e, None));
        }
        STEMS.iter().find_map(|(s, e)| {
            let variant = |n: &&String| {
                let inner = n.strip_prefix(s)?.strip_prefix('.')?.strip_suffix(&format!(".{e}"))?;
                (!inner.contains('.') && !inner.contains("-of-") && inner != "non_ema").then_some(())
            };
            names.iter().find(|n| variant(n).is_some()).cloned()
        })
    });
    let found: Vec<String> = names
        .iter()
        .filter(|n| n.ends_with(".safetensors") || n.ends_with(".bin"))
        .take(8)
        .cloned()
        .collect();
    chosen
        .map(|name| folder.join(name))
        .ok_or_else(|| WeightsError::Folder { file: folder.to_path_buf(), found })
}
