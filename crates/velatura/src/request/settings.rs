//! What the pipeline runs on.

use velatura_models::unet::FreeU;
use velatura_samplers::{
    Call, Guidance, NoiseSchedule, Plan, PlanRequest, Sampler, Spacing, find_spacing, parse_sampler,
};

use super::resolve::REFINER_SWITCH;
use super::{DeepCache, GenerateRequest, GuidanceOptions, Precision, RequestError, Tiling};
use crate::manifest::{ModelManifest, Task};
use crate::prompt::PromptStyle;
use crate::sizes::SizeConditions;

/// A request checked against a model, with everything decided.
pub(crate) struct Settings {
    pub width: usize,
    pub height: usize,
    pub guidance: Guidance,
    pub guidance_options: GuidanceOptions,
    pub freeu: Option<FreeU>,
    pub deepcache: Option<DeepCache>,
    pub precision: Precision,
    pub clip_skip: u32,
    pub prompts: PromptStyle,
    pub sizes: SizeConditions,
    /// The timestep below which the refiner takes over.
    pub refine_below: f32,
    pub tiled: bool,
    pub task: Task,
    pub strength: f64,
    pub image_guidance: f32,
    pub noise_level: u32,
    /// What a latent consistency model is told.
    pub told_guidance: f32,
    pub sampler: Box<dyn Sampler>,
    pub plan: Plan,
}

impl Settings {
    /// Whether a call of the denoiser is also about the picture without its prompt.
    pub fn is_guided(&self, call: Call) -> bool {
        // CFG++ follows the answer without the prompt also where guidance is 1.
        let follows = self.sampler.follows_unguided();
        self.guidance.is_on(call.step, call.steps) && (follows || self.guidance.scale != 1.0)
    }

    /// How often the denoiser is called for each picture.
    pub fn calls(&self) -> usize {
        self.sampler.evaluations(&self.plan)
    }
}

impl GenerateRequest {
    pub(crate) fn prompt_style(&self) -> PromptStyle {
        PromptStyle { dialect: self.prompt_dialect, emphasis: self.emphasis }
    }

    /// How the model was noised, as its files or the request say.
    pub(super) fn noise_schedule(&self, manifest: &ModelManifest) -> NoiseSchedule {
        let schedule = match self.prediction {
            Some(prediction) => manifest.schedule.predicting(prediction),
            None => manifest.schedule.clone(),
        };
        NoiseSchedule { zero_snr: self.zero_snr.unwrap_or(schedule.zero_snr), ..schedule }
    }

    /// The timestep below which the refiner takes over: diffusers' `discrete_timestep_cutoff`.
    fn refine_below(&self, train_timesteps: usize) -> f32 {
        let (all, switch) =
            (train_timesteps as f64, f64::from(self.refiner_switch.unwrap_or(REFINER_SWITCH)));
        (all - switch * all).round_ties_even() as f32
    }

    /// The noise levels at which the steps of a run begin, as ratios of noise to signal, from a
    /// request that went through [`GenerateRequest::resolve`].
    ///
    /// # Errors
    /// A run that cannot be laid out.
    pub fn noise_levels(&self, manifest: &ModelManifest) -> Result<Vec<f64>, crate::Error> {
        Ok(self.settings(manifest)?.plan.steps.iter().map(|step| step.from.ratio()).collect())
    }

    /// What the pipeline runs on, from a request that went through [`GenerateRequest::resolve`].
    pub(crate) fn settings(&self, manifest: &ModelManifest) -> Result<Settings, crate::Error> {
        let defaults = &manifest.defaults;
        let (entry, carried) = parse_sampler(self.sampler.as_deref().unwrap_or(&defaults.sampler))
            .map_err(RequestError::from)?;
        let spacing: Spacing = match &self.schedule {
            Some(name) => find_spacing(name).map_err(RequestError::from)?.spacing,
            None => carried.unwrap_or_default(),
        };
        let sampler = entry.build(&self.sampling.sampler())?;
        let table = self.noise_schedule(manifest).table()?;
        let steps = self.steps.unwrap_or(defaults.steps) as usize;
        let strength = self.strength.unwrap_or(1.0);
        // What a picture's share is for the rest of the pipeline.
        let share = self.sampling.denoise.unwrap_or(strength);
        let layout = PlanRequest { strength, ..PlanRequest::new(steps, spacing) };
        let plan = self.sampling.plan(&table, sampler.as_ref(), &layout).map_err(RequestError::from)?;
        let guidance = self.guidance.unwrap_or(defaults.guidance);
        // A model that is told the guidance answers once.
        let is_told = manifest.unet.time_cond_proj_dim.is_some();
        Ok(Settings {
            width: self.width.unwrap_or(defaults.width) as usize,
            height: self.height.unwrap_or(defaults.height) as usize,
            guidance_options: self.guidance_options.clone(),
            freeu: self.freeu,
            deepcache: self.deepcache,
            guidance: self.guidance_options.formula(if is_told { 1.0 } else { guidance }),
            precision: self.precision.unwrap_or(Precision::F32),
            clip_skip: self.clip_skip.unwrap_or(1),
            prompts: self.prompt_style(),
            sizes: self.sizes,
            refine_below: self.refine_below(table.train_timesteps()),
            tiled: self.vae_tiling == Tiling::On,
            task: manifest.task().unwrap_or(Task::TextToImage),
            strength: share,
            image_guidance: self.image_guidance.unwrap_or(1.0),
            noise_level: self.noise_level.unwrap_or_default(),
            told_guidance: guidance,
            sampler,
            plan,
        })
    }
}
