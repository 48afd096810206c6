//! Classifier-free guidance and its relatives: pure functions on what the network answered.
//!
//! All of them are sums of answers, so they may be taken of noise, v, clean-latent or velocity predictions alike;
//! [`DynamicThreshold`] alone cares which, and its authors take it of noise.

mod attention;
mod percentile;
mod threshold;

pub use attention::{degrade, perturbed_attention, perturbed_attention_scale, self_attention};
pub use percentile::PercentileThreshold;
pub use threshold::{DynamicThreshold, ScaleMode};

use serde::{Deserialize, Serialize};

use crate::GuidanceError;
use crate::sampler::Answer;

/// How the answers with and without the prompt are combined.
///
/// The network is asked about one batch of two halves: first every image without the prompt (or with the
/// negative one), then every image with it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Guidance {
    /// `uncond + scale * (cond - uncond)` (Ho and Salimans 2022). 1 is no guidance.
    pub scale: f32,
    /// Share, 0 to 1, in which the result is brought back to the standard deviation of the prompted half
    /// (Lin et al. 2023, section 3.4; 0.7 is theirs). 0 is off.
    pub rescale: f32,
    /// Part of the run, as fractions of its steps, in which guidance is applied; `None` is all of it
    /// (after Kynkaanniemi et al. 2024). Outside, the prompted half stands alone.
    pub interval: Option<(f32, f32)>,
}

impl Default for Guidance {
    fn default() -> Self {
        Guidance { scale: 7.5, rescale: 0.0, interval: None }
    }
}

