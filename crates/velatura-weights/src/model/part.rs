//! A part of a model: one network with its configuration and its tensors under diffusers' names.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::layout::autoencoder::{self, Autoencoder};
use crate::layout::clip::{self, Clip};
use crate::layout::probe::Probe;
use crate::layout::taesd::Tiny;
use crate::layout::unet::Unet;
use crate::layout::{Entry, Form, Naming, Table};
use crate::view::TensorView;
use crate::{TensorSource, WeightsError};

/// Which part of a model it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PartKind {
    /// The denoiser, `UNet2DConditionModel`.
    Unet,
    /// The autoencoder, `AutoencoderKL` or `AutoencoderTiny`.
    Vae,
    /// The first text encoder: CLIP ViT-L in 1.x and XL, OpenCLIP ViT-H in 2.x.
    TextEncoder,
    /// The second text encoder, with projection: OpenCLIP ViT-bigG in XL.
    TextEncoder2,
}

impl PartKind {
    /// All of them.
    pub const ALL: [PartKind; 4] =
        [PartKind::Unet, PartKind::Vae, PartKind::TextEncoder, PartKind::TextEncoder2];

    /// Whether it is a text encoder.
    pub fn is_text(self) -> bool {
        matches!(self, PartKind::TextEncoder | PartKind::TextEncoder2)
    }

    /// The part's folder in diffusers' layout, and with a dot behind it the prefix of its tensors.
    pub fn name(self) -> &'static str {
        match self {
            PartKind::Unet => "unet",
            PartKind::Vae => "vae",
            PartKind::TextEncoder => "text_encoder",
            PartKind::TextEncoder2 => "text_encoder_2",
        }
    }
}

impl std::fmt::Display for PartKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A network's dimensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    Unet(Unet),
    Autoencoder(Autoencoder),
    Tiny(Tiny),
    Clip(Clip),
}

impl Network {
    pub(crate) fn infer(kind: PartKind, probe: Probe<'_>) -> Option<Self> {
        match kind {
            PartKind::Unet => Unet::infer(probe).map(Network::Unet),
            PartKind::Vae => Autoencoder::infer(probe)
                .map(Network::Autoencoder)
                .or_else(|| Tiny::infer(probe).map(Network::Tiny)),
            PartKind::TextEncoder | PartKind::TextEncoder2 => Clip::infer(probe).map(Network::Clip),
        }
    }

    pub(crate) fn from_config(kind: PartKind, config: &Value) -> Option<Self> {
        match kind {
            PartKind::Unet => Unet::from_config(config).map(Network::Unet),
            PartKind::Vae => Autoencoder::from_config(config).map(Network::Autoencoder),
            PartKind::TextEncoder | PartKind::TextEncoder2 => Clip::from_config(config).map(Network::Clip),
        }
    }

    pub(crate) fn table(&self) -> Table {
        match self {
            Network::Unet(n) => n.table(),
            Network::Autoencoder(n) => n.table(),
            Network::Tiny(n) => n.table(),
            Network::Clip(n) => n.table(),
        }
    }

    /// Other names that a tensor of diffusers' layout goes by.
    fn alias(&self, name: &str) -> Option<String> {
        match self {
            Network::Autoencoder(_) => autoencoder::older_name(name),
            Network::Clip(_) => clip::short_name(name),
            Network::Unet(_) | Network::Tiny(_) => None,
        }
    }
}

/// A network of a model: its configuration, its tensors, and which of them lack.
#[derive(Clone, Debug)]
pub struct Part {
    /// Which part of the model it is.
    pub kind: PartKind,
    /// The configuration as diffusers' or transformers' `config.json` has it: the folder's own, or inferred.
    pub config: Value,
    /// Whether [`Part::config`] was read from a file rather than inferred.
    pub config_is_given: bool,
    /// The tensors under diffusers' or transformers' names, without a prefix.
    pub tensors: TensorView,
    /// Names that the network has and the file lacks.
    pub missing: Vec<String>,
    pub(crate) network: Network,
}

