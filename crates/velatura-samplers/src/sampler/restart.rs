//! Restart.

use super::axis::{Axis, first_order};
use super::heun::heun_step;
use super::run::combine;
use super::{Halt, Run, Sampler};
use crate::spacing::karras;
use crate::{Grid, Level, Plan};

/// Restart sampling (Xu et al. 2023, arXiv 2306.14878) as in A1111: Heun's method that from the noise-to-signal ratio
/// 0.1 goes back up to 2 with fresh noise, once from 20 steps on, twice from 36 on.
///
/// From 20 steps on the way is laid out anew by the karras formula between the plan's ends, so that the number of
/// steps stays what was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Restart {
    /// Factor of the fresh noise.
    pub s_noise: f64,
}

/// Where to go back up, and how far, as noise-to-signal ratios.
const LOWER: f64 = 0.1;
/// As [`LOWER`].
const UPPER: f64 = 2.0;

/// Index of the level nearest to a ratio; the first of equals.
fn nearest(levels: &[Level], ratio: f64) -> usize {
    let distance = |level: &Level| (level.ratio() - ratio).abs();
    let better = |a: usize, b: usize| if distance(&levels[b]) < distance(&levels[a]) { b } else { a };
    (0..levels.len()).reduce(better).unwrap_or(0)
}

/// The steps to take.
fn steps(plan: &Plan) -> Vec<(Level, Level)> {
    let axis = Axis::of(plan.path);
    let count = plan.len();
    let mut levels: Vec<Level> = plan.steps.iter().map(|step| step.from).collect();
    let (inner, times) = match count {
        0..20 => (0, 0),
        20..36 => (9, 1),
        _ => (count / 4, 2),
    };
    if times > 0 {
        let end = |level: Option<&Level>| axis.position(level.copied().unwrap_or(Level::CLEAN));
        let sigmas = karras(end(levels.first()), end(levels.last()), count - inner * times);
        levels = sigmas.into_iter().map(|s| axis.level(s)).collect();
    }
    levels.push(Level::CLEAN);
    let mut steps: Vec<(Level, Level)> = levels.windows(2).map(|pair| (pair[0], pair[1])).collect();
    let (low, high) = (nearest(&levels, LOWER), nearest(&levels, UPPER));
    if times > 0 && high < low {
        let sigmas = karras(axis.position(levels[high]), axis.position(levels[low]), inner + 1);
        let again: Vec<Level> = sigmas.into_iter().map(|s| axis.level(s)).collect();
        let once: Vec<(Level, Level)> = again.windows(2).map(|pair| (pair[0], pair[1])).collect();
        let rest = steps.split_off(low);
        for _ in 0..times {
            steps.extend_from_slice(&once);
        }
        steps.extend(rest);
    }
    steps
}

impl Sampler for Restart {
    fn grid(&self) -> Grid {
        Grid::Sigmas
    }

    fn evaluations(&self, plan: &Plan) -> usize {
        steps(plan).iter().map(|(_, to)| if to.sigma > 0.0 { 2 } else { 1 }).sum()
    }

    fn sample(&self, run: &mut Run<'_>) -> Result<(), Halt> {
        let steps = steps(run.plan());
        let mut at = run.step(0).from;
        for (i, &(from, to)) in steps.iter().enumerate() {
            let index = i.min(run.steps() - 1);
            let mut x = run.latent().to_vec();
            if from.ratio() > at.ratio() {
                let noise = run.draw_noise();
                let rise = (from.ratio().powi(2) - at.ratio().powi(2)).sqrt();
                x = combine([
                    (from.alpha / at.alpha, x.as_slice()),
                    (from.alpha * rise * self.s_noise, &noise),
                ]);
            }
            let x0 = run.predict_x0_between(&x, index, from)?;
            let (next, x0) = if to.sigma > 0.0 {
                let timestep = run.plan().timestep(to);
                heun_step(run, index, &x, &x0, from, to, timestep)?
            } else {
                (first_order(&x, &x0, from, to), x0)
            };
            let done = if i + 1 == steps.len() { run.steps() } else { (i + 1).min(run.steps() - 1) };
            run.advance_to(done, to, next, &x0)?;
            at = to;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NoiseSchedule, PlanRequest, Spacing};

    #[test]
    fn the_number_of_steps_is_kept_and_the_way_leads_up_again() {
        for schedule in [NoiseSchedule::default(), NoiseSchedule::rectified_flow(3.0)] {
            let table = schedule.table().unwrap();
            for count in [1, 2, 19, 20, 35, 36, 60] {
                let plan =
                    Plan::new(&table, Grid::Sigmas, &PlanRequest::new(count, Spacing::Karras)).unwrap();
                let steps = steps(&plan);
                assert_eq!(steps.len(), count);
                let rises =
                    steps.windows(2).filter(|pair| pair[1].0.ratio() > pair[0].1.ratio() * 1.001).count();
                assert_eq!(
                    rises,
                    if count < 20 {
                        0
                    } else if count < 36 {
                        1
                    } else {
                        2
                    }
                );
                assert!(steps.iter().all(|(from, to)| from.ratio() > to.ratio()));
            }
        }
    }
}
