//! Samplers: how the latent moves from step to step.
//!
//! To add one: copy a neighbour's file, and add one entry to the table in `registry/samplers.rs`.
//!
//! All of them see the latent in the model's own space and read every prediction as a clean latent,
//! so that noise, v, clean-latent and flow models, on either path, need no code of their own.

mod axis;
mod cfg_pp;
mod consistency;
mod ddim;
mod ddpm;
mod deis;
mod dpm_2;
mod dpm_solver;
mod dpmpp_2m;
mod dpmpp_2s_ancestral;
mod dpmpp_sde;
mod er_sde;
mod euler;
mod euler_ancestral;
mod heun;
mod lms;
mod pndm;
mod polynomial;
mod res_multistep;
mod restart;
mod run;
mod sa_solver;
mod unipc;

pub use axis::Churn;
pub use cfg_pp::{DpmPp2mCfgPp, DpmPp2sAncestralCfgPp, EulerCfgPp};
pub use consistency::{Lcm, Tcd};
pub use ddim::Ddim;
pub use ddpm::Ddpm;
pub use deis::Deis;
pub use dpm_2::{Dpm2, Dpm2Ancestral};
pub use dpm_solver::{DpmAdaptive, DpmFast};
pub use dpmpp_2m::DpmPp2m;
pub use dpmpp_2s_ancestral::DpmPp2sAncestral;
pub use dpmpp_sde::{DpmPp2mSde, DpmPp3mSde, DpmPpSde};
pub use er_sde::ErSde;
pub use euler::Euler;
pub use euler_ancestral::EulerAncestral;
pub use heun::Heun;
pub use lms::{Ipndm, Lms};
pub use pndm::Pndm;
pub use res_multistep::ResMultistep;
pub use restart::Restart;
pub use run::{Amend, Answer, Call, Denoised, Halt, Progress, Run, Start, sample, sample_both, sample_from};
pub use sa_solver::SaSolver;
pub use unipc::UniPc;

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

    /// Whether a batch costs it more than its images one by one; the pictures are the same either way.
    fn one_image_at_a_time(&self) -> bool {
        false
    }

    /// Whether it follows the answer without the prompt (CFG++), which it then needs at every call, also where the
    /// guidance is 1.
    fn follows_unguided(&self) -> bool {
        false
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
    /// Share of fresh noise, 0 to 1; `None` is the sampler's own default (DDIM 0, ancestral 1, TCD 0.3).
    pub eta: Option<f64>,
    /// Factor of the fresh noise, 0 or more; 1 is the theory.
    pub s_noise: f64,
    /// Noise added before each step by Euler, Heun and DPM2, 0 (none) or more; 40 is much (Karras et al. 2022).
    pub s_churn: f64,
    /// Lowest sigma at which that is done, 0 or more.
    pub s_tmin: f64,
    /// Highest sigma at which that is done; `None` is no limit.
    pub s_tmax: Option<f64>,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        SamplerOptions { eta: None, s_noise: 1.0, s_churn: 0.0, s_tmin: 0.0, s_tmax: None }
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
        for (name, value) in [("s_noise", self.s_noise), ("s_churn", self.s_churn), ("s_tmin", self.s_tmin)] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(OptionError { name, value, range: "0 or more" });
            }
        }
        if let Some(value) = self.s_tmax
            && (value.is_nan() || value < self.s_tmin)
        {
            return Err(OptionError { name: "s_tmax", value, range: "at least s_tmin" });
        }
        Ok(())
    }

    /// The options of noise before each step.
    pub fn churn(&self) -> Churn {
        Churn {
            amount: self.s_churn,
            min: self.s_tmin,
            max: self.s_tmax.unwrap_or(f64::INFINITY),
            s_noise: self.s_noise,
        }
    }

    /// The share of fresh noise where the sampler's own default is `default`.
    pub fn eta_or(&self, default: f64) -> f64 {
        self.eta.unwrap_or(default)
    }
}
