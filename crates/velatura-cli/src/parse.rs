//! Values of flags: each parser says in one sentence what it takes.

use velatura::request::{
    LONGEST_SIDE, MOST_FREEU, MOST_GUIDANCE, MOST_NOISE_LEVEL, MOST_PICTURES, MOST_STEPS,
};
use velatura::{Format, FreeU, Precision, Prediction, RngKind};

fn whole(text: &str, least: u32, most: u32, hint: &str) -> Result<u32, String> {
    match text.trim().parse::<u32>() {
        Ok(value) if (least..=most).contains(&value) => Ok(value),
        _ => Err(format!("must be a whole number from {least} to {most}{hint}")),
    }
}

/// `--steps`
pub fn steps(text: &str) -> Result<u32, String> {
    whole(text, 1, MOST_STEPS, " (20 to 30 is usual)")
}

/// `--deepcache`
pub fn deepcache(text: &str) -> Result<u32, String> {
    whole(text, 1, MOST_STEPS, " (2 to 5 is usual, 1 is off)")
}

/// `--width`, `--height`
pub fn side(text: &str) -> Result<u32, String> {
    whole(text, 1, LONGEST_SIDE, " (pixels)")
}

/// `--batch`
pub fn batch(text: &str) -> Result<u32, String> {
    whole(text, 1, MOST_PICTURES, "")
}

/// `--threads`
pub fn threads(text: &str) -> Result<usize, String> {
    whole(text, 1, 1024, "").map(|n| n as usize)
}

/// `--memory`
pub fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || {
        "must be a number of bytes, perhaps with K, M, G or T (decimal) or KiB, MiB, GiB or TiB".to_string()
    };
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (text[..at].parse::<f64>().map_err(|_| wrong())?, text[at..].trim());
    let unit = unit.to_ascii_lowercase();
    let power = |letter: &str| match letter {
        "" => Some(0),
        "k" => Some(1),
        "m" => Some(2),
        "g" => Some(3),
        "t" => Some(4),
        _ => None,
    };
    let scale = match unit.strip_suffix("ib").or(unit.strip_suffix('i')) {
        Some(letter) if !letter.is_empty() => power(letter).map(|p| 1024f64.powi(p)),
        _ => power(unit.strip_suffix('b').unwrap_or(&unit)).map(|p| 1000f64.powi(p)),
    };
    let bytes = number * scale.ok_or_else(wrong)?;
    if bytes >= 1.0 && bytes < u64::MAX as f64 { Ok(bytes as u64) } else { Err(wrong()) }
}

/// `--format`
pub fn format(text: &str) -> Result<Format, String> {
    Format::named(text.trim()).ok_or_else(|| "must be png, jpeg or webp".to_string())
}

/// `--quality`
pub fn quality(text: &str) -> Result<u8, String> {
    whole(text, 1, 100, " (75 to 95 is usual)").map(|n| n as u8)
}

/// `--guidance`
pub fn guidance(text: &str) -> Result<f32, String> {
    match text.trim().parse::<f32>() {
        Ok(value) if value > 0.0 && value <= MOST_GUIDANCE => Ok(value),
        _ => Err(format!(
            "must be a number above 0 and up to {MOST_GUIDANCE} (1 is no guidance, 2 to 8 is usual)"
        )),
    }
}

/// `--strength`
pub fn strength(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 1.0 => Ok(value),
        _ => Err(
            "must be a number above 0 and at most 1 (0.8 keeps the rough layout, 0.3 most of the picture)"
                .into(),
        ),
    }
}

/// `--image-guidance`
pub fn image_guidance(text: &str) -> Result<f32, String> {
    match text.trim().parse::<f32>() {
        Ok(value) if (1.0..=MOST_GUIDANCE).contains(&value) => Ok(value),
        _ => Err(format!("must be a number from 1 to {MOST_GUIDANCE} (1 is none, 1.2 to 1.8 is usual)")),
    }
}

/// `--noise-level`
pub fn noise_level(text: &str) -> Result<u32, String> {
    whole(text, 0, MOST_NOISE_LEVEL, " (20 is usual)")
}

/// `--clip-skip`
pub fn clip_skip(text: &str) -> Result<u32, String> {
    whole(text, 1, 64, " (1 is the model's own)")
}

/// `--seed`
pub fn seed(text: &str) -> Result<u64, String> {
    text.trim().parse().map_err(|_| "must be a whole number from 0 to 18446744073709551615".to_string())
}

/// `--seed`: one, or a list.
pub fn seeds(text: &str) -> Result<Vec<u64>, String> {
    let one = |part: &str| seed(part).map_err(|e| format!("{e}, or several with commas between"));
    text.split(',').map(one).collect()
}

