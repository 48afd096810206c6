//! What samplers and schedules can be told beyond their names.

use serde::{Deserialize, Serialize};
use velatura_samplers::noise::StepNoise;
use velatura_samplers::{NoiseTable, Plan, PlanError, PlanRequest, Sampler, SamplerOptions};

use super::{MOST_STEPS, RequestError};

/// What samplers and schedules can be told beyond their names. What a sampler does not read changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingOptions {
    /// Share of fresh noise in each step, 0 to 1; `None` is the sampler's own (1 for ancestral and stochastic ones, else 0).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta: Option<f64>,
    /// Factor of that noise, 0 or more. `None` is 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s_noise: Option<f64>,
    /// Noise added before each step by Euler, Heun and DPM2 (Karras et al. 2022), 0 or more. `None` is 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s_churn: Option<f64>,
    /// Lowest sigma at which that is done. `None` is 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s_tmin: Option<f64>,
    /// Highest sigma at which that is done. `None` is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s_tmax: Option<f64>,
    /// Exponent of the karras (7) and polyexponential (1) schedules, above 0 and at most 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rho: Option<f64>,
    /// Noise levels in place of a schedule: ratios of noise to signal as in k-diffusion, falling; a 0 at the end may be left
    /// out. There are as many steps. Empty where the schedule lays them out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sigmas: Vec<f64>,
    /// For a picture that the run begins from: ComfyUI's way of counting in place of strength. All steps are taken, as the last
    /// ones of `steps / denoise`. Above 0 and at most 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denoise: Option<f64>,
    /// Whether the first noise keeps its variance of 1 where the schedule begins at the model's noisiest level, as in ComfyUI,
    /// and in A1111 with "SGM noise multiplier". Without it the noise is scaled as in A1111 and diffusers.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unit_start: bool,
    /// Where the noise in the steps comes from.
    #[serde(skip_serializing_if = "goes_on")]
    pub step_noise: StepNoise,
}

fn goes_on(noise: &StepNoise) -> bool {
    *noise == StepNoise::Continue
}

impl SamplingOptions {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// As samplers take them.
    pub(super) fn sampler(&self) -> SamplerOptions {
        let usual = SamplerOptions::default();
        SamplerOptions {
            eta: self.eta,
            s_noise: self.s_noise.unwrap_or(usual.s_noise),
            s_churn: self.s_churn.unwrap_or(usual.s_churn),
            s_tmin: self.s_tmin.unwrap_or(usual.s_tmin),
            s_tmax: self.s_tmax,
        }
    }

    /// Those that were given and that only some samplers read, by name.
    pub(crate) fn given(&self) -> impl Iterator<Item = &'static str> {
        let all = [
            ("eta", self.eta),
            ("s_noise", self.s_noise),
            ("s_churn", self.s_churn),
            ("s_tmin", self.s_tmin),
            ("s_tmax", self.s_tmax),
        ];
        all.into_iter().filter_map(|(name, value)| value.map(|_| name))
    }

    /// The levels without the 0 at their end.
    pub(crate) fn levels(&self) -> &[f64] {
        self.sigmas.strip_suffix(&[0.0]).unwrap_or(&self.sigmas)
    }

    pub(super) fn check(&self, strength: Option<f64>) -> Result<(), RequestError> {
        self.sampler().validate().map_err(RequestError::SamplerOption)?;
        if let Some(infinite) = self.s_tmax.filter(|v| !v.is_finite()) {
            let range = "a finite number, or left out for no limit";
            let error = velatura_samplers::OptionError { name: "s_tmax", value: infinite, range };
            return Err(RequestError::SamplerOption(error));
        }
        if let Some(rho) = self.rho
            && !(rho > 0.0 && rho <= 100.0)
        {
            return Err(PlanError::Rho(rho).into());
        }
        if let Some(denoise) = self.denoise {
            if !(denoise > 0.0 && denoise <= 1.0) {
                return Err(RequestError::Denoise(denoise));
            }
            if strength.is_some() {
                return Err(RequestError::DenoiseAndStrength);
            }
            if !self.sigmas.is_empty() {
                return Err(RequestError::DenoiseAndSigmas);
            }
        }
        let levels = self.levels();
        if levels.len() > MOST_STEPS as usize {
            return Err(RequestError::Steps(u32::try_from(levels.len()).unwrap_or(u32::MAX)));
        }
        let mut before = f64::INFINITY;
        for (index, &value) in levels.iter().enumerate() {
            if !(value > 0.0 && value < before) {
                return Err(PlanError::Sigmas { index, value }.into());
            }
            before = value;
        }
        if levels.is_empty() && !self.sigmas.is_empty() {
            return Err(PlanError::Sigmas { index: 0, value: 0.0 }.into());
        }
        Ok(())
    }

    /// The steps of a run: those of a schedule, or those that were given.
    pub(super) fn plan(
        &self,
        table: &NoiseTable,
        sampler: &dyn Sampler,
        asked: &PlanRequest,
    ) -> Result<Plan, PlanError> {
        let asked = PlanRequest { rho: self.rho, ..*asked };
        let plan = if !self.sigmas.is_empty() {
            let whole = Plan::from_sigmas(table, self.levels())?;
            let steps = whole.len();
            let keep = (steps as f64 * asked.strength) as usize;
            whole.last(keep).ok_or(PlanError::NoStepsLeft { strength: asked.strength, steps })?
        } else if let Some(denoise) = self.denoise {
            Plan::with_denoise(table, sampler.grid(), &asked, denoise)?
        } else {
            Plan::new(table, sampler.grid(), &asked)?
        };
        Ok(if self.unit_start { plan.with_unit_start() } else { plan })
    }
}
