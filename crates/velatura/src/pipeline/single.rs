//! The networks one by one, for comparisons with other tools.

use velatura_cpu::CancelToken;
use velatura_samplers::noise::LatentShape;

use super::denoise::Denoiser;
use super::encode::Conditions;
use crate::engine::Engine;
use crate::networks::Encoded;
use crate::prompt::Reading;
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

    /// The vectors, `[tokens, features]`, row-major.
    pub fn values(&self) -> &[f32] {
        &self.0.context
    }
}

impl Engine {
    /// The vectors of a prompt at the first step, of its first part where `AND` joins several. `clip_skip` counts as
    /// [`GenerateRequest::clip_skip`].
    ///
    /// # Errors
    /// A clip skip out of range, a prompt that is too long, and whatever keeps the network from running.
    pub fn text_vectors(&self, prompt: &str, clip_skip: Option<u32>) -> Result<TextVectors, Error> {
        self.resolve(&GenerateRequest { clip_skip, ..GenerateRequest::new(prompt) })?;
        let reading = Reading::new(&self.manifest().text_encoders, prompt, false, 1)?;
        let conditions = Conditions::encode(self, &reading, clip_skip.unwrap_or(1), &CancelToken::default())?;
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
