//! A model: the parts of a file or a folder, recognised.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::family::{self, Family, KnownBy, Prediction, Task};
use super::part::{Network, Part, PartKind};
use super::{folder, single, unused};
use crate::scaled::with_scales;
use crate::view::TensorView;
use crate::{TensorSource, WeightsError, open_tensors};

/// How to open a model.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Which of a folder's variants to take, for example `fp16`: files named `NAME.VARIANT.safetensors`. Without one the
    /// plain files are taken, or the only variant that there is.
    pub variant: Option<String>,
}

/// A model, or parts of one, opened and recognised; no numbers are read yet.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    parts: Vec<Part>,
    family: Option<Family>,
    prediction: Option<(Prediction, KnownBy)>,
    scheduler: Option<Value>,
    low_res_scheduler: Option<Value>,
    index: Option<Value>,
    unmatched: Vec<String>,
    unused: Vec<(String, &'static str)>,
    scaled: usize,
}

impl Checkpoint {
    /// Opens a file of any format that [`open_tensors`] reads, or a folder in diffusers' layout: a whole model with
    /// `model_index.json` or folders for its parts, or the folder of one part. A folder's own `config.json` wins over
    /// what its tensors look like.
    pub fn open(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Self, WeightsError> {
        let path = path.as_ref();
        if path.is_dir() {
            return folder::open(path, options);
        }
        Self::of_source(Arc::from(open_tensors(path)?))
    }

    /// Recognises the tensors of any source.
    pub fn of_source(source: Arc<dyn TensorSource>) -> Result<Self, WeightsError> {
        let (source, scaled) = with_scales(source)?;
        let source = single::with_prefix(source);
        let mut used = BTreeSet::new();
        let parts = single::parts(&source, &mut used)?;
        if parts.is_empty() {
            return Err(unrecognised(source.path(), source.as_ref()));
        }
        let mut checkpoint = Checkpoint { scaled, ..Checkpoint::of_parts(source.path(), parts, None) };
        checkpoint.leave(source.as_ref(), &used);
        checkpoint.settle(&[source])?;
        Ok(checkpoint)
    }

    pub(crate) fn of_parts(path: &Path, mut parts: Vec<Part>, scheduler: Option<Value>) -> Self {
        parts.sort_by_key(|p| p.kind);
        Checkpoint {
            path: path.to_path_buf(),
            parts,
            family: None,
            prediction: None,
            scheduler,
            low_res_scheduler: None,
            index: None,
            unmatched: Vec::new(),
            unused: Vec::new(),
            scaled: 0,
        }
    }

    /// Sorts the names of a source that no part took.
    pub(crate) fn leave(&mut self, source: &dyn TensorSource, used: &BTreeSet<String>) {
        for name in source.tensors().keys().filter(|n| !used.contains(*n)) {
            match unused::reason(name) {
                Some(reason) => self.unused.push((name.clone(), reason)),
                None => self.unmatched.push(name.clone()),
            }
        }
    }

    /// Family, prediction, and the configurations that were not given.
    pub(crate) fn settle(&mut self, sources: &[Arc<dyn TensorSource>]) -> Result<(), WeightsError> {
        self.family = family::family(&self.parts);
        if let Some(family) = self.family {
            let given =
                self.scheduler.as_ref().and_then(|s| s.get("prediction_type")).and_then(Value::as_str);
            self.prediction = match given {
                Some("v_prediction") => Some((Prediction::V, KnownBy::Scheduler)),
                Some(_) => Some((Prediction::Epsilon, KnownBy::Scheduler)),
                None => match sources.first() {
                    Some(source) => family::prediction(family, source.as_ref(), &self.parts)?,
                    None => None,
                },
            };
        }
        self.configure();
        Ok(())
    }

    fn configure(&mut self) {
        for i in 0..self.parts.len() {
            if !self.parts[i].config_is_given {
                self.parts[i].config = self.inferred_config(&self.parts[i]);
            }
        }
    }

    /// A part's configuration as its tensors and the family have it, whatever a folder says.
    pub(crate) fn inferred_config(&self, part: &Part) -> Value {
        let family = self.family.unwrap_or(Family::Sd1);
        let side = family.latent_side(self.prediction());
        match &part.network {
            Network::Unet(unet) => unet.config(side),
            Network::Autoencoder(vae) => vae.config(family.latent_scale(), side * 8),
            Network::Tiny(tiny) => tiny.config(),
            Network::Clip(clip) => clip.config(),
        }
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The parts that were found, in the order of [`PartKind`].
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// A part, where it was found.
    pub fn part(&self, kind: PartKind) -> Option<&Part> {
        self.parts.iter().find(|p| p.kind == kind)
    }

    /// Which family it is; nothing without a denoiser.
    pub fn family(&self) -> Option<Family> {
        self.family
    }

    /// What the denoiser does; nothing without one.
    pub fn task(&self) -> Option<Task> {
        family::unet(&self.parts).map(family::task)
    }

    /// What the denoiser predicts, by the folder's `scheduler_config.json` or the marks that files carry; nothing where
    /// neither says it.
    pub fn prediction(&self) -> Option<Prediction> {
        self.prediction.map(|(prediction, _)| prediction)
    }

    /// How [`Checkpoint::prediction`] is known.
    pub fn prediction_known_by(&self) -> Option<KnownBy> {
        self.prediction.map(|(_, known_by)| known_by)
    }

    /// Whether the denoiser has fewer blocks or layers than its family's.
    pub fn is_distilled(&self) -> bool {
        self.family.zip(family::unet(&self.parts)).is_some_and(|(f, u)| family::is_distilled(f, u))
    }

    /// Whether the denoiser is told the guidance scale, as latent consistency models are.
    pub fn has_guidance_embedding(&self) -> bool {
        family::unet(&self.parts).is_some_and(|u| u.guidance.is_some())
    }

    /// The folder's `scheduler/scheduler_config.json`.
    pub fn scheduler(&self) -> Option<&Value> {
        self.scheduler.as_ref()
    }

    /// An upscaler's `low_res_scheduler/scheduler_config.json`: how the picture that it reads is noised.
    pub fn low_res_scheduler(&self) -> Option<&Value> {
        self.low_res_scheduler.as_ref()
    }

    /// The folder's `model_index.json`.
    pub fn index(&self) -> Option<&Value> {
        self.index.as_ref()
    }

    pub(crate) fn with_index(self, index: Option<Value>) -> Self {
        Checkpoint { index, ..self }
    }

    pub(crate) fn with_low_res_scheduler(self, low_res_scheduler: Option<Value>) -> Self {
        Checkpoint { low_res_scheduler, ..self }
    }

    pub(crate) fn with_scaled(self, scaled: usize) -> Self {
        Checkpoint { scaled, ..self }
    }

    /// How many weights are stored with a scale beside them, as in ComfyUI's scaled fp8 files; they are read as f32 with
    /// the scale applied.
    pub fn scaled(&self) -> usize {
        self.scaled
    }

    /// Names of tensors that no part has and nobody knows, sorted.
    pub fn unmatched(&self) -> &[String] {
        &self.unmatched
    }

    /// Names of tensors that files are known to carry and that are not read, with the reason.
    pub fn unused(&self) -> &[(String, &'static str)] {
        &self.unused
    }

    /// Parts that the family needs and that were not found.
    pub fn missing_parts(&self) -> Vec<PartKind> {
        let required = self.family.map_or(&[][..], Family::required);
        required.iter().copied().filter(|&kind| self.part(kind).is_none()).collect()
    }

    /// An error that names what lacks, unless every part that the family needs is there with all its tensors.
    pub fn check_complete(&self) -> Result<(), WeightsError> {
        let incomplete = |lacking: String| WeightsError::Incomplete { file: self.path.clone(), lacking };
        if self.family.is_none() {
            return Err(incomplete("it has no denoiser (unet)".into()));
        }
        let lacking: Vec<&str> = self.missing_parts().into_iter().map(PartKind::name).collect();
        if !lacking.is_empty() {
            return Err(incomplete(format!("it lacks {}", lacking.join(" and "))));
        }
        self.parts.iter().try_for_each(|p| p.check_complete(p.tensors.path()))
    }

    /// Takes another's parts, in place of its own of the same kind or beside them: `--vae`, or a model of separate
    /// files. The two halves of a tiny autoencoder become one.
    pub fn take_parts(&mut self, mut other: Checkpoint) {
        for part in &mut other.parts {
            if let Some(whole) = self.part(part.kind).and_then(|own| own.joined(part)) {
                *part = whole;
            }
        }
        if other.part(PartKind::Unet).is_some() {
            self.prediction = other.prediction.or(self.prediction);
        }
        self.parts.retain(|p| other.part(p.kind).is_none());
        self.parts.extend(other.parts);
        self.parts.sort_by_key(|p| p.kind);
        self.family = family::family(&self.parts);
        self.scheduler = self.scheduler.take().or(other.scheduler);
        self.unmatched.extend(other.unmatched);
        self.unused.extend(other.unused);
        self.scaled += other.scaled;
        self.configure();
    }

    /// Keeps these parts alone. The family stays what it was, so that the parts are written as that family's.
    pub fn keep_parts(&mut self, kinds: &[PartKind]) {
        self.parts.retain(|p| kinds.contains(&p.kind));
    }

    /// All tensors of all parts as one source, named `unet.`, `vae.`, `text_encoder.` and `text_encoder_2.` and then as
    /// diffusers or transformers name them.
    pub fn tensors(&self) -> TensorView {
        let parts = self.parts.iter().map(|p| (format!("{}.", p.kind), &p.tensors));
        TensorView::joined(&self.path, parts)
    }
}

pub(crate) fn unrecognised(path: &Path, source: &dyn TensorSource) -> WeightsError {
    let names = source.tensors().keys();
    let some: Vec<&str> = names.take(3).map(String::as_str).collect();
    let found = match source.tensors().len() {
        0 => "it has no tensors".into(),
        n => format!("it has {n} tensors, the first {}", some.join(", ")),
    };
    WeightsError::Unrecognised { file: path.to_path_buf(), found }
}
