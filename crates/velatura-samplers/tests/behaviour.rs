//! Samplers held against data distributions whose denoiser is known in closed form, and bad input.

use std::convert::Infallible;
use std::ops::ControlFlow;

use velatura_samplers::noise::{CounterRng, RngKind};
use velatura_samplers::{
    Call, LatentShape, Level, NoiseSchedule, NoiseSource, NoiseTable, PerImage, Plan, PlanError, PlanRequest,
    Prediction, Progress, RunError, Sampler, SamplerOptions, ScheduleError, ScheduleKind, Spacing,
    TimeSampling, find_sampler, sample, sampler_named, samplers, spacings,
};

const SHAPE: LatentShape = LatentShape { channels: 4, height: 3, width: 5 };

fn go_on(_: &Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Noise that is quickly drawn.
struct Fresh(u64);

impl NoiseSource for Fresh {
    fn draw(&mut self, _image: usize, out: &mut [f32]) {
        self.0 += 1;
        CounterRng::new(12, 0).at(self.0).fill_normal(out);
    }
}

fn normal(n: usize, index: u64) -> Vec<f32> {
    let mut out = vec![0.0; n];
    CounterRng::new(11, 0).at(index).fill_normal(&mut out);
    out
}

/// The model whose training data are unit-free normal numbers of deviation `d`: the best guess of the
/// clean value is `alpha d^2 / (alpha^2 d^2 + sigma^2) x`.
fn gaussian(prediction: Prediction, d: f64) -> impl FnMut(&[f32], Call) -> Result<Vec<f32>, Infallible> {
    move |x, call| {
        let Level { alpha, sigma } = call.level;
        let gain = alpha * d * d / (alpha * alpha * d * d + sigma * sigma);
        let (c0, cn) = prediction.target(call.level);
        Ok(x.iter()
            .map(|&x| {
                let x = f64::from(x);
                let x0 = gain * x;
                (c0 * x0 + cn * (x - alpha * x0) / sigma) as f32
            })
            .collect())
    }
}

/// Relative error of the deterministic flow from the first level to the clean end, whose exact solution
/// scales each value by the deviations.
fn flow_error(sampler: &dyn Sampler, table: &NoiseTable, sigmas: &[f64]) -> f64 {
    const D: f64 = 0.5;
    let plan = Plan::from_sigmas(table, sigmas).unwrap();
    let Level { alpha, sigma } = plan.steps[0].from;
    let exact = D / (alpha * alpha * D * D + sigma * sigma).sqrt();
    let mut noise = PerImage::default();
    let got = sample(sampler, &plan, vec![1.0], 1, &mut noise, gaussian(plan.prediction, D), go_on).unwrap();
    (f64::from(got[0]) / exact - 1.0).abs()
}

#[test]
fn deterministic_samplers_converge_at_their_order() {
    for (schedule, from) in [(NoiseSchedule::default(), 10.0f64), (NoiseSchedule::rectified_flow(1.0), 0.95)]
    {
        let table = schedule.table().unwrap();
        for (name, order) in
            [("euler", 1), ("ddim", 1), ("heun", 2), ("dpmpp_2m", 2), ("dpm_2", 2), ("res_multistep", 2)]
        {
            let sampler = sampler_named(name).unwrap();
            let error = |n: usize| {
                let sigmas: Vec<f64> =
                    (0..n).map(|i| from * (1e-3 / from).powf(i as f64 / (n - 1) as f64)).collect();
                flow_error(&*sampler, &table, &sigmas)
            };
            let ratio = error(40) / error(80);
            let want = f64::from(1 << order);
            assert!((0.75 * want..1.45 * want).contains(&ratio), "{name} {:?}: {ratio}", schedule.kind);
        }
    }
}

#[test]
fn stochastic_samplers_give_the_deviation_of_the_data() {
    const D: f64 = 0.5;
    for schedule in [
        NoiseSchedule { set_alpha_to_one: true, ..NoiseSchedule::zero_terminal_snr() },
        NoiseSchedule::rectified_flow(1.0),
    ] {
        let table = schedule.table().unwrap();
        for name in ["ddpm", "euler_ancestral", "ddim"] {
            let options = SamplerOptions { eta: Some(1.0), ..SamplerOptions::default() };
            let sampler = find_sampler(name).unwrap().build(&options).unwrap();
            let plan = Plan::new(&table, sampler.grid(), &PlanRequest::new(250, Spacing::Trailing)).unwrap();
            let shape = LatentShape { channels: 1, height: 100, width: 100 };
            let mut noise = PerImage::seeded(RngKind::Cpu, &[5], shape);
            let start = plan.start(&noise.initial(shape));
            let got =
                sample(&*sampler, &plan, start, 1, &mut noise, gaussian(plan.prediction, D), go_on).unwrap();
            let deviation = (got.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / 1e4).sqrt();
            // Four standard errors and the discretisation.
            assert!((deviation / D - 1.0).abs() < 0.05, "{name} {:?}: {deviation}", schedule.kind);
        }
    }
}

#[test]
fn samplers_read_the_options_that_they_say() {
    let table = NoiseSchedule::default().table().unwrap();
    let plain = SamplerOptions::default();
    let churned = SamplerOptions { s_churn: 4.0, ..plain };
    let changes = [
        ("eta", plain, SamplerOptions { eta: Some(0.4), ..plain }),
        ("s_churn", plain, churned),
        ("s_tmin", churned, SamplerOptions { s_tmin: 2.0, ..churned }),
        ("s_tmax", churned, SamplerOptions { s_tmax: Some(2.0), ..churned }),
        // Where there is fresh noise to multiply.
        (
            "s_noise",
            SamplerOptions { eta: Some(0.4), ..churned },
            SamplerOptions { eta: Some(0.4), s_noise: 0.5, ..churned },
        ),
    ];
    for entry in samplers() {
        let run = |options: &SamplerOptions| {
            let sampler = entry.build(options).unwrap();
            // Restart returns to the noise from 20 steps on.
            let plan = Plan::new(&table, sampler.grid(), &PlanRequest::new(24, Spacing::Karras)).unwrap();
            let start = plan.start(&normal(SHAPE.len(), 2));
            sample(&*sampler, &plan, start, 1, &mut Fresh(3), gaussian(plan.prediction, 0.5), go_on).unwrap()
        };
        for (option, before, after) in &changes {
            assert_eq!(run(before) != run(after), entry.reads.contains(option), "{} {option}", entry.name);
        }
    }
}

/// `comfy/samplers.py`: noise is multiplied by `sqrt(1 + sigma^2)` where the first sigma is the model's last, and by sigma
/// elsewhere; the network sees it divided by `sqrt(1 + sigma^2)`.
#[test]
fn noise_begins_with_a_variance_of_1_as_in_comfyui() {
    let table = NoiseSchedule::default().table().unwrap();
    let sampler = sampler_named("euler").unwrap();
    let noise = normal(SHAPE.len(), 2);
    for spacing in [Spacing::Karras, Spacing::Normal, Spacing::Simple, Spacing::SgmUniform] {
        let plan = Plan::new(&table, sampler.grid(), &PlanRequest::new(8, spacing)).unwrap();
        assert_ne!(plan.start(&noise), noise);
        assert_eq!(plan.with_unit_start().start(&noise), noise);
    }
    let low = Plan::from_sigmas(&table, &[10.0, 1.0]).unwrap();
    assert_eq!(low.clone().with_unit_start(), low);
    let high = Plan::from_sigmas(&table, &[80.0, 1.0]).unwrap();
    assert_eq!(high.with_unit_start().start(&noise), noise);
    let flow = NoiseSchedule::rectified_flow(3.0).table().unwrap();
    let plan = Plan::new(&flow, sampler.grid(), &PlanRequest::new(8, Spacing::Trailing)).unwrap();
    assert_eq!(plan.with_unit_start().start(&noise), noise);
}

#[test]
fn every_combination_finds_the_only_picture_there_is() {
    let schedules = [
        NoiseSchedule::default(),
        NoiseSchedule::zero_terminal_snr(),
        NoiseSchedule { zero_snr: true, ..NoiseSchedule::default() },
        NoiseSchedule { kind: ScheduleKind::SquaredcosCapV2, ..NoiseSchedule::default() },
        NoiseSchedule::rectified_flow(3.0),
    ];
    let picture = normal(2 * SHAPE.len(), 1);
    for schedule in schedules {
        for prediction in [Prediction::Epsilon, Prediction::VPrediction, Prediction::Sample, Prediction::Flow]
        {
            let table = NoiseSchedule { prediction, ..schedule.clone() }.table().unwrap();
            for entry in samplers() {
                let sampler = entry.build(&SamplerOptions::default()).unwrap();
                for spacing in spacings() {
                    for steps in [1, 2, 7, 21] {
                        // Its steps are its own, and many.
                        if entry.name == "dpm_adaptive" && steps != 7 {
                            continue;
                        }
                        let request = PlanRequest::new(steps, spacing.spacing);
                        let plan = match Plan::new(&table, sampler.grid(), &request) {
                            Err(PlanError::TooManySteps { limit, .. }) if steps > limit => continue,
                            plan => plan.unwrap(),
                        };
                        match spacing.spacing {
                            Spacing::DdimUniform => assert!((steps..=2 * steps).contains(&plan.len())),
                            _ => assert_eq!(plan.len(), steps),
                        }
                        let start = plan.start(&normal(2 * SHAPE.len(), 2));
                        let mut noise = Fresh(3);
                        let mut calls = 0;
                        let model = |x: &[f32], call: Call| -> Result<Vec<f32>, Infallible> {
                            assert_eq!(call.evaluation, calls);
                            calls += 1;
                            let (c0, cn) = prediction.target(call.level);
                            let Level { alpha, sigma } = call.level;
                            Ok(x.iter()
                                .zip(&picture)
                                .map(|(&x, &p)| {
                                    let p = f64::from(p);
                                    (c0 * p + cn * (f64::from(x) - alpha * p) / sigma) as f32
                                })
                                .collect())
                        };
                        let got = sample(&*sampler, &plan, start, 2, &mut noise, model, go_on).unwrap();
                        if entry.name != "dpm_adaptive" {
                            assert_eq!(calls, sampler.evaluations(&plan), "{}", entry.name);
                        }
                        // DDIM's fixed stride follows diffusers where that strays from the timesteps visited
                        // or ends short of the clean latent; the picture is then only near.
                        let chained = plan.steps.windows(2).all(|pair| pair[0].to == pair[1].from);
                        let end = plan.steps[plan.len() - 1];
                        let (first, last) = (plan.steps[0].from.sigma, end.to.sigma);
                        let left = match entry.name {
                            // These end at the last level above 0.
                            "dpm_fast" | "dpm_adaptive" if steps == 1 => 6.0,
                            "dpm_fast" | "dpm_adaptive" => 6.0 * (end.from.ratio().min(1e5) / first) as f32,
                            // And this one at timestep 0.
                            "tcd" => 6.0 * (table.level(0.0).unwrap().sigma / first) as f32,
                            // Velocities differ along the way, so a mixture of them is only near.
                            "plms" | "pndm" if prediction == Prediction::VPrediction => 5.0,
                            // A consistency function leaves a latent at timestep 0 as it is.
                            "lcm" if end.timestep < 20.0 => 6.0 * (end.from.sigma / first) as f32,
                            _ if chained => 6.0 * (last / first) as f32,
                            _ => 5.0,
                        };
                        // Reading the picture out of a noise prediction magnifies its rounding by the ratio.
                        let rounding = 4e-6 * plan.steps[0].from.ratio().min(1e5) as f32;
                        // These also read the noise out of a latent that is almost clean, which magnifies it again.
                        let rounding = match entry.name {
                            "plms" | "pndm" if rounding > 1e-3 => f32::INFINITY,
                            "plms" | "pndm" => 1e-2,
                            "dpm_fast" | "dpm_adaptive" if rounding > 1e-2 => f32::INFINITY,
                            _ => rounding,
                        };
                        for (got, want) in got.iter().zip(&picture) {
                            assert!(
                                (got - want).abs() < 2e-3 + left + rounding,
                                "{} {prediction:?} {:?} {} {steps} from {:?}: {got} {want}",
                                entry.name,
                                schedule.kind,
                                spacing.name(),
                                plan.steps[0].from
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_picture_does_not_depend_on_its_batch() {
    let table = NoiseSchedule::default().table().unwrap();
    let seeds = [3, 99, 1 << 40];
    for entry in samplers() {
        let sampler = entry
            .build(&SamplerOptions { eta: Some(0.7), s_churn: 3.0, ..SamplerOptions::default() })
            .unwrap();
        let plan = Plan::new(&table, sampler.grid(), &PlanRequest::new(5, Spacing::Linspace)).unwrap();
        let run = |seeds: &[u64]| {
            let mut noise = PerImage::seeded(RngKind::Cpu, seeds, SHAPE);
            let start = plan.start(&noise.initial(SHAPE));
            let model = gaussian(plan.prediction, 0.8);
            sample(&*sampler, &plan, start, seeds.len(), &mut noise, model, go_on).unwrap()
        };
        let together = run(&seeds);
        for (seed, part) in seeds.iter().zip(together.chunks(SHAPE.len())) {
            assert_eq!(run(&[*seed]), part, "{} {seed}", entry.name);
        }
    }
}

#[test]
fn plans_have_the_values_of_the_tools() {
    let table = NoiseSchedule::default().table().unwrap();
    let plan = |name: &str, spacing, steps| {
        Plan::new(&table, sampler_named(name).unwrap().grid(), &PlanRequest::new(steps, spacing)).unwrap()
    };
    let times = |plan: &Plan| plan.steps.iter().map(|s| s.timestep).collect::<Vec<_>>();
    // Sigma range of Stable Diffusion as k-diffusion prints it.
    let karras = plan("euler", Spacing::Karras, 10);
    assert!((karras.steps[0].from.ratio() - 14.6146).abs() < 1e-3);
    assert!((karras.steps[9].from.ratio() - 0.0292).abs() < 1e-4);
    // ComfyUI's simple_scheduler takes sigmas[-(1 + int(i * 1000 / steps))].
    assert_eq!(times(&plan("euler", Spacing::Simple, 3)), [999.0, 666.0, 333.0]);
    // ComfyUI's normal_scheduler(sgm=True) takes linspace(999, 0, steps + 1)[:-1].
    assert_eq!(times(&plan("euler", Spacing::SgmUniform, 3)), [999.0, 666.0, 333.0]);
    assert_eq!(times(&plan("ddim", Spacing::Leading, 4)), [751.0, 501.0, 251.0, 1.0]);
    // A single step starts from noise, not from timestep 0.
    assert_eq!(times(&plan("euler", Spacing::Linspace, 1)), [999.0]);

    let flow = NoiseSchedule::rectified_flow(1.0).table().unwrap();
    let grid = sampler_named("euler").unwrap().grid();
    let trailing = Plan::new(&flow, grid, &PlanRequest::new(4, Spacing::Trailing)).unwrap();
    assert_eq!(times(&trailing), [1000.0, 750.0, 500.0, 250.0]);
    assert_eq!(trailing.steps[0].from, Level { alpha: 0.0, sigma: 1.0 });
    assert_eq!(trailing.steps[3].to, Level::CLEAN);

    // Image to image: diffusers keeps the last int(steps * strength) steps.
    let request = PlanRequest { strength: 0.58, ..PlanRequest::new(10, Spacing::Trailing) };
    let part = Plan::new(&flow, grid, &request).unwrap();
    assert_eq!(times(&part), [500.0, 400.0, 300.0, 200.0, 100.0]);
    assert_eq!(part.start_from(&[2.0], &[4.0]).unwrap(), [3.0]);
}

#[test]
fn min_snr_gives_every_prediction_the_same_weight_on_the_clean_latent() {
    for kind in [ScheduleKind::ScaledLinear, ScheduleKind::RectifiedFlow] {
        for t in [1.0, 20.0, 400.0, 900.0] {
            let schedule = NoiseSchedule { kind, ..NoiseSchedule::default() };
            let level = schedule.table().unwrap().level(t).unwrap();
            for prediction in
                [Prediction::Epsilon, Prediction::VPrediction, Prediction::Sample, Prediction::Flow]
            {
                let table = NoiseSchedule { prediction, ..schedule.clone() }.table().unwrap();
                let weight = table.min_snr_weight(t, 5.0).unwrap();
                let on_x0 = weight / prediction.error_to_x0(level);
                let want = level.snr().min(5.0);
                assert!((on_x0 / want - 1.0).abs() < 1e-9, "{kind:?} {prediction:?} {t}: {on_x0} {want}");
            }
        }
    }
    // The ends, where a naive quotient is 0/0.
    let zero = NoiseSchedule::zero_terminal_snr();
    assert_eq!(zero.table().unwrap().min_snr_weight(999.0, 5.0).unwrap(), 0.0);
    let epsilon = NoiseSchedule { prediction: Prediction::Epsilon, ..zero }.table().unwrap();
    assert_eq!(epsilon.min_snr_weight(999.0, 5.0).unwrap(), 1.0);
    let flow = NoiseSchedule::rectified_flow(1.0).table().unwrap();
    assert_eq!(flow.min_snr_weight(0.0, 5.0).unwrap(), 0.0);
    assert_eq!(flow.min_snr_weight(1000.0, 5.0).unwrap(), 0.0);
}

#[test]
fn timestep_draws_stay_inside_and_follow_their_law() {
    let flow = NoiseSchedule::rectified_flow(1.0).table().unwrap();
    let discrete = NoiseSchedule::default().table().unwrap();
    let rng = CounterRng::new(1, 1);
    let law = TimeSampling::LogitNormal { mean: 0.0, std: 1.0 };
    let draw = |table: &NoiseTable, law| -> Vec<f64> {
        (0..20_000).map(|i| table.draw_timestep(law, &mut rng.at(i))).collect()
    };
    for table in [&flow, &discrete] {
        for law in [TimeSampling::Uniform, law] {
            let drawn = draw(table, law);
            assert!(drawn.iter().all(|&t| table.level(t).is_ok()));
            let mean = drawn.iter().sum::<f64>() / 2e4;
            assert!((mean / 1000.0 - 0.5).abs() < 0.01, "{mean}");
        }
    }
    assert!(draw(&discrete, TimeSampling::Uniform).iter().all(|t| t.fract() == 0.0));
    // 68.3% of a unit normal lies within one deviation: times between sigmoid(-1) and sigmoid(1).
    let inside = draw(&flow, law).iter().filter(|&&t| (268.9..731.1).contains(&t)).count();
    assert!((inside as f64 / 2e4 - 0.683).abs() < 0.015, "{inside}");
}

#[test]
fn bad_requests_are_typed_errors() {
    let table = NoiseSchedule::default().table().unwrap();
    let flow = NoiseSchedule::rectified_flow(1.0).table().unwrap();
    for table in [&table, &flow] {
        for entry in samplers() {
            let grid = entry.build(&SamplerOptions::default()).unwrap().grid();
            for spacing in spacings() {
                let plan = |request: PlanRequest| Plan::new(table, grid, &request);
                let good = PlanRequest::new(10, spacing.spacing);
                assert_eq!(plan(PlanRequest { steps: 0, ..good }), Err(PlanError::ZeroSteps));
                for steps in [1001, usize::MAX] {
                    assert!(matches!(
                        plan(PlanRequest { steps, ..good }),
                        Err(PlanError::TooManySteps { .. })
                    ));
                }
                for rho in [f64::NAN, 0.0, -1.0, 1e3] {
                    let request = PlanRequest { rho: Some(rho), ..good };
                    assert!(matches!(plan(request), Err(PlanError::Rho(_))));
                }
                for strength in [f64::NAN, 0.0, -1.0, 1.5, f64::INFINITY] {
                    assert!(matches!(plan(PlanRequest { strength, ..good }), Err(PlanError::Strength(_))));
                }
                let short = PlanRequest { strength: 0.01, ..good };
                assert!(matches!(
                    plan(short),
                    Err(PlanError::NoStepsLeft { .. } | PlanError::TooManySteps { .. })
                ));
            }
            let odd = PlanRequest { base: Spacing::Simple, ..PlanRequest::new(5, Spacing::Karras) };
            assert!(matches!(Plan::new(table, grid, &odd), Err(PlanError::Base { .. })));
            for eta in [f64::NAN, -0.1, 1.1] {
                assert!(
                    entry.build(&SamplerOptions { eta: Some(eta), ..SamplerOptions::default() }).is_err()
                );
            }
            let usual = SamplerOptions::default;
            for bad in [
                SamplerOptions { s_noise: f64::INFINITY, ..usual() },
                SamplerOptions { s_churn: -1.0, ..usual() },
                SamplerOptions { s_tmin: f64::NAN, ..usual() },
                SamplerOptions { s_tmin: 2.0, s_tmax: Some(1.0), ..usual() },
                SamplerOptions { s_tmax: Some(f64::NAN), ..usual() },
            ] {
                assert!(entry.build(&bad).is_err(), "{bad:?}");
            }
        }
        for sigmas in [&[][..], &[0.0], &[f64::NAN], &[0.5, 0.6], &[0.5, 0.5], &[-1.0], &[f64::INFINITY]] {
            assert!(matches!(Plan::from_sigmas(table, sigmas), Err(PlanError::Sigmas { .. })), "{sigmas:?}");
        }
        assert!(Plan::from_sigmas(table, &[0.5, 0.0]).is_ok());
        for t in [f64::NAN, -1.0, 1000.5] {
            assert!(matches!(table.level(t), Err(ScheduleError::Timestep { .. })));
        }
        assert!(table.add_noise(&[0.0; 4], &[0.0; 3], &[1.0]).is_err());
        assert!(table.add_noise(&[0.0; 4], &[0.0; 4], &[1.0; 3]).is_err());
        assert!(table.add_noise(&[0.0; 4], &[0.0; 4], &[]).is_err());
    }
    let base = NoiseSchedule::default;
    for bad in [
        NoiseSchedule { train_timesteps: 1, ..base() },
        NoiseSchedule { train_timesteps: usize::MAX, ..base() },
        NoiseSchedule { beta_start: f64::NAN, ..base() },
        NoiseSchedule { beta_end: 1.0, ..base() },
        NoiseSchedule { beta_start: 0.5, ..base() },
        NoiseSchedule { shift: 0.0, ..base() },
        NoiseSchedule { zero_snr: true, ..NoiseSchedule::rectified_flow(1.0) },
    ] {
        assert!(bad.table().is_err(), "{bad:?}");
    }
}

#[test]
fn runs_end_with_a_reason() {
    let table = NoiseSchedule::default().table().unwrap();
    for entry in samplers() {
        let sampler = entry.build(&SamplerOptions::default()).unwrap();
        let plan = Plan::new(&table, sampler.grid(), &PlanRequest::new(6, Spacing::Linspace)).unwrap();
        let noise = || PerImage::seeded(RngKind::Cpu, &[0], SHAPE);
        let start = plan.start(&noise().initial(SHAPE));

        let failing = |x: &[f32], call: Call| if call.step >= 2 { Err("no") } else { Ok(x.to_vec()) };
        let result = sample(&*sampler, &plan, start.clone(), 1, &mut noise(), failing, go_on);
        // Heun looks at the beginning of step 2 first from within step 2; samplers with steps of their own may
        // pass over it.
        assert!(matches!(result, Err(RunError::Denoise { step: 2..6, source: "no" })), "{result:?}");

        let model = gaussian(plan.prediction, 1.0);
        let mut seen = Vec::new();
        let stop = |p: &Progress<'_>| {
            seen.push(p.latent.to_vec());
            assert_eq!(p.x0.len(), p.latent.len());
            if p.done >= 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        match sample(&*sampler, &plan, start.clone(), 1, &mut noise(), model, stop) {
            Err(RunError::Cancelled { done: 3..6, steps: 6, latent }) => {
                assert_eq!(&latent, seen.last().unwrap())
            }
            other => panic!("{other:?}"),
        }

        let short = |x: &[f32], _: Call| Ok::<_, Infallible>(x[1..].to_vec());
        let result = sample(&*sampler, &plan, start.clone(), 1, &mut noise(), short, go_on);
        assert!(matches!(result, Err(RunError::Length { found: 59, expected: 60, .. })), "{result:?}");

        let nan = |x: &[f32], _: Call| Ok::<_, Infallible>(vec![f32::NAN; x.len()]);
        let result = sample(&*sampler, &plan, start.clone(), 1, &mut noise(), nan, go_on);
        assert!(matches!(result, Err(RunError::NotFinite { step: 0..3, steps: 6 })), "{result:?}");

        for batch in [0, 7] {
            let model = gaussian(plan.prediction, 1.0);
            let result = sample(&*sampler, &plan, start.clone(), batch, &mut noise(), model, go_on);
            assert!(matches!(result, Err(RunError::Batch { .. })));
        }
    }
}

#[test]
fn noise_is_drawn_as_pytorch_does_and_laid_out_as_ours() {
    let shape = LatentShape { channels: 2, height: 2, width: 3 };
    let mut out = [0.0; 12];
    let chw: Vec<f32> = (0..12).map(|i| i as f32).collect();
    shape.to_channels_last(&chw, &mut out);
    assert_eq!(out, [0.0, 6.0, 1.0, 7.0, 2.0, 8.0, 3.0, 9.0, 4.0, 10.0, 5.0, 11.0]);
}
