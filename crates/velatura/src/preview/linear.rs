//! Colours from latents by one small matrix: good enough to see what becomes of a picture.

use velatura_models::Autoencoder;

use super::shipped::{SHIPPED_BIAS, SHIPPED_FACTORS};
use crate::ModelManifest;

/// Red, green and blue, from -1 to 1, as a linear function of a latent's channels in the denoiser's scale.
#[derive(Clone, Debug, PartialEq)]
pub struct LatentRgb {
    /// What each channel adds.
    pub factors: Vec<[f32; 3]>,
    /// What is there anyway.
    pub bias: [f32; 3],
}

/// Stable Diffusion 1.x and 2.x: ComfyUI's `latent_formats.SD15`.
const SD: [[f32; 3]; 4] = [
    [0.3512, 0.2297, 0.3227],
    [0.3250, 0.4974, 0.2350],
    [-0.2829, 0.1762, 0.2721],
    [-0.2120, -0.2616, -0.7177],
];
/// Stable Diffusion XL: ComfyUI's `latent_formats.SDXL`.
const XL: [[f32; 3]; 4] = [
    [0.3651, 0.4232, 0.4341],
    [-0.2533, -0.0042, 0.1068],
    [0.1076, 0.1111, -0.0362],
    [-0.3165, -0.2492, -0.2188],
];
const XL_BIAS: [f32; 3] = [0.1084, -0.0175, -0.0011];
/// The x4 upscaler of Stable Diffusion: ComfyUI's `latent_formats.SD_X4`.
const X4: [[f32; 3]; 4] = [
    [-0.2340, -0.3863, -0.3257],
    [0.0994, 0.0885, -0.0908],
    [-0.2833, -0.2349, -0.3741],
    [0.2523, -0.0055, -0.1651],
];
/// The name in the manifest of the model that ships, whose latents these are.
const SHIPPED: &str = "velatura-scenes-128";

impl LatentRgb {
    /// That of a model's latents, told apart by the scale that its denoiser sees them in; nothing for latents that are not
    /// known.
    pub fn of(manifest: &ModelManifest) -> Option<Self> {
        let channels = manifest.latent_channels();
        if manifest.name == SHIPPED && channels == SHIPPED_FACTORS.len() {
            return Some(LatentRgb { factors: SHIPPED_FACTORS.to_vec(), bias: SHIPPED_BIAS });
        }
        if channels != SD.len() {
            return None;
        }
        let xl = || LatentRgb { factors: XL.to_vec(), bias: XL_BIAS };
        let plain = |factors: [[f32; 3]; 4]| LatentRgb { factors: factors.to_vec(), bias: [0.0; 3] };
        let scale = match &manifest.autoencoder {
            Autoencoder::Kl(_) => manifest.autoencoder.shift_and_scale().1,
            // It takes latents in whichever scale the model has.
            Autoencoder::Tiny(_) => {
                let is_xl = manifest.unet.addition_embed_type.is_some();
                return Some(if is_xl { xl() } else { plain(SD) });
            }
        };
        let is = |known: f32| (scale - known).abs() < 1e-4;
        if is(0.18215) {
            Some(plain(SD))
        } else if is(0.13025) {
            Some(xl())
        } else if is(0.08333) {
            Some(plain(X4))
        } else {
            None
        }
    }

    /// The colours of a latent `[pixels, channels]`: `[pixels, 3]`, around -1 to 1.
    pub fn project(&self, latent: &[f32]) -> Vec<f32> {
        let color = |pixel: &[f32]| {
            let mut rgb = self.bias;
            for (value, factors) in pixel.iter().zip(&self.factors) {
                for (color, factor) in rgb.iter_mut().zip(factors) {
                    *color += value * factor;
                }
            }
            rgb
        };
        latent.chunks_exact(self.factors.len().max(1)).flat_map(color).collect()
    }

