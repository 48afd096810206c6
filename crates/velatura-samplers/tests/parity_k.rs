//! Full loops held against k-diffusion, ComfyUI and diffusers; spacings, Brownian noise and dynamic thresholding.
//!
//! The fixture is made by `scripts/fixtures/samplers_k.py`.

mod support;

use std::convert::Infallible;
use std::ops::ControlFlow;

use serde::Deserialize;
use support::{Fixture, Recorded, network, relative_error};
use velatura_samplers::noise::{
    BrownianTree, ImageNoise, LatentShape, NoiseOptions, RngKind, SeededNoise, Variation, Way,
};
use velatura_samplers::sampler::{Answer, sample_both};
use velatura_samplers::{
    Call, DiffusersSchedulerConfig, DynamicThreshold, Grid, Plan, PlanRequest, SamplerOptions, Spacing,
    degrade, find_sampler, find_spacing,
};

const FIXTURE: &[u8] = include_bytes!("fixtures/samplers_k.safetensors");

#[derive(Deserialize)]
struct Cases {
    loops: Vec<Loop>,
    spacings: Vec<Spaced>,
    brownian: Vec<Motion>,
    thresholds: Vec<DynamicThreshold>,
    shifts: Vec<Shifted>,
    seeds: Vec<Picture>,
}

#[derive(Deserialize)]
struct Shifted {
    tokens: usize,
    steps: usize,
    config: DiffusersSchedulerConfig,
}

#[derive(Deserialize)]
struct Picture {
    seed: u64,
    shape: [usize; 3],
    variation: Option<(u64, f64)>,
    resize_from: Option<(usize, usize)>,
}

#[derive(Deserialize)]
struct Loop {
    sampler: String,
    options: SamplerOptions,
    config: serde_json::Value,
    spacing: Option<String>,
    steps: Option<usize>,
    timesteps: Option<Vec<f32>>,
}

#[derive(Deserialize)]
struct Spaced {
    spacing: String,
    steps: usize,
    rho: Option<f64>,
    config: DiffusersSchedulerConfig,
}

#[derive(Deserialize)]
struct Motion {
    seed: u64,
    shape: [usize; 3],
    ends: [f32; 2],
    ways: Vec<[f32; 2]>,
    stride: usize,
}

#[test]
fn full_loops_are_those_of_the_tools() {
    let fixture = Fixture::<Cases>::load(FIXTURE);
    let (bias, noise) = (fixture.get("bias"), fixture.get("noise"));
    let mut failures = Vec::new();
    let mut worst = 0.0f64;
    for (index, case) in fixture.cases.loops.iter().enumerate() {
        let config: DiffusersSchedulerConfig = serde_json::from_value(case.config.clone()).unwrap();
        let table = config.noise_schedule().unwrap().table().unwrap();
        let sampler = find_sampler(&case.sampler).unwrap().build(&case.options).unwrap();
        let plan = match (&case.spacing, case.steps) {
            (Some(spacing), Some(steps)) => {
                let spacing = find_spacing(spacing).unwrap().spacing;
                Plan::new(&table, sampler.grid(), &PlanRequest::new(steps, spacing)).unwrap()
            }
            _ => {
                let sigmas = fixture.get(&format!("loop{index}.sigmas"));
                let sigmas: Vec<f64> = sigmas.into_iter().map(f64::from).collect();
                Plan::from_sigmas(&table, &sigmas).unwrap()
            }
        };
        let mut asked = Vec::new();
        let mut recorded =
            Recorded(fixture.find(&format!("loop{index}.noise")).unwrap_or_default().into_iter());
        let model = |x: &[f32], call: Call| -> Result<Answer, Infallible> {
            asked.push(call.timestep);
            let answer = |sign| network(x, &bias, call.timestep, sign);
            Ok(Answer { guided: answer(1.0), unguided: Some(answer(-1.0)) })
        };
        let observe = |_: &velatura_samplers::Progress<'_>| ControlFlow::Continue(());
        let result =
            sample_both(&*sampler, &plan, plan.start(&noise), 1, &mut recorded, model, observe).unwrap();
        let error = relative_error(&result, &fixture.get(&format!("loop{index}.final")));
        let times = case.timesteps.as_ref().map_or(0.0, |want| {
            if asked.len() == want.len() { relative_error(&asked, want) } else { f64::INFINITY }
        });
        worst = worst.max(error);
        let label = format!(
            "{index} {} {} {:?} {} {:?}: latent {error:.1e}, timesteps {times:.1e}",
            case.sampler,
            plan.len(),
            case.spacing,
            case.config,
            case.options
        );
        if std::env::var_os("VERBOSE").is_some() {
            println!("{label}");
        }
        // The reference of k-diffusion and ComfyUI runs in double precision, that of diffusers in single. What is left
        // is single precision, magnified where noise-to-signal ratios of 14 multiply it.
        if !(error < 5e-5 && times < 1e-6) {
            failures.push(label);
        }
    }
    println!("{} loops, largest relative error {worst:.1e}", fixture.cases.loops.len());
    assert!(
        failures.is_empty(),
        "{} of {}:\n{}",
        failures.len(),
        fixture.cases.loops.len(),
        failures.join("\n")
    );
}

