//! Which timesteps a run visits.

pub(crate) mod discrete;
pub(crate) mod flow;
mod ramp;

use serde::{Deserialize, Serialize};

pub(crate) use ramp::karras;

/// Rule that picks the timesteps of a run.
///
/// The names that A1111, diffusers and ComfyUI give them are in [`spacings`](crate::spacings). On rectified flow the
/// formulas that speak of sigma are taken of the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spacing {
    /// diffusers: equal steps from the last timestep to the first, both included.
    #[default]
    Linspace,
    /// k-diffusion's and ComfyUI's "normal": as linspace, but sigma between two timesteps is interpolated in its
    /// logarithm.
    Normal,
    /// Equal whole strides counted from timestep 0; the noisiest timesteps are never visited.
    Leading,
    /// Equal strides counted from the last timestep down; the one to use with zero terminal SNR.
    Trailing,
    /// Equal steps in `sigma^(1/7)` (Karras et al. 2022).
    Karras,
    /// Equal steps in the logarithm of sigma.
    Exponential,
    /// A power of equal steps in the logarithm of sigma; the power is the request's `rho`, of which 1 is exponential.
    Polyexponential,
    /// ComfyUI's and A1111's "SGM uniform": equal steps to timestep 0, which itself is left out.
    SgmUniform,
    /// ComfyUI's "simple": every so many entries of the table, from the last down.
    Simple,
    /// ComfyUI's "ddim_uniform": every so many entries of the table, from the second up. It may lay out a few steps
    /// more than were asked for, as there.
    DdimUniform,
    /// ComfyUI's "beta": timesteps at quantiles of a beta distribution (Lee et al. 2024, arXiv 2407.12173). Quantiles
    /// that fall on one timestep are visited once, so very long runs are shorter than asked for, as there.
    Beta,
    /// diffusers' `use_beta_sigmas` and A1111's "Beta": sigmas, not timesteps, at those quantiles.
    BetaSigmas,
    /// Equal steps in the arctangent of sigma (Sabour et al. 2024).
    KlOptimal,
    /// Align Your Steps (Sabour et al. 2024), the levels for Stable Diffusion 1.x.
    Ays,
    /// Align Your Steps, the levels for SDXL.
    AysSdxl,
    /// ComfyUI's scheduler of SD-Turbo: tenths of the schedule from its noisy end, at most ten.
    Turbo,
    /// diffusers' timesteps of latent consistency models: some of their fifty, at most those.
    Lcm,
}

impl Spacing {
    /// Name as it is stored.
    pub fn name(self) -> &'static str {
        match self {
            Spacing::Linspace => "linspace",
            Spacing::Normal => "normal",
            Spacing::Leading => "leading",
            Spacing::Trailing => "trailing",
            Spacing::Karras => "karras",
            Spacing::Exponential => "exponential",
            Spacing::Polyexponential => "polyexponential",
            Spacing::SgmUniform => "sgm_uniform",
            Spacing::Simple => "simple",
            Spacing::DdimUniform => "ddim_uniform",
            Spacing::Beta => "beta",
            Spacing::BetaSigmas => "beta_sigmas",
            Spacing::KlOptimal => "kl_optimal",
            Spacing::Ays => "ays",
            Spacing::AysSdxl => "ays_sdxl",
            Spacing::Turbo => "turbo",
            Spacing::Lcm => "lcm",
        }
    }

    /// The sigmas of a run between two of one's own, for spacings that are formulas over sigma: `steps` of them, from `most`
    /// to `least`, with an exponent where the formula has one. `None` for other spacings.
    pub fn between(self, most: f64, least: f64, steps: usize, rho: Option<f64>) -> Option<Vec<f64>> {
        ramp::between(self, most, least, steps, rho)
    }

    /// Most steps on a schedule of `train` timesteps.
    fn limit(self, train: usize) -> usize {
        match self {
            Spacing::Turbo => 10.min(train),
            Spacing::Lcm => LCM_TIMESTEPS.min(train),
            _ => train,
        }
    }
}

/// Timesteps that latent consistency models are distilled on.
const LCM_TIMESTEPS: usize = 50;

/// How a family of samplers reads a spacing. diffusers' scheduler classes differ in rounding and in
/// where a run ends; reproducing their pictures means reproducing that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Grid {
    /// Fractional timesteps with interpolated sigmas: Euler, Heun and the rest of k-diffusion.
    Sigmas,
    /// As `Sigmas` with one step more, and then without the last sigma above 0: DPM2, whose last step would be wasted
    /// there (A1111 and ComfyUI).
    SigmasWithoutLast,
    /// Whole timesteps; each step ends where the next begins: DDPM.
    Timesteps,
    /// Whole timesteps; each step ends `train_timesteps / steps` lower: DDIM.
    FixedStride,
    /// One point more than steps, the last one dropped: DPM-Solver and its kin.
    Multistep,
    /// As `Multistep`, but the run ends at timestep 0, or for spacings that end there in a step of no width: DEIS.
    MultistepOpen,
}
