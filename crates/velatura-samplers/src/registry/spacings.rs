//! The table of spacings.

use super::{Elsewhere, SpacingEntry};
use crate::Spacing;

/// One entry a spacing; lists show them in this order.
pub(super) const SPACINGS: &[SpacingEntry] = &[
    SpacingEntry {
        spacing: Spacing::Karras,
        title: "Karras",
        aliases: &["use_karras_sigmas", "k", "ka"],
        elsewhere: elsewhere(Some("Karras"), Some("karras"), Some("use_karras_sigmas")),
        when: "Small steps near the clean end: crisp detail in few steps with noise-predicting models.",
    },
    SpacingEntry {
        spacing: Spacing::Trailing,
        title: "Trailing",
        aliases: &[],
        elsewhere: elsewhere(None, None, Some("timestep_spacing=trailing")),
        when: "Starts at pure noise: for zero-terminal-SNR, distilled and rectified-flow models.",
    },
    SpacingEntry {
        spacing: Spacing::Normal,
        title: "Uniform",
        aliases: &["discrete", "automatic"],
        elsewhere: elsewhere(Some("Uniform"), Some("normal"), None),
        when: "Equal steps over all timesteps as k-diffusion, A1111 and ComfyUI lay them out.",
    },
    SpacingEntry {
        spacing: Spacing::Linspace,
        title: "Linspace",
        aliases: &["default", "even"],
        elsewhere: elsewhere(None, None, Some("timestep_spacing=linspace")),
        when: "Equal steps over all timesteps as diffusers lays them out.",
    },
    SpacingEntry {
        spacing: Spacing::Leading,
        title: "Leading",
        aliases: &[],
        elsewhere: elsewhere(None, None, Some("timestep_spacing=leading")),
        when: "The timesteps of the first Stable Diffusion releases with DDIM; to make old pictures again.",
    },
    SpacingEntry {
        spacing: Spacing::SgmUniform,
        title: "SGM Uniform",
        aliases: &[],
        elsewhere: elsewhere(Some("SGM Uniform"), Some("sgm_uniform"), None),
        when: "Like uniform without the last, nearly clean timestep; for turbo and lightning models.",
    },
    SpacingEntry {
        spacing: Spacing::Simple,
        title: "Simple",
        aliases: &[],
        elsewhere: elsewhere(Some("Simple"), Some("simple"), None),
        when: "ComfyUI's default for rectified-flow models.",
    },
    SpacingEntry {
        spacing: Spacing::Exponential,
        title: "Exponential",
        aliases: &["use_exponential_sigmas"],
        elsewhere: elsewhere(Some("Exponential"), Some("exponential"), Some("use_exponential_sigmas")),
        when: "Even steps in the logarithm of the noise; smooth gradients, softer than karras.",
    },
    SpacingEntry {
        spacing: Spacing::Polyexponential,
        title: "Polyexponential",
        aliases: &[],
        elsewhere: elsewhere(Some("Polyexponential"), Some("PolyexponentialScheduler"), None),
        when: "Exponential with an exponent: above 1 it lingers where little noise is left.",
    },
    SpacingEntry {
        spacing: Spacing::Beta,
        title: "Beta",
        aliases: &[],
        elsewhere: elsewhere(None, Some("beta"), None),
        when: "Many steps at both ends: composition and detail together; good for rectified-flow models.",
    },
    SpacingEntry {
        spacing: Spacing::BetaSigmas,
        title: "Beta Sigmas",
        aliases: &["use_beta_sigmas"],
        elsewhere: elsewhere(Some("Beta"), None, Some("use_beta_sigmas")),
        when: "The beta schedule as diffusers and A1111 compute it, over sigma instead of timesteps.",
    },
    SpacingEntry {
        spacing: Spacing::KlOptimal,
        title: "KL Optimal",
        aliases: &[],
        elsewhere: elsewhere(Some("KL Optimal"), Some("kl_optimal"), None),
        when: "Levels from theory that need no tuning; good in 10 to 20 steps.",
    },
    SpacingEntry {
        spacing: Spacing::Ays,
        title: "Align Your Steps",
        aliases: &["align_your_steps"],
        elsewhere: elsewhere(Some("Align Your Steps"), Some("AlignYourStepsScheduler"), Some("AysSchedules")),
        when: "Levels tuned on Stable Diffusion 1.5: the most of 10 steps.",
    },
    SpacingEntry {
        spacing: Spacing::AysSdxl,
        title: "Align Your Steps SDXL",
        aliases: &["align_your_steps_sdxl"],
        elsewhere: elsewhere(Some("Align Your Steps"), Some("AlignYourStepsScheduler"), Some("AysSchedules")),
        when: "Levels tuned on SDXL: the most of 10 steps.",
    },
    SpacingEntry {
        spacing: Spacing::DdimUniform,
        title: "DDIM Uniform",
        aliases: &["ddim"],
        elsewhere: elsewhere(Some("DDIM"), Some("ddim_uniform"), None),
        when: "Every so many timesteps from the clean end, as A1111's DDIM and ComfyUI lay them out.",
    },
    SpacingEntry {
        spacing: Spacing::Turbo,
        title: "Turbo",
        aliases: &["sd_turbo"],
        elsewhere: elsewhere(None, Some("SDTurboScheduler"), None),
        when: "For SD-Turbo and SDXL-Turbo: 1 to 4 steps, at most 10.",
    },
    SpacingEntry {
        spacing: Spacing::Lcm,
        title: "LCM",
        aliases: &[],
        elsewhere: elsewhere(None, None, Some("LCMScheduler")),
        when: "The timesteps of latent consistency models: 1 to 8 steps, at most 50.",
    },
];

/// What A1111, ComfyUI and diffusers call it.
const fn elsewhere(
    a1111: Option<&'static str>,
    comfyui: Option<&'static str>,
    diffusers: Option<&'static str>,
) -> Elsewhere {
    Elsewhere { a1111, comfyui, diffusers }
}
