//! Recipes: TOML files that say everything about a training run. One struct for each kind of run, the parts that all
//! kinds have in `common`.

mod autoencoder;
mod classifier;
mod common;
mod diffusion;
mod load;

pub use autoencoder::{AutoencoderRecipe, ReconstructionLoss, StartSettings};
pub use classifier::ClassifierRecipe;
pub use common::{DataSettings, LogSettings, OptimizerName, PrecisionName, TrainingSettings};
pub use diffusion::{
    DiffusionRecipe, ExportSettings, LatentSettings, LayoutSettings, ModelStart, NoiseSettings,
    SampleSettings,
};
pub use load::{Loaded, Recipe, first_difference, load, parse};
