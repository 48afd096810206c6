//! Networks with a prelude against the same in one piece.

use std::borrow::Cow;

use velatura_graph::passes;
use velatura_samplers::noise::CounterRng;

use super::*;
use crate::networks::{Changes, Network, names};
use crate::source::MemoryWeights;
use crate::{ModelManifest, Precision};

const TOKENS: usize = 16;
const SIDE: usize = 6;
/// One latent with two texts.
const TEXTS: usize = 2;

/// The same network with a prelude and in one piece, and the weights of each.
struct Pair {
    plan: Plan,
    whole: Executor,
    stores: [Arc<WeightStore>; 2],
    manifest: ModelManifest,
    activation_bytes: usize,
}

impl Pair {
    fn new(precision: Precision) -> Self {
        let manifest = crate::tiny::manifest().unwrap();
        let runtime = Runtime::new(Some(2));
        let network = Network::Denoise { tokens: TOKENS, texts: TEXTS, changes: Changes::default() };
        let graph = network.graph(&manifest, TEXTS, SIDE, SIDE).unwrap();
        let graph = passes::for_inference(graph, precision.of_graph());
        let stores = [(); 2].map(|()| WeightStore::new(&runtime));
        let planned = Planned::new(&runtime, graph.clone(), network.fixed());
        let activation_bytes = planned.activation_bytes();
        let plan = Plan::new(&runtime, planned, &stores[0]).unwrap();
        assert!(plan.prelude.is_some());
        let whole = Executor::new(&runtime, graph, &stores[1]).unwrap();
        let pair = Pair { plan, whole, stores, manifest, activation_bytes };
        pair.load(1);
        pair
    }

    fn load(&self, seed: u64) {
        let weights: MemoryWeights = self.manifest.random_weights(seed).unwrap();
        let find = |name: &str| weights.get(name).map(|(_, values)| Cow::Borrowed(values.as_slice()));
        self.stores.iter().for_each(|store| store.load(&find).unwrap());
    }

    /// The answers of both.
    fn ask(&mut self, question: &Question) -> [Vec<f32>; 2] {
        let Question { sample, timestep, context, pooled, mask } = question;
        let inputs = [
            (names::SAMPLE, Data::F32(sample)),
            (names::TIMESTEP, Data::F32(timestep)),
            (names::CONTEXT, Data::F32(context)),
            (names::POOLED, Data::F32(pooled)),
            (names::MASK, Data::F32(mask)),
        ];
        self.plan.run(&inputs, &CancelToken::default()).unwrap();
        self.whole.run(&inputs, &CancelToken::default()).unwrap();
        [self.plan.output(names::OUTPUT).unwrap(), self.whole.output(names::OUTPUT).unwrap()]
            .map(<[f32]>::to_vec)
    }

    /// The answer, which is the same with a prelude and in one piece.
    fn same(&mut self, question: &Question) -> Vec<f32> {
        let [divided, whole] = self.ask(question);
        assert!(divided.iter().map(|x| x.to_bits()).eq(whole.iter().map(|x| x.to_bits())));
        whole
    }
}

#[derive(Clone)]
struct Question {
    sample: Vec<f32>,
    timestep: Vec<f32>,
    context: Vec<f32>,
    pooled: Vec<f32>,
    mask: Vec<f32>,
}

impl Question {
    fn new(manifest: &ModelManifest, text: u64) -> Self {
        Question {
            sample: noise(0, SIDE * SIDE * manifest.latent_channels()),
            timestep: vec![700.0],
            context: noise(text, TEXTS * TOKENS * manifest.context_width()),
            pooled: noise(text + 100, TEXTS * manifest.pooled_width()),
            mask: vec![1.0; TEXTS * TOKENS],
        }
    }

    /// Another latent at another timestep.
    fn later(&self, step: u64) -> Self {
        let sample = noise(1000 + step, self.sample.len());
        Question { sample, timestep: vec![700.0 - 50.0 * step as f32], ..self.clone() }
    }
}

fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    CounterRng::new(seed, 0).at(0).fill_normal(&mut values);
    values
}

#[test]
fn bits_are_those_of_the_whole_whatever_changes() {
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let mut pair = Pair::new(precision);
        let [a, b] = [1, 2].map(|text| Question::new(&pair.manifest, text));
        // The other text of the two, its pooled half, and a token that is hidden.
        let mut one = b.clone();
        let half = one.context.len() / 2;
        one.context[half..].copy_from_slice(&a.context[half..]);
        let pooled = Question { pooled: a.pooled.clone(), ..one.clone() };
        let mut hidden = pooled.clone();
        hidden.mask[TOKENS + 3] = 0.0;
        let mut answers = Vec::new();
        for (step, question) in [&a, &b, &one, &pooled, &hidden, &a].into_iter().enumerate() {
            answers.push(pair.same(question));
            // Steps with the same texts, and with them again after a rest.
            pair.same(&question.later(step as u64));
            pair.plan.rest();
            pair.same(&question.later(step as u64 + 10));
        }
        assert!(answers.windows(2).all(|two| two[0] != two[1]), "texts matter");
        assert_eq!(answers.first(), answers.last());
    }
}

#[test]
fn a_prelude_is_kept_until_the_weights_change() {
    let mut pair = Pair::new(Precision::F32);
    let question = Question::new(&pair.manifest, 1);
    pair.same(&question);
    pair.load(2);
    let [kept, whole] = pair.ask(&question);
    assert_ne!(kept, whole, "it was computed again, though nobody said that the weights are others");
    pair.plan.reloaded();
    pair.same(&question);
}

#[test]
fn a_run_that_is_stopped_leaves_nothing_behind() {
    let mut pair = Pair::new(Precision::Bf16);
    let [a, b] = [1, 2].map(|text| Question::new(&pair.manifest, text));
    pair.same(&a);
    let stopped = CancelToken::default();
    stopped.cancel();
    let inputs = [(names::CONTEXT, Data::F32(&b.context)), (names::POOLED, Data::F32(&b.pooled))];
    assert_eq!(pair.plan.run(&inputs, &stopped), Err(CpuError::Cancelled));
    pair.same(&b);
    pair.same(&a);
}

#[test]
fn what_is_held_is_what_was_planned() {
    for precision in [Precision::F32, Precision::Bf16] {
        let mut pair = Pair::new(precision);
        assert_eq!(pair.plan.held_bytes(), 0);
        pair.same(&Question::new(&pair.manifest, 1));
        assert_eq!(pair.plan.held_bytes(), pair.activation_bytes);
        // Keys and values of four transformers of 32 channels, and the texts that they are of.
        let size = if precision == Precision::F32 { 4 } else { 2 };
        let carried = 4 * 2 * TEXTS * TOKENS * 32 * size;
        let texts = TEXTS * TOKENS * pair.manifest.context_width() * 4;
        assert!(pair.activation_bytes >= pair.plan.step.held_bytes() + carried + texts);
        pair.plan.rest();
        assert_eq!(pair.plan.held_bytes(), 0);
    }
}
