//! Euler's method with fresh noise in every step.

use super::axis::{first_order, renoise, split};
use super::{Halt, Run, Sampler};
use crate::Grid;

/// Ancestral Euler of k-diffusion: step below the next level, then add fresh noise up to it.
///
/// On the straight path the lower point is chosen along the time, as ComfyUI does for rectified flow.
#[derive(Debug, Clone, Copy)]
pub struct EulerAncestral {
    /// Share of fresh noise, 0 (plain Euler) to 1.
    pub eta: f64,
    /// Factor of the fresh noise.
    pub s_noise: f64,
}

impl Sampler for EulerAncestral {
    fn grid(&self) -> Grid {
        Grid::Sigmas
    }

    fn sample(&self, run: &mut Run<'_>) -> Result<(), Halt> {
        for i in 0..run.steps() {
            let step = run.step(i);
            let x0 = run.predict_x0(i)?;
            let (down, up) = split(run.plan().path, step.from, step.to, self.eta);
            let lower = first_order(run.latent(), &x0, step.from, down);
            let next = renoise(run, &lower, down, step.to, up, self.s_noise);
            run.advance(i, next, &x0)?;
        }
        Ok(())
    }
}
