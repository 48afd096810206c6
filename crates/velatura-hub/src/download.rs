//! One file of a repository, until it is whole. The hub's library downloads, and goes on where a download stopped; that
//! what arrived is what the hub said is seen to here.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiError, Metadata};
use sha2::{Digest, Sha256};

use crate::choose::RepoFile;
use crate::hub::{Event, Hub, make_folder, repo};
use crate::name::is_plain;
use crate::{HubError, HubName};

/// Tries without a byte more than before, after which a file is given up.
const MOST_TRIES: u32 = 5;

/// A model being downloaded.
pub(crate) struct Download<'a> {
    hub: &'a Hub,
    api: &'a Api,
    name: &'a HubName,
    commit: &'a str,
    /// Bytes of the files that are finished.
    done: u64,
}

/// What comes from the thread in which the library downloads.
enum Said {
    /// So many bytes more.
    Bytes(usize),
    /// It is done.
    Done(Result<PathBuf, ApiError>),
}

/// Sends on what the library tells.
struct Meter(mpsc::Sender<Said>);

impl Progress for Meter {
    fn init(&mut self, _size: usize, _file: &str) {}

    fn update(&mut self, bytes: usize) {
        // Nobody listens any more when the download was given up.
        let _ = self.0.send(Said::Bytes(bytes));
    }

    fn finish(&mut self) {}
}

/// Where the cache keeps a file.
struct Places {
    /// Its bytes, under the name that the hub gives them.
    blob: PathBuf,
    /// What has arrived of them.
    part: PathBuf,
    /// Its place in the snapshot of the commit, a link to the blob.
    pointer: PathBuf,
}

impl<'a> Download<'a> {
    pub(crate) fn new(hub: &'a Hub, api: &'a Api, name: &'a HubName, commit: &'a str) -> Self {
        Download { hub, api, name, commit, done: 0 }
    }

