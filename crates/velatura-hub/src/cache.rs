//! What the hub's cache holds: `models--OWNER--NAME/{blobs,refs,snapshots}`.

use std::path::{Path, PathBuf};

use crate::choose::{RepoFile, choose};
use crate::name::is_plain;

/// Folders of a repository are not deeper.
const DEEPEST: usize = 4;
/// A repository with more files than this is no model.
const MOST_FILES: usize = 10_000;

/// A model in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cached {
    /// `owner/name`, with `@revision` behind it where that is not `main`.
    pub name: String,
    /// The file or folder.
    pub path: PathBuf,
    /// Bytes of all files of the snapshot.
    pub bytes: u64,
}

/// The models of a cache, by name. Repositories that hold none are left out.
pub fn cached(cache: &Path) -> Vec<Cached> {
    let mut all = Vec::new();
    for folder in names(cache) {
        let Some((owner, name)) = folder.strip_prefix("models--").and_then(|n| n.split_once("--")) else {
            continue;
        };
        let root = cache.join(&folder);
        for (revision, _) in walk(&root.join("refs")) {
            let commit = std::fs::read_to_string(root.join("refs").join(&revision)).unwrap_or_default();
            let commit = commit.trim();
            let snapshot = root.join("snapshots").join(commit);
            if !is_plain(commit) {
                continue;
            }
            let Some(path) = model_of(&snapshot) else { continue };
            let at = if revision == "main" { String::new() } else { format!("@{revision}") };
            let bytes = walk(&snapshot).iter().map(|(_, bytes)| bytes).sum();
            all.push(Cached { name: format!("{owner}/{name}{at}"), path, bytes });
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// The model of a snapshot: its folder, or the one file that it has.
pub(crate) fn model_of(snapshot: &Path) -> Option<PathBuf> {
    let files: Vec<RepoFile> = walk(snapshot)
        .into_iter()
        .map(|(path, size)| RepoFile { path, size: Some(size), sha256: None })
        .collect();
    let chosen = choose("", &files).ok()?;
    Some(model_in(snapshot, &chosen))
}

/// The file where it is one, else the folder.
pub(crate) fn model_in(snapshot: &Path, chosen: &[&RepoFile]) -> PathBuf {
    match chosen {
        [one] => snapshot.join(&one.path),
        _ => snapshot.to_path_buf(),
    }
}

/// All files below a folder with their sizes, by their paths with `/` between; links to files are followed.
pub(crate) fn walk(root: &Path) -> Vec<(String, u64)> {
    let mut files = Vec::new();
    let mut waiting = vec![(String::new(), 0)];
    while let Some((folder, depth)) = waiting.pop() {
        for name in names(&root.join(&folder)) {
            let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            match std::fs::metadata(root.join(&path)) {
                Ok(m) if m.is_dir() && depth < DEEPEST => waiting.push((path, depth + 1)),
                Ok(m) if m.is_file() && files.len() < MOST_FILES => files.push((path, m.len())),
                _ => {}
            }
        }
    }
    files.sort();
    files
}

/// The names in a folder; none where it cannot be read.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
