//! Writing GGUF version 3, a tensor at a time.

use std::borrow::Cow;
use std::io::{self, Write};
use std::path::Path;

use crate::save::SaveProgress;
use crate::{WeightsError, atomic_write};

const ALIGNMENT: u64 = 32;

/// A tensor on its way to a GGUF file.
pub(crate) struct GgufTensor {
    pub name: String,
    /// As PyTorch has it, at most four dimensions.
    pub shape: Vec<usize>,
    /// ggml's number of its type.
    pub kind: u32,
    pub bytes: usize,
}

/// Writes a file atomically; `numbers` gives each tensor's bytes when its turn comes, so that one tensor is held at
/// a time.
pub(crate) fn write_gguf_streamed<'a>(
    path: &Path,
    texts: &[(&str, String)],
    tensors: &[GgufTensor],
    progress: &SaveProgress,
    mut numbers: impl FnMut(usize) -> Result<Cow<'a, [u8]>, WeightsError>,
) -> Result<(), WeightsError> {
    let mut head = b"GGUF".to_vec();
    head.extend(3u32.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((texts.len() as u64).to_le_bytes());
    for (key, value) in texts {
        text(&mut head, key);
        head.extend(8u32.to_le_bytes());
        text(&mut head, value);
    }
    let mut offset = 0u64;
    for tensor in tensors {
        text(&mut head, &tensor.name);
        head.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|&d| head.extend((d as u64).to_le_bytes()));
        head.extend(tensor.kind.to_le_bytes());
        head.extend(offset.to_le_bytes());
        offset = (offset + tensor.bytes as u64).next_multiple_of(ALIGNMENT);
    }
    let mut failed = None;
    let written = atomic_write(path, |out| {
        out.write_all(&head)?;
        pad(out, head.len())?;
        for (i, tensor) in tensors.iter().enumerate() {
            let bytes = numbers(i).map_err(|e| {
                failed = Some(e);
                io::Error::other("a tensor could not be read")
            })?;
            out.write_all(&bytes)?;
            pad(out, bytes.len())?;
            progress.add(tensor.shape.iter().product())?;
        }
        Ok(())
    });
    failed.map_or(written, Err)
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn pad(out: &mut dyn Write, written: usize) -> io::Result<()> {
    let rest = (written as u64).next_multiple_of(ALIGNMENT) as usize - written;
    out.write_all(&[0; ALIGNMENT as usize][..rest])
}
