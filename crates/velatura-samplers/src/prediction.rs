//! What the network predicts, and how to read the clean latent out of it.

use serde::{Deserialize, Serialize};

/// One point of the noising path: `x = alpha * x0 + sigma * noise`.
///
/// On the variance-preserving path of the beta schedules `alpha^2 + sigma^2 = 1`; on the straight
/// path of rectified flow `alpha + sigma = 1`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// Share of the clean latent.
    pub alpha: f64,
    /// Share of the noise.
    pub sigma: f64,
}

impl Level {
    /// The clean end of every path.
    pub const CLEAN: Level = Level { alpha: 1.0, sigma: 0.0 };

    /// Point of the variance-preserving path with the noise-to-signal ratio `sigma` of k-diffusion.
    pub fn from_ratio(ratio: f64) -> Self {
        let alpha = 1.0 / (ratio * ratio + 1.0).sqrt();
        Level { alpha, sigma: ratio * alpha }
    }

    /// Point of the variance-preserving path with `alphas_cumprod = alpha_bar`.
    pub fn from_alpha_bar(alpha_bar: f64) -> Self {
        Level { alpha: alpha_bar.sqrt(), sigma: (1.0 - alpha_bar).sqrt() }
    }

    /// Point of the rectified-flow path at time `t`, 0 (clean) to 1 (noise).
    pub fn from_flow_time(t: f64) -> Self {
        Level { alpha: 1.0 - t, sigma: t }
    }

    /// Noise-to-signal ratio, the `sigma` of k-diffusion; infinite where nothing but noise is left.
    pub fn ratio(self) -> f64 {
        self.sigma / self.alpha
    }

    /// Signal-to-noise ratio `alpha^2 / sigma^2`.
    pub fn snr(self) -> f64 {
        (self.alpha / self.sigma).powi(2)
    }

    /// Natural logarithm of `alpha / sigma`, the lambda of the DPM-Solver papers.
    pub fn lambda(self) -> f64 {
        self.alpha.ln() - self.sigma.ln()
    }

    /// `sqrt(alpha^2 + sigma^2)`, the factor to the variance-preserving point of the same ratio.
    pub fn norm(self) -> f64 {
        self.alpha.hypot(self.sigma)
    }
}

/// What the output of the network means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The noise (Ho et al. 2020).
    #[default]
    #[serde(alias = "eps", alias = "noise")]
    Epsilon,
    /// `v = alpha * noise - sigma * x0` (Salimans and Ho 2022).
    #[serde(alias = "v", alias = "velocity")]
    VPrediction,
    /// The clean latent.
    #[serde(alias = "x0", alias = "x_start")]
    Sample,
    /// `noise - x0`, the velocity of rectified flow (Liu et al. 2022; Esser et al. 2024).
    #[serde(alias = "flow_prediction", alias = "rectified_flow")]
    Flow,
}

