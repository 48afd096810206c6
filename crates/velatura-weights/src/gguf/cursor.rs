//! Reading a GGUF header: every length is checked against what is left of the file before anything is kept.

use std::path::Path;

use crate::WeightsError;

/// ggml's own tensor names have 64 bytes at most.
const MAX_NAME: usize = 1024;
/// Texts that are kept.
const MAX_TEXT: usize = 4096;

pub(super) struct Cursor<'a> {
    file: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

/// A key's value, as far as it is of use: a scalar as text, an array of integers short enough to be a shape.
pub(super) enum Value {
    Text(String),
    Sizes(Vec<usize>),
    Other,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(file: &'a Path, bytes: &'a [u8]) -> Self {
        Cursor { file, bytes, at: 0 }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn damaged(&self, reason: &str) -> WeightsError {
        let reason = format!("its GGUF header at byte {}: {reason}", self.at);
        WeightsError::Damaged { file: self.file.to_path_buf(), reason }
    }

    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8], WeightsError> {
        let taken = self.at.checked_add(n).and_then(|end| self.bytes.get(self.at..end));
        let left = self.bytes.len() - self.at;
        let taken =
            taken.ok_or_else(|| self.damaged(&format!("{n} bytes are announced where {left} are left")))?;
        self.at += n;
        Ok(taken)
    }

    pub(super) fn u32(&mut self) -> Result<u32, WeightsError> {
        self.number(4).map(|n| n as u32)
    }

    pub(super) fn u64(&mut self) -> Result<u64, WeightsError> {
        self.number(8)
    }

    /// Little-endian and unsigned, of up to eight bytes.
    fn number(&mut self, size: usize) -> Result<u64, WeightsError> {
        let mut wide = [0; 8];
        wide[..size].copy_from_slice(self.take(size)?);
        Ok(u64::from_le_bytes(wide))
    }

    fn length(&mut self) -> Result<usize, WeightsError> {
        let length = self.u64()?;
        usize::try_from(length).map_err(|_| self.damaged(&format!("a length is {length}")))
    }

    pub(super) fn text(&mut self) -> Result<&'a str, WeightsError> {
        let length = self.length()?;
        let raw = self.take(length)?;
        std::str::from_utf8(raw).map_err(|_| self.damaged("a text is not UTF-8"))
    }

    /// A key or a tensor's name.
    pub(super) fn name(&mut self) -> Result<&'a str, WeightsError> {
        let name = self.text()?;
        if name.len() > MAX_NAME {
            return Err(self.damaged(&format!("a name has {} bytes", name.len())));
        }
        Ok(name)
    }

    pub(super) fn value(&mut self) -> Result<Value, WeightsError> {
        match self.u32()? {
            // A longer text, such as a tokenizer, is of no use here.
            8 => self
                .text()
                .map(|t| if t.len() <= MAX_TEXT { Value::Text(t.to_string()) } else { Value::Other }),
            9 => self.array(),
            kind => self.scalar(kind).map(Value::Text),
        }
    }

    fn scalar(&mut self, kind: u32) -> Result<String, WeightsError> {
        let size = self.size_of(kind)?;
        let n = self.number(size)?;
        Ok(match kind {
            1 => (n as u8 as i8).to_string(),
            3 => (n as u16 as i16).to_string(),
            5 => (n as u32 as i32).to_string(),
            6 => f32::from_bits(n as u32).to_string(),
            7 => (n != 0).to_string(),
            11 => (n as i64).to_string(),
            12 => f64::from_bits(n).to_string(),
            _ => n.to_string(),
        })
    }

    /// Bytes of a scalar type.
    fn size_of(&self, kind: u32) -> Result<usize, WeightsError> {
        match kind {
            0 | 1 | 7 => Ok(1),
            2 | 3 => Ok(2),
            4..=6 => Ok(4),
            10..=12 => Ok(8),
            _ => Err(self.damaged(&format!("a value has the unknown type {kind}"))),
        }
    }

    /// Arrays of arrays are in the format's text and in no model file; they are refused.
    fn array(&mut self) -> Result<Value, WeightsError> {
        let kind = self.u32()?;
        let length = self.length()?;
        match kind {
            9 => Err(self.damaged("a value is an array of arrays")),
            8 => {
                // Every text takes bytes, so a length that lies ends at the end of the file.
                for _ in 0..length {
                    self.text()?;
                }
                Ok(Value::Other)
            }
            4 | 5 | 10 | 11 if length <= 16 => {
                let mut sizes = Vec::new();
                for _ in 0..length {
                    let size = self.scalar(kind)?;
                    let size = size.parse().map_err(|_| self.damaged("a size is negative"));
                    sizes.push(size);
                }
                // Only shapes need sizes; another array may hold anything.
                Ok(sizes.into_iter().collect::<Result<_, _>>().map_or(Value::Other, Value::Sizes))
            }
            _ => {
                let size = self.size_of(kind)?;
                let bytes = length.checked_mul(size);
                let bytes = bytes.ok_or_else(|| self.damaged(&format!("an array has {length} values")))?;
                self.take(bytes)?;
                Ok(Value::Other)
            }
        }
    }
}
