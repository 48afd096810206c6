//! A model at work on a run: its prompts, encoded once, and its denoiser.

use std::collections::HashMap;
use std::sync::Arc;

use velatura_cpu::CancelToken;
use velatura_samplers::noise::LatentShape;

use super::deep::Kept;
use super::denoise::{Denoiser, Guide, Told};
use super::encode::Conditions;
use super::pictures::Job;
use crate::Error;
use crate::engine::Engine;
use crate::networks::Changes;
use crate::request::Settings;

/// A model at work on a run.
pub(crate) struct Stage<'a> {
    engine: &'a Engine,
    settings: &'a Settings,
    cancel: &'a CancelToken,
    /// Prompts and negative prompts encoded so far.
    texts: HashMap<(String, bool), Arc<Conditions>>,
}

impl<'a> Stage<'a> {
    pub fn new(engine: &'a Engine, settings: &'a Settings, cancel: &'a CancelToken) -> Self {
        Stage { engine, settings, cancel, texts: HashMap::new() }
    }

    /// The denoiser for latents of this shape, and the prompts of each picture.
    pub fn team(&mut self, jobs: &[Job], shape: LatentShape) -> Result<(Denoiser<'a>, Vec<Guide>), Error> {
        let Stage { engine, settings, cancel, .. } = *self;
        let guide = |job: &Job| -> Result<Guide, Error> {
            let negative = self.encode(&job.request.negative, true)?;
            Ok(Guide { negative, prompt: self.encode(&job.request.prompt, false)? })
        };
        let guides = jobs.iter().map(guide).collect::<Result<_, _>>()?;
        let perturbed = settings.guidance_options.perturbed_attention.as_ref();
        let denoiser = Denoiser {
            engine,
            shape,
            precision: settings.precision,
            cancel,
            told: Told::default(),
            changes: Changes::freeu(settings.freeu),
            perturbed: perturbed.map_or(0, |perturbed| perturbed.of(&engine.manifest().unet)),
            kept: Kept::new(settings.deepcache, &engine.manifest().unet),
        };
        Ok((denoiser, guides))
    }

    /// Encodes all prompts of these jobs.
    pub fn read(&mut self, jobs: &[Job]) -> Result<(), Error> {
        for Job { request, .. } in jobs {
            self.encode(&request.negative, true)?;
            self.encode(&request.prompt, false)?;
        }
        Ok(())
    }

    fn encode(&mut self, text: &str, negative: bool) -> Result<Arc<Conditions>, Error> {
        let key = (text.to_string(), negative);
        if let Some(known) = self.texts.get(&key) {
            return Ok(Arc::clone(known));
        }
        let encoded = Conditions::encode(self.engine, text, negative, self.settings, self.cancel)?;
        let encoded = Arc::new(encoded);
        self.texts.insert(key, Arc::clone(&encoded));
        Ok(encoded)
    }
}
