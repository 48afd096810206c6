//! Plans of a model's networks: made when first needed, kept, and sharing one set of packed weights.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use velatura_cpu::{CpuError, Executor, Runtime, Values, WeightStore};
use velatura_graph::{Graph, GraphError, passes};

use crate::networks::Network;
use crate::request::{Precision, RequestError};
use crate::source::WeightSource;
use crate::{Error, ModelManifest, memory};

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

/// More plans than this are of shapes that are no longer asked for.
const MOST_PLANS: usize = 12;

pub(crate) type SharedPlan = Arc<Mutex<Executor>>;

pub(crate) struct Plans {
    runtime: Arc<Runtime>,
    store: Arc<WeightStore>,
    /// Least recently used first.
    list: Mutex<Vec<(PlanKey, SharedPlan)>>,
}

impl Plans {
    pub fn new(runtime: &Arc<Runtime>) -> Self {
        Plans { runtime: Arc::clone(runtime), store: WeightStore::new(runtime), list: Mutex::default() }
    }

    /// The plan, made and its weights loaded if need be.
    pub fn get(
        &self,
        key: PlanKey,
        manifest: &ModelManifest,
        weights: &dyn WeightSource,
    ) -> Result<SharedPlan, PlanFailure> {
        let mut list = lock(&self.list);
        if let Some(at) = list.iter().position(|(k, _)| *k == key) {
            let entry = list.remove(at);
            let plan = Arc::clone(&entry.1);
            list.push(entry);
            return Ok(plan);
        }
        let began = Instant::now();
        let graph = key.network.graph(manifest, key.batch, key.height, key.width)?;
        check_shapes(&graph, weights)?;
        let graph = passes::for_inference(graph, key.network.precision(key.precision).of_graph());
        check_memory(&self.runtime, &graph, &key, manifest)?;
        let executor = Executor::new(&self.runtime, graph, &self.store).map_err(Error::from)?;
        let planned = began.elapsed();
        each_once(weights, |find| self.store.load_missing(find)).map_err(PlanFailure::Weights)?;
        tracing::debug!(?key, arena = executor.arena_bytes(), ?planned, packed = ?(began.elapsed() - planned), "ready");
        let plan = Arc::new(Mutex::new(executor));
        if list.len() >= MOST_PLANS {
            list.remove(0);
        }
        list.push((key, Arc::clone(&plan)));
        Ok(plan)
    }

    /// Whether running a network like this would take more than half of the memory that is free; nothing is allocated.
    pub fn exceeds_half_of_free_memory(
        &self,
        key: PlanKey,
        manifest: &ModelManifest,
    ) -> Result<bool, GraphError> {
        let Some(available) = memory::available() else { return Ok(false) };
        let graph = key.network.graph(manifest, key.batch, key.height, key.width)?;
        let graph = passes::for_inference(graph, key.network.precision(key.precision).of_graph());
        Ok(velatura_cpu::plan(&self.runtime, &graph).arena_bytes as u64 > available / 2)
    }

    /// Packs the weights of all plans anew, after the source changed.
    pub fn reload(&self, weights: &dyn WeightSource) -> Result<(), CpuError> {
        each_once(weights, |find| self.store.load(find))
    }

    /// Bytes of packed weights, and of all arenas.
    pub fn bytes(&self) -> (usize, usize) {
        let arenas = lock(&self.list).iter().map(|(_, plan)| lock(plan).arena_bytes()).sum();
        (self.store.bytes(), arenas)
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

/// Refuses what cannot fit before the arena is allocated.
fn check_memory(
    runtime: &Runtime,
    graph: &Graph,
    key: &PlanKey,
    manifest: &ModelManifest,
) -> Result<(), RequestError> {
    let Some(available) = memory::available() else { return Ok(()) };
    let needed = velatura_cpu::plan(runtime, graph).arena_bytes as u64;
    if needed <= available {
        return Ok(());
    }
    let factor = manifest.latent_factor();
    Err(RequestError::Memory {
        width: (key.width as u32).saturating_mul(factor),
        height: (key.height as u32).saturating_mul(factor),
        together: key.batch,
        needed_mib: needed >> 20,
        available_mib: available >> 20,
    })
}
