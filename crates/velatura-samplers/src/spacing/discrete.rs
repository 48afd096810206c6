//! Spacing over the timesteps of a beta schedule.

use super::ramp::{align_your_steps, beta_quantile, between, every_so_many, linspace};
use super::{Grid, LCM_TIMESTEPS, Spacing};
use crate::plan::{PlanRequest, Points};
use crate::schedule::{ALPHA_BAR_FLOOR, NoiseTable, ScheduleKind};
use crate::{Level, PlanError, Prediction};

/// Points of a run on a beta schedule.
pub(crate) fn points(table: &NoiseTable, grid: Grid, request: &PlanRequest) -> Result<Points, PlanError> {
    let &PlanRequest { steps, spacing, base, rho, .. } = request;
    let train = table.train_timesteps();
    let limit = match (grid, spacing) {
        // These lay out one point more than there are steps, and the points must differ.
        (Grid::Multistep | Grid::MultistepOpen, Spacing::Linspace | Spacing::Leading) => train - 1,
        (Grid::SigmasWithoutLast, _) => spacing.limit(train) - 1,
        _ => spacing.limit(train),
    };
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
            let first = Level::from_ratio(f64::from(table.sigma_at(0.0) as f32));
            let last = whole.levels.last().copied().unwrap_or(first);
            let is_formula = between(spacing, 1.0, 0.5, 1, rho).is_some();
            let end = if is_formula || last.sigma < first.sigma { last } else { first };
            whole.targets = Some(whole.levels.iter().skip(1).copied().chain([end]).collect());
            return Ok(whole);
        }
        _ => {}
    }
    let at_timesteps = |timesteps: Vec<f64>| {
        let sigmas = timesteps.iter().map(|&t| table.sigma_at(t)).collect();
        from_sigmas(grid, Spacing::Linspace, timesteps, sigmas)
    };
    let at_log_sigmas = |timesteps: Vec<f64>| {
        let sigmas = timesteps.iter().map(|&t| table.log_sigma_at(t)).collect();
        from_sigmas(grid, Spacing::Linspace, timesteps, sigmas)
    };
    Ok(match spacing {
        Spacing::Linspace | Spacing::Leading | Spacing::Trailing => {
            let timesteps = by_timestep(table, grid, spacing, steps);
            match grid {
                Grid::Timesteps => whole_timesteps(table, timesteps, None),
                Grid::FixedStride => whole_timesteps(table, timesteps, Some(train / steps)),
                _ => {
                    let sigmas = timesteps.iter().map(|&t| table.sigma_at(t)).collect();
                    from_sigmas(grid, spacing, timesteps, sigmas)
                }
            }
        }
        Spacing::Karras
        | Spacing::Exponential
        | Spacing::Polyexponential
        | Spacing::KlOptimal
        | Spacing::BetaSigmas => {
            let (max, min) = sigma_range(table, grid, spacing, base, steps)?;
            let sigmas = between(spacing, max, min, steps, rho).unwrap_or_default();
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
        Spacing::Normal => at_log_sigmas(linspace(table.last_timestep(), 0.0, steps)),
        Spacing::SgmUniform => {
            let mut timesteps = linspace(table.last_timestep(), 0.0, steps + 1);
            timesteps.pop();
            at_log_sigmas(timesteps)
        }
        Spacing::Simple => {
            let stride = train as f64 / steps as f64;
            at_timesteps((0..steps).map(|i| (train - 1 - (i as f64 * stride) as usize) as f64).collect())
        }
        Spacing::DdimUniform => {
            let ascending: Vec<f64> = (1..train).step_by(train / steps).map(|t| t as f64).collect();
            at_timesteps(ascending.into_iter().rev().collect())
        }
        Spacing::Beta => {
            let quantile = |i: usize| beta_quantile(1.0 - i as f64 / steps as f64);
            let mut timesteps: Vec<f64> =
                (0..steps).map(|i| (quantile(i) * table.last_timestep()).round_ties_even()).collect();
            timesteps.dedup();
            at_timesteps(timesteps)
        }
        Spacing::Ays | Spacing::AysSdxl => {
            let sigmas = align_your_steps(spacing == Spacing::AysSdxl, steps);
            let timesteps = sigmas.iter().map(|&s| table.timestep_of_sigma(s)).collect();
            from_sigmas(grid, Spacing::Linspace, timesteps, sigmas)
        }
        Spacing::Turbo => {
            let tenth = |i: usize| ((10 - i) * train / 10).saturating_sub(1) as f64;
            at_timesteps((0..steps).map(tenth).collect())
        }
        Spacing::Lcm => {
            let stride = train / LCM_TIMESTEPS.min(train);
            let timesteps = every_so_many(LCM_TIMESTEPS.min(train), steps);
            let timesteps: Vec<f64> = timesteps.map(|i| (i * stride - 1) as f64).collect();
            match grid {
                Grid::Timesteps | Grid::FixedStride => whole_timesteps(table, timesteps, None),
                _ => at_timesteps(timesteps),
            }
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
