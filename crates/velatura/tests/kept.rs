//! What an engine keeps of texts and weights from step to step and from run to run is never that of others.

use std::borrow::Cow;
use std::sync::{Arc, RwLock};

use velatura::source::{MemoryWeights, WeightSource};
use velatura::{
    CancelToken, Engine, EngineOptions, GenerateRequest, GuidanceOptions, PerturbedAttention, Precision,
    SelfAttentionGuidance,
};

/// Weights that may become others, as in training.
struct Trained(RwLock<&'static MemoryWeights>);

impl WeightSource for Trained {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.read().unwrap().shape(name)
    }

    fn values(&self, name: &str) -> Option<Cow<'_, [f32]>> {
        let weights: &'static MemoryWeights = *self.0.read().unwrap();
        WeightSource::values(weights, name)
    }
}

fn weights(seed: u64) -> &'static MemoryWeights {
    Box::leak(Box::new(velatura::tiny::manifest().unwrap().random_weights(seed).unwrap()))
}

fn engine(source: Arc<dyn WeightSource>) -> Engine {
    let options = EngineOptions { threads: Some(2), ..EngineOptions::default() };
    Engine::from_weights(velatura::tiny::manifest().unwrap(), source, options).unwrap()
}

fn fresh() -> Engine {
    engine(Arc::new(weights(7).clone()))
}

fn request(prompt: &str) -> GenerateRequest {
    GenerateRequest {
        negative: "white".into(),
        seed: Some(40),
        steps: Some(4),
        precision: Some(Precision::Bf16),
        ..GenerateRequest::new(prompt)
    }
}

fn latents(engine: &Engine, request: &GenerateRequest) -> Vec<f32> {
    engine.latents(request, &mut |_| (), &CancelToken::default()).unwrap().concat()
}

#[test]
fn runs_follow_their_own_texts_whatever_ran_before() {
    let used = fresh();
    let self_attention = Some(SelfAttentionGuidance::default());
    let perturbed_attention = Some(PerturbedAttention::default());
    let guidance_options =
        GuidanceOptions { self_attention, perturbed_attention, ..GuidanceOptions::default() };
    let requests = [
        request("a cat"),
        request("a dog"),
        GenerateRequest { negative: "a cat".into(), ..request("a dog") },
        GenerateRequest { guidance: Some(1.0), ..request("a cat") },
        GenerateRequest { guidance_options: guidance_options.clone(), ..request("a cat") },
        GenerateRequest { guidance_options, ..request("a dog") },
        GenerateRequest { batch: 2, ..request("a dog") },
        request("a cat"),
    ];
    for request in &requests {
        assert!(latents(&used, request) == latents(&fresh(), request), "{request:?}");
    }
}

#[test]
fn weights_that_are_loaded_again_are_read_again() {
    let source = Arc::new(Trained(RwLock::new(weights(7))));
    let trained = engine(Arc::<Trained>::clone(&source));
    let before = latents(&trained, &request("a cat"));
    *source.0.write().unwrap() = weights(8);
    trained.reload().unwrap();
    let after = latents(&trained, &request("a cat"));
    assert!(after != before && after == latents(&engine(Arc::new(weights(8).clone())), &request("a cat")));
}
