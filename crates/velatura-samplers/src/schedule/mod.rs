//! How a model was noised: the stored configuration and its computed table.

mod betas;
mod diffusers;
mod shift;
mod table;
mod training;

use serde::{Deserialize, Serialize};

pub use betas::{betas, rescale_zero_terminal_snr};
pub use diffusers::DiffusersSchedulerConfig;
pub use shift::DynamicShift;
pub(crate) use table::ALPHA_BAR_FLOOR;
pub use table::NoiseTable;
pub use training::TimeSampling;

use crate::{Prediction, ScheduleError};

/// Family of a noise schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Betas from start to end in equal steps (Ho et al. 2020).
    Linear,
    /// Square roots of the betas in equal steps: latent diffusion and Stable Diffusion. Their own code
    /// calls this "linear".
    #[default]
    ScaledLinear,
    /// Cosine of Nichol and Dhariwal 2021; the beta range is not used.
    #[serde(rename = "squaredcos_cap_v2", alias = "cosine")]
    SquaredcosCapV2,
    /// The straight path `x = (1 - t) * x0 + t * noise`; the beta range is not used.
    #[serde(alias = "flow", alias = "flow_matching")]
    RectifiedFlow,
}

/// How a model was noised and what it predicts: stored with the model, read by training and sampling.
///
/// The fields have diffusers' meaning; each may be left out of a file and then takes the value of
/// [`NoiseSchedule::default`], which is Stable Diffusion 1.x.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NoiseSchedule {
    /// Family.
    pub kind: ScheduleKind,
    /// What the network predicts.
    pub prediction: Prediction,
    /// Number of training timesteps, 2 to 1,000,000. For rectified flow it only scales the time that
    /// the network sees: time 1 is timestep `train_timesteps`.
    pub train_timesteps: usize,
    /// First beta, `0 < beta_start <= beta_end`.
    pub beta_start: f64,
    /// Last beta, below 1.
    pub beta_end: f64,
    /// Rescale the betas so that the last timestep is pure noise (Lin et al. 2023).
    pub zero_snr: bool,
    /// Rectified flow: times are moved to `shift * t / (1 + (shift - 1) * t)` (Esser et al. 2024).
    pub shift: f64,
    /// Added to the timesteps of leading spacing (Stable Diffusion: 1).
    pub steps_offset: usize,
    /// DDIM: whether the last step ends in the clean latent; otherwise it ends at timestep 0.
    pub set_alpha_to_one: bool,
}

impl Default for NoiseSchedule {
    fn default() -> Self {
        NoiseSchedule {
            kind: ScheduleKind::ScaledLinear,
            prediction: Prediction::Epsilon,
            train_timesteps: 1000,
            beta_start: 0.00085,
            beta_end: 0.012,
            zero_snr: false,
            shift: 1.0,
            steps_offset: 1,
            set_alpha_to_one: false,
        }
    }
}

impl NoiseSchedule {
    /// Stable Diffusion 1.x and 2.x-base: scaled-linear betas, noise prediction.
    pub fn stable_diffusion() -> Self {
        Self::default()
    }

    /// Scaled-linear betas rescaled to zero terminal SNR, v prediction: a good choice for training.
    pub fn zero_terminal_snr() -> Self {
        NoiseSchedule {
            prediction: Prediction::VPrediction,
            zero_snr: true,
            steps_offset: 0,
            set_alpha_to_one: true,
            ..Self::default()
        }
    }

    /// Rectified flow with the given shift (1: none), 1000 timesteps, velocity prediction.
    pub fn rectified_flow(shift: f64) -> Self {
        NoiseSchedule {
            kind: ScheduleKind::RectifiedFlow,
            prediction: Prediction::Flow,
            shift,
            steps_offset: 0,
            set_alpha_to_one: true,
            ..Self::default()
        }
    }

    /// The same noise for another prediction. Flow goes with the straight path and the others with betas, so a change
    /// between them takes the usual schedule of the other: [`NoiseSchedule::rectified_flow`] without shift, or
    /// [`NoiseSchedule::stable_diffusion`].
    pub fn predicting(&self, prediction: Prediction) -> Self {
        match (self.is_flow(), prediction) {
            (false, Prediction::Flow) => Self::rectified_flow(1.0),
            (true, Prediction::Epsilon | Prediction::VPrediction | Prediction::Sample) => {
                NoiseSchedule { prediction, ..Self::stable_diffusion() }
            }
            _ => NoiseSchedule { prediction, ..self.clone() },
        }
    }

    /// Whether this is the straight path of rectified flow.
    pub fn is_flow(&self) -> bool {
        self.kind == ScheduleKind::RectifiedFlow
    }

    /// Checks every field.
    ///
    /// # Errors
    /// The first field that is out of range.
    pub fn validate(&self) -> Result<(), ScheduleError> {
        if !(2..=1_000_000).contains(&self.train_timesteps) {
            return Err(ScheduleError::TrainTimesteps(self.train_timesteps));
        }
        if !(self.shift.is_finite() && self.shift > 0.0) {
            return Err(ScheduleError::Shift(self.shift));
        }
        if self.is_flow() && self.zero_snr {
            return Err(ScheduleError::ZeroSnrOfFlow);
        }
        let (start, end) = (self.beta_start, self.beta_end);
        let uses_range = matches!(self.kind, ScheduleKind::Linear | ScheduleKind::ScaledLinear);
        // Written so that NaN fails.
        if uses_range && !(start > 0.0 && start <= end && end < 1.0) {
            return Err(ScheduleError::BetaRange { start, end });
        }
        Ok(())
    }

    /// Computes the table.
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub fn table(&self) -> Result<NoiseTable, ScheduleError> {
        NoiseTable::new(self)
    }
}
