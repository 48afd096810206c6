//! Heun's method.

use super::run::combine;
use super::{Halt, Run, Sampler};
use crate::{Grid, Level, Path, Plan};

/// Heun's second-order method (Karras et al. 2022, algorithm 1 without churn): an Euler step, a second
/// look at its end, and the mean of the two directions. The last step is Euler's.
#[derive(Debug, Clone, Copy, Default)]
pub struct Heun;

/// Coefficients `(of x, of x0)` of the direction of the path.
///
/// On the variance-preserving path the variable is `x / alpha` against `sigma / alpha`, whose slope is the
/// noise; on the straight path it is `x` against the time, whose slope is `noise - x0`.
fn slope(path: Path, at: Level) -> (f64, f64) {
    let (noise_x, noise_x0) = (1.0 / at.sigma, -at.alpha / at.sigma);
    match path {
        Path::VariancePreserving => (noise_x, noise_x0),
        Path::Flow => (noise_x, noise_x0 - 1.0),
    }
}

impl Sampler for Heun {
    fn grid(&self) -> Grid {
        Grid::Sigmas
    }

    fn evaluations(&self, plan: &Plan) -> usize {
        2 * plan.len() - 1
    }

    fn sample(&self, run: &mut Run<'_>) -> Result<(), Halt> {
        let path = run.plan().path;
        for i in 0..run.steps() {
            let step = run.step(i);
            let (from, to) = (step.from, step.to);
            let x0 = run.predict_x0(i)?;
            let keep = to.sigma / from.sigma;
            let euler = combine([(keep, run.latent()), (to.alpha - from.alpha * keep, &x0)]);
            if i + 1 == run.steps() {
                run.advance(i, euler, &x0)?;
                continue;
            }
            let second = run.predict_x0_at(&euler, i, run.step(i + 1).timestep, to)?;
            let (scale, width, base) = match path {
                Path::VariancePreserving => (to.alpha, to.ratio() - from.ratio(), to.alpha / from.alpha),
                Path::Flow => (1.0, to.sigma - from.sigma, 1.0),
            };
            let half = 0.5 * scale * width;
            let (first_x, first_x0) = slope(path, from);
            let (second_x, second_x0) = slope(path, to);
            let next = combine([
                (base + half * first_x, run.latent()),
                (half * first_x0, &x0),
                (half * second_x, &euler),
                (half * second_x0, &second),
            ]);
            run.advance(i, next, &second)?;
        }
        Ok(())
    }
}
