//! What a run needs is known before it begins, and a run under a limit keeps to it and makes the same picture.

use std::sync::Arc;

use velatura::{
    CancelToken, Decision, DeepCache, Engine, EngineOptions, Error, GenerateRequest, GuidanceOptions,
    PerturbedAttention, Picture, Precision, Progress, RequestError, RunPlan, SelfAttentionGuidance, Tiling,
};
use velatura_cpu::{Isa, Runtime};

fn engine(memory: Option<u64>) -> Engine {
    engine_with(EngineOptions { threads: Some(2), memory, one_run: false })
}

fn engine_with(options: EngineOptions) -> Engine {
    let manifest = velatura::tiny::manifest().unwrap();
    let weights = Arc::new(manifest.random_weights(7).unwrap());
    Engine::from_weights(manifest, weights, options).unwrap()
}

fn request() -> GenerateRequest {
    GenerateRequest {
        seed: Some(40),
        steps: Some(2),
        batch: 4,
        precision: Some(Precision::F32),
        ..GenerateRequest::new("two red apples above a cat")
    }
}

fn rank(decision: &Decision) -> usize {
    match decision {
        Decision::TiledVae => 0,
        Decision::Released => 1,
        Decision::Together(_) => 2,
        Decision::Streamed { .. } => 3,
        Decision::LowerPrecision => 4,
    }
}

