//! What the sampler, the prompts and the latent say.

use serde_json::Value;
use velatura_samplers::find_sampler;
use velatura_samplers::noise::{RngKind, StepNoise};
use velatura_text::prompt::Dialect;

use super::graph::Reader;
use super::{LONGEST_WAY, target};

/// Samplers whose noise is a Brownian motion that is drawn on the CPU; with `_gpu` in their name it is drawn there.
const BROWNIAN: [&str; 4] = ["dpmpp_sde", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde"];

impl<'a> Reader<'a> {
    pub fn sampling(&mut self, id: &'a str) {
        let get = |key: &str| self.value(self.input(id, key));
        let text = |key: &str| get(key).and_then(Value::as_str).map(String::from);
        let whole = |key: &str| get(key).and_then(Value::as_u64);
        let seed = whole("seed").or_else(|| whole("noise_seed"));
        let steps = whole("steps").and_then(|n| u32::try_from(n).ok());
        let guidance = get("cfg").and_then(Value::as_f64).map(|v| v as f32);
        let (sampler, schedule) = (text("sampler_name"), text("scheduler"));
        let denoise = get("denoise").and_then(Value::as_f64);
        let (first, last) = (whole("start_at_step"), whole("end_at_step"));
        let request = &mut self.out.request;
        (request.seed, request.steps, request.guidance) = (seed, steps, guidance);
        (request.sampler, request.schedule) = (sampler, schedule);
        self.denoise(denoise);
        if first.is_some_and(|first| first > 0) || last.zip(steps).is_some_and(|(l, s)| l < u64::from(s)) {
            self.leave("sampling in a part of the steps only (start_at_step, end_at_step)");
        }
        for (key, name) in [("seed", "seed"), ("steps", "steps"), ("cfg", "guidance")] {
            let link = self.input(id, key).filter(|v| target(v).is_some());
            if link.is_some_and(|v| self.value(Some(v)).is_none()) {
                self.leave(format!("the {name}, which another node computes"));
            }
        }
    }

    /// The share of a picture that is noised away, which is of use with that picture alone.
    pub fn denoise(&mut self, denoise: Option<f64>) {
        if let Some(denoise) = denoise.filter(|d| *d < 1.0) {
            self.leave(format!("a denoise of {denoise} (--init takes the picture, --denoise the number)"));
        }
    }

    /// What every picture of ComfyUI has: its grammar, noise that begins with a variance of 1, and in the steps noise from
    /// a generator of its own, on the GPU unless the sampler says otherwise.
    pub fn as_comfyui(&mut self) {
        let request = &mut self.out.request;
        request.prompt_dialect = Dialect::ComfyUi;
        request.sampling.unit_start = true;
        let sampler = request.sampler.as_deref().unwrap_or_default();
        let stochastic = find_sampler(sampler).is_ok_and(|entry| entry.stochastic);
        if stochastic
            || request.sampling.eta.is_some_and(|eta| eta > 0.0)
            || request.sampling.s_churn.is_some()
        {
            let on_cpu = BROWNIAN.contains(&sampler);
            let kind = if on_cpu { RngKind::Cpu } else { RngKind::Cuda };
            request.sampling.step_noise = StepNoise::Anew { kind, delta: 0 };
        }
    }

    /// The text behind a conditioning.
    pub fn text(&mut self, from: Option<&'a Value>, positive: bool) -> String {
        let mut at = from.and_then(target);
        for _ in 0..LONGEST_WAY {
            let Some(id) = at else { break };
            let class = self.class(id).unwrap_or("unknown");
            if class.starts_with("CLIPTextEncode") {
                self.clip_skip(id);
                let read = |key: &str| self.value(self.input(id, key)).and_then(Value::as_str);
                let (plain, global, local) = (read("text"), read("text_g"), read("text_l"));
                if let (Some(global), Some(local)) = (global, local)
                    && global != local
                {
                    self.leave("a text for each of the two text encoders (that of text_g is used)");
                }
                return match plain.or(global).or(local) {
                    Some(text) => text.to_string(),
                    None => {
                        self.leave("a prompt that another node makes");
                        String::new()
                    }
                };
            }
            if class == "ConditioningZeroOut" {
                self.leave("zeros in place of a prompt (the empty prompt is used)");
                return String::new();
            }
            self.leave(format!("the node {class}"));
            let side = if positive { "positive" } else { "negative" };
            let keys = ["conditioning", side, "conditioning_1", "conditioning_to", "cond"];
            at = keys.iter().find_map(|key| self.input(id, key)).and_then(target);
        }
        if from.is_some() {
            self.leave("a prompt that another node makes");
        }
        String::new()
    }

    fn clip_skip(&mut self, text: &'a str) {
        let mut at = self.input(text, "clip").and_then(target);
        for _ in 0..LONGEST_WAY {
            let Some(id) = at else { return };
            if self.class(id) == Some("CLIPSetLastLayer") {
                let layer = self.value(self.input(id, "stop_at_clip_layer")).and_then(Value::as_i64);
                let skip = layer.and_then(i64::checked_neg).and_then(|n| u32::try_from(n).ok());
                self.out.request.clip_skip = skip.filter(|n| *n >= 1);
                return;
            }
            at = self.input(id, "clip").and_then(target);
        }
    }

    pub fn latent(&mut self, from: Option<&'a Value>) {
        let Some(id) = from.and_then(target) else { return };
        let class = self.class(id).unwrap_or("unknown");
        let empty = class.starts_with("Empty") && self.input(id, "width").is_some();
        if !empty {
            let starts =
                self.first_behind(id, &|id| matches!(self.class(id), Some("LoadImage" | "LoadImageMask")));
            self.leave(match starts {
                Some(_) => "the picture that it starts from".to_string(),
                None => format!("the size, which the node {class} decides"),
            });
            return;
        }
        let get = |key: &str| {
            self.value(self.input(id, key)).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok())
        };
        let (width, height, batch) = (get("width"), get("height"), get("batch_size"));
        (self.out.request.width, self.out.request.height) = (width, height);
        if batch.is_some_and(|n| n > 1) {
            self.leave("the other pictures of its batch (ComfyUI draws their noise from one stream)");
        }
    }
}
