//! Pipelines: what the engine does with its networks to serve a request. One file for each, and for each thing that
//! several need.

mod denoise;
mod encode;
mod single;
mod stage;
mod text_to_image;

pub use single::TextVectors;
pub(crate) use text_to_image::{Job, latents, text_to_image};
