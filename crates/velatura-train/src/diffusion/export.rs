//! The finished model's file.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use velatura::manifest::{FORMAT, TEXT_PREFIX, TextEncoder};
use velatura::source::MemoryWeights;
use velatura::{Defaults, ModelManifest, TrainingNote};
use velatura_text::Tokenizer;
use velatura_weights::{TensorToWrite, write_safetensors};

use super::{Networks, layout};
use crate::TrainError;
use crate::codec::Codec;
use crate::parameters::{State, Table};
use crate::recipe::DiffusionRecipe;

/// Everything that a model file holds beside the trained weights.
pub(super) struct Exporter {
    pub recipe: DiffusionRecipe,
    /// The recipe as text.
    pub text: String,
    pub networks: Networks,
    pub codec: Arc<Codec>,
    pub tokenizer: Tokenizer,
    /// How the model was trained that the run went on from.
    pub start: Option<TrainingNote>,
}

impl Exporter {
    /// The model's description after this many steps.
    pub fn manifest(&self, steps: u64) -> ModelManifest {
        let (recipe, size) = (&self.recipe, self.recipe.data.size);
        let note = &self.codec.note;
        let mut notes = BTreeMap::from([
            ("autoencoder_recipe".to_string(), note.recipe.clone()),
            ("autoencoder_steps".to_string(), note.steps.to_string()),
            ("autoencoder_samples".to_string(), note.samples.to_string()),
            ("autoencoder_psnr".to_string(), format!("{:.2}", note.psnr)),
        ]);
        if let Some(start) = &self.start {
            notes.extend([
                ("start_recipe".to_string(), start.recipe.clone()),
                ("start_steps".to_string(), start.steps.to_string()),
                ("start_samples".to_string(), start.samples.to_string()),
            ]);
            // What that run went on from in its turn.
            let earlier = start.notes.iter().filter(|(name, _)| name.starts_with("start_"));
            notes.extend(earlier.map(|(name, text)| (format!("start_{name}"), text.clone())));
        }
        ModelManifest {
            format: FORMAT,
            name: recipe.name.clone(),
            text_encoders: vec![TextEncoder {
                prefix: TEXT_PREFIX.to_string(),
                config: self.networks.text.clone(),
                tokenizer: self.tokenizer.clone(),
            }],
            unet: self.networks.unet.clone(),
            autoencoder: note.config.clone().into(),
            schedule: recipe.noise.schedule.clone(),
            conditioning: recipe.conditioning,
            zeros_for_empty_prompt: false,
            low_res_schedule: None,
            max_noise_level: None,
            defaults: Defaults {
                width: size,
                height: size,
                steps: recipe.samples.steps,
                guidance: recipe.samples.guidance,
                sampler: recipe.samples.sampler.clone(),
                schedule: recipe.samples.schedule.clone(),
            },
            training: TrainingNote {
                recipe: self.text.clone(),
                steps,
                samples: steps * recipe.training.samples_per_step() as u64,
                licences: recipe.export.licences.clone(),
                notes,
            },
        }
    }

    /// The model's weights: the running average of the trained ones, and the autoencoder's. What only training needs is
    /// left out.
    pub fn weights(&self, table: &Table, state: &State) -> MemoryWeights {
        let kept = table.entries().iter().filter(|e| !layout::is_part(&e.name));
        let trained = kept.map(|e| (e.name.clone(), (e.shape.clone(), e.of(&state.ema).to_vec())));
        let mut weights: HashMap<_, _> = trained.collect();
        weights.extend(self.codec.weights.clone());
        weights
    }

    /// Writes the model's file.
    pub fn write(&self, path: &Path, table: &Table, state: &State) -> Result<PathBuf, TrainError> {
        let weights = self.weights(table, state);
        let storage = self.recipe.export.storage;
        let tensors: Vec<TensorToWrite<'_>> = weights
            .iter()
            .map(|(name, (shape, values))| TensorToWrite::new(name.clone(), shape, storage, values))
            .collect();
        write_safetensors(path, &tensors, &self.manifest(state.step).to_metadata()?)?;
        Ok(path.to_path_buf())
    }
}
