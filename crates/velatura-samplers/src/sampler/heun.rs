//! Heun's method.

use super::axis::{Axis, Churn, first_order};
use super::run::combine;
use super::{Halt, Run, Sampler};
use crate::{Grid, Level, Plan};

/// Heun's second-order method (Karras et al. 2022, algorithm 2): an Euler step, a second look at its end, and the
/// mean of the two directions. The last step is Euler's.
#[derive(Debug, Clone, Copy)]
pub struct Heun {
    /// Noise added before each step.
    pub churn: Churn,
}

/// One step of the method from a level to another, which is above 0. Gives the latent and the second prediction.
pub(super) fn heun_step(
    run: &mut Run<'_>,
    index: usize,
    x: &[f32],
    x0: &[f32],
    from: Level,
    to: Level,
    timestep: f32,
) -> Result<(Vec<f32>, Vec<f32>), Halt> {
    let axis = Axis::of(run.plan().path);
    let euler = first_order(x, x0, from, to);
    let second = run.predict_x0_at(&euler, index, timestep, to)?;
    let (s, t) = (axis.position(from), axis.position(to));
    let (scale, scale_to) = (axis.scale(from), axis.scale(to));
    let half = 0.5 * (t - s);
    let next = combine([
        (scale_to / scale * (1.0 + half / s), x),
        (-scale_to * half / s, x0),
        (half / t, &euler),
        (-scale_to * half / t, &second),
    ]);
    Ok((next, second))
}

impl Sampler for Heun {
    fn grid(&self) -> Grid {
        Grid::Sigmas
    }

    fn evaluations(&self, plan: &Plan) -> usize {
        2 * plan.len() - 1
    }

    fn sample(&self, run: &mut Run<'_>) -> Result<(), Halt> {
        for i in 0..run.steps() {
            let (x, from, x0) = self.churn.begin(run, i)?;
            let to = run.step(i).to;
            if i + 1 == run.steps() {
                run.advance(i, first_order(&x, &x0, from, to), &x0)?;
                continue;
            }
            let timestep = run.step(i + 1).timestep;
            let (next, second) = heun_step(run, i, &x, &x0, from, to, timestep)?;
            run.advance(i, next, &second)?;
        }
        Ok(())
    }
}
