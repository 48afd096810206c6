//! The text form of a request that A1111's web UI writes into its pictures and that other tools read.
//!
//! The prompt's lines, then `Negative prompt: ...`, then one line of `Key: value` pairs; a value with a comma, a colon
//! or a line break is written as a JSON string.

mod guidance;
mod sampling;

use std::fmt::Write;
use std::path::Path;

use velatura_samplers::noise::{RngKind, StepNoise};
use velatura_samplers::{find_sampler, find_spacing};

use crate::picture::Origin;
use crate::request::{GenerateRequest, Precision, SeedVariation};
use crate::taken_over::TakenOver;

/// The model that made a picture, as its metadata names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ModelRef {
    /// Its name.
    pub name: String,
    /// The first ten hexadecimal digits of the SHA-256 of its file, as A1111 writes it.
    pub hash: String,
}

/// Writes the text form of how one picture was made.
pub fn write(origin: &Origin) -> String {
    let Origin { request, model, .. } = origin;
    // Neither the text form nor a PNG text chunk can hold a NUL.
    let mut text = request.prompt.replace('\0', "");
    if !request.negative.is_empty() {
        let _ = write!(text, "\nNegative prompt: {}", request.negative.replace('\0', ""));
    }
    let sampler = request.sampler.as_deref().unwrap_or_default();
    let schedule = request.schedule.as_deref().unwrap_or_default();
    let mut pairs: Vec<(&str, String)> = Vec::new();
    pairs.extend(request.steps.map(|v| ("Steps", v.to_string())));
    pairs.push(("Sampler", find_sampler(sampler).map_or(sampler, |e| e.title).to_string()));
    pairs.push(("Schedule type", find_spacing(schedule).map_or(schedule, |e| e.title).to_string()));
    pairs.extend(request.guidance.map(|v| ("CFG scale", v.to_string())));
    pairs.extend(request.seed.map(|v| ("Seed", v.to_string())));
    if let Some(SeedVariation { seed, strength }) = request.seeds.variation {
        pairs.extend(seed.map(|v| ("Variation seed", v.to_string())));
        pairs.push(("Variation seed strength", strength.to_string()));
    }
    sampling::write(&request.sampling, sampler, request.rng, &mut pairs);
    let resized = request.seeds.resize_from;
    pairs.extend(resized.map(|[width, height]| ("Seed resize from", format!("{width}x{height}"))));
    guidance::write(&request.guidance_options, &mut pairs);
    guidance::write_freeu(request.freeu.as_ref(), &mut pairs);
    guidance::write_deepcache(request.deepcache.as_ref(), &mut pairs);
    if let (Some(width), Some(height)) = (request.width, request.height) {
        pairs.push(("Size", format!("{width}x{height}")));
    }
    let strength = request.strength.or(request.sampling.denoise);
    pairs.extend(strength.map(|v| ("Denoising strength", v.to_string())));
    pairs.extend(request.image_guidance.map(|v| ("Image CFG scale", v.to_string())));
    pairs.extend(request.noise_level.map(|v| ("Noise level", v.to_string())));
    pairs.push(("Model hash", model.hash.clone()));
    pairs.push(("Model", model.name.clone()));
    pairs.push(("RNG", if request.rng == RngKind::Cpu { "CPU" } else { "NV" }.to_string()));
    pairs.extend(request.clip_skip.map(|v| ("Clip skip", v.to_string())));
    if request.zero_snr == Some(true) {
        pairs.push((NOISE_SCHEDULE, ZERO_SNR.into()));
    }
    if !request.prompt_dialect.is_default() {
        pairs.push((DIALECT, request.prompt_dialect.title().to_string()));
    }
    pairs.extend(request.emphasis.map(|v| ("Emphasis", v.title().to_string())));
    let refiner = request.refiner.as_deref().and_then(|path| Path::new(path).file_stem());
    pairs.extend(refiner.map(|name| ("Refiner", name.to_string_lossy().into_owned())));
    pairs.extend(request.refiner_switch.map(|v| ("Refiner switch at", v.to_string())));
    pairs.extend(request.precision.map(|v| ("Precision", v.name().to_string())));
    let hashes: Vec<String> = origin.embeddings.iter().map(|e| format!("{}: {}", e.name, e.hash)).collect();
    pairs.push(("TI hashes", hashes.join(", ")));
    pairs.push(("Version", format!("velatura {}", env!("CARGO_PKG_VERSION"))));
    let line: Vec<String> = pairs
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| format!("{key}: {}", quote(&value)))
        .collect();
    let _ = write!(text, "\n{}", line.join(", "));
    text
}

