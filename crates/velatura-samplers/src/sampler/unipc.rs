//! UniPC.

use super::polynomial::solve;
use super::run::weighted_sum;
use super::{Halt, Run, Sampler};
use crate::{Grid, Level, Path};

/// The unified predictor-corrector (Zhao et al. 2023, arXiv 2302.04867) on the clean prediction, as in diffusers:
/// every answer of the network first corrects the step that led there.
#[derive(Debug, Clone, Copy)]
pub struct UniPc {
    /// Order of the predictor, 1 to 3; the corrector's is one more.
    pub order: usize,
    /// The paper's `B_2(h) = e^h - 1` instead of `B_1(h) = h`.
    pub bh2: bool,
}

/// A place where the network was asked.
struct Visit {
    x0: Vec<f32>,
    level: Level,
}

/// Short of pure noise on the straight path, where lambda is infinite; diffusers' distance.
pub(super) fn short_of_noise(path: Path, level: Level) -> Level {
    match path {
        Path::Flow if level.alpha < 1e-6 => Level::from_flow_time(1.0 - 1e-6),
        _ => level,
    }
}

/// A step from `past[0]` to `to`, given the visits latest first. With `here`, the clean prediction at `to`, it is the
/// corrector, else the predictor.
fn step(order: usize, bh2: bool, x: &[f32], past: &[Visit], to: Level, here: Option<&[f32]>) -> Vec<f32> {
    let last = &past[0];
    let from = last.level;
    let keep = to.sigma / from.sigma;
    let toward = to.alpha - from.alpha * keep;
    let mut terms = vec![(keep, x), (toward, last.x0.as_slice())];
    if order > 1 || here.is_some() {
        let h = to.lambda() - from.lambda();
        let hh = -h;
        let scale = to.alpha * if bh2 { hh.exp_m1() } else { hh };
        // Places of the older visits, in widths of this step.
        let mut ratios: Vec<f64> =
            past[1..order].iter().map(|v| (v.level.lambda() - from.lambda()) / h).collect();
        let weights = weights(&ratios, hh, bh2, here.is_some());
        ratios.push(1.0);
        let differences = past[1..order].iter().map(|v| v.x0.as_slice()).chain(here);
        for ((difference, ratio), weight) in differences.zip(&ratios).zip(weights) {
            let weight = -scale * weight / ratio;
            terms.push((weight, difference));
            terms[1].0 -= weight;
        }
    }
    weighted_sum(&terms)
}

/// The paper's `a` (predictor) or `c` (corrector): weights of the differences to the older visits, and for the
/// corrector to the new one.
fn weights(ratios: &[f64], hh: f64, bh2: bool, corrector: bool) -> Vec<f64> {
    let order = ratios.len() + 1;
    // The simplifications of the paper's code: both are exact enough for their order.
    if (corrector && order == 1) || (!corrector && order == 2) {
        return vec![0.5];
    }
    let b_h = if bh2 { hh.exp_m1() } else { hh };
    let rows = if corrector { order } else { order - 1 };
    let nodes: Vec<f64> = ratios.iter().copied().chain(corrector.then_some(1.0)).collect();
    let mut phi = hh.exp_m1() / hh - 1.0;
    let mut factorial = 1.0;
    let (mut matrix, mut right) = (Vec::new(), Vec::new());
    for row in 0..rows {
        matrix.push(nodes.iter().map(|r| r.powi(row as i32)).collect());
        right.push(phi * factorial / b_h);
        factorial *= (row + 2) as f64;
        phi = phi / hh - 1.0 / factorial;
    }
    solve(matrix, right)
}

impl Sampler for UniPc {
    fn grid(&self) -> Grid {
        Grid::Multistep
    }

    fn sample(&self, run: &mut Run<'_>) -> Result<(), Halt> {
        let path = run.plan().path;
        let mut past: Vec<Visit> = Vec::new();
        // The latent before the last prediction, and the order of that.
        let mut before: Option<(Vec<f32>, usize)> = None;
        for i in 0..run.steps() {
            let to = run.step(i).to;
            let level = short_of_noise(path, run.step(i).from);
            let x0 = run.predict_x0(i)?;
            let x = match &before {
                Some((x, order)) => step(*order, self.bh2, x, &past, level, Some(&x0)),
                None => run.latent().to_vec(),
            };
            past.insert(0, Visit { x0, level });
            past.truncate(self.order.max(1));
            let order = self.order.min(run.steps() - i).min(past.len());
            let next = step(order, self.bh2, &x, &past, to, None);
            run.advance(i, next, &past[0].x0)?;
            before = Some((x, order));
        }
        Ok(())
    }
}
