//! The engine: one serialisable request, the pipeline that serves it, pictures and their metadata, and the model that
//! ships. It puts networks, samplers, tokenizers and model files together; it does not know how a kernel works, how a
//! model is trained, or who is asking (a command line, a server, a script).
//!
//! ```no_run
//! use velatura::{CancelToken, Engine, EngineOptions, GenerateRequest};
//!
//! let engine = Engine::shipped(EngineOptions::default())?;
//! let request = GenerateRequest::new("two red apples above a cat on a sky blue background");
//! let made = engine.generate(&request, &mut |_| (), &CancelToken::default())?;
//! made.pictures[0].save("apples.png")?;
//! # Ok::<(), velatura::Error>(())
//! ```

pub mod bench;
mod checkpoint;
pub mod conditioning;
mod embeddings;
mod engine;
mod error;
mod hashes;
pub mod infotext;
pub mod manifest;
mod memory;
mod model_file;
mod networks;
mod opened;
pub mod picture;
mod pipeline;
mod plans;
mod prelude;
pub mod preview;
mod prompt;
pub mod request;
mod resample;
mod shipped;
pub mod sizes;
pub mod source;
mod source_picture;
mod taken_over;
pub mod tiny;
mod usual;
pub mod workflow;

pub use conditioning::{Conditioning, Pooling, TextLayer};
pub use embeddings::{EmbeddingRef, EmbeddingsFolder};
pub use engine::{Engine, EngineOptions, Generation, Progress, Warning};
pub use error::Error;
pub use infotext::ModelRef;
pub use manifest::{Defaults, ModelManifest, Task, TextEncoder, TrainingNote};
pub use memory::{Decision, PartPlan, RunPlan};
pub use model_file::{WeightInfo, write_model};
pub use picture::{Encoding, Format, Origin, Picture, PictureInfo};
pub use pipeline::TextVectors;
pub use request::{
    DeepCache, Emphasis, GenerateRequest, GuidanceOptions, PerturbedAttention, Precision, RequestError,
    SamplingOptions, SeedOptions, SeedVariation, SelfAttentionGuidance, Tiling,
};
pub use shipped::{SHIPPED_NAME, file as shipped_file};
pub use sizes::SizeConditions;
pub use source_picture::SourceRef;
pub use taken_over::TakenOver;
pub use velatura_cpu::CancelToken;
pub use velatura_models::unet::FreeU;
pub use velatura_samplers::noise::{RngKind, StepNoise};
pub use velatura_samplers::{DynamicThreshold, PercentileThreshold, Prediction};
pub use velatura_text::prompt::Dialect;