    /// Downloads a file into the cache, trying again as long as something arrives.
    pub(crate) fn file(&mut self, file: &RepoFile, watch: &mut dyn FnMut(Event<'_>)) -> Result<(), HubError> {
        let (mut tries, mut most) = (0, 0);
        let mut pause = self.hub.settings().pause;
        loop {
            let (reason, arrived) = match self.once(file, watch)? {
                Outcome::Whole(bytes) => {
                    self.done += bytes;
                    watch(Event::Bytes(self.done));
                    return Ok(());
                }
                Outcome::Again { reason, arrived } => (reason, arrived),
            };
            tries = if arrived > most { 1 } else { tries + 1 };
            most = most.max(arrived);
            if tries >= MOST_TRIES {
                let (name, file) = (self.name.to_string(), file.path.clone());
                return Err(HubError::Download { name, file, reason });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(std::time::Duration::from_secs(30));
        }
    }

    fn once(&self, file: &RepoFile, watch: &mut dyn FnMut(Event<'_>)) -> Result<Outcome, HubError> {
        let url = self.api.repo(repo(self.name)).url(&file.path);
        let api = self.api.clone();
        let metadata = match self.waited(file, move || api.metadata(&url))? {
            Ok(metadata) => metadata,
            Err(error) => return self.again(error, 0),
        };
        let size = metadata.size() as u64;
        let places = self.places(file, &metadata)?;
        if file.size.is_some_and(|told| told != size) {
            return Err(self.hub.answer(self.name, format!("{} has two sizes", file.path)));
        }
        if length(&places.blob) == Some(size) && self.is_intact(file, &places.blob, watch)? {
            // Another revision has it too, or it was downloaded and not linked.
            link(&places, &file.path)?;
            return Ok(Outcome::Whole(size));
        }
        if length(&places.part).is_some_and(|length| length >= size) {
            // There would be nothing left to ask for.
            remove(&places.part)?;
        }
        // A broken link would be kept.
        remove(&places.pointer)?;
        if let Err(error) = self.download(file, watch)? {
            return self.again(error, length(&places.part).unwrap_or(0));
        }
        let arrived = length(&places.blob).unwrap_or(0);
        if arrived == size && self.is_intact(file, &places.blob, watch)? {
            return Ok(Outcome::Whole(size));
        }
        remove(&places.pointer)?;
        if arrived < size {
            // Cut off without the library's notice; the next try goes on from here.
            std::fs::rename(&places.blob, &places.part).map_err(disk(&places.part))?;
            return Ok(Outcome::Again { reason: format!("{arrived} of {size} bytes came"), arrived });
        }
        remove(&places.blob)?;
        Ok(Outcome::Again { reason: "its checksum is wrong".into(), arrived: 0 })
    }

    /// Downloads by the library. It waits for ever where the other side sends nothing and does not hang up, so it works in a
    /// thread of its own, which is left alone when nothing arrives any more; the library's lock keeps others off the file.
    fn download(
        &self,
        file: &RepoFile,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> Result<Result<PathBuf, ApiError>, HubError> {
        let (api, repo, path) = (self.api.clone(), repo(self.name), file.path.clone());
        let (send, receive) = mpsc::channel();
        std::thread::spawn(move || {
            let result = api.repo(repo).download_with_progress(&path, Meter(send.clone()));
            let _ = send.send(Said::Done(result));
        });
        let mut now = self.done;
        loop {
            match receive.recv_timeout(self.hub.settings().stall) {
                Ok(Said::Bytes(bytes)) => {
                    now += bytes as u64;
                    watch(Event::Bytes(now));
                }
                Ok(Said::Done(result)) => return Ok(result),
                Err(_) => return Err(self.stalled(file)),
            }
        }
    }

    /// What the library is asked, unless no answer comes.
    fn waited<T: Send + 'static>(
        &self,
        file: &RepoFile,
        ask: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, HubError> {
        let (send, receive) = mpsc::channel();
        std::thread::spawn(move || send.send(ask()));
        receive.recv_timeout(self.hub.settings().stall).map_err(|_| self.stalled(file))
    }

    fn stalled(&self, file: &RepoFile) -> HubError {
        let seconds = self.hub.settings().stall.as_secs_f32();
        let reason = format!("nothing came for {seconds} s (HF_HUB_DOWNLOAD_TIMEOUT sets how long to wait)");
        HubError::Download { name: self.name.to_string(), file: file.path.clone(), reason }
    }

    fn places(&self, file: &RepoFile, metadata: &Metadata) -> Result<Places, HubError> {
        if !is_plain(metadata.etag()) || metadata.commit_hash() != self.commit {
            let reason = format!(
                "{} has the tag {:?} at commit {:?}, where {:?} was listed (it may have changed just now; try again)",
                file.path,
                metadata.etag(),
                metadata.commit_hash(),
                self.commit
            );
            return Err(self.hub.answer(self.name, reason));
        }
        let cached = self.hub.cache().repo(repo(self.name));
        let blob = cached.blob_path(metadata.etag());
        // As the library names it.
        let part = blob.with_extension("part");
        let pointer = cached.pointer_path(self.commit).join(&file.path);
        if let Some(folder) = blob.parent() {
            make_folder(folder)?;
        }
        Ok(Places { blob, part, pointer })
    }

    /// Whether a file has the checksum that the hub says, where it says one.
    fn is_intact(
        &self,
        file: &RepoFile,
        blob: &Path,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> Result<bool, HubError> {
        let Some(expected) = &file.sha256 else { return Ok(true) };
        watch(Event::Checking(&file.path));
        let mut input = File::open(blob).map_err(disk(blob))?;
        let mut sha = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            match input.read(&mut buffer).map_err(disk(blob))? {
                0 => break,
                n => sha.update(&buffer[..n]),
            }
        }
        let found: String = sha.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(found == *expected)
    }

    /// What cannot get better is an error; anything else is tried again.
    fn again(&self, error: ApiError, arrived: u64) -> Result<Outcome, HubError> {
        if let ApiError::RequestError(request) = &error
            && let ureq::Error::StatusCode(status @ (400..=415 | 417..=428 | 430..=499)) = **request
            && status != 408
        {
            return Err(self.hub.failed(self.name, &error));
        }
        if let ApiError::LockAcquisition(path) = &error {
            let source = std::io::Error::other("another program is downloading this file");
            return Err(HubError::Disk { path: path.clone(), source });
        }
        Ok(Outcome::Again { reason: error.to_string(), arrived })
    }
}

enum Outcome {
    /// The file is there, with so many bytes.
    Whole(u64),
    /// It is not; so many bytes of it are.
    Again { reason: String, arrived: u64 },
}

fn length(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().filter(|m| m.is_file()).map(|m| m.len())
}

/// Removes a file or a link that need not be there.
fn remove(path: &Path) -> Result<(), HubError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(disk(path)(source)),
        _ => Ok(()),
    }
}

fn disk(path: &Path) -> impl Fn(std::io::Error) -> HubError {
    let path = path.to_path_buf();
    move |source| HubError::Disk { path: path.clone(), source }
}

/// Puts a link to a blob into the snapshot, as the hub's tools do.
fn link(places: &Places, file: &str) -> Result<(), HubError> {
    if let Some(folder) = places.pointer.parent() {
        make_folder(folder)?;
    }
    remove(&places.pointer)?;
    link_file(places, file).map_err(disk(&places.pointer))
}

#[cfg(unix)]
fn link_file(places: &Places, file: &str) -> std::io::Result<()> {
    // From the file's folder in `snapshots/COMMIT` up to the repository's.
    let mut target = PathBuf::from("../".repeat(file.split('/').count() + 1));
    target.push("blobs");
    target.push(places.blob.file_name().unwrap_or_default());
    std::os::unix::fs::symlink(target, &places.pointer)
}

/// Links need a privilege elsewhere.
#[cfg(not(unix))]
fn link_file(places: &Places, _file: &str) -> std::io::Result<()> {
    std::fs::hard_link(&places.blob, &places.pointer)
        .or_else(|_| std::fs::copy(&places.blob, &places.pointer).map(drop))
}
