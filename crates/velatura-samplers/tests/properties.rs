//! What holds for any input: names, plans, custom sigmas, options.

use std::convert::Infallible;
use std::ops::ControlFlow;

use proptest::prelude::*;
use velatura_samplers::noise::{LatentShape, NoiseOptions, RngKind, StepNoise, Variation};
use velatura_samplers::{
    Grid, NoiseSchedule, PerImage, Plan, PlanRequest, SamplerOptions, Spacing, find_sampler, find_spacing,
    parse_sampler, sample, samplers, spacings,
};

const GRIDS: [Grid; 6] = [
    Grid::Sigmas,
    Grid::SigmasWithoutLast,
    Grid::Timesteps,
    Grid::FixedStride,
    Grid::Multistep,
    Grid::MultistepOpen,
];

fn schedule(index: usize) -> NoiseSchedule {
    match index {
        0 => NoiseSchedule::default(),
        1 => NoiseSchedule::zero_terminal_snr(),
        2 => NoiseSchedule::rectified_flow(3.0),
        _ => NoiseSchedule { train_timesteps: 7, ..NoiseSchedule::default() },
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_name_is_found_or_refused(name in "\\PC{0,40}") {
        let _ = (find_sampler(&name), find_spacing(&name), parse_sampler(&name));
    }

    #[test]
    fn a_sampler_and_a_schedule_in_one_name_are_told_apart(
        sampler in 0..samplers().len(),
        spacing in 0..spacings().len(),
        glue in prop::sample::select(&[" ", "_", "-", ""][..]),
    ) {
        let (sampler, spacing) = (&samplers()[sampler], &spacings()[spacing]);
        for (first, second) in [(sampler.name, spacing.name()), (sampler.title, spacing.title)] {
            let (found, carried) = parse_sampler(&format!("{first}{glue}{second}")).unwrap();
            // "DPM++ 2M SDE" and "Beta" and the like never run into another name.
            prop_assert_eq!(found.name, sampler.name);
            prop_assert_eq!(carried, Some(spacing.spacing));
        }
    }

    #[test]
    fn plans_descend_from_noise_to_picture(
        kind in 0..4usize,
        grid in 0..GRIDS.len(),
        spacing in 0..spacings().len(),
        steps in 0..1200usize,
        rho in prop::option::of(-1.0..20.0f64),
        strength in -0.1..1.1f64,
    ) {
        let table = schedule(kind).table().unwrap();
        let spacing = spacings()[spacing].spacing;
        let request = PlanRequest { rho, strength, ..PlanRequest::new(steps, spacing) };
        let Ok(plan) = Plan::new(&table, GRIDS[grid], &request) else { return Ok(()) };
        prop_assert!(!plan.is_empty());
        for step in &plan.steps {
            prop_assert!((0.0..=table.last_timestep() as f32).contains(&step.timestep), "{step:?}");
            let levels = [step.from.alpha, step.from.sigma, step.to.alpha, step.to.sigma];
            prop_assert!(levels.iter().all(|v| (0.0..=1.0 + 1e-9).contains(v)), "{step:?}");
            prop_assert!(step.to.sigma <= step.from.sigma + 1e-9, "{step:?}");
        }
        for pair in plan.steps.windows(2) {
            prop_assert!(pair[1].from.sigma <= pair[0].from.sigma + 1e-9, "{pair:?}");
        }
    }

    #[test]
    fn any_descending_sigmas_run_with_any_sampler(
        sampler in 0..samplers().len(),
        flow in any::<bool>(),
        sigmas in prop::collection::btree_set(1..1000u32, 1..12),
        eta in prop::option::of(0.0..=1.0f64),
        s_churn in 0.0..50.0f64,
        s_noise in 0.0..1.5f64,
    ) {
        let table = schedule(if flow { 2 } else { 0 }).table().unwrap();
        let most = if flow { 1e-3 } else { 0.014 };
        let sigmas: Vec<f64> = sigmas.into_iter().rev().map(|s| f64::from(s) * most).collect();
        let plan = Plan::from_sigmas(&table, &sigmas).unwrap();
        let options = SamplerOptions { eta, s_churn, s_noise, ..SamplerOptions::default() };
        let sampler = samplers()[sampler].build(&options).unwrap();
        let shape = LatentShape { channels: 2, height: 2, width: 1 };
        let mut noise = PerImage::seeded(RngKind::Cpu, &[1], shape);
        let start = plan.start(&noise.initial(shape));
        let model = |x: &[f32], _| Ok::<_, Infallible>(x.iter().map(|v| 0.5 * v).collect());
        let go_on = |_: &velatura_samplers::Progress<'_>| ControlFlow::Continue(());
        let got = sample(&*sampler, &plan, start, 1, &mut noise, model, go_on).unwrap();
        prop_assert!(got.iter().all(|v| v.is_finite()));
    }

    #[test]
    fn noise_is_finite_or_refused(
        seed in any::<u64>(),
        second in any::<u64>(),
        strength in -0.5..1.5f64,
        height in 0..20usize,
        width in 0..20usize,
        anew in any::<bool>(),
    ) {
        let options = NoiseOptions {
            kind: RngKind::Cuda,
            variation: Some(Variation { seed: second, strength }),
            resize_from: Some((height, width)),
            steps: if anew { StepNoise::Anew { kind: RngKind::Cpu, delta: 1 } } else { StepNoise::Continue },
        };
        let shape = LatentShape { channels: 2, height: 5, width: 3 };
        match PerImage::with_options(&[(seed, options)], shape) {
            Ok(mut noise) => prop_assert!(noise.initial(shape).iter().all(|v| v.is_finite())),
            Err(_) => prop_assert!(!(0.0..=1.0).contains(&strength) || height == 0 || width == 0),
        }
    }
}

#[test]
fn denoise_keeps_the_number_of_steps() {
    let table = schedule(0).table().unwrap();
    let request = PlanRequest::new(10, Spacing::Normal);
    let plan = |denoise| Plan::with_denoise(&table, Grid::Sigmas, &request, denoise);
    // int(10 / 0.3) = 33 steps, of which the last ten.
    let whole = Plan::new(&table, Grid::Sigmas, &PlanRequest::new(33, Spacing::Normal)).unwrap();
    assert_eq!(plan(0.3).unwrap().steps, whole.steps[23..]);
    assert_eq!(plan(1.0).unwrap().len(), 10);
    for bad in [f64::NAN, 0.0, -1.0, 1.1] {
        assert!(matches!(plan(bad), Err(velatura_samplers::PlanError::Strength(_))));
    }
    assert!(matches!(plan(1e-300), Err(velatura_samplers::PlanError::TooManySteps { .. })));
}

#[test]
fn the_last_sigma_is_left_out_of_one_step_more() {
    // A1111 and ComfyUI for DPM2: lay out one step more, and drop the last sigma above 0.
    for schedule in [schedule(0), schedule(2)] {
        let table = schedule.table().unwrap();
        for spacing in [Spacing::Karras, Spacing::Normal, Spacing::Beta] {
            let whole = Plan::new(&table, Grid::Sigmas, &PlanRequest::new(9, spacing)).unwrap();
            let part = Plan::new(&table, Grid::SigmasWithoutLast, &PlanRequest::new(8, spacing)).unwrap();
            let from = |plan: &Plan| plan.steps.iter().map(|step| step.from).collect::<Vec<_>>();
            assert_eq!(from(&whole)[..8], from(&part));
            assert_eq!(part.steps[7].to, velatura_samplers::Level::CLEAN);
        }
    }
}
