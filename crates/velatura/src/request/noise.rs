//! Which noise a picture begins from, beyond its seed.

use serde::{Deserialize, Serialize};
use velatura_samplers::noise::LatentShape;
use velatura_samplers::{NoiseOptions, PerImage, Variation};

use super::{GenerateRequest, LONGEST_SIDE, MOST_PICTURES, RequestError};
use crate::Error;

/// A second noise that the first is turned towards, A1111's "variation".
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SeedVariation {
    /// Its seed; in a batch it counts up, and the picture's own seed stays. `None` draws one.
    pub seed: Option<u64>,
    /// How far to go towards it, 0 (not at all) to 1 (all the way).
    pub strength: f64,
}

/// Which noise a picture begins from, beyond its seed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SeedOptions {
    /// A seed for each picture; the batch has as many. Empty where they count up from the first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub each: Vec<u64>,
    /// A second noise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variation: Option<SeedVariation>,
    /// Width and height in pixels of the picture of the same seed that this one is to resemble: its noise is laid into the
    /// middle (A1111's "seed resize").
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resize_from: Option<[u32; 2]>,
}

impl SeedOptions {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn check(&self, seed: Option<u64>, batch: u32) -> Result<(), RequestError> {
        if self.each.len() > MOST_PICTURES as usize {
            return Err(RequestError::Batch(u32::try_from(self.each.len()).unwrap_or(u32::MAX)));
        }
        if let Some(&first) = self.each.first() {
            if batch != 1 && batch as usize != self.each.len() {
                return Err(RequestError::SeedCount { seeds: self.each.len(), batch });
            }
            if let Some(seed) = seed.filter(|&seed| seed != first) {
                return Err(RequestError::FirstSeed { seed, first });
            }
        }
        if let Some(SeedVariation { strength, .. }) = self.variation
            && !(0.0..=1.0).contains(&strength)
        {
            return Err(RequestError::VariationStrength(strength));
        }
        for (side, given) in ["seed resize width", "seed resize height"]
            .into_iter()
            .zip(self.resize_from.into_iter().flatten())
        {
            if !(8..=LONGEST_SIDE).contains(&given) {
                return Err(RequestError::SizeRange { side, given, least: 8 });
            }
        }
        Ok(())
    }

    /// With the second seed drawn, without what changes nothing. `size` is the picture's own.
    pub(super) fn resolved(&self, size: [u32; 2], draw: impl Fn() -> u64) -> Self {
        let variation = self.variation.filter(|variation| variation.strength != 0.0);
        SeedOptions {
            each: self.each.clone(),
            variation: variation.map(|v| SeedVariation { seed: Some(v.seed.unwrap_or_else(draw)), ..v }),
            resize_from: self.resize_from.filter(|&from| from != size),
        }
    }
}

impl GenerateRequest {
    /// The request that makes picture `index` of this one by itself. As in A1111 the seeds count up, or where there is a
    /// variation its seeds.
    pub fn of_picture(&self, index: usize) -> Self {
        let add = |seed: u64| seed.wrapping_add(index as u64);
        let SeedOptions { each, variation, resize_from } = &self.seeds;
        let seed = match (each.get(index), variation) {
            (Some(&seed), _) => Some(seed),
            (None, Some(_)) => self.seed,
            (None, None) => self.seed.map(add),
        };
        let variation = variation.map(|v| SeedVariation { seed: v.seed.map(add), ..v });
        let seeds = SeedOptions { each: Vec::new(), variation, resize_from: *resize_from };
        GenerateRequest { seed, seeds, batch: 1, ..self.clone() }
    }

    /// Generators for pictures of latents of this shape, one pixel of which stands for `factor`.
    pub(crate) fn noise<'r>(
        pictures: impl Iterator<Item = &'r Self>,
        shape: LatentShape,
        factor: u32,
    ) -> Result<PerImage, Error> {
        let options = |request: &Self| {
            let variation = request.seeds.variation;
            let options = NoiseOptions {
                kind: request.rng,
                variation: variation
                    .map(|v| Variation { seed: v.seed.unwrap_or_default(), strength: v.strength }),
                resize_from: request.seeds.resize_from.map(|[width, height]| {
                    let latent = |side: u32| (side / factor.max(1)).max(1) as usize;
                    (latent(height), latent(width))
                }),
                steps: request.sampling.step_noise,
            };
            (request.seed.unwrap_or_default(), options)
        };
        let pictures: Vec<_> = pictures.map(options).collect();
        Ok(PerImage::with_options(&pictures, shape)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(seeds: SeedOptions) -> GenerateRequest {
        GenerateRequest { seed: Some(7), batch: 3, seeds, ..GenerateRequest::new("a cat") }
    }

    #[test]
    fn seeds_count_up_as_in_a1111() {
        let plain = request(SeedOptions::default()).of_picture(2);
        assert_eq!((plain.seed, plain.batch), (Some(9), 1));
        let variation = Some(SeedVariation { seed: Some(40), strength: 0.3 });
        let varied = request(SeedOptions { variation, ..SeedOptions::default() }).of_picture(2);
        assert_eq!((varied.seed, varied.seeds.variation.unwrap().seed), (Some(7), Some(42)));
        let listed = request(SeedOptions { each: vec![7, 5, 1], ..SeedOptions::default() }).of_picture(1);
        assert_eq!((listed.seed, listed.seeds), (Some(5), SeedOptions::default()));
    }

    #[test]
    fn seeds_that_do_not_fit_are_refused() {
        let check = |seeds: SeedOptions| request(seeds).check();
        let bad = check(SeedOptions { each: vec![7, 8], ..SeedOptions::default() });
        assert_eq!(bad, Err(RequestError::SeedCount { seeds: 2, batch: 3 }));
        let bad = check(SeedOptions { each: vec![1, 2, 3], ..SeedOptions::default() });
        assert_eq!(bad, Err(RequestError::FirstSeed { seed: 7, first: 1 }));
        for strength in [-0.1, 1.1, f64::NAN] {
            let variation = Some(SeedVariation { seed: None, strength });
            let bad = check(SeedOptions { variation, ..SeedOptions::default() });
            assert!(matches!(bad, Err(RequestError::VariationStrength(_))));
        }
        let bad = check(SeedOptions { resize_from: Some([512, 0]), ..SeedOptions::default() });
        assert!(matches!(bad, Err(RequestError::SizeRange { side: "seed resize height", .. })));
    }
}
