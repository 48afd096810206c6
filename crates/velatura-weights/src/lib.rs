//! Model files: safetensors, PyTorch's checkpoints, GGUF and diffusers' folders, memory-mapped, lazy and fully checked;
//! the models in them recognised by their tensors, under one naming; and writers that replace a file whole or not at
//! all. This crate knows tensors by name, shape and storage type, and which names a network's tensors have in which
//! layout; it does not know what a network computes or how weights are packed for a kernel.
//!
//! [`open_tensors`] gives any file's tensors as they are named there; [`Checkpoint::open`] gives a model's parts under
//! diffusers' names, with their configurations and what lacks.

mod atomic;
mod blocks;
mod bytes;
mod convert;
mod dtype;
mod error;
mod file;
mod gguf;
mod layout;
mod model;
mod open;
mod save;
mod scaled;
mod sharded;
mod source;
mod torch;
mod view;
mod write;

pub use atomic::{atomic_write, check_writable};
pub use bytes::AlignedBytes;
pub use convert::{decode_f32, f32_to_bytes};
pub use dtype::{DType, Storage};
pub use error::WeightsError;
pub use file::{SafetensorsFile, TensorInfo};
pub use gguf::GgufFile;
pub use model::{
    Checkpoint, Family, KnownBy, OpenOptions, Other, OtherKind, Part, PartKind, Prediction, Task,
};
pub use open::{FileFormat, open_tensors};
pub use save::{GgufType, SaveOptions, SaveProgress};
pub use sharded::ShardedTensors;
pub use source::{TensorEntry, TensorSource};
pub use torch::TorchFile;
pub use view::TensorView;
pub use write::{TensorData, TensorToWrite, write_safetensors, write_safetensors_to};
