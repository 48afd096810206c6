//! The networks one by one, for comparisons with other tools.

use velatura_cpu::CancelToken;
use velatura_samplers::noise::LatentShape;

use super::autoencoder::Autoencoder;
use super::denoise::{Denoiser, Told, guidance_embedding};
use super::encode::Conditions;
use crate::engine::Engine;
use crate::networks::{Changes, Encoded};
use crate::request::{Precision, Tiling};
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
        // A latent consistency model is told that there is no guidance.
        let width = self.manifest().unet.time_cond_proj_dim;
        let told = Told { guidance: width.map(|width| guidance_embedding(1.0, width)), ..Told::default() };
        let denoiser = Denoiser {
            engine: self,
            shape,
            precision,
            cancel: &CancelToken::default(),
            told,
            changes: Changes::default(),
            perturbed: 0,
            kept: None,
        };
        Ok(denoiser.run(latent, timestep, &text.0, [1, 1], Changes::default(), &[])?.answers)
    }

    /// The mean and the deviation, `[height, width, channels]` in the denoiser's scale, that the encoder gives for a
    /// picture `[H, W, 3]` from -1 to 1; `height` and `width` are the latent's. [`Tiling::Auto`] is off.
    ///
    /// # Errors
    /// A picture of another length than the size says, and whatever keeps the network from running.
    pub fn encode(
        &self,
        picture: &[f32],
        size: [usize; 2],
        tiling: Tiling,
        precision: Precision,
    ) -> Result<(Vec<f32>, Vec<f32>), Error> {
        let pixels = size[0] * size[1] * (self.manifest().latent_factor() as usize).pow(2);
        if picture.len() != 3 * pixels {
            return Err(Error::Internal(format!(
                "a picture of {} values for {pixels} pixels",
                picture.len()
            )));
        }
        let cancel = CancelToken::default();
        let (moments, _) = self.autoencoder(size, tiling, precision, &cancel).encode(picture)?;
        Ok((moments.mean, moments.deviation))
    }

    fn autoencoder<'a>(
        &'a self,
        [height, width]: [usize; 2],
        tiling: Tiling,
        precision: Precision,
        cancel: &'a CancelToken,
    ) -> Autoencoder<'a> {
        let shape = LatentShape { channels: self.manifest().latent_channels(), height, width };
        Autoencoder { engine: self, shape, precision, tiled: tiling == Tiling::On, cancel }
    }

    /// The picture `[H, W, 3]`, around -1 to 1, of one latent `[height, width, channels]` in the denoiser's scale.
    /// [`Tiling::Auto`] is off.
    ///
    /// # Errors
    /// A latent of another length than its size says, and whatever keeps the network from running.
    pub fn decode(
        &self,
        latent: &[f32],
        size: [usize; 2],
        tiling: Tiling,
        precision: Precision,
    ) -> Result<Vec<f32>, Error> {
        let cancel = CancelToken::default();
        let vae = self.autoencoder(size, tiling, precision, &cancel);
        if latent.len() != vae.shape.len() {
            return Err(Error::Internal(format!("a latent of {} values for {:?}", latent.len(), vae.shape)));
        }
        vae.decode(latent).map(|(picture, _)| picture)
    }
}
