//! The betas of the discrete schedules.
//!
//! The tables are computed in `f32` in the very order of PyTorch and diffusers, because that is what
//! the models in the world were trained with; a table in `f64` would differ in the sixth digit.

use std::f64::consts::PI;

use super::{NoiseSchedule, ScheduleKind};

/// `torch.linspace(start, end, n, dtype=float32)`: counted from both ends towards the middle.
fn linspace_f32(start: f64, end: f64, n: usize) -> Vec<f32> {
    let (start, end) = (start as f32, end as f32);
    let step = (end - start) / (n - 1) as f32;
    (0..n)
        .map(
            |i| {
                if i < n / 2 {
                    step.mul_add(i as f32, start)
                } else {
                    (-step).mul_add((n - 1 - i) as f32, end)
                }
            },
        )
        .collect()
}

/// Betas of a discrete schedule before any rescaling; empty for rectified flow.
///
/// Formulas of diffusers: `linear`, `scaled_linear`, and `squaredcos_cap_v2` with the cap 0.999.
pub fn betas(schedule: &NoiseSchedule) -> Vec<f32> {
    let n = schedule.train_timesteps;
    match schedule.kind {
        ScheduleKind::Linear => linspace_f32(schedule.beta_start, schedule.beta_end, n),
        ScheduleKind::ScaledLinear => linspace_f32(schedule.beta_start.sqrt(), schedule.beta_end.sqrt(), n)
            .into_iter()
            .map(|root| root * root)
            .collect(),
        ScheduleKind::SquaredcosCapV2 => {
            let alpha_bar = |t: f64| ((t + 0.008) / 1.008 * PI / 2.0).cos().powi(2);
            (0..n)
                .map(|i| {
                    let (from, to) = (i as f64 / n as f64, (i + 1) as f64 / n as f64);
                    (1.0 - alpha_bar(to) / alpha_bar(from)).min(0.999) as f32
                })
                .collect()
        }
        ScheduleKind::RectifiedFlow => Vec::new(),
    }
}

/// Running product of `1 - beta`: accumulated in f64 and rounded to f32 at each entry, as PyTorch does.
pub(super) fn cumulative_alphas(betas: &[f32]) -> Vec<f32> {
    let mut product = 1.0f64;
    betas
        .iter()
        .map(|&beta| {
            product *= f64::from(1.0 - beta);
            product as f32
        })
        .collect()
}

/// Rescales betas so that the last timestep is pure noise and the first keeps its level.
///
/// Algorithm 1 of Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed"
/// (arXiv 2305.08891); diffusers' `rescale_zero_terminal_snr`. The last beta becomes exactly 1.
pub fn rescale_zero_terminal_snr(betas: &[f32]) -> Vec<f32> {
    let mut roots: Vec<f32> = cumulative_alphas(betas).into_iter().map(f32::sqrt).collect();
    let (Some(&first), Some(&last)) = (roots.first(), roots.last()) else { return Vec::new() };
    let scale = first / (first - last);
    for root in &mut roots {
        *root = (*root - last) * scale;
    }
    let alpha_bar: Vec<f32> = roots.iter().map(|root| root * root).collect();
    let rest = alpha_bar.windows(2).map(|pair| 1.0 - pair[1] / pair[0]);
    alpha_bar.first().map(|first| 1.0 - first).into_iter().chain(rest).collect()
}
