//! DDIM.

use super::run::combine;
use super::{Halt, Run, Sampler};
use crate::Grid;

/// Denoising diffusion implicit models (Song et al. 2020, arXiv 2010.02502, equations 12 and 16).
///
/// `eta` 0 is deterministic, 1 is the ancestral process. On the straight path of rectified flow the
/// amount of noise is that of the variance-preserving point of the same ratio.
///
/// As in diffusers each step ends `train_timesteps / steps` lower, also where the next step begins
/// elsewhere: exact with leading spacing, and with trailing where the steps divide the timesteps. With
/// linspace a little noise remains; [`Euler`](super::Euler) is the same sampler without that.
#[derive(Debug, Clone, Copy)]
pub struct Ddim {
    /// Share of fresh noise, 0 to 1.
    pub eta: f64,
}

impl Sampler for Ddim {
    fn grid(&self) -> Grid {
        Grid::FixedStride
    }

    fn sample(&self, run: &mut Run<'_>) -> Result<(), Halt> {
        for i in 0..run.steps() {
            let step = run.step(i);
            let (from, to) = (step.from, step.to);
            let x0 = run.predict_x0(i)?;
            let (from_bar, to_bar) = ((from.alpha / from.norm()).powi(2), (to.alpha / to.norm()).powi(2));
            let variance = (1.0 - to_bar) / (1.0 - from_bar) * (1.0 - from_bar / to_bar);
            let fresh = self.eta * variance.max(0.0).sqrt() * to.norm();
            let direction = (to.sigma.powi(2) - fresh.powi(2)).max(0.0).sqrt();
            let keep = direction / from.sigma;
            let toward = to.alpha - from.alpha * keep;
            let noise = if fresh > 0.0 { run.draw_noise() } else { Vec::new() };
            let next = combine([(keep, run.latent()), (toward, &x0), (fresh, &noise)]);
            run.advance(i, next, &x0)?;
        }
        Ok(())
    }
}
