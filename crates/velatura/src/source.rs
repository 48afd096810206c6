//! Where a model's weights come from.

use std::borrow::Cow;
use std::collections::HashMap;

use velatura_cpu::Values;
use velatura_weights::{DType, SafetensorsFile, TensorSource, TensorView};

/// Weights by their full names (`unet.conv_in.weight`), f32 and row-major in PyTorch's shapes.
pub trait WeightSource: Send + Sync {
    /// The shape of a weight; `None` when there is none of this name.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;
    /// Its values; `None` when there is none of this name or it is stored in a form that cannot be read.
    fn values(&self, name: &str) -> Option<Cow<'_, [f32]>>;
    /// Its values as they are stored, where they can be packed from that; else as [`WeightSource::values`] has them.
    fn stored(&self, name: &str) -> Option<Values<'_>> {
        self.values(name).map(Values::F32)
    }
    /// Says that a weight was packed and will not be read soon again.
    fn forget(&self, _name: &str) {}
}

/// A tensor's numbers without a copy of them on the way to what is packed, if they lie in the file in a type of 16 bits.
fn stored<'s>(source: &'s dyn TensorSource, name: &str) -> Option<Values<'s>> {
    if cfg!(target_endian = "little")
        && let Cow::Borrowed(bytes) = source.tensor_bytes(name).ok()?
    {
        let found = match source.tensor(name).ok()?.dtype {
            DType::F16 => bytemuck::try_cast_slice(bytes).ok().map(|x| Values::F16(Cow::Borrowed(x))),
            DType::Bf16 => bytemuck::try_cast_slice(bytes).ok().map(|x| Values::Bf16(Cow::Borrowed(x))),
            _ => None,
        };
        if found.is_some() {
            return found;
        }
    }
    source.tensor_f32(name).ok().map(Values::F32)
}

impl WeightSource for SafetensorsFile {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.info(name).ok().map(|info| info.shape)
    }

    fn values(&self, name: &str) -> Option<Cow<'_, [f32]>> {
        self.f32(name).ok()
    }

    fn stored(&self, name: &str) -> Option<Values<'_>> {
        stored(self, name)
    }

    fn forget(&self, name: &str) {
        TensorSource::forget(self, name);
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

    fn stored(&self, name: &str) -> Option<Values<'_>> {
        stored(self, name)
    }

    fn forget(&self, name: &str) {
        TensorSource::forget(self, name);
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
