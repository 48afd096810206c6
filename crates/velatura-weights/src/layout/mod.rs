//! Name tables: for each network, built from its dimensions, every tensor's name in diffusers or transformers beside
//! its name in the original files (LDM for denoiser and autoencoder, OpenCLIP for text), how the one is cut out of the
//! other, and its shape. Reading, writing and the report of what lacks all follow from the same table.

pub(crate) mod autoencoder;
pub(crate) mod clip;
pub(crate) mod probe;
#[cfg(test)]
mod published;
pub(crate) mod taesd;
pub(crate) mod unet;
pub(crate) mod unet_config;

/// How a tensor in diffusers' layout lies in the original's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The same numbers in the same order; dimensions of 1 may differ.
    Whole,
    /// One of three equal groups of rows: query, key and value of a fused projection.
    Third(usize),
    /// A matrix, transposed.
    Transposed,
    /// A matrix that the original keeps as a 1x1 convolution.
    Conv1x1,
}

/// A tensor in both layouts.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// In diffusers or transformers.
    pub name: String,
    /// In the original.
    pub original: String,
    pub form: Form,
    /// In diffusers or transformers.
    pub shape: Vec<usize>,
}

impl Entry {
    /// The shape of the original's tensor, of which this one may be a third.
    pub(crate) fn original_shape(&self) -> Vec<usize> {
        let mut shape = self.shape.clone();
        match self.form {
            Form::Whole => {}
            Form::Third(_) => shape[0] *= 3,
            Form::Transposed => shape.reverse(),
            Form::Conv1x1 => shape.extend([1, 1]),
        }
        shape
    }
}

/// Which of the two names a file uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    Diffusers,
    Original,
}

/// A table under construction.
#[derive(Default)]
pub(crate) struct Table(pub Vec<Entry>);

impl Table {
    pub(crate) fn add(&mut self, name: String, original: String, form: Form, shape: &[usize]) {
        self.0.push(Entry { name, original, form, shape: shape.to_vec() });
    }

    /// Weight of the shape, and bias of as many as it has rows.
    pub(crate) fn layer(&mut self, name: &str, original: &str, shape: &[usize]) {
        self.weight(name, original, shape);
        self.add(format!("{name}.bias"), format!("{original}.bias"), Form::Whole, &shape[..1]);
    }

    pub(crate) fn weight(&mut self, name: &str, original: &str, shape: &[usize]) {
        self.add(format!("{name}.weight"), format!("{original}.weight"), Form::Whole, shape);
    }
}
