//! Euler's method with fresh noise in every step.

use super::run::combine;
use super::{Halt, Run, Sampler};
use crate::{Grid, Level, Path};

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

impl EulerAncestral {
    /// The noise-to-signal ratio to step down to, and that of the fresh noise.
    fn split(&self, path: Path, from: Level, to: Level) -> (f64, f64) {
        let target = to.ratio();
        match path {
            Path::VariancePreserving => {
                let (s, t) = (from.ratio().powi(2), target.powi(2));
                let up = (self.eta * (t * (s - t) / s).max(0.0).sqrt()).min(target);
                ((t - up * up).max(0.0).sqrt(), up)
            }
            Path::Flow => {
                let time = to.sigma * (1.0 + (to.sigma / from.sigma - 1.0) * self.eta);
                let down = Level::from_flow_time(time).ratio();
                (down, (target * target - down * down).max(0.0).sqrt())
            }
        }
    }
}

impl Sampler for EulerAncestral {
    fn grid(&self) -> Grid {
        Grid::Sigmas
    }

    fn sample(&self, run: &mut Run<'_>) -> Result<(), Halt> {
        for i in 0..run.steps() {
            let step = run.step(i);
            let x0 = run.predict_x0(i)?;
            let (down, up) = self.split(run.plan().path, step.from, step.to);
            let keep = step.to.alpha * down / step.from.sigma;
            let toward = step.to.alpha - step.from.alpha * keep;
            let fresh = step.to.alpha * up * self.s_noise;
            let noise = if fresh > 0.0 { run.draw_noise() } else { Vec::new() };
            let next = combine([(keep, run.latent()), (toward, &x0), (fresh, &noise)]);
            run.advance(i, next, &x0)?;
        }
        Ok(())
    }
}
