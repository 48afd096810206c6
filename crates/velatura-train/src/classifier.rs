//! Judge B: a small convolutional network that says which glyph a crop shows. It is trained on crops of single drawings
//! on any background, jittered, blurred and noisy, and knows nothing of judge A's templates. Its features, averaged
//! over a whole picture, serve the Frechet distance.

mod crops;
mod train;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use velatura_cpu::{CancelToken, Runtime};
use velatura_graph::passes::Precision;
use velatura_graph::{Builder, DType, Graph, Params, Var};
use velatura_models::layers::Layers;
use velatura_scenes::{GlyphId, Reading, RgbImage};
use velatura_weights::{AlignedBytes, SafetensorsFile, Storage, TensorToWrite, write_safetensors};

use crate::TrainError;
use crate::codec::Coder;
use crate::parameters::Table;
use crate::picture::push_picture;

pub use train::{CLASSIFIER_FILE, train_classifier};

/// The metadata key of a classifier's description.
const METADATA_KEY: &str = "velatura_classifier";
/// In front of the weights' names.
const PREFIX: &str = "classifier";
const INPUT: &str = "input";
const OUTPUT: &str = "output";
/// Crops or pictures that are run together.
const TOGETHER: usize = 32;
/// Side of a crop around an object, relative to the usual side of an object in its place.
const CROP: f32 = 1.3;
/// Least probability at which a crop counts as a glyph.
const LEAST_PROBABILITY: f32 = 0.5;

/// What a classifier file says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassifierNote {
    /// Version of this description.
    pub format: u32,
    /// Pixels a side of the crops.
    pub size: u32,
    /// Channels of each level.
    pub channels: Vec<usize>,
    /// Names of the glyphs, in the order of the classes.
    pub glyphs: Vec<String>,
    /// Optimizer steps.
    pub steps: u64,
    /// Share of crops that were not trained on that it names rightly.
    pub accuracy: f64,
    /// The recipe as text.
    pub recipe: String,
}

/// A trained classifier.
#[derive(Clone, Debug)]
pub struct Classifier {
    /// What its file says.
    pub note: ClassifierNote,
    weights: HashMap<String, Vec<f32>>,
}

impl Classifier {
    /// Reads a file that `velatura train classifier` has finished.
    ///
    /// # Errors
    /// When the file cannot be read or is something else.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        Self::of(&SafetensorsFile::open(path)?)
    }

    /// The classifier that ships with the program.
    ///
    /// # Errors
    /// Never, unless the program was built from a damaged file.
    pub fn shipped() -> Result<Self, TrainError> {
        static SHIPPED: &AlignedBytes<[u8]> =
            &AlignedBytes(*include_bytes!("../assets/classifier.safetensors"));
        Self::of(&SafetensorsFile::from_static("the classifier that ships with velatura", &SHIPPED.0)?)
    }

    /// A file, or the shipped one.
    pub(crate) fn choose(path: Option<&Path>) -> Result<Self, TrainError> {
        path.map_or_else(Self::shipped, Self::open)
    }

    fn of(file: &SafetensorsFile) -> Result<Self, TrainError> {
        let json = file.metadata().get(METADATA_KEY).ok_or_else(|| {
            TrainError::bad_file(
                file.path(),
                "it is not a classifier that `velatura train classifier` has finished",
            )
        })?;
        let note: ClassifierNote = serde_json::from_str(json).map_err(|e| {
            TrainError::bad_file(file.path(), format!("its description cannot be read ({e})"))
        })?;
        let mut weights = HashMap::new();
        for name in file.names() {
            weights.insert(name.clone(), file.f32(&name)?.into_owned());
        }
        Ok(Classifier { note, weights })
    }

    /// Planned for batches of pictures of a size.
    fn coder(&self, runtime: &Arc<Runtime>, size: u32, part: Part) -> Result<Coder, TrainError> {
        let note = &self.note;
        let graph = graph(&note.channels, note.glyphs.len(), TOGETHER, size, part)?;
        let find = |name: &str| self.weights.get(name).map(|values| Cow::Borrowed(values.as_slice()));
        Coder::new(runtime, graph, Precision::F32, TOGETHER, &find)
    }
}

/// Which end of the network is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Logits `[N, classes]`.
    Logits,
    /// Features `[N, C]`.
    Features,
}

