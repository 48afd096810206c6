//! Samplers and spacings by name, in the spellings of A1111, diffusers and ComfyUI.

mod samplers;
mod spacings;

use serde::Serialize;

use samplers::SAMPLERS;
use spacings::SPACINGS;

use crate::sampler::{Sampler, SamplerOptions};
use crate::{NoiseSchedule, OptionError, Spacing, UnknownName};

/// One sampler of the registry.
pub struct SamplerEntry {
    /// Canonical name, which is ComfyUI's.
    pub name: &'static str,
    /// Name as A1111 shows it.
    pub title: &'static str,
    /// Other spellings. Case, spaces and punctuation never matter, except that `++` is read as `pp`.
    pub aliases: &'static [&'static str],
    /// When to use it, in one sentence.
    pub when: &'static str,
    /// Whether its pictures need fresh noise in every step.
    pub stochastic: bool,
    /// Questions to the network in one step.
    pub order: usize,
    /// Spacing to use with it on a beta schedule that does not end in pure noise.
    usual: Spacing,
    /// Names of the [`SamplerOptions`] that it reads.
    pub reads: &'static [&'static str],
    make: fn(&SamplerOptions) -> Box<dyn Sampler>,
}

impl std::fmt::Debug for SamplerEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SamplerEntry").field("name", &self.name).finish_non_exhaustive()
    }
}

impl SamplerEntry {
    /// The spacing to use when none is asked for: trailing where the schedule ends in pure noise, which
    /// must then be visited; otherwise the one that suits the sampler.
    pub fn default_spacing(&self, schedule: &NoiseSchedule) -> Spacing {
        if schedule.is_flow() || schedule.zero_snr { Spacing::Trailing } else { self.usual }
    }

    /// The sampler with options set.
    ///
    /// # Errors
    /// An option out of range.
    pub fn build(&self, options: &SamplerOptions) -> Result<Box<dyn Sampler>, OptionError> {
        options.validate()?;
        Ok((self.make)(options))
    }
}

/// One spacing of the registry.
#[derive(Debug)]
pub struct SpacingEntry {
    /// The spacing.
    pub spacing: Spacing,
    /// Name as A1111 shows it, or diffusers' where A1111 has none.
    pub title: &'static str,
    /// Other spellings.
    pub aliases: &'static [&'static str],
    /// What other tools call it.
    pub elsewhere: Elsewhere,
    /// When to use it, in one sentence.
    pub when: &'static str,
}

/// What other tools call a spacing; nothing where they do not have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Elsewhere {
    /// A1111's "Schedule type".
    pub a1111: Option<&'static str>,
    /// ComfyUI's `scheduler`, or the node that makes such sigmas.
    pub comfyui: Option<&'static str>,
    /// The setting of diffusers' schedulers, or the class that knows nothing else.
    pub diffusers: Option<&'static str>,
}

impl SpacingEntry {
    /// Canonical name.
    pub fn name(&self) -> &'static str {
        self.spacing.name()
    }
}

/// All samplers, the recommended ones first.
pub fn samplers() -> &'static [SamplerEntry] {
    SAMPLERS
}

/// All spacings, the recommended ones first.
pub fn spacings() -> &'static [SpacingEntry] {
    SPACINGS
}

/// The form in which names are compared: lower case, letters and digits only, `+` as `p`.
fn key(name: &str) -> String {
    name.chars()
        .filter_map(|c| if c == '+' { Some('p') } else { c.is_alphanumeric().then_some(c) })
        .flat_map(char::to_lowercase)
        .collect()
}

impl SamplerEntry {
    fn spellings(&self) -> impl Iterator<Item = &'static str> {
        [self.name, self.title].into_iter().chain(self.aliases.iter().copied())
    }
}

impl SpacingEntry {
    fn spellings(&self) -> impl Iterator<Item = &'static str> {
        [self.name(), self.title].into_iter().chain(self.aliases.iter().copied())
    }
}

fn sampler_by_key(wanted: &str) -> Option<&'static SamplerEntry> {
    SAMPLERS.iter().find(|entry| entry.spellings().any(|s| key(s) == wanted))
}

fn spacing_by_key(wanted: &str) -> Option<&'static SpacingEntry> {
    SPACINGS.iter().find(|entry| entry.spellings().any(|s| key(s) == wanted))
}

/// Longest part of a name that is compared and shown; names come from people and from files.
const NAME_LIMIT: usize = 64;

