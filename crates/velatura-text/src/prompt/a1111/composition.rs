use super::whole_words;
use crate::prompt::{finite, is_space};

/// The prompts that `AND` joins, with their weights: `a cat AND a dog:0.7`. (Liu et al. 2022, "Compositional visual
/// generation with composable diffusion models".) A prompt without `AND` can have a weight too.
pub(super) fn split(text: &str) -> Vec<(&str, f64)> {
    let mut subprompts = Vec::new();
    let mut from = 0;
    for at in whole_words(text, "AND") {
        subprompts.push(weighted(&text[from..at]));
        from = at + "AND".len();
    }
    subprompts.push(weighted(&text[from..]));
    subprompts
}

fn weighted(text: &str) -> (&str, f64) {
    let text = text.trim_end_matches(is_space);
    let weight = text.rsplit_once(':').and_then(|(before, number)| {
        let number = number.trim_start_matches(is_space);
        Some((before.trim_end_matches(is_space), is_weight(number).then(|| finite(number))??))
    });
    weight.unwrap_or((text, 1.0))
}

/// Digits with a point among, before or behind them, and a sign; no exponent.
fn is_weight(number: &str) -> bool {
    let digits = number.strip_prefix(['+', '-']).unwrap_or(number);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    [whole, fraction].iter().all(|part| part.bytes().all(|b| b.is_ascii_digit()))
        && digits.len() > usize::from(digits.contains('.'))
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn and_joins_prompts_with_weights() {
        for (text, wanted) in [
            ("a cat", vec![("a cat", 1.0)]),
            ("a cat :1.2 AND  a dog: .7\nAND x", vec![("a cat", 1.2), ("  a dog", 0.7), (" x", 1.0)]),
            ("SAND ANDY AND_ aANDb", vec![("SAND ANDY AND_ aANDb", 1.0)]),
            ("aAND AND", vec![("aAND", 1.0), ("", 1.0)]),
            (
                "a:-1 AND b:+2. AND c:1e3 AND d:. AND e:: 3",
                vec![("a", -1.0), (" b", 2.0), (" c:1e3", 1.0), (" d:.", 1.0), (" e:", 3.0)],
            ),
            ("", vec![("", 1.0)]),
            ("(a:1.2)", vec![("(a:1.2)", 1.0)]),
        ] {
            assert_eq!(split(text), wanted, "{text:?}");
        }
    }
}
