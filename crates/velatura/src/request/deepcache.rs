//! Parts of the denoiser that are not computed at every step.

use serde::{Deserialize, Serialize};
use velatura_models::UNetConfig;

use super::{GenerateRequest, MOST_STEPS, RequestError};

/// The deep part of the denoiser computed at some steps alone and kept in between (Ma et al. 2024, "DeepCache: Accelerating
/// Diffusion Models for Free", arXiv 2312.00858), as the authors' `DeepCacheSDHelper` does it with `skip_mode` `uniform`.
/// Pictures are made in less time and are other pictures, the more so the longer the interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeepCache {
    /// Steps from one at which all is computed to the next, 1 (all of them, which is off) to [`MOST_STEPS`]. The first of a
    /// run is such a step. Steps are counted, not calls of the network: samplers that ask twice in a step compute all of both
    /// or of neither.
    pub interval: u32,
    /// The skip connection above which the network is computed at every step, counted from its beginning: 0, the first
    /// convolution's, leaves the least to be computed. Higher ones take longer and stay closer to the full run. It is the
    /// authors' `cache_branch_id` in networks of two layers a level, such as all of Stable Diffusion.
    pub branch: u32,
}

impl Default for DeepCache {
    fn default() -> Self {
        DeepCache { interval: 1, branch: 0 }
    }
}

impl DeepCache {
    /// Checks what can be checked without a model.
    pub(super) fn check(self, request: &GenerateRequest) -> Result<(), RequestError> {
        if !(1..=MOST_STEPS).contains(&self.interval) {
            return Err(RequestError::DeepCacheInterval(self.interval));
        }
        // Both ask about parts of the network that are not computed at most steps.
        let options = &request.guidance_options;
        let perturbed = options.perturbed_attention.as_ref().is_some_and(|perturbed| perturbed.scale != 0.0);
        let own = options.self_attention.is_some_and(|own| own.scale != 0.0);
        for (guidance, given) in [("perturbed-attention", perturbed), ("self-attention", own)] {
            if given && self.interval > 1 {
                return Err(RequestError::DeepCacheGuidance { guidance });
            }
        }
        Ok(())
    }

    /// Nothing where it changes nothing.
    pub(super) fn resolved(self, unet: &UNetConfig) -> Result<Option<Self>, RequestError> {
        let branches = unet.branches() as u32;
        if self.branch >= branches {
            return Err(RequestError::DeepCacheBranch {
                given: self.branch,
                most: branches.saturating_sub(1),
            });
        }
        Ok(Some(self).filter(|cache| cache.interval > 1))
    }
}
