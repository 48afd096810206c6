//! Training and measuring: recipes, the training loop with its checkpoints and logs, the autoencoder, the denoiser,
//! the glyph classifier, and the evaluation of a finished model. A training step is one compiled graph, forward and
//! backward. This crate knows no kernel, no command line and no progress bar: whoever calls it passes an
//! [`Observer`] and a [`CancelToken`].
//!
//! ```no_run
//! use velatura_train::{CancelToken, Silent, TrainOptions, train_autoencoder};
//!
//! let recipe = "recipes/test-autoencoder.toml".as_ref();
//! train_autoencoder(recipe, &TrainOptions::default(), &mut Silent, &CancelToken::default())?;
//! # Ok::<(), velatura_train::TrainError>(())
//! ```

mod autoencoder;
pub mod chart;
pub mod checkpoint;
mod classifier;
mod codec;
mod diffusion;
mod error;
pub mod eval;
pub mod logs;
mod observer;
mod optimize;
pub mod parameters;
mod picture;
pub mod recipe;
mod step;
mod trainer;

pub use autoencoder::train_autoencoder;
pub use classifier::{CLASSIFIER_FILE, Classifier, ClassifierNote, train_classifier};
pub use codec::{AutoencoderNote, Codec};
pub use diffusion::{bench, export_checkpoint, train_diffusion};
pub use error::TrainError;
pub use observer::{Finished, Observer, RunInfo, Silent, StepReport};
pub use optimize::Optimization;
pub use trainer::TrainOptions;
pub use velatura_cpu::CancelToken;
