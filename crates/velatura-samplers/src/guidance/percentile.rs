//! Dynamic thresholding as Imagen has it: the clean latent brought back into the range that most of its values have.

use serde::{Deserialize, Serialize};

use super::threshold::quantile;
use crate::GuidanceError;

/// Clean latents cut off at a percentile of their values and scaled back to at most 1 (Saharia et al. 2022,
/// arXiv 2205.11487, section 2.3): diffusers' `thresholding` with `dynamic_thresholding_ratio` and `sample_max_value`.
///
/// With `s` the percentile of the absolute values of one picture, brought between 1 and `max`, values are cut off at `s` and
/// divided by it. The formula is made for pixels from -1 to 1. Latents have a deviation near 1, so in a run over latents it
/// also takes contrast away; [`DynamicThreshold`](super::DynamicThreshold) does not.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PercentileThreshold {
    /// Share of the values, 0 to 1, that lie below where they are cut off. 0.995 is Imagen's and diffusers'.
    pub ratio: f64,
    /// Largest `s`, 1 or more; 1 cuts everything off at 1, as diffusers does unless told otherwise. `None` is no limit, as in
    /// the paper.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
}

impl Default for PercentileThreshold {
    fn default() -> Self {
        PercentileThreshold { ratio: 0.995, max: None }
    }
}

impl PercentileThreshold {
    /// Checks every setting.
    ///
    /// # Errors
    /// The first one that is NaN or out of range.
    pub fn validate(&self) -> Result<(), GuidanceError> {
        if !(0.0..=1.0).contains(&self.ratio) {
            let (name, value) = ("threshold percentile", self.ratio);
            return Err(GuidanceError::Setting { name, value, range: "from 0 to 1" });
        }
        match self.max {
            Some(value) if !(value.is_finite() && value >= 1.0) => {
                Err(GuidanceError::Setting { name: "threshold maximum", value, range: "1 or more" })
            }
            _ => Ok(()),
        }
    }

    /// Thresholds the clean latent of one picture.
    ///
    /// # Errors
    /// A setting out of range.
    pub fn apply(&self, x0: &mut [f32]) -> Result<(), GuidanceError> {
        self.validate()?;
        let reach = quantile(x0.iter().map(|v| f64::from(v.abs())).collect(), self.ratio);
        // In this order a percentile that is not a number is 1.
        let s = reach.max(1.0).min(self.max.unwrap_or(f64::INFINITY)) as f32;
        x0.iter_mut().for_each(|v| *v = v.clamp(-s, s) / s);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_beyond_the_percentile_are_cut_off() {
        let mut x0 = [-8.0f32, 4.0, 2.0, -1.0, 0.0];
        PercentileThreshold { ratio: 0.75, max: None }.apply(&mut x0).unwrap();
        assert_eq!(x0, [-1.0, 1.0, 0.5, -0.25, 0.0]);
        let mut x0 = [-8.0f32, 4.0, 2.0, -1.0, 0.0];
        PercentileThreshold { ratio: 0.75, max: Some(2.0) }.apply(&mut x0).unwrap();
        assert_eq!(x0, [-1.0, 1.0, 1.0, -0.5, 0.0]);
        // What stays within 1 is left alone.
        let mut x0 = [0.25f32, -0.75];
        PercentileThreshold::default().apply(&mut x0).unwrap();
        assert_eq!(x0, [0.25, -0.75]);
        PercentileThreshold::default().apply(&mut []).unwrap();
    }

    #[test]
    fn bad_settings_are_refused() {
        for (ratio, max) in [(f64::NAN, None), (1.5, None), (0.9, Some(0.5)), (0.9, Some(f64::INFINITY))] {
            assert!(PercentileThreshold { ratio, max }.validate().is_err(), "{ratio} {max:?}");
        }
    }
}
