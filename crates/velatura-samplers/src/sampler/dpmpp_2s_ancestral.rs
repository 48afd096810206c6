//! DPM-Solver++ (2S) with fresh noise.

use super::axis::{Axis, first_order, renoise, split};
use super::{Halt, Run, Sampler};
use crate::{Grid, Level, Path, Plan};

/// Second-order single-step DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095, algorithm 1) with ancestral noise, as in
/// k-diffusion; on the straight path as in ComfyUI.
#[derive(Debug, Clone, Copy)]
pub struct DpmPp2sAncestral {
    /// Share of fresh noise, 0 to 1.
    pub eta: f64,
    /// Factor of the fresh noise.
    pub s_noise: f64,
}

/// Half way between two levels in lambda.
pub(super) fn half_way(path: Path, from: Level, to: Level) -> Level {
    if from.alpha <= 0.0 {
        // ComfyUI's answer to pure noise, where lambda is infinite.
        return Level::from_flow_time(0.9999);
    }
    Axis::of(path).level_of_lambda(0.5 * (from.lambda() + to.lambda()))
}

impl Sampler for DpmPp2sAncestral {
    fn grid(&self) -> Grid {
        Grid::Sigmas
    }

    fn evaluations(&self, plan: &Plan) -> usize {
        let two = |step: &&crate::Step| split(plan.path, step.from, step.to, self.eta).0.sigma > 0.0;
        plan.len() + plan.steps.iter().filter(two).count()
    }

    fn sample(&self, run: &mut Run<'_>) -> Result<(), Halt> {
        let path = run.plan().path;
        for i in 0..run.steps() {
            let step = run.step(i);
            let mut x0 = run.predict_x0(i)?;
            let (down, up) = split(path, step.from, step.to, self.eta);
            if down.sigma > 0.0 {
                let middle = half_way(path, step.from, down);
                let x_2 = first_order(run.latent(), &x0, step.from, middle);
                x0 = run.predict_x0_between(&x_2, i, middle)?;
            }
            let lower = first_order(run.latent(), &x0, step.from, down);
            let next = renoise(run, &lower, down, step.to, up, self.s_noise);
            run.advance(i, next, &x0)?;
        }
        Ok(())
    }
}
