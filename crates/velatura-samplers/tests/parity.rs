//! Full loops held against diffusers, and random numbers against PyTorch.
//!
//! The fixture is made by `scripts/fixtures/samplers.py`.

mod support;

use std::convert::Infallible;
use std::ops::ControlFlow;

use serde::Deserialize;
use support::{Fixture, Recorded, network, relative_error};
use velatura_samplers::noise::{Randn, TorchCpu};
use velatura_samplers::{
    Call, DiffusersSchedulerConfig, Guidance, NoiseSchedule, Plan, PlanRequest, Prediction, SamplerOptions,
    find_sampler, find_spacing, sample,
};

const FIXTURE: &[u8] = include_bytes!("fixtures/samplers.safetensors");

#[derive(Deserialize)]
struct Cases {
    loops: Vec<Loop>,
    tables: Vec<Table>,
    randn: Vec<Draw>,
}

#[derive(Deserialize)]
struct Loop {
    sampler: String,
    steps: usize,
    spacing: String,
    base: String,
    eta: Option<f64>,
    config: serde_json::Value,
}

#[derive(Deserialize)]
struct Table {
    name: String,
    config: DiffusersSchedulerConfig,
}

#[derive(Deserialize)]
struct Draw {
    seed: u64,
    sizes: Vec<usize>,
    stride: usize,
}

#[test]
fn full_loops_are_those_of_diffusers() {
    let fixture = Fixture::<Cases>::load(FIXTURE);
    let (bias, noise) = (fixture.get("bias"), fixture.get("noise"));
    let mut worst = 0.0f64;
    let mut failures = Vec::new();
    for (index, case) in fixture.cases.loops.iter().enumerate() {
        let config: DiffusersSchedulerConfig = serde_json::from_value(case.config.clone()).unwrap();
        let schedule = config.noise_schedule().unwrap();
        let table = schedule.table().unwrap();
        let entry = find_sampler(&case.sampler).unwrap();
        let sampler = entry.build(&SamplerOptions { eta: case.eta, ..SamplerOptions::default() }).unwrap();
        let request = PlanRequest {
            base: find_spacing(&case.base).unwrap().spacing,
            ..PlanRequest::new(case.steps, find_spacing(&case.spacing).unwrap().spacing)
        };
        let plan = Plan::new(&table, sampler.grid(), &request).unwrap();
        let mut asked = Vec::new();
        let mut recorded =
            Recorded(fixture.find(&format!("loop{index}.noise")).unwrap_or_default().into_iter());
        let model = |x: &[f32], call: Call| -> Result<Vec<f32>, Infallible> {
            asked.push(call.timestep);
            Ok(network(x, &bias, call.timestep, 1.0))
        };
        let start = plan.start(&noise);
        let result =
            sample(&*sampler, &plan, start, 1, &mut recorded, model, |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(asked.len(), sampler.evaluations(&plan));
        let error = relative_error(&result, &fixture.get(&format!("loop{index}.final")));
        let times = relative_error(&asked, &fixture.get(&format!("loop{index}.timesteps")));
        worst = worst.max(error);
        let label = format!(
            "{index} {} {} {}/{} {:?}: latent {error:.1e}, timesteps {times:.1e}",
            case.sampler, case.steps, case.spacing, case.base, case.config
        );
        if std::env::var_os("VERBOSE").is_some() {
            println!("{label}");
        }
        // Timesteps that diffusers finds by looking up a logarithm in single precision carry its rounding.
        if !(error < 1e-5 && times < 1e-5) {
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
fn tables_noising_and_targets_are_those_of_diffusers() {
    let fixture = Fixture::<Cases>::load(FIXTURE);
    let (x0, noise) = (fixture.get("table.x0"), fixture.get("table.noise"));
    let timesteps = [0.0, 1.0, 500.0, 998.0, 999.0];
    for case in &fixture.cases.tables {
        let schedule = case.config.noise_schedule().unwrap();
        assert_eq!(schedule.prediction, Prediction::VPrediction);
        let table = schedule.table().unwrap();
        let got: Vec<f32> = table.alphas_cumprod().iter().map(|&v| v as f32).collect();
        let want = fixture.get(&format!("table.{}.alphas_cumprod", case.name));
        for (t, (got, want)) in got.iter().zip(&want).enumerate() {
            assert!((got - want).abs() <= 1e-5 * want.abs(), "{} at {t}: {got} {want}", case.name);
        }
        assert!(relative_error(&got, &want) < 1e-6, "{}", case.name);
        let noisy = table.add_noise(&x0, &noise, &timesteps).unwrap();
        assert!(relative_error(&noisy, &fixture.get(&format!("table.{}.noisy", case.name))) < 1e-6);
        let target = table.target(&x0, &noise, &timesteps).unwrap();
        assert!(relative_error(&target, &fixture.get(&format!("table.{}.velocity", case.name))) < 1e-6);
    }
}

#[test]
fn guidance_is_that_of_diffusers() {
    let fixture = Fixture::<Cases>::load(FIXTURE);
    let halves = fixture.get("guidance.halves");
    let plain = Guidance::new(7.5).combine(&halves, 3).unwrap();
    assert!(relative_error(&plain, &fixture.get("guidance.plain")) < 1e-6);
    let rescaled = Guidance { rescale: 0.7, ..Guidance::new(7.5) }.combine(&halves, 3).unwrap();
    assert!(relative_error(&rescaled, &fixture.get("guidance.rescaled")) < 1e-6);
}

#[test]
fn noise_has_the_bits_of_pytorch() {
    let fixture = Fixture::<Cases>::load(FIXTURE);
    let mut off = 0;
    let mut total = 0;
    for (index, case) in fixture.cases.randn.iter().enumerate() {
        let mut generator = TorchCpu::new(case.seed);
        let mut got = Vec::new();
        for &size in &case.sizes {
            let mut call = vec![0.0; size];
            generator.randn(&mut call);
            got.extend(call.into_iter().step_by(case.stride));
        }
        let want = fixture.get(&format!("randn{index}"));
        assert_eq!(got.len(), want.len());
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            total += 1;
            off += usize::from(got.to_bits() != want.to_bits());
            let ulp = (got.to_bits() as i64 - want.to_bits() as i64).abs();
            assert!(ulp <= 2, "seed {} value {i}: {got} {want}", case.seed);
        }
    }
    println!("{off} of {total} values differ in the last bit");
    let mut generator = TorchCpu::new(3);
    let got: Vec<f32> = (0..40).map(|_| generator.uniform_f32()).collect();
    assert_eq!(got, fixture.get("rand"));
    assert_eq!(off, 0);
}

#[test]
fn the_configuration_survives_storage() {
    for schedule in
        [NoiseSchedule::default(), NoiseSchedule::zero_terminal_snr(), NoiseSchedule::rectified_flow(3.0)]
    {
        let text = serde_json::to_string(&schedule).unwrap();
        assert_eq!(serde_json::from_str::<NoiseSchedule>(&text).unwrap(), schedule);
    }
    assert!(serde_json::from_str::<NoiseSchedule>(r#"{"beta_begin": 0.1}"#).is_err());
    let short: NoiseSchedule = serde_json::from_str(r#"{"kind": "cosine", "prediction": "v"}"#).unwrap();
    assert_eq!(short.prediction, Prediction::VPrediction);
}