/// Reads the text form, also where A1111 itself wrote it. What is not known is left at its default; a text without
/// the line of pairs is all prompt.
pub fn parse(text: &str) -> GenerateRequest {
    read(text).request
}

/// As [`parse`], with what could not be taken over and with the model's name.
pub fn read(text: &str) -> TakenOver {
    let mut request = GenerateRequest::default();
    let (mut model, mut left_out) = (None, Vec::new());
    let lines: Vec<&str> = text.trim().lines().collect();
    let (head, pairs) = match lines.split_last() {
        Some((last, head)) => {
            let pairs = parse_pairs(last);
            // A1111's own rule: fewer than three pairs is prose with colons in it.
            if pairs.len() >= 3 { (head, pairs) } else { (&lines[..], Vec::new()) }
        }
        None => (&lines[..], Vec::new()),
    };
    let at = head.iter().position(|line| line.trim_start().starts_with(NEGATIVE));
    let (prompt, negative) = head.split_at(at.unwrap_or(head.len()));
    request.prompt = prompt.join("\n").trim().to_string();
    let negative = negative.join("\n");
    request.negative = negative.trim_start().strip_prefix(NEGATIVE).unwrap_or_default().trim().to_string();
    // A1111's default is the CUDA generator; it only names another.
    let mut rng = None;
    let mut version = String::new();
    let mut variation = SeedVariation::default();
    let (mut automatic, mut delta) = (false, 0i64);
    for (key, value) in pairs {
        match key.as_str() {
            "Steps" => request.steps = value.parse().ok(),
            "Sampler" => request.sampler = Some(value),
            "Schedule type" if value == "Automatic" => automatic = true,
            "Schedule type" => request.schedule = Some(value),
            "CFG scale" => request.guidance = value.parse().ok(),
            "Seed" => request.seed = value.parse().ok(),
            "Size" => {
                if let Some([width, height]) = size(&value) {
                    (request.width, request.height) = (Some(width), Some(height));
                }
            }
            "Variation seed" => variation.seed = value.parse().ok(),
            "Variation seed strength" => variation.strength = value.parse().unwrap_or_default(),
            "Seed resize from" => request.seeds.resize_from = size(&value),
            "RNG" => rng = Some(if value == "CPU" { RngKind::Cpu } else { RngKind::Cuda }),
            "Clip skip" => request.clip_skip = value.parse().ok(),
            NOISE_SCHEDULE => request.zero_snr = (value == ZERO_SNR).then_some(true),
            DIALECT => request.prompt_dialect = value.parse().unwrap_or_default(),
            "Emphasis" => request.emphasis = value.parse().ok(),
            // A1111 writes the hash behind the name.
            "Refiner" => request.refiner = Some(value.split(" [").next().unwrap_or_default().to_string()),
            "Refiner switch at" => request.refiner_switch = value.parse().ok(),
            "Precision" => request.precision = value.parse::<Precision>().ok(),
            "Version" => version = value,
            "Model" => model = Some(value),
            sampling::DELTA => delta = value.parse().unwrap_or_default(),
            _ if sampling::read(&mut request.sampling, &key, &value) => {}
            _ if guidance::read_deepcache(&mut request.deepcache, &key, &value) => {}
            _ if guidance::read_freeu(&mut request.freeu, &key, &value) => {}
            _ if guidance::read(&mut request.guidance_options, &key, &value) => {}
            _ => left_out.extend(not_taken(&key, &value)),
        }
    }
    let ours = version.starts_with("velatura");
    // A1111's beta schedule is one over sigmas; Forge and ComfyUI have another under that name.
    if version.starts_with("v1.") && request.schedule.as_deref() == Some("Beta") {
        request.schedule = Some("Beta Sigmas".into());
    }
    if !ours && request.steps.is_some() && request.schedule.is_none() {
        request.schedule = sampling::automatic(request.sampler.as_deref(), automatic || is_new(&version));
    }
    if request.refiner.is_none() {
        request.refiner_switch = None;
    }
    request.seeds.variation = Some(variation).filter(|v| v.strength != 0.0);
    if request.steps.is_some() {
        request.rng = rng.unwrap_or(if ours { RngKind::Cpu } else { RngKind::Cuda });
    }
    if delta != 0 {
        request.sampling.step_noise = StepNoise::Anew { kind: request.rng, delta: delta as u64 };
    }
    TakenOver { request, model, left_out }
}

