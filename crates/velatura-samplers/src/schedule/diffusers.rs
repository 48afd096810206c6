//! Reading diffusers' `scheduler_config.json`.

use serde::Deserialize;

use super::{DynamicShift, NoiseSchedule, ScheduleError, ScheduleKind};
use crate::{Prediction, Spacing};

/// The fields of diffusers' `scheduler_config.json` that matter here; others are ignored.
///
/// Missing fields mean what they mean to the scheduler class that the file names.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct DiffusersSchedulerConfig {
    #[serde(rename = "_class_name")]
    pub class_name: Option<String>,
    pub num_train_timesteps: Option<usize>,
    pub beta_start: Option<f64>,
    pub beta_end: Option<f64>,
    pub beta_schedule: Option<String>,
    pub prediction_type: Option<String>,
    pub rescale_betas_zero_snr: bool,
    pub steps_offset: usize,
    pub set_alpha_to_one: Option<bool>,
    pub shift: Option<f64>,
    pub flow_shift: Option<f64>,
    pub timestep_spacing: Option<String>,
    pub use_karras_sigmas: Option<bool>,
    pub use_exponential_sigmas: Option<bool>,
    pub use_beta_sigmas: Option<bool>,
    pub use_dynamic_shifting: bool,
    pub time_shift_type: Option<String>,
    pub base_shift: Option<f64>,
    pub max_shift: Option<f64>,
    pub base_image_seq_len: Option<usize>,
    pub max_image_seq_len: Option<usize>,
}

impl DiffusersSchedulerConfig {
    /// Whether the named class is one of rectified flow.
    pub fn is_flow(&self) -> bool {
        self.class_name.as_deref().is_some_and(|name| name.contains("FlowMatch"))
            || self.prediction_type.as_deref() == Some("flow_prediction")
    }

    /// The noise schedule that the file describes.
    ///
    /// # Errors
    /// A beta schedule or prediction type that is not known, or a value out of range.
    pub fn noise_schedule(&self) -> Result<NoiseSchedule, ScheduleError> {
        let train_timesteps = self.num_train_timesteps.unwrap_or(1000);
        if self.is_flow() {
            let schedule = NoiseSchedule {
                train_timesteps,
                ..NoiseSchedule::rectified_flow(self.shift.or(self.flow_shift).unwrap_or(1.0))
            };
            schedule.validate()?;
            return Ok(schedule);
        }
        let kind = match self.beta_schedule.as_deref() {
            None | Some("linear") => ScheduleKind::Linear,
            Some("scaled_linear") => ScheduleKind::ScaledLinear,
            Some("squaredcos_cap_v2") => ScheduleKind::SquaredcosCapV2,
            Some(other) => {
                return Err(ScheduleError::Unsupported { field: "beta_schedule", value: other.to_owned() });
            }
        };
        let prediction = match self.prediction_type.as_deref() {
            None | Some("epsilon") => Prediction::Epsilon,
            Some("v_prediction") => Prediction::VPrediction,
            Some("sample") => Prediction::Sample,
            Some(other) => {
                return Err(ScheduleError::Unsupported { field: "prediction_type", value: other.to_owned() });
            }
        };
        let schedule = NoiseSchedule {
            kind,
            prediction,
            train_timesteps,
            beta_start: self.beta_start.unwrap_or(0.0001),
            beta_end: self.beta_end.unwrap_or(0.02),
            zero_snr: self.rescale_betas_zero_snr,
            shift: 1.0,
            steps_offset: self.steps_offset,
            // PNDM alone ends at timestep 0 unless told otherwise.
            set_alpha_to_one: self
                .set_alpha_to_one
                .unwrap_or(self.class_name.as_deref() != Some("PNDMScheduler")),
        };
        schedule.validate()?;
        Ok(schedule)
    }

    /// How the shift follows the size of the picture, if the file says that it does; see
    /// [`NoiseSchedule::shifted_for`].
    ///
    /// # Errors
    /// A kind of shift that is not known.
    pub fn dynamic_shift(&self) -> Result<Option<DynamicShift>, ScheduleError> {
        if !self.use_dynamic_shifting {
            return Ok(None);
        }
        let linear = match self.time_shift_type.as_deref() {
            None | Some("exponential") => false,
            Some("linear") => true,
            Some(other) => {
                return Err(ScheduleError::Unsupported { field: "time_shift_type", value: other.to_owned() });
            }
        };
        let usual = DynamicShift::default();
        Ok(Some(DynamicShift {
            base_shift: self.base_shift.unwrap_or(usual.base_shift),
            max_shift: self.max_shift.unwrap_or(usual.max_shift),
            base_tokens: self.base_image_seq_len.unwrap_or(usual.base_tokens),
            max_tokens: self.max_image_seq_len.unwrap_or(usual.max_tokens),
            linear,
        }))
    }

    /// The spacing that the file asks for, if any.
    pub fn spacing(&self) -> Option<Spacing> {
        if self.use_karras_sigmas == Some(true) {
            return Some(Spacing::Karras);
        }
        if self.use_exponential_sigmas == Some(true) {
            return Some(Spacing::Exponential);
        }
        if self.use_beta_sigmas == Some(true) {
            return Some(Spacing::BetaSigmas);
        }
        match self.timestep_spacing.as_deref()? {
            "leading" => Some(Spacing::Leading),
            "trailing" => Some(Spacing::Trailing),
            "linspace" => Some(Spacing::Linspace),
            _ => None,
        }
    }
}
