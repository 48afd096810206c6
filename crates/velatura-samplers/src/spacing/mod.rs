//! Which timesteps a run visits.

pub(crate) mod discrete;
pub(crate) mod flow;
mod ramp;

use serde::{Deserialize, Serialize};

/// Rule that picks the timesteps of a run.
///
/// The names that A1111, diffusers and ComfyUI give them are in [`spacings`](crate::spacings).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spacing {
    /// Equal steps from the last timestep to the first, both included.
    #[default]
    Linspace,
    /// Equal whole strides counted from timestep 0; the noisiest timesteps are never visited.
    Leading,
    /// Equal strides counted from the last timestep down; the one to use with zero terminal SNR.
    Trailing,
    /// Equal steps in `sigma^(1/7)` (Karras et al. 2022).
    Karras,
    /// Equal steps in the logarithm of sigma.
    Exponential,
    /// ComfyUI's and A1111's "SGM uniform": equal steps to timestep 0, which itself is left out.
    SgmUniform,
    /// ComfyUI's "simple": every so many entries of the table, from the last down.
    Simple,
}

impl Spacing {
    /// Name as it is stored.
    pub fn name(self) -> &'static str {
        match self {
            Spacing::Linspace => "linspace",
            Spacing::Leading => "leading",
            Spacing::Trailing => "trailing",
            Spacing::Karras => "karras",
            Spacing::Exponential => "exponential",
            Spacing::SgmUniform => "sgm_uniform",
            Spacing::Simple => "simple",
        }
    }
}

/// How a family of samplers reads a spacing. diffusers' scheduler classes differ in rounding and in
/// where a run ends; reproducing their pictures means reproducing that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Grid {
    /// Fractional timesteps with interpolated sigmas: Euler, Heun and the rest of k-diffusion.
    Sigmas,
    /// Whole timesteps; each step ends where the next begins: DDPM.
    Timesteps,
    /// Whole timesteps; each step ends `train_timesteps / steps` lower: DDIM.
    FixedStride,
    /// One point more than steps, the last one dropped: DPM-Solver and its kin.
    Multistep,
}
