//! The networks one by one, for comparisons with other tools.

use velatura_cpu::CancelToken;
use velatura_samplers::noise::LatentShape;

use super::denoise::Denoiser;
use super::encode::Conditions;
use crate::engine::Engine;
use crate::networks::Encoded;
use crate::request::Precision;
use crate::{Error, GenerateRequest};

/// A prompt as the denoiser reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct TextVectors(Encoded);

impl TextVectors {
    /// Tokens, padding counted; several chunks lie end to end.
    pub fn tokens(&self) -> usize {
        self.0.tokens
    }

    /// The vectors, `[tokens, features]`, row-major; those of several text encoders side by side.
    pub fn values(&self) -> &[f32] {
        &self.0.context
    }

    /// The pooled text of the last text encoder, projected where that has a projection.
    pub fn pooled(&self) -> &[f32] {
        &self.0.pooled
    }
}

impl Engine {
    /// The vectors of a request's prompt, or of its negative prompt, at the first step; of its first part where `AND` joins
    /// several.
    ///
    /// # Errors
    /// A request that cannot be served, and whatever keeps the network from running.
    pub fn text_vectors(&self, request: &GenerateRequest, negative: bool) -> Result<TextVectors, Error> {
        let settings = self.resolve(request)?.settings(self.manifest())?;
        let text = if negative { &request.negative } else { &request.prompt };
        let conditions = Conditions::encode(self, text, negative, &settings, &CancelToken::default())?;
        let first = conditions.at(0).next().map(|(_, text)| text.clone());
        first.map(TextVectors).ok_or_else(|| Error::Internal("a prompt without a part".into()))
    }

    /// The denoiser's answer, without guidance, for one latent `[height, width, channels]` at a timestep.
    ///
    /// # Errors
    /// A latent of another length than its size says, and whatever keeps the network from running.
    pub fn predict(
        &self,
        latent: &[f32],
        [height, width]: [usize; 2],
        timestep: f32,
        text: &TextVectors,
        precision: Precision,
    ) -> Result<Vec<f32>, Error> {
        let shape = LatentShape { channels: self.manifest().latent_channels(), height, width };
        let denoiser = Denoiser { engine: self, shape, precision, cancel: &CancelToken::default() };
        denoiser.run(latent, timestep, &text.0, 1)
    }
}
