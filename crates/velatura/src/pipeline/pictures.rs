//! From a request to pictures: text encoded once, latents denoised in groups, pictures decoded one by one.

use std::ops::ControlFlow;

use velatura_cpu::{CancelToken, CpuError};
use velatura_samplers::noise::LatentShape;
use velatura_samplers::{Answer, Call, Level, RunError, Start, sample_from};

use super::autoencoder::{Autoencoder, Moments};
use super::denoise::{Recipe, Told, guidance_embedding};
use super::stage::Stage;
use super::start::{Given, begin};
use crate::engine::{Engine, Progress, Warning};
use crate::memory::{RunPlan, group_sizes};
use crate::picture::{Origin, Picture};
use crate::plans::Part;
use crate::preview::CleanLatents;
use crate::request::{GenerateRequest, Settings};
use crate::source_picture::Sources;
use crate::{Error, ModelManifest, Task};

/// Everything that a request asks for.
pub(crate) struct Work {
    pub settings: Settings,
    pub sources: Sources,
    pub jobs: Vec<Job>,
    pub plan: RunPlan,
}

/// One picture to make.
pub(crate) struct Job {
    /// Everything decided, for this picture alone.
    pub request: GenerateRequest,
    /// Its place among the pictures asked for.
    pub index: usize,
}

impl Job {
    /// One for each picture of a request with everything decided.
    pub fn each(request: &GenerateRequest) -> Vec<Self> {
        let job = |index: usize| Job { request: request.of_picture(index), index };
        (0..request.batch as usize).map(job).collect()
    }
}

/// Pictures denoised together, at most: enough to keep all lanes busy on the smallest latents, few enough that a stop
/// loses little.
pub(crate) const MOST_TOGETHER: usize = 8;
/// Pixels denoised together, at most, when there is more than one picture: bounds the memory.
pub(crate) const PIXELS_TOGETHER: usize = 1 << 20;

