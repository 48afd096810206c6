//! Plans of a model's networks: made when first needed, kept, and those of a network sharing one set of packed weights.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use velatura_cpu::{CpuError, Form, Runtime, StoredWeights, Values, WeightStore};
use velatura_graph::Graph;

use crate::networks::Network;
use crate::prelude::{Plan, Planned};
use crate::request::Precision;
use crate::source::WeightSource;
use crate::{Error, ModelManifest};

/// What decides a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PlanKey {
    pub network: Network,
    pub batch: usize,
    /// Rows of the latent; 0 for text.
    pub height: usize,
    /// Columns of the latent; 0 for text.
    pub width: usize,
    pub precision: Precision,
}

/// A network whatever the size of what it is given: what weights belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    /// A text encoder, by number.
    Text(usize),
    Denoise,
    Decode,
    Encode,
}

impl Network {
    fn part(self) -> Part {
        match self {
            Network::Text { encoder, .. } => Part::Text(encoder),
            Network::Denoise { .. } => Part::Denoise,
            Network::Decode => Part::Decode,
            Network::Encode => Part::Encode,
        }
    }
}

/// More plans than this are of shapes that are no longer asked for.
const MOST_PLANS: usize = 12;
/// The same for what is known of them.
const MOST_DRAFTS: usize = 24;

pub(crate) type SharedPlan = Arc<Mutex<Plan>>;

/// What a plan will need.
pub(crate) struct Needs {
    /// Bytes of each weight in its form.
    pub weights: HashMap<(String, Form), usize>,
    /// Bytes of activations and scratch, and of what depends on the texts alone and is kept from step to step.
    pub arena: usize,
    /// Arithmetic of its products in one run.
    pub flops: f64,
    /// The same of what runs once for the same texts, before the first of the runs.
    pub prelude_flops: f64,
}

/// A plan before it is made: what it will need, and the graph until it is.
struct Draft {
    needs: Arc<Needs>,
    planned: Option<Planned>,
}

pub(crate) struct Plans {
    runtime: Arc<Runtime>,
    drafts: Mutex<HashMap<PlanKey, Draft>>,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    /// Least recently used first.
    plans: Vec<(PlanKey, SharedPlan)>,
    stores: HashMap<Part, Arc<WeightStore>>,
    /// Bytes of the denoiser's packed weights that are kept, where not all are.
    resident: Option<u64>,
}

impl Plans {
    pub fn new(runtime: &Arc<Runtime>) -> Self {
        Plans { runtime: Arc::clone(runtime), drafts: Mutex::default(), held: Mutex::default() }
    }

    /// What a plan needs; nothing is allocated for it.
    pub fn needs(&self, key: PlanKey, manifest: &ModelManifest) -> Result<Arc<Needs>, Error> {
        if let Some(draft) = lock(&self.drafts).get(&key) {
            return Ok(Arc::clone(&draft.needs));
        }
        let planned = self.draft(key, manifest)?;
        let [flops, prelude_flops] = planned.flops();
        let (weights, arena) = (planned.weights(&self.runtime)?, planned.activation_bytes());
        let needs = Arc::new(Needs { weights, arena, flops, prelude_flops });
        let mut drafts = lock(&self.drafts);
        if drafts.len() >= MOST_DRAFTS {
            drafts.clear();
        }
        drafts.insert(key, Draft { needs: Arc::clone(&needs), planned: Some(planned) });
        Ok(needs)
    }

    fn draft(&self, key: PlanKey, manifest: &ModelManifest) -> Result<Planned, Error> {
        let graph = key.network.graph(manifest, key.batch, key.height, key.width)?;
        let graph = key.network.lowered(graph, key.precision);
        Ok(Planned::new(&self.runtime, graph, key.network.fixed()))
    }

    /// The plan, made and its weights loaded if need be.
    pub fn get(
        &self,
        key: PlanKey,
        manifest: &ModelManifest,
        weights: &Arc<dyn WeightSource>,
    ) -> Result<SharedPlan, PlanFailure> {
        let mut held = lock(&self.held);
        if let Some(at) = held.plans.iter().position(|(k, _)| *k == key) {
            let entry = held.plans.remove(at);
            let plan = Arc::clone(&entry.1);
            held.plans.push(entry);
            return Ok(plan);
        }
        let began = Instant::now();
        let drafted = lock(&self.drafts).get_mut(&key).and_then(|draft| draft.planned.take());
        let plan = match drafted {
            Some(drafted) => drafted,
            None => self.draft(key, manifest)?,
        };
        plan.graphs().try_for_each(|graph| check_shapes(graph, weights.as_ref()))?;
        let part = key.network.part();
        let resident = held.resident;
        let store = held.stores.entry(part).or_insert_with(|| WeightStore::new(&self.runtime));
        if let (Part::Denoise, Some(resident)) = (part, resident) {
            let source: Arc<dyn StoredWeights> = Arc::new(Streamed(Arc::clone(weights)));
            store.stream(Some(usize::try_from(resident).unwrap_or(usize::MAX)), &source);
        }
        let arena = plan.activation_bytes();
        let plan = Plan::new(&self.runtime, plan, store).map_err(Error::from)?;
        let planned = began.elapsed();
        each_once(weights.as_ref(), |find| store.load_missing(find)).map_err(PlanFailure::Weights)?;
        tracing::debug!(?key, arena, ?planned, packed = ?(began.elapsed() - planned), "ready");
        let plan = Arc::new(Mutex::new(plan));
        if held.plans.len() >= MOST_PLANS {
            held.plans.remove(0);
        }
        held.plans.push((key, Arc::clone(&plan)));
        Ok(plan)
    }

