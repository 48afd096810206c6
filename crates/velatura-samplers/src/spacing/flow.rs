//! Spacing over the time of rectified flow.

use super::ramp::{exponential, karras, linspace};
use super::{Grid, Spacing};
use crate::plan::{PlanRequest, Points};
use crate::schedule::NoiseTable;
use crate::{Level, PlanError, Prediction};

/// Points of a run on the straight path. The shift of the schedule is applied here.
pub(crate) fn points(table: &NoiseTable, grid: Grid, request: &PlanRequest) -> Result<Points, PlanError> {
    let &PlanRequest { steps, spacing, base, .. } = request;
    let limit = table.train_timesteps();
    if steps == 0 {
        return Err(PlanError::ZeroSteps);
    }
    if steps > limit {
        return Err(PlanError::TooManySteps { steps, limit, spacing: spacing.name() });
    }
    let times = match spacing {
        Spacing::Karras | Spacing::Exponential => {
            if !matches!(base, Spacing::Linspace | Spacing::Leading | Spacing::Trailing) {
                return Err(PlanError::Base { spacing: spacing.name(), base: base.name() });
            }
            let range = by_time(table, Grid::Sigmas, base, steps);
            let end = |t: Option<&f64>| t.copied().unwrap_or(1.0);
            let ramp = if spacing == Spacing::Karras { karras } else { exponential };
            ramp(end(range.first()), end(range.last()), steps)
        }
        _ => by_time(table, grid, spacing, steps),
    };
    let ceiling = match table.schedule().prediction {
        // Noise alone says nothing about the picture: stay just short of it.
        Prediction::Epsilon => 1.0 - 1.0 / 4096.0,
        _ => 1.0,
    };
    let times: Vec<f64> = times.into_iter().map(|t| f64::from(t.min(ceiling) as f32)).collect();
    Ok(Points {
        timesteps: times.iter().map(|t| t * table.train_timesteps() as f64).collect(),
        levels: times.into_iter().map(Level::from_flow_time).collect(),
        targets: None,
        init_scale: Some(1.0),
    })
}

fn by_time(table: &NoiseTable, grid: Grid, spacing: Spacing, steps: usize) -> Vec<f64> {
    let train = table.train_timesteps();
    let first = table.shift_time(1.0 / train as f64);
    let unshifted: Vec<f64> = match spacing {
        // diffusers' DPM-Solver: one point more than steps on the unshifted line, the clean end dropped.
        Spacing::Linspace if grid == Grid::Multistep => {
            let mut noise = linspace(1.0 - 1.0 / train as f64, 0.0, steps + 1);
            noise.pop();
            noise
        }
        // diffusers' FlowMatchEuler: the lower end is shifted here and again with all the others.
        Spacing::Linspace | Spacing::Karras | Spacing::Exponential => linspace(1.0, first, steps),
        Spacing::Trailing => (0..steps).map(|i| 1.0 - i as f64 / steps as f64).collect(),
        Spacing::Leading => {
            let stride = train / steps;
            (0..steps).rev().map(|i| (i * stride + 1) as f64 / train as f64).collect()
        }
        Spacing::SgmUniform => {
            let mut times = linspace(1.0, first, steps + 1);
            times.pop();
            times
        }
        Spacing::Simple => {
            let stride = train as f64 / steps as f64;
            (0..steps).map(|i| (train - (i as f64 * stride) as usize) as f64 / train as f64).collect()
        }
    };
    unshifted.into_iter().map(|t| table.shift_time(t)).collect()
}