/// Makes the pictures, group by group; each is handed to the observer as soon as it is finished.
pub(crate) fn pictures(
    engine: &Engine,
    work: &Work,
    observer: &mut dyn FnMut(Progress<'_>),
    cancel: &CancelToken,
) -> Result<(Vec<Picture>, Vec<Warning>), Error> {
    let asked = work.jobs.len();
    let mut finished = Vec::with_capacity(asked);
    let mut run = Run::new(engine, work, observer, cancel);
    let result = run.groups(&mut |run, job, latent| {
        let picture = run.finish(job, latent)?;
        (run.observer)(Progress::Picture(&picture));
        finished.push(picture);
        Ok(())
    });
    match result {
        Ok(()) => Ok((finished, run.warnings)),
        Err(Error::Run(CpuError::Cancelled)) => Err(Error::Cancelled { finished, asked }),
        Err(error) => Err(error),
    }
}

/// The final latents of all pictures, `[h, w, C]` each, in the denoiser's scale.
pub(crate) fn latents(
    engine: &Engine,
    work: &Work,
    observer: &mut dyn FnMut(Progress<'_>),
    cancel: &CancelToken,
) -> Result<Vec<Vec<f32>>, Error> {
    let mut latents = Vec::with_capacity(work.jobs.len());
    let mut run = Run::new(engine, work, observer, cancel);
    run.groups(&mut |_, _, latent| {
        latents.push(latent.to_vec());
        Ok(())
    })?;
    Ok(latents)
}

struct Run<'a> {
    engine: &'a Engine,
    settings: &'a Settings,
    sources: &'a Sources,
    jobs: &'a [Job],
    plan: &'a RunPlan,
    cancel: &'a CancelToken,
    observer: &'a mut dyn FnMut(Progress<'_>),
    /// Sampling steps over all pictures, and those done.
    steps: usize,
    done: usize,
    model: Stage<'a>,
    /// Takes over where less noise is left than at a timestep.
    refiner: Option<(f32, Stage<'a>)>,
    given: Given,
    warnings: Vec<Warning>,
}

/// What becomes of a picture's final latent.
type Finish<'f, 'a> = dyn FnMut(&mut Run<'a>, &Job, &[f32]) -> Result<(), Error> + 'f;

impl<'a> Run<'a> {
    fn new(
        engine: &'a Engine,
        work: &'a Work,
        observer: &'a mut dyn FnMut(Progress<'_>),
        cancel: &'a CancelToken,
    ) -> Self {
        let Work { settings, sources, jobs, plan } = work;
        let steps = jobs.len() * settings.plan.len();
        observer(Progress::Started { pictures: jobs.len(), steps });
        let model = Stage::new(engine, settings, cancel);
        let stage = |refiner| (settings.refine_below, Stage::new(refiner, settings, cancel));
        let refiner = engine.refiner().map(stage);
        Run {
            engine,
            settings,
            sources,
            jobs,
            plan,
            cancel,
            observer,
            steps,
            done: 0,
            model,
            refiner,
            given: Given::default(),
            warnings: Vec::new(),
        }
    }

    fn groups(&mut self, finish: &mut Finish<'_, 'a>) -> Result<(), Error> {
        let (jobs, engine, plan) = (self.jobs, self.engine, self.plan);
        make_room(engine, plan);
        self.given = self.read_sources()?;
        if plan.released {
            engine.release(|part| part == Part::Encode);
        }
        self.model.read(jobs)?;
        if let Some((_, refiner)) = &mut self.refiner {
            refiner.read(jobs)?;
        }
        if plan.released {
            engine.release(|part| matches!(part, Part::Text(_)));
        }
        let mut rest = jobs;
        for size in group_sizes(jobs.len(), plan.together) {
            let (now, later) = rest.split_at(size);
            rest = later;
            let latents = self.denoise(now)?;
            if engine.options().one_run && rest.is_empty() {
                engine.release(|part| part == Part::Denoise);
            } else if plan.released {
                engine.rest(|part| part == Part::Denoise);
            }
            for (job, latent) in now.iter().zip(latents.chunks_exact(latents.len() / now.len())) {
                finish(self, job, latent)?;
            }
            if plan.released {
                engine.rest(|part| part == Part::Decode);
            }
        }
        Ok(())
    }

    fn finish(&mut self, job: &Job, latent: &[f32]) -> Result<Picture, Error> {
        if self.cancel.is_cancelled() {
            return Err(CpuError::Cancelled.into());
        }
        let (pixels, warning) = self.autoencoder().decode(latent)?;
        self.warn(warning);
        let rgb = pixels.into_iter().map(to_byte).collect();
        let origin = Origin {
            version: env!("CARGO_PKG_VERSION").to_string(),
            instructions: self.engine.isa().name().to_string(),
            model: self.engine.model_ref(),
            request: job.request.clone(),
            sources: self.sources.refs(),
            embeddings: self.engine.embeddings_of(&job.request)?,
        };
        let (width, height) = (self.settings.width, self.settings.height);
        Ok(Picture { width, height, rgb, index: job.index, origin })
    }

    fn shape(&self) -> LatentShape {
        let manifest = self.engine.manifest();
        let factor = manifest.latent_factor() as usize;
        LatentShape {
            channels: manifest.latent_channels(),
            height: self.settings.height / factor,
            width: self.settings.width / factor,
        }
    }

    /// The final latents of a group, `[images, h, w, C]`, in the denoiser's scale.
    fn denoise(&mut self, jobs: &[Job]) -> Result<Vec<f32>, Error> {
        let images = jobs.len();
        let shape = self.shape();
        let mut model = self.model.team(jobs, shape)?;
        let mut refiner = match &mut self.refiner {
            Some((below, stage)) => Some((*below, stage.team(jobs, shape)?)),
            None => None,
        };
        let manifest = self.engine.manifest();
        let requests = jobs.iter().map(|job| &job.request);
        let mut noise = GenerateRequest::noise(requests, shape, manifest.latent_factor())?;
        let beginning = begin(self.settings, manifest, &self.given, &mut noise, shape)?;
        let (settings, cancel) = (self.settings, self.cancel);
        // Only the model that the request names reads what is beside the latent.
        model.0.told = self.told(manifest, beginning.beside);
        if let Some((_, (denoiser, _))) = &mut refiner {
            denoiser.told = self.told(denoiser.engine.manifest(), Vec::new());
        }
        let denoise = |latents: &[f32], call: Call| -> Result<Answer, Error> {
            if cancel.is_cancelled() {
                return Err(CpuError::Cancelled.into());
            }
            let recipe = Recipe {
                guidance: &settings.guidance,
                options: &settings.guidance_options,
                call,
                prediction: settings.plan.prediction,
                guided: settings.is_guided(call),
            };
            let (denoiser, guides) = match &refiner {
                Some((below, team)) if call.timestep < *below => team,
                _ => &model,
            };
            denoiser.guided(latents, guides, recipe)
        };
        let (total, before) = (self.steps, self.done);
        let first = jobs.first().map_or(0, |job| job.index);
        let observer = &mut self.observer;
        tracing::debug!(images, "first step");
        let observe = |progress: &velatura_samplers::Progress<'_>| {
            let clean =
                CleanLatents { values: progress.x0, images, first, size: [shape.height, shape.width] };
            observer(Progress::Step { done: before + progress.done * images, steps: total, clean });
            if cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let sampler = settings.sampler.as_ref();
        let kept = beginning.kept;
        let mut hold = |latents: &mut [f32], level: Level| {
            if let Some(kept) = &kept {
                kept.hold(latents, level);
            }
        };
        let start = Start { latent: beginning.latents, images, amend: Some(&mut hold) };
        let latents =
            sample_from(sampler, &settings.plan, start, &mut noise, denoise, observe).map_err(run_error)?;
        tracing::debug!("denoised");
        self.done = before + settings.plan.len() * images;
        Ok(latents)
    }

    fn told(&self, manifest: &ModelManifest, beside: Vec<Vec<f32>>) -> Told {
        let Settings { task, image_guidance, noise_level, told_guidance, .. } = *self.settings;
        Told {
            beside,
            beside_guidance: image_guidance,
            label: (task == Task::Upscaling).then_some(noise_level as i32),
            guidance: manifest.unet.time_cond_proj_dim.map(|width| guidance_embedding(told_guidance, width)),
        }
    }

    /// What the networks are to know of the request's pictures.
    fn read_sources(&mut self) -> Result<Given, Error> {
        let Settings { width, height, task, .. } = *self.settings;
        let mut given = Given::default();
        if let (Task::Upscaling, Some(picture)) = (task, &self.sources.init) {
            let shape = self.shape();
            given.low = Some(picture.pixels(shape.width, shape.height));
            return Ok(given);
        }
        let pixels = self.sources.init.as_ref().map(|picture| picture.pixels(width, height));
        let mask = self.sources.mask.as_ref().map(|mask| mask.mask(width, height));
        if task == Task::Inpainting {
            // Without a mask all is made anew, and grey is what is left of the picture.
            let masked = match (&pixels, &mask) {
                (Some(pixels), Some(mask)) => {
                    let kept = pixels.chunks_exact(3).zip(mask);
                    kept.flat_map(|(rgb, &anew)| rgb.iter().map(move |&v| if anew { 0.0 } else { v }))
                        .collect()
                }
                _ => vec![0.0; width * height * 3],
            };
            given.masked = Some(self.encode_picture(&masked)?);
        }
        given.init = pixels.map(|pixels| self.encode_picture(&pixels)).transpose()?;
        // One pixel of the mask stands for each of the latent, as in diffusers.
        let factor = self.engine.manifest().latent_factor() as usize;
        given.mask = mask.map(|mask| {
            let rows = mask.chunks_exact(width).step_by(factor);
            rows.flat_map(|row| row.iter().step_by(factor)).map(|&anew| f32::from(u8::from(anew))).collect()
        });
        Ok(given)
    }

    fn encode_picture(&mut self, pixels: &[f32]) -> Result<Moments, Error> {
        let (moments, warning) = self.autoencoder().encode(pixels)?;
        self.warn(warning);
        Ok(moments)
    }

    fn autoencoder(&self) -> Autoencoder<'a> {
        let Settings { precision, tiled, .. } = *self.settings;
        Autoencoder { engine: self.engine, shape: self.shape(), precision, tiled, cancel: self.cancel }
    }

    /// Says what came up, once.
    fn warn(&mut self, warning: Option<Warning>) {
        if let Some(warning) = warning.filter(|w| !self.warnings.contains(w)) {
            (self.observer)(Progress::Warning(&warning));
            self.warnings.push(warning);
        }
    }
}

