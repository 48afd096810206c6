//! A picture to begin from.

use velatura::GenerateRequest;

use super::set_some;
use crate::parse;

/// A picture to begin from.
#[derive(clap::Args)]
#[command(next_help_heading = "From a picture")]
pub struct StartArgs {
    /// A picture to begin from: PNG, JPEG, WebP or BMP; its size is the default
    #[arg(long, value_name = "PICTURE")]
    init: Option<String>,
    /// How much of that picture may change, above 0 and up to 1
    #[arg(long, value_name = "X", value_parser = parse::strength, allow_negative_numbers = true)]
    strength: Option<f64>,
    /// The same as ComfyUI counts it: all steps are taken, as the last ones of steps / X. In place of --strength
    #[arg(long, value_name = "X", conflicts_with = "strength", allow_negative_numbers = true)]
    denoise: Option<f64>,
    /// White where that picture is to be made anew, black where it stays; a picture of the same size
    #[arg(long, value_name = "PICTURE")]
    mask: Option<String>,
    /// How closely a model that edits pictures keeps to the picture; 1 is no guidance
    #[arg(long, value_name = "X", value_parser = parse::image_guidance, allow_negative_numbers = true)]
    image_guidance: Option<f32>,
    /// How much noise an upscaler lays over the picture that it reads; more lets it invent more
    #[arg(long, value_name = "N", value_parser = parse::noise_level, allow_negative_numbers = true)]
    noise_level: Option<u32>,
}

impl StartArgs {
    pub(super) fn apply(&self, request: &mut GenerateRequest) {
        set_some(&mut request.init, &self.init);
        // The two are one thing, counted otherwise; a picture's own gives way.
        if self.denoise.is_some() {
            request.strength = None;
        }
        if self.strength.is_some() {
            request.sampling.denoise = None;
        }
        set_some(&mut request.strength, &self.strength);
        set_some(&mut request.sampling.denoise, &self.denoise);
        set_some(&mut request.mask, &self.mask);
        set_some(&mut request.image_guidance, &self.image_guidance);
        set_some(&mut request.noise_level, &self.noise_level);
    }
}