impl Prediction {
    /// Name as it is stored: `epsilon`, `v_prediction`, `sample`, `flow`.
    pub fn name(self) -> &'static str {
        match self {
            Prediction::Epsilon => "epsilon",
            Prediction::VPrediction => "v_prediction",
            Prediction::Sample => "sample",
            Prediction::Flow => "flow",
        }
    }

    /// Coefficients `(of x, of the output)` whose sum is the clean latent.
    ///
    /// Holds on either path. With [`Epsilon`](Self::Epsilon) the result is infinite where `alpha` is
    /// 0: noise alone says nothing about the picture.
    pub fn to_x0(self, at: Level) -> (f64, f64) {
        let Level { alpha: a, sigma: s } = at;
        match self {
            Prediction::Epsilon => (1.0 / a, -s / a),
            Prediction::VPrediction => {
                let n = a * a + s * s;
                (a / n, -s / n)
            }
            Prediction::Sample => (0.0, 1.0),
            Prediction::Flow => (1.0 / (a + s), -s / (a + s)),
        }
    }

    /// Coefficients `(of x, of the output)` whose sum is the noise.
    ///
    /// With [`Sample`](Self::Sample) the result is infinite where `sigma` is 0.
    pub fn to_epsilon(self, at: Level) -> (f64, f64) {
        let Level { alpha: a, sigma: s } = at;
        match self {
            Prediction::Epsilon => (0.0, 1.0),
            Prediction::VPrediction => {
                let n = a * a + s * s;
                (s / n, a / n)
            }
            Prediction::Sample => (1.0 / s, -a / s),
            Prediction::Flow => (1.0 / (a + s), a / (a + s)),
        }
    }

    /// Coefficients `(of x0, of the noise)` whose sum is what the network should answer.
    pub fn target(self, at: Level) -> (f64, f64) {
        match self {
            Prediction::Epsilon => (0.0, 1.0),
            Prediction::VPrediction => (-at.sigma, at.alpha),
            Prediction::Sample => (1.0, 0.0),
            Prediction::Flow => (-1.0, 1.0),
        }
    }

    /// Factor from the squared error of this prediction to the squared error of the clean latent.
    pub fn error_to_x0(self, at: Level) -> f64 {
        self.to_x0(at).1.powi(2)
    }

    /// The clean latent that `output` implies for the noisy latent `x`.
    pub fn x0(self, x: &[f32], output: &[f32], at: Level) -> Vec<f32> {
        let (cx, co) = self.to_x0(at);
        combine2(cx, x, co, output)
    }

    /// The noise that `output` implies for the noisy latent `x`.
    pub fn epsilon(self, x: &[f32], output: &[f32], at: Level) -> Vec<f32> {
        let (cx, co) = self.to_epsilon(at);
        combine2(cx, x, co, output)
    }

    /// Rewrites `output`, a prediction of this kind, as a prediction of kind `to`.
    pub fn convert(self, to: Prediction, x: &[f32], output: &[f32], at: Level) -> Vec<f32> {
        if self == to {
            return output.to_vec();
        }
        let (cx0, cn) = to.target(at);
        let (x_x0, o_x0) = self.to_x0(at);
        let (x_n, o_n) = self.to_epsilon(at);
        // A zero factor times an infinite coefficient must vanish, not turn into NaN.
        let mix = |p: f64, q: f64| {
            let first = if cx0 == 0.0 { 0.0 } else { cx0 * p };
            first + if cn == 0.0 { 0.0 } else { cn * q }
        };
        combine2(mix(x_x0, x_n), x, mix(o_x0, o_n), output)
    }
}

/// `a * x + b * y` in f64, rounded once; a coefficient of 0 switches its operand off.
fn combine2(a: f64, x: &[f32], b: f64, y: &[f32]) -> Vec<f32> {
    let term = |c: f64, v: f32| if c == 0.0 { 0.0 } else { c * f64::from(v) };
    x.iter().zip(y).map(|(&x, &y)| (term(a, x) + term(b, y)) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Prediction; 4] =
        [Prediction::Epsilon, Prediction::VPrediction, Prediction::Sample, Prediction::Flow];

    #[test]
    fn the_target_of_every_kind_gives_back_clean_latent_and_noise() {
        let (x0, noise) = (vec![0.7f32, -1.3, 0.0], vec![-0.2f32, 0.9, 1.5]);
        for at in [Level::from_alpha_bar(0.3), Level::from_flow_time(0.8), Level::from_ratio(14.6)] {
            let x = combine2(at.alpha, &x0, at.sigma, &noise);
            for kind in ALL {
                let (c0, cn) = kind.target(at);
                let output = combine2(c0, &x0, cn, &noise);
                for (got, want) in kind.x0(&x, &output, at).iter().zip(&x0) {
                    assert!((got - want).abs() < 2e-5, "{kind:?} at {at:?}: {got} {want}");
                }
                for (got, want) in kind.epsilon(&x, &output, at).iter().zip(&noise) {
                    assert!((got - want).abs() < 2e-5, "{kind:?} at {at:?}: {got} {want}");
                }
                for to in ALL {
                    let (c0, cn) = to.target(at);
                    let want = combine2(c0, &x0, cn, &noise);
                    for (got, want) in kind.convert(to, &x, &output, at).iter().zip(&want) {
                        assert!((got - want).abs() < 3e-5, "{kind:?} to {to:?} at {at:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn pure_noise_still_reads_v_and_flow() {
        let at = Level { alpha: 0.0, sigma: 1.0 };
        assert_eq!(Prediction::VPrediction.x0(&[1.0], &[0.25], at), [-0.25]);
        assert_eq!(Prediction::Flow.x0(&[1.0], &[0.25], at), [0.75]);
        assert_eq!(Prediction::Sample.convert(Prediction::Sample, &[1.0], &[0.5], at), [0.5]);
    }
}
