//! Training that goes on from a finished model.

use velatura::source::WeightSource;
use velatura::{ModelManifest, TrainingNote};
use velatura_weights::SafetensorsFile;

use super::layout;
use crate::TrainError;
use crate::codec;
use crate::parameters::{Entry, State, Table};
use crate::recipe::ModelStart;

/// A finished model, whose weights take the place of drawn ones.
pub(super) struct Start {
    file: SafetensorsFile,
    /// How it was trained.
    pub training: TrainingNote,
}

impl Start {
    /// Opens the file.
    ///
    /// # Errors
    /// A file that cannot be read, or holds no model of Velatura's.
    pub fn open(settings: &ModelStart) -> Result<Self, TrainError> {
        let file = SafetensorsFile::open(&settings.model)?;
        let training = ModelManifest::of(&file)?.training;
        Ok(Start { file, training })
    }

    /// Hash of the file, by which a resumed run knows that it began with it.
    pub fn hash(&self) -> String {
        codec::hash(&self.file)
    }

    /// Puts the model's weights in the place of drawn ones. The head that asks for the layout is in no finished model and
    /// begins anew.
    ///
    /// # Errors
    /// A file that lacks a weight of the recipe's networks, or has it in another shape.
    pub fn fill(&self, table: &Table, state: &mut State) -> Result<(), TrainError> {
        let find = |entry: &Entry| {
            let fits = self.file.shape(&entry.name).is_some_and(|shape| shape == entry.shape);
            self.file.values(&entry.name).filter(|_| fits)
        };
        let filled = state.fill(table, |entry| !layout::is_part(&entry.name), find);
        filled.map_err(|entry| TrainError::does_not_fit(self.file.path(), entry))
    }
}
