//! Where a model's weights come from.

use std::borrow::Cow;
use std::collections::HashMap;

use velatura_weights::{SafetensorsFile, TensorSource, TensorView};

/// Weights by their full names (`unet.conv_in.weight`), f32 and row-major in PyTorch's shapes.
pub trait WeightSource: Send + Sync {
    /// The shape of a weight; `None` when there is none of this name.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;
    /// Its values; `None` when there is none of this name or it is stored in a form that cannot be read.
    fn values(&self, name: &str) -> Option<Cow<'_, [f32]>>;
}

impl WeightSource for SafetensorsFile {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.info(name).ok().map(|info| info.shape)
    }

    fn values(&self, name: &str) -> Option<Cow<'_, [f32]>> {
        self.f32(name).ok()
    }
}

/// A checkpoint's tensors under diffusers' names, whatever the file calls them.
impl WeightSource for TensorView {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors().get(name).map(|entry| entry.shape.clone())
    }

    fn values(&self, name: &str) -> Option<Cow<'_, [f32]>> {
        self.tensor_f32(name).ok()
    }
}

/// Weights in memory: of a model that is being trained, or of a test.
pub type MemoryWeights = HashMap<String, (Vec<usize>, Vec<f32>)>;

impl WeightSource for MemoryWeights {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.get(name).map(|(shape, _)| shape.clone())
    }

    fn values(&self, name: &str) -> Option<Cow<'_, [f32]>> {
        self.get(name).map(|(_, values)| Cow::Borrowed(values.as_slice()))
    }
}
