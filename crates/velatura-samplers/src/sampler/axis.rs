//! The coordinates in which samplers of k-diffusion are written, and the moves that they share.

use super::Run;
use super::run::combine;
use crate::{Level, Path};

/// Coordinates `z = x / scale` against a position `s` in which the probability-flow equation is
/// `dz/ds = (z - x0) / s` (Karras et al. 2022, equation 3, for a perfect schedule).
///
/// On the variance-preserving path `s` is the noise-to-signal ratio and `z = x / alpha`; on the straight path
/// `s` is the time and `z = x`. In both, `s` is what k-diffusion and ComfyUI call sigma.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    path: Path,
}

impl Axis {
    /// The coordinates of a path.
    pub fn of(path: Path) -> Self {
        Axis { path }
    }

    /// Position of a level.
    pub fn position(self, at: Level) -> f64 {
        match self.path {
            Path::VariancePreserving => at.ratio(),
            Path::Flow => at.sigma,
        }
    }

    /// Factor from `z` to the latent.
    pub fn scale(self, at: Level) -> f64 {
        match self.path {
            Path::VariancePreserving => at.alpha,
            Path::Flow => 1.0,
        }
    }

    /// Level at a position.
    pub fn level(self, position: f64) -> Level {
        match self.path {
            Path::VariancePreserving => Level::from_ratio(position),
            Path::Flow => Level::from_flow_time(position),
        }
    }

    /// Level with a logarithm of `alpha / sigma`.
    pub fn level_of_lambda(self, lambda: f64) -> Level {
        match self.path {
            Path::VariancePreserving => Level::from_ratio((-lambda).exp()),
            Path::Flow => Level::from_flow_time(1.0 / (1.0 + lambda.exp())),
        }
    }

    /// The direction `dz/ds` at a level, from the latent and its clean prediction.
    pub fn slope(self, x: &[f32], x0: &[f32], at: Level) -> Vec<f32> {
        let s = self.position(at);
        combine([(1.0 / (s * self.scale(at)), x), (-1.0 / s, x0)])
    }
}

/// The latent after a step of first order: the direction to the noise is kept. Euler's method on either path, DDIM,
/// and the first-order DPM-Solver are all this.
pub(super) fn first_order(x: &[f32], x0: &[f32], from: Level, to: Level) -> Vec<f32> {
    let keep = to.sigma / from.sigma;
    combine([(keep, x), (to.alpha - from.alpha * keep, x0)])
}

/// The ratio to step down to, and that of the fresh noise which leads up again (k-diffusion's
/// `get_ancestral_step`).
pub(super) fn split_ratio(from: f64, to: f64, eta: f64) -> (f64, f64) {
    let (s, t) = (from * from, to * to);
    // An infinite ratio keeps nothing; the quotient (s - t) / s is then 1.
    let share = if s.is_finite() { (s - t) / s } else { 1.0 };
    let up = (eta * (t * share).max(0.0).sqrt()).min(to);
    ((t - up * up).max(0.0).sqrt(), up)
}

/// The level below `to` to step down to, and the ratio of the fresh noise which leads up to `to` again.
///
/// On the straight path the lower point is chosen along the time, as ComfyUI does for rectified flow.
pub(super) fn split(path: Path, from: Level, to: Level, eta: f64) -> (Level, f64) {
    match path {
        Path::VariancePreserving => {
            let (down, up) = split_ratio(from.ratio(), to.ratio(), eta);
            (Level::from_ratio(down), up)
        }
        Path::Flow => {
            let down = Level::from_flow_time(to.sigma * (1.0 + (to.sigma / from.sigma - 1.0) * eta));
            let (target, reached) = (to.ratio(), down.ratio());
            (down, (target * target - reached * reached).max(0.0).sqrt())
        }
    }
}

/// Raises a latent at level `down` to level `to` with fresh noise of the ratio `up`.
pub(super) fn renoise(
    run: &mut Run<'_>,
    x: &[f32],
    down: Level,
    to: Level,
    up: f64,
    s_noise: f64,
) -> Vec<f32> {
    let fresh = to.alpha * up * s_noise;
    let noise = if fresh > 0.0 { run.draw_noise() } else { Vec::new() };
    combine([(to.alpha / down.alpha, x), (fresh, &noise)])
}

/// Where step `index` begins for samplers that divide by the signal: on the straight path pure noise is replaced by
/// the point after a ten-thousandth of the way, as ComfyUI does. Gives what the network is told, and the level.
pub(super) fn signal_start(run: &Run<'_>, index: usize) -> (f32, Level) {
    let step = run.step(index);
    if run.plan().path == Path::Flow && step.from.alpha <= 0.0 {
        let level = Level::from_flow_time(run.plan().table.shift_time(1.0 - 1e-4));
        return (run.plan().timestep(level), level);
    }
    (step.timestep, step.from)
}

/// Raising the noise before each step (Karras et al. 2022, algorithm 2).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Churn {
    /// Amount, spread over all steps; 0 is off.
    pub amount: f64,
    /// Lowest sigma at which it is done.
    pub min: f64,
    /// Highest sigma at which it is done.
    pub max: f64,
    /// Factor of the noise.
    pub s_noise: f64,
}

impl Churn {
    /// Raises the noise before step `index` where the settings say so. Gives the latent to start from when it was
    /// raised, and its level.
    ///
    /// The rise is one of the noise-to-signal ratio, on the straight path too, so the signal keeps its share.
    pub(super) fn raise(&self, run: &mut Run<'_>, index: usize) -> (Option<Vec<f32>>, Level) {
        let from = run.step(index).from;
        let sigma = Axis::of(run.plan().path).position(from);
        let gamma = (self.amount / run.steps() as f64).min(std::f64::consts::SQRT_2 - 1.0);
        let applies = gamma > 0.0 && (self.min..=self.max).contains(&sigma) && from.ratio().is_finite();
        if !applies {
            return (None, from);
        }
        let (ratio, raised) = (from.ratio(), from.ratio() * (1.0 + gamma));
        let level = match run.plan().path {
            Path::VariancePreserving => Level::from_ratio(raised),
            Path::Flow => Level::from_flow_time(raised / (1.0 + raised)),
        };
        let fresh = level.alpha * self.s_noise * (raised * raised - ratio * ratio).sqrt();
        let noise = run.draw_noise();
        (Some(combine([(level.alpha / from.alpha, run.latent()), (fresh, &noise)])), level)
    }

    /// Raises the noise before step `index` and asks the network there. Gives the latent, its level and the clean
    /// prediction.
    pub(super) fn begin(
        &self,
        run: &mut Run<'_>,
        index: usize,
    ) -> Result<(Vec<f32>, Level, Vec<f32>), super::Halt> {
        match self.raise(run, index) {
            (Some(x), from) => {
                let x0 = run.predict_x0_between(&x, index, from)?;
                Ok((x, from, x0))
            }
            (None, from) => {
                let x0 = run.predict_x0(index)?;
                Ok((run.latent().to_vec(), from, x0))
            }
        }
    }
}
