//! What samplers and schedules are told beyond their names, against diffusers and k-diffusion.

use velatura::{GenerateRequest, RequestError, SamplingOptions, Warning};

use crate::pipelines::Expected;
use crate::runs::{Fixture, latents};

#[test]
fn options_and_sigmas_do_what_they_do_in_diffusers_and_k_diffusion() {
    Fixture::open(Expected::sampling()).check(1e-3);
}

#[test]
fn sigmas_are_as_many_steps_and_a_batch_changes_nothing() {
    let fixture = Fixture::open(Expected::sampling());
    let asked = fixture.request("sigmas");
    let resolved = fixture.engine.resolve(&asked).unwrap();
    assert_eq!((resolved.steps, resolved.schedule), (Some(5), None));
    for run in ["sigmas", "comfyui", "churn"] {
        let asked = fixture.request(run);
        let alone = latents(&fixture.engine, &asked);
        let both = latents(&fixture.engine, &GenerateRequest { batch: 2, ..asked });
        assert_eq!(both[..alone.len()], alone, "{run}");
    }
}

#[test]
fn what_cannot_be_is_refused_and_what_is_not_read_is_told() {
    let fixture = Fixture::open(Expected::sampling());
    let plain = fixture.request("plain");
    let with = |sampling: SamplingOptions| GenerateRequest { sampling, ..plain.clone() };
    let none = SamplingOptions::default;
    let refused = |request: &GenerateRequest| fixture.engine.resolve(request).unwrap_err().to_string();
    for (sampling, says) in [
        (SamplingOptions { eta: Some(f64::NAN), ..none() }, "eta is NaN"),
        (SamplingOptions { s_churn: Some(-1.0), ..none() }, "s_churn is -1"),
        (SamplingOptions { s_tmax: Some(f64::INFINITY), ..none() }, "s_tmax is inf"),
        (SamplingOptions { s_tmin: Some(2.0), s_tmax: Some(1.0), ..none() }, "at least s_tmin"),
        (SamplingOptions { rho: Some(0.0), ..none() }, "rho is 0"),
        (SamplingOptions { denoise: Some(0.5), ..none() }, "denoise"),
    ] {
        let text = refused(&with(sampling));
        assert!(text.contains(says), "{text}");
    }
    for sigmas in [vec![0.0], vec![1.0, 2.0], vec![f64::NAN], vec![1.0, 1.0], vec![2.0, -1.0]] {
        let asked = GenerateRequest { steps: None, ..with(SamplingOptions { sigmas, ..none() }) };
        assert!(refused(&asked).contains("custom sigmas must be"), "{}", refused(&asked));
    }
    let three = SamplingOptions { sigmas: vec![9.0, 2.0, 0.5, 0.0], ..none() };
    let asked = GenerateRequest { steps: Some(4), ..with(three) };
    assert_eq!(refused(&asked), RequestError::SigmaCount { sigmas: 3, steps: 4 }.to_string());
    let unread = with(SamplingOptions { eta: Some(0.5), s_churn: Some(1.0), ..none() });
    assert_eq!(
        fixture.engine.request_warnings(&unread),
        [Warning::Unread { sampler: "euler", option: "eta" }]
    );
}

#[test]
fn a_sampler_has_its_own_schedule_unless_the_model_wishes_otherwise() {
    let fixture = Fixture::open(Expected::sampling());
    let schedule = |sampler: &str| {
        let asked =
            GenerateRequest { sampler: Some(sampler.into()), schedule: None, ..fixture.request("plain") };
        fixture.engine.resolve(&asked).unwrap().schedule.unwrap()
    };
    // As diffusers lays these classes out by default.
    for (sampler, wanted) in
        [("DDIMScheduler", "leading"), ("EulerDiscreteScheduler", "linspace"), ("LCMScheduler", "lcm")]
    {
        assert_eq!(schedule(sampler), wanted, "{sampler}");
    }
    assert_eq!(schedule("dpmpp_2m"), "karras");
    assert_eq!(schedule("Euler Karras"), "karras");
}
