//! Forward noising, targets, loss weights and timestep draws for training.

use serde::{Deserialize, Serialize};

use super::{NoiseTable, ScheduleError};
use crate::noise::Draws;
use crate::{Level, Prediction};

/// How training draws its timesteps.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum TimeSampling {
    /// Every timestep equally often (for rectified flow: every time in 0..1, then shifted).
    #[default]
    Uniform,
    /// The time is `sigmoid(mean + std * normal)`, which favours the middle (Esser et al. 2024), then
    /// shifted. For the discrete schedules the time is scaled to the timesteps.
    LogitNormal {
        /// Mean of the normal; above 0 favours noise.
        mean: f64,
        /// Standard deviation of the normal.
        std: f64,
    },
}

impl NoiseTable {
    /// Draws one timestep: a whole number for the discrete schedules, a real number for rectified flow.
    pub fn draw_timestep(&self, sampling: TimeSampling, draws: &mut Draws) -> f64 {
        let time = match sampling {
            TimeSampling::Uniform => draws.uniform(),
            TimeSampling::LogitNormal { mean, std } => {
                1.0 / (1.0 + (-(mean + std * f64::from(draws.normal()))).exp())
            }
        };
        let n = self.train_timesteps() as f64;
        if self.is_flow() {
            self.shift_time(time).clamp(0.0, 1.0) * n
        } else {
            (time * n).floor().clamp(0.0, n - 1.0)
        }
    }

    /// `x = alpha * x0 + sigma * noise` for a batch; one timestep an image.
    ///
    /// `x0` and `noise` are `[batch, ...]` flattened, `batch` being the number of timesteps.
    ///
    /// # Errors
    /// Lengths that do not belong together, or a timestep outside the schedule.
    pub fn add_noise(&self, x0: &[f32], noise: &[f32], timesteps: &[f64]) -> Result<Vec<f32>, ScheduleError> {
        self.mix(x0, noise, timesteps, |at| (at.alpha, at.sigma))
    }

    /// What the network should answer for a batch; one timestep an image. Shapes as in
    /// [`add_noise`](Self::add_noise).
    ///
    /// # Errors
    /// Lengths that do not belong together, or a timestep outside the schedule.
    pub fn target(&self, x0: &[f32], noise: &[f32], timesteps: &[f64]) -> Result<Vec<f32>, ScheduleError> {
        let prediction = self.schedule().prediction;
        self.mix(x0, noise, timesteps, |at| prediction.target(at))
    }

    fn mix(
        &self,
        x0: &[f32],
        noise: &[f32],
        timesteps: &[f64],
        coefficients: impl Fn(Level) -> (f64, f64),
    ) -> Result<Vec<f32>, ScheduleError> {
        if noise.len() != x0.len() {
            return Err(ScheduleError::Length { what: "noise", found: noise.len(), expected: x0.len() });
        }
        if timesteps.is_empty() || !x0.len().is_multiple_of(timesteps.len()) {
            let expected = x0.len().next_multiple_of(timesteps.len().max(1));
            return Err(ScheduleError::Length { what: "latent", found: x0.len(), expected });
        }
        let image = (x0.len() / timesteps.len()).max(1);
        let mut out = Vec::with_capacity(x0.len());
        for ((x0, noise), &timestep) in x0.chunks(image).zip(noise.chunks(image)).zip(timesteps) {
            let (c0, cn) = coefficients(self.level(timestep)?);
            out.extend(x0.iter().zip(noise).map(|(&x, &n)| (c0 * f64::from(x) + cn * f64::from(n)) as f32));
        }
        Ok(out)
    }

    /// Weight of the squared error at a timestep under min-SNR (Hang et al. 2023, arXiv 2303.09556).
    ///
    /// In terms of the clean latent the weight is `min(snr, gamma)`; divided by what the prediction
    /// scales its error with, that is `min(snr, gamma) / snr` for noise, `/ (snr + 1)` for v,
    /// `min(snr, gamma)` for the clean latent, and `min(snr, gamma) * sigma^2` for flow velocity.
    /// `gamma` is usually 5; infinity gives the plain SNR weighting.
    ///
    /// # Errors
    /// A timestep outside the schedule.
    pub fn min_snr_weight(&self, timestep: f64, gamma: f64) -> Result<f64, ScheduleError> {
        let at = self.level(timestep)?;
        let snr = at.snr();
        Ok(match self.schedule().prediction {
            // The limit for snr = 0 and for snr = infinity, where the quotient is 0/0 or inf/inf.
            Prediction::Epsilon => {
                if snr <= gamma {
                    1.0
                } else {
                    gamma / snr
                }
            }
            Prediction::Sample => snr.min(gamma),
            // alpha^2 = min-snr without the division where sigma is 0.
            other if snr <= gamma => at.alpha.powi(2) / at.sigma.powi(2) * other.error_to_x0(at),
            other => gamma * other.error_to_x0(at),
        })
    }
}