/// Gives back what earlier runs left and this one has no room for.
fn make_room(engine: &Engine, plan: &RunPlan) {
    engine.keep_resident(plan.resident);
    let sum = |denoisers: bool| -> u64 {
        let counted = plan.parts.iter().filter(|part| !denoisers || part.name.ends_with("denoiser"));
        counted.map(|part| part.weights).sum()
    };
    if plan.released {
        engine.release(|part| part != Part::Denoise);
        engine.rest(|_| true);
        // Pictures of another size may have left the same weights in another form; what is streamed keeps to its share.
        if plan.resident.is_none() && engine.memory().0 as u64 > sum(true) {
            engine.release(|_| true);
        }
        return;
    }
    let (weights, activations) = engine.memory();
    let (weights, held) = (weights as u64, (weights + activations) as u64);
    if plan.limit.is_some_and(|limit| held + plan.peak > limit) {
        match weights > sum(false) {
            true => engine.release(|_| true),
            false => engine.rest(|_| true),
        }
    }
}

/// From -1..=1 to 0..=255, to the nearest.
pub(crate) fn to_byte(value: f32) -> u8 {
    ((value * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round() as u8
}

fn run_error(error: RunError<Error>) -> Error {
    match error {
        RunError::Denoise { source, .. } => source,
        RunError::Cancelled { .. } => CpuError::Cancelled.into(),
        RunError::NotFinite { step, steps } => Error::NotFinite { step: step + 1, steps },
        // Lengths follow from the plan; a sampler that got them wrong is a defect.
        RunError::Length { .. } | RunError::Batch { .. } => Error::Internal(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::to_byte;

    #[test]
    fn pixels_are_clamped_and_rounded() {
        assert_eq!([-3.0, -1.0, 0.0, 1.0, 9.0].map(to_byte), [0, 0, 128, 255, 255]);
        assert_eq!(to_byte(1.0 / 127.5 * 0.6 - 1.0), 1);
    }
}
