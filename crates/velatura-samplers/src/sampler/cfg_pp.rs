//! CFG++: the clean latent from the guided answer, the noise from the one without the prompt.

use super::axis::{Axis, renoise, split, split_ratio};
use super::dpmpp_2s_ancestral::half_way;
use super::run::combine;
use super::{Halt, Run, Sampler};
use crate::{Grid, Level, Plan};

/// Euler's method with CFG++ (Chung et al. 2024, arXiv 2406.08070, algorithm 2), with fresh noise where `eta` is
/// above 0: ComfyUI's `euler_cfg_pp` and `euler_ancestral_cfg_pp`. Guidance scales of 1 to 2 are usual.
#[derive(Debug, Clone, Copy)]
pub struct EulerCfgPp {
    /// Share of fresh noise, 0 to 1.
    pub eta: f64,
    /// Factor of the fresh noise.
    pub s_noise: f64,
}

/// DPM-Solver++ (2M) with CFG++: ComfyUI's `dpmpp_2m_cfg_pp`.
#[derive(Debug, Clone, Copy, Default)]
pub struct DpmPp2mCfgPp;

/// DPM-Solver++ (2S) with ancestral noise and CFG++: ComfyUI's `dpmpp_2s_ancestral_cfg_pp`.
#[derive(Debug, Clone, Copy)]
pub struct DpmPp2sAncestralCfgPp {
    /// Share of fresh noise, 0 to 1.
    pub eta: f64,
    /// Factor of the fresh noise.
    pub s_noise: f64,
}

impl Sampler for EulerCfgPp {
    fn grid(&self) -> Grid {
        Grid::Sigmas
    }

    fn follows_unguided(&self) -> bool {
        true
    }

    fn sample(&self, run: &mut Run<'_>) -> Result<(), Halt> {
        for i in 0..run.steps() {
            let step = run.step(i);
            let (from, to) = (step.from, step.to);
            let both = run.predict_both(i)?;
            let (down, up) = split_ratio(from.ratio(), to.ratio(), self.eta);
            let keep = to.alpha * down / from.sigma;
            let fresh = to.alpha * up * self.s_noise;
            let noise = if fresh > 0.0 { run.draw_noise() } else { Vec::new() };
            let next = combine([
                (keep, run.latent()),
                (to.alpha, &both.x0),
                (-from.alpha * keep, both.unguided()),
                (fresh, &noise),
            ]);
            run.advance(i, next, &both.x0)?;
        }
        Ok(())
    }
}

impl Sampler for DpmPp2mCfgPp {
    fn grid(&self) -> Grid {
        Grid::Sigmas
    }

    fn follows_unguided(&self) -> bool {
        true
    }

    fn sample(&self, run: &mut Run<'_>) -> Result<(), Halt> {
        let axis = Axis::of(run.plan().path);
        // The answer without the prompt of the step before, and the position where that began.
        let mut before: Option<(Vec<f32>, f64)> = None;
        for i in 0..run.steps() {
            let step = run.step(i);
            let both = run.predict_both(i)?;
            let (s, t) = (axis.position(step.from), axis.position(step.to));
            let (scale, scale_to) = (axis.scale(step.from), axis.scale(step.to));
            let keep = t / s;
            let (last, slope) = match &before {
                Some((last, s_before)) if t > 0.0 => {
                    let ratio = (s / t).ln() / (s_before / s).ln();
                    (last.as_slice(), 0.5 * (1.0 - keep) * ratio)
                }
                _ => (both.x0.as_slice(), 0.0),
            };
            let next = combine([
                (scale_to * keep / scale, run.latent()),
                (scale_to * (1.0 + slope), &both.x0),
                (-scale_to * keep, both.unguided()),
                (-scale_to * slope, last),
            ]);
            run.advance(i, next, &both.x0)?;
            before = Some((both.unguided.unwrap_or(both.x0), s));
        }
        Ok(())
    }
}

impl Sampler for DpmPp2sAncestralCfgPp {
    fn grid(&self) -> Grid {
        Grid::Sigmas
    }

    fn follows_unguided(&self) -> bool {
        true
    }

    fn evaluations(&self, plan: &Plan) -> usize {
        let two = |step: &&crate::Step| split(plan.path, step.from, step.to, self.eta).0.sigma > 0.0;
        plan.len() + plan.steps.iter().filter(two).count()
    }

    fn sample(&self, run: &mut Run<'_>) -> Result<(), Halt> {
        let path = run.plan().path;
        for i in 0..run.steps() {
            let step = run.step(i);
            let first = run.predict_both(i)?;
            let (down, up) = split(path, step.from, step.to, self.eta);
            let axis = Axis::of(path);
            // A step of first order to `at`, from the latent pushed along the guidance.
            let pushed = |run: &Run<'_>, at: Level, x0: &[f32], unguided: &[f32]| {
                let keep = axis.scale(at) * axis.position(at) / axis.position(step.from);
                combine([
                    (keep / axis.scale(step.from), run.latent()),
                    (keep, &first.x0),
                    (-keep, unguided),
                    (axis.scale(at) - keep, x0),
                ])
            };
            let lower = if down.sigma > 0.0 {
                let middle = half_way(path, step.from, down);
                let x_2 = pushed(run, middle, &first.x0, first.unguided());
                let second = run.predict_both_between(&x_2, i, middle)?;
                pushed(run, down, &second.x0, second.unguided())
            } else {
                first.x0.clone()
            };
            let next = renoise(run, &lower, down, step.to, up, self.s_noise);
            run.advance(i, next, &first.x0)?;
        }
        Ok(())
    }
}
