//! Spacing over the time of rectified flow.

use super::ramp::{align_your_steps, beta_quantile, between, every_so_many, linspace};
use super::{Grid, LCM_TIMESTEPS, Spacing};
use crate::plan::{PlanRequest, Points};
use crate::schedule::NoiseTable;
use crate::{Level, PlanError, Prediction};

/// Points of a run on the straight path. The shift of the schedule is applied here.
pub(crate) fn points(table: &NoiseTable, grid: Grid, request: &PlanRequest) -> Result<Points, PlanError> {
    let &PlanRequest { steps, spacing, base, rho, .. } = request;
    let limit = spacing.limit(table.train_timesteps()) - usize::from(grid == Grid::SigmasWithoutLast);
    if steps == 0 {
        return Err(PlanError::ZeroSteps);
    }
    if steps > limit {
        return Err(PlanError::TooManySteps { steps, limit, spacing: spacing.name() });
    }
    match grid {
        Grid::SigmasWithoutLast => {
            let mut whole = points(table, Grid::Sigmas, &PlanRequest { steps: steps + 1, ..*request })?;
            whole.timesteps.pop();
            whole.levels.pop();
            return Ok(whole);
        }
        Grid::MultistepOpen => {
            let mut whole = points(table, Grid::Multistep, request)?;
            let end = whole.levels.last().copied();
            whole.targets = Some(whole.levels.iter().skip(1).copied().chain(end).collect());
            return Ok(whole);
        }
        _ => {}
    }
    let times = if between(spacing, 1.0, 0.5, 1, rho).is_some() {
        if !matches!(base, Spacing::Linspace | Spacing::Leading | Spacing::Trailing) {
            return Err(PlanError::Base { spacing: spacing.name(), base: base.name() });
        }
        let range = by_time(table, Grid::Sigmas, base, steps);
        let end = |t: Option<&f64>| t.copied().unwrap_or(1.0);
        between(spacing, end(range.first()), end(range.last()), steps, rho).unwrap_or_default()
    } else {
        by_time(table, grid, spacing, steps)
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
        // diffusers' FlowMatchEuler: the lower end is shifted here and again with all the others. The formulas
        // between two ends are taken by the caller.
        Spacing::Linspace
        | Spacing::Normal
        | Spacing::Karras
        | Spacing::Exponential
        | Spacing::Polyexponential
        | Spacing::KlOptimal
        | Spacing::BetaSigmas => linspace(1.0, first, steps),
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
        Spacing::DdimUniform => {
            let ascending: Vec<usize> = (1..train).step_by(train / steps).collect();
            ascending.into_iter().rev().map(|i| (i + 1) as f64 / train as f64).collect()
        }
        Spacing::Beta => {
            let quantile = |i: usize| beta_quantile(1.0 - i as f64 / steps as f64);
            let mut indices: Vec<f64> =
                (0..steps).map(|i| (quantile(i) * (train - 1) as f64).round_ties_even()).collect();
            indices.dedup();
            indices.into_iter().map(|i| (i + 1.0) / train as f64).collect()
        }
        Spacing::Turbo => (0..steps).map(|i| 1.0 - i as f64 / 10.0).collect(),
        Spacing::Lcm => {
            every_so_many(LCM_TIMESTEPS, steps).map(|i| i as f64 / LCM_TIMESTEPS as f64).collect()
        }
        // These are noise-to-signal ratios, which no shift moves.
        Spacing::Ays | Spacing::AysSdxl => {
            let ratios = align_your_steps(spacing == Spacing::AysSdxl, steps);
            return ratios.into_iter().map(|ratio| ratio / (1.0 + ratio)).collect();
        }
    };
    unshifted.into_iter().map(|t| table.shift_time(t)).collect()
}