impl Part {
    /// Finds a network's tensors in a source. `used` gains the names of the source that were matched.
    pub(crate) fn matched(
        kind: PartKind,
        source: &Arc<dyn TensorSource>,
        probe: Probe<'_>,
        network: Network,
        config: Value,
        config_is_given: bool,
        used: &mut BTreeSet<String>,
    ) -> Result<Self, WeightsError> {
        let mut tensors = TensorView::new(source.clone());
        let mut missing = Vec::new();
        for entry in network.table().0 {
            let found = stored(&entry, &network, probe);
            let Some((stored, form)) = found else {
                missing.push(entry.name);
                continue;
            };
            let shape = &source.tensor(&stored)?.shape;
            let expected = if form == Form::Whole { entry.shape.clone() } else { entry.original_shape() };
            if !same_but_ones(shape, &expected) {
                return Err(WeightsError::WrongShape {
                    file: source.path().to_path_buf(),
                    tensor: stored,
                    expected,
                    found: shape.clone(),
                });
            }
            // A third is cut from the bytes, which must be possible between blocks.
            let dtype = source.tensor(&stored)?.dtype;
            if matches!(form, Form::Third(_)) && dtype.bytes_for(entry.shape.iter().product()).is_none() {
                return Err(WeightsError::UnsupportedType {
                    file: source.path().to_path_buf(),
                    tensor: stored,
                    dtype: format!("{dtype} with blocks across query, key and value"),
                });
            }
            used.insert(stored.clone());
            tensors.add(entry.name, entry.shape, stored, form);
        }
        Ok(Part { kind, config, config_is_given, tensors, missing, network })
    }

    /// Two halves of a tiny autoencoder as a whole one; nothing for anything else.
    pub(crate) fn joined(&self, other: &Part) -> Option<Part> {
        let (Network::Tiny(a), Network::Tiny(b)) = (&self.network, &other.network) else { return None };
        let fit = (a.channels, a.latent) == (b.channels, b.latent);
        if !fit || a.encoder == b.encoder || a.decoder == b.decoder {
            return None;
        }
        let halves = [(String::new(), &self.tensors), (String::new(), &other.tensors)];
        Some(Part {
            kind: self.kind,
            config: self.config.clone(),
            config_is_given: self.config_is_given,
            tensors: TensorView::joined(self.tensors.path(), halves.into_iter()),
            missing: self.missing.iter().chain(&other.missing).cloned().collect(),
            network: Network::Tiny(Tiny { encoder: true, decoder: true, ..a.clone() }),
        })
    }

    /// The network's class in diffusers or transformers.
    pub fn class_name(&self) -> &str {
        let of = |pointer: &str| self.config.pointer(pointer).and_then(Value::as_str);
        of("/_class_name").or_else(|| of("/architectures/0")).unwrap_or("unknown")
    }

    /// Whether nothing lacks; else an error that names the first of what does.
    pub fn check_complete(&self, file: &Path) -> Result<(), WeightsError> {
        match self.missing.as_slice() {
            [] => Ok(()),
            [first, rest @ ..] => {
                let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
                let lacking = format!("its {} lacks the tensor {first}{more}", self.kind);
                Err(WeightsError::Incomplete { file: file.to_path_buf(), lacking })
            }
        }
    }
}

/// Where a table's tensor lies in a file, under any of its names.
fn stored(entry: &Entry, network: &Network, probe: Probe<'_>) -> Option<(String, Form)> {
    let full = |name: &str| format!("{}{name}", probe.prefix);
    let found = match probe.naming {
        Naming::Original => (full(&entry.original), entry.form),
        Naming::Diffusers if probe.has(&entry.name) => (full(&entry.name), Form::Whole),
        Naming::Diffusers => (full(&network.alias(&entry.name)?), Form::Whole),
    };
    probe.tensors.contains_key(&found.0).then_some(found)
}

/// Whether two shapes are the same but for dimensions of 1, which 1x1 convolutions and ggml's dimensions add or drop.
fn same_but_ones(a: &[usize], b: &[usize]) -> bool {
    a == b || a.iter().filter(|&&d| d != 1).eq(b.iter().filter(|&&d| d != 1))
}
