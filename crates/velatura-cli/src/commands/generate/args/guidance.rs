//! How the prompt steers the picture.

use velatura::{FreeU, GenerateRequest};

use super::{set, set_some};
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
    /// FreeU: factors of the skip connections and of the features on the denoiser's way up, as in 0.9,0.2,1.5,1.6 (SD 1.5)
    /// or 0.9,0.2,1.3,1.4 (SDXL)
    #[arg(long, value_name = "S1,S2,B1,B2", value_parser = parse::freeu)]
    freeu: Option<FreeU>,
    /// Perturbed-attention guidance: how far to go away from a picture without structure; 3 is usual. Half as long again
    #[arg(long, value_name = "X", value_parser = parse::pag_scale, allow_negative_numbers = true)]
    pag_scale: Option<f32>,
    /// How fast that falls along the run, for each of the 1000 timesteps; 0 when not given
    #[arg(long, value_name = "X", value_parser = parse::pag_scale, allow_negative_numbers = true, requires = "pag_scale")]
    pag_adaptive_scale: Option<f32>,
    /// Layers in which attention is perturbed, as in mid,up_blocks.1; mid when not given
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "pag_scale")]
    pag_layers: Vec<String>,
    /// Self-attention guidance: how far to go away from a picture that is blurred where the denoiser looks; 0.75 is usual.
    /// Half as long again
    #[arg(long, value_name = "X", value_parser = parse::pag_scale, allow_negative_numbers = true)]
    sag_scale: Option<f32>,
    /// How wide that blur is, in pixels of the latent; 1 when not given (ComfyUI: 2)
    #[arg(long, value_name = "X", allow_negative_numbers = true, requires = "sag_scale")]
    sag_blur: Option<f64>,
    /// Dynamic thresholding: the guidance whose range of values a higher one is brought back to; 7 is usual
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    mimic_guidance: Option<f64>,
    /// Share of the values that this range covers, 0 to 1; 1 when not given
    #[arg(long, value_name = "X", allow_negative_numbers = true, requires = "mimic_guidance")]
    mimic_percentile: Option<f64>,
    /// Dynamic thresholding in Imagen's form: share of the clean latent's values that stay, the others being cut off, and all
    /// scaled back to at most 1; 0.995 is usual for models of pixels, and takes contrast from latents
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    threshold_percentile: Option<f64>,
    /// The largest value at which that cuts off, 1 or more; no limit when not given (diffusers: 1)
    #[arg(long, value_name = "X", allow_negative_numbers = true, requires = "threshold_percentile")]
    threshold_max: Option<f64>,
}

impl GuidanceArgs {
    pub(super) fn apply(&self, request: &mut GenerateRequest) {
        set_some(&mut request.guidance, &self.guidance);
        let options = &mut request.guidance_options;
        set_some(&mut options.rescale, &self.guidance_rescale);
        set_some(&mut options.interval, &self.guidance_interval);
        if let Some(scale) = self.pag_scale {
            let perturbed = options.perturbed_attention.get_or_insert_default();
            perturbed.scale = scale;
            set(&mut perturbed.adaptive_scale, &self.pag_adaptive_scale);
            if !self.pag_layers.is_empty() {
                perturbed.layers.clone_from(&self.pag_layers);
            }
        }
        if let Some(scale) = self.sag_scale {
            let own = options.self_attention.get_or_insert_default();
            own.scale = scale;
            set(&mut own.blur, &self.sag_blur);
        }
        if let Some(scale) = self.mimic_guidance {
            let threshold = options.threshold.get_or_insert_default();
            threshold.mimic_scale = scale;
            set(&mut threshold.percentile, &self.mimic_percentile);
        }
        if let Some(ratio) = self.threshold_percentile {
            let threshold = options.percentile_threshold.get_or_insert_default();
            threshold.ratio = ratio;
            set_some(&mut threshold.max, &self.threshold_max);
        }
        set_some(&mut request.freeu, &self.freeu);
    }
}
