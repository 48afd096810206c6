//! From prompts to pictures: text encoded once, latents denoised in groups, pictures decoded one by one.

use std::ops::ControlFlow;

use velatura_cpu::{CancelToken, CpuError, Data};
use velatura_samplers::noise::LatentShape;
use velatura_samplers::{Call, PerImage, RunError, sample};

use super::stage::Stage;
use crate::Error;
use crate::engine::{Engine, Progress};
use crate::networks::{Network, names};
use crate::picture::{Origin, Picture};
use crate::plans::{PlanKey, lock};
use crate::request::{GenerateRequest, Settings};

/// One picture to make.
pub(crate) struct Job {
    /// Everything decided, for this picture alone.
    pub request: GenerateRequest,
    /// Its place among the pictures asked for.
    pub index: usize,
}

/// Pictures denoised together, at most: enough to keep all lanes busy on the smallest latents, few enough that a stop
/// loses little.
const MOST_TOGETHER: usize = 8;
/// Pixels denoised together, at most, when there is more than one picture: bounds the memory.
const PIXELS_TOGETHER: usize = 1 << 20;

/// Makes the pictures, group by group; each is handed to the observer as soon as it is finished.
pub(crate) fn text_to_image(
    engine: &Engine,
    settings: &Settings,
    jobs: &[Job],
    observer: &mut dyn FnMut(Progress<'_>),
    cancel: &CancelToken,
) -> Result<Vec<Picture>, Error> {
    let mut finished = Vec::with_capacity(jobs.len());
    let mut run = Run::new(engine, settings, jobs, observer, cancel);
    let result = run.groups(jobs, &mut |run, job, latent| {
        let picture = run.finish(job, latent)?;
        (run.observer)(Progress::Picture(&picture));
        finished.push(picture);
        Ok(())
    });
    match result {
        Ok(()) => Ok(finished),
        Err(Error::Run(CpuError::Cancelled)) => Err(Error::Cancelled { finished, asked: jobs.len() }),
        Err(error) => Err(error),
    }
}

/// The final latents of all pictures, `[h, w, C]` each, in the denoiser's scale.
pub(crate) fn latents(
    engine: &Engine,
    settings: &Settings,
    jobs: &[Job],
    observer: &mut dyn FnMut(Progress<'_>),
    cancel: &CancelToken,
) -> Result<Vec<Vec<f32>>, Error> {
    let mut latents = Vec::with_capacity(jobs.len());
    let mut run = Run::new(engine, settings, jobs, observer, cancel);
    run.groups(jobs, &mut |_, _, latent| {
        latents.push(latent.to_vec());
        Ok(())
    })?;
    Ok(latents)
}

struct Run<'a> {
    engine: &'a Engine,
    settings: &'a Settings,
    cancel: &'a CancelToken,
    observer: &'a mut dyn FnMut(Progress<'_>),
    /// Sampling steps over all pictures, and those done.
    steps: usize,
    done: usize,
    model: Stage<'a>,
    /// Takes over where less noise is left than at a timestep.
    refiner: Option<(f32, Stage<'a>)>,
}

/// What becomes of a picture's final latent.
type Finish<'f, 'a> = dyn FnMut(&mut Run<'a>, &Job, &[f32]) -> Result<(), Error> + 'f;

impl<'a> Run<'a> {
    fn new(
        engine: &'a Engine,
        settings: &'a Settings,
        jobs: &[Job],
        observer: &'a mut dyn FnMut(Progress<'_>),
        cancel: &'a CancelToken,
    ) -> Self {
        let steps = jobs.len() * settings.plan.len();
        observer(Progress::Started { pictures: jobs.len(), steps });
        let model = Stage::new(engine, settings, cancel);
        let stage = |refiner| (settings.refine_below, Stage::new(refiner, settings, cancel));
        let refiner = engine.refiner().map(stage);
        Run { engine, settings, cancel, observer, steps, done: 0, model, refiner }
    }

    fn groups(&mut self, jobs: &[Job], finish: &mut Finish<'_, 'a>) -> Result<(), Error> {
        let pixels = (self.settings.width * self.settings.height).max(1);
        let together = (PIXELS_TOGETHER / pixels).clamp(1, MOST_TOGETHER);
        // Groups of equal size, give or take one, so that few plans serve them all.
        let groups = jobs.len().div_ceil(together).max(1);
        let mut rest = jobs;
        for group in (1..=groups).rev() {
            let (now, later) = rest.split_at(rest.len().div_ceil(group));
            rest = later;
            if now.is_empty() {
                continue;
            }
            let latents = self.denoise(now)?;
            for (job, latent) in now.iter().zip(latents.chunks_exact(latents.len() / now.len())) {
                finish(self, job, latent)?;
            }
        }
        Ok(())
    }

    fn finish(&self, job: &Job, latent: &[f32]) -> Result<Picture, Error> {
        if self.cancel.is_cancelled() {
            return Err(CpuError::Cancelled.into());
        }
        let rgb = self.decode(latent)?;
        let origin = Origin {
            version: env!("CARGO_PKG_VERSION").to_string(),
            instructions: self.engine.isa().name().to_string(),
            model: self.engine.model_ref(),
            request: job.request.clone(),
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
        let model = self.model.team(jobs, shape)?;
        let refiner = match &mut self.refiner {
            Some((below, stage)) => Some((*below, stage.team(jobs, shape)?)),
            None => None,
        };
        let seeds: Vec<u64> = jobs.iter().map(|job| job.request.seed.unwrap_or(self.settings.seed)).collect();
        let mut noise = PerImage::seeded(self.settings.rng, &seeds, shape);
        let start = self.settings.plan.start(&noise.initial(shape));
        let (settings, cancel) = (self.settings, self.cancel);
        let denoise = |latents: &[f32], call: Call| -> Result<Vec<f32>, Error> {
            if cancel.is_cancelled() {
                return Err(CpuError::Cancelled.into());
            }
            let guidance = (&settings.guidance, settings.guidance.active(call.step, call.steps));
            let (denoiser, guides) = match &refiner {
                Some((below, team)) if call.timestep < *below => team,
                _ => &model,
            };
            denoiser.guided(latents, call.timestep, guides, guidance, call.evaluation)
        };
        let (total, before) = (self.steps, self.done);
        let observer = &mut self.observer;
        tracing::debug!(images, "first step");
        let observe = |progress: &velatura_samplers::Progress<'_>| {
            observer(Progress::Step { done: before + progress.done * images, steps: total });
            if cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let sampler = settings.sampler.as_ref();
        let latents = sample(sampler, &settings.plan, start, images, &mut noise, denoise, observe)
            .map_err(run_error)?;
        tracing::debug!("denoised");
        self.done = before + settings.plan.len() * images;
        Ok(latents)
    }

    /// 8-bit RGB from one latent in the denoiser's scale.
    fn decode(&self, latent: &[f32]) -> Result<Vec<u8>, Error> {
        let shape = self.shape();
        let key = PlanKey {
            network: Network::Decode,
            batch: 1,
            height: shape.height,
            width: shape.width,
            precision: self.settings.precision,
        };
        let plan = self.engine.plan(key)?;
        let mut plan = lock(&plan);
        plan.run(&[(names::LATENT, Data::F32(latent))], self.cancel)?;
        let pixels = plan.output(names::OUTPUT)?;
        if !pixels.iter().all(|v| v.is_finite()) {
            let steps = self.settings.plan.len();
            return Err(Error::NotFinite { step: steps, steps });
        }
        Ok(pixels.iter().map(|&v| to_byte(v)).collect())
    }
}

/// From -1..=1 to 0..=255, to the nearest.
fn to_byte(value: f32) -> u8 {
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
