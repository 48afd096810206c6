//! The timesteps and noise levels of one run.

use std::sync::Arc;

use crate::prediction::{Level, Prediction};
use crate::schedule::NoiseTable;
use crate::spacing::{self, Grid, Spacing};
use crate::{PlanError, ScheduleError};

/// The path that a latent takes from picture to noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// Beta schedules: `alpha^2 + sigma^2 = 1`.
    VariancePreserving,
    /// Rectified flow: `alpha + sigma = 1`.
    Flow,
}

/// One step: the network is asked at `timestep`, and the latent moves from one level to the other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// What the network is given.
    pub timestep: f32,
    /// Level of the latent before the step.
    pub from: Level,
    /// Level after it. Usually the next step's `from`; DDIM with diffusers' fixed stride may differ.
    pub to: Level,
}

/// What to lay out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlanRequest {
    /// Number of steps, at least 1.
    pub steps: usize,
    /// Which timesteps.
    pub spacing: Spacing,
    /// For karras and exponential spacing on sigma-based samplers: the spacing whose first and last
    /// sigma are the range (diffusers' `timestep_spacing` beside `use_karras_sigmas`).
    pub base: Spacing,
    /// Image to image: the share of the steps to run, above 0 and at most 1. As in diffusers the last
    /// `int(steps * strength)` steps remain.
    pub strength: f64,
    /// Exponent of karras (7) and polyexponential (1) spacing, above 0 and at most 100; `None` is the spacing's own.
    pub rho: Option<f64>,
}

impl PlanRequest {
    /// A run from pure noise.
    pub fn new(steps: usize, spacing: Spacing) -> Self {
        PlanRequest { steps, spacing, base: Spacing::Linspace, strength: 1.0, rho: None }
    }
}

/// The steps of one run, in the order in which they are taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The steps; never empty.
    pub steps: Vec<Step>,
    /// Factor from unit noise to the starting latent of a run from pure noise.
    pub init_scale: f64,
    /// Path of the latent.
    pub path: Path,
    /// What the network predicts.
    pub prediction: Prediction,
    /// For samplers that ask the network between the steps.
    pub(crate) table: Arc<NoiseTable>,
}

impl Plan {
    /// Lays out a run of a sampler with the given grid.
    ///
    /// # Errors
    /// Zero or too many steps, a strength out of range, a base that is no range.
    pub fn new(table: &NoiseTable, grid: Grid, request: &PlanRequest) -> Result<Self, PlanError> {
        let strength = request.strength;
        if !(strength > 0.0 && strength <= 1.0) {
            return Err(PlanError::Strength(strength));
        }
        if let Some(rho) = request.rho
            && !(rho > 0.0 && rho <= 100.0)
        {
            return Err(PlanError::Rho(rho));
        }
        let points = if table.is_flow() {
            spacing::flow::points(table, grid, request)?
        } else {
            spacing::discrete::points(table, grid, request)?
        };
        let whole = Self::from_points(table, points);
        if strength == 1.0 {
            return Ok(whole);
        }
        let keep = (whole.len() as f64 * strength) as usize;
        whole.last(keep).ok_or(PlanError::NoStepsLeft { strength, steps: request.steps })
    }

    /// ComfyUI's image to image: the last `steps` of a run of `int(steps / denoise)`, so that as many steps are taken
    /// whatever the share. `request.strength` plays no part.
    ///
    /// # Errors
    /// As [`new`](Self::new); `denoise` is named as strength.
    pub fn with_denoise(
        table: &NoiseTable,
        grid: Grid,
        request: &PlanRequest,
        denoise: f64,
    ) -> Result<Self, PlanError> {
        if !(denoise > 0.0 && denoise <= 1.0) {
            return Err(PlanError::Strength(denoise));
        }
        // As ComfyUI counts a share that is nearly the whole; the cast saturates.
        let steps = if denoise > 0.9999 { request.steps } else { (request.steps as f64 / denoise) as usize };
        let whole = Self::new(table, grid, &PlanRequest { steps, strength: 1.0, ..*request })?;
        whole.last(request.steps).ok_or(PlanError::ZeroSteps)
    }

    /// A run over sigmas of the caller's own: noise-to-signal ratios as in k-diffusion, or times 0..=1
    /// for rectified flow. A final 0 is added; one that is there already is accepted.
    ///
    /// # Errors
    /// Sigmas that are missing, not finite, not positive or not decreasing.
    pub fn from_sigmas(table: &NoiseTable, sigmas: &[f64]) -> Result<Self, PlanError> {
        let sigmas = sigmas.strip_suffix(&[0.0]).unwrap_or(sigmas);
        let mut before = if table.is_flow() { 1.0 + f64::EPSILON } else { f64::INFINITY };
        if sigmas.is_empty() {
            return Err(PlanError::Sigmas { index: 0, value: 0.0 });
        }
        for (index, &value) in sigmas.iter().enumerate() {
            if !(value > 0.0 && value < before) {
                return Err(PlanError::Sigmas { index, value });
            }
            before = value;
        }
        let level = if table.is_flow() { Level::from_flow_time } else { Level::from_ratio };
        let points = Points {
            timesteps: sigmas.iter().map(|&sigma| table.timestep_of_sigma(sigma)).collect(),
            levels: sigmas.iter().map(|&sigma| level(sigma)).collect(),
            targets: None,
            init_scale: None,
        };
        Ok(Self::from_points(table, points))
    }

