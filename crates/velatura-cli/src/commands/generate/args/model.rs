//! Which networks, and how they are run.

use velatura::{GenerateRequest, Precision, Prediction, Tiling};

use super::{set, set_some};
use crate::parse;

/// The networks.
#[derive(clap::Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// A model: a file, a folder in diffusers' layout, a short name that `velatura models` lists, or a hub's owner/name,
    /// perhaps with @revision; the model that ships with velatura when not given
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Another autoencoder than the model's own: a file, a folder in diffusers' layout, or a name as for --model
    #[arg(long, value_name = "MODEL")]
    vae: Option<String>,
    /// A model that takes over towards the end, as the refiner of Stable Diffusion XL: as for --model
    #[arg(long, value_name = "MODEL")]
    refiner: Option<String>,
    /// Share of the way after which it does; 0.8 when not given
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    refiner_switch: Option<f32>,
    /// What the model predicts, where its file does not say or says it wrongly: eps, v, sample or flow
    #[arg(long, value_name = "NAME", value_parser = parse::prediction)]
    prediction: Option<Prediction>,
    /// Scale the noise so that nothing of the picture is left in it at the first step, for models that were trained so and
    /// whose file does not say it (zero terminal SNR; they predict v); --zero-snr=false where it says it wrongly
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    zero_snr: Option<bool>,
    /// Block of the text transformer to take the prompt from, counted from its end as A1111 counts; 1 is the model's own
    #[arg(long, value_name = "N", value_parser = parse::clip_skip, allow_negative_numbers = true)]
    clip_skip: Option<u32>,
    /// f32, bf16 or int8; bf16 where the processor multiplies it when not given
    #[arg(long, value_name = "NAME", value_parser = parse::precision)]
    precision: Option<Precision>,
    /// Whether large pictures go through the autoencoder in tiles, which takes less memory: auto (where they do not fit), on
    /// or off
    #[arg(long, value_name = "WHEN")]
    vae_tiling: Option<Tiling>,
}

impl ModelArgs {
    pub(super) fn apply(&self, request: &mut GenerateRequest) {
        set_some(&mut request.model, &self.model);
        set_some(&mut request.vae, &self.vae);
        set_some(&mut request.refiner, &self.refiner);
        set_some(&mut request.refiner_switch, &self.refiner_switch);
        set_some(&mut request.prediction, &self.prediction);
        set_some(&mut request.zero_snr, &self.zero_snr);
        set_some(&mut request.clip_skip, &self.clip_skip);
        set_some(&mut request.precision, &self.precision);
        set(&mut request.vae_tiling, &self.vae_tiling);
    }
}
