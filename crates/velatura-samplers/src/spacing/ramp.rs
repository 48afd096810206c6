//! Sequences of numbers that the spacings share.

/// `n` numbers from `start` to `end`, both included; only `start` when `n` is 1 (`numpy.linspace`).
pub(super) fn linspace(start: f64, end: f64, n: usize) -> Vec<f64> {
    if n == 1 {
        return vec![start];
    }
    let step = (end - start) / (n - 1) as f64;
    (0..n).map(|i| if i + 1 == n { end } else { i as f64 * step + start }).collect()
}

/// Equation 5 of Karras et al. 2022 (arXiv 2206.00364) with rho = 7.
pub(super) fn karras(max: f64, min: f64, n: usize) -> Vec<f64> {
    const RHO: f64 = 7.0;
    let (min, max) = (min.powf(1.0 / RHO), max.powf(1.0 / RHO));
    linspace(0.0, 1.0, n).into_iter().map(|ramp| (max + ramp * (min - max)).powf(RHO)).collect()
}

/// Equal steps in the logarithm.
pub(super) fn exponential(max: f64, min: f64, n: usize) -> Vec<f64> {
    linspace(max.ln(), min.ln(), n).into_iter().map(f64::exp).collect()
}
