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
}

impl GuidanceArgs {
    pub(super) fn apply(&self, request: &mut GenerateRequest) {
        set_some(&mut request.guidance, &self.guidance);
    }
}