#[test]
fn spacings_are_those_of_the_tools() {
    let fixture = Fixture::<Cases>::load(FIXTURE);
    for (index, case) in fixture.cases.spacings.iter().enumerate() {
        let table = case.config.noise_schedule().unwrap().table().unwrap();
        let spacing = find_spacing(&case.spacing).unwrap().spacing;
        let request = PlanRequest { rho: case.rho, ..PlanRequest::new(case.steps, spacing) };
        let plan = Plan::new(&table, Grid::Sigmas, &request).unwrap();
        let got: Vec<f32> = plan
            .steps
            .iter()
            .map(|step| if table.is_flow() { step.from.sigma } else { step.from.ratio() } as f32)
            .collect();
        let want = fixture.get(&format!("spacing{index}"));
        assert_eq!(got.len(), want.len(), "{} {}", case.spacing, case.steps);
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            // The tools compute in single precision.
            assert!(
                (got - want).abs() < 2e-5 * want.abs(),
                "{} {} at {i}: {got} {want}",
                case.spacing,
                case.steps
            );
        }
    }
}

#[test]
fn brownian_noise_is_that_of_torchsde() {
    let fixture = Fixture::<Cases>::load(FIXTURE);
    for (index, case) in fixture.cases.brownian.iter().enumerate() {
        let [channels, height, width] = case.shape;
        // Read in PyTorch's order: one channel of all values.
        let shape = LatentShape { channels: 1, height: channels * height, width };
        let [least, most] = case.ends;
        let tree = BrownianTree::new(RngKind::Cpu, case.seed, least, most, shape.len());
        let (mut increments, mut noise) = (Vec::new(), Vec::new());
        for &[from, to] in &case.ways {
            let falling = tree.increment(to, from);
            increments.extend(falling.into_iter().step_by(case.stride).map(|v| -v));
            let mut out = vec![0.0; shape.len()];
            tree.noise(Way { from, to, least, most }, shape, &mut out);
            noise.extend(out.into_iter().step_by(case.stride));
        }
        // To the bit; what they are divided by is a square root that PyTorch does not round correctly.
        assert_eq!(increments, fixture.get(&format!("brownian{index}.increments")), "seed {}", case.seed);
        for (got, want) in noise.iter().zip(&fixture.get(&format!("brownian{index}.noise"))) {
            assert!((got - want).abs() <= 3e-7 * want.abs(), "seed {}: {got} {want}", case.seed);
        }
    }
}

#[test]
fn variations_and_resized_seeds_are_those_of_the_web_ui() {
    let fixture = Fixture::<Cases>::load(FIXTURE);
    for (index, case) in fixture.cases.seeds.iter().enumerate() {
        let [channels, height, width] = case.shape;
        let shape = LatentShape { channels, height, width };
        let variation = case.variation.map(|(seed, strength)| Variation { seed, strength });
        let options = NoiseOptions { variation, resize_from: case.resize_from, ..NoiseOptions::default() };
        let mut got = vec![0.0; shape.len()];
        SeededNoise::with_options(case.seed, shape, options).unwrap().draw(&mut got);
        let mut want = vec![0.0; shape.len()];
        shape.to_channels_last(&fixture.get(&format!("seed{index}")), &mut want);
        // The reference's arc cosine is in single precision.
        assert!(relative_error(&got, &want) < 2e-6, "{index}: {}", relative_error(&got, &want));
    }
}

#[test]
fn dynamic_shifts_are_those_of_diffusers() {
    let fixture = Fixture::<Cases>::load(FIXTURE);
    for (index, case) in fixture.cases.shifts.iter().enumerate() {
        let rule = case.config.dynamic_shift().unwrap().unwrap();
        let schedule = case.config.noise_schedule().unwrap().shifted_for(&rule, case.tokens).unwrap();
        let request = PlanRequest::new(case.steps, Spacing::Trailing);
        let plan = Plan::new(&schedule.table().unwrap(), Grid::Sigmas, &request).unwrap();
        let got: Vec<f32> = plan.steps.iter().map(|step| step.from.sigma as f32).collect();
        assert!(relative_error(&got, &fixture.get(&format!("shift{index}"))) < 1e-6, "{index}");
    }
}

#[test]
fn the_blur_is_that_of_self_attention_guidance() {
    let fixture = Fixture::<Cases>::load(FIXTURE);
    let shape = LatentShape { channels: 4, height: 6, width: 7 };
    for sigma in [1.0, 2.0] {
        let read = |part: &str| {
            let mut out = vec![0.0; shape.len()];
            shape.to_channels_last(&fixture.get(&format!("blur{sigma:?}.{part}")), &mut out);
            out
        };
        let got = degrade(&read("input"), &[true; 42], shape, sigma).unwrap();
        assert!(relative_error(&got, &read("output")) < 1e-6);
    }
}

#[test]
fn dynamic_thresholding_is_that_of_its_extension() {
    let fixture = Fixture::<Cases>::load(FIXTURE);
    // The tool has channels first.
    let shape = LatentShape { channels: 4, height: 3, width: 5 };
    let ours = |chw: Vec<f32>| -> Vec<f32> {
        let mut out = vec![0.0; chw.len()];
        for (chw, out) in chw.chunks(shape.len()).zip(out.chunks_mut(shape.len())) {
            shape.to_channels_last(chw, out);
        }
        out
    };
    let (cond, uncond) = (ours(fixture.get("threshold.cond")), ours(fixture.get("threshold.uncond")));
    for (index, case) in fixture.cases.thresholds.iter().enumerate() {
        let got = case.combine(&uncond, &cond, shape.channels, 2, 9.0, 6, 20).unwrap();
        let want = ours(fixture.get(&format!("threshold{index}")));
        assert!(relative_error(&got, &want) < 1e-5, "{case:?}");
    }
}
