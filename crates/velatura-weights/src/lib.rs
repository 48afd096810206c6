//! Model files: safetensors read through a memory map, lazily and fully checked, and written atomically, with
//! their metadata. This crate knows tensors by name, shape and storage type; it does not know what a network is,
//! which names one has, or how weights are packed for a kernel.

mod atomic;
mod convert;
mod dtype;
mod error;
mod file;
mod write;

pub use atomic::{atomic_write, check_writable};
pub use convert::f32_to_bytes;
pub use dtype::Storage;
pub use error::WeightsError;
pub use file::{AlignedBytes, SafetensorsFile, TensorInfo};
pub use write::{TensorData, TensorToWrite, write_safetensors, write_safetensors_to};
