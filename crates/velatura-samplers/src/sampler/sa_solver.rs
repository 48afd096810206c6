//! SA-Solver.

use super::axis::{Axis, first_order, signal_start};
use super::polynomial::lagrange;
use super::run::weighted_sum;
use super::{Halt, Run, Sampler};
use crate::{Grid, Level, Path};

/// The stochastic Adams solver (Xue et al. 2023, arXiv 2309.05019): a predictor of third order, a corrector of fourth
/// with the same noise, and fresh noise in the middle of the run, as in ComfyUI's `sa_solver`.
#[derive(Debug, Clone, Copy)]
pub struct SaSolver {
    /// The paper's tau in the middle of the run, 0 to 1.
    pub eta: f64,
    /// Factor of the fresh noise.
    pub s_noise: f64,
}

const PREDICTOR: usize = 3;
const CORRECTOR: usize = 4;

/// Part of the schedule, from its noisy end, in which noise is fresh.
const STOCHASTIC: (f64, f64) = (0.2, 0.8);

/// Position of the path at a share of the schedule, counted from its noisy end.
fn position_at(run: &Run<'_>, share: f64) -> f64 {
    let table = &run.plan().table;
    match run.plan().path {
        Path::Flow => table.shift_time(1.0 - share),
        Path::VariancePreserving => table.log_sigma_at((1.0 - share) * table.last_timestep()),
    }
}

/// Weights of the clean predictions at `nodes` (lambda, latest first) over a step from `start` to `end`, without the
/// signal's share at its end: integrals of `(1 + tau^2) exp((1 + tau^2) (x - end))` times the interpolating
/// polynomials (equations 15 and 18).
fn weights(nodes: &[f64], start: f64, end: f64, tau: f64) -> Vec<f64> {
    let m = 1.0 + tau * tau;
    let h = end - start;
    // Moments of (x - end)^p by parts.
    let decay = (-m * h).exp();
    let mut moments = vec![-(-m * h).exp_m1()];
    for p in 1..nodes.len() {
        let boundary = -(-h).powi(p as i32) * decay;
        moments.push(boundary - p as f64 / m * moments[p - 1]);
    }
    let shifted: Vec<f64> = nodes.iter().map(|node| node - end).collect();
    (0..nodes.len())
        .map(|j| lagrange(&shifted, j).iter().zip(&moments).map(|(c, moment)| c * moment).sum())
        .collect()
}

/// A step begun by the predictor, as the corrector needs it.
struct Begun {
    x: Vec<f32>,
    from: Level,
    tau: f64,
    /// Factor of the noise, and the noise.
    noise: (f64, Vec<f32>),
}

impl Begun {
    /// The latent at `to`, given clean predictions and their lambdas.
    fn step(&self, past: &[(Vec<f32>, f64)], to: Level) -> Vec<f32> {
        let (start, end) = (self.from.lambda(), to.lambda());
        let nodes: Vec<f64> = past.iter().map(|(_, lambda)| *lambda).collect();
        let keep = to.sigma / self.from.sigma * (-(self.tau * self.tau) * (end - start)).exp();
        let mut terms = vec![(keep, self.x.as_slice()), (self.noise.0, self.noise.1.as_slice())];
        let weights = weights(&nodes, start, end, self.tau);
        terms.extend(past.iter().zip(weights).map(|((x0, _), weight)| (to.alpha * weight, x0.as_slice())));
        weighted_sum(&terms)
    }
}

impl Sampler for SaSolver {
    fn grid(&self) -> Grid {
        Grid::Sigmas
    }

    fn sample(&self, run: &mut Run<'_>) -> Result<(), Halt> {
        let axis = Axis::of(run.plan().path);
        let (highest, lowest) = (position_at(run, STOCHASTIC.0), position_at(run, STOCHASTIC.1));
        // Clean predictions and their lambdas, latest first.
        let mut past: Vec<(Vec<f32>, f64)> = Vec::new();
        let mut begun: Option<Begun> = None;
        for i in 0..run.steps() {
            let to = run.step(i).to;
            let (timestep, from) = signal_start(run, i);
            let x0 = run.predict_here(i, timestep, from)?;
            past.insert(0, (x0, from.lambda()));
            past.truncate(CORRECTOR);
            let left = run.steps() - i;
            if to.sigma <= 0.0 {
                let next = first_order(run.latent(), &past[0].0, from, to);
                run.advance(i, next, &past[0].0)?;
                continue;
            }
            let x = match &begun {
                Some(begun) => begun.step(&past[..past.len().min(left)], from),
                None => run.latent().to_vec(),
            };
            let tau = if (lowest..=highest).contains(&axis.position(to)) { self.eta } else { 0.0 };
            let h = to.lambda() - from.lambda();
            let fresh = to.sigma * (-(-2.0 * tau * tau * h).exp_m1()).sqrt() * self.s_noise;
            let noise = if fresh > 0.0 { run.draw_noise() } else { Vec::new() };
            let now = Begun { x, from, tau, noise: (fresh, noise) };
            let order = PREDICTOR.min(past.len()).min((left - 1).max(1));
            let next = now.step(&past[..order], to);
            run.advance(i, next, &past[0].0)?;
            begun = Some(now);
        }
        Ok(())
    }
}
