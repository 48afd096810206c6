//! TensorBoard's event files: TFRecord framing around protocol buffers, of which only scalars are written.
//!
//! A record is the length (u64), its masked CRC-32C, the bytes, and their masked CRC-32C, all little-endian
//! (`tensorflow/core/lib/io/record_writer.cc`). The fields are those of `tensorflow/core/util/event.proto` and
//! `tensorflow/core/framework/summary.proto`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::TrainError;

/// Writes one event file.
pub struct EventWriter {
    path: PathBuf,
    out: BufWriter<File>,
}

impl EventWriter {
    /// Begins a new file in a folder, which is made if need be.
    pub fn create(folder: &Path) -> Result<Self, TrainError> {
        std::fs::create_dir_all(folder).map_err(TrainError::write(folder))?;
        let now = now();
        // TensorBoard finds files by "tfevents" and orders them by name; two runs may begin in one second.
        let path = (0..)
            .map(|i| folder.join(format!("events.out.tfevents.{:010}.velatura.{i}", now as u64)))
            .find(|p| !p.exists())
            .unwrap_or_else(|| folder.join("events.out.tfevents.velatura"));
        let file = File::create(&path).map_err(TrainError::write(&path))?;
        let mut writer = EventWriter { path, out: BufWriter::new(file) };
        let mut event = Vec::new();
        double(&mut event, 1, now);
        bytes(&mut event, 3, b"brain.Event:2");
        writer.record(&event)?;
        writer.flush()?;
        Ok(writer)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes one number.
    pub fn scalar(&mut self, tag: &str, step: u64, value: f32) -> Result<(), TrainError> {
        let event = scalar_event(tag, step, value, now());
        self.record(&event)
    }

    /// Hands everything to the system.
    pub fn flush(&mut self) -> Result<(), TrainError> {
        self.out.flush().map_err(TrainError::write(&self.path))
    }

    fn record(&mut self, data: &[u8]) -> Result<(), TrainError> {
        self.out.write_all(&framed(data)).map_err(TrainError::write(&self.path))
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

fn framed(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked_crc(data).to_le_bytes());
    record
}

/// The CRC is rotated and shifted so that one may be computed of data that contains CRCs
/// (`tensorflow/core/lib/hash/crc32c.h`).
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// `Event { wall_time: 1, step: 2, summary: 5 { value: 1 { tag: 1, simple_value: 2 } } }`
fn scalar_event(tag: &str, step: u64, value: f32, time: f64) -> Vec<u8> {
    let mut entry = Vec::new();
    bytes(&mut entry, 1, tag.as_bytes());
    entry.push(2 << 3 | 5);
    entry.extend(value.to_le_bytes());
    let mut summary = Vec::new();
    bytes(&mut summary, 1, &entry);
    let mut event = Vec::new();
    double(&mut event, 1, time);
    event.push(2 << 3);
    varint(&mut event, step);
    bytes(&mut event, 5, &summary);
    event
}

fn double(out: &mut Vec<u8>, field: u8, value: f64) {
    out.push(field << 3 | 1);
    out.extend(value.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, value.len() as u64);
    out.extend(value);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `tensorboard.summary.writer.record_writer.RecordWriter` and `tensorboard.compat.proto.event_pb2` write for
    /// the same event (`scripts/fixtures/tensorboard_event.py`).
    const EXPECTED: &str = include_str!("../../tests/fixtures/tensorboard_event.hex");

    #[test]
    fn records_are_tensorboards_own() {
        let mut got = framed(&scalar_event("measured/psnr", 123_456, 27.25, 1_700_000_000.5));
        got.extend(framed(&scalar_event("loss", 1, -0.5, 0.25)));
        let hex: String = got.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, EXPECTED.trim());
    }
}
