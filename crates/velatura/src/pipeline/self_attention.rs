//! What self-attention guidance asks about: latents blurred where the denoiser looks (Hong et al. 2023, arXiv 2210.00939).

use velatura_samplers::noise::LatentShape;
use velatura_samplers::{Level, Prediction, degrade};

use crate::Error;

/// A pixel is blurred where its token is looked at more than this: more than in the mean, as in diffusers and ComfyUI.
const STRONG: f32 = 1.0;

/// Where a latent stands and what the network says of it.
pub(super) struct Seen {
    pub shape: LatentShape,
    pub level: Level,
    pub prediction: Prediction,
    /// Deviation of the blur in pixels.
    pub blur: f64,
}

impl Seen {
    /// One latent with its clean part, as `answer` implies it, blurred where much is `received`, and its noise, as `answer`
    /// implies it, laid over it again.
    pub fn degraded(&self, latent: &[f32], answer: &[f32], received: &[f32]) -> Result<Vec<f32>, Error> {
        let clean = self.prediction.x0(latent, answer, self.level);
        let noise = self.prediction.epsilon(latent, answer, self.level);
        let mask: Vec<bool> = received.iter().map(|&received| received > STRONG).collect();
        let blurred = degrade(&clean, &mask, self.shape, self.blur)?;
        let (alpha, sigma) = (self.level.alpha as f32, self.level.sigma as f32);
        Ok(blurred.iter().zip(&noise).map(|(clean, noise)| alpha * clean + sigma * noise).collect())
    }
}
