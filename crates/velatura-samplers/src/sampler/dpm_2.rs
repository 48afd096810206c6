//! DPM2.

use super::axis::{Axis, Churn, first_order, renoise, split};
use super::run::combine;
use super::{Halt, Run, Sampler};
use crate::{Grid, Level, Plan};

/// The midpoint method of k-diffusion's `sample_dpm_2`: a second look half way down in the logarithm of sigma (after
/// DPM-Solver-2, Lu et al. 2022, and algorithm 2 of Karras et al. 2022). The last step is Euler's.
#[derive(Debug, Clone, Copy)]
pub struct Dpm2 {
    /// Noise added before each step.
    pub churn: Churn,
}

/// DPM2 with fresh noise in every step.
#[derive(Debug, Clone, Copy)]
pub struct Dpm2Ancestral {
    /// Share of fresh noise, 0 to 1.
    pub eta: f64,
    /// Factor of the fresh noise.
    pub s_noise: f64,
}

/// One midpoint step to a level above 0. Gives the latent and the second prediction.
fn midpoint(
    run: &mut Run<'_>,
    index: usize,
    x: &[f32],
    x0: &[f32],
    from: Level,
    to: Level,
) -> Result<(Vec<f32>, Vec<f32>), Halt> {
    let axis = Axis::of(run.plan().path);
    let (s, t) = (axis.position(from), axis.position(to));
    let middle = axis.level((s * t).sqrt());
    let x_2 = first_order(x, x0, from, middle);
    let second = run.predict_x0_between(&x_2, index, middle)?;
    let scale_to = axis.scale(to);
    let weight = scale_to * (t - s) / axis.position(middle);
    let next =
        combine([(scale_to / axis.scale(from), x), (weight / axis.scale(middle), &x_2), (-weight, &second)]);
    Ok((next, second))
}

/// Two questions in each step but the last.
fn evaluations(plan: &Plan) -> usize {
    plan.steps.iter().map(|step| if step.to.sigma > 0.0 { 2 } else { 1 }).sum()
}

impl Sampler for Dpm2 {
    fn grid(&self) -> Grid {
        Grid::SigmasWithoutLast
    }

    fn evaluations(&self, plan: &Plan) -> usize {
        evaluations(plan)
    }

    fn sample(&self, run: &mut Run<'_>) -> Result<(), Halt> {
        for i in 0..run.steps() {
            let (x, from, x0) = self.churn.begin(run, i)?;
            let to = run.step(i).to;
            if to.sigma > 0.0 {
                let (next, second) = midpoint(run, i, &x, &x0, from, to)?;
                run.advance(i, next, &second)?;
            } else {
                run.advance(i, first_order(&x, &x0, from, to), &x0)?;
            }
        }
        Ok(())
    }
}

impl Sampler for Dpm2Ancestral {
    fn grid(&self) -> Grid {
        Grid::SigmasWithoutLast
    }

    fn evaluations(&self, plan: &Plan) -> usize {
        evaluations(plan)
    }

    fn sample(&self, run: &mut Run<'_>) -> Result<(), Halt> {
        for i in 0..run.steps() {
            let step = run.step(i);
            let x0 = run.predict_x0(i)?;
            if step.to.sigma <= 0.0 {
                let next = first_order(run.latent(), &x0, step.from, step.to);
                run.advance(i, next, &x0)?;
                continue;
            }
            let (down, up) = split(run.plan().path, step.from, step.to, self.eta);
            let x = run.latent().to_vec();
            let (lower, second) = midpoint(run, i, &x, &x0, step.from, down)?;
            let next = renoise(run, &lower, down, step.to, up, self.s_noise);
            run.advance(i, next, &second)?;
        }
        Ok(())
    }
}