/// Whether the schedule has a key of its own: A1111 since 1.9, and Forge.
fn is_new(version: &str) -> bool {
    let minor = version.strip_prefix("v1.").and_then(|rest| rest.split('.').next());
    minor.and_then(|minor| minor.parse::<u32>().ok()).is_some_and(|minor| minor >= 9)
        || version.starts_with('f')
}

/// What a pair that is not known says, unless it changes nothing of the picture.
fn not_taken(key: &str, value: &str) -> Option<String> {
    const SAYS_NOTHING: [&str; 16] = [
        "Model hash",
        "VAE hash",
        "Lora hashes",
        "TI hashes",
        "Hashes",
        "User",
        "Batch size",
        "Batch pos",
        "Sampler name",
        "Pad conds",
        "Pad conds v0",
        "Noise level",
        "Image CFG scale",
        "PerturbedAttentionGuidance_enabled",
        "sag_enabled",
        "dynthres_enabled",
    ];
    match key {
        _ if SAYS_NOTHING.contains(&key) || key.starts_with("freeu_") => None,
        "VAE" if value == "Automatic" || value == "None" => None,
        "VAE" => Some(format!("the VAE {value} (--vae takes one)")),
        "Denoising strength" => Some(format!(
            "the picture that it starts from, or the pass that enlarges it (denoising strength {value})"
        )),
        _ => Some(format!("{key}: {value}")),
    }
}

/// A1111's setting "Noise schedule for sampling".
const NOISE_SCHEDULE: &str = "Noise Schedule";
const ZERO_SNR: &str = "Zero Terminal SNR";
/// No key of A1111's, which knows one grammar only.
const DIALECT: &str = "Prompt dialect";
/// Width and height, `512x768`; none where they are no numbers above 0.
fn size(text: &str) -> Option<[u32; 2]> {
    let (width, height) = text.split_once('x')?;
    let side = |text: &str| text.trim().parse::<u32>().ok().filter(|&side| side > 0);
    Some([side(width)?, side(height)?])
}

const NEGATIVE: &str = "Negative prompt:";

fn quote(value: &str) -> String {
    if value.contains([',', ':', '\n']) {
        serde_json::Value::from(value).to_string()
    } else {
        value.to_string()
    }
}

/// `Key: value` pairs separated by commas; values may be JSON strings. Linear in the length of the line.
fn parse_pairs(line: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut rest = line.trim();
    while let Some((key, after)) = rest.split_once(':') {
        let key = key.trim();
        let word = |c: char| c.is_alphanumeric() || matches!(c, ' ' | '_' | '-' | '/');
        if key.is_empty() || !key.chars().all(word) {
            return pairs;
        }
        let after = after.trim_start();
        let (value, remaining) = match quoted(after) {
            Some(found) => found,
            None => match after.split_once(',') {
                Some((value, remaining)) => (value.trim().to_string(), remaining),
                None => (after.trim().to_string(), ""),
            },
        };
        pairs.push((key.to_string(), value));
        rest = remaining.trim_start().trim_start_matches(',').trim_start();
    }
    pairs
}

