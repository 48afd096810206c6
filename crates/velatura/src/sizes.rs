//! What Stable Diffusion XL is told beside the prompt: of the size and crop of a picture, and its refiner of how much the
//! picture is liked (Podell et al. 2023, "SDXL: improving latent diffusion models", section 2.2).

use serde::{Deserialize, Serialize};

use crate::request::RequestError;

/// The score that the refiner is told for what the picture shall be, as in diffusers and A1111.
const SCORE: f32 = 6.0;
/// The same for what it shall not be.
const NEGATIVE_SCORE: f32 = 2.5;
/// Longest side or offset in pixels that is accepted; pictures in training had a few thousand.
const LONGEST: u32 = 1 << 16;
/// Largest score that is accepted; those in training went to 10.
const MOST_SCORE: f32 = 100.0;

/// What Stable Diffusion XL is told beside the prompt. Other models are not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SizeConditions {
    /// Width and height in pixels that the picture shall seem to have been scaled from, 1 to 65536: small ones make it
    /// blurred. `None` is the picture's own size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original_size: Option<[u32; 2]>,
    /// Pixels that shall seem to have been cut off at its left and at its top, up to 65536. `None` is 0 and 0, which
    /// centres what it shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop: Option<[u32; 2]>,
    /// Width and height in pixels that it shall seem to have, 1 to 65536. `None` is the picture's own size. The refiner is
    /// not told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_size: Option<[u32; 2]>,
    /// How much the picture shall be liked, usually 1 to 10; the refiner alone is told. `None` is 6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aesthetic_score: Option<f32>,
    /// The same for what it shall not be. `None` is 2.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_aesthetic_score: Option<f32>,
}

impl SizeConditions {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn check(&self) -> Result<(), RequestError> {
        let Self { original_size, crop, target_size, aesthetic_score, negative_aesthetic_score } = *self;
        for (field, least, pair) in
            [("original size", 1, original_size), ("crop", 0, crop), ("target size", 1, target_size)]
        {
            let wrong = pair.into_iter().flatten().find(|v| !(least..=LONGEST).contains(v));
            if let Some(given) = wrong {
                return Err(RequestError::SizeCondition { field, given, least, most: LONGEST });
            }
        }
        for score in [aesthetic_score, negative_aesthetic_score].into_iter().flatten() {
            if score.is_nan() || score.abs() > MOST_SCORE {
                return Err(RequestError::Score(score));
            }
        }
        Ok(())
    }

    /// The numbers for a picture of this size, heights before widths: six for the base model, five for its refiner, none
    /// for models that are told none.
    pub(crate) fn time_ids(&self, count: usize, [width, height]: [usize; 2], negative: bool) -> Vec<f32> {
        let own = [width as u32, height as u32];
        let [original, target] = [self.original_size, self.target_size].map(|size| size.unwrap_or(own));
        let crop = self.crop.unwrap_or_default();
        let mut ids: Vec<f32> =
            [original, crop, target].iter().flat_map(|&[x, y]| [y as f32, x as f32]).collect();
        if count == REFINER_IDS {
            let score = match negative {
                false => self.aesthetic_score.unwrap_or(SCORE),
                true => self.negative_aesthetic_score.unwrap_or(NEGATIVE_SCORE),
            };
            ids.truncate(REFINER_IDS - 1);
            ids.push(score);
        }
        ids.truncate(count);
        ids
    }
}

/// How many numbers the base model is told.
pub(crate) const BASE_IDS: usize = 6;
/// How many its refiner is told.
pub(crate) const REFINER_IDS: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_in_the_order_of_diffusers() {
        let size = [832, 1216];
        let plain = SizeConditions::default();
        assert_eq!(plain.time_ids(BASE_IDS, size, false), [1216.0, 832.0, 0.0, 0.0, 1216.0, 832.0]);
        assert_eq!(plain.time_ids(REFINER_IDS, size, false), [1216.0, 832.0, 0.0, 0.0, 6.0]);
        assert_eq!(plain.time_ids(REFINER_IDS, size, true), [1216.0, 832.0, 0.0, 0.0, 2.5]);
        assert!(plain.time_ids(0, size, true).is_empty());
        let told = SizeConditions {
            original_size: Some([640, 480]),
            crop: Some([10, 20]),
            target_size: Some([1024, 768]),
            ..plain
        };
        assert_eq!(told.time_ids(BASE_IDS, size, true), [480.0, 640.0, 20.0, 10.0, 768.0, 1024.0]);
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let bad = [
            SizeConditions { original_size: Some([0, 512]), ..Default::default() },
            SizeConditions { target_size: Some([512, 1 << 17]), ..Default::default() },
            SizeConditions { crop: Some([u32::MAX, 0]), ..Default::default() },
            SizeConditions { aesthetic_score: Some(f32::NAN), ..Default::default() },
        ];
        for conditions in bad {
            assert!(conditions.check().is_err(), "{conditions:?}");
        }
        assert!(SizeConditions { crop: Some([0, 0]), ..Default::default() }.check().is_ok());
    }
}
