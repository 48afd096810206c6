//! Dynamic thresholding of the guided answer.

use serde::{Deserialize, Serialize};

use crate::GuidanceError;

/// How a scale changes over the run, as the extension *sd-dynamic-thresholding* names it. `f` is the share of the run
/// that is over, `v` the setting `schedule_value`; the part of the scale above its minimum is multiplied by:
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ScaleMode {
    /// 1.
    #[default]
    #[serde(alias = "constant")]
    Constant,
    /// `1 - f`.
    #[serde(rename = "Linear Down", alias = "linear_down")]
    LinearDown,
    /// The cosine of `f` quarter turns.
    #[serde(rename = "Cosine Down", alias = "cosine_down")]
    CosineDown,
    /// The cosine of `f` radians.
    #[serde(rename = "Half Cosine Down", alias = "half_cosine_down")]
    HalfCosineDown,
    /// `f`.
    #[serde(rename = "Linear Up", alias = "linear_up")]
    LinearUp,
    /// 1 less [`CosineDown`](Self::CosineDown).
    #[serde(rename = "Cosine Up", alias = "cosine_up")]
    CosineUp,
    /// 1 less [`HalfCosineDown`](Self::HalfCosineDown).
    #[serde(rename = "Half Cosine Up", alias = "half_cosine_up")]
    HalfCosineUp,
    /// `f^v`.
    #[serde(rename = "Power Up", alias = "power_up")]
    PowerUp,
    /// `1 - f^v`.
    #[serde(rename = "Power Down", alias = "power_down")]
    PowerDown,
    /// `v` times down and up again in straight lines.
    #[serde(rename = "Linear Repeating", alias = "linear_repeating")]
    LinearRepeating,
    /// `v` times down and up again in waves.
    #[serde(rename = "Cosine Repeating", alias = "cosine_repeating")]
    CosineRepeating,
    /// `v` times up in straight lines.
    #[serde(alias = "sawtooth")]
    Sawtooth,
}

impl ScaleMode {
    fn factor(self, f: f64, v: f64) -> f64 {
        // A quarter and a whole turn with the digits of the extension.
        #[allow(clippy::approx_constant)]
        const QUARTER: f64 = 1.5707;
        #[allow(clippy::approx_constant)]
        const WHOLE: f64 = 6.28318;
        let portion = (f * v).rem_euclid(1.0);
        match self {
            ScaleMode::Constant => 1.0,
            ScaleMode::LinearDown => 1.0 - f,
            ScaleMode::CosineDown => (f * QUARTER).cos(),
            ScaleMode::HalfCosineDown => f.cos(),
            ScaleMode::LinearUp => f,
            ScaleMode::CosineUp => 1.0 - (f * QUARTER).cos(),
            ScaleMode::HalfCosineUp => 1.0 - f.cos(),
            ScaleMode::PowerUp => f.powf(v),
            ScaleMode::PowerDown => 1.0 - f.powf(v),
            ScaleMode::LinearRepeating => 2.0 * (0.5 - portion).abs(),
            ScaleMode::CosineRepeating => (f * WHOLE * v).cos() * 0.5 + 0.5,
            ScaleMode::Sawtooth => portion,
        }
    }
}

/// Guidance of a high scale brought into the range of a lower one: the formula of the extension
/// *sd-dynamic-thresholding* (after Saharia et al. 2022, arXiv 2205.11487, section 2.3), whose defaults these are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DynamicThreshold {
    /// The scale whose range the result shall have.
    pub mimic_scale: f64,
    /// Share of the values, 0 to 1, that the range of the guided answer covers.
    pub percentile: f64,
    /// How the scale to mimic changes over the run, and its least value.
    pub mimic_mode: ScaleMode,
    /// See [`mimic_mode`](Self::mimic_mode).
    pub mimic_min: f64,
    /// How the guidance scale changes over the run, and its least value.
    pub cfg_mode: ScaleMode,
    /// See [`cfg_mode`](Self::cfg_mode).
    pub cfg_min: f64,
    /// Parameter of some modes.
    pub schedule_value: f64,
    /// Take the range of each channel by itself.
    pub separate_channels: bool,
    /// Scale from zero instead of from the mean.
    pub from_zero: bool,
    /// Measure the range by the standard deviation instead of the largest values.
    pub deviation: bool,
    /// Share of the result, 0 to 1; the rest is the plainly guided answer.
    pub phi: f64,
}