/// A JSON string at the beginning, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    if !text.starts_with('"') {
        return None;
    }
    let mut escaped = false;
    let end = text.char_indices().skip(1).find_map(|(i, c)| {
        let closes = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        closes.then_some(i)
    })?;
    let value = serde_json::from_str(&text[..=end]).ok()?;
    Some((value, &text[end + 1..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use velatura_models::unet::FreeU;
    use velatura_text::prompt::Dialect;

    use super::*;
    use velatura_samplers::{DynamicThreshold, PercentileThreshold};

    use crate::embeddings::EmbeddingRef;
    use crate::request::{
        DeepCache, Emphasis, GuidanceOptions, PerturbedAttention, SamplingOptions, SeedOptions,
        SelfAttentionGuidance,
    };

    #[test]
    fn a_picture_of_a1111_is_read() {
        // From A1111's own wiki and its infotext test.
        let text = "<lora:negative:1> <lyco:negative:1>, masterpiece, best quality\nsecond line: with colon\n\
                    Negative prompt: EasyNegative, (worst quality:1.4),\nbad hands\n\
                    Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 965400086, \
                    Size: 512x768, Model hash: 45dee52b, Model: v1-5, Lora hashes: \"a: b, c: d\", \
                    Refiner: sd_xl_refiner_1.0 [7440042bbd], Refiner switch at: 0.85, Emphasis: No norm, Version: v1.9.0";
        let request = parse(text);
        assert_eq!(
            request.prompt,
            "<lora:negative:1> <lyco:negative:1>, masterpiece, best quality\nsecond line: with colon"
        );
        assert_eq!(request.negative, "EasyNegative, (worst quality:1.4),\nbad hands");
        assert_eq!((request.steps, request.seed), (Some(20), Some(965_400_086)));
        assert_eq!((request.width, request.height), (Some(512), Some(768)));
        assert_eq!(request.guidance, Some(7.5));
        assert_eq!(request.sampler.as_deref(), Some("DPM++ 2M"));
        assert_eq!(request.schedule.as_deref(), Some("Karras"));
        assert_eq!(request.rng, RngKind::Cuda);
        assert_eq!(
            (request.refiner.as_deref(), request.refiner_switch),
            (Some("sd_xl_refiner_1.0"), Some(0.85))
        );
        assert_eq!(request.emphasis, Some(Emphasis::NoNorm));
    }

    #[test]
    fn a1111_s_beta_schedule_is_told_from_comfyui_s() {
        let schedule = |version: &str| {
            parse(&format!(
                "a cat\nSteps: 20, Sampler: Euler, Schedule type: Beta, Seed: 1, Version: {version}"
            ))
            .schedule
        };
        assert_eq!(schedule("v1.10.1").as_deref(), Some("Beta Sigmas"));
        assert_eq!(schedule("f2.0.1v1.10.1-previous").as_deref(), Some("Beta"));
        assert_eq!(schedule("velatura 0.1.0").as_deref(), Some("Beta"));
    }

    /// Keys of `sd_samplers_common.py`, `sd_samplers_kdiffusion.py` and `processing.py` of A1111 1.10.
    #[test]
    fn what_a1111_tells_its_samplers_is_read() {
        let text = "a cat\nSteps: 20, Sampler: DPM++ 2S a, Schedule type: Karras, CFG scale: 7, Seed: 3, Size: 512x512, \
                    Model hash: 45dee52b, Model: v1-5, VAE hash: 735e4c3a44, VAE: vae-ft-mse, Denoising strength: 0.6, \
                    Hires upscale: 2, ENSD: 31337, Eta: 0.67, Sigma churn: 0.5, Sigma tmin: 0.1, Sigma tmax: 9, \
                    Sigma noise: 1.01, Schedule rho: 5, SGM noise multiplier: True, Lora hashes: \"a: b\", \
                    TI hashes: \"c: d\", Version: v1.10.1";
        let read = read(text);
        assert_eq!(
            read.request.sampling,
            SamplingOptions {
                eta: Some(0.67),
                s_churn: Some(0.5),
                s_tmin: Some(0.1),
                s_tmax: Some(9.0),
                s_noise: Some(1.01),
                rho: Some(5.0),
                unit_start: true,
                step_noise: StepNoise::Anew { kind: RngKind::Cuda, delta: 31337 },
                ..SamplingOptions::default()
            }
        );
        assert_eq!(read.model.as_deref(), Some("v1-5"));
        assert_eq!(
            read.left_out,
            [
                "the VAE vae-ft-mse (--vae takes one)",
                "the picture that it starts from, or the pass that enlarges it (denoising strength 0.6)",
                "Hires upscale: 2",
            ]
        );
        let ddim =
            "a cat\nSteps: 20, Sampler: DDIM, CFG scale: 7, Seed: 3, Eta DDIM: 0.4, RNG: CPU, ENSD: -2";
        let sampling = parse(ddim).sampling;
        assert_eq!(sampling.eta, Some(0.4));
        assert_eq!(sampling.step_noise, StepNoise::Anew { kind: RngKind::Cpu, delta: -2i64 as u64 });
    }

    /// A1111 before 1.9 has the schedule in the sampler's name or none; since then "Automatic" stands for that of its table.
    #[test]
    fn a_schedule_that_a1111_does_not_name_is_its_own() {
        let schedule = |sampler: &str, more: &str| {
            parse(&format!("a cat\nSteps: 20, Sampler: {sampler}, {more}CFG scale: 7, Seed: 1")).schedule
        };
        let new = "Schedule type: Automatic, Version: v1.10.1, ";
        for (sampler, old, automatic) in [
            ("Euler a", Some("normal"), Some("normal")),
            ("DPM++ 2M", Some("normal"), Some("karras")),
            ("DPM++ 2M Karras", None, None),
            ("DPM++ 2M SDE Heun", Some("normal"), Some("exponential")),
            ("DPM++ 3M SDE", Some("normal"), Some("exponential")),
            ("DPM2 a", Some("normal"), Some("karras")),
            ("Restart", Some("karras"), Some("karras")),
            ("DDIM", None, None),
            ("UniPC", None, None),
        ] {
            assert_eq!(schedule(sampler, "Version: v1.6.0, ").as_deref(), old, "{sampler}");
            assert_eq!(schedule(sampler, "").as_deref(), old, "{sampler}");
            assert_eq!(schedule(sampler, new).as_deref(), automatic, "{sampler}");
        }
        assert_eq!(schedule("Euler a", "Version: velatura 0.1.0, "), None);
    }

    #[test]
    fn prose_is_all_prompt() {
        assert_eq!(parse("a cat: fluffy").prompt, "a cat: fluffy");
        assert_eq!(parse("").prompt, "");
        assert_eq!(parse("a cat").rng, RngKind::Cpu);
    }

    fn origin(request: GenerateRequest, model: ModelRef) -> Origin {
        let embeddings = vec![EmbeddingRef { name: "mist".into(), hash: "0123456789ab".into() }];
        let (version, instructions, sources) = (String::new(), String::new(), Vec::new());
        Origin { version, instructions, model, request, sources, embeddings }
    }

    fn full() -> GenerateRequest {
        GenerateRequest {
            prompt: "two red apples above a cat, on \"sky\" blue: really\nsecond line".into(),
            negative: "rain, snow: hail".into(),
            seed: Some(u64::MAX),
            steps: Some(30),
            guidance: Some(3.25),
            width: Some(128),
            height: Some(64),
            sampler: Some("dpmpp_2m".into()),
            schedule: Some("karras".into()),
            precision: Some(Precision::Bf16),
            clip_skip: Some(2),
            zero_snr: Some(true),
            prompt_dialect: Dialect::ComfyUi,
            emphasis: Some(Emphasis::Ignore),
            refiner: Some("refiner".into()),
            refiner_switch: Some(0.75),
            rng: RngKind::Cuda,
            seeds: SeedOptions {
                variation: Some(SeedVariation { seed: Some(9), strength: 0.35 }),
                resize_from: Some([96, 64]),
                ..SeedOptions::default()
            },
            freeu: Some(FreeU { s1: 0.9, s2: 0.2, b1: 1.5, b2: 1.6 }),
            deepcache: Some(DeepCache { interval: 3, branch: 1 }),
            sampling: SamplingOptions {
                eta: Some(0.5),
                s_noise: Some(1.02),
                s_churn: Some(2.0),
                s_tmin: Some(0.1),
                s_tmax: Some(8.5),
                rho: Some(5.0),
                sigmas: vec![14.5, 3.25, 0.5],
                denoise: None,
                unit_start: true,
                step_noise: StepNoise::Anew { kind: RngKind::Cpu, delta: 1 },
            },
            guidance_options: GuidanceOptions {
                rescale: Some(0.7),
                interval: Some([0.1, 0.8]),
                threshold: Some(DynamicThreshold {
                    mimic_scale: 5.0,
                    percentile: 0.995,
                    ..Default::default()
                }),
                percentile_threshold: Some(PercentileThreshold { ratio: 0.99, max: Some(1.5) }),
                perturbed_attention: Some(PerturbedAttention {
                    scale: 2.5,
                    adaptive_scale: 0.001,
                    layers: vec!["mid".into(), "up_blocks.1".into()],
                }),
                self_attention: Some(SelfAttentionGuidance { scale: 0.6, blur: 1.5 }),
            },
            ..GenerateRequest::default()
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let model = ModelRef { name: "a, model: \"named\" badly".into(), hash: "0123456789".into() };
        let text = write(&origin(full(), model));
        assert!(text.contains("Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 3.25"), "{text}");
        assert!(text.contains("TI hashes: \"mist: 0123456789ab\", Version"), "{text}");
        let read = parse(&text);
        let spelled =
            GenerateRequest { sampler: Some("DPM++ 2M".into()), schedule: Some("Karras".into()), ..full() };
        assert_eq!(read, spelled);
    }

    proptest! {
        #[test]
        fn any_text_is_parsed(text in "(?s).{0,300}") {
            parse(&text);
        }

        #[test]
        fn one_line_prompts_come_back(prompt in "[a-zA-Z0-9 ,:.\"()\\[\\]<>|é猫🐈-]{0,80}") {
            prop_assume!(!prompt.trim_start().starts_with(NEGATIVE));
            let request = GenerateRequest { prompt: prompt.trim().to_string(), ..full() };
            let read = parse(&write(&origin(request.clone(), ModelRef::default())));
            prop_assert_eq!(read.prompt, request.prompt);
            prop_assert_eq!(read.seed, request.seed);
        }
    }
}
