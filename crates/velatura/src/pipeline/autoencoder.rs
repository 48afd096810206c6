//! Latents to pictures and back: one picture at a time, in tiles where asked, and again in single precision where the
//! half precision overflowed.

use velatura_cpu::{CancelToken, Data};
use velatura_samplers::noise::LatentShape;

use super::tiles::{Tile, Tiles};
use crate::Error;
use crate::engine::{Engine, Warning};
use crate::networks::{Network, names};
use crate::plans::{PlanKey, lock};
use crate::request::Precision;

/// Longest side of a tile, in pixels of the picture: what Stable Diffusion's autoencoder was trained on, as in diffusers.
pub(crate) const TILE: usize = 512;

/// A model's autoencoder at work on pictures of one size.
pub(crate) struct Autoencoder<'a> {
    pub engine: &'a Engine,
    /// Of the latent.
    pub shape: LatentShape,
    pub precision: Precision,
    /// Whether pictures larger than [`TILE`] are treated in tiles.
    pub tiled: bool,
    pub cancel: &'a CancelToken,
}

/// What an encoder says of a picture: the latent's mean and deviation, `[h, w, C]`, in the denoiser's scale.
pub(crate) struct Moments {
    pub mean: Vec<f32>,
    pub deviation: Vec<f32>,
}

impl Moments {
    /// A latent drawn by unit normal noise of its shape.
    pub fn sample(&self, noise: &[f32]) -> Vec<f32> {
        let parts = self.mean.iter().zip(&self.deviation).zip(noise);
        parts.map(|((mean, deviation), noise)| mean + deviation * noise).collect()
    }
}

impl Autoencoder<'_> {
    /// The picture `[H, W, 3]`, around -1 to 1, of a latent in the denoiser's scale.
    pub fn decode(&self, latent: &[f32]) -> Result<(Vec<f32>, Option<Warning>), Error> {
        let LatentShape { channels, width, .. } = self.shape;
        self.finite(|precision| {
            self.tiles().blend(self.factor(), 3, |tile| {
                let part = tile.cut(latent, width, 1, channels);
                let plan = self.engine.plan(self.key(Network::Decode, tile, precision))?;
                let mut plan = lock(&plan);
                plan.run(&[(names::LATENT, Data::F32(&part))], self.cancel)?;
                Ok(plan.output(names::OUTPUT)?.to_vec())
            })
        })
    }

    /// What the encoder says of a picture `[H, W, 3]` from -1 to 1.
    pub fn encode(&self, picture: &[f32]) -> Result<(Moments, Option<Warning>), Error> {
        let LatentShape { channels, width, .. } = self.shape;
        let factor = self.factor();
        let (both, warning) = self.finite(|precision| {
            self.tiles().blend(1, 2 * channels, |tile| {
                let part = tile.cut(picture, width * factor, factor, 3);
                let plan = self.engine.plan(self.key(Network::Encode, tile, precision))?;
                let mut plan = lock(&plan);
                plan.run(&[(names::PICTURE, Data::F32(&part))], self.cancel)?;
                let mean = plan.output(names::MEAN)?;
                // The tiny autoencoder's encoder is sure of itself.
                let sure = vec![0.0; mean.len()];
                let deviation = plan.output(names::DEVIATION).unwrap_or(&sure);
                let pixels = mean.chunks_exact(channels).zip(deviation.chunks_exact(channels));
                Ok(pixels.flat_map(|(mean, deviation)| mean.iter().chain(deviation)).copied().collect())
            })
        })?;
        let half = |skip: usize| -> Vec<f32> {
            both.chunks_exact(2 * channels).flat_map(|both| &both[skip..skip + channels]).copied().collect()
        };
        Ok((Moments { mean: half(0), deviation: half(channels) }, warning))
    }

    fn factor(&self) -> usize {
        self.engine.manifest().latent_factor() as usize
    }

    fn tiles(&self) -> Tiles {
        let LatentShape { height, width, .. } = self.shape;
        match self.tiled {
            true => Tiles::new(height, width, (TILE / self.factor()).max(1)),
            false => Tiles::whole(height, width),
        }
    }

    fn key(&self, network: Network, tile: Tile, precision: Precision) -> PlanKey {
        PlanKey { network, batch: 1, height: tile.height, width: tile.width, precision }
    }

    /// What a network says in the precision asked for, or in single precision where that is not finite. bf16 has nearly
    /// the range of f32, but its rounding of weights and activations can carry a sum over the edge.
    fn finite(
        &self,
        run: impl Fn(Precision) -> Result<Vec<f32>, Error>,
    ) -> Result<(Vec<f32>, Option<Warning>), Error> {
        let is_finite = |values: &[f32]| values.iter().all(|v| v.is_finite());
        let values = run(self.precision)?;
        if is_finite(&values) {
            return Ok((values, None));
        }
        if self.precision != Precision::F32 {
            let values = run(Precision::F32)?;
            if is_finite(&values) {
                let warning = Warning::Overflow { precision: self.precision };
                tracing::warn!("{warning}");
                return Ok((values, Some(warning)));
            }
        }
        Err(Error::VaeNotFinite)
    }
}
