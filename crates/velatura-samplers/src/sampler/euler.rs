//! Euler's method.

use super::axis::{Churn, first_order};
use super::{Halt, Run, Sampler};
use crate::Grid;

/// Euler's method on the probability-flow equation (Karras et al. 2022, algorithm 2 without its second half).
///
/// One step keeps the direction to the noise and moves to the next level: `x' = alpha' x0 + sigma' eps`.
/// The same formula is `FlowMatchEulerDiscreteScheduler` on the straight path.
#[derive(Debug, Clone, Copy)]
pub struct Euler {
    /// Noise added before each step.
    pub churn: Churn,
}

impl Sampler for Euler {
    fn grid(&self) -> Grid {
        Grid::Sigmas
    }

    fn sample(&self, run: &mut Run<'_>) -> Result<(), Halt> {
        for i in 0..run.steps() {
            let (x, from, x0) = self.churn.begin(run, i)?;
            run.advance(i, first_order(&x, &x0, from, run.step(i).to), &x0)?;
        }
        Ok(())
    }
}
