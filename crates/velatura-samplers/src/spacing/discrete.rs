//! Spacing over the timesteps of a beta schedule.

use super::ramp::{exponential, karras, linspace};
use super::{Grid, Spacing};
use crate::plan::{PlanRequest, Points};
use crate::schedule::{ALPHA_BAR_FLOOR, NoiseTable, ScheduleKind};
use crate::{Level, PlanError, Prediction};

/// Points of a run on a beta schedule.
pub(crate) fn points(table: &NoiseTable, grid: Grid, request: &PlanRequest) -> Result<Points, PlanError> {
    let &PlanRequest { steps, spacing, base, .. } = request;
    let limit = match (grid, spacing) {
        // These lay out one point more than there are steps, and the points must differ.
        (Grid::Multistep, Spacing::Linspace | Spacing::Leading) => table.train_timesteps() - 1,
        _ => table.train_timesteps(),
    };
    if steps == 0 {
        return Err(PlanError::ZeroSteps);
    }
    if steps > limit {
        return Err(PlanError::TooManySteps { steps, limit, spacing: spacing.name() });
    }
    Ok(match spacing {
        Spacing::Linspace | Spacing::Leading | Spacing::Trailing => {
            let timesteps = by_timestep(table, grid, spacing, steps);
            match grid {
                Grid::Sigmas | Grid::Multistep => {
                    let sigmas = timesteps.iter().map(|&t| table.sigma_at(t)).collect();
                    from_sigmas(grid, spacing, timesteps, sigmas)
                }
                Grid::Timesteps => whole_timesteps(table, timesteps, None),
                Grid::FixedStride => {
                    let stride = table.train_timesteps() / steps;
                    whole_timesteps(table, timesteps, Some(stride))
                }
            }
        }
        Spacing::Karras | Spacing::Exponential => {
            let (max, min) = sigma_range(table, grid, spacing, base, steps)?;
            let sigmas = if spacing == Spacing::Karras { karras } else { exponential }(max, min, steps);
            let mut timesteps: Vec<f64> = sigmas.iter().map(|&s| table.timestep_of_sigma(s)).collect();
            if grid == Grid::Multistep {
                // diffusers keeps these timesteps as integers; the cosine schedule alone is truncated
                // rather than rounded.
                let cosine = table.schedule().kind == ScheduleKind::SquaredcosCapV2;
                let round = spacing == Spacing::Karras && !cosine;
                for t in &mut timesteps {
                    *t = if round { t.round_ties_even() } else { t.trunc() };
                }
            }
            from_sigmas(grid, base, timesteps, sigmas)
        }
        Spacing::SgmUniform => {
            let mut timesteps = linspace(table.last_timestep(), 0.0, steps + 1);
            timesteps.pop();
            let sigmas = timesteps.iter().map(|&t| table.log_sigma_at(t)).collect();
            from_sigmas(grid, Spacing::Linspace, timesteps, sigmas)
        }
        Spacing::Simple => {
            let n = table.train_timesteps();
            let stride = n as f64 / steps as f64;
            let timesteps: Vec<f64> =
                (0..steps).map(|i| (n - 1 - (i as f64 * stride) as usize) as f64).collect();
            let sigmas = timesteps.iter().map(|&t| table.sigma_at(t)).collect();
            from_sigmas(grid, Spacing::Linspace, timesteps, sigmas)
        }
    })
}

/// Timesteps of the three spacings of Lin et al. 2023, table 2, as diffusers rounds them.
fn by_timestep(table: &NoiseTable, grid: Grid, spacing: Spacing, steps: usize) -> Vec<f64> {
    let train = table.train_timesteps();
    let last = table.last_timestep();
    let offset = table.schedule().steps_offset;
    let multistep = grid == Grid::Multistep;
    let mut timesteps: Vec<f64> = match spacing {
        Spacing::Leading => {
            // Multistep solvers lay out timestep 0 as well and then drop it.
            let (stride, skip) = if multistep { (train / (steps + 1), 1) } else { (train / steps, 0) };
            (0..steps).rev().map(|i| ((i + skip) * stride + offset) as f64).collect()
        }
        Spacing::Trailing => {
            let stride = train as f64 / steps as f64;
            (0..steps).map(|i| (train as f64 - i as f64 * stride).round_ties_even() - 1.0).collect()
        }
        // diffusers gives timestep 0 for a single step, where there is nothing to denoise; starting from
        // the last timestep, as k-diffusion does, is what a single step is for.
        _ if steps == 1 => vec![last],
        _ => {
            let mut ascending = linspace(0.0, last, if multistep { steps + 1 } else { steps });
            if grid == Grid::Sigmas {
                ascending.iter_mut().for_each(|t| *t = f64::from(*t as f32));
            } else {
                ascending.iter_mut().for_each(|t| *t = t.round_ties_even());
            }
            ascending.reverse();
            ascending.truncate(steps);
            ascending
        }
    };
    timesteps.iter_mut().for_each(|t| *t = t.clamp(0.0, last));
    timesteps
}

/// First and last sigma of karras and exponential spacing.
fn sigma_range(
    table: &NoiseTable,
    grid: Grid,
    spacing: Spacing,
    base: Spacing,
    steps: usize,
) -> Result<(f64, f64), PlanError> {
    if !matches!(base, Spacing::Linspace | Spacing::Leading | Spacing::Trailing) {
        return Err(PlanError::Base { spacing: spacing.name(), base: base.name() });
    }
    let timesteps = match grid {
        Grid::Sigmas => by_timestep(table, grid, base, steps),
        _ => vec![table.last_timestep(), 0.0],
    };
    let end = |t: Option<&f64>| table.sigma_at(t.copied().unwrap_or(0.0));
    Ok((end(timesteps.first()), end(timesteps.last())))
}

/// Points given by noise-to-signal ratios, rounded to f32 as the reference tools keep them.
fn from_sigmas(grid: Grid, base: Spacing, timesteps: Vec<f64>, sigmas: Vec<f64>) -> Points {
    let levels = sigmas.into_iter().map(|sigma| Level::from_ratio(f64::from(sigma as f32))).collect();
    // Leading spacing never visits pure noise, and diffusers then starts from unit variance; the solvers
    // that work in the model's own space always do.
    let init_scale = (grid != Grid::Sigmas || base == Spacing::Leading).then_some(1.0);
    Points { timesteps, levels, targets: None, init_scale }
}

/// Points at whole timesteps; with a stride each step ends that much lower.
fn whole_timesteps(table: &NoiseTable, timesteps: Vec<f64>, stride: Option<usize>) -> Points {
    let floor = if table.schedule().prediction == Prediction::Epsilon { ALPHA_BAR_FLOOR } else { 0.0 };
    let at = |t: usize| {
        let alpha_bar = table.alphas_cumprod()[t];
        // Noise alone says nothing about the picture, so for noise prediction the level of pure noise is
        // replaced by one just short of it.
        Level::from_alpha_bar(alpha_bar.max(floor))
    };
    let levels = timesteps.iter().map(|&t| at(t as usize)).collect();
    let end = if table.schedule().set_alpha_to_one { Level::CLEAN } else { at(0) };
    let targets = stride
        .map(|stride| timesteps.iter().map(|&t| (t as usize).checked_sub(stride).map_or(end, at)).collect());
    Points { timesteps, levels, targets, init_scale: Some(1.0) }
}
