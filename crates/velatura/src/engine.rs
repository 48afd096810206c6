//! The engine: a model, ready to serve requests.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use velatura_cpu::{CancelToken, Isa, Runtime};
use velatura_models::Autoencoder;
use velatura_samplers::{SamplerEntry, parse_sampler};
use velatura_text::UnknownWord;
use velatura_weights::SafetensorsFile;

use crate::embeddings::{EmbeddingRef, EmbeddingsFolder};
use crate::infotext::ModelRef;
use crate::memory::RunPlan;
use crate::opened::{Opened, Weights};
use crate::pipeline::{self, Job, Work};
use crate::plans::{Needs, Part, PlanFailure, PlanKey, Plans, SharedPlan};
use crate::preview::{CleanLatents, Previewer};
use crate::prompt::{PromptStyle, Reader};
use crate::request::{GenerateRequest, Precision, Settings};
use crate::source::WeightSource;
use crate::source_picture::{SourcePicture, Sources};
use crate::{Error, ModelManifest, Picture, RequestError, SHIPPED_NAME, Task, shipped};

/// How an engine runs, whatever it is asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct EngineOptions {
    /// Threads; all processors when `None`. Never changes a bit of a picture.
    pub threads: Option<usize>,
    /// Bytes that packed weights, activations and pictures may take together; what the machine has free when `None`. A run
    /// that would take more is made to fit ([`Engine::plan_run`]) or refused.
    pub memory: Option<u64>,
    /// Whether the engine is there for one run: each network is given back as soon as the run is done with it.
    pub one_run: bool,
}

/// A model, ready to serve requests. Networks are planned and their weights packed when first needed.
pub struct Engine {
    runtime: Arc<Runtime>,
    options: EngineOptions,
    manifest: ModelManifest,
    weights: Weights,
    plans: Plans,
    hash: OnceLock<String>,
    remarks: Vec<String>,
    refiner: Option<Box<Engine>>,
    embeddings: Arc<EmbeddingsFolder>,
    /// What makes previews while a run is at work.
    previewer: Option<Arc<Engine>>,
}

/// What came of a request.
#[derive(Clone, Debug)]
pub struct Generation {
    /// The pictures, in order.
    pub pictures: Vec<Picture>,
    /// What was odd about the prompts, and what came up while working.
    pub warnings: Vec<Warning>,
}

/// Something odd about a request that did not keep it from being served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// A word that the model never saw.
    UnknownWord(UnknownWord),
    /// Words at the end that did not fit.
    Dropped {
        /// How many.
        words: usize,
        /// How many tokens fit.
        context: usize,
    },
    /// The autoencoder overflowed in half precision and was run again in single precision, of which the picture is.
    Overflow {
        /// In which it overflowed.
        precision: Precision,
    },
    /// An option that the request's sampler does not read.
    Unread {
        /// The sampler.
        sampler: &'static str,
        /// The option.
        option: &'static str,
    },
    /// Something in the prompt's grammar that was read otherwise than it may have been meant; one sentence.
    Prompt(String),
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Warning::Prompt(text) => f.write_str(text),
            Warning::Unread { sampler, option } => {
                write!(f, "{sampler} does not read {option}; `velatura samplers` says which do")
            }
            Warning::Overflow { precision } => write!(
                f,
                "the VAE overflowed in {}, so it was run again in f32; ask for --precision f32 to run it once",
                precision.name()
            ),
            Warning::UnknownWord(UnknownWord { word, nearest }) if nearest.is_empty() => {
                write!(f, "the model does not know the word \"{word}\"")
            }
            Warning::UnknownWord(UnknownWord { word, nearest }) => {
                let nearest: Vec<String> = nearest.iter().map(|n| format!("\"{n}\"")).collect();
                write!(f, "the model does not know the word \"{word}\"; near it are {}", nearest.join(", "))
            }
            Warning::Dropped { words, context } => {
                let (s, were) = if *words == 1 { ("", "was") } else { ("s", "were") };
                write!(
                    f,
                    "the prompt is longer than the model's {context} tokens; its last {words} word{s} {were} left out"
                )
            }
        }
    }
}

