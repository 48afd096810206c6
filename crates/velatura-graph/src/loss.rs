//! Losses between a prediction and a target of the same shape, each a scalar.

use crate::var::Var;

/// Mean squared error.
pub fn mse<'g>(prediction: Var<'g>, target: Var<'g>) -> Var<'g> {
    (prediction - target).square().mean_all()
}

/// Mean absolute error.
pub fn l1<'g>(prediction: Var<'g>, target: Var<'g>) -> Var<'g> {
    (prediction - target).abs().mean_all()
}

/// Pseudo-Huber loss `mean(2 c (sqrt(d^2 + c^2) - c))`, as in kohya's and diffusers' trainers: quadratic below `c`,
/// linear above.
pub fn huber<'g>(prediction: Var<'g>, target: Var<'g>, c: f32) -> Var<'g> {
    let distance = ((prediction - target).square() + c * c).sqrt();
    (distance + -c).mean_all() * (2.0 * c)
}

/// Mean squared error of each image `[N, ..]`, times a weight for each image `[N]`, averaged.
pub fn weighted_mse<'g>(prediction: Var<'g>, target: Var<'g>, weights: Var<'g>) -> Var<'g> {
    let error = (prediction - target).square();
    let inner: Vec<usize> = (1..error.ty().rank()).collect();
    (error.mean(&inner, false) * weights).mean_all()
}

/// Kullback-Leibler divergence of Gaussians with this mean and log-variance from the standard one, summed over all
/// axes but the first and averaged over that (Kingma and Welling 2013, appendix B).
pub fn kl_divergence<'g>(mean: Var<'g>, log_variance: Var<'g>) -> Var<'g> {
    let terms = mean.square() + log_variance.exp() + -log_variance + -1.0;
    let inner: Vec<usize> = (1..terms.ty().rank()).collect();
    terms.sum(&inner, false).mean_all() * 0.5
}
