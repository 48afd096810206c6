//! Sequences of numbers that the spacings share.

use statrs::distribution::{Beta, ContinuousCDF};

use super::Spacing;

/// `n` numbers from `start` to `end`, both included; only `start` when `n` is 1 (`numpy.linspace`).
pub(super) fn linspace(start: f64, end: f64, n: usize) -> Vec<f64> {
    if n == 1 {
        return vec![start];
    }
    let step = (end - start) / (n - 1) as f64;
    (0..n).map(|i| if i + 1 == n { end } else { i as f64 * step + start }).collect()
}

/// Sigmas of the spacings that are a formula between two ends; `None` for the others. `rho` replaces the formula's
/// own exponent.
pub(super) fn between(spacing: Spacing, max: f64, min: f64, n: usize, rho: Option<f64>) -> Option<Vec<f64>> {
    match spacing {
        Spacing::Karras => Some(karras_with(max, min, n, rho.unwrap_or(7.0))),
        Spacing::Exponential => Some(polyexponential(max, min, n, 1.0)),
        Spacing::Polyexponential => Some(polyexponential(max, min, n, rho.unwrap_or(1.0))),
        Spacing::KlOptimal => Some(kl_optimal(max, min, n)),
        Spacing::BetaSigmas => {
            let quantiles = linspace(1.0, 0.0, n).into_iter().map(beta_quantile);
            Some(quantiles.map(|q| min + q * (max - min)).collect())
        }
        _ => None,
    }
}

/// Equation 5 of Karras et al. 2022 (arXiv 2206.00364) with rho = 7.
pub(crate) fn karras(max: f64, min: f64, n: usize) -> Vec<f64> {
    karras_with(max, min, n, 7.0)
}

fn karras_with(max: f64, min: f64, n: usize, rho: f64) -> Vec<f64> {
    let (min, max) = (min.powf(1.0 / rho), max.powf(1.0 / rho));
    linspace(0.0, 1.0, n).into_iter().map(|ramp| (max + ramp * (min - max)).powf(rho)).collect()
}

/// A power of equal steps in the logarithm (k-diffusion's `get_sigmas_polyexponential`).
fn polyexponential(max: f64, min: f64, n: usize, rho: f64) -> Vec<f64> {
    let (low, high) = (min.ln(), max.ln());
    linspace(1.0, 0.0, n).into_iter().map(|ramp| (low + ramp.powf(rho) * (high - low)).exp()).collect()
}

/// Equal steps in the arctangent (Sabour et al. 2024, arXiv 2404.14507, theorem 3.1).
fn kl_optimal(max: f64, min: f64, n: usize) -> Vec<f64> {
    linspace(max.atan(), min.atan(), n).into_iter().map(f64::tan).collect()
}

/// Quantile of the beta distribution with both parameters 0.6 (Lee et al. 2024, arXiv 2407.12173).
pub(super) fn beta_quantile(p: f64) -> f64 {
    const SHAPE: f64 = 0.6;
    match Beta::new(SHAPE, SHAPE) {
        // Half of it lies below the middle: to the last bit, since timesteps are rounded from there.
        _ if p == 0.5 => 0.5,
        // By symmetry the lower half is the more exact one.
        Ok(beta) if p <= 0.5 => beta.inverse_cdf(p),
        Ok(beta) => 1.0 - beta.inverse_cdf(1.0 - p),
        Err(_) => p,
    }
}

/// Noise levels for ten steps of Align Your Steps (Sabour et al. 2024, arXiv 2404.14507) for Stable Diffusion 1.x, as
/// its authors publish them.
const AYS_SD1: [f64; 11] = [
    14.6146412293,
    6.4745760956,
    3.8636745985,
    2.6946151520,
    1.8841921177,
    1.3943805092,
    0.9642583904,
    0.6523686016,
    0.3977456272,
    0.1515232662,
    0.0291671582,
];

/// The same for SDXL.
const AYS_SDXL: [f64; 11] = [
    14.6146412293,
    6.3184485287,
    3.7681790315,
    2.1811480769,
    1.3405244945,
    0.8620721141,
    0.5550693289,
    0.3798540708,
    0.2332364134,
    0.1114188177,
    0.0291671582,
];

/// Noise-to-signal ratios of the published levels for any number of steps, interpolated in the logarithm; the last
/// level is left to the clean end.
pub(super) fn align_your_steps(sdxl: bool, steps: usize) -> Vec<f64> {
    let levels = if sdxl { AYS_SDXL } else { AYS_SD1 };
    let last = levels.len() - 1;
    (0..steps)
        .map(|i| {
            let at = (i * last) as f64 / steps as f64;
            let low = (at as usize).min(last - 1);
            let share = at - low as f64;
            (levels[low].ln() * (1.0 - share) + levels[low + 1].ln() * share).exp()
        })
        .collect()
}

/// Whole numbers, descending, of `count` that a run of `steps` visits when it takes every so many (diffusers' LCM).
pub(super) fn every_so_many(count: usize, steps: usize) -> impl Iterator<Item = usize> {
    let stride = count as f64 / steps as f64;
    (0..steps).map(move |i| count - (i as f64 * stride).floor() as usize)
}
