//! The compiled training step: a network's loss, differentiated, planned and run.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use velatura_cpu::{CancelToken, Data, Executor, Profile, Runtime, WeightStore};
use velatura_graph::passes::{self, Fusion, Precision};
use velatura_graph::{Builder, Graph, GraphError, Var, gradients};

use crate::TrainError;
use crate::parameters::Table;

/// Name of the output that is minimised.
pub(crate) const LOSS: &str = "loss";

/// A tensor on its way into a graph.
#[derive(Clone, Debug, PartialEq)]
pub enum Tensor {
    /// Numbers.
    F32(Vec<f32>),
    /// Indices.
    I32(Vec<i32>),
}

impl Tensor {
    /// As the executor takes it.
    pub fn data(&self) -> Data<'_> {
        match self {
            Tensor::F32(x) => Data::F32(x),
            Tensor::I32(x) => Data::I32(x),
        }
    }
}

impl From<Vec<f32>> for Tensor {
    fn from(values: Vec<f32>) -> Self {
        Tensor::F32(values)
    }
}

impl From<Vec<i32>> for Tensor {
    fn from(values: Vec<i32>) -> Self {
        Tensor::I32(values)
    }
}

/// The inputs of one run, by name.
pub type Batch = Vec<(&'static str, Tensor)>;

/// Weights that are not trained, by full name.
pub type Frozen = HashMap<String, Vec<f32>>;

/// A graph that gives the loss and all gradients, ready to run.
pub struct Step {
    store: Arc<WeightStore>,
    executor: Executor,
    table: Table,
    frozen: Frozen,
    metrics: Vec<&'static str>,
    /// `grad:` and the weight's name, for each weight.
    gradient_names: Vec<String>,
    /// Where the time of the runs goes, when somebody asked.
    profile: Option<Profile>,
}

impl Step {
    /// Differentiates and plans a forward graph with a scalar output [`LOSS`]; `metrics` names further scalar outputs.
    /// Weights in `frozen` are constants.
    pub fn new(
        runtime: &Arc<Runtime>,
        forward: Graph,
        precision: Precision,
        metrics: &[&'static str],
        frozen: Frozen,
    ) -> Result<Self, TrainError> {
        let forward = passes::remove_dead(passes::merge_common(forward));
        let forward = passes::fuse(forward, Fusion::Differentiable);
        let table = Table::of_graph(&forward, |name| !frozen.contains_key(name));
        let graph = with_gradients(forward, &table)?;
        let graph = passes::for_training(graph, precision);
        let store = WeightStore::new(runtime);
        let executor = Executor::new(runtime, graph, &store)?;
        let gradient_names = table.entries().iter().map(|e| format!("grad:{}", e.name)).collect();
        Ok(Step { store, executor, table, frozen, metrics: metrics.to_vec(), gradient_names, profile: None })
    }

    /// The trained weights.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Bytes of activations.
    pub fn arena_bytes(&self) -> usize {
        self.executor.arena_bytes()
    }

    /// Notes from now on where the time of the runs goes.
    pub fn watch(&mut self) {
        self.profile = Some(Profile::new(self.executor.isa()));
    }

    /// Where the time went since [`Step::watch`].
    pub fn profile(&self) -> Option<&Profile> {
        self.profile.as_ref()
    }

    /// Takes over changed weights.
    pub fn load(&self, weights: &[f32]) -> Result<(), TrainError> {
        let find = |name: &str| match self.table.entry(name) {
            Some(entry) => Some(Cow::Borrowed(entry.of(weights))),
            None => self.frozen.get(name).map(|values| Cow::Borrowed(values.as_slice())),
        };
        Ok(self.store.load(&find)?)
    }

    /// Runs one batch. Gradients are added to `gradients`, or put there when `first`; returns loss and metrics.
    pub fn run(
        &mut self,
        batch: &Batch,
        gradients: &mut [f32],
        first: bool,
        cancel: &CancelToken,
    ) -> Result<(f64, Vec<f64>), TrainError> {
        let loss = self.differentiate(batch, cancel)?;
        for (entry, name) in self.table.entries().iter().zip(&self.gradient_names) {
            let (from, to) =
                (self.executor.output(name)?, &mut gradients[entry.offset..entry.offset + entry.len]);
            if first {
                to.copy_from_slice(from);
            } else {
                to.iter_mut().zip(from).for_each(|(sum, g)| *sum += g);
            }
        }
        let metrics = self.metrics.iter().map(|name| self.scalar(name)).collect::<Result<_, _>>()?;
        Ok((loss, metrics))
    }

    /// Computes the loss, which is returned, and all gradients, which stay in the plan's memory.
    pub fn differentiate(&mut self, batch: &Batch, cancel: &CancelToken) -> Result<f64, TrainError> {
        let inputs: Vec<(&str, Data<'_>)> = batch.iter().map(|(name, t)| (*name, t.data())).collect();
        let profile = &mut self.profile;
        self.executor.run_observed(&inputs, cancel, |graph, node, took| {
            if let Some(profile) = profile {
                profile.add(graph, node, took);
            }
        })?;
        self.scalar(LOSS)
    }

    /// Names of the metrics.
    pub fn metrics(&self) -> &[&'static str] {
        &self.metrics
    }

    fn scalar(&self, name: &str) -> Result<f64, TrainError> {
        Ok(self.executor.output(name)?.first().map_or(f64::NAN, |&v| f64::from(v)))
    }
}

/// The graph with an output `grad:<name>` for each weight of the table.
fn with_gradients(forward: Graph, table: &Table) -> Result<Graph, GraphError> {
    let loss = forward.output(LOSS)?;
    let mut values = Vec::with_capacity(table.entries().len());
    for entry in table.entries() {
        let parameter = forward.parameter(&entry.name);
        let unknown = || GraphError::Unknown { kind: "parameter", name: entry.name.clone() };
        values.push(parameter.ok_or_else(unknown)?.value);
    }
    let builder = Builder::from_graph(forward);
    let wanted: Vec<Var<'_>> = values.into_iter().map(|v| builder.var(v)).collect();
    let grads = gradients(&builder, builder.var(loss), &wanted)?;
    for (entry, grad) in table.entries().iter().zip(grads) {
        builder.output(&format!("grad:{}", entry.name), grad);
    }
    builder.finish()
}
