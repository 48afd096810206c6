//! The hub: settings as its own tools read them, what a repository holds, and the way from a name to files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};
use serde::Deserialize;

use crate::cache;
use crate::choose::{RepoFile, choose, is_safe};
use crate::download::Download;
use crate::name::is_plain;
use crate::{HubError, HubName};

const ENDPOINT: &str = "https://huggingface.co";
/// Longer than the ten seconds of the hub's own tools, which try again by themselves.
const STALL: Duration = Duration::from_secs(60);

/// Where the hub is and where its files are kept.
#[derive(Clone, Debug)]
pub struct HubSettings {
    /// The hub's address, without a slash at its end.
    pub endpoint: String,
    /// The cache that all of the hub's tools share.
    pub cache: PathBuf,
    /// What the hub knows a person by.
    pub token: Option<String>,
    /// Whether the hub must not be asked.
    pub offline: bool,
    /// How long to wait before a download is tried again the first time; twice as long each further time.
    pub pause: Duration,
    /// How long to wait for the next bytes of a file before it is given up.
    pub stall: Duration,
}

impl HubSettings {
    /// From the environment: `HF_ENDPOINT`, `HF_HUB_CACHE` or `HF_HOME`, `HF_TOKEN` or `HF_TOKEN_PATH` or the file that
    /// logging in leaves, `HF_HUB_OFFLINE`, `HF_HUB_DOWNLOAD_TIMEOUT`.
    pub fn from_env() -> Self {
        let text =
            |name: &str| std::env::var(name).ok().map(|v| v.trim().to_string()).filter(|v| !v.is_empty());
        let folder = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let home = folder("HF_HOME").unwrap_or_else(|| {
            let caches = folder("XDG_CACHE_HOME");
            let caches = caches.unwrap_or_else(|| dirs::home_dir().unwrap_or_default().join(".cache"));
            caches.join("huggingface")
        });
        let token_file = folder("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
        let stored = || std::fs::read_to_string(token_file).ok().map(|t| t.trim().to_string());
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        HubSettings {
            endpoint: endpoint.trim_end_matches('/').to_string(),
            cache: folder("HF_HUB_CACHE").unwrap_or_else(|| home.join("hub")),
            token: text("HF_TOKEN").or_else(stored).filter(|t| !t.is_empty()),
            offline: text("HF_HUB_OFFLINE")
                .is_some_and(|v| ["1", "on", "yes", "true"].contains(&v.to_lowercase().as_str())),
            pause: Duration::from_secs(1),
            stall: text("HF_HUB_DOWNLOAD_TIMEOUT")
                .and_then(|v| v.parse().ok())
                .filter(|seconds| (1..=86400).contains(seconds))
                .map_or(STALL, Duration::from_secs),
        }
    }
}

/// What happens while a model is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// So much is to be downloaded.
    Started {
        /// Files.
        files: usize,
        /// Bytes, as far as the hub says.
        bytes: u64,
    },
    /// So many bytes are there, over all files.
    Bytes(u64),
    /// A file is compared with its checksum.
    Checking(&'a str),
    /// One sentence worth telling.
    Remark(&'a str),
}

/// The hub.
#[derive(Debug)]
pub struct Hub {
    settings: HubSettings,
}

/// What a repository holds at a commit.
struct Listing {
    commit: String,
    files: Vec<RepoFile>,
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
}

impl Hub {
    /// The hub with these settings; nothing is asked yet.
    pub fn new(settings: HubSettings) -> Self {
        Hub { settings }
    }

    /// The settings.
    pub fn settings(&self) -> &HubSettings {
        &self.settings
    }

    /// The file or folder of a model, downloaded as far as it is not in the cache: the folder of a diffusers pipeline or
    /// of a part, or the one model file. The hub is asked what there is also where all of it is in the cache, unless it
    /// must not be or does not answer.
    ///
    /// A file is taken for whole only when it has the size, and where the hub tells it the SHA-256, that the hub says; a
    /// download that was cut off goes on from where it stopped.
    ///
    /// # Errors
    /// [`HubError`] says what to do about each.
    pub fn fetch(&self, name: &HubName, watch: &mut dyn FnMut(Event<'_>)) -> Result<PathBuf, HubError> {
        if self.settings.offline {
            let (name_text, cache) = (name.to_string(), self.settings.cache.clone());
            return self.in_cache(name).ok_or(HubError::Offline { name: name_text, cache });
        }
        let api = self.api(name)?;
        let listing = match self.listing(&api, name) {
            Ok(listing) => listing,
            Err(error) => {
                let found = self.in_cache(name).filter(|_| matches!(error, HubError::Unreachable { .. }));
                let Some(path) = found else { return Err(error) };
                watch(Event::Remark(&format!(
                    "the hub cannot be reached; {name} is taken from the cache as it is"
                )));
                return Ok(path);
            }
        };
        let chosen: Vec<&RepoFile> = match &name.file {
            None => choose(&name.to_string(), &listing.files)?,
            Some(file) => {
                let found = listing.files.iter().find(|f| f.path == *file);
                vec![found.ok_or_else(|| no_such_file(name, file, &listing.files))?]
            }
        };
        if let Some(odd) = chosen.iter().find(|f| !is_safe(&f.path)) {
            return Err(self.answer(name, format!("it names a file {:?}", odd.path)));
        }
        let repository = self.cache().repo(repo(name));
        let snapshot = repository.pointer_path(&listing.commit);
        let is_here = |file: &&RepoFile| {
            let here = std::fs::metadata(snapshot.join(&file.path));
            here.is_ok_and(|m| m.is_file() && file.size.is_none_or(|size| size == m.len()))
        };
        let missing: Vec<&RepoFile> = chosen.iter().copied().filter(|file| !is_here(file)).collect();
        if !missing.is_empty() {
            let bytes = missing.iter().filter_map(|f| f.size).sum();
            watch(Event::Started { files: missing.len(), bytes });
        }
        let mut download = Download::new(self, &api, name, &listing.commit);
        for file in missing {
            download.file(file, watch)?;
        }
        repository
            .create_ref(&listing.commit)
            .map_err(|source| HubError::Disk { path: self.settings.cache.clone(), source })?;
        Ok(cache::model_in(&snapshot, &chosen))
    }

    /// The file or folder of a model as far as the cache has it.
    pub fn in_cache(&self, name: &HubName) -> Option<PathBuf> {
        let folder = self.settings.cache.join(repo(name).folder_name());
        let snapshots = folder.join("snapshots");
        let commit = std::fs::read_to_string(folder.join("refs").join(&name.revision));
        let commit = commit.map_or_else(|_| name.revision.clone(), |commit| commit.trim().to_string());
        let snapshot = is_plain(&commit).then(|| snapshots.join(&commit)).filter(|path| path.is_dir())?;
        match &name.file {
            Some(file) => Some(snapshot.join(file)).filter(|path| path.is_file()),
            None => cache::model_of(&snapshot),
        }
    }

    pub(crate) fn cache(&self) -> Cache {
        Cache::new(self.settings.cache.clone())
    }

    fn api(&self, name: &HubName) -> Result<Api, HubError> {
        ApiBuilder::from_cache(self.cache())
            .with_endpoint(self.settings.endpoint.clone())
            .with_token(self.settings.token.clone())
            .with_progress(false)
            .with_user_agent("velatura", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|error| self.failed(name, &error))
    }

    /// The files with their sizes and checksums.
    fn listing(&self, api: &Api, name: &HubName) -> Result<Listing, HubError> {
        let request = api.repo(repo(name)).info_request().query("blobs", "true");
        let request = request.config().timeout_global(Some(self.settings.stall)).build();
        let mut response =
            request.call().map_err(|e| self.failed(name, &ApiError::RequestError(Box::new(e))))?;
        let read = response.body_mut().with_config().limit(64 << 20).read_json::<Info>();
        let info = read.map_err(|e| self.answer(name, e.to_string()))?;
        if !is_plain(&info.sha) {
            return Err(self.answer(name, format!("its commit is {:?}", info.sha)));
        }
        let files = info.siblings.into_iter().map(|s| RepoFile {
            path: s.rfilename,
            size: s.size,
            sha256: s.lfs.and_then(|lfs| lfs.sha256).map(|sha| sha.to_lowercase()),
        });
        Ok(Listing { commit: info.sha, files: files.collect() })
    }

    pub(crate) fn answer(&self, name: &HubName, reason: String) -> HubError {
        HubError::Answer { name: name.to_string(), endpoint: self.settings.endpoint.clone(), reason }
    }

    /// What an error of the hub's library means.
    pub(crate) fn failed(&self, name: &HubName, error: &ApiError) -> HubError {
        let (text, endpoint) = (name.to_string(), self.settings.endpoint.clone());
        let ApiError::RequestError(request) = error else { return self.answer(name, error.to_string()) };
        match **request {
            ureq::Error::StatusCode(401 | 404) => {
                let who = if self.settings.token.is_some() { "to this HF_TOKEN" } else { "to everybody" };
                HubError::NotFound { name: text, endpoint, who }
            }
            ureq::Error::StatusCode(403) => {
                HubError::Gated { name: text, repository: name.repository.clone(), endpoint }
            }
            ureq::Error::StatusCode(status) => self.answer(name, format!("HTTP status {status}")),
            ref other => HubError::Unreachable {
                name: text,
                cache: self.settings.cache.clone(),
                endpoint,
                reason: other.to_string(),
            },
        }
    }
}

pub(crate) fn repo(name: &HubName) -> Repo {
    Repo::with_revision(name.repository.clone(), RepoType::Model, name.revision.clone())
}

fn no_such_file(name: &HubName, file: &str, files: &[RepoFile]) -> HubError {
    let mut near: Vec<(f64, &str)> =
        files.iter().map(|f| (strsim::jaro_winkler(&f.path, file), f.path.as_str())).collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    let near: Vec<&str> = near.into_iter().take(3).map(|(_, path)| path).collect();
    let reason = match near.as_slice() {
        [] => "is not there; the repository is empty".to_string(),
        near => format!("is not there; the repository has {}", near.join(", ")),
    };
    HubError::Choice { name: name.to_string(), reason }
}

/// Makes a folder and those above it.
pub(crate) fn make_folder(path: &Path) -> Result<(), HubError> {
    std::fs::create_dir_all(path).map_err(|source| HubError::Disk { path: path.to_path_buf(), source })
}