    /// The function that is nearest to pictures in the mean of the squared error: `latents` `[pixels, channels]` and the mean
    /// colours of what each pixel stands for `[pixels, 3]`, -1 to 1. Nothing where the pixels do not decide it.
    pub fn fit(latents: &[f32], colors: &[f32], channels: usize) -> Option<Self> {
        // Normal equations with a last row and column for the bias.
        let n = channels + 1;
        let mut left = vec![vec![0.0f64; n]; n];
        let mut right = vec![[0.0f64; 3]; n];
        for (latent, color) in latents.chunks_exact(channels.max(1)).zip(colors.chunks_exact(3)) {
            let row: Vec<f64> = latent.iter().map(|&v| f64::from(v)).chain([1.0]).collect();
            for i in 0..n {
                for j in 0..n {
                    left[i][j] += row[i] * row[j];
                }
                for c in 0..3 {
                    right[i][c] += row[i] * f64::from(color[c]);
                }
            }
        }
        let solved = solve(left, right)?;
        let (bias, factors) = solved.split_last()?;
        Some(LatentRgb { factors: factors.to_vec(), bias: *bias })
    }
}

/// Gauss's elimination with pivots of a symmetric system with three right sides.
fn solve(mut left: Vec<Vec<f64>>, mut right: Vec<[f64; 3]>) -> Option<Vec<[f32; 3]>> {
    let n = left.len();
    for column in 0..n {
        let pivot = (column..n).max_by(|&a, &b| left[a][column].abs().total_cmp(&left[b][column].abs()))?;
        if left[pivot][column].abs() < 1e-9 {
            return None;
        }
        left.swap(column, pivot);
        right.swap(column, pivot);
        let (chosen, values) = (left[column].clone(), right[column]);
        for row in (0..n).filter(|&row| row != column) {
            let factor = left[row][column] / chosen[column];
            left[row].iter_mut().zip(&chosen).for_each(|(value, chosen)| *value -= factor * chosen);
            right[row].iter_mut().zip(&values).for_each(|(value, chosen)| *value -= factor * chosen);
        }
    }
    Some((0..n).map(|i| right[i].map(|value| (value / left[i][i]) as f32)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_projection_is_a_matrix_and_a_bias() {
        let xl = LatentRgb { factors: XL.to_vec(), bias: XL_BIAS };
        // ComfyUI's `torch.nn.functional.linear` with the factors transposed, worked out by hand.
        let got = xl.project(&[1.0, -2.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0]);
        let wanted = [0.1084 + 0.3651 + 0.5066 + 0.0538, -0.0175 + 0.4232 + 0.0084 + 0.05555];
        for (got, wanted) in got.iter().zip(wanted) {
            assert!((got - wanted).abs() < 1e-6, "{got} {wanted}");
        }
        assert_eq!(got[3..], XL_BIAS);
    }

    #[test]
    fn a_fit_finds_the_function_that_was_there() {
        let function = LatentRgb { factors: SD.to_vec(), bias: [0.1, -0.2, 0.3] };
        let latents: Vec<f32> = (0..400).map(|i| ((i * 37 + i * i * 11) % 101) as f32 / 50.0 - 1.0).collect();
        let fitted = LatentRgb::fit(&latents, &function.project(&latents), 4).unwrap();
        let pairs = fitted.factors.iter().flatten().zip(function.factors.iter().flatten());
        assert!(pairs.chain(fitted.bias.iter().zip(&function.bias)).all(|(a, b)| (a - b).abs() < 1e-5));
        // One pixel does not decide it.
        assert_eq!(LatentRgb::fit(&[1.0; 4], &[1.0; 3], 4), None);
    }

    #[test]
    fn latents_are_known_by_their_scale() {
        let mut manifest = crate::tiny::manifest().unwrap();
        assert_eq!(LatentRgb::of(&manifest), None);
        let shipped = crate::Engine::shipped(crate::EngineOptions::default()).unwrap();
        assert_eq!(LatentRgb::of(shipped.manifest()).unwrap().factors.len(), 8);
        manifest.autoencoder = velatura_models::Autoencoder::Kl(velatura_models::AutoencoderConfig::sd());
        assert_eq!(LatentRgb::of(&manifest).unwrap().factors, SD);
        manifest.autoencoder = velatura_models::Autoencoder::Kl(velatura_models::AutoencoderConfig::sdxl());
        assert_eq!(LatentRgb::of(&manifest).unwrap().bias, XL_BIAS);
    }
}