/// `--variation-strength`
pub fn variation_strength(text: &str) -> Result<f64, String> {
    let hint = "(0 is the seed's own picture, 1 the variation seed's)";
    text.trim()
        .parse()
        .ok()
        .filter(|value| (0.0..=1.0).contains(value))
        .ok_or_else(|| format!("must be a number from 0 to 1 {hint}"))
}

/// `--guidance-rescale`
pub fn guidance_rescale(text: &str) -> Result<f32, String> {
    match text.trim().parse::<f32>() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("must be a number from 0 (none) to 1 (0.7 is usual)".into()),
    }
}

/// `--freeu`
pub fn freeu(text: &str) -> Result<FreeU, String> {
    let wrong = || format!("must be four factors above 0 and up to {MOST_FREEU}, as in 0.9,0.2,1.5,1.6");
    let factors: Vec<f32> = text.split(',').map_while(|part| part.trim().parse().ok()).collect();
    match factors[..] {
        [s1, s2, b1, b2]
            if factors.len() == text.split(',').count()
                && factors.iter().all(|&f| f > 0.0 && f <= MOST_FREEU) =>
        {
            Ok(FreeU { s1, s2, b1, b2 })
        }
        _ => Err(wrong()),
    }
}

/// `--pag-scale`, `--pag-adaptive-scale`, `--sag-scale`
pub fn pag_scale(text: &str) -> Result<f32, String> {
    match text.trim().parse::<f32>() {
        Ok(value) if (0.0..=MOST_GUIDANCE).contains(&value) => Ok(value),
        _ => Err(format!("must be a number from 0 to {MOST_GUIDANCE}")),
    }
}

/// `--guidance-interval`
pub fn guidance_interval(text: &str) -> Result<[f32; 2], String> {
    pair(text, ',')
        .filter(|&[start, end]: &[f32; 2]| 0.0 <= start && start < end && end <= 1.0)
        .ok_or_else(|| "must be two shares of the run, 0 to 1, the first smaller, as in 0.1,0.8".to_string())
}

/// `--precision`
pub fn precision(text: &str) -> Result<Precision, String> {
    text.parse().map_err(|_| "must be f32, bf16 or int8".to_string())
}

/// `--prediction`
pub fn prediction(text: &str) -> Result<Prediction, String> {
    match text.to_ascii_lowercase().as_str() {
        "eps" | "epsilon" => Ok(Prediction::Epsilon),
        "v" | "v_prediction" => Ok(Prediction::VPrediction),
        "sample" | "x0" => Ok(Prediction::Sample),
        "flow" => Ok(Prediction::Flow),
        _ => Err("must be eps, v, sample or flow".to_string()),
    }
}

/// `--original-size`, `--target-size`
pub fn size(text: &str) -> Result<[u32; 2], String> {
    pair(text, 'x').ok_or_else(|| "must be width and height in pixels, as in 1024x1024".to_string())
}

/// `--crop`
pub fn crop(text: &str) -> Result<[u32; 2], String> {
    pair(text, ',')
        .ok_or_else(|| "must be the pixels cut off at the left and at the top, as in 0,128".to_string())
}

fn pair<T: std::str::FromStr>(text: &str, between: char) -> Option<[T; 2]> {
    let (first, second) = text.split_once(between)?;
    Some([first.trim().parse().ok()?, second.trim().parse().ok()?])
}

/// `--rng`
pub fn rng(text: &str) -> Result<RngKind, String> {
    match text.to_ascii_lowercase().as_str() {
        "cpu" => Ok(RngKind::Cpu),
        "cuda" => Ok(RngKind::Cuda),
        _ => Err("must be cpu or cuda".to_string()),
    }
}

/// `--sampler`
pub fn sampler(text: &str) -> Result<String, String> {
    velatura_samplers::parse_sampler(text).map(|_| text.to_string()).map_err(|e| e.to_string())
}

/// `--schedule`
pub fn schedule(text: &str) -> Result<String, String> {
    velatura_samplers::find_spacing(text).map(|_| text.to_string()).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn memory_is_read_in_decimal_and_binary() {
        let good = [
            ("6G", 6_000_000_000),
            ("6 GB", 6_000_000_000),
            ("1.5GiB", 3 << 29),
            ("2Ki", 2048),
            ("512m", 512_000_000),
        ];
        for (text, expected) in good.into_iter().chain([("4096", 4096), ("7b", 7)]) {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "G", "-1G", "0", "6X", "6GG", "1e9", "iB", "99999999999T", "NaN", "1.2.3"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
