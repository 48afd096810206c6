//! Linear multistep methods on the direction of the path.

use std::collections::VecDeque;

use super::axis::{Axis, first_order};
use super::polynomial::adams_weights;
use super::run::weighted_sum;
use super::{Halt, Run, Sampler};
use crate::Grid;

const ORDER: usize = 4;

/// The linear multistep method of k-diffusion (`sample_lms`) and diffusers: the polynomial through the last four
/// directions, integrated over the step.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lms;

/// The improved pseudo-numerical method of Zhang and Chen 2022 as in ComfyUI (`sample_ipndm`): the weights of Adams
/// and Bashforth for equal steps, whatever the steps are. The last step ends in the clean prediction.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ipndm;

/// Weights of Adams and Bashforth for equal steps of width 1, latest first.
pub(super) fn equal_step_weights(order: usize) -> &'static [f64] {
    match order {
        0 | 1 => &[1.0],
        2 => &[3.0 / 2.0, -1.0 / 2.0],
        3 => &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
        _ => &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
    }
}

/// Runs a method given its weights, latest first: of the positions visited so far (latest first) and the next one.
fn multistep(
    run: &mut Run<'_>,
    weights: impl Fn(&[f64], f64) -> Vec<f64>,
    clean_end: bool,
) -> Result<(), Halt> {
    let axis = Axis::of(run.plan().path);
    let mut slopes: VecDeque<Vec<f32>> = VecDeque::with_capacity(ORDER);
    let mut positions: VecDeque<f64> = VecDeque::with_capacity(ORDER);
    for i in 0..run.steps() {
        let step = run.step(i);
        let x0 = run.predict_x0(i)?;
        slopes.truncate(ORDER - 1);
        positions.truncate(ORDER - 1);
        slopes.push_front(axis.slope(run.latent(), &x0, step.from));
        positions.push_front(axis.position(step.from));
        if clean_end && step.to.sigma <= 0.0 {
            let next = first_order(run.latent(), &x0, step.from, step.to);
            run.advance(i, next, &x0)?;
            continue;
        }
        let weights = weights(positions.make_contiguous(), axis.position(step.to));
        let scale = axis.scale(step.to);
        let mut terms = vec![(scale / axis.scale(step.from), run.latent())];
        terms.extend(slopes.iter().zip(weights).map(|(slope, weight)| (scale * weight, slope.as_slice())));
        let next = weighted_sum(&terms);
        run.advance(i, next, &x0)?;
    }
    Ok(())
}

impl Sampler for Lms {
    fn grid(&self) -> Grid {
        Grid::Sigmas
    }

    fn sample(&self, run: &mut Run<'_>) -> Result<(), Halt> {
        multistep(run, |nodes, to| adams_weights(nodes, nodes[0], to), false)
    }
}

impl Sampler for Ipndm {
    fn grid(&self) -> Grid {
        Grid::Sigmas
    }

    fn sample(&self, run: &mut Run<'_>) -> Result<(), Halt> {
        let weights = |nodes: &[f64], to: f64| {
            equal_step_weights(nodes.len()).iter().map(|weight| weight * (to - nodes[0])).collect()
        };
        multistep(run, weights, true)
    }
}
