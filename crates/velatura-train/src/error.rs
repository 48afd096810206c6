//! What can go wrong while training.

use std::path::{Path, PathBuf};

use crate::parameters::Entry;
use velatura_cpu::CpuError;
use velatura_graph::GraphError;
use velatura_scenes::SceneError;
use velatura_weights::WeightsError;

/// A run that cannot start, go on, or be finished.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The recipe file cannot be read.
    #[error("cannot read the recipe {}: {source}", file.display())]
    RecipeRead {
        /// The recipe.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The recipe is not TOML.
    #[error("the recipe {} is not valid TOML: line {line}: {reason}", file.display())]
    RecipeSyntax {
        /// The recipe.
        file: PathBuf,
        /// Where, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A key that no recipe of this kind has.
    #[error("the recipe {} has an unknown key \"{key}\"{}", file.display(), did_you_mean(nearest))]
    RecipeKey {
        /// The recipe.
        file: PathBuf,
        /// The whole dotted key.
        key: String,
        /// The known key most like it.
        nearest: Option<String>,
    },
    /// A key with a value that it cannot have.
    #[error("the recipe {} has a wrong value for \"{key}\": {reason}", file.display())]
    RecipeValue {
        /// The recipe.
        file: PathBuf,
        /// The whole dotted key.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// The output folder already holds a run.
    #[error(
        "{} already holds a run at step {step}: add --resume to go on with it, or name another folder with --output",
        folder.display()
    )]
    AlreadyThere {
        /// The output folder.
        folder: PathBuf,
        /// The step of its last checkpoint.
        step: u64,
    },
    /// There is nothing to resume.
    #[error("there is no checkpoint in {} to resume from: start without --resume", folder.display())]
    NoCheckpoint {
        /// The output folder.
        folder: PathBuf,
    },
    /// The recipe is not the one that the checkpoint was made with.
    #[error(
        "the checkpoint {} was made with {key} = {was} and the recipe now says {now}: put it back, or start anew in \
         another folder",
        file.display()
    )]
    RecipeChanged {
        /// The checkpoint.
        file: PathBuf,
        /// The dotted key that differs.
        key: String,
        /// Its value in the checkpoint.
        was: String,
        /// Its value now.
        now: String,
    },
    /// A file that is no checkpoint, autoencoder or classifier of this program, or lacks something.
    #[error("{} cannot be used: {reason}", file.display())]
    BadFile {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A loss or gradient that is no number.
    #[error(
        "the {what} is {value} at step {step}: the run was stopped; {}; a lower training.lr or a lower training.clip \
         usually helps",
        last_good(kept)
    )]
    NotFinite {
        /// The step, from 1.
        step: u64,
        /// `loss`, `gradient norm` or `weights`.
        what: &'static str,
        /// What it was.
        value: f64,
        /// The checkpoint of the last good state, if there is one.
        kept: Option<PathBuf>,
    },
    /// A log, picture or folder that cannot be written or read.
    #[error("cannot write {}: {source}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The data.
    #[error(transparent)]
    Scenes(#[from] SceneError),
    /// The graph of a network does not fit; the recipe's configuration is wrong.
    #[error("the recipe's networks do not fit together: {0}")]
    Graph(#[from] GraphError),
    /// The executor.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// A weights file.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Generating samples.
    #[error(transparent)]
    Engine(#[from] Box<velatura::Error>),
    /// The run was stopped before there was anything to keep.
    #[error("stopped")]
    Cancelled,
    /// A defect of this program.
    #[error("internal error: {0}")]
    Internal(String),
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|n| format!("; did you mean \"{n}\"?")).unwrap_or_default()
}

fn last_good(kept: &Option<PathBuf>) -> String {
    match kept {
        Some(file) => format!("the last good state is kept in {}", file.display()),
        None => "no good state had been kept yet".to_string(),
    }
}

impl TrainError {
    pub(crate) fn write(file: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> TrainError {
        let file = file.as_ref().to_path_buf();
        move |source| TrainError::Write { file, source }
    }

    pub(crate) fn bad_file(file: impl AsRef<Path>, reason: impl ToString) -> TrainError {
        TrainError::BadFile { file: file.as_ref().to_path_buf(), reason: reason.to_string() }
    }

    /// A file that training is to go on from and that lacks a weight, or has it in another shape.
    pub(crate) fn does_not_fit(file: impl AsRef<Path>, entry: &Entry) -> TrainError {
        let reason = format!("the recipe's networks have {} of shape {:?}", entry.name, entry.shape);
        Self::bad_file(file, reason)
    }

    /// Whether this only says that the caller asked to stop.
    pub fn is_cancelled(&self) -> bool {
        match self {
            TrainError::Cancelled | TrainError::Cpu(CpuError::Cancelled) => true,
            TrainError::Engine(error) => {
                matches!(
                    **error,
                    velatura::Error::Cancelled { .. } | velatura::Error::Run(CpuError::Cancelled)
                )
            }
            _ => false,
        }
    }
}

impl From<velatura::Error> for TrainError {
    fn from(error: velatura::Error) -> Self {
        TrainError::Engine(Box::new(error))
    }
}
