//! Writing model files: the manifest, and the weights that its networks have.

use std::collections::BTreeMap;
use std::path::Path;

use velatura_graph::{Graph, Init};
use velatura_samplers::noise::CounterRng;
use velatura_weights::{Storage, TensorToWrite, write_safetensors};

use crate::networks::{Changes, Network};
use crate::source::{MemoryWeights, WeightSource};
use crate::{Error, ModelManifest};

/// A weight that a model has.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightInfo {
    /// Its full name in a model file.
    pub name: String,
    /// Its shape, PyTorch's.
    pub shape: Vec<usize>,
    /// How it begins its life.
    pub init: Init,
}

impl ModelManifest {
    /// Every weight of the text transformers, the denoiser, and the autoencoder's two halves, in the order of the graphs.
    pub fn weights(&self) -> Result<Vec<WeightInfo>, Error> {
        // Names and shapes do not depend on the size of the picture.
        let texts = 0..self.text_encoders.len();
        let mut graphs = texts
            .map(|encoder| Network::Text { encoder, clip_skip: 1, replaced: false }.graph(self, 1, 0, 0))
            .collect::<Result<Vec<_>, _>>()?;
        graphs.push(
            Network::Denoise { changes: Changes::default(), texts: 1, tokens: self.context() }
                .graph(self, 1, 1, 1)?,
        );
        graphs.push(Network::Decode.graph(self, 1, 1, 1)?);
        if self.autoencoder.has_encoder() {
            graphs.push(Network::Encode.graph(self, 1, 1, 1)?);
        }
        let info = |graph: &Graph| -> Vec<WeightInfo> {
            let one = |p: &velatura_graph::ParameterInfo| WeightInfo {
                name: p.name.clone(),
                shape: graph.ty(p.value).shape.clone(),
                init: p.init,
            };
            graph.parameters().iter().map(one).collect()
        };
        Ok(graphs.iter().flat_map(info).collect())
    }

    /// Freshly initialised weights, the same for the same seed: for tests, and to see that a new model runs.
    pub fn random_weights(&self, seed: u64) -> Result<MemoryWeights, Error> {
        let rng = CounterRng::new(seed, 0);
        let mut weights = MemoryWeights::new();
        for (i, WeightInfo { name, shape, init }) in self.weights()?.into_iter().enumerate() {
            let mut values = vec![0.0; shape.iter().product()];
            let mut draws = rng.at(i as u64);
            match init {
                Init::Zeros => {}
                Init::Ones => values.fill(1.0),
                Init::Normal(deviation) => {
                    draws.fill_normal(&mut values);
                    values.iter_mut().for_each(|v| *v *= deviation);
                }
                Init::Uniform(bound) => {
                    values.iter_mut().for_each(|v| *v = (2.0 * draws.uniform_f32() - 1.0) * bound);
                }
            }
            weights.insert(name, (shape, values));
        }
        Ok(weights)
    }
}

/// Writes a model file atomically: the manifest and the weights that it asks for, stored as `storage`. `metadata` is
/// written beside the manifest.
///
/// # Errors
/// A weight that the source lacks or has in another shape, and whatever the file system says.
pub fn write_model(
    path: impl AsRef<Path>,
    manifest: &ModelManifest,
    weights: &dyn WeightSource,
    storage: Storage,
    metadata: &BTreeMap<String, String>,
) -> Result<(), Error> {
    let path = path.as_ref();
    let bad = |reason: String| Error::Manifest { file: path.to_path_buf(), reason };
    manifest.check().map_err(bad)?;
    let mut all = metadata.clone();
    all.extend(manifest.to_metadata()?);
    let infos = manifest.weights()?;
    let mut values = Vec::with_capacity(infos.len());
    for WeightInfo { name, shape, .. } in &infos {
        match (weights.shape(name), weights.values(name)) {
            (Some(found), Some(v)) if found == *shape => values.push(v),
            (Some(found), _) => {
                return Err(bad(format!("weight {name} has shape {found:?} instead of {shape:?}")));
            }
            _ => return Err(bad(format!("weight {name} of shape {shape:?} is missing"))),
        }
    }
    let tensors: Vec<TensorToWrite<'_>> = infos
        .iter()
        .zip(&values)
        .map(|(info, values)| TensorToWrite::new(info.name.clone(), &info.shape, storage, values))
        .collect();
    Ok(write_safetensors(path, &tensors, &all)?)
}