fn unknown(
    kind: &'static str,
    name: &str,
    known: impl Iterator<Item = (&'static str, &'static str)>,
) -> UnknownName {
    let name: String = name.chars().take(NAME_LIMIT).collect();
    let wanted = key(&name);
    let mut best: Vec<(f64, &'static str)> = Vec::new();
    let mut all = Vec::new();
    for (canonical, spelling) in known {
        let score = strsim::normalized_damerau_levenshtein(&wanted, &key(spelling));
        match best.iter_mut().find(|(_, name)| *name == canonical) {
            Some(entry) => entry.0 = entry.0.max(score),
            None => {
                best.push((score, canonical));
                all.push(canonical);
            }
        }
    }
    best.retain(|(score, _)| *score >= 0.5);
    best.sort_by(|a, b| b.0.total_cmp(&a.0));
    best.truncate(3);
    let near = !best.is_empty();
    let nearest = if near { best.into_iter().map(|(_, name)| name).collect() } else { all };
    UnknownName { kind, name, nearest, near }
}

/// Finds a sampler by any of its spellings.
///
/// # Errors
/// The name with the nearest known ones.
pub fn find_sampler(name: &str) -> Result<&'static SamplerEntry, UnknownName> {
    parse_name(name).and_then(|wanted| sampler_by_key(&wanted)).ok_or_else(|| unknown_sampler(name))
}

fn unknown_sampler(name: &str) -> UnknownName {
    unknown("sampler", name, SAMPLERS.iter().flat_map(|e| e.spellings().map(|s| (e.name, s))))
}

/// Finds a spacing (a "schedule" to the people who type it) by any of its spellings.
///
/// # Errors
/// The name with the nearest known ones.
pub fn find_spacing(name: &str) -> Result<&'static SpacingEntry, UnknownName> {
    parse_name(name).and_then(|wanted| spacing_by_key(&wanted)).ok_or_else(|| {
        unknown("schedule", name, SPACINGS.iter().flat_map(|e| e.spellings().map(|s| (e.name(), s))))
    })
}

/// The comparable form of a name of sensible length.
fn parse_name(name: &str) -> Option<String> {
    (name.len() <= 4 * NAME_LIMIT).then(|| key(name))
}

/// Reads a name that may carry its schedule, such as `DPM++ 2M Karras` or `ddim_trailing`.
///
/// # Errors
/// The name with the nearest known samplers.
pub fn parse_sampler(name: &str) -> Result<(&'static SamplerEntry, Option<Spacing>), UnknownName> {
    let Some(wanted) = parse_name(name) else { return Err(unknown_sampler(name)) };
    if let Some(entry) = sampler_by_key(&wanted) {
        return Ok((entry, None));
    }
    let both = SPACINGS.iter().flat_map(|spacing| spacing.spellings().map(move |s| (spacing, key(s))));
    for (spacing, suffix) in both {
        if let Some(entry) = wanted.strip_suffix(suffix.as_str()).and_then(sampler_by_key) {
            return Ok((entry, Some(spacing.spacing)));
        }
    }
    Err(unknown_sampler(name))
}

