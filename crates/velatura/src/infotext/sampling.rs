//! What samplers and schedules are told beyond their names, in A1111's keys, and in our own where it has none.

use velatura_samplers::noise::{RngKind, StepNoise};
use velatura_samplers::parse_sampler;

use crate::request::SamplingOptions;

/// A1111's key of DDIM's share of fresh noise; that of other samplers is `Eta`.
const ETA_DDIM: &str = "Eta DDIM";
/// Added to the seed for the noise of the steps, which the picture's own kind of generator draws.
pub(super) const DELTA: &str = "ENSD";
/// Nobody else has keys for these.
const SIGMAS: &str = "Sigmas";
const STEP_NOISE: &str = "Step noise";

pub(super) fn write(options: &SamplingOptions, sampler: &str, rng: RngKind, pairs: &mut Vec<(&str, String)>) {
    let eta = if sampler == "ddim" { ETA_DDIM } else { "Eta" };
    let numbers = [
        (eta, options.eta),
        ("Sigma churn", options.s_churn),
        ("Sigma tmin", options.s_tmin),
        ("Sigma tmax", options.s_tmax),
        ("Sigma noise", options.s_noise),
        ("Schedule rho", options.rho),
    ];
    pairs.extend(numbers.into_iter().filter_map(|(key, value)| Some((key, value?.to_string()))));
    if !options.sigmas.is_empty() {
        let sigmas: Vec<String> = options.sigmas.iter().map(f64::to_string).collect();
        pairs.push((SIGMAS, sigmas.join(" ")));
    }
    if options.unit_start {
        pairs.push(("SGM noise multiplier", "True".into()));
    }
    match options.step_noise {
        StepNoise::Continue => {}
        StepNoise::Anew { kind, delta } if kind == rng && delta != 0 => {
            pairs.push((DELTA, (delta as i64).to_string()))
        }
        StepNoise::Anew { kind, delta } => {
            pairs.push((STEP_NOISE, format!("{} {delta}", if kind == RngKind::Cpu { "CPU" } else { "NV" })));
        }
    }
}

/// Whether the key is one of these.
pub(super) fn read(options: &mut SamplingOptions, key: &str, value: &str) -> bool {
    let number = value.parse::<f64>().ok().filter(|v| v.is_finite());
    match key {
        "Eta" | ETA_DDIM => options.eta = number,
        "Sigma churn" => options.s_churn = number,
        "Sigma tmin" => options.s_tmin = number,
        // A1111 means no limit by 0.
        "Sigma tmax" => options.s_tmax = number.filter(|&v| v != 0.0),
        "Sigma noise" => options.s_noise = number,
        "Schedule rho" => options.rho = number.filter(|&v| v != 0.0),
        SIGMAS => options.sigmas = value.split_whitespace().map_while(|v| v.parse().ok()).collect(),
        "SGM noise multiplier" => options.unit_start = value == "True",
        STEP_NOISE => {
            let (kind, delta) = value.split_once(' ').unwrap_or((value, "0"));
            let kind = if kind == "CPU" { RngKind::Cpu } else { RngKind::Cuda };
            options.step_noise = StepNoise::Anew { kind, delta: delta.parse().unwrap_or_default() };
        }
        _ => return false,
    }
    true
}

/// The schedule of a picture of A1111's that names none, or "Automatic". Since there are schedules by name (`new`) that is the
/// one in its table of samplers (`sd_samplers_kdiffusion.py` of 1.9), and before it was in the sampler's name or plain.
pub(super) fn automatic(sampler: Option<&str>, new: bool) -> Option<String> {
    let (entry, carried) = parse_sampler(sampler?).ok()?;
    if carried.is_some() {
        return None;
    }
    let schedule = match entry.name {
        "dpmpp_2m" | "dpmpp_sde" | "dpmpp_2s_ancestral" | "dpm_2" | "dpm_2_ancestral" if new => "karras",
        "dpmpp_2m_sde" | "dpmpp_2m_sde_heun" | "dpmpp_3m_sde" if new => "exponential",
        "restart" => "karras",
        "euler" | "euler_ancestral" | "lms" | "heun" | "dpmpp_2m" | "dpmpp_sde" | "dpmpp_2s_ancestral"
        | "dpm_2" | "dpm_2_ancestral" | "dpmpp_2m_sde" | "dpmpp_2m_sde_heun" | "dpmpp_3m_sde" => "normal",
        _ => return None,
    };
    Some(schedule.into())
}
