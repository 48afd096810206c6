//! What a diffusers folder says and a single file has no words for.

use serde_json::Value;

use crate::model::{Checkpoint, Family, PartKind, Prediction};

/// What decides what a network computes and does not follow from its tensors: whoever reads a single file takes the
/// family's.
const DECISIVE: [&str; 21] = [
    "act_fn",
    "addition_time_embed_dim",
    "attention_head_dim",
    "center_input_sample",
    "dual_cross_attention",
    "encoder_hid_dim",
    "flip_sin_to_cos",
    "freq_shift",
    "hidden_act",
    "latents_mean",
    "latents_std",
    "layer_norm_eps",
    "mid_block_scale_factor",
    "norm_eps",
    "norm_num_groups",
    "num_attention_heads",
    "resnet_out_scale_factor",
    "resnet_time_scale_shift",
    "scaling_factor",
    "shift_factor",
    "time_embedding_type",
];

/// The noise schedule.
const NOISE: [&str; 5] = ["beta_end", "beta_schedule", "beta_start", "num_train_timesteps", "trained_betas"];

/// What is meant by keys that [`Checkpoint::inferred_config`] does not write.
fn usual(key: &str) -> Value {
    match key {
        "center_input_sample" | "dual_cross_attention" => false.into(),
        "mid_block_scale_factor" | "resnet_out_scale_factor" => 1.0.into(),
        "resnet_time_scale_shift" => "default".into(),
        "time_embedding_type" => "positional".into(),
        _ => Value::Null,
    }
}

impl Checkpoint {
    /// What a single safetensors file of these parts would not say: one phrase for each. Empty for a model that was a
    /// single file.
    pub fn lost_in_single_file(&self) -> Vec<String> {
        let mut lost = Vec::new();
        if let Some(scheduler) = self.scheduler().filter(|_| self.part(PartKind::Unet).is_some()) {
            let family = self.usual_scheduler();
            for key in NOISE {
                differ(&mut lost, "the scheduler's", key, &scheduler[key], &family[key]);
            }
            let prediction = &scheduler["prediction_type"];
            if !matches!(prediction.as_str(), None | Some("epsilon" | "v_prediction")) {
                lost.push(format!("the scheduler's prediction_type, {prediction}"));
            }
        }
        if self.zero_snr() && !self.is_marked() {
            lost.push("that the noise is scaled to no signal at the end (rescale_betas_zero_snr)".into());
        }
        for part in self.parts().iter().filter(|part| part.config_is_given) {
            let inferred = self.inferred_config(part);
            for key in DECISIVE {
                let expected = inferred.get(key).cloned().unwrap_or_else(|| usual(key));
                differ(&mut lost, &format!("the {}'s", part.kind), key, &part.config[key], &expected);
            }
        }
        lost
    }

    /// What a GGUF file of these parts would not say.
    pub fn lost_in_gguf(&self) -> Vec<String> {
        let mut lost = self.lost_in_single_file();
        if self.zero_snr() && self.is_marked() {
            lost.push("that the noise is scaled to no signal at the end (ztsnr)".into());
        }
        lost
    }

    /// Whether the noise ends without any signal (Lin et al. 2024), by the folder's scheduler or the mark that files
    /// carry.
    pub(crate) fn zero_snr(&self) -> bool {
        let given = self.scheduler().and_then(|s| s.get("rescale_betas_zero_snr")).and_then(Value::as_bool);
        given.unwrap_or_else(|| self.unused().iter().any(|(name, _)| name == "ztsnr"))
    }

    /// Whether its family's single files carry the empty tensors `v_pred` and `ztsnr` as marks.
    pub(crate) fn is_marked(&self) -> bool {
        self.family() == Some(Family::Sdxl)
            && self.prediction() == Some(Prediction::V)
            && self.part(PartKind::Unet).is_some()
    }
}

/// Where a key is given and says something else than what would be taken for it.
fn differ(lost: &mut Vec<String>, whose: &str, key: &str, given: &Value, taken: &Value) {
    if !given.is_null() && !same(given, taken) {
        let instead = if taken.is_null() { String::new() } else { format!(" instead of {taken}") };
        lost.push(format!("{whose} {key}, {given}{instead}"));
    }
}

/// One value for all levels and a list of it mean the same.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Array(list), one) | (one, Value::Array(list)) => list.iter().all(|v| same(v, one)),
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}