/// A sampler with its default options, by any of its spellings.
///
/// # Errors
/// As [`find_sampler`].
pub fn sampler_named(name: &str) -> Result<Box<dyn Sampler>, UnknownName> {
    find_sampler(name).map(|entry| (entry.make)(&SamplerOptions::default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_spelling_means_two_things() {
        let mut seen = std::collections::HashMap::new();
        for entry in samplers() {
            for spelling in entry.spellings() {
                let before = seen.insert(key(spelling), entry.name);
                assert!(before.is_none_or(|name| name == entry.name), "{spelling}");
            }
        }
        let mut seen = std::collections::HashMap::new();
        for entry in spacings() {
            for spelling in entry.spellings() {
                let before = seen.insert(key(spelling), entry.name());
                assert!(before.is_none_or(|name| name == entry.name()), "{spelling}");
            }
        }
    }

    #[test]
    fn all_three_spellings_find_the_sampler() {
        for (name, want) in [
            ("DPM++ 2M", "dpmpp_2m"),
            ("dpmpp_2m", "dpmpp_2m"),
            ("DPMSolverMultistepScheduler", "dpmpp_2m"),
            ("Euler a", "euler_ancestral"),
            ("euler_a", "euler_ancestral"),
            ("EULER-ANCESTRAL", "euler_ancestral"),
            ("EulerAncestralDiscreteScheduler", "euler_ancestral"),
            ("DDIM", "ddim"),
            ("DPM++ 2M SDE Heun", "dpmpp_2m_sde_heun"),
            ("dpmpp_2m_sde_gpu", "dpmpp_2m_sde"),
            ("DPM++ 3M SDE", "dpmpp_3m_sde"),
            ("DPM++ 2S a", "dpmpp_2s_ancestral"),
            ("DPM2 a", "dpm_2_ancestral"),
            ("k_dpm_2", "dpm_2"),
            ("DPM adaptive", "dpm_adaptive"),
            ("UniPC", "uni_pc"),
            ("UniPCMultistepScheduler", "uni_pc_bh2"),
            ("PNDMScheduler", "plms"),
            ("LMSDiscreteScheduler", "lms"),
            ("TCDScheduler", "tcd"),
        ] {
            assert_eq!(find_sampler(name).unwrap().name, want, "{name}");
        }
        for (name, want) in [
            ("Karras", Spacing::Karras),
            ("SGM Uniform", Spacing::SgmUniform),
            ("sgm_uniform", Spacing::SgmUniform),
            ("normal", Spacing::Normal),
            ("Uniform", Spacing::Normal),
            ("linspace", Spacing::Linspace),
            ("ddim_uniform", Spacing::DdimUniform),
            ("Align Your Steps", Spacing::Ays),
            ("KL Optimal", Spacing::KlOptimal),
        ] {
            assert_eq!(find_spacing(name).unwrap().spacing, want, "{name}");
        }
    }

    #[test]
    fn every_schedule_of_other_tools_is_some_spacing() {
        // A1111 1.10's `sd_schedulers.py` but for "Automatic" and "Normal" (which is its "Uniform"), and ComfyUI's
        // `SCHEDULER_NAMES` but for `linear_quadratic`, which is for videos.
        let a1111 = [
            "Uniform",
            "Karras",
            "Exponential",
            "Polyexponential",
            "SGM Uniform",
            "KL Optimal",
            "Align Your Steps",
            "Simple",
            "DDIM",
            "Beta",
        ];
        let comfyui = [
            "simple",
            "sgm_uniform",
            "karras",
            "exponential",
            "ddim_uniform",
            "beta",
            "normal",
            "kl_optimal",
        ];
        let diffusers = [
            "use_karras_sigmas",
            "use_exponential_sigmas",
            "use_beta_sigmas",
            "timestep_spacing=linspace",
            "timestep_spacing=leading",
            "timestep_spacing=trailing",
        ];
        let has = |known: fn(&Elsewhere) -> Option<&'static str>, name: &str| {
            spacings().iter().any(|entry| known(&entry.elsewhere) == Some(name))
        };
        assert!(a1111.iter().all(|name| has(|e| e.a1111, name)));
        assert!(comfyui.iter().all(|name| has(|e| e.comfyui, name)));
        assert!(diffusers.iter().all(|name| has(|e| e.diffusers, name)));
        // Where a name is taken, it means this spacing, but for A1111's "Beta", which ComfyUI's has the name of.
        for entry in spacings() {
            let Elsewhere { a1111, comfyui, .. } = entry.elsewhere;
            for name in [a1111, comfyui].into_iter().flatten().filter(|name| !name.ends_with("Scheduler")) {
                let found = find_spacing(name).unwrap().spacing;
                let shared = matches!(entry.spacing, Spacing::BetaSigmas | Spacing::AysSdxl);
                assert!(found == entry.spacing || shared, "{name}");
            }
        }
    }

    #[test]
    fn a_name_may_carry_its_schedule() {
        let parse = |name| parse_sampler(name).map(|(entry, spacing)| (entry.name, spacing)).unwrap();
        assert_eq!(parse("DPM++ 2M Karras"), ("dpmpp_2m", Some(Spacing::Karras)));
        assert_eq!(parse("ddim_trailing"), ("ddim", Some(Spacing::Trailing)));
        assert_eq!(parse("Euler SGM Uniform"), ("euler", Some(Spacing::SgmUniform)));
        assert_eq!(parse("DPM++ 2M SDE Karras"), ("dpmpp_2m_sde", Some(Spacing::Karras)));
        assert_eq!(parse("DPM++ 3M SDE Exponential"), ("dpmpp_3m_sde", Some(Spacing::Exponential)));
        assert_eq!(parse("k_dpm_2_a_ka"), ("dpm_2_ancestral", Some(Spacing::Karras)));
        assert_eq!(parse("euler a"), ("euler_ancestral", None));
    }

    #[test]
    fn unknown_names_carry_the_nearest() {
        let error = find_sampler("eulr").unwrap_err();
        assert_eq!(error.nearest[0], "euler");
        assert!(error.to_string().contains("did you mean euler"), "{error}");
        let error = find_sampler("dpmp 2m").unwrap_err();
        assert_eq!(error.nearest[0], "dpmpp_2m");
        let error = find_spacing("karas").unwrap_err();
        assert_eq!(error.nearest[0], "karras");
        let error = find_sampler("").unwrap_err();
        assert!(!error.near && error.nearest.len() == samplers().len());
        let long = "x".repeat(1 << 20);
        assert_eq!(parse_sampler(&long).unwrap_err().name.len(), NAME_LIMIT);
    }
}
