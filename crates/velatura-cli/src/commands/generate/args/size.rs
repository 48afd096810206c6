//! How large and how many pictures, and what Stable Diffusion XL is told of them.

use velatura::GenerateRequest;

use super::{set, set_some};
use crate::parse;

/// How large and how many pictures.
#[derive(clap::Args)]
#[command(next_help_heading = "Pictures")]
pub struct SizeArgs {
    /// Width in pixels
    #[arg(long, value_name = "PIXELS", value_parser = parse::side, allow_negative_numbers = true)]
    width: Option<u32>,
    /// Height in pixels
    #[arg(long, value_name = "PIXELS", value_parser = parse::side, allow_negative_numbers = true)]
    height: Option<u32>,
    /// How many pictures
    #[arg(long, value_name = "N", value_parser = parse::batch, allow_negative_numbers = true)]
    batch: Option<u32>,
}

impl SizeArgs {
    pub(super) fn apply(&self, request: &mut GenerateRequest) {
        set(&mut request.batch, &self.batch);
        set_some(&mut request.width, &self.width);
        set_some(&mut request.height, &self.height);
    }
}

/// What Stable Diffusion XL is told beside the prompt.
#[derive(clap::Args)]
#[command(next_help_heading = "Stable Diffusion XL")]
pub struct XlArgs {
    /// Stable Diffusion XL: size that the picture shall seem to have been scaled from; its own when not given
    #[arg(long, value_name = "WxH", value_parser = parse::size)]
    original_size: Option<[u32; 2]>,
    /// Stable Diffusion XL: pixels that shall seem to have been cut off at the left and top; 0,0 when not given
    #[arg(long, value_name = "X,Y", value_parser = parse::crop)]
    crop: Option<[u32; 2]>,
    /// Stable Diffusion XL: size that the picture shall seem to have; its own when not given
    #[arg(long, value_name = "WxH", value_parser = parse::size)]
    target_size: Option<[u32; 2]>,
    /// Refiner of Stable Diffusion XL: how much the picture shall be liked, 1 to 10; 6 when not given
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    aesthetic_score: Option<f32>,
    /// The same for what it shall not be; 2.5 when not given
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    negative_aesthetic_score: Option<f32>,
}

impl XlArgs {
    pub(super) fn apply(&self, request: &mut GenerateRequest) {
        set_some(&mut request.sizes.original_size, &self.original_size);
        set_some(&mut request.sizes.crop, &self.crop);
        set_some(&mut request.sizes.target_size, &self.target_size);
        set_some(&mut request.sizes.aesthetic_score, &self.aesthetic_score);
        set_some(&mut request.sizes.negative_aesthetic_score, &self.negative_aesthetic_score);
    }
}
