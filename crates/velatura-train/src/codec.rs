//! A trained autoencoder: its file, and running its two halves.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use velatura::manifest::VAE_PREFIX;
use velatura_cpu::{CancelToken, Data, Executor, Runtime, WeightStore};
use velatura_graph::passes::{self, Precision};
use velatura_graph::{Builder, DType, Graph};
use velatura_models::AutoencoderConfig;
use velatura_scenes::RgbImage;
use velatura_weights::{SafetensorsFile, Storage, TensorToWrite, write_safetensors};

use crate::TrainError;
use crate::picture::{from_tensor, push_picture};

/// The metadata key of an autoencoder's description.
pub const METADATA_KEY: &str = "velatura_autoencoder";

/// What an autoencoder file says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AutoencoderNote {
    /// Version of this description.
    pub format: u32,
    /// The network, with the scale and shift of its latents as measured.
    pub config: AutoencoderConfig,
    /// Pixels a side of the pictures that it was trained on.
    pub size: u32,
    /// Optimizer steps.
    pub steps: u64,
    /// Pictures seen, repetitions counted.
    pub samples: u64,
    /// Peak signal-to-noise ratio on held-out pictures, in dB.
    pub psnr: f64,
    /// The recipe as text.
    pub recipe: String,
}

/// A trained autoencoder.
#[derive(Clone, Debug)]
pub struct Codec {
    /// What its file says.
    pub note: AutoencoderNote,
    /// Weights with their shapes, by full name (`vae.…`).
    pub weights: HashMap<String, (Vec<usize>, Vec<f32>)>,
    /// Hash of the file, hexadecimal.
    pub hash: String,
}

impl Codec {
    /// Reads a file that [`write`] has written.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        let file = SafetensorsFile::open(path)?;
        let json = file.metadata().get(METADATA_KEY).ok_or_else(|| {
            TrainError::bad_file(
                path,
                "it is not an autoencoder that `velatura train autoencoder` has finished",
            )
        })?;
        let note: AutoencoderNote = serde_json::from_str(json)
            .map_err(|e| TrainError::bad_file(path, format!("its description cannot be read ({e})")))?;
        note.config.check().map_err(|e| TrainError::bad_file(path, e))?;
        let mut weights = HashMap::new();
        for name in file.names() {
            weights.insert(name.clone(), (file.info(&name)?.shape, file.f32(&name)?.into_owned()));
        }
        Ok(Codec { note, weights, hash: hash(&file) })
    }

    /// Whether a weight belongs to the way from pictures to latents.
    pub fn is_of_encoder(name: &str) -> bool {
        let part = name.strip_prefix(VAE_PREFIX).unwrap_or(name);
        [".encoder.", ".quant_conv."].iter().any(|encoder| part.starts_with(encoder))
    }

    /// Whether pictures become the same latents as with another one, to the bit.
    pub fn encodes_like(&self, other: &Codec) -> bool {
        let scale = |codec: &Codec| (codec.note.config.scaling_factor, codec.note.config.shift_factor);
        let encoder = |codec: &Codec| codec.weights.keys().filter(|name| Self::is_of_encoder(name)).count();
        let same = |(name, weight): (&String, &(Vec<usize>, Vec<f32>))| {
            !Self::is_of_encoder(name) || other.weights.get(name) == Some(weight)
        };
        scale(self) == scale(other) && encoder(self) == encoder(other) && self.weights.iter().all(same)
    }

    /// Pixels a side for each one of the latent.
    pub fn factor(&self) -> usize {
        self.note.config.downsampling()
    }

    /// The encoder for batches of pictures of this size. Latents come out in the denoiser's range.
    pub fn encoder(
        &self,
        runtime: &Arc<Runtime>,
        batch: usize,
        size: u32,
        precision: Precision,
    ) -> Result<Coder, TrainError> {
        let graph = encoder_graph(&self.note.config, batch, size, true)?;
        Coder::new(runtime, graph, precision, batch, &|name| self.find(name))
    }

    /// The decoder for batches of pictures of this size, from latents in the denoiser's range.
    pub fn decoder(
        &self,
        runtime: &Arc<Runtime>,
        batch: usize,
        size: u32,
        precision: Precision,
    ) -> Result<Coder, TrainError> {
        let graph = decoder_graph(&self.note.config, batch, size, true)?;
        Coder::new(runtime, graph, precision, batch, &|name| self.find(name))
    }

    fn find(&self, name: &str) -> Option<Cow<'_, [f32]>> {
        self.weights.get(name).map(|(_, values)| Cow::Borrowed(values.as_slice()))
    }
}

