//! DPM-Solver with single steps: a fixed number of questions, or steps chosen by the error.

use super::axis::{Axis, split_ratio};
use super::run::weighted_sum;
use super::{Halt, Run, Sampler};
use crate::{Grid, Level, Path, Plan};

/// DPM-Solver-fast (Lu et al. 2022, arXiv 2206.00927, section 3.4; k-diffusion's `sample_dpm_fast`): as many questions
/// to the network as the plan has steps, spent on third-order steps of equal width in the logarithm of sigma.
///
/// Only the ends of the plan count. As in k-diffusion the run ends at the plan's last level above 0, not at 0. Fresh
/// noise is for the variance-preserving path; on the straight path `eta` is read as 0.
#[derive(Debug, Clone, Copy)]
pub struct DpmFast {
    /// Share of fresh noise, 0 to 1.
    pub eta: f64,
    /// Factor of the fresh noise.
    pub s_noise: f64,
}

/// DPM-Solver-23 with steps chosen by the error (Lu et al. 2022, algorithm of appendix C; k-diffusion's
/// `sample_dpm_adaptive` with its defaults): relative tolerance 0.05, absolute 0.0078.
///
/// Only the ends of the plan count, as for [`DpmFast`]. The error is that of each image alone, so that a picture does
/// not depend on its batch: in a batch of `n` the network is asked `n` times as often, so it is better run with one
/// image at a time ([`Sampler::one_image_at_a_time`]).
#[derive(Debug, Clone, Copy)]
pub struct DpmAdaptive {
    /// Share of fresh noise, 0 to 1.
    pub eta: f64,
    /// Factor of the fresh noise.
    pub s_noise: f64,
}

/// One step of the solver: where it begins, and what the network said there.
struct Stage<'r, 'a> {
    run: &'r mut Run<'a>,
    axis: Axis,
    index: usize,
    x: Vec<f32>,
    from: Level,
    x0: Vec<f32>,
    eps: Vec<f32>,
}

impl<'r, 'a> Stage<'r, 'a> {
    fn new(run: &'r mut Run<'a>, index: usize, x: Vec<f32>, from: Level) -> Result<Self, Halt> {
        let axis = Axis::of(run.plan().path);
        let x0 = run.predict_x0_between(&x, index, from)?;
        let eps = axis.slope(&x, &x0, from);
        Ok(Stage { run, axis, index, x, from, x0, eps })
    }

    /// Negative logarithm of sigma at the beginning.
    fn t(&self) -> f64 {
        -self.axis.position(self.from).ln()
    }

    /// The direction at another place.
    fn slope_at(&mut self, x: &[f32], at: Level) -> Result<Vec<f32>, Halt> {
        let x0 = self.run.predict_x0_between(x, self.index, at)?;
        Ok(self.axis.slope(x, &x0, at))
    }

    /// The beginning plus weighted directions, at the scale of `to`.
    fn moved(&self, to: Level, terms: &[(f64, &[f32])]) -> Vec<f32> {
        let scale = self.axis.scale(to);
        let mut all = vec![(scale / self.axis.scale(self.from), self.x.as_slice())];
        all.extend(terms.iter().map(|(weight, vector)| (scale * weight, *vector)));
        weighted_sum(&all)
    }

    fn level(&self, t: f64) -> Level {
        self.axis.level((-t).exp())
    }

    fn first(&self, t: f64) -> Vec<f32> {
        let h = t - self.t();
        self.moved(self.level(t), &[(-(-t).exp() * h.exp_m1(), &self.eps)])
    }

    /// The direction after the share `r1` of the step.
    fn inner(&mut self, t: f64, r1: f64) -> Result<Vec<f32>, Halt> {
        let s1 = self.t() + r1 * (t - self.t());
        let u1 = self.first(s1);
        self.slope_at(&u1, self.level(s1))
    }

    fn second(&self, t: f64, r1: f64, eps_r1: &[f32]) -> Vec<f32> {
        let whole = -(-t).exp() * (t - self.t()).exp_m1();
        let share = whole / (2.0 * r1);
        self.moved(self.level(t), &[(whole - share, &self.eps), (share, eps_r1)])
    }