impl Default for DynamicThreshold {
    fn default() -> Self {
        DynamicThreshold {
            mimic_scale: 7.0,
            percentile: 1.0,
            mimic_mode: ScaleMode::Constant,
            mimic_min: 0.0,
            cfg_mode: ScaleMode::Constant,
            cfg_min: 0.0,
            schedule_value: 4.0,
            separate_channels: true,
            from_zero: false,
            deviation: false,
            phi: 1.0,
        }
    }
}

impl DynamicThreshold {
    /// Checks every setting.
    ///
    /// # Errors
    /// The first one that is NaN, infinite or out of range.
    pub fn validate(&self) -> Result<(), GuidanceError> {
        let finite = "a finite number";
        let share = "from 0 to 1";
        for (name, value, valid, range) in [
            ("mimic scale", self.mimic_scale, self.mimic_scale.is_finite(), finite),
            ("least mimic scale", self.mimic_min, self.mimic_min.is_finite(), finite),
            ("least guidance scale", self.cfg_min, self.cfg_min.is_finite(), finite),
            ("threshold percentile", self.percentile, (0.0..=1.0).contains(&self.percentile), share),
            ("threshold phi", self.phi, (0.0..=1.0).contains(&self.phi), share),
            (
                "threshold schedule value",
                self.schedule_value,
                (0.0..=100.0).contains(&self.schedule_value),
                "from 0 to 100",
            ),
        ] {
            if !valid {
                return Err(GuidanceError::Setting { name, value, range });
            }
        }
        Ok(())
    }

    /// The guided answer of step `step` of `steps`, in the range of the scale to mimic.
    ///
    /// `uncond` and `cond` are `[images, pixels, channels]` flattened, the network's noise predictions (as in the
    /// extension) or whatever else is guided. Every picture is measured by itself.
    ///
    /// # Errors
    /// A setting out of range, or lengths that do not fit.
    #[allow(clippy::too_many_arguments)]
    pub fn combine(
        &self,
        uncond: &[f32],
        cond: &[f32],
        channels: usize,
        images: usize,
        scale: f64,
        step: usize,
        steps: usize,
    ) -> Result<Vec<f32>, GuidanceError> {
        self.validate()?;
        if !scale.is_finite() {
            return Err(GuidanceError::Scale(scale as f32));
        }
        let len = uncond.len();
        if cond.len() != len {
            return Err(GuidanceError::Length { found: cond.len(), expected: len });
        }
        if images == 0 || channels == 0 || !len.is_multiple_of(images * channels) {
            return Err(GuidanceError::Halves { len: 2 * len, images });
        }
        let over = step as f64 / steps.saturating_sub(1).max(1) as f64;
        let at = |scale: f64, mode: ScaleMode, least: f64| {
            (scale - least) * mode.factor(over, self.schedule_value) + least
        };
        let mimic = at(self.mimic_scale, self.mimic_mode, self.mimic_min);
        let guided = at(scale, self.cfg_mode, self.cfg_min);
        let mut out = vec![0.0; len];
        let image = (len / images).max(1);
        for ((uncond, cond), out) in uncond.chunks(image).zip(cond.chunks(image)).zip(out.chunks_mut(image)) {
            self.combine_image(uncond, cond, channels, mimic, guided, out);
        }
        Ok(out)
    }

    fn combine_image(
        &self,
        uncond: &[f32],
        cond: &[f32],
        channels: usize,
        mimic: f64,
        guided: f64,
        out: &mut [f32],
    ) {
        let target = |scale: f64, channel: usize| -> Vec<f64> {
            let pair = uncond.iter().zip(cond).skip(channel).step_by(channels);
            pair.map(|(&u, &c)| f64::from(u) + scale * (f64::from(c) - f64::from(u))).collect()
        };
        let centred = |values: &[f64]| {
            let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
            (values.iter().map(|v| v - mean).collect::<Vec<f64>>(), mean)
        };
        let mut mimicked: Vec<Vec<f64>> = Vec::with_capacity(channels);
        let mut plain: Vec<(Vec<f64>, f64)> = Vec::with_capacity(channels);
        for channel in 0..channels {
            mimicked.push(centred(&target(mimic, channel)).0);
            plain.push(centred(&target(guided, channel)));
        }
        let ranges: Vec<(f64, f64)> = if self.separate_channels {
            mimicked.iter().zip(&plain).map(|(m, (p, _))| self.ranges(m, p)).collect()
        } else {
            let all: Vec<f64> = plain.iter().flat_map(|(p, _)| p.iter().copied()).collect();
            vec![self.ranges(&mimicked.concat(), &all); channels]
        };
        for (channel, ((centred, mean), (mimic_range, range))) in plain.iter().zip(ranges).enumerate() {
            for (out, &value) in out.iter_mut().skip(channel).step_by(channels).zip(centred) {
                let result = if self.from_zero {
                    (value + mean) * quotient(mimic_range, range)
                } else if self.deviation {
                    value * quotient(mimic_range, range) + mean
                } else {
                    let most = mimic_range.max(range);
                    value.clamp(-most, most) * quotient(mimic_range, most) + mean
                };
                *out = (result * self.phi + (value + mean) * (1.0 - self.phi)) as f32;
            }
        }
    }

