//! Guidance beyond its scale, FreeU and DeepCache, in the keys of Forge and of the extensions that do the same.

use velatura_models::unet::FreeU;

use crate::request::{DeepCache, GuidanceOptions};

/// Keys of Forge, and beside them our own for what it does not have.
const PAG_SCALE: &str = "PerturbedAttentionGuidance_scale";
const PAG_ADAPTIVE: &str = "PerturbedAttentionGuidance_adaptive_scale";
const PAG_LAYERS: &str = "PerturbedAttentionGuidance_layers";
const SAG_SCALE: &str = "sag_scale";
const SAG_BLUR: &str = "sag_blur_sigma";
/// Nobody else has a key for it.
const PERCENTILE: &str = "Threshold percentile";
const PERCENTILE_MAX: &str = "Threshold maximum";
const MIMIC_SCALE: &str = "dynthres_mimic_scale";
const MIMIC_PERCENTILE: &str = "dynthres_threshold_percentile";

/// Guidance beside its scale, in the keys of the extensions that do the same, and in our own where there is none.
pub(super) fn write(options: &GuidanceOptions, pairs: &mut Vec<(&str, String)>) {
    pairs.extend(options.rescale.map(|v| ("CFG Rescale", v.to_string())));
    if let Some([start, end]) = options.interval {
        pairs.push(("CFG interval start", start.to_string()));
        pairs.push(("CFG interval end", end.to_string()));
    }
    if let Some(perturbed) = &options.perturbed_attention {
        pairs.push(("PerturbedAttentionGuidance_enabled", "True".into()));
        pairs.push((PAG_SCALE, perturbed.scale.to_string()));
        if perturbed.adaptive_scale != 0.0 {
            pairs.push((PAG_ADAPTIVE, perturbed.adaptive_scale.to_string()));
        }
        if perturbed.layers != ["mid"] {
            pairs.push((PAG_LAYERS, perturbed.layers.join(" ")));
        }
    }
    if let Some(own) = &options.self_attention {
        pairs.push(("sag_enabled", "True".into()));
        pairs.push((SAG_SCALE, own.scale.to_string()));
        pairs.push((SAG_BLUR, own.blur.to_string()));
    }
    if let Some(threshold) = &options.threshold {
        pairs.push(("dynthres_enabled", "True".into()));
        pairs.push((MIMIC_SCALE, threshold.mimic_scale.to_string()));
        pairs.push((MIMIC_PERCENTILE, threshold.percentile.to_string()));
    }
    if let Some(threshold) = &options.percentile_threshold {
        pairs.push((PERCENTILE, threshold.ratio.to_string()));
        pairs.extend(threshold.max.map(|max| (PERCENTILE_MAX, max.to_string())));
    }
}

/// Whether the key is one of these.
pub(super) fn read(options: &mut GuidanceOptions, key: &str, value: &str) -> bool {
    let number = value.parse::<f32>().ok();
    match key {
        "CFG Rescale" | "CFG rescale" => options.rescale = number.filter(|&v| v != 0.0),
        "CFG interval start" => options.interval.get_or_insert([0.0, 1.0])[0] = number.unwrap_or(0.0),
        "CFG interval end" => options.interval.get_or_insert([0.0, 1.0])[1] = number.unwrap_or(1.0),
        PAG_SCALE | PAG_ADAPTIVE | PAG_LAYERS => {
            let perturbed = options.perturbed_attention.get_or_insert_default();
            match key {
                PAG_SCALE => perturbed.scale = number.unwrap_or(perturbed.scale),
                PAG_ADAPTIVE => perturbed.adaptive_scale = number.unwrap_or_default(),
                _ => perturbed.layers = value.split_whitespace().map(String::from).collect(),
            }
        }
        SAG_SCALE | SAG_BLUR => {
            let own = options.self_attention.get_or_insert_default();
            match key {
                SAG_SCALE => own.scale = number.unwrap_or(own.scale),
                _ => own.blur = value.parse().unwrap_or(own.blur),
            }
        }
        PERCENTILE | PERCENTILE_MAX => {
            let threshold = options.percentile_threshold.get_or_insert_default();
            match key {
                PERCENTILE => threshold.ratio = value.parse().unwrap_or(threshold.ratio),
                _ => threshold.max = value.parse().ok(),
            }
        }
        MIMIC_SCALE | MIMIC_PERCENTILE => {
            let threshold = options.threshold.get_or_insert_default();
            let field =
                if key == MIMIC_SCALE { &mut threshold.mimic_scale } else { &mut threshold.percentile };
            *field = value.parse().unwrap_or(*field);
        }
        _ => return false,
    }
    true
}

/// Nobody else writes DeepCache into pictures.
const DEEPCACHE_INTERVAL: &str = "DeepCache interval";
const DEEPCACHE_BRANCH: &str = "DeepCache branch";

/// DeepCache's numbers; whether that is what the key is about.
pub(super) fn read_deepcache(cache: &mut Option<DeepCache>, key: &str, value: &str) -> bool {
    if ![DEEPCACHE_INTERVAL, DEEPCACHE_BRANCH].contains(&key) {
        return false;
    }
    if let Ok(number) = value.parse() {
        let known = cache.get_or_insert_default();
        match key {
            DEEPCACHE_INTERVAL => known.interval = number,
            _ => known.branch = number,
        }
    }
    true
}

pub(super) fn write_deepcache(cache: Option<&DeepCache>, pairs: &mut Vec<(&str, String)>) {
    let Some(DeepCache { interval, branch }) = cache else { return };
    pairs.push((DEEPCACHE_INTERVAL, interval.to_string()));
    if *branch != 0 {
        pairs.push((DEEPCACHE_BRANCH, branch.to_string()));
    }
}

/// FreeU's factors, as Forge writes them; its defaults stand for those that lack.
pub(super) fn read_freeu(freeu: &mut Option<FreeU>, key: &str, value: &str) -> bool {
    const USUAL: FreeU = FreeU { s1: 0.99, s2: 0.95, b1: 1.01, b2: 1.02 };
    let mut known = freeu.unwrap_or(USUAL);
    let field = match key {
        "freeu_s1" => &mut known.s1,
        "freeu_s2" => &mut known.s2,
        "freeu_b1" => &mut known.b1,
        "freeu_b2" => &mut known.b2,
        _ => return false,
    };
    if let Ok(factor) = value.parse() {
        *field = factor;
        *freeu = Some(known);
    }
    true
}

/// FreeU's factors.
pub(super) fn write_freeu(freeu: Option<&FreeU>, pairs: &mut Vec<(&str, String)>) {
    let Some(FreeU { s1, s2, b1, b2 }) = freeu else { return };
    pairs.push(("freeu_enabled", "True".into()));
    let factors = [("freeu_b1", b1), ("freeu_b2", b2), ("freeu_s1", s1), ("freeu_s2", s2)];
    pairs.extend(factors.map(|(key, factor)| (key, factor.to_string())));
}