    fn third(&mut self, t: f64, eps_r1: &[f32]) -> Result<Vec<f32>, Halt> {
        const R1: f64 = 1.0 / 3.0;
        const R2: f64 = 2.0 / 3.0;
        let h = t - self.t();
        let s2 = self.t() + R2 * h;
        let sigma_2 = (-s2).exp();
        let share = -sigma_2 * (R2 / R1) * ((R2 * h).exp_m1() / (R2 * h) - 1.0);
        let at = self.level(s2);
        let u2 = self.moved(at, &[(-sigma_2 * (R2 * h).exp_m1() - share, &self.eps), (share, eps_r1)]);
        let eps_r2 = self.slope_at(&u2, at)?;
        let sigma = (-t).exp();
        let share = -sigma / R2 * (h.exp_m1() / h - 1.0);
        Ok(self.moved(self.level(t), &[(-sigma * h.exp_m1() - share, &self.eps), (share, &eps_r2)]))
    }
}

/// First and last position of the plan as negative logarithms of sigma. A plan of one step ends at the lowest noise of
/// its schedule.
fn range(run: &Run<'_>) -> (f64, f64) {
    let axis = Axis::of(run.plan().path);
    let t = |level| -axis.position(level).ln();
    let last = match run.steps() {
        1 => run.plan().lowest(),
        steps => run.step(steps - 1).from,
    };
    (t(run.step(0).from), t(last))
}

/// Where the deterministic part of a step to `t` ends, and how much noise leads up from there.
fn lower_end(path: Path, from: f64, t: f64, end: f64, eta: f64) -> (f64, f64) {
    if eta == 0.0 || path == Path::Flow {
        return (t, 0.0);
    }
    let sigma = (-t).exp();
    let (down, _) = split_ratio((-from).exp(), sigma, eta);
    let lower = end.min(-down.ln());
    (lower, (sigma * sigma - (-2.0 * lower).exp()).max(0.0).sqrt())
}

/// The latent at `t`: brought there from the scale at `lower`, with noise. At the end of the run it is in the scale of
/// clean latents.
fn risen(
    run: &Run<'_>,
    x: &[f32],
    lower: f64,
    t: f64,
    last: bool,
    up: f64,
    noise: &[f32],
) -> (Vec<f32>, Level) {
    let axis = Axis::of(run.plan().path);
    let level = axis.level((-t).exp());
    let scale = if last { 1.0 } else { axis.scale(level) };
    let x = weighted_sum(&[(scale / axis.scale(axis.level((-lower).exp())), x), (scale * up, noise)]);
    (x, level)
}

impl Sampler for DpmFast {
    fn grid(&self) -> Grid {
        Grid::Sigmas
    }

    fn sample(&self, run: &mut Run<'_>) -> Result<(), Halt> {
        let path = run.plan().path;
        let (start, end) = range(run);
        let questions = run.steps();
        let count = questions / 3 + 1;
        let mut orders = vec![3; count - 1];
        if questions.is_multiple_of(3) {
            orders.pop();
            orders.extend([2, 1]);
        } else {
            orders.push(questions % 3);
        }
        let mut asked = 0;
        for (i, &order) in orders.iter().enumerate() {
            let at = |i: usize| start + (end - start) * i as f64 / count as f64;
            let (from, t) = (at(i), at(i + 1));
            let (lower, up) = lower_end(path, from, t, end, self.eta);
            let x = run.latent().to_vec();
            let level = Axis::of(path).level((-from).exp());
            let mut stage = Stage::new(run, asked, x, level)?;
            let next = match order {
                1 => stage.first(lower),
                2 => {
                    let inner = stage.inner(lower, 0.5)?;
                    stage.second(lower, 0.5, &inner)
                }
                _ => {
                    let inner = stage.inner(lower, 1.0 / 3.0)?;
                    stage.third(lower, &inner)?
                }
            };
            let x0 = stage.x0;
            asked += order;
            let noise = if up > 0.0 { run.draw_noise() } else { Vec::new() };
            let last = i + 1 == orders.len();
            let (next, level) = risen(run, &next, lower, t, last, up * self.s_noise, &noise);
            run.advance_to(asked, level, next, &x0)?;
        }
        Ok(())
    }
}

