//! From prompts to pictures: text encoded once, latents denoised in groups, pictures decoded one by one.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use velatura_cpu::{CancelToken, CpuError, Data};
use velatura_samplers::noise::LatentShape;
use velatura_samplers::{Call, PerImage, RunError, sample};

use crate::Error;
use crate::engine::{Engine, Progress};
use crate::networks::{Encoded, Network, names};
use crate::picture::{Origin, Picture};
use crate::plans::{PlanKey, lock};
use crate::request::{GenerateRequest, Precision, Settings};

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
    let steps = jobs.len() * settings.plan.len();
    let mut run = Run { engine, settings, cancel, observer, steps, done: 0, texts: HashMap::new() };
    (run.observer)(Progress::Started { pictures: jobs.len(), steps });
    let mut finished = Vec::with_capacity(jobs.len());
    let together = (PIXELS_TOGETHER / (settings.width * settings.height).max(1)).clamp(1, MOST_TOGETHER);
    // Groups of equal size, give or take one, so that few plans serve them all.
    let groups = jobs.len().div_ceil(together).max(1);
    let mut rest = jobs;
    for group in (1..=groups).rev() {
        let (now, later) = rest.split_at(rest.len().div_ceil(group));
        rest = later;
        match run.group(now, &mut finished) {
            Ok(()) => {}
            Err(Error::Run(CpuError::Cancelled)) => {
                return Err(Error::Cancelled { finished, asked: jobs.len() });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(finished)
}

struct Run<'a> {
    engine: &'a Engine,
    settings: &'a Settings,
    cancel: &'a CancelToken,
    observer: &'a mut dyn FnMut(Progress<'_>),
    /// Sampling steps over all pictures, and those done.
    steps: usize,
    done: usize,
    /// Prompts encoded so far.
    texts: HashMap<String, Arc<Encoded>>,
}

impl Run<'_> {
    fn group(&mut self, jobs: &[Job], finished: &mut Vec<Picture>) -> Result<(), Error> {
        if jobs.is_empty() {
            return Ok(());
        }
        let latents = self.denoise(jobs)?;
        let each = latents.len() / jobs.len();
        for (job, latent) in jobs.iter().zip(latents.chunks_exact(each)) {
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
            let picture = Picture { width, height, rgb, index: job.index, origin };
            (self.observer)(Progress::Picture(&picture));
            finished.push(picture);
        }
        Ok(())
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
        let guidance = self.settings.guidance;
        // Without the prompt first, then with it: the order that `Guidance` wants.
        let negative = jobs.iter().map(|job| job.request.negative.as_str());
        let texts: Vec<&str> = negative.chain(jobs.iter().map(|job| job.request.prompt.as_str())).collect();
        let guided_somewhere =
            (0..self.settings.plan.len()).any(|s| guidance.active(s, self.settings.plan.len()));
        let mut conditions = Encoded::default();
        for (i, text) in texts.iter().enumerate() {
            // The half without the prompt is not needed where there is no guidance at all.
            let text = if i < images && !guided_somewhere { texts[i + images] } else { text };
            conditions.append(&*self.encode(text)?);
        }
        let shape = self.shape();
        let seeds: Vec<u64> = jobs.iter().map(|job| job.request.seed.unwrap_or(self.settings.seed)).collect();
        let mut noise = PerImage::seeded(self.settings.rng, &seeds, shape);
        let start = self.settings.plan.start(&noise.initial(shape));
        let (settings, engine, cancel) = (self.settings, self.engine, self.cancel);
        let denoise = |latent: &[f32], call: Call| -> Result<Vec<f32>, Error> {
            if cancel.is_cancelled() {
                return Err(CpuError::Cancelled.into());
            }
            let guided = guidance.active(call.step, call.steps);
            let batch = if guided { 2 * images } else { images };
            let key = PlanKey {
                network: Network::Denoise,
                batch,
                height: shape.height,
                width: shape.width,
                precision: settings.precision,
            };
            let plan = engine.plan(key)?;
            let mut plan = lock(&plan);
            let doubled;
            let sample = if guided {
                doubled = [latent, latent].concat();
                &doubled
            } else {
                latent
            };
            let timesteps = vec![call.timestep; batch];
            let mut inputs =
                vec![(names::SAMPLE, Data::F32(sample)), (names::TIMESTEP, Data::F32(&timesteps))];
            inputs.extend(conditions.last(batch, 2 * images));
            plan.run(&inputs, cancel)?;
            let output = plan.output(names::OUTPUT)?;
            Ok(if guided { guidance.combine(output, images)? } else { output.to_vec() })
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

    fn encode(&mut self, text: &str) -> Result<Arc<Encoded>, Error> {
        if let Some(known) = self.texts.get(text) {
            return Ok(Arc::clone(known));
        }
        let manifest = self.engine.manifest();
        let encoding = manifest.tokenizer.encode(text);
        // Once a prompt, and small: the reference precision costs nothing here.
        let precision = Precision::F32;
        let plan =
            self.engine.plan(PlanKey { network: Network::Text, batch: 1, height: 0, width: 0, precision })?;
        let mut plan = lock(&plan);
        let encoded = Arc::new(Encoded::compute(&encoding, &mut plan, self.cancel)?);
        self.texts.insert(text.to_string(), Arc::clone(&encoded));
        Ok(encoded)
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