/// The first 16 hexadecimal digits of the SHA-256 of a file: by them a resumed run knows what it began with.
pub(crate) fn hash(file: &SafetensorsFile) -> String {
    Sha256::digest(file.raw()).iter().take(8).map(|b| format!("{b:02x}")).collect()
}

/// Writes an autoencoder's file: its weights, and its description.
pub(crate) fn write(
    path: &Path,
    weights: &[(&str, &[usize], &[f32])],
    note: &AutoencoderNote,
) -> Result<PathBuf, TrainError> {
    let tensors: Vec<TensorToWrite<'_>> = weights
        .iter()
        .map(|&(name, shape, values)| TensorToWrite::new(name, shape, Storage::F32, values))
        .collect();
    let json = serde_json::to_string(note).map_err(|e| TrainError::Internal(e.to_string()))?;
    write_safetensors(path, &tensors, &BTreeMap::from([(METADATA_KEY.to_string(), json)]))?;
    Ok(path.to_path_buf())
}

const INPUT: &str = "input";
const OUTPUT: &str = "output";

/// Pictures `[N, size, size, 3]` to latents; in the denoiser's range when `scaled`.
pub(crate) fn encoder_graph(
    config: &AutoencoderConfig,
    batch: usize,
    size: u32,
    scaled: bool,
) -> Result<Graph, TrainError> {
    let b = Builder::new();
    let side = size as usize;
    let picture = b.input(INPUT, &[batch, side, side, 3], DType::F32);
    let latent = config.encode(&b.params().at(VAE_PREFIX), picture).mean;
    b.output(OUTPUT, if scaled { config.normalize(latent) } else { latent });
    Ok(b.finish()?)
}

/// Latents to pictures `[N, size, size, 3]`.
pub(crate) fn decoder_graph(
    config: &AutoencoderConfig,
    batch: usize,
    size: u32,
    scaled: bool,
) -> Result<Graph, TrainError> {
    let b = Builder::new();
    let side = size as usize / config.downsampling();
    let latent = b.input(INPUT, &[batch, side, side, config.latent_channels], DType::F32);
    let latent = if scaled { config.denormalize(latent) } else { latent };
    b.output(OUTPUT, config.decode(&b.params().at(VAE_PREFIX), latent));
    Ok(b.finish()?)
}

/// A planned network of one input and one output that takes batches of a fixed size.
pub struct Coder {
    executor: Executor,
    batch: usize,
    input: usize,
    output: usize,
}

impl Coder {
    /// Plans a graph with an input `input` and an output `output`, and loads its weights.
    pub(crate) fn new<'w>(
        runtime: &Arc<Runtime>,
        graph: Graph,
        precision: Precision,
        batch: usize,
        find: &dyn Fn(&str) -> Option<Cow<'w, [f32]>>,
    ) -> Result<Self, TrainError> {
        let graph = passes::for_inference(graph, precision);
        let elements = |value| graph.ty(value).elements() / batch.max(1);
        let (input, output) = (elements(graph.input(INPUT)?), elements(graph.output(OUTPUT)?));
        let store = WeightStore::new(runtime);
        let executor = Executor::new(runtime, graph, &store)?;
        store.load(find)?;
        Ok(Coder { executor, batch, input, output })
    }

    /// Items that one run takes.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Runs any number of items, laid end to end; the last batch is filled up with zeros.
    pub fn run(&mut self, items: &[f32], cancel: &CancelToken) -> Result<Vec<f32>, TrainError> {
        let mut results = Vec::with_capacity(items.len() / self.input.max(1) * self.output);
        for part in items.chunks(self.input * self.batch) {
            let padded;
            let whole = if part.len() == self.input * self.batch {
                part
            } else {
                let mut filled = part.to_vec();
                filled.resize(self.input * self.batch, 0.0);
                padded = filled;
                &padded
            };
            self.executor.run(&[(INPUT, Data::F32(whole))], cancel)?;
            let output = self.executor.output(OUTPUT)?;
            results.extend_from_slice(&output[..part.len() / self.input * self.output]);
        }
        Ok(results)
    }

    /// Runs pictures through an encoder.
    pub fn encode(&mut self, pictures: &[RgbImage], cancel: &CancelToken) -> Result<Vec<f32>, TrainError> {
        let mut items = Vec::with_capacity(pictures.len() * self.input);
        pictures.iter().for_each(|p| push_picture(p, &mut items));
        self.run(&items, cancel)
    }

    /// Runs latents through a decoder.
    pub fn decode(
        &mut self,
        latents: &[f32],
        size: u32,
        cancel: &CancelToken,
    ) -> Result<Vec<RgbImage>, TrainError> {
        let pictures = self.run(latents, cancel)?;
        Ok(pictures.chunks_exact(self.output).map(|p| from_tensor(p, size)).collect())
    }
}
