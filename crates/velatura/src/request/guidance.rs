//! How the answers with and without the prompt are combined, beyond the scale.

use serde::{Deserialize, Serialize};
use velatura_samplers::Guidance;

use super::RequestError;

/// What is done beside classifier-free guidance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GuidanceOptions {
    /// Share, 0 to 1, in which a guided answer is brought back to the standard deviation of the prompted one (Lin et al.
    /// 2023, section 3.4; diffusers' `guidance_rescale`). `None` is 0, which is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rescale: Option<f32>,
    /// The part of the run, as shares of its steps from 0 to 1, in which there is guidance (Kynkäänniemi et al. 2024).
    /// Outside it the network is asked about the prompt alone, which takes half the time. `None` is the whole run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f32; 2]>,
}

impl GuidanceOptions {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn check(&self) -> Result<(), RequestError> {
        if let Some(rescale) = self.rescale
            && !(0.0..=1.0).contains(&rescale)
        {
            return Err(RequestError::GuidanceRescale(rescale));
        }
        if let Some([start, end]) = self.interval
            && !(0.0 <= start && start < end && end <= 1.0)
        {
            return Err(RequestError::GuidanceInterval { start, end });
        }
        Ok(())
    }

    /// As samplers take it, with the scale of the guidance.
    pub(super) fn formula(&self, scale: f32) -> Guidance {
        let interval = self.interval.map(|[start, end]| (start, end));
        Guidance { scale, rescale: self.rescale.unwrap_or_default(), interval }
    }

    /// Without what changes nothing.
    pub(super) fn resolved(&self) -> Self {
        GuidanceOptions {
            rescale: self.rescale.filter(|&rescale| rescale != 0.0),
            interval: self.interval.filter(|&interval| interval != [0.0, 1.0]),
        }
    }
}