    /// Packs the weights of all plans anew, after the source changed.
    pub fn reload(&self, weights: &dyn WeightSource) -> Result<(), CpuError> {
        let held = lock(&self.held);
        let loaded = held.stores.values().try_for_each(|store| each_once(weights, |find| store.load(find)));
        // Afterwards, so that no plan that ran in between keeps what it made of the weights before.
        held.plans.iter().for_each(|(_, plan)| lock(plan).reloaded());
        loaded
    }

    /// Keeps so many bytes of the denoiser's packed weights, or all. What is held otherwise is given back.
    pub fn keep_resident(&self, resident: Option<u64>) {
        let mut held = lock(&self.held);
        if held.resident != resident {
            held.release(|part| part == Part::Denoise);
            held.resident = resident;
        }
    }

    /// Gives the weights and plans of some networks back.
    pub fn release(&self, which: impl Fn(Part) -> bool) {
        lock(&self.held).release(which);
    }

    /// Gives the activations of some networks back.
    pub fn rest(&self, which: impl Fn(Part) -> bool) {
        let held = lock(&self.held);
        let resting = held.plans.iter().filter(|(key, _)| which(key.network.part()));
        resting.for_each(|(_, plan)| lock(plan).rest());
    }

    /// Bytes of packed weights, and of all arenas.
    pub fn bytes(&self) -> (usize, usize) {
        let held = lock(&self.held);
        let arenas = held.plans.iter().map(|(_, plan)| lock(plan).held_bytes()).sum();
        (held.stores.values().map(|store| store.bytes()).sum(), arenas)
    }
}

impl Held {
    fn release(&mut self, which: impl Fn(Part) -> bool) {
        self.plans.retain(|(key, _)| !which(key.network.part()));
        self.stores.retain(|part, _| !which(*part));
    }
}

/// A model's weights for plans that read them while they run.
struct Streamed(Arc<dyn WeightSource>);

impl StoredWeights for Streamed {
    fn stored(&self, name: &str) -> Option<Values<'_>> {
        self.0.stored(name)
    }

    fn done(&self, name: &str) {
        self.0.forget(name);
    }
}

/// Runs a loading that asks for weights one after another, and says of each that it is done with when the next is asked
/// for: a file's pages and what was packed from them are not both kept.
fn each_once<'w>(
    weights: &'w dyn WeightSource,
    load: impl FnOnce(&dyn Fn(&str) -> Option<Values<'w>>) -> Result<(), CpuError>,
) -> Result<(), CpuError> {
    let last: RefCell<Option<String>> = RefCell::default();
    let done = |next: Option<&str>| {
        if let Some(packed) = last.replace(next.map(String::from)) {
            weights.forget(&packed);
        }
    };
    let result = load(&|name| {
        done(Some(name));
        weights.stored(name)
    });
    done(None);
    result
}

/// Why there is no plan: the request and configuration, or the weights, of which only the engine knows the file.
pub(crate) enum PlanFailure {
    Error(Error),
    Weights(CpuError),
}

impl<E: Into<Error>> From<E> for PlanFailure {
    fn from(error: E) -> Self {
        PlanFailure::Error(error.into())
    }
}

/// A poisoned lock only means that another thread panicked between two runs; a plan holds nothing half done.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

fn check_shapes(graph: &Graph, weights: &dyn WeightSource) -> Result<(), PlanFailure> {
    for parameter in graph.parameters() {
        let expected = &graph.ty(parameter.value).shape;
        match weights.shape(&parameter.name) {
            Some(found) if found == *expected => {}
            Some(found) => {
                return Err(PlanFailure::Weights(CpuError::WrongWeight {
                    name: parameter.name.clone(),
                    shape: expected.clone(),
                    given: found.iter().product(),
                }));
            }
            None => {
                let (name, shape) = (parameter.name.clone(), expected.clone());
                return Err(PlanFailure::Weights(CpuError::MissingWeight { name, shape }));
            }
        }
    }
    Ok(())
}
