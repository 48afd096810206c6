//! The models folder: files and folders that go by short names.

use std::path::{Path, PathBuf};

use crate::HubError;
use crate::cache::{names, walk};

/// Endings of model files, the best first.
const ENDINGS: [&str; 6] = ["safetensors", "gguf", "ckpt", "pt", "pth", "bin"];
/// The folder within that holds embeddings.
const EMBEDDINGS: &str = "embeddings";
/// Folders in folders that are looked into.
const DEEPEST: usize = 3;
/// Models beyond these are not found.
const MOST_MODELS: usize = 10_000;

/// A folder of models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelsFolder {
    path: PathBuf,
}

/// A model of the folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Its path in the folder without its ending, with `/` between.
    pub name: String,
    /// The file or folder.
    pub path: PathBuf,
    /// Bytes, those of all files for a folder.
    pub bytes: u64,
}

impl ModelsFolder {
    /// This folder, which need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        ModelsFolder { path: path.into() }
    }

    /// The folder of the variable `VELATURA_MODELS`, else `velatura/models` where the system keeps a person's data.
    pub fn from_env() -> Self {
        let given = std::env::var_os("VELATURA_MODELS").filter(|v| !v.is_empty()).map(PathBuf::from);
        Self::new(
            given.unwrap_or_else(|| dirs::data_dir().unwrap_or_default().join("velatura").join("models")),
        )
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where embeddings for prompts are; nothing in it is a model.
    pub fn embeddings(&self) -> PathBuf {
        self.path.join(EMBEDDINGS)
    }

    /// All models, by name: files with a model's ending, and folders in diffusers' layout.
    pub fn list(&self) -> Vec<Found> {
        let mut found = Vec::new();
        let mut waiting = vec![(String::new(), 0)];
        while let Some((folder, depth)) = waiting.pop() {
            for name in names(&self.path.join(&folder)) {
                let inner = if folder.is_empty() { name } else { format!("{folder}/{name}") };
                if inner == EMBEDDINGS {
                    continue;
                }
                let path = self.path.join(&inner);
                let Ok(meta) = std::fs::metadata(&path) else { continue };
                if found.len() == MOST_MODELS {
                    break;
                }
                if path.join("model_index.json").is_file() {
                    let bytes = walk(&path).iter().map(|(_, bytes)| bytes).sum();
                    found.push(Found { name: inner, path, bytes });
                } else if meta.is_dir() && depth < DEEPEST {
                    waiting.push((inner, depth + 1));
                } else if meta.is_file()
                    && let Some((stem, ending)) = inner.rsplit_once('.')
                    && ENDINGS.contains(&ending.to_lowercase().as_str())
                {
                    found.push(Found { name: stem.to_string(), bytes: meta.len(), path });
                }
            }
        }
        found.sort();
        found
    }

    /// The model of a name: its path in the folder, with or without its ending, or its last component alone; capitals do
    /// not matter. Of files that differ in their ending alone safetensors is taken.
    ///
    /// # Errors
    /// [`HubError::Ambiguous`] when several go by the name; [`HubError::Unknown`] with the nearest names when none does.
    pub fn find(&self, name: &str) -> Result<PathBuf, HubError> {
        let wanted = name.replace('\\', "/").to_lowercase();
        let all = self.list();
        let file_name = |f: &Found| {
            let ending = f.path.extension().filter(|_| f.path.is_file());
            ending.map_or(f.name.clone(), |e| format!("{}.{}", f.name, e.to_string_lossy())).to_lowercase()
        };
        let last = |path: &str| path.rsplit('/').next().unwrap_or(path).to_lowercase();
        let tests: [&dyn Fn(&Found) -> bool; 4] = [
            &|f| file_name(f) == wanted,
            &|f| f.name.to_lowercase() == wanted,
            &|f| last(&file_name(f)) == wanted,
            &|f| last(&f.name) == wanted,
        ];
        for test in tests {
            let mut matching: Vec<&Found> = all.iter().filter(|f| test(f)).collect();
            matching.sort_by_key(|f| rank(&f.path));
            match matching.as_slice() {
                [] => {}
                [first, rest @ ..] if rest.iter().all(|f| f.name == first.name) => {
                    return Ok(first.path.clone());
                }
                several => {
                    let candidates = several.iter().map(|f| f.name.clone()).collect();
                    return Err(HubError::Ambiguous { name: name.into(), candidates });
                }
            }
        }
        Err(HubError::Unknown {
            name: name.into(),
            folder: self.path.clone(),
            nearest: nearest(&wanted, &all),
        })
    }
}

/// A folder first, then by ending.
fn rank(path: &Path) -> usize {
    let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase());
    ending
        .filter(|_| path.is_file())
        .map_or(0, |e| ENDINGS.iter().position(|known| *known == e).unwrap_or(9) + 1)
}

/// At most three names that look like what was asked for.
fn nearest(wanted: &str, all: &[Found]) -> Vec<String> {
    let likeness = |f: &Found| {
        let last = f.name.rsplit('/').next().unwrap_or(&f.name).to_lowercase();
        let part = if last.contains(wanted) && !wanted.is_empty() { 1.0 } else { 0.0 };
        strsim::jaro_winkler(&last, wanted).max(part)
    };
    let mut near: Vec<(f64, &str)> = all.iter().map(|f| (likeness(f), f.name.as_str())).collect();
    near.retain(|(likeness, _)| *likeness >= 0.75);
    near.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    near.dedup_by_key(|(_, name)| *name);
    near.into_iter().take(3).map(|(_, name)| name.to_string()).collect()
}
