//! ER-SDE.

use super::axis::{first_order, signal_start};
use super::run::combine;
use super::{Halt, Run, Sampler};
use crate::Grid;

/// The extended reverse-time stochastic solver of third order (Cui et al. 2023, arXiv 2309.06169) with the authors'
/// noise scale, as in ComfyUI's `er_sde`.
#[derive(Debug, Clone, Copy)]
pub struct ErSde {
    /// Factor of the fresh noise; 0 is deterministic.
    pub s_noise: f64,
}

/// The authors' choice of how much the noise counts at a noise-to-signal ratio.
fn noise_scale(ratio: f64) -> f64 {
    ratio * (ratio.powf(0.3).exp() + 10.0)
}

/// Integrals over the step of `1 / noise_scale` and of `(ratio - start) / noise_scale`, as the sums of 200 terms that
/// the authors take.
fn integrals(start: f64, end: f64) -> (f64, f64) {
    const POINTS: u32 = 200;
    let width = (start - end) / f64::from(POINTS);
    (0..POINTS).fold((0.0, 0.0), |(plain, linear), k| {
        let at = end + f64::from(k) * width;
        let part = width / noise_scale(at);
        (plain + part, linear + (at - start) * part)
    })
}

/// What the next step needs of a step.
struct Before {
    x0: Vec<f32>,
    /// First difference of the clean predictions.
    first: Option<Vec<f32>>,
    /// Ratio at which it began.
    ratio: f64,
    /// Ratio at which the step before it began.
    further: f64,
}

impl Sampler for ErSde {
    fn grid(&self) -> Grid {
        Grid::Sigmas
    }

    fn sample(&self, run: &mut Run<'_>) -> Result<(), Halt> {
        let mut before: Option<Before> = None;
        for i in 0..run.steps() {
            let to = run.step(i).to;
            let (timestep, from) = signal_start(run, i);
            let x0 = run.predict_here(i, timestep, from)?;
            if to.sigma <= 0.0 {
                let next = first_order(run.latent(), &x0, from, to);
                run.advance(i, next, &x0)?;
                continue;
            }
            let (start, end) = (from.ratio(), to.ratio());
            let shrink = noise_scale(end) / noise_scale(start);
            let width = end - start;
            let (plain, linear) = integrals(start, end);
            let first_weight = to.alpha * (width + plain * noise_scale(end));
            let second_weight = to.alpha * (0.5 * width * width + linear * noise_scale(end));
            let mut first = Vec::new();
            let mut second = Vec::new();
            let mut older = f64::NAN;
            if let Some(last) = &before {
                let inverse = 1.0 / (start - last.ratio);
                first = combine([(inverse, x0.as_slice()), (-inverse, &last.x0)]);
                older = last.ratio;
                if let Some(last_first) = &last.first {
                    let inverse = 2.0 / (start - last.further);
                    second = combine([(inverse, first.as_slice()), (-inverse, last_first)]);
                }
            }
            let rise = end * end - start * start * shrink * shrink;
            let fresh = to.alpha * self.s_noise * rise.max(0.0).sqrt();
            let noise = if fresh > 0.0 { run.draw_noise() } else { Vec::new() };
            let on = |vector: &Vec<f32>, weight: f64| if vector.is_empty() { 0.0 } else { weight };
            let next = combine([
                (to.alpha / from.alpha * shrink, run.latent()),
                (to.alpha * (1.0 - shrink), &x0),
                (on(&first, first_weight), &first),
                (on(&second, second_weight), &second),
                (fresh, &noise),
            ]);
            run.advance(i, next, &x0)?;
            let first = (!first.is_empty()).then_some(first);
            before = Some(Before { x0, first, ratio: start, further: older });
        }
        Ok(())
    }
}
