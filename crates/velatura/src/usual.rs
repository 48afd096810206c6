//! What a published model is usually asked for, where a request says nothing.

use serde::Deserialize;
use velatura_samplers::{DiffusersSchedulerConfig, Spacing};
use velatura_weights::{Checkpoint, Prediction, Task};

/// Steps, guidance, sampler and spacing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Usual {
    pub steps: u32,
    pub guidance: f32,
    pub sampler: &'static str,
    /// The sampler's own where `None`.
    pub spacing: Option<Spacing>,
}

impl Usual {
    /// Most models: diffusers' guidance, and half of its 50 steps by a sampler that needs no more.
    const PLAIN: Usual = Usual { steps: 25, guidance: 7.5, sampler: "dpmpp_2m", spacing: None };
    /// Latent consistency models that are not told the guidance (LCM-LoRA merged in): without guidance.
    const CONSISTENT: Usual = Usual { steps: 4, guidance: 1.0, sampler: "lcm", spacing: Some(Spacing::Lcm) };
    /// Models distilled to very few steps without guidance, as Turbo and Lightning.
    const TURBO: Usual =
        Usual { steps: 4, guidance: 1.0, sampler: "euler", spacing: Some(Spacing::Trailing) };

    /// For a checkpoint, by its networks, its folder's scheduler, and for files the name that turbo models carry.
    pub fn of(checkpoint: &Checkpoint, xl: bool) -> Self {
        let scheduler = checkpoint.scheduler().and_then(|s| DiffusersSchedulerConfig::deserialize(s).ok());
        let class = scheduler.as_ref().and_then(|s| s.class_name.as_deref()).unwrap_or_default();
        // diffusers' folders of turbo and lightning models, and of no others, begin Euler's steps at the noisy end
        // without predicting v.
        let trailing =
            scheduler.as_ref().and_then(DiffusersSchedulerConfig::spacing) == Some(Spacing::Trailing);
        let distilled =
            class.starts_with("Euler") && trailing && checkpoint.prediction() != Some(Prediction::V);
        let name =
            checkpoint.path().file_name().map_or(String::new(), |n| n.to_string_lossy().to_lowercase());
        if checkpoint.has_guidance_embedding() {
            // As diffusers' pipeline of latent consistency models has it.
            return Usual { guidance: 8.5, ..Self::CONSISTENT };
        }
        match checkpoint.task() {
            _ if class == "LCMScheduler" => Self::CONSISTENT,
            _ if distilled || scheduler.is_none() && name.contains("turbo") => {
                let ancestral = class == "EulerAncestralDiscreteScheduler";
                Usual { sampler: if ancestral { "euler_ancestral" } else { "euler" }, ..Self::TURBO }
            }
            Some(Task::Upscaling) => Usual { guidance: 9.0, ..Self::PLAIN },
            _ if xl => Usual { guidance: 5.0, ..Self::PLAIN },
            _ => Self::PLAIN,
        }
    }
}