    fn from_points(table: &NoiseTable, points: Points) -> Self {
        let Points { timesteps, levels, targets, init_scale } = points;
        let targets = targets
            .unwrap_or_else(|| levels.iter().skip(1).copied().chain([Level::CLEAN]).collect::<Vec<_>>());
        let init_scale = init_scale.unwrap_or_else(|| match levels.first() {
            // Sigma-based samplers start from noise * sigma_max, which the network sees divided by
            // sqrt(sigma_max^2 + 1).
            Some(first) if !table.is_flow() => first.sigma,
            _ => 1.0,
        });
        let steps = timesteps
            .into_iter()
            .zip(levels)
            .zip(targets)
            .map(|((timestep, from), to)| Step { timestep: timestep as f32, from, to })
            .collect();
        Plan {
            steps,
            init_scale,
            path: if table.is_flow() { Path::Flow } else { Path::VariancePreserving },
            prediction: table.schedule().prediction,
            table: Arc::new(table.clone()),
        }
    }

    /// What the network is given for a latent at a level between the steps.
    pub fn timestep(&self, at: Level) -> f32 {
        let sigma = match self.path {
            Path::VariancePreserving => at.ratio(),
            Path::Flow => at.sigma,
        };
        self.table.timestep_of_sigma(sigma) as f32
    }

    /// Level at a timestep, which is brought into the schedule's range first.
    pub(crate) fn level_at(&self, timestep: f64) -> Level {
        let at = timestep.clamp(0.0, self.table.last_timestep());
        self.table.level(at).unwrap_or(Level::CLEAN)
    }

    /// The level of least noise above 0 that the schedule has.
    pub(crate) fn lowest(&self) -> Level {
        match self.path {
            Path::VariancePreserving => Level::from_ratio(self.table.sigma_at(0.0)),
            Path::Flow => {
                let first = 1.0 / self.table.train_timesteps() as f64;
                Level::from_flow_time(self.table.shift_time(first))
            }
        }
    }

    /// The last `count` steps of this plan; `None` for 0.
    pub fn last(mut self, count: usize) -> Option<Self> {
        if count == 0 {
            return None;
        }
        self.steps.drain(..self.steps.len().saturating_sub(count));
        Some(self)
    }

    /// Number of steps.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether there are no steps. Plans that this crate lays out always have one.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The same plan with noise that is not scaled down for what the first level lacks to pure noise, as the networks were
    /// trained and ComfyUI begins (A1111's "SGM noise multiplier"). k-diffusion, and with it A1111 and diffusers, leaves
    /// out the part of the latent that would be the picture. A plan that begins below the schedule's last level is left as
    /// it is.
    #[must_use]
    pub fn with_unit_start(mut self) -> Self {
        if self.path == Path::Flow {
            return self;
        }
        let most = self.table.sigma_at(self.table.last_timestep());
        if self.steps.first().is_some_and(|step| step.from.ratio() >= most * (1.0 - 1e-5)) {
            self.init_scale = 1.0;
        }
        self
    }

    /// The starting latent of a run from pure noise: unit `noise`, scaled.
    pub fn start(&self, noise: &[f32]) -> Vec<f32> {
        noise.iter().map(|&n| (self.init_scale * f64::from(n)) as f32).collect()
    }

    /// The starting latent of a run from a picture: `x0` noised to the level of the first step.
    ///
    /// # Errors
    /// Lengths that differ.
    pub fn start_from(&self, x0: &[f32], noise: &[f32]) -> Result<Vec<f32>, ScheduleError> {
        if x0.len() != noise.len() {
            return Err(ScheduleError::Length { what: "noise", found: noise.len(), expected: x0.len() });
        }
        let at = self.steps.first().map_or(Level::CLEAN, |step| step.from);
        Ok(x0
            .iter()
            .zip(noise)
            .map(|(&x, &n)| (at.alpha * f64::from(x) + at.sigma * f64::from(n)) as f32)
            .collect())
    }
}

/// What a spacing gives: one entry a step.
pub(crate) struct Points {
    /// What the network is given.
    pub timesteps: Vec<f64>,
    /// Where each step begins.
    pub levels: Vec<Level>,
    /// Where each step ends, when that is not the next beginning.
    pub targets: Option<Vec<Level>>,
    /// Factor of the initial noise, when it is not the sigma of the first level.
    pub init_scale: Option<f64>,
}
