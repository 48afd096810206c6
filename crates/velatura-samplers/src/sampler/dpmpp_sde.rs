//! DPM-Solver++ on the reverse-time stochastic equation: one, two and three looks back.

use super::axis::{Axis, first_order, signal_start, split_ratio};
use super::run::combine;
use super::{Halt, Run, Sampler};
use crate::{Grid, Level, Path, Plan};

/// Single-step stochastic DPM-Solver++ of second order: k-diffusion's `sample_dpmpp_sde` with its midpoint.
#[derive(Debug, Clone, Copy)]
pub struct DpmPpSde {
    /// Share of fresh noise, 0 to 1.
    pub eta: f64,
    /// Factor of the fresh noise.
    pub s_noise: f64,
}

/// Multistep stochastic DPM-Solver++ of second order (Lu et al. 2022, arXiv 2211.01095, equations of SDE-DPM-Solver++
/// 2M; k-diffusion's `sample_dpmpp_2m_sde`).
#[derive(Debug, Clone, Copy)]
pub struct DpmPp2mSde {
    /// Share of fresh noise, 0 to 1.
    pub eta: f64,
    /// Factor of the fresh noise.
    pub s_noise: f64,
    /// Heun's form of the correction instead of the midpoint's.
    pub heun: bool,
}

/// Multistep stochastic DPM-Solver++ of third order: k-diffusion's `sample_dpmpp_3m_sde`.
#[derive(Debug, Clone, Copy)]
pub struct DpmPp3mSde {
    /// Share of fresh noise, 0 to 1.
    pub eta: f64,
    /// Factor of the fresh noise.
    pub s_noise: f64,
}

/// Half way in lambda. Its sigma decides where the Brownian motion is read, so it is rounded as k-diffusion rounds it,
/// which counts in single precision.
fn half_way(path: Path, from: Level, to: Level) -> Level {
    match path {
        Path::VariancePreserving => {
            let (s, t) = (-(from.ratio() as f32).ln(), -(to.ratio() as f32).ln());
            Level::from_ratio(f64::from((-(s + 0.5 * (t - s))).exp()))
        }
        Path::Flow => Axis::of(path).level_of_lambda(0.5 * (from.lambda() + to.lambda())),
    }
}

/// One stochastic step of first order with the given clean latent.
fn stochastic_step(
    run: &mut Run<'_>,
    x0: &[f32],
    from: Level,
    to: Level,
    eta: f64,
    s_noise: f64,
) -> Vec<f32> {
    let (down, up) = split_ratio(from.ratio(), to.ratio(), eta);
    let keep = to.alpha * down / from.sigma;
    let fresh = to.alpha * up * s_noise;
    let noise = if fresh > 0.0 { run.draw_noise_between(from, to) } else { Vec::new() };
    combine([(keep, run.latent()), (to.alpha - from.alpha * keep, x0), (fresh, &noise)])
}

impl Sampler for DpmPpSde {
    fn grid(&self) -> Grid {
        Grid::Sigmas
    }

    fn evaluations(&self, plan: &Plan) -> usize {
        plan.steps.iter().map(|step| if step.to.sigma > 0.0 { 2 } else { 1 }).sum()
    }

    fn sample(&self, run: &mut Run<'_>) -> Result<(), Halt> {
        for i in 0..run.steps() {
            let to = run.step(i).to;
            let (timestep, from) = signal_start(run, i);
            let x0 = run.predict_here(i, timestep, from)?;
            if to.sigma <= 0.0 {
                let next = first_order(run.latent(), &x0, from, to);
                run.advance(i, next, &x0)?;
                continue;
            }
            let middle = half_way(run.plan().path, from, to);
            let x_2 = stochastic_step(run, &x0, from, middle, self.eta, self.s_noise);
            let second = run.predict_x0_between(&x_2, i, middle)?;
            let next = stochastic_step(run, &second, from, to, self.eta, self.s_noise);
            run.advance(i, next, &second)?;
        }
        Ok(())
    }
}

/// What the multistep forms share: `x' = keep x + toward x0 + corrections + noise` over the step's width in lambda.
struct Wide {
    from: Level,
    to: Level,
    /// Width of the step in lambda.
    h: f64,
    /// The same times `1 + eta`.
    h_eta: f64,
    eta: f64,
}

impl Wide {
    fn new(from: Level, to: Level, eta: f64) -> Self {
        let h = to.lambda() - from.lambda();
        Wide { from, to, h, h_eta: h * (1.0 + eta), eta }
    }

