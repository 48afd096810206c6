//! DEIS.

use super::axis::first_order;
use super::run::combine;
use super::unipc::short_of_noise;
use super::{Halt, Run, Sampler};
use crate::{Grid, Level};

/// The diffusion exponential integrator of second order (Zhang and Chen 2022, arXiv 2204.13902, "log-rho" polynomial)
/// as in diffusers: the line in the logarithm of the noise-to-signal ratio through the last two noises, integrated.
///
/// The first step is of first order, and so is the last of a run of fewer than 15. As in diffusers the run ends at
/// the lowest noise level of its schedule, not at 0.
#[derive(Debug, Clone, Copy, Default)]
pub struct Deis;

/// Integral from `from` to `to` of the line that is 1 at `one` and 0 at `zero`, over the logarithm of the ratio.
fn weight(from: f64, to: f64, one: f64, zero: f64) -> f64 {
    let primitive = |r: f64| r * (r.ln() - zero.ln() - 1.0) / (one.ln() - zero.ln());
    primitive(to) - primitive(from)
}

impl Sampler for Deis {
    fn grid(&self) -> Grid {
        Grid::MultistepOpen
    }

    fn sample(&self, run: &mut Run<'_>) -> Result<(), Halt> {
        let path = run.plan().path;
        let mut before: Option<(Vec<f32>, Level)> = None;
        for i in 0..run.steps() {
            let to = run.step(i).to;
            let from = short_of_noise(path, run.step(i).from);
            let x0 = run.predict_x0(i)?;
            let eps = combine([(1.0 / from.sigma, run.latent()), (-from.alpha / from.sigma, &x0)]);
            let short_end = i + 1 == run.steps() && run.steps() < 15;
            let next = match &before {
                Some((last, last_level)) if to.sigma > 0.0 && !short_end => {
                    let (r, r_last) = (from.ratio(), last_level.ratio());
                    combine([
                        (to.alpha / from.alpha, run.latent()),
                        (to.alpha * weight(r, to.ratio(), r, r_last), &eps),
                        (to.alpha * weight(r, to.ratio(), r_last, r), last),
                    ])
                }
                _ => first_order(run.latent(), &x0, from, to),
            };
            run.advance(i, next, &x0)?;
            before = Some((eps, from));
        }
        Ok(())
    }
}
