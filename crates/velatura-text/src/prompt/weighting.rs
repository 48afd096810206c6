//! What weights do to the vectors of a text model. Vectors are `[tokens, channels]`, one multiplier for each token.
//!
//! A1111 multiplies the vectors, and by default ("Original") scales all of them so that their mean is what it was;
//! "No norm" leaves that out, "Ignore" leaves out everything. ComfyUI goes from the vectors of the empty prompt
//! towards the prompt's.

use serde::{Deserialize, Serialize};

/// How multipliers are applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weighting {
    /// [`original`]: A1111's default.
    #[default]
    Original,
    /// [`no_norm`]: A1111's "No norm".
    NoNorm,
    /// Multipliers do nothing: A1111's "Ignore".
    Ignore,
    /// [`interpolate`]: ComfyUI's.
    Interpolate,
}

impl Weighting {
    /// Applies the multipliers to `z`, vectors of `channels` each. `empty` are the vectors of the empty prompt for
    /// [`Weighting::Interpolate`], and may be empty for the others. Nothing is done where all multipliers are 1.
    ///
    /// # Panics
    /// When `z` is not `multipliers.len()` vectors of `channels`, or [`Weighting::Interpolate`] has to interpolate
    /// and `z` is not a whole number of `empty`.
    pub fn apply(self, z: &mut [f32], empty: &[f32], channels: usize, multipliers: &[f32]) {
        if multipliers.iter().all(|&multiplier| multiplier == 1.0) {
            return;
        }
        match self {
            Self::Original => original(z, channels, multipliers),
            Self::NoNorm => no_norm(z, channels, multipliers),
            Self::Ignore => (),
            Self::Interpolate => interpolate(z, empty, channels, multipliers),
        }
    }
}

/// A1111's "No norm": each token's vector times its multiplier.
///
/// # Panics
/// When `z` is not `multipliers.len()` vectors of `channels`.
pub fn no_norm(z: &mut [f32], channels: usize, multipliers: &[f32]) {
    assert_eq!(z.len(), channels * multipliers.len(), "one multiplier for each vector");
    for (vector, &multiplier) in z.chunks_exact_mut(channels.max(1)).zip(multipliers) {
        vector.iter_mut().for_each(|value| *value *= multiplier);
    }
}

/// A1111's "Original": [`no_norm`], then everything times what restores the mean over all values. A1111 takes that
/// mean over the batch that it encodes together: chunk `n` of all texts of a schedule; pass those one behind
/// another.
///
/// Where the mean becomes zero and cannot be restored, it is left.
///
/// # Panics
/// When `z` is not `multipliers.len()` vectors of `channels`.
pub fn original(z: &mut [f32], channels: usize, multipliers: &[f32]) {
    let before = sum(z);
    no_norm(z, channels, multipliers);
    let ratio = (before / sum(z)) as f32;
    if ratio.is_finite() {
        z.iter_mut().for_each(|value| *value *= ratio);
    }
}

fn sum(z: &[f32]) -> f64 {
    z.iter().map(|&value| f64::from(value)).sum()
}

/// ComfyUI's: `(z - empty) * multiplier + empty`, where `empty` are the vectors of the empty prompt
/// ([`super::empty_chunk`]), as many as a chunk has; `z` may be several chunks one behind another. Vectors with the
/// multiplier 1 are left as they are.
///
/// # Panics
/// When `z` is not `multipliers.len()` vectors of `channels`, or not a whole number of `empty`.
pub fn interpolate(z: &mut [f32], empty: &[f32], channels: usize, multipliers: &[f32]) {
    assert_eq!(z.len(), channels * multipliers.len(), "one multiplier for each vector");
    assert!(!empty.is_empty() && z.len().is_multiple_of(empty.len()), "whole chunks");
    let vectors = z.chunks_exact_mut(channels).zip(empty.chunks_exact(channels).cycle());
    for ((vector, empty), &multiplier) in vectors.zip(multipliers) {
        if multiplier != 1.0 {
            for (value, &empty) in vector.iter_mut().zip(empty) {
                *value = (*value - empty) * multiplier + empty;
            }
        }
    }
}
