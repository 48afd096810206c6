//! RES with multiple steps.

use super::axis::{Axis, renoise, split};
use super::run::combine;
use super::{Halt, Run, Sampler};
use crate::Grid;

/// The refined exponential solver of second order with multiple steps (Zhang et al. 2023, arXiv 2308.02157) as in
/// ComfyUI's `res_multistep`, its ancestral form, and both with CFG++ (Chung et al. 2024, arXiv 2406.08070).
#[derive(Debug, Clone, Copy)]
pub struct ResMultistep {
    /// Share of fresh noise, 0 to 1.
    pub eta: f64,
    /// Factor of the fresh noise.
    pub s_noise: f64,
    /// Noise from the answer without the prompt.
    pub cfg_pp: bool,
}

impl Sampler for ResMultistep {
    fn grid(&self) -> Grid {
        Grid::Sigmas
    }

    fn follows_unguided(&self) -> bool {
        self.cfg_pp
    }

    fn sample(&self, run: &mut Run<'_>) -> Result<(), Halt> {
        let path = run.plan().path;
        let axis = Axis::of(path);
        // The prediction of the step before, where that step began and where it stepped down to.
        let mut before: Option<(Vec<f32>, f64, f64)> = None;
        for i in 0..run.steps() {
            let step = run.step(i);
            let both = run.predict_both(i)?;
            // What is extrapolated, and what guidance adds to it.
            let x0 = if self.cfg_pp { both.unguided() } else { &both.x0 };
            let guide = if self.cfg_pp { 1.0 } else { 0.0 };
            let (down, up) = split(path, step.from, step.to, self.eta);
            let (s, t) = (axis.position(step.from), axis.position(down));
            let (scale, scale_to) = (axis.scale(step.from), axis.scale(down));
            let lower = match &before {
                Some((last, s_before, down_before)) if t > 0.0 => {
                    let h = (s / t).ln();
                    let c2 = (down_before / s_before).ln() / h;
                    let phi_1 = (-h).exp_m1() / -h;
                    let phi_2 = (phi_1 - 1.0) / -h;
                    // Equal places of both predictions leave nothing to extrapolate.
                    let (b1, b2) = if c2 == 0.0 { (0.0, 0.0) } else { (phi_1 - phi_2 / c2, phi_2 / c2) };
                    let keep = scale_to * (-h).exp();
                    combine([
                        (keep / scale, run.latent()),
                        (keep * guide, &both.x0),
                        (scale_to * h * b1 - keep * guide, x0),
                        (scale_to * h * b2, last),
                    ])
                }
                // Euler's method; with CFG++ the clean part is the guided one.
                _ => combine([
                    (scale_to * t / (s * scale), run.latent()),
                    (scale_to * guide, &both.x0),
                    (scale_to * (1.0 - guide) - scale_to * t / s, x0),
                ]),
            };
            let next = renoise(run, &lower, down, step.to, up, self.s_noise);
            run.advance(i, next, &both.x0)?;
            let x0 = if self.cfg_pp { both.unguided.unwrap_or(both.x0) } else { both.x0 };
            before = Some((x0, s, t));
        }
        Ok(())
    }
}
