//! DDPM.

use super::run::combine;
use super::{Halt, Run, Sampler};
use crate::Grid;

/// Ancestral sampling of denoising diffusion probabilistic models (Ho et al. 2020, arXiv 2006.11239,
/// equation 7), with the smaller of the paper's two variances ("fixed small") and no clipping.
///
/// On the straight path of rectified flow the posterior is that of the variance-preserving points of the
/// same ratios.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ddpm;

impl Sampler for Ddpm {
    fn grid(&self) -> Grid {
        Grid::Timesteps
    }

    fn sample(&self, run: &mut Run<'_>) -> Result<(), Halt> {
        for i in 0..run.steps() {
            let step = run.step(i);
            let x0 = run.predict_x0(i)?;
            // A scale of 1 on the variance-preserving path.
            let (scale_from, scale_to) = (step.from.norm(), step.to.norm());
            let (from_bar, to_bar) =
                ((step.from.alpha / scale_from).powi(2), (step.to.alpha / scale_to).powi(2));
            let alpha = from_bar / to_bar;
            let beta = 1.0 - alpha;
            let toward = to_bar.sqrt() * beta / (1.0 - from_bar) * scale_to;
            let keep = alpha.sqrt() * (1.0 - to_bar) / (1.0 - from_bar) * scale_to / scale_from;
            let fresh = ((1.0 - to_bar) / (1.0 - from_bar) * beta).max(0.0).sqrt() * scale_to;
            let noise = if fresh > 0.0 { run.draw_noise() } else { Vec::new() };
            let next = combine([(keep, run.latent()), (toward, &x0), (fresh, &noise)]);
            run.advance(i, next, &x0)?;
        }
        Ok(())
    }
}
