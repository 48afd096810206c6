//! Euler's method.

use super::run::combine;
use super::{Halt, Run, Sampler};
use crate::Grid;

/// Euler's method on the probability-flow equation (Karras et al. 2022, algorithm 1 without churn).
///
/// One step keeps the direction to the noise and moves to the next level: `x' = alpha' x0 + sigma' eps`.
/// The same formula is `FlowMatchEulerDiscreteScheduler` on the straight path.
#[derive(Debug, Clone, Copy, Default)]
pub struct Euler;

impl Sampler for Euler {
    fn grid(&self) -> Grid {
        Grid::Sigmas
    }

    fn sample(&self, run: &mut Run<'_>) -> Result<(), Halt> {
        for i in 0..run.steps() {
            let step = run.step(i);
            let x0 = run.predict_x0(i)?;
            // eps = (x - alpha x0) / sigma, put into x' = alpha' x0 + sigma' eps.
            let keep = step.to.sigma / step.from.sigma;
            let toward = step.to.alpha - step.from.alpha * keep;
            let next = combine([(keep, run.latent()), (toward, &x0)]);
            run.advance(i, next, &x0)?;
        }
        Ok(())
    }
}
