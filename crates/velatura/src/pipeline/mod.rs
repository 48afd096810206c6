//! Pipelines: what the engine does with its networks to serve a request. One file for each, and for each thing that
//! several need.

mod autoencoder;
mod deep;
mod denoise;
mod encode;
mod pictures;
mod self_attention;
mod single;
mod stage;
mod start;
mod tiles;

pub(crate) use autoencoder::TILE;
pub(crate) use pictures::{Job, MOST_TOGETHER, PIXELS_TOGETHER, Work, latents, pictures, to_byte};
pub use single::TextVectors;
pub(crate) use tiles::Tiles;
