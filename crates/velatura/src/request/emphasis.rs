//! What brackets in a prompt do to it.

use serde::{Deserialize, Serialize};
use velatura_text::prompt::Weighting;

/// How the weights of a prompt are applied, by the names of A1111's setting "Emphasis mode", and ComfyUI's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Emphasis {
    /// A token's vector is multiplied, then the mean of all restored: A1111's default.
    Original,
    /// A token's vector is multiplied.
    NoNorm,
    /// Brackets are read, and weigh nothing.
    Ignore,
    /// Brackets are letters.
    None,
    /// A token's vector moves away from the empty prompt's by its weight: ComfyUI's only way.
    Interpolate,
}

impl Emphasis {
    const ALL: [Self; 5] = [Self::Original, Self::NoNorm, Self::Ignore, Self::None, Self::Interpolate];

    /// As A1111 writes it into its pictures.
    pub fn title(self) -> &'static str {
        match self {
            Self::Original => "Original",
            Self::NoNorm => "No norm",
            Self::Ignore => "Ignore",
            Self::None => "None",
            Self::Interpolate => "Interpolate",
        }
    }

    /// What becomes of the vectors.
    pub(crate) fn weighting(self) -> Weighting {
        match self {
            Self::Original => Weighting::Original,
            Self::NoNorm => Weighting::NoNorm,
            Self::Ignore | Self::None => Weighting::Ignore,
            Self::Interpolate => Weighting::Interpolate,
        }
    }
}

impl std::str::FromStr for Emphasis {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let same = |title: &str| {
            let letters =
                |s: &str| s.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase();
            letters(title) == letters(text)
        };
        let found = Self::ALL.into_iter().find(|emphasis| same(emphasis.title()));
        found.ok_or_else(|| "must be original, no-norm, ignore, none or interpolate".to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_every_spelling() {
        for (text, emphasis) in
            [("original", Emphasis::Original), ("No norm", Emphasis::NoNorm), ("no-norm", Emphasis::NoNorm)]
        {
            assert_eq!(text.parse(), Ok(emphasis));
        }
        for emphasis in Emphasis::ALL {
            assert_eq!(emphasis.title().parse(), Ok(emphasis));
            let json = serde_json::to_string(&emphasis).unwrap();
            assert_eq!(serde_json::from_str::<Emphasis>(&json).unwrap(), emphasis);
            assert_eq!(json.trim_matches('"').parse(), Ok(emphasis));
        }
        assert!("much".parse::<Emphasis>().is_err());
    }
}