/// Features `[N, C]` of pictures `[N, S, S, 3]`: at each level a convolution, which halves the size from the second
/// level on, and a residual one; then the mean over the picture. Group norm, for it does not look at the batch.
fn features<'g>(p: &Params<'g>, picture: Var<'g>, channels: &[usize]) -> Var<'g> {
    let norm = |p: Params<'g>, x: Var<'g>| p.group_norm(x, 8, 1e-5).silu();
    let mut x = picture;
    for (i, &c) in channels.iter().enumerate() {
        let p = p.at("levels").at(i);
        x = norm(p.at("norm1"), p.at("conv1").conv(x, c, 3, if i == 0 { 1 } else { 2 }, 1));
        x = x + norm(p.at("norm2"), p.at("conv2").conv_same(x, c, 3, false));
    }
    x.mean(&[1, 2], false)
}

fn logits<'g>(p: &Params<'g>, features: Var<'g>, classes: usize) -> Var<'g> {
    p.at("head").linear(features, classes)
}

fn graph(
    channels: &[usize],
    classes: usize,
    batch: usize,
    size: u32,
    part: Part,
) -> Result<Graph, TrainError> {
    let b = Builder::new();
    let p = b.params().at(PREFIX);
    let picture = b.input(INPUT, &[batch, size as usize, size as usize, 3], DType::F32);
    let features = features(&p, picture, channels);
    b.output(OUTPUT, if part == Part::Logits { logits(&p, features, classes) } else { features });
    Ok(b.finish()?)
}

/// Writes a classifier's file, in bf16.
fn write(path: &Path, table: &Table, weights: &[f32], note: &ClassifierNote) -> Result<PathBuf, TrainError> {
    let tensors: Vec<TensorToWrite<'_>> = table
        .entries()
        .iter()
        .map(|e| TensorToWrite::new(e.name.clone(), &e.shape, Storage::Bf16, e.of(weights)))
        .collect();
    let json = serde_json::to_string(note).map_err(|e| TrainError::Internal(e.to_string()))?;
    write_safetensors(path, &tensors, &BTreeMap::from([(METADATA_KEY.to_string(), json)]))?;
    Ok(path.to_path_buf())
}

/// A classifier that reads pictures.
pub(crate) struct Reader {
    classes: Vec<Option<GlyphId>>,
    size: u32,
    width: usize,
    crops: Coder,
    pictures: Coder,
}

impl Reader {
    pub fn new(classifier: &Classifier, runtime: &Arc<Runtime>) -> Result<Self, TrainError> {
        let note = &classifier.note;
        Ok(Reader {
            // A class that this version's vocabulary no longer has is no glyph.
            classes: note.glyphs.iter().map(|name| GlyphId::named(name)).collect(),
            size: note.size,
            width: note.channels.last().copied().unwrap_or(0),
            crops: classifier.coder(runtime, note.size, Part::Logits)?,
            // At twice the crops' size an object of a pair is about as large as in a crop.
            pictures: classifier.coder(runtime, 2 * note.size, Part::Features)?,
        })
    }

    /// Width of the features.
    pub fn feature_width(&self) -> usize {
        self.width
    }

    /// Reads pictures where judge A has found objects: places and backgrounds stay, the glyphs are named anew.
    pub fn read(
        &mut self,
        pictures: &[RgbImage],
        readings: &[Reading],
        cancel: &CancelToken,
    ) -> Result<Vec<Reading>, TrainError> {
        let mut crops = Vec::new();
        for (picture, reading) in pictures.iter().zip(readings) {
            for found in &reading.objects {
                let crop = crops::cut(picture, found.center, found.cell.side() * CROP, self.size);
                push_picture(&crop, &mut crops);
            }
        }
        let logits = self.crops.run(&crops, cancel)?;
        let mut rows = logits.chunks_exact(self.classes.len().max(1));
        let mut readings = readings.to_vec();
        for found in readings.iter_mut().flat_map(|r| &mut r.objects) {
            let best = rows.next().and_then(best);
            found.glyph =
                best.filter(|&(_, p)| p >= LEAST_PROBABILITY).and_then(|(class, _)| self.classes[class]);
            found.nearest = best.and_then(|(class, _)| self.classes[class]).unwrap_or(found.nearest);
            found.likeness = best.map_or(0.0, |(_, p)| p);
        }
        Ok(readings)
    }

    /// Features of whole pictures, end to end.
    pub fn features(&mut self, pictures: &[RgbImage], cancel: &CancelToken) -> Result<Vec<f32>, TrainError> {
        let mut items = Vec::new();
        pictures
            .iter()
            .for_each(|p| push_picture(&crops::cut(p, (0.5, 0.5), 1.0, 2 * self.size), &mut items));
        self.pictures.run(&items, cancel)
    }
}

/// The most probable class of a row of logits, with its probability.
fn best(row: &[f32]) -> Option<(usize, f32)> {
    let (class, &most) = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1))?;
    Some((class, 1.0 / row.iter().map(|x| (x - most).exp()).sum::<f32>()))
}