/// Plans under ever tighter limits, until the request is refused.
fn tighter(request: &GenerateRequest, plan: impl Fn(u64) -> Result<RunPlan, Error>) -> Vec<RunPlan> {
    let mut plans = vec![plan(u64::MAX / 2).unwrap()];
    loop {
        let limit = plans.last().unwrap().peak - plans.last().unwrap().peak / 50 - 1;
        match plan(limit) {
            Ok(next) => {
                assert!(next.peak <= limit, "{} of {limit}", next.peak);
                plans.push(next);
            }
            Err(Error::Request(RequestError::Memory { needed_mib, available_mib, pictures, .. })) => {
                assert!(needed_mib >= available_mib && pictures == request.batch as usize);
                return plans;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn every_step_is_taken_in_order_as_the_limit_falls() {
    let large = GenerateRequest { width: Some(640), height: Some(640), precision: None, ..request() };
    // Where bf16 is not multiplied, f32 is the default and bf16 the last resort.
    let plan = |limit| engine(Some(limit)).on_runtime(&Runtime::with_isa(1, Isa::Portable)).plan_run(&large);
    let plans = tighter(&large, plan);
    assert_eq!((plans[0].decisions.len(), plans[0].request.vae_tiling), (0, Tiling::Off));
    let mut reached = Vec::new();
    for plan in &plans {
        let ranks: Vec<usize> = plan.decisions.iter().map(rank).collect();
        assert!(ranks.is_sorted(), "{ranks:?}");
        for rank in ranks {
            if !reached.contains(&rank) {
                reached.push(rank);
            }
        }
        let tiled = plan.decisions.contains(&Decision::TiledVae);
        assert_eq!(plan.request.vae_tiling == Tiling::On, tiled, "what changes the picture is said");
        let lower = plan.decisions.contains(&Decision::LowerPrecision);
        assert_eq!(plan.request.precision == Some(Precision::Bf16), lower);
    }
    assert_eq!(reached, [0, 1, 2, 3, 4]);
}

#[test]
fn what_was_asked_for_is_not_decided_otherwise() {
    let asked = GenerateRequest {
        width: Some(640),
        height: Some(640),
        vae_tiling: Tiling::Off,
        batch: 1,
        ..request()
    };
    let portable = |limit| engine(Some(limit)).on_runtime(&Runtime::with_isa(1, Isa::Portable));
    for plan in tighter(&asked, |limit| portable(limit).plan_run(&asked)) {
        assert_eq!((plan.request.vae_tiling, plan.request.precision), (Tiling::Off, Some(Precision::F32)));
    }
}

/// The pictures, and the most bytes that the engine held whenever it said something.
fn run(engine: &Engine, request: &GenerateRequest) -> (Vec<Picture>, u64) {
    let mut most = 0;
    let mut watch = |_: Progress<'_>| {
        let (weights, activations) = engine.memory();
        most = most.max((weights + activations) as u64);
    };
    let made = engine.generate(request, &mut watch, &CancelToken::default()).unwrap();
    (made.pictures, most)
}

#[test]
fn a_run_under_a_limit_keeps_to_it_and_makes_the_same_bits() {
    let request = request();
    let (free, most) = run(&engine(None), &request);
    let plans = tighter(&request, |limit| engine(Some(limit)).plan_run(&request));
    assert!(most <= plans[0].peak && most * 10 > plans[0].peak * 5, "{most} of {}", plans[0].peak);
    let (mut streamed, mut alone) = (false, false);
    // Every few, and the tightest.
    for plan in plans.iter().step_by(6).chain(plans.last()) {
        let engine = engine(Some(plan.peak));
        // A run before does not count.
        for _ in 0..2 {
            let (pictures, most) = run(&engine, &request);
            assert!(most <= plan.peak, "{most} of {}: {:?}", plan.peak, plan.decisions);
            for (made, free) in pictures.iter().zip(&free) {
                assert!(made.rgb == free.rgb, "{:?}", plan.decisions);
            }
        }
        streamed |= plan.decisions.iter().any(|d| matches!(d, Decision::Streamed { .. }));
        alone |= plan.together == 1;
    }
    assert!(streamed && alone);
}

#[test]
fn an_engine_for_one_run_holds_less_and_makes_the_same_bits() {
    let request = request();
    let options = EngineOptions { threads: Some(2), memory: None, one_run: true };
    let (kept, once) = (engine(None), engine_with(options));
    let ((expected, all), (pictures, most)) = (run(&kept, &request), run(&once, &request));
    let same =
        |a: &[Picture]| a.iter().zip(&expected).all(|(a, b)| a.rgb == b.rgb) && a.len() == expected.len();
    assert!(same(&pictures));
    let plan = once.plan_run(&request).unwrap();
    assert!(plan.decisions.is_empty(), "nothing had to be decided");
    assert!(most <= plan.peak && plan.peak < all, "{most} of {}, {all} without", plan.peak);
    // A second run works as well; it only loads again.
    assert!(same(&run(&once, &request).0));
}

#[test]
fn what_guidance_and_kept_features_ask_for_beside_is_planned_too() {
    let perturbed_attention = Some(PerturbedAttention::default());
    let self_attention = Some(SelfAttentionGuidance::default());
    let both = GuidanceOptions { self_attention, perturbed_attention, ..GuidanceOptions::default() };
    let deepcache = Some(DeepCache { interval: 2, branch: 0 });
    for (guidance_options, deepcache) in [
        (GuidanceOptions { self_attention, ..GuidanceOptions::default() }, None),
        (both, None),
        (GuidanceOptions::default(), deepcache),
    ] {
        let request = GenerateRequest { guidance_options, deepcache, batch: 3, ..request() };
        let (free, most) = run(&engine(None), &request);
        let plans = tighter(&request, |limit| engine(Some(limit)).plan_run(&request));
        assert!(most <= plans[0].peak && most * 10 > plans[0].peak * 5, "{most} of {}", plans[0].peak);
        let tight = plans.last().unwrap();
        let (pictures, most) = run(&engine(Some(tight.peak)), &request);
        assert!(most <= tight.peak, "{most} of {}", tight.peak);
        assert!(pictures.iter().zip(&free).all(|(made, free)| made.rgb == free.rgb));
    }
}

#[test]
fn a_limit_may_change_from_run_to_run() {
    let tight = tighter(&request(), |limit| engine(Some(limit)).plan_run(&request())).pop().unwrap();
    let engine = engine(Some(tight.peak));
    let one = GenerateRequest { batch: 1, width: Some(32), height: Some(32), ..request() };
    let (streamed, kept) = (run(&engine, &request()).0, run(&engine, &one).0);
    assert!(
        streamed[0].rgb == run(&engine, &request()).0[0].rgb && kept[0].rgb == run(&engine, &one).0[0].rgb
    );
}

#[test]
fn what_cannot_fit_is_refused_before_anything_runs() {
    let engine = engine(Some(1 << 20));
    let huge = GenerateRequest { width: Some(8192), height: Some(8192), ..request() };
    let mut told = 0;
    let error = engine.generate(&huge, &mut |_| told += 1, &CancelToken::default()).unwrap_err();
    assert!(
        matches!(error, Error::Request(RequestError::Memory { width: 8192, available_mib: 1, .. })),
        "{error}"
    );
    assert_eq!((told, engine.memory()), (0, (0, 0)));
    let many = GenerateRequest { batch: 1_000_000, ..request() };
    let error = engine.generate(&many, &mut |_| told += 1, &CancelToken::default()).unwrap_err();
    assert!(matches!(error, Error::Request(RequestError::Batch(1_000_000))), "{error}");
    let many = GenerateRequest { batch: 1024, width: Some(512), height: Some(512), ..request() };
    let error = engine.generate(&many, &mut |_| told += 1, &CancelToken::default()).unwrap_err();
    assert!(matches!(error, Error::Request(RequestError::Memory { pictures: 1024, .. })), "{error}");
    assert_eq!(told, 0);
}
