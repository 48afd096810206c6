//! Files that are either the old one or the new one, whatever happens in between.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::WeightsError;

/// Writes a file so that at every moment, also after a crash or with a full disk, the path holds either the whole old
/// file or the whole new one: a temporary file in the same folder is written, synced, renamed over the path, and the
/// folder synced. When anything fails the temporary file is removed.
///
/// A path that is a device or a pipe (`/dev/stdout`) is written directly; a symbolic link stays one and the file
/// that it names is replaced.
pub fn atomic_write(
    path: impl AsRef<Path>,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), WeightsError> {
    let path = path.as_ref();
    put(path, write).map_err(|source| WeightsError::Write { file: path.to_path_buf(), source })
}

fn put(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let existing = std::fs::metadata(path).ok();
    if existing.as_ref().is_some_and(|m| !m.is_file() && !m.is_dir()) {
        let mut out = BufWriter::new(std::fs::OpenOptions::new().write(true).open(path)?);
        write(&mut out)?;
        return out.flush();
    }
    if existing.as_ref().is_some_and(|m| m.is_dir()) {
        return Err(io::Error::from(io::ErrorKind::IsADirectory));
    }
    let target = if existing.is_some() { std::fs::canonicalize(path)? } else { path.to_path_buf() };
    let folder = folder_of(&target);
    let mut builder = tempfile::Builder::new();
    builder.prefix(".velatura-").suffix(".tmp");
    let permissions = existing.map(|m| m.permissions()).or_else(default_permissions);
    if let Some(permissions) = permissions {
        builder.permissions(permissions);
    }
    // Dropped on every early return, which removes the file.
    let mut temporary = builder.tempfile_in(&folder)?;
    {
        let mut out = BufWriter::with_capacity(1 << 20, temporary.as_file_mut());
        write(&mut out)?;
        out.flush()?;
    }
    temporary.as_file().sync_all()?;
    temporary.persist(&target).map_err(|e| e.error)?;
    sync_folder(&folder)
}

/// Whether [`atomic_write`] to this path will find a folder that can be written to, found out by making and removing
/// an empty temporary file there: for looking before a long computation starts.
pub fn check_writable(path: impl AsRef<Path>) -> Result<(), WeightsError> {
    let path = path.as_ref();
    let failed = |source| WeightsError::Write { file: path.to_path_buf(), source };
    match std::fs::metadata(path) {
        Ok(m) if m.is_dir() => return Err(failed(io::Error::from(io::ErrorKind::IsADirectory))),
        Ok(m) if !m.is_file() => {
            return std::fs::OpenOptions::new().write(true).open(path).map(drop).map_err(failed);
        }
        _ => {}
    }
    tempfile::Builder::new()
        .prefix(".velatura-")
        .suffix(".tmp")
        .tempfile_in(folder_of(path))
        .and_then(|t| t.close())
        .map_err(failed)
}

pub(crate) fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// What an ordinary new file gets, the user's mask applied; the temporary-file crate's own default is private.
#[cfg(unix)]
fn default_permissions() -> Option<std::fs::Permissions> {
    use std::os::unix::fs::PermissionsExt;
    Some(std::fs::Permissions::from_mode(0o666))
}

#[cfg(not(unix))]
fn default_permissions() -> Option<std::fs::Permissions> {
    None
}

/// Makes the rename itself durable. Not every system lets a folder be opened.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}
