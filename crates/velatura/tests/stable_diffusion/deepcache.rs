//! DeepCache, against its authors' helper for diffusers.

use velatura::{
    DeepCache, Engine, EngineOptions, GenerateRequest, GuidanceOptions, PerturbedAttention, RequestError,
    SelfAttentionGuidance,
};

use crate::parity::error;
use crate::pipelines::Expected;
use crate::runs::{Fixture, latents};

fn cached(interval: u32, branch: u32, request: &GenerateRequest) -> GenerateRequest {
    GenerateRequest { deepcache: Some(DeepCache { interval, branch }), ..request.clone() }
}

#[test]
fn every_interval_and_branch_is_as_the_authors_have_it() {
    // Deep branches of eight steps come near to the whole, and are still told apart.
    Fixture::open(Expected::deepcache()).check(0.01);
}

#[test]
fn an_interval_of_one_is_no_interval() {
    let Fixture { expected, engine, _temporary } = Fixture::open(Expected::deepcache());
    let plain = expected.case("sd15").request("plain");
    let one = cached(1, 3, &plain);
    assert_eq!(engine.resolve(&one).unwrap(), engine.resolve(&plain).unwrap());
    assert_eq!(latents(&engine, &one), latents(&engine, &plain));
    // It is an interval that is on which changes something.
    assert!(latents(&engine, &cached(2, 0, &plain)) != latents(&engine, &plain));
}

#[test]
fn pictures_do_not_depend_on_the_others_of_their_batch() {
    let Fixture { expected, engine, _temporary } = Fixture::open(Expected::deepcache());
    // A prompt of a second part that begins in the middle, guidance that ends before the run does, a sampler that asks twice.
    let guidance_options = GuidanceOptions { interval: Some([0.0, 0.7]), ..GuidanceOptions::default() };
    for (sampler, prompt) in
        [("ddim", "a lake"), ("heun", "a lake AND a boat:0.5"), ("euler", "[a:b:3] lake")]
    {
        let request = GenerateRequest {
            sampler: Some(sampler.into()),
            prompt: prompt.into(),
            batch: 3,
            guidance_options: guidance_options.clone(),
            ..cached(3, 0, &expected.case("sd15").request("plain"))
        };
        let all = latents(&engine, &request);
        for (picture, together) in all.chunks_exact(all.len() / 3).enumerate() {
            let seed = request.seed.map(|seed| seed + picture as u64);
            let alone = GenerateRequest { batch: 1, seed, ..request.clone() };
            assert_eq!(latents(&engine, &alone), together, "{sampler}, picture {picture}");
        }
    }
}

#[test]
fn a_refiner_keeps_what_is_its_own() {
    let (expected, folder) = (Expected::xl(), tempfile::tempdir().unwrap());
    let folder = folder.path();
    for name in ["sdxl", "sdxl_refiner"] {
        expected.case(name).write_folder(&folder.join(name));
    }
    let path = |name: &str| Some(folder.join(name).to_string_lossy().into_owned());
    let asked = expected.case("sdxl_refiner").request("after_base");
    let request = GenerateRequest {
        model: path("sdxl"),
        refiner: path("sdxl_refiner"),
        batch: 1,
        deepcache: None,
        ..asked
    };
    let options = EngineOptions { threads: Some(2), ..EngineOptions::default() };
    let engine = Engine::for_request(&request, options).unwrap();
    let whole = latents(&engine, &request);
    // With an interval of the whole run the first step of each of the two is the one at which it computes everything.
    let kept = latents(&engine, &cached(1000, 0, &request));
    assert!(error(&kept, &whole) > 1e-3 && kept.iter().all(|v| v.is_finite()));
    let more = GenerateRequest { batch: 2, ..cached(1000, 0, &request) };
    assert_eq!(latents(&engine, &more)[..kept.len()], kept);
}

#[test]
fn what_it_cannot_do_is_refused() {
    let Fixture { expected, engine, _temporary } = Fixture::open(Expected::deepcache());
    let plain = expected.case("sd15").request("plain");
    let refused = |request: &GenerateRequest| engine.resolve(request).unwrap_err().to_string();
    for interval in [0, 1001] {
        let wanted = RequestError::DeepCacheInterval(interval).to_string();
        assert_eq!(refused(&cached(interval, 0, &plain)), wanted);
    }
    let wanted = RequestError::DeepCacheBranch { given: 6, most: 5 };
    assert_eq!(refused(&cached(2, 6, &plain)), wanted.to_string());
    let perturbed = GuidanceOptions {
        perturbed_attention: Some(PerturbedAttention::default()),
        ..GuidanceOptions::default()
    };
    let own = GuidanceOptions {
        self_attention: Some(SelfAttentionGuidance::default()),
        ..GuidanceOptions::default()
    };
    for (guidance_options, guidance) in [(perturbed, "perturbed-attention"), (own, "self-attention")] {
        let request = GenerateRequest { guidance_options, ..cached(2, 0, &plain) };
        assert_eq!(refused(&request), RequestError::DeepCacheGuidance { guidance }.to_string());
        // Off, it is in nobody's way.
        assert!(engine.resolve(&cached(1, 0, &request)).is_ok());
    }
}
