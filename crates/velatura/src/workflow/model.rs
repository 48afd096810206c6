//! What is done to the model on its way from the file to the sampler.

use serde_json::Value;
use velatura_models::unet::FreeU;
use velatura_samplers::{DynamicThreshold, Prediction};

use super::graph::Reader;
use super::{LONGEST_WAY, target};
use crate::request::{PerturbedAttention, SelfAttentionGuidance};

impl<'a> Reader<'a> {
    /// The way of the model from its file to the sampler.
    pub fn model(&mut self, from: Option<&'a Value>) {
        let mut at = from.and_then(target);
        for _ in 0..LONGEST_WAY {
            let Some(id) = at else { return };
            let text = |key: &str| self.value(self.input(id, key)).and_then(Value::as_str);
            let file =
                ["ckpt_name", "unet_name", "model_name", "model_path"].iter().find_map(|key| text(key));
            if let Some(file) = file {
                self.out.model = Some(file.to_string());
                return;
            }
            self.patch(id, self.class(id).unwrap_or("unknown"));
            at = ["model", ""].iter().find_map(|key| self.input(id, key)).and_then(target);
        }
    }

    /// One node. Where two say the same thing, the one nearer to the sampler has the last word.
    fn patch(&mut self, id: &'a str, class: &str) {
        let number = |key: &str| self.value(self.input(id, key)).and_then(Value::as_f64);
        // The nodes' own defaults stand for what is missing.
        let or = |key: &str, default: f64| number(key).unwrap_or(default) as f32;
        match class {
            "Reroute" => {}
            "FreeU" | "FreeU_V2" => {
                let [b1, b2] = if class == "FreeU" { [1.1, 1.2] } else { [1.3, 1.4] };
                let freeu =
                    FreeU { s1: or("s1", 0.9), s2: or("s2", 0.2), b1: or("b1", b1), b2: or("b2", b2) };
                self.out.request.freeu.get_or_insert(freeu);
                self.leave(match class {
                    "FreeU" => "which blocks FreeU changes (here those that diffusers changes)",
                    _ => "how FreeU_V2 follows the features (here the factors are those of the first FreeU)",
                });
            }
            "RescaleCFG" => {
                let rescale = or("multiplier", 0.7);
                self.out.request.guidance_options.rescale.get_or_insert(rescale);
            }
            "PerturbedAttentionGuidance" => {
                let perturbed = PerturbedAttention { scale: or("scale", 3.0), ..Default::default() };
                self.out.request.guidance_options.perturbed_attention.get_or_insert(perturbed);
            }
            "SelfAttentionGuidance" => {
                let blur = number("blur_sigma").unwrap_or(2.0);
                let own = SelfAttentionGuidance { scale: or("scale", 0.5), blur };
                self.out.request.guidance_options.self_attention.get_or_insert(own);
            }
            "DynamicThresholdingSimple" => {
                let threshold = DynamicThreshold {
                    mimic_scale: number("mimic_scale").unwrap_or(7.0),
                    percentile: number("threshold_percentile").unwrap_or(1.0),
                    ..DynamicThreshold::default()
                };
                self.out.request.guidance_options.threshold.get_or_insert(threshold);
            }
            "ModelSamplingDiscrete" => self.model_sampling(id),
            _ => match self.value(self.input(id, "lora_name")).and_then(Value::as_str) {
                Some(lora) => {
                    let strength = number("strength_model").map_or(String::new(), |s| format!(" at {s}"));
                    self.leave(format!("the LoRA {lora}{strength}"));
                }
                None => self.leave(format!("the node {class}")),
            },
        }
    }

    /// What the model predicts, and whether its noise ends without signal.
    fn model_sampling(&mut self, id: &'a str) {
        let prediction = match self.value(self.input(id, "sampling")).and_then(Value::as_str) {
            Some("eps") => Some(Prediction::Epsilon),
            Some("v_prediction") => Some(Prediction::VPrediction),
            Some("x0") => Some(Prediction::Sample),
            other => {
                let other = other.unwrap_or("none");
                self.leave(format!("the sampling {other} of the node ModelSamplingDiscrete"));
                None
            }
        };
        let zero_snr = self.value(self.input(id, "zsnr")).and_then(Value::as_bool);
        let request = &mut self.out.request;
        request.prediction = request.prediction.or(prediction);
        request.zero_snr = request.zero_snr.or(zero_snr);
    }
}