/// What the observer of a run is told.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// Work begins; nothing can be wrong with the request any more.
    Started {
        /// Pictures to make.
        pictures: usize,
        /// Sampling steps over all pictures: the sum of what `Step` will report.
        steps: usize,
    },
    /// A sampling step of some pictures was done.
    Step {
        /// Sampling steps done, counted over all pictures.
        done: usize,
        /// Sampling steps over all pictures.
        steps: usize,
        /// What the denoiser takes the pictures to be: [`crate::preview`] makes it visible.
        clean: CleanLatents<'a>,
    },
    /// A picture is finished, and stays so whatever happens next.
    Picture(&'a Picture),
    /// Something odd came up while working; [`Generation::warnings`] holds it too.
    Warning(&'a Warning),
}

impl Engine {
    /// The model that ships with the program.
    pub fn shipped(options: EngineOptions) -> Result<Self, Error> {
        Self::from_file(shipped::file()?, options)
    }

    /// A model: a file of Velatura's own, or Stable Diffusion as a folder in diffusers' layout or as a single file of any
    /// format (safetensors, `.ckpt`, GGUF), recognised by its tensors.
    ///
    /// # Errors
    /// What cannot be read, is incomplete or damaged, or is a model that is not run; each names the file.
    pub fn open(path: impl AsRef<Path>, options: EngineOptions) -> Result<Self, Error> {
        Ok(Self::of(Opened::path(path.as_ref(), None)?, options))
    }

    /// What a request's `model` asks for: the shipped one for `None` and [`SHIPPED_NAME`], else a path.
    pub fn named(model: Option<&str>, options: EngineOptions) -> Result<Self, Error> {
        match model {
            None | Some(SHIPPED_NAME) => Self::shipped(options),
            Some(path) => Self::open(path, options),
        }
    }

    /// The model that a request asks for, with the autoencoder and the refiner that it asks for.
    ///
    /// # Errors
    /// As [`Engine::open`]; also an autoencoder for a model that takes none, or one that is none; and as
    /// [`Engine::with_refiner`].
    pub fn for_request(request: &GenerateRequest, options: EngineOptions) -> Result<Self, Error> {
        let model = request.model.as_deref().unwrap_or(SHIPPED_NAME);
        let engine = match &request.vae {
            None => Self::named(Some(model), options)?,
            Some(_) if model == SHIPPED_NAME => {
                return Err(RequestError::Vae { model: "the model that ships".into() }.into());
            }
            Some(vae) => Self::of(Opened::path(Path::new(model), Some(Path::new(vae)))?, options),
        };
        match &request.refiner {
            None => Ok(engine),
            Some(refiner) => engine.with_refiner(Self::named(Some(refiner), options)?),
        }
    }

    /// With a model that takes over towards the end of every run: [`GenerateRequest::refiner_switch`].
    ///
    /// # Errors
    /// Another noise schedule, prediction or form of latents than the model's.
    pub fn with_refiner(mut self, refiner: Engine) -> Result<Self, Error> {
        let (own, other) = (&self.manifest, &refiner.manifest);
        let latents = |m: &ModelManifest| {
            let vae = &m.autoencoder;
            (vae.latent_channels(), vae.downsampling())
        };
        // A tiny autoencoder's latents have the scale of whichever it was distilled from.
        let scale = |m: &ModelManifest| match &m.autoencoder {
            Autoencoder::Kl(_) => Some(m.autoencoder.shift_and_scale()),
            Autoencoder::Tiny(_) => None,
        };
        let same_scale = scale(own).is_none() || scale(other).is_none() || scale(own) == scale(other);
        let noise = |m: &ModelManifest| {
            let s = &m.schedule;
            (s.kind, s.prediction, s.train_timesteps, s.beta_start, s.beta_end, s.zero_snr)
        };
        let reason = match (latents(own) == latents(other) && same_scale, noise(own) == noise(other)) {
            (false, _) => "its latents are of another form",
            (_, false) => "it was trained on other noise or predicts something else",
            _ => {
                let remarks = refiner.remarks.iter().filter(|r| !self.remarks.contains(r)).cloned();
                self.remarks.extend(remarks.collect::<Vec<_>>());
                self.refiner = Some(Box::new(refiner.on_runtime(&self.runtime)));
                return Ok(self);
            }
        };
        let file = refiner.weights.path().map_or_else(|| PathBuf::from(&other.name), Path::to_path_buf);
        Err(Error::Refiner { file, model: own.name.clone(), reason })
    }

    /// With previews in mind: what they need is part of what runs are planned to need.
    #[must_use]
    pub fn with_previewer(mut self, previewer: &Previewer) -> Self {
        self.previewer = match previewer {
            Previewer::Tiny(engine) => Some(Arc::clone(engine)),
            Previewer::Linear(_) => None,
        };
        self
    }

    pub(crate) fn previewer(&self) -> Option<&Engine> {
        self.previewer.as_deref()
    }

    /// With embeddings that prompts may name; the refiner's too.
    #[must_use]
    pub fn with_embeddings(mut self, folder: Arc<EmbeddingsFolder>) -> Self {
        self.refiner = self.refiner.map(|refiner| Box::new(refiner.with_embeddings(Arc::clone(&folder))));
        self.embeddings = folder;
        self
    }

    /// The embeddings that the prompts of a request name.
    ///
    /// # Errors
    /// An embedding that cannot be used, and a prompt that is too long.
    pub fn embeddings_of(&self, request: &GenerateRequest) -> Result<Vec<EmbeddingRef>, Error> {
        let steps = request.steps.unwrap_or(self.manifest.defaults.steps) as usize;
        let reader = self.reader(request.prompt_style(), steps);
        let mut names = reader.read(&request.prompt, false)?.embeddings;
        names.extend(reader.read(&request.negative, true)?.embeddings);
        names.iter().map(|name| self.embeddings.reference(name)).collect()
    }

    pub(crate) fn refiner(&self) -> Option<&Engine> {
        self.refiner.as_deref()
    }

    /// A model file that is open already.
    pub fn from_file(file: SafetensorsFile, options: EngineOptions) -> Result<Self, Error> {
        Ok(Self::of(Opened::file(file, None)?, options))
    }

    /// A model whose weights are elsewhere, for example in training. Call [`Engine::reload`] after they changed.
    pub fn from_weights(
        manifest: ModelManifest,
        weights: Arc<dyn WeightSource>,
        options: EngineOptions,
    ) -> Result<Self, Error> {
        manifest.check().map_err(|reason| Error::Manifest { file: PathBuf::from(&manifest.name), reason })?;
        Ok(Self::of(Opened { manifest, weights: Weights::Other(weights), remarks: Vec::new() }, options))
    }

    pub(crate) fn of(opened: Opened, options: EngineOptions) -> Self {
        let Opened { manifest, weights, remarks } = opened;
        let runtime = Runtime::new(options.threads);
        let plans = Plans::new(&runtime);
        Engine {
            plans,
            runtime,
            options,
            manifest,
            weights,
            hash: OnceLock::new(),
            remarks,
            refiner: None,
            embeddings: Arc::default(),
            previewer: None,
        }
    }

    /// Runs on this runtime (and thread pool) instead of one of its own.
    #[must_use]
    pub fn on_runtime(mut self, runtime: &Arc<Runtime>) -> Self {
        self.runtime = Arc::clone(runtime);
        self.plans = Plans::new(runtime);
        self
    }

    /// On the runtime of another engine.
    pub(crate) fn on_runtime_of(self, engine: &Engine) -> Self {
        self.on_runtime(&engine.runtime)
    }

    /// The model's file or folder, where it has one.
    pub(crate) fn model_path(&self) -> Option<&Path> {
        self.weights.path()
    }

    /// What the model says of itself.
    pub fn manifest(&self) -> &ModelManifest {
        &self.manifest
    }

    /// The model's file, where it is one of Velatura's own.
    pub fn file(&self) -> Option<&SafetensorsFile> {
        match &self.weights {
            Weights::File(file) => Some(file),
            Weights::Checkpoint(_) | Weights::Other(_) => None,
        }
    }

    /// What was left aside or taken for granted when the model was opened; one sentence each.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// The instruction set that the kernels use.
    pub fn isa(&self) -> Isa {
        self.runtime.isa
    }

    /// The precision of requests that ask for none: bf16 where the processor multiplies it, else f32.
    pub fn default_precision(&self) -> Precision {
        if self.runtime.isa.multiplies_bf16() { Precision::Bf16 } else { Precision::F32 }
    }

    /// Bytes of the packed weights and of the activations that are held now, a refiner's as well.
    pub fn memory(&self) -> (usize, usize) {
        let (weights, activations) = self.plans.bytes();
        let (more, further) = self.refiner().map_or((0, 0), Engine::memory);
        (weights + more, activations + further)
    }

    pub(crate) fn options(&self) -> EngineOptions {
        self.options
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// What a plan of a network needs.
    pub(crate) fn needs(&self, key: PlanKey) -> Result<Arc<Needs>, Error> {
        self.plans.needs(key, &self.manifest)
    }

    /// Gives the weights of some networks back, a refiner's as well.
    pub(crate) fn release(&self, which: impl Fn(Part) -> bool + Copy) {
        self.plans.release(which);
        if let Some(refiner) = self.refiner() {
            refiner.release(which);
        }
    }

    /// Gives the activations of some networks back, a refiner's as well.
    pub(crate) fn rest(&self, which: impl Fn(Part) -> bool + Copy) {
        self.plans.rest(which);
        if let Some(refiner) = self.refiner() {
            refiner.rest(which);
        }
    }

    /// Keeps so many bytes of the packed weights of the denoiser and of a refiner's, or all.
    pub(crate) fn keep_resident(&self, resident: Option<[u64; 2]>) {
        self.plans.keep_resident(resident.map(|[own, _]| own));
        if let Some(refiner) = self.refiner() {
            refiner.plans.keep_resident(resident.map(|[_, refiners]| refiners));
        }
    }

    /// Packs the weights anew after their source changed.
    pub fn reload(&self) -> Result<(), Error> {
        self.plans.reload(self.weights.source().as_ref()).map_err(|source| self.weights_error(source))
    }

    /// The model's name and hash, for metadata. The hash is computed when first asked for.
    pub fn model_ref(&self) -> ModelRef {
        let hash = self.hash.get_or_init(|| self.weights.hash());
        ModelRef { name: self.manifest.name.clone(), hash: hash.clone() }
    }

    /// The request with everything decided: the model's defaults filled in, names in canonical spelling, a seed drawn, and
    /// what makes it fit into memory.
    ///
    /// # Errors
    /// As [`Engine::plan_run`].
    pub fn resolve(&self, request: &GenerateRequest) -> Result<GenerateRequest, Error> {
        Ok(self.plan_run(request)?.request)
    }

    /// What a request will need, and what is decided so that it fits into memory, without running anything. In this order, as
    /// far as needed: the VAE in tiles, parts released after use, fewer pictures at once, weights of the denoiser streamed
    /// from the file, lower precision. Tiles and precision change the picture, so the request then says them; nothing else
    /// changes a bit.
    ///
    /// # Errors
    /// What the request asks for cannot be, or does not fit; also a picture to begin from that cannot be read.
    pub fn plan_run(&self, request: &GenerateRequest) -> Result<RunPlan, Error> {
        let resolved = self.decide(request)?;
        let jobs = Job::each(&resolved);
        self.fit(resolved, request.precision.is_some(), &jobs)
    }

    /// The request with everything decided but what depends on memory.
    fn decide(&self, request: &GenerateRequest) -> Result<GenerateRequest, Error> {
        request.check()?;
        let sized = match &request.init {
            Some(init) if request.width.is_none() || request.height.is_none() => {
                let (width, height) = SourcePicture::size_of(init)?;
                let larger = match self.manifest.task() {
                    Some(Task::Upscaling) => self.manifest.latent_factor(),
                    _ => 1,
                };
                let size = (width.saturating_mul(larger), height.saturating_mul(larger));
                &request.sized_as(size, self.manifest.size_factor())
            }
            _ => request,
        };
        Ok(sized.resolve(&self.manifest, self.default_precision())?)
    }

    /// What is odd about a prompt for this model.
    pub fn warnings(&self, prompt: &str) -> Vec<Warning> {
        // What a schedule's numbers mean depends on the steps; whether they can be read does not.
        self.read_prompt(prompt, false, &GenerateRequest::default())
    }

    /// What is odd about the prompts of a request, and which of its options its sampler does not read.
    pub fn request_warnings(&self, request: &GenerateRequest) -> Vec<Warning> {
        let mut all = self.read_prompt(&request.prompt, false, request);
        for warning in self.read_prompt(&request.negative, true, request) {
            if !all.contains(&warning) {
                all.push(warning);
            }
        }
        if let Some(entry) = request.sampler.as_deref().and_then(|name| parse_sampler(name).ok()) {
            let (SamplerEntry { name: sampler, reads, .. }, _) = entry;
            let unread = request.sampling.given().filter(|option| !reads.contains(option));
            all.extend(unread.map(|option| Warning::Unread { sampler, option }));
        }
        all
    }

    /// The warnings alone; a prompt that cannot be served is refused when it is.
    fn read_prompt(&self, prompt: &str, negative: bool, request: &GenerateRequest) -> Vec<Warning> {
        let steps = request.steps.unwrap_or(self.manifest.defaults.steps) as usize;
        let reader = self.reader(request.prompt_style(), steps);
        reader.read(prompt, negative).map_or(Vec::new(), |read| read.warnings)
    }

    pub(crate) fn reader(&self, style: PromptStyle, calls: usize) -> Reader<'_> {
        Reader { encoders: &self.manifest.text_encoders, embeddings: &self.embeddings, style, calls }
    }

    /// Serves a request. The observer sees every step and every finished picture; the token stops the run between two
    /// operations.
    ///
    /// # Errors
    /// [`Error::Cancelled`] holds the pictures that were finished before; everything else is checked before the first
    /// step as far as it can be.
    pub fn generate(
        &self,
        request: &GenerateRequest,
        observer: &mut dyn FnMut(Progress<'_>),
        cancel: &CancelToken,
    ) -> Result<Generation, Error> {
        self.run(&self.work(request)?, observer, cancel)
    }

    /// The final latents of a request's pictures in place of the pictures: `[height, width, channels]` each, in the
    /// denoiser's scale.
    ///
    /// # Errors
    /// As [`Engine::generate`].
    pub fn latents(
        &self,
        request: &GenerateRequest,
        observer: &mut dyn FnMut(Progress<'_>),
        cancel: &CancelToken,
    ) -> Result<Vec<Vec<f32>>, Error> {
        pipeline::latents(self, &self.work(request)?, observer, cancel)
    }

    /// A request resolved, with what it reads and one job for each of its pictures.
    fn work(&self, request: &GenerateRequest) -> Result<Work, Error> {
        let plan = self.plan_run(request)?;
        let jobs = Job::each(&plan.request);
        self.work_of(plan, jobs)
    }

    fn work_of(&self, plan: RunPlan, jobs: Vec<Job>) -> Result<Work, Error> {
        let settings = plan.request.settings(&self.manifest)?;
        Ok(Work { settings, sources: Sources::open(&plan.request)?, jobs, plan })
    }

    /// Serves many prompts with the settings of one request, several at once in the networks' batch; each picture has the
    /// bits that it would have alone. `prompts` holds a prompt and a seed for each picture; the prompt, seed and batch of
    /// `request` are not used.
    ///
    /// # Errors
    /// As [`Engine::generate`].
    pub fn generate_each(
        &self,
        request: &GenerateRequest,
        prompts: &[(String, u64)],
        observer: &mut dyn FnMut(Progress<'_>),
        cancel: &CancelToken,
    ) -> Result<Generation, Error> {
        let asked = request.precision.is_some();
        let request = self.decide(&GenerateRequest { batch: 1, ..request.clone() })?;
        let job = |(index, (prompt, seed)): (usize, &(String, u64))| {
            let request = GenerateRequest { prompt: prompt.clone(), seed: Some(*seed), ..request.clone() };
            request.check().map(|()| Job { request, index })
        };
        let mut jobs = prompts.iter().enumerate().map(job).collect::<Result<Vec<Job>, _>>()?;
        let plan = self.fit(request.clone(), asked, &jobs)?;
        for Job { request, .. } in &mut jobs {
            (request.vae_tiling, request.precision) = (plan.request.vae_tiling, plan.request.precision);
        }
        self.run(&self.work_of(plan, jobs)?, observer, cancel)
    }

    fn run(
        &self,
        work: &Work,
        observer: &mut dyn FnMut(Progress<'_>),
        cancel: &CancelToken,
    ) -> Result<Generation, Error> {
        let mut warnings = self.check_prompts(&work.settings, &work.jobs)?;
        let (pictures, more) = pipeline::pictures(self, work, observer, cancel)?;
        warnings.extend(more);
        Ok(Generation { pictures, warnings })
    }

    /// Reads all prompts before any work is done.
    fn check_prompts(&self, settings: &Settings, jobs: &[Job]) -> Result<Vec<Warning>, Error> {
        let mut warnings = Vec::new();
        let mut seen = HashSet::new();
        for job in jobs {
            for (text, negative) in [(&job.request.prompt, false), (&job.request.negative, true)] {
                if !seen.insert((text, negative)) {
                    continue;
                }
                let reading = self.reader(settings.prompts, settings.calls()).read(text, negative)?;
                for warning in reading.warnings {
                    if !warnings.contains(&warning) {
                        warnings.push(warning);
                    }
                }
            }
        }
        Ok(warnings)
    }

    pub(crate) fn plan(&self, key: PlanKey) -> Result<SharedPlan, Error> {
        self.plans.get(key, &self.manifest, &self.weights.source()).map_err(|failure| match failure {
            PlanFailure::Error(error) => error,
            PlanFailure::Weights(source) => self.weights_error(source),
        })
    }

    fn weights_error(&self, source: velatura_cpu::CpuError) -> Error {
        let file = self.weights.path().map_or_else(|| PathBuf::from(&self.manifest.name), Path::to_path_buf);
        Error::ModelWeights { file, source }
    }
}
