//! How the prompt steers the picture.

use velatura::GenerateRequest;

use super::set_some;
use crate::parse;

/// How the prompt steers the picture.
#[derive(clap::Args)]
#[command(next_help_heading = "Guidance")]
pub struct GuidanceArgs {
    /// How closely to follow the prompt; 1 is no guidance
    #[arg(long, value_name = "X", value_parser = parse::guidance, allow_negative_numbers = true)]
    guidance: Option<f32>,
    /// Share in which what guidance made too strong is taken back, 0 to 1: against pictures that are burnt; 0.7 is usual
    #[arg(long, value_name = "X", value_parser = parse::guidance_rescale, allow_negative_numbers = true)]
    guidance_rescale: Option<f32>,
    /// Shares of the run between which there is guidance, as in 0.1,0.8; steps outside take half the time
    #[arg(long, value_name = "START,END", value_parser = parse::guidance_interval, allow_negative_numbers = true)]
    guidance_interval: Option<[f32; 2]>,
}

impl GuidanceArgs {
    pub(super) fn apply(&self, request: &mut GenerateRequest) {
        set_some(&mut request.guidance, &self.guidance);
        let options = &mut request.guidance_options;
        set_some(&mut options.rescale, &self.guidance_rescale);
        set_some(&mut options.interval, &self.guidance_interval);
    }
}