impl Guidance {
    /// Plain guidance of the given scale.
    pub fn new(scale: f32) -> Self {
        Guidance { scale, ..Self::default() }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// The first one that is NaN, infinite or out of range.
    pub fn validate(&self) -> Result<(), GuidanceError> {
        if !self.scale.is_finite() {
            return Err(GuidanceError::Scale(self.scale));
        }
        if !(0.0..=1.0).contains(&self.rescale) {
            return Err(GuidanceError::Rescale(self.rescale));
        }
        if let Some((start, end)) = self.interval
            && !(0.0 <= start && start <= end && end <= 1.0)
        {
            return Err(GuidanceError::Interval { start, end });
        }
        Ok(())
    }

    /// Whether step `step` of `steps` needs the half without the prompt. If not, the network may be asked
    /// about the prompted half alone, and its answer used as it is.
    pub fn active(&self, step: usize, steps: usize) -> bool {
        self.scale != 1.0 && self.is_on(step, steps)
    }

    /// Whether step `step` of `steps` lies in the interval.
    pub fn is_on(&self, step: usize, steps: usize) -> bool {
        let at = step as f32 / steps.max(1) as f32;
        self.interval.is_none_or(|(start, end)| start <= at && (at < end || end == 1.0))
    }

    /// Combines a batch of two halves of `images` images each, `[2 * images, ...]` flattened, into one.
    ///
    /// # Errors
    /// A setting out of range, or a length that does not split into the halves.
    pub fn combine(&self, halves: &[f32], images: usize) -> Result<Vec<f32>, GuidanceError> {
        self.validate()?;
        let len = halves.len();
        if images == 0 || !len.is_multiple_of(2 * images) {
            return Err(GuidanceError::Halves { len, images });
        }
        let (uncond, cond) = halves.split_at(len / 2);
        Ok(self.combine_parts(uncond, cond, images))
    }

    /// As [`combine`](Self::combine), with the unguided half for the CFG++ samplers.
    ///
    /// # Errors
    /// As [`combine`](Self::combine).
    pub fn answer(&self, halves: &[f32], images: usize) -> Result<Answer, GuidanceError> {
        let guided = self.combine(halves, images)?;
        let unguided = halves.get(..guided.len()).map(<[f32]>::to_vec);
        Ok(Answer { guided, unguided })
    }

    /// Several prompts at once (A1111's `AND`; composable diffusion, Liu et al. 2022, arXiv 2206.01714):
    /// `uncond + scale * sum of weight * (cond - uncond)`. The rescale looks at the mean of the answers by weight.
    ///
    /// `uncond` and every condition are `[images, ...]` flattened; a weight may be negative.
    ///
    /// # Errors
    /// A setting out of range, no condition, a weight that is not finite, or lengths that differ.
    pub fn combine_all(
        &self,
        uncond: &[f32],
        conds: &[(&[f32], f32)],
        images: usize,
    ) -> Result<Vec<f32>, GuidanceError> {
        self.validate()?;
        let len = uncond.len();
        if conds.is_empty() {
            return Err(GuidanceError::NoCondition);
        }
        if images == 0 || !len.is_multiple_of(images) {
            return Err(GuidanceError::Halves { len, images });
        }
        let mut sum = uncond.to_vec();
        for &(cond, weight) in conds {
            if !weight.is_finite() {
                return Err(GuidanceError::Weight(weight));
            }
            if cond.len() != len {
                return Err(GuidanceError::Length { found: cond.len(), expected: len });
            }
            for ((sum, &cond), &uncond) in sum.iter_mut().zip(cond).zip(uncond) {
                *sum += weight * (cond - uncond);
            }
        }
        Ok(self.combine_parts(uncond, &sum, images))
    }

    fn combine_parts(&self, uncond: &[f32], cond: &[f32], images: usize) -> Vec<f32> {
        let mut guided: Vec<f32> =
            uncond.iter().zip(cond).map(|(&uncond, &cond)| uncond + self.scale * (cond - uncond)).collect();
        if self.rescale > 0.0 {
            let image = (guided.len() / images).max(1);
            for (guided, cond) in guided.chunks_mut(image).zip(cond.chunks(image)) {
                rescale_noise_cfg(guided, cond, self.rescale);
            }
        }
        guided
    }
}

/// Mixes one guided image with itself brought back to the standard deviation of the prompted answer:
/// diffusers' `rescale_noise_cfg`. A constant image is left alone.
pub fn rescale_noise_cfg(guided: &mut [f32], cond: &[f32], rescale: f32) {
    let ratio = deviation(cond) / deviation(guided);
    if !ratio.is_finite() {
        return;
    }
    let factor = (f64::from(rescale) * ratio + (1.0 - f64::from(rescale))) as f32;
    guided.iter_mut().for_each(|v| *v *= factor);
}

/// Standard deviation with `n - 1`, as `torch.std`.
fn deviation(values: &[f32]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let squares = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>();
    (squares / (n - 1.0)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_combined_image_by_image() {
        let guided = Guidance::new(3.0).combine(&[1.0, 2.0, 3.0, 4.0, 2.0, 2.0, 3.0, 5.0], 2).unwrap();
        assert_eq!(guided, [4.0, 2.0, 3.0, 7.0]);
    }

    #[test]
    fn full_rescale_restores_the_deviation_of_each_prompted_image() {
        let guidance = Guidance { scale: 9.0, rescale: 1.0, interval: None };
        let halves: Vec<f32> = (0..24).map(|i| ((i * 7 + 3) % 11) as f32 - 4.0).collect();
        let guided = guidance.combine(&halves, 3).unwrap();
        for (guided, cond) in guided.chunks(4).zip(halves[12..].chunks(4)) {
            assert!((deviation(guided) - deviation(cond)).abs() < 1e-5);
        }
        // A constant picture has no deviation to restore.
        assert_eq!(guidance.combine(&[0.0; 4], 1).unwrap(), [0.0; 2]);
    }

    #[test]
    fn the_interval_switches_guidance() {
        let guidance = Guidance { interval: Some((0.25, 0.75)), ..Guidance::new(5.0) };
        let active: Vec<bool> = (0..8).map(|i| guidance.active(i, 8)).collect();
        assert_eq!(active, [false, false, true, true, true, true, false, false]);
        assert!(Guidance { interval: Some((0.5, 1.0)), ..Guidance::new(5.0) }.active(9, 10));
        assert!(!Guidance::new(1.0).active(0, 10));
    }

    #[test]
    fn several_prompts_are_weighed_as_the_web_ui_does() {
        let (uncond, a, b) = ([1.0f32, -2.0], [2.0f32, 1.0], [0.5f32, 4.0]);
        let guidance = Guidance::new(3.0);
        let got = guidance.combine_all(&uncond, &[(&a, 1.0), (&b, -0.5)], 1).unwrap();
        // uncond + (a - uncond) * (1 * 3) + (b - uncond) * (-0.5 * 3)
        assert_eq!(got, [1.0 + 3.0 + 0.75, -2.0 + 9.0 - 9.0]);
        let one = guidance.combine_all(&uncond, &[(&a, 1.0)], 1).unwrap();
        assert_eq!(one, guidance.combine(&[uncond, a].concat(), 1).unwrap());
        assert_eq!(guidance.combine_all(&uncond, &[], 1), Err(GuidanceError::NoCondition));
        assert!(matches!(guidance.combine_all(&uncond, &[(&a, f32::NAN)], 1), Err(GuidanceError::Weight(_))));
        assert!(matches!(
            guidance.combine_all(&uncond, &[(&a[..1], 1.0)], 1),
            Err(GuidanceError::Length { found: 1, expected: 2 })
        ));
    }

    #[test]
    fn an_answer_keeps_the_unguided_half() {
        let answer = Guidance::new(2.0).answer(&[1.0, 2.0, 3.0, 5.0], 1).unwrap();
        assert_eq!(answer.guided, [5.0, 8.0]);
        assert_eq!(answer.unguided.unwrap(), [1.0, 2.0]);
    }

    #[test]
    fn bad_settings_are_refused() {
        assert!(matches!(Guidance::new(f32::NAN).combine(&[0.0; 2], 1), Err(GuidanceError::Scale(_))));
        assert!(Guidance::new(f32::INFINITY).validate().is_err());
        assert!(Guidance { rescale: f32::NAN, ..Guidance::default() }.validate().is_err());
        assert!(Guidance { interval: Some((0.8, 0.2)), ..Guidance::default() }.validate().is_err());
        assert!(Guidance { interval: Some((f32::NAN, 1.0)), ..Guidance::default() }.validate().is_err());
        assert!(matches!(Guidance::new(2.0).combine(&[0.0; 6], 2), Err(GuidanceError::Halves { .. })));
        assert!(matches!(Guidance::new(2.0).combine(&[], 0), Err(GuidanceError::Halves { .. })));
    }
}
