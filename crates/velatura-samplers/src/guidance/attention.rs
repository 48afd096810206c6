//! Guidance by an answer whose attention was disturbed. The disturbed answers come from the caller.

use crate::GuidanceError;
use crate::noise::LatentShape;

/// `base + scale * (toward - away)`, value by value.
fn push(base: &[f32], toward: &[f32], away: &[f32], scale: f32) -> Result<Vec<f32>, GuidanceError> {
    if !scale.is_finite() {
        return Err(GuidanceError::Scale(scale));
    }
    for other in [toward, away] {
        if other.len() != base.len() {
            return Err(GuidanceError::Length { found: other.len(), expected: base.len() });
        }
    }
    let values = base.iter().zip(toward).zip(away);
    Ok(values.map(|((&base, &toward), &away)| base + scale * (toward - away)).collect())
}

/// Perturbed-attention guidance (Ahn et al. 2024, arXiv 2403.17377): `guided + scale * (cond - perturbed)`, where the
/// perturbed answer is the prompted one with the identity in place of a self-attention map. Without classifier-free
/// guidance `guided` is `cond`. A scale of 3 is the authors'.
///
/// # Errors
/// A scale that is not finite, or lengths that differ.
pub fn perturbed_attention(
    guided: &[f32],
    cond: &[f32],
    perturbed: &[f32],
    scale: f32,
) -> Result<Vec<f32>, GuidanceError> {
    push(guided, cond, perturbed, scale)
}

/// diffusers' adaptive scale of perturbed attention: `scale - adaptive * (1000 - timestep)`, at least 0.
pub fn perturbed_attention_scale(scale: f32, adaptive: f32, timestep: f32) -> f32 {
    (scale - adaptive * (1000.0 - timestep)).max(0.0)
}

/// Self-attention guidance (Hong et al. 2023, arXiv 2210.00939): `guided + scale * (uncond - degraded)`, all noise
/// predictions, where the degraded answer is the unprompted one about the [degraded](degrade) latent, noised again
/// with the noise it had. Without classifier-free guidance `uncond` is the prompted answer. A scale of 0.75 is the
/// authors'.
///
/// # Errors
/// A scale that is not finite, or lengths that differ.
pub fn self_attention(
    guided: &[f32],
    uncond: &[f32],
    degraded: &[f32],
    scale: f32,
) -> Result<Vec<f32>, GuidanceError> {
    push(guided, uncond, degraded, scale)
}

/// The clean latent of one image, `[H, W, C]`, blurred where the mask says so: a Gaussian of nine by nine pixels with
/// mirrored borders, as in diffusers and ComfyUI (their `sigma` is 1 and 2).
///
/// `mask` has one entry a pixel, true where the attention is strong (above 1 in sum over the queries).
///
/// # Errors
/// Lengths that do not fit, a latent of fewer than 5 pixels a side, or a sigma that is not above 0.
pub fn degrade(x0: &[f32], mask: &[bool], shape: LatentShape, sigma: f64) -> Result<Vec<f32>, GuidanceError> {
    const REACH: usize = 4;
    let LatentShape { channels, height, width } = shape;
    if x0.len() != shape.len() {
        return Err(GuidanceError::Length { found: x0.len(), expected: shape.len() });
    }
    if mask.len() != height * width {
        return Err(GuidanceError::Length { found: mask.len(), expected: height * width });
    }
    if height.min(width) <= REACH {
        let value = height.min(width) as f64;
        return Err(GuidanceError::Setting { name: "latent side", value, range: "at least 5 to be blurred" });
    }
    if !(sigma > 0.0 && sigma.is_finite()) {
        return Err(GuidanceError::Setting { name: "blur sigma", value: sigma, range: "above 0" });
    }
    let mut kernel: Vec<f64> =
        (0..=2 * REACH).map(|i| (-0.5 * ((i as f64 - REACH as f64) / sigma).powi(2)).exp()).collect();
    let sum: f64 = kernel.iter().sum();
    kernel.iter_mut().for_each(|k| *k /= sum);
    // Mirrored without repeating the border.
    let mirror = |at: usize, offset: usize, len: usize| {
        let at = (at + offset) as i64 - REACH as i64;
        let last = len as i64 - 1;
        let at = if at < 0 { -at } else { at };
        (if at > last { 2 * last - at } else { at }) as usize
    };
    let rows: Vec<f64> = (0..height * width * channels)
        .map(|i| {
            let (pixel, channel) = (i / channels, i % channels);
            let (y, x) = (pixel / width, pixel % width);
            let value = |k: usize| f64::from(x0[(y * width + mirror(x, k, width)) * channels + channel]);
            kernel.iter().enumerate().map(|(k, weight)| weight * value(k)).sum()
        })
        .collect();
    let blurred = |i: usize| -> f32 {
        let (pixel, channel) = (i / channels, i % channels);
        let (y, x) = (pixel / width, pixel % width);
        let value = |k: usize| rows[(mirror(y, k, height) * width + x) * channels + channel];
        kernel.iter().enumerate().map(|(k, weight)| weight * value(k)).sum::<f64>() as f32
    };
    Ok((0..x0.len()).map(|i| if mask[i / channels] { blurred(i) } else { x0[i] }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_of_the_papers() {
        let (guided, cond, away) = ([2.0f32, 0.0], [1.0f32, -1.0], [0.5f32, 1.0]);
        assert_eq!(perturbed_attention(&guided, &cond, &away, 3.0).unwrap(), [3.5, -6.0]);
        assert_eq!(self_attention(&guided, &cond, &away, 0.5).unwrap(), [2.25, -1.0]);
        assert_eq!(perturbed_attention_scale(3.0, 0.01, 900.0), 2.0);
        assert_eq!(perturbed_attention_scale(3.0, 0.01, 100.0), 0.0);
        assert!(perturbed_attention(&guided, &cond, &away[..1], 3.0).is_err());
        assert!(self_attention(&guided, &cond, &away, f32::NAN).is_err());
    }

    #[test]
    fn only_the_masked_pixels_are_blurred() {
        let shape = LatentShape { channels: 2, height: 6, width: 7 };
        let x0: Vec<f32> = (0..shape.len()).map(|i| ((i * 31) % 17) as f32).collect();
        let mask: Vec<bool> = (0..42).map(|i| i % 3 == 0).collect();
        let got = degrade(&x0, &mask, shape, 1.0).unwrap();
        for (i, (&got, &x)) in got.iter().zip(&x0).enumerate() {
            assert_eq!(got != x, mask[i / 2], "{i}");
        }
        // A constant stays, and so does the mean of a wave around it.
        let flat = degrade(&vec![3.0; shape.len()], &[true; 42], shape, 2.0).unwrap();
        assert!(flat.iter().all(|v| (v - 3.0).abs() < 1e-6));
        assert!(degrade(&x0, &mask[1..], shape, 1.0).is_err());
        assert!(degrade(&x0, &mask, shape, f64::NAN).is_err());
        let small = LatentShape { channels: 1, height: 4, width: 9 };
        assert!(degrade(&[0.0; 36], &[true; 36], small, 1.0).is_err());
    }
}
