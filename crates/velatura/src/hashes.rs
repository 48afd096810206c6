//! Hashes of large model files, remembered in the program's cache folder: a file of gigabytes takes seconds to hash. A file
//! is known by its path, size and time of change, as A1111's `cache.json` has it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Less than this is hashed at once.
const SMALL: u64 = 64 << 20;
/// Most models that are remembered; those that were added first go first.
const MOST: usize = 512;
/// A cache file larger than this is none.
const LARGEST: u64 = 1 << 20;
/// A file that changed so short ago may change again without its time of change doing so.
const SETTLED: Duration = Duration::from_secs(2);

#[derive(Default, Serialize, Deserialize)]
struct Cache {
    /// By what the files are known by.
    #[serde(default)]
    models: BTreeMap<String, Known>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Known {
    hash: String,
    /// Seconds since 1970.
    #[serde(default)]
    added: u64,
}

/// The hash of files: remembered, or computed and remembered from now on. Without a cache folder it is computed.
pub(crate) fn remembered(files: &[&Path], compute: impl FnOnce() -> String) -> String {
    match dirs::cache_dir() {
        Some(folder) => remembered_in(&folder.join("velatura").join("hashes.json"), files, SMALL, compute),
        None => compute(),
    }
}

fn remembered_in(cache: &Path, files: &[&Path], small: u64, compute: impl FnOnce() -> String) -> String {
    let Some(stamp) = stamp(files, small) else { return compute() };
    if let Some(known) = read(cache).models.remove(&stamp).filter(|known| is_hash(&known.hash)) {
        return known.hash;
    }
    let hash = compute();
    if is_hash(&hash) && self::stamp(files, small).as_ref() == Some(&stamp) {
        // A cache that cannot be written costs time alone.
        if let Err(error) = add(cache, stamp, &hash) {
            tracing::debug!(%error, "the hash is not remembered");
        }
    }
    hash
}

fn is_hash(text: &str) -> bool {
    text.len() == 10 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// What files are known by; `None` for small ones, for what changed just now, and for what is none.
fn stamp(files: &[&Path], small: u64) -> Option<String> {
    let mut sha = Sha256::new();
    let mut bytes = 0;
    for file in all(files) {
        let meta = std::fs::metadata(&file).ok()?;
        let changed = meta.modified().ok()?;
        if SystemTime::now().duration_since(changed).is_ok_and(|age| age < SETTLED) {
            return None;
        }
        bytes += meta.len();
        let path = std::fs::canonicalize(&file).ok()?;
        let nanoseconds = changed.duration_since(UNIX_EPOCH).ok()?.as_nanos();
        sha.update(path.as_os_str().as_encoded_bytes());
        sha.update([0]);
        sha.update(meta.len().to_le_bytes());
        sha.update(nanoseconds.to_le_bytes());
    }
    (bytes >= small).then(|| sha.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The files, and beside an index those that it may name.
fn all(files: &[&Path]) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = files.iter().map(|file| file.to_path_buf()).collect();
    for index in files.iter().filter(|file| file.extension().is_some_and(|e| e == "json")) {
        let entries = index.parent().and_then(|folder| std::fs::read_dir(folder).ok());
        let beside = entries.into_iter().flatten().flatten().map(|entry| entry.path());
        all.extend(beside.filter(|path| path.is_file()));
    }
    all.sort();
    all.dedup();
    all
}

/// What is remembered; nothing where the file is not there or damaged.
fn read(cache: &Path) -> Cache {
    let small = std::fs::metadata(cache).is_ok_and(|meta| meta.len() <= LARGEST);
    let text = if small { std::fs::read(cache).unwrap_or_default() } else { Vec::new() };
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Puts a new file in the old one's place, so that who reads sees one or the other. Of two who add at the same time one may
/// be forgotten, and computes again.
fn add(cache: &Path, stamp: String, hash: &str) -> Result<(), velatura_weights::WeightsError> {
    let Cache { mut models } = read(cache);
    let added = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    models.insert(stamp, Known { hash: hash.to_string(), added });
    while models.len() > MOST {
        let first = models.iter().min_by_key(|(_, known)| known.added).map(|(stamp, _)| stamp.clone());
        first.map(|stamp| models.remove(&stamp));
    }
    let failed = |source| velatura_weights::WeightsError::Write { file: cache.to_path_buf(), source };
    if let Some(folder) = cache.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let text = serde_json::to_vec_pretty(&Cache { models }).map_err(|e| failed(e.into()))?;
    velatura_weights::atomic_write(cache, |out: &mut dyn Write| out.write_all(&text))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    struct Folder {
        folder: tempfile::TempDir,
        computed: Cell<u32>,
    }

    impl Folder {
        fn new() -> Self {
            Folder { folder: tempfile::tempdir().unwrap(), computed: Cell::new(0) }
        }

        fn cache(&self) -> PathBuf {
            self.folder.path().join("below").join("hashes.json")
        }

        /// A file that was changed so many seconds ago.
        fn file(&self, name: &str, text: &str, ago: u64) -> PathBuf {
            let path = self.folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(ago)).unwrap();
            path
        }

        fn hash(&self, file: &Path, small: u64) -> String {
            remembered_in(&self.cache(), &[file], small, || {
                self.computed.set(self.computed.get() + 1);
                format!("{:010x}", self.computed.get())
            })
        }
    }

    #[test]
    fn a_hash_is_computed_once_until_the_file_changes() {
        let at = Folder::new();
        let file = at.file("model", "abc", 100);
        assert_eq!((at.hash(&file, 0), at.hash(&file, 0)), ("0000000001".into(), "0000000001".into()));
        let file = at.file("model", "abcd", 100);
        assert_eq!(at.hash(&file, 0), "0000000002");
        let other = at.file("other", "abcd", 100);
        assert_eq!((at.hash(&other, 0), at.hash(&file, 0)), ("0000000003".into(), "0000000002".into()));
        at.file("model", "efgh", 50);
        assert_eq!(at.hash(&file, 0), "0000000004");
    }

    #[test]
    fn small_files_and_those_changed_just_now_are_not_remembered() {
        let at = Folder::new();
        let file = at.file("model", "abc", 100);
        assert_ne!(at.hash(&file, 4), at.hash(&file, 4));
        let file = at.file("model", "abc", 0);
        assert_ne!(at.hash(&file, 0), at.hash(&file, 0));
        assert!(!at.cache().exists());
    }

    #[test]
    fn a_damaged_cache_is_as_none() {
        let at = Folder::new();
        let file = at.file("model", "abc", 100);
        let first = at.hash(&file, 0);
        let whole = std::fs::read_to_string(at.cache()).unwrap();
        for damaged in
            ["", "{", "[]", "\0\0\0", &whole[..whole.len() / 2], &whole.replace(&first, "../../etc")]
        {
            std::fs::write(at.cache(), damaged).unwrap();
            let again = at.hash(&file, 0);
            assert_ne!(again, first, "{damaged:?}");
            assert_eq!(at.hash(&file, 0), again);
        }
    }

    #[test]
    fn writers_at_the_same_time_leave_a_whole_file() {
        let at = Folder::new();
        let cache = at.cache();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let cache = &cache;
                scope.spawn(move || {
                    for i in 0..10 {
                        add(cache, format!("{thread} {i}"), "0123456789").unwrap();
                    }
                });
            }
        });
        assert!(!read(&cache).models.is_empty());
    }
}
