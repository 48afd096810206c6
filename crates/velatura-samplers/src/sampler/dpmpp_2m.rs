//! DPM-Solver++ (2M).

use super::run::combine;
use super::{Halt, Run, Sampler};
use crate::Grid;

/// Second-order multistep DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095, algorithm 2), midpoint form.
///
/// The first step and the last, which ends in the clean latent, are of first order.
#[derive(Debug, Clone, Copy, Default)]
pub struct DpmPp2m;

impl Sampler for DpmPp2m {
    fn grid(&self) -> Grid {
        Grid::Multistep
    }

    fn sample(&self, run: &mut Run<'_>) -> Result<(), Halt> {
        // Clean latent of the step before, and the width of that step in lambda.
        let mut before: Option<(Vec<f32>, f64)> = None;
        for i in 0..run.steps() {
            let step = run.step(i);
            let x0 = run.predict_x0(i)?;
            let width = step.to.lambda() - step.from.lambda();
            // Written with ratios instead of exp(-width), so that pure noise and the clean end are plain
            // numbers: alpha' (1 - exp(-width)) = alpha' - alpha sigma' / sigma.
            let keep = step.to.sigma / step.from.sigma;
            let toward = step.to.alpha - step.from.alpha * keep;
            let next = match &before {
                Some((last, last_width))
                    if width.is_finite() && last_width.is_finite() && *last_width > 0.0 =>
                {
                    // x0 + (x0 - last) / (2 r) with r = last_width / width.
                    let slope = 0.5 * width / last_width;
                    combine([(keep, run.latent()), (toward * (1.0 + slope), &x0), (-toward * slope, last)])
                }
                _ => combine([(keep, run.latent()), (toward, &x0)]),
            };
            run.advance(i, next, &x0)?;
            before = Some((x0, width));
        }
        Ok(())
    }
}
