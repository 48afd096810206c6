//! A file's bytes: mapped, held, or part of the program.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use crate::WeightsError;

/// Bytes embedded in the program, aligned so that f32 tensors in them can be borrowed:
/// `static MODEL: &AlignedBytes<[u8]> = &AlignedBytes(*include_bytes!("model.safetensors"));`
#[repr(C, align(64))]
pub struct AlignedBytes<T: ?Sized>(pub T);

pub(crate) enum Bytes {
    Mapped(Mmap),
    Static(&'static [u8]),
    Owned(Vec<u8>),
}

impl Bytes {
    /// Maps an ordinary file that is not empty.
    ///
    /// The file must not be shortened by another program while it is open; writers of this crate never do that,
    /// since they put a new file in the old one's place.
    pub(crate) fn map(path: &Path) -> Result<Self, WeightsError> {
        let failed = |source| WeightsError::Read { file: path.to_path_buf(), source };
        if path.is_dir() {
            return Err(WeightsError::Folder { file: path.to_path_buf(), found: model_files(path) });
        }
        let file = File::open(path).map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        let foreign =
            |reason: &str| WeightsError::Foreign { file: path.to_path_buf(), reason: reason.into() };
        if !meta.is_file() {
            return Err(foreign("it is a device or a pipe"));
        }
        if meta.len() == 0 {
            return Err(foreign("it is empty"));
        }
        // SAFETY: the map is read-only and private to this value, which hands out shared slices only. That another
        // process shortens the file meanwhile is outside the program's power and documented above.
        #[allow(unsafe_code)]
        let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
        Ok(Bytes::Mapped(map))
    }

    pub(crate) fn get(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Static(bytes) => bytes,
            Bytes::Owned(bytes) => bytes,
        }
    }
}

/// Less than this is not worth asking the system for.
const MAPPED_AT_ONCE: usize = 256 << 10;

impl Bytes {
    /// A part that will be read from end to end: mapped in one go, which costs a fraction of what a fault for every few
    /// pages does.
    pub(crate) fn part(&self, start: usize, bytes: usize) -> &[u8] {
        #[cfg(target_os = "linux")]
        if let Bytes::Mapped(map) = self
            && bytes >= MAPPED_AT_ONCE
        {
            // Where the system cannot, the faults do it.
            let _ = map.advise_range(memmap2::Advice::PopulateRead, start, bytes);
        }
        &self.get()[start..start + bytes]
    }

    /// Gives the memory of a part of a mapped file back to the system, which reads it again should it be wanted again.
    pub(crate) fn forget(&self, start: usize, bytes: usize) {
        #[cfg(unix)]
        if let Bytes::Mapped(map) = self
            && bytes > 0
        {
            // SAFETY: the map is of a file and never written, so its pages come back with what they held.
            #[allow(unsafe_code)]
            let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, bytes) };
        }
    }
}

/// The model files in a folder, for the message that lists them.
fn model_files(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<String> = entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|n| [".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf"].iter().any(|e| n.ends_with(e)))
        .take(8)
        .collect();
    found.sort_unstable();
    found
}
