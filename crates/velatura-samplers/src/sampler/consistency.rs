//! Samplers of distilled models: LCM and TCD.

use super::axis::first_order;
use super::run::combine;
use super::{Halt, Run, Sampler};
use crate::Grid;

/// Multistep sampling of latent consistency models (Luo et al. 2023, arXiv 2310.04378) as in diffusers: every step
/// jumps to the clean latent and noises it afresh.
#[derive(Debug, Clone, Copy)]
pub struct Lcm {
    /// Factor of the fresh noise.
    pub s_noise: f64,
}

/// Strategic stochastic sampling of trajectory consistency models (Zheng et al. 2024, arXiv 2402.19159): every step
/// jumps to a point of its trajectory and rises from there. As in diffusers the run ends at timestep 0.
#[derive(Debug, Clone, Copy)]
pub struct Tcd {
    /// The paper's gamma, 0 (deterministic) to 1.
    pub eta: f64,
    /// Factor of the fresh noise.
    pub s_noise: f64,
}

/// Weights `(of the latent, of the clean prediction)` of a consistency function at a timestep: the boundary
/// condition of Song et al. 2023 with diffusers' constants.
fn boundary(timestep: f32) -> (f64, f64) {
    const DATA: f64 = 0.5;
    const TIMESTEP_SCALING: f64 = 10.0;
    let t = f64::from(timestep) * TIMESTEP_SCALING;
    let sum = t * t + DATA * DATA;
    (DATA * DATA / sum, t / sum.sqrt())
}

impl Sampler for Lcm {
    fn grid(&self) -> Grid {
        Grid::Timesteps
    }

    fn sample(&self, run: &mut Run<'_>) -> Result<(), Halt> {
        for i in 0..run.steps() {
            let step = run.step(i);
            let x0 = run.predict_x0(i)?;
            let (skip, out) = boundary(step.timestep);
            let clean = combine([(skip, run.latent()), (out, &x0)]);
            let fresh = step.to.sigma * self.s_noise;
            let noise = if fresh > 0.0 { run.draw_noise() } else { Vec::new() };
            let next = combine([(step.to.alpha, clean.as_slice()), (fresh, &noise)]);
            run.advance(i, next, &clean)?;
        }
        Ok(())
    }
}

impl Sampler for Tcd {
    fn grid(&self) -> Grid {
        Grid::Timesteps
    }

    fn sample(&self, run: &mut Run<'_>) -> Result<(), Halt> {
        for i in 0..run.steps() {
            let step = run.step(i);
            let x0 = run.predict_x0(i)?;
            let last = i + 1 == run.steps();
            let t = if last { 0.0 } else { f64::from(run.step(i + 1).timestep) };
            let at = run.plan().level_at(((1.0 - self.eta) * t).floor());
            let jumped = first_order(run.latent(), &x0, step.from, at);
            if last {
                run.advance(i, jumped, &x0)?;
                continue;
            }
            let rise = step.to.ratio().powi(2) - at.ratio().powi(2);
            let fresh =
                if self.eta > 0.0 { step.to.alpha * rise.max(0.0).sqrt() * self.s_noise } else { 0.0 };
            let noise = if fresh > 0.0 { run.draw_noise() } else { Vec::new() };
            let next = combine([(step.to.alpha / at.alpha, jumped.as_slice()), (fresh, &noise)]);
            run.advance(i, next, &x0)?;
        }
        Ok(())
    }
}