    fn keep(&self) -> f64 {
        self.to.sigma / self.from.sigma * (-self.h * self.eta).exp()
    }

    fn toward(&self) -> f64 {
        -self.to.alpha * (-self.h_eta).exp_m1()
    }

    /// `alpha' phi_2`, the weight of the first difference.
    fn phi_2(&self) -> f64 {
        (-self.h_eta).exp_m1() / self.h_eta + 1.0
    }

    fn noise(&self, run: &mut Run<'_>, s_noise: f64) -> (f64, Vec<f32>) {
        let fresh = self.to.sigma * (-(-2.0 * self.h * self.eta).exp_m1()).sqrt() * s_noise;
        (fresh, if fresh > 0.0 { run.draw_noise_between(self.from, self.to) } else { Vec::new() })
    }
}

impl Sampler for DpmPp2mSde {
    fn grid(&self) -> Grid {
        Grid::Sigmas
    }

    fn sample(&self, run: &mut Run<'_>) -> Result<(), Halt> {
        let mut before: Option<(Vec<f32>, f64)> = None;
        for i in 0..run.steps() {
            let to = run.step(i).to;
            let (timestep, from) = signal_start(run, i);
            let x0 = run.predict_here(i, timestep, from)?;
            if to.sigma <= 0.0 {
                let next = first_order(run.latent(), &x0, from, to);
                run.advance(i, next, &x0)?;
                continue;
            }
            let wide = Wide::new(from, to, self.eta);
            let toward = wide.toward();
            let (last, correction) = match &before {
                Some((last, last_h)) => {
                    let weight = if self.heun { wide.phi_2() * to.alpha } else { 0.5 * toward };
                    (last.as_slice(), weight * wide.h / last_h)
                }
                None => (x0.as_slice(), 0.0),
            };
            let (fresh, noise) = wide.noise(run, self.s_noise);
            let next = combine([
                (wide.keep(), run.latent()),
                (toward + correction, &x0),
                (-correction, last),
                (fresh, &noise),
            ]);
            run.advance(i, next, &x0)?;
            before = Some((x0, wide.h));
        }
        Ok(())
    }
}

impl Sampler for DpmPp3mSde {
    fn grid(&self) -> Grid {
        Grid::Sigmas
    }

    fn sample(&self, run: &mut Run<'_>) -> Result<(), Halt> {
        // Clean latents of the steps before and the widths of those steps, latest first.
        let mut before: Vec<(Vec<f32>, f64)> = Vec::new();
        for i in 0..run.steps() {
            let to = run.step(i).to;
            let (timestep, from) = signal_start(run, i);
            let x0 = run.predict_here(i, timestep, from)?;
            if to.sigma <= 0.0 {
                let next = first_order(run.latent(), &x0, from, to);
                run.advance(i, next, &x0)?;
                continue;
            }
            let wide = Wide::new(from, to, self.eta);
            // Weights of the clean latents of now, of the step before, and of the one before that.
            let mut weights = [wide.toward(), 0.0, 0.0];
            let phi_2 = to.alpha * wide.phi_2();
            if let [(_, h_1), rest @ ..] = before.as_slice() {
                let r0 = h_1 / wide.h;
                match rest {
                    [] => {
                        weights[0] += phi_2 / r0;
                        weights[1] -= phi_2 / r0;
                    }
                    [(_, h_2), ..] => {
                        let r1 = h_2 / wide.h;
                        let phi_3 = phi_2 / wide.h_eta - 0.5 * to.alpha;
                        // Divided differences (now - last) / r0 and (last - older) / r1.
                        let second = (phi_2 * r0 - phi_3) / (r0 + r1);
                        let (first, older) = ((phi_2 + second) / r0, second / r1);
                        weights[0] += first;
                        weights[1] -= first + older;
                        weights[2] += older;
                    }
                }
            }
            let (fresh, noise) = wide.noise(run, self.s_noise);
            let past = |k: usize| before.get(k).map_or(x0.as_slice(), |(x0, _)| x0);
            let next = combine([
                (wide.keep(), run.latent()),
                (weights[0], &x0),
                (weights[1], past(0)),
                (weights[2], past(1)),
                (fresh, &noise),
            ]);
            run.advance(i, next, &x0)?;
            before.truncate(1);
            before.insert(0, (x0, wide.h));
        }
        Ok(())
    }
}
