//! A shift of rectified flow that follows the size of the picture.

use serde::{Deserialize, Serialize};

use super::{NoiseSchedule, ScheduleError};

/// Shift by the number of the denoiser's image tokens, on a line between two sizes: diffusers' `use_dynamic_shifting`,
/// ComfyUI's `ModelSamplingFlux`. The defaults are those of Flux.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DynamicShift {
    /// Value of the line at [`base_tokens`](Self::base_tokens).
    pub base_shift: f64,
    /// Value of the line at [`max_tokens`](Self::max_tokens).
    pub max_shift: f64,
    /// Tokens of a small picture (256 pixels square).
    pub base_tokens: usize,
    /// Tokens of a large picture (1024 pixels square).
    pub max_tokens: usize,
    /// Whether the line gives the shift itself; otherwise its logarithm.
    pub linear: bool,
}

impl Default for DynamicShift {
    fn default() -> Self {
        DynamicShift { base_shift: 0.5, max_shift: 1.15, base_tokens: 256, max_tokens: 4096, linear: false }
    }
}

impl DynamicShift {
    /// The shift for a picture of `tokens` tokens, to be put into [`NoiseSchedule::shift`].
    ///
    /// # Errors
    /// Settings that give no positive finite number.
    pub fn shift(&self, tokens: usize) -> Result<f64, ScheduleError> {
        let width = self.max_tokens as f64 - self.base_tokens as f64;
        let slope = (self.max_shift - self.base_shift) / width;
        let mu = self.base_shift + slope * (tokens as f64 - self.base_tokens as f64);
        let shift = if self.linear { mu } else { mu.exp() };
        if shift.is_finite() && shift > 0.0 { Ok(shift) } else { Err(ScheduleError::Shift(shift)) }
    }
}

impl NoiseSchedule {
    /// This schedule with the shift for a picture of `tokens` tokens. As diffusers' pipelines run it, with
    /// [`Spacing::Trailing`](crate::Spacing::Trailing).
    ///
    /// # Errors
    /// As [`DynamicShift::shift`].
    pub fn shifted_for(&self, rule: &DynamicShift, tokens: usize) -> Result<Self, ScheduleError> {
        Ok(NoiseSchedule { shift: rule.shift(tokens)?, ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_without_a_shift_are_refused() {
        let usual = DynamicShift::default();
        assert!((usual.shift(256).unwrap() - 0.5f64.exp()).abs() < 1e-12);
        for bad in [
            DynamicShift { max_tokens: 256, ..usual },
            DynamicShift { base_shift: f64::NAN, ..usual },
            DynamicShift { max_shift: 1e9, ..usual },
            DynamicShift { base_shift: -3.0, linear: true, ..usual },
        ] {
            assert!(matches!(bad.shift(300), Err(ScheduleError::Shift(_))), "{bad:?}");
        }
    }
}