    /// Ranges of the values to mimic and of the guided ones.
    fn ranges(&self, mimicked: &[f64], guided: &[f64]) -> (f64, f64) {
        if self.deviation {
            return (deviation(mimicked), deviation(guided));
        }
        let most = mimicked.iter().fold(0.0f64, |most, v| most.max(v.abs()));
        (most, quantile(guided.iter().map(|v| v.abs()).collect(), self.percentile))
    }
}

/// A quotient of ranges; 1 where there is no range to divide by.
fn quotient(a: f64, b: f64) -> f64 {
    if b > 0.0 { a / b } else { 1.0 }
}

/// Standard deviation with `n - 1`, as `torch.std`; 0 of a single value. The values are centred in each channel, but
/// over all of them the mean is that of the channels, which is 0 too.
fn deviation(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let squares: f64 = values.iter().map(|v| v * v).sum();
    (squares / (values.len() - 1) as f64).sqrt()
}

/// `torch.quantile`: linear between the neighbours.
pub(super) fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else { return 0.0 };
    let at = share * last as f64;
    let low = (at as usize).min(last);
    let high = (low + 1).min(last);
    values[low] + (values[high] - values[low]) * (at - low as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_scale_and_the_whole_range_change_nothing() {
        let uncond: Vec<f32> = (0..24).map(|i| ((i * 7 + 3) % 11) as f32 - 4.0).collect();
        let cond: Vec<f32> = (0..24).map(|i| ((i * 5 + 1) % 13) as f32 - 6.0).collect();
        let threshold = DynamicThreshold { mimic_scale: 5.0, ..DynamicThreshold::default() };
        let got = threshold.combine(&uncond, &cond, 4, 2, 5.0, 3, 10).unwrap();
        for ((got, &u), &c) in got.iter().zip(&uncond).zip(&cond) {
            assert!((got - (u + 5.0 * (c - u))).abs() < 1e-5);
        }
        // Pictures do not see each other, and constant ones have no range.
        let alone = threshold.combine(&uncond[..12], &cond[..12], 4, 1, 9.0, 3, 10).unwrap();
        let both = threshold.combine(&uncond, &cond, 4, 2, 9.0, 3, 10).unwrap();
        assert_eq!(alone, both[..12]);
        assert_eq!(threshold.combine(&[1.0; 8], &[2.0; 8], 4, 1, 7.0, 0, 1).unwrap(), [8.0; 8]);
    }

    #[test]
    fn bad_settings_are_refused() {
        let usual = DynamicThreshold::default;
        for bad in [
            DynamicThreshold { mimic_scale: f64::NAN, ..usual() },
            DynamicThreshold { percentile: 1.1, ..usual() },
            DynamicThreshold { phi: -0.1, ..usual() },
            DynamicThreshold { schedule_value: f64::INFINITY, ..usual() },
        ] {
            assert!(matches!(bad.validate(), Err(GuidanceError::Setting { .. })), "{bad:?}");
        }
        assert!(usual().combine(&[0.0; 8], &[0.0; 7], 4, 1, 7.0, 0, 10).is_err());
        assert!(usual().combine(&[0.0; 8], &[0.0; 8], 3, 1, 7.0, 0, 10).is_err());
        assert!(usual().combine(&[0.0; 8], &[0.0; 8], 0, 1, 7.0, 0, 10).is_err());
        assert!(usual().combine(&[0.0; 8], &[0.0; 8], 4, 1, f64::NAN, 0, 10).is_err());
    }
}
