//! Pseudo-numerical methods.

use super::axis::first_order;
use super::lms::equal_step_weights;
use super::run::{combine, weighted_sum};
use super::{Halt, Run, Sampler};
use crate::{Grid, Level, Plan, Prediction};

/// Pseudo-numerical methods on manifolds (Liu et al. 2022, arXiv 2202.09778): DDIM's transfer with the answer
/// of the network extrapolated from the last four steps.
#[derive(Debug, Clone, Copy)]
pub struct Pndm {
    /// Begin with three steps of Runge and Kutta (the paper's PNDM) instead of one of Heun (PLMS, diffusers'
    /// `skip_prk_steps`, which Stable Diffusion was released with).
    pub runge_kutta: bool,
}

/// What the network said, in its own kind of prediction. diffusers mixes the answers of several steps in that kind and
/// reads the mixture as noise where the step begins, which for v predictions is not the same as mixing noises.
fn said(run: &Run<'_>, x: &[f32], x0: &[f32], at: Level) -> Vec<f32> {
    Prediction::Sample.convert(run.plan().prediction, x, x0, at)
}

/// The paper's transfer, equation 11: where the latent goes if the network says `answer`.
fn transfer(run: &Run<'_>, x: &[f32], answer: &[f32], from: Level, to: Level) -> Vec<f32> {
    let x0 = run.plan().prediction.x0(x, answer, from);
    first_order(x, &x0, from, to)
}

impl Pndm {
    /// How many steps of Runge and Kutta a run begins with; their ends must be above 0.
    fn long_steps(&self, steps: usize) -> usize {
        if self.runge_kutta { 3.min(steps - 1) } else { 0 }
    }

    /// The answer of the classical Runge-Kutta step, and that of its beginning.
    fn runge_kutta(run: &mut Run<'_>, i: usize, x0: &[f32]) -> Result<(Vec<f32>, Vec<f32>), Halt> {
        let (step, next) = (run.step(i), run.step(i + 1));
        let (from, to) = (step.from, step.to);
        let t_middle = (0.5 * (step.timestep + next.timestep)).floor();
        let middle = run.plan().level_at(f64::from(t_middle));
        let x = run.latent().to_vec();
        let first = said(run, &x, x0, from);
        let mut ask = |before: &[f32], timestep: f32, at: Level| -> Result<Vec<f32>, Halt> {
            let there = transfer(run, &x, before, from, at);
            let x0 = run.predict_x0_at(&there, i, timestep, at)?;
            Ok(said(run, &there, &x0, at))
        };
        let second = ask(&first, t_middle, middle)?;
        let third = ask(&second, t_middle, middle)?;
        let fourth = ask(&third, next.timestep, to)?;
        let mean =
            combine([(1.0 / 6.0, &first), (1.0 / 3.0, &second), (1.0 / 3.0, &third), (1.0 / 6.0, &fourth)]);
        Ok((mean, first))
    }
}

impl Sampler for Pndm {
    fn grid(&self) -> Grid {
        Grid::FixedStride
    }

    fn evaluations(&self, plan: &Plan) -> usize {
        let pure_noise = plan.steps.first().is_some_and(|step| step.from.alpha <= 0.0);
        let extra = match self.long_steps(plan.len()) {
            0 => usize::from(plan.len() > 1 && !pure_noise),
            long => 3 * (long - usize::from(pure_noise)),
        };
        plan.len() + extra
    }

    fn sample(&self, run: &mut Run<'_>) -> Result<(), Halt> {
        let long = self.long_steps(run.steps());
        // Latest first.
        let mut past: Vec<Vec<f32>> = Vec::new();
        for i in 0..run.steps() {
            let step = run.step(i);
            let (from, to) = (step.from, step.to);
            let x0 = run.predict_x0(i)?;
            if from.alpha <= 0.0 {
                // Pure noise has no clean part to be told apart from the noise: a step of first order.
                past.insert(0, said(run, run.latent(), &x0, from));
                let next = first_order(run.latent(), &x0, from, to);
                run.advance(i, next, &x0)?;
                continue;
            }
            let answer = if i < long {
                let (mean, first) = Self::runge_kutta(run, i, &x0)?;
                past.insert(0, first);
                mean
            } else {
                let now = said(run, run.latent(), &x0, from);
                past.insert(0, now);
                past.truncate(4);
                if i == 0 && run.steps() > 1 {
                    let ahead = transfer(run, run.latent(), &past[0], from, to);
                    let second = run.predict_x0_at(&ahead, i, run.step(1).timestep, to)?;
                    combine([(0.5, &past[0]), (0.5, &said(run, &ahead, &second, to))])
                } else {
                    let weights = equal_step_weights(past.len());
                    let terms: Vec<_> = weights.iter().copied().zip(past.iter().map(Vec::as_slice)).collect();
                    weighted_sum(&terms)
                }
            };
            let next = transfer(run, run.latent(), &answer, from, to);
            run.advance(i, next, &x0)?;
        }
        Ok(())
    }
}
