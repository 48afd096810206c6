//! Noise and the way from it to a picture.

use velatura::{GenerateRequest, RngKind};

use super::{set, set_some};
use crate::parse;

/// Noise and the way from it.
#[derive(clap::Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Seed of the first picture; the others count up from it
    #[arg(long, value_name = "N", value_parser = parse::seed, allow_negative_numbers = true)]
    seed: Option<u64>,
    /// Whose random numbers a seed stands for: cpu (ComfyUI, diffusers) or cuda (A1111)
    #[arg(long, value_name = "NAME", value_parser = parse::rng)]
    rng: Option<RngKind>,
    /// Sampling steps
    #[arg(long, value_name = "N", value_parser = parse::steps, allow_negative_numbers = true)]
    steps: Option<u32>,
    /// Sampler; `velatura samplers` lists them
    #[arg(long, value_name = "NAME", value_parser = parse::sampler)]
    sampler: Option<String>,
    /// Spacing of the sampler's steps; `velatura samplers` lists them
    #[arg(long, value_name = "NAME", value_parser = parse::schedule)]
    schedule: Option<String>,
}

impl SamplingArgs {
    /// `of_a_picture` where the request is a picture's.
    pub(super) fn apply(&self, request: &mut GenerateRequest, of_a_picture: bool) {
        set(&mut request.rng, &self.rng);
        set_some(&mut request.seed, &self.seed);
        set_some(&mut request.steps, &self.steps);
        if self.sampler.is_some() && self.schedule.is_none() && of_a_picture {
            // The new sampler's name may carry its own schedule; the picture's stays where it does not.
            let carries = self.sampler.as_deref().and_then(|s| velatura_samplers::parse_sampler(s).ok()?.1);
            if carries.is_some() {
                request.schedule = None;
            }
        }
        set_some(&mut request.sampler, &self.sampler);
        set_some(&mut request.schedule, &self.schedule);
    }
}
