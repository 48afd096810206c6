//! Samplers: how the latent moves from step to step.
//!
//! To add one: copy a neighbour's file, and add one line to the table in `registry.rs`.
//!
//! All of them see the latent in the model's own space and read every prediction as a clean latent,
//! so that noise, v, clean-latent and flow models, on either path, need no code of their own.

mod ddim;
mod ddpm;
mod dpmpp_2m;
mod euler;
mod euler_ancestral;
mod heun;
mod run;

pub use ddim::Ddim;
pub use ddpm::Ddpm;
pub use dpmpp_2m::DpmPp2m;
pub use euler::Euler;
pub use euler_ancestral::EulerAncestral;
pub use heun::Heun;
pub use run::{Call, Halt, Progress, Run, sample};

use serde::{Deserialize, Serialize};

use crate::{Grid, OptionError, Plan};

/// A sampler with its options set.
pub trait Sampler: Send + Sync {
    /// How it reads a spacing; give it to [`Plan::new`].
    fn grid(&self) -> Grid;

    /// How often the network is asked over a plan.
    fn evaluations(&self, plan: &Plan) -> usize {
        plan.len()
    }

    /// Takes every step of `run.plan()`.
    ///
    /// # Errors
    /// [`Halt`] as it came from a method of [`Run`].
    fn sample(&self, run: &mut Run<'_>) -> Result<(), Halt>;
}

/// Options of all samplers; each reads those that it knows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplerOptions {
    /// Share of fresh noise, 0 to 1; `None` is the sampler's own default (DDIM 0, ancestral 1).
    pub eta: Option<f64>,
    /// Factor of the fresh noise, 0 or more; 1 is the theory.
    pub s_noise: f64,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        SamplerOptions { eta: None, s_noise: 1.0 }
    }
}

impl SamplerOptions {
    /// Checks every option.
    ///
    /// # Errors
    /// The first one out of range.
    pub fn validate(&self) -> Result<(), OptionError> {
        if let Some(eta) = self.eta
            && !(0.0..=1.0).contains(&eta)
        {
            return Err(OptionError { name: "eta", value: eta, range: "from 0 to 1" });
        }
        if !(self.s_noise.is_finite() && self.s_noise >= 0.0) {
            return Err(OptionError { name: "s_noise", value: self.s_noise, range: "0 or more" });
        }
        Ok(())
    }
}
