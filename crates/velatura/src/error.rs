//! Everything that can go wrong between a request and its pictures.

use std::path::PathBuf;

use crate::request::RequestError;

/// A request that could not be served, or a model that could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request asks for what cannot be.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A model file or another file cannot be read or written.
    #[error(transparent)]
    Weights(#[from] velatura_weights::WeightsError),
    /// A safetensors file that is no model of Velatura.
    #[error("{} is not a model that this version can run: {reason}", file.display())]
    Manifest {
        /// The file.
        file: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
    /// A model that is recognised and that no pipeline runs.
    #[error("{} is {what}; this version makes pictures with text-to-image models of Stable Diffusion 1.x, 2.x and XL, so choose one of those", file.display())]
    Unsupported {
        /// The file or folder.
        file: PathBuf,
        /// What it is.
        what: String,
    },
    /// A file given as an autoencoder that is none, or that holds more.
    #[error("{} cannot be used as the VAE: it holds {found}; give a file or folder of an autoencoder alone", file.display())]
    Vae {
        /// The file or folder.
        file: PathBuf,
        /// The parts that it holds.
        found: String,
    },
    /// A refiner for a model that it does not fit.
    #[error("{} cannot take over from {model}: {reason}; choose a refiner of the same family", file.display())]
    Refiner {
        /// The refiner's file or folder.
        file: PathBuf,
        /// The name of the model that begins.
        model: String,
        /// What differs.
        reason: &'static str,
    },
    /// A file in the embeddings folder that a prompt names and that is no embedding.
    #[error("{} cannot be used as an embedding: {reason}; get it again, or take it out of the embeddings folder", file.display())]
    Embedding {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A model folder's tokenizer cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] velatura_text::TokenizerError),
    /// A weight is missing from the file, or of another shape than the configuration says.
    #[error("{}: {source}; the file does not fit its own description, so get it again", file.display())]
    ModelWeights {
        /// The file.
        file: PathBuf,
        /// Which weight.
        source: velatura_cpu::CpuError,
    },
    /// The caller asked to stop. Pictures finished before were handed to the observer and are in no way lost.
    #[error("stopped; {} of {asked} pictures were finished", finished.len())]
    Cancelled {
        /// The pictures that were finished.
        finished: Vec<crate::Picture>,
        /// How many were asked for.
        asked: usize,
    },
    /// The networks could not be run.
    #[error(transparent)]
    Run(#[from] velatura_cpu::CpuError),
    /// The networks could not be built from the model's configuration.
    #[error("the model's configuration does not make a network: {0}")]
    Graph(#[from] velatura_graph::GraphError),
    /// The numbers left the finite range.
    #[error("step {step} of {steps} gave a value that is not finite; try --precision f32 or less guidance")]
    NotFinite {
        /// Index of the step, from 1.
        step: usize,
        /// Steps of the run.
        steps: usize,
    },
    /// The autoencoder's numbers left the finite range, in single precision too.
    #[error(
        "the VAE gives values that are not finite, in f32 too; its file is damaged or not for this model, so give \
         another VAE (--vae), or get the model again"
    )]
    VaeNotFinite,
    /// The stored noise schedule is out of range.
    #[error(transparent)]
    Schedule(#[from] velatura_samplers::ScheduleError),
    /// A sampler's option is out of range.
    #[error(transparent)]
    SamplerOption(#[from] velatura_samplers::OptionError),
    /// Options of a picture's noise are out of range.
    #[error(transparent)]
    Noise(#[from] velatura_samplers::NoiseError),
    /// Guidance is out of range.
    #[error(transparent)]
    Guidance(#[from] velatura_samplers::GuidanceError),
    /// A picture cannot be read.
    #[error("{} is not a PNG picture that can be read: {reason}", file.display())]
    Picture {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A picture that a request names cannot be read.
    #[error("{} cannot be read as a picture: {reason}; give a PNG, JPEG, WebP or BMP", file.display())]
    SourcePicture {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A picture that does not say how it was made.
    #[error("{} carries no generation parameters; only pictures as they were written carry them, not screenshots or re-saved copies", file.display())]
    NoMetadata {
        /// The file.
        file: PathBuf,
    },
    /// A picture with a side that its kind of file cannot have.
    #[error("a side of {side} pixels is too long for {format}, which takes up to {most}; write PNG")]
    PictureSize {
        /// The kind of file.
        format: &'static str,
        /// The longer side.
        side: usize,
        /// The longest.
        most: usize,
    },
    /// Something that cannot happen did.
    #[error("internal error: {0}")]
    Internal(String),
}