/// The step controller of k-diffusion with its default: an integral controller on the inverse error.
struct Controller {
    h: f64,
    order: f64,
}

impl Controller {
    /// Whether the step is good enough; changes the width of the next one.
    fn accepts(&mut self, error: f64) -> bool {
        const SAFETY: f64 = 0.81;
        let factor = (1.0 / (error + 1e-8)).powf(1.0 / self.order);
        let factor = 1.0 + (factor - 1.0).atan();
        self.h *= factor;
        factor >= SAFETY
    }
}

impl DpmAdaptive {
    /// Runs the whole batch with the steps that image `image` wants; gives that image's part.
    fn sample_image(&self, run: &mut Run<'_>, image: usize) -> Result<Vec<f32>, Halt> {
        const RELATIVE: f64 = 0.05;
        const ABSOLUTE: f64 = 0.0078;
        // Steps are never refined below this share of the way, so the run is bounded.
        const FINEST: f64 = 1e-3;
        let path = run.plan().path;
        let (start, end) = range(run);
        let part = run.image(image);
        let finest = (end - start) * FINEST;
        let mut controller = Controller { h: 0.05, order: if self.eta > 0.0 { 1.5 } else { 3.0 } };
        let mut s = start;
        let mut x = run.latent().to_vec();
        let mut x_before = x[part.clone()].to_vec();
        let images = run.images();
        let done_at = |s: f64, steps: usize| {
            let share = if end > start { (s - start) / (end - start) } else { 1.0 };
            ((image as f64 + share) / images as f64 * steps as f64) as usize
        };
        while s < end - 1e-5 {
            let t = end.min(s + controller.h.max(finest));
            let (lower, up) = lower_end(path, s, t, end, self.eta);
            let level = Axis::of(path).level((-s).exp());
            let index = done_at(s, run.steps()).min(run.steps() - 1);
            let mut stage = Stage::new(run, index, x, level)?;
            let inner = stage.inner(lower, 1.0 / 3.0)?;
            let low = stage.second(lower, 1.0 / 3.0, &inner);
            let high = stage.third(lower, &inner)?;
            let (x_now, x0) = (stage.x, stage.x0);
            // In the coordinates of k-diffusion.
            let scale = Axis::of(path).scale(Axis::of(path).level((-lower).exp()));
            let mut sum = 0.0;
            for ((&low, &high), &before) in low[part.clone()].iter().zip(&high[part.clone()]).zip(&x_before) {
                let (low, high) = (f64::from(low) / scale, f64::from(high) / scale);
                let allowed = ABSOLUTE.max(RELATIVE * low.abs().max(f64::from(before).abs()));
                sum += ((low - high) / allowed).powi(2);
            }
            let error = (sum / part.len().max(1) as f64).sqrt();
            if !error.is_finite() {
                return Err(run.not_finite(index));
            }
            if controller.accepts(error) || t - s <= finest * (1.0 + 1e-9) {
                let noise = if up > 0.0 { run.draw_noise_for(image) } else { Vec::new() };
                x_before = low[part.clone()].iter().map(|&v| (f64::from(v) / scale) as f32).collect();
                let last = t >= end - 1e-5;
                let (next, level) = risen(run, &high, lower, t, last, up * self.s_noise, &noise);
                s = t;
                let done =
                    done_at(s, run.steps()).min(run.steps() - usize::from(image + 1 < images || !last));
                run.advance_to(done, level, next.clone(), &x0)?;
                x = next;
            } else {
                x = x_now;
            }
        }
        Ok(x[part].to_vec())
    }
}

impl Sampler for DpmAdaptive {
    fn grid(&self) -> Grid {
        Grid::Sigmas
    }

    /// A guess: the number follows from the pictures.
    fn evaluations(&self, plan: &Plan) -> usize {
        3 * plan.len()
    }

    fn one_image_at_a_time(&self) -> bool {
        true
    }

    fn sample(&self, run: &mut Run<'_>) -> Result<(), Halt> {
        let start = run.latent().to_vec();
        let mut parts = Vec::with_capacity(start.len());
        for image in 0..run.images() {
            run.set_latent(start.clone());
            parts.extend(self.sample_image(run, image)?);
        }
        run.set_latent(parts);
        Ok(())
    }
}
