//! The computed form of a noise schedule.

use super::betas::{betas, cumulative_alphas, rescale_zero_terminal_snr};
use super::{NoiseSchedule, ScheduleError};
use crate::Level;

/// What stands in for an `alphas_cumprod` of exactly 0 where a finite noise-to-signal ratio is needed:
/// the smallest half-precision number, the value that diffusers' sigma-based schedulers use.
pub(crate) const ALPHA_BAR_FLOOR: f64 = 1.0 / (1u64 << 24) as f64;

/// Noise levels of a model at each of its timesteps.
///
/// *Timesteps* here are what the network is given: 0 to `train_timesteps - 1` for the discrete
/// schedules, and for rectified flow the time 0..=1 multiplied by `train_timesteps`.
#[derive(Debug, Clone, PartialEq)]
pub struct NoiseTable {
    schedule: NoiseSchedule,
    alphas_cumprod: Vec<f64>,
    sigmas: Vec<f64>,
    log_sigmas: Vec<f64>,
}

impl NoiseTable {
    /// Computes the table of a schedule.
    ///
    /// # Errors
    /// As [`NoiseSchedule::validate`].
    pub fn new(schedule: &NoiseSchedule) -> Result<Self, ScheduleError> {
        schedule.validate()?;
        let mut betas = betas(schedule);
        if schedule.zero_snr {
            betas = rescale_zero_terminal_snr(&betas);
        }
        let alphas_cumprod = cumulative_alphas(&betas);
        let sigmas: Vec<f64> = alphas_cumprod
            .iter()
            .map(|&alpha_bar| {
                let alpha_bar = if alpha_bar == 0.0 { ALPHA_BAR_FLOOR as f32 } else { alpha_bar };
                f64::from(((1.0 - alpha_bar) / alpha_bar).sqrt())
            })
            .collect();
        // In single precision, as numpy takes them for diffusers: whether a timestep lands just below a whole
        // number or on it depends on this rounding, and some schedulers then cut the fraction off.
        let log_sigmas = sigmas.iter().map(|&sigma| f64::from((sigma as f32).ln())).collect();
        let alphas_cumprod = alphas_cumprod.into_iter().map(f64::from).collect();
        Ok(NoiseTable { schedule: schedule.clone(), alphas_cumprod, sigmas, log_sigmas })
    }

    /// The configuration that this was computed from.
    pub fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    /// Whether this is rectified flow.
    pub fn is_flow(&self) -> bool {
        self.schedule.is_flow()
    }

    /// Number of training timesteps.
    pub fn train_timesteps(&self) -> usize {
        self.schedule.train_timesteps
    }

    /// Running products of `1 - beta`, one a timestep; empty for rectified flow. The last is exactly 0
    /// with zero terminal SNR.
    pub fn alphas_cumprod(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    /// Noise-to-signal ratios, one a timestep, always finite; empty for rectified flow.
    pub fn sigmas(&self) -> &[f64] {
        &self.sigmas
    }

    /// The largest timestep: `train_timesteps - 1`, or `train_timesteps` for rectified flow.
    pub fn last_timestep(&self) -> f64 {
        let n = self.schedule.train_timesteps;
        (if self.is_flow() { n } else { n - 1 }) as f64
    }

    /// Noise level at a timestep. Between two discrete timesteps `alphas_cumprod` is interpolated.
    ///
    /// # Errors
    /// A timestep that is NaN, negative or beyond [`last_timestep`](Self::last_timestep).
    pub fn level(&self, timestep: f64) -> Result<Level, ScheduleError> {
        let last = self.last_timestep();
        if !(0.0..=last).contains(&timestep) {
            return Err(ScheduleError::Timestep { timestep, last });
        }
        if self.is_flow() {
            return Ok(Level::from_flow_time(timestep / self.schedule.train_timesteps as f64));
        }
        Ok(Level::from_alpha_bar(interpolate(&self.alphas_cumprod, timestep)))
    }

    /// Noise-to-signal ratio at a fractional timestep, linear between its neighbours.
    pub(crate) fn sigma_at(&self, timestep: f64) -> f64 {
        interpolate(&self.sigmas, timestep)
    }

    /// Noise-to-signal ratio at a fractional timestep, its logarithm linear between its neighbours.
    pub(crate) fn log_sigma_at(&self, timestep: f64) -> f64 {
        interpolate(&self.log_sigmas, timestep).exp()
    }

    /// Fractional timestep of a noise-to-signal ratio: its logarithm is looked up between neighbours and
    /// clamped to the ends (`sigma_to_t` of k-diffusion). For rectified flow, of the time `sigma`.
    pub fn timestep_of_sigma(&self, sigma: f64) -> f64 {
        if self.is_flow() {
            return sigma * self.schedule.train_timesteps as f64;
        }
        let log_sigma = sigma.max(1e-10).ln();
        let count = self.log_sigmas.partition_point(|&l| l <= log_sigma);
        let low = count.saturating_sub(1).min(self.log_sigmas.len() - 2);
        let (from, to) = (self.log_sigmas[low], self.log_sigmas[low + 1]);
        let weight = ((from - log_sigma) / (from - to)).clamp(0.0, 1.0);
        (1.0 - weight) * low as f64 + weight * (low + 1) as f64
    }

    /// The shift of rectified flow applied to a time 0..=1.
    pub fn shift_time(&self, time: f64) -> f64 {
        let shift = self.schedule.shift;
        shift * time / (1.0 + (shift - 1.0) * time)
    }
}

/// Value of a table at a fractional index, clamped to its ends (`numpy.interp`).
fn interpolate(table: &[f64], at: f64) -> f64 {
    let last = table.len() - 1;
    let at = at.clamp(0.0, last as f64);
    let low = (at.floor() as usize).min(last);
    let high = (low + 1).min(last);
    table[low] + (table[high] - table[low]) * (at - low as f64)
}
