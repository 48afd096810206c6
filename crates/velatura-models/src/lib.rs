//! The networks of latent diffusion, each a configuration and a function that records it into a graph: the text
//! transformer ([`TextConfig`]), the conditional U-Net ([`UNetConfig`]) and the autoencoders, KL
//! ([`AutoencoderConfig`]) and tiny ([`TinyAutoencoderConfig`]). Parameters carry the names and shapes that diffusers and transformers give them;
//! activations are channels last. This crate knows no file, device or tokenizer: it only builds graphs.
//!
//! ```
//! use velatura_graph::{Builder, DType};
//! use velatura_models::{UNetConfig, UNetInputs};
//!
//! let builder = Builder::new();
//! let sample = builder.input("sample", &[2, 64, 64, 4], DType::F32);
//! let timestep = builder.input("timestep", &[2], DType::F32);
//! let context = builder.input("context", &[2, 77, 768], DType::F32);
//! let inputs = UNetInputs { context: Some(context), ..UNetInputs::new(sample, timestep) };
//! let noise = UNetConfig::sd15().build(&builder.params(), inputs);
//! builder.output("noise", noise);
//! let graph = builder.finish().unwrap();
//! assert_eq!(graph.parameter_elements(), 859_520_964);
//! ```

mod blocks;
mod config;
mod configs;
pub mod layers;
pub mod text;
pub mod unet;
pub mod vae;

pub use config::{ActFn, ConfigError, OneOrMany};
pub use text::{Replaced, TextConfig, TextInputs, TextOutput};
pub use unet::{UNetConfig, UNetInputs};
pub use vae::{Autoencoder, AutoencoderConfig, Moments, TinyAutoencoderConfig};
