//! Checkpoints: everything that a run needs to go on exactly where it was, in one safetensors file.
//!
//! Random numbers are addressed by seed and step, so the step is all the state that they have.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use velatura_weights::{SafetensorsFile, Storage, TensorToWrite, write_safetensors};

use crate::TrainError;
use crate::parameters::{State, Table};
use crate::recipe::first_difference;

/// The metadata key of a checkpoint's description.
pub const METADATA_KEY: &str = "velatura_checkpoint";
/// How many checkpoints of a run are kept.
const KEPT: usize = 2;

/// What a checkpoint says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Note {
    /// Version of this description.
    pub format: u32,
    /// Kind of recipe.
    pub kind: String,
    /// Steps that were taken.
    pub step: u64,
    /// The recipe, all defaults filled in.
    pub recipe: Value,
    /// Hash of what the run reads beside its recipe (the frozen autoencoder, then the model that it goes on from); empty
    /// when nothing.
    #[serde(default)]
    pub inputs: String,
}

/// The checkpoint of a step in a folder.
pub fn path(folder: &Path, step: u64) -> PathBuf {
    folder.join(format!("checkpoint-{step:08}.safetensors"))
}

/// Steps of all checkpoints in a folder, in rising order.
pub fn steps(folder: &Path) -> Vec<u64> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let step = |name: String| name.strip_prefix("checkpoint-")?.strip_suffix(".safetensors")?.parse().ok();
    let mut steps: Vec<u64> =
        entries.flatten().filter_map(|e| step(e.file_name().into_string().ok()?)).collect();
    steps.sort_unstable();
    steps
}

/// Writes the checkpoint of a state, atomically, and removes all but the last two. Returns its path.
pub fn save(folder: &Path, table: &Table, state: &State, note: &Note) -> Result<PathBuf, TrainError> {
    let file = path(folder, state.step);
    let buffers = state.buffers();
    let mut tensors = Vec::with_capacity(buffers.len() * table.entries().len());
    for (kind, values) in buffers {
        for entry in table.entries() {
            let name = format!("{kind}.{}", entry.name);
            tensors.push(TensorToWrite::new(name, &entry.shape, Storage::F32, entry.of(values)));
        }
    }
    let json = serde_json::to_string(note).map_err(|e| TrainError::Internal(e.to_string()))?;
    let metadata = BTreeMap::from([(METADATA_KEY.to_string(), json)]);
    write_safetensors(&file, &tensors, &metadata)?;
    let all = steps(folder);
    for old in all.iter().rev().filter(|&&s| s <= state.step).skip(KEPT) {
        // One that cannot be removed only takes room.
        let _ = std::fs::remove_file(path(folder, *old));
    }
    Ok(file)
}

/// The path of the newest checkpoint in a folder.
pub fn newest(folder: &Path) -> Option<PathBuf> {
    steps(folder).last().map(|&step| path(folder, step))
}

/// A state as it was read, and what had to be passed over for it.
pub struct Restored {
    /// The state.
    pub state: State,
    /// What is wrong with newer checkpoints, the newest first.
    pub damaged: Vec<TrainError>,
}

/// Reads the newest checkpoint of a folder that is whole, for the weights of a table and a recipe that must be the
/// same.
///
/// # Errors
/// [`TrainError::NoCheckpoint`]; [`TrainError::RecipeChanged`]; what is wrong with the newest when none is whole.
pub fn load_newest(folder: &Path, table: &Table, expected: &Note) -> Result<Restored, TrainError> {
    let mut damaged = Vec::new();
    for step in steps(folder).into_iter().rev() {
        match load(&path(folder, step), table, expected) {
            Ok(state) => return Ok(Restored { state, damaged }),
            // Only damage is passed over. A checkpoint of another run is for a person to decide about.
            Err(error @ TrainError::Weights(_)) => damaged.push(error),
            Err(error) => return Err(error),
        }
    }
    let nothing = || TrainError::NoCheckpoint { folder: folder.to_path_buf() };
    Err(damaged.into_iter().next().unwrap_or_else(nothing))
}

/// The key of the recipe that names the file whose hash differs; the autoencoder's comes first.
fn changed_input(was: &str, now: &str) -> &'static str {
    match (was.split_once(' '), now.split_once(' ')) {
        (Some((was, _)), Some((now, _))) if was == now => "start.model",
        _ => "autoencoder",
    }
}

fn load(path: &Path, table: &Table, expected: &Note) -> Result<State, TrainError> {
    let file = SafetensorsFile::open(path)?;
    let json = file.metadata().get(METADATA_KEY);
    let json = json.ok_or_else(|| TrainError::bad_file(path, "it is not a checkpoint of this program"))?;
    let note: Note = serde_json::from_str(json)
        .map_err(|e| TrainError::bad_file(path, format!("its description cannot be read ({e})")))?;
    if note.format != expected.format || note.kind != expected.kind {
        let reason = format!("it is a checkpoint of a {} run of format {}", note.kind, note.format);
        return Err(TrainError::bad_file(path, reason));
    }
    let changed = |key, was, now| TrainError::RecipeChanged { file: path.to_path_buf(), key, was, now };
    if let Some((key, was, now)) = first_difference(&note.recipe, &expected.recipe) {
        return Err(changed(key, was, now));
    }
    if note.inputs != expected.inputs {
        let (was, now) = (format!("a file of hash {}", note.inputs), format!("hash {}", expected.inputs));
        return Err(changed(changed_input(&note.inputs, &expected.inputs).into(), was, now));
    }
    let zeros = vec![0.0; table.len()];
    let mut state =
        State { step: note.step, weights: zeros.clone(), m: zeros.clone(), v: zeros.clone(), ema: zeros };
    for (kind, values) in state.buffers_mut() {
        for entry in table.entries() {
            let tensor = file.f32_of_shape(&format!("{kind}.{}", entry.name), &entry.shape)?;
            values[entry.offset..entry.offset + entry.len].copy_from_slice(&tensor);
        }
    }
    Ok(state)
}
