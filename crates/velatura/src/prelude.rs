//! A network that runs at every step of a run, of which a part depends on what stays the same: that part runs again only when
//! what it reads is another.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use velatura_cpu::{CancelToken, CpuError, Data, Executor, Form, Runtime, WeightStore};
use velatura_graph::passes::{Split, split};
use velatura_graph::{Graph, MemoryPlan};

/// A graph and where its values will live.
type Laid = (Graph, MemoryPlan);

/// A network before it is made ready to run.
pub(crate) struct Planned {
    /// What runs every time.
    step: Laid,
    /// What runs when what it reads is another.
    prelude: Option<Laid>,
}

impl Planned {
    /// `fixed` are the inputs that stay the same over many runs, by name.
    pub fn new(runtime: &Runtime, graph: Graph, fixed: &[&str]) -> Self {
        let lay = |graph: Graph| {
            let plan = velatura_cpu::plan(runtime, &graph);
            (graph, plan)
        };
        match split(&graph, fixed) {
            Some(Split { prelude, rest }) => Planned { step: lay(rest), prelude: Some(lay(prelude)) },
            None => Planned { step: lay(graph), prelude: None },
        }
    }

    /// The graphs of the parts.
    pub fn graphs(&self) -> impl Iterator<Item = &Graph> {
        [&self.step].into_iter().chain(&self.prelude).map(|(graph, _)| graph)
    }

    /// Bytes of activations and scratch, of what the parts hand over, and of what is kept to know whether it still holds.
    pub fn activation_bytes(&self) -> usize {
        let arenas = [&self.step].into_iter().chain(&self.prelude).map(|(_, plan)| plan.arena_bytes);
        arenas.sum::<usize>() + self.prelude.as_ref().map_or(0, |(graph, _)| input_bytes(graph))
    }

    /// Arithmetic of the products of a run, and of the prelude before it.
    pub fn flops(&self) -> [f64; 2] {
        let all = |graph: &Graph| graph.nodes().iter().map(|node| graph.flops(node)).sum();
        [all(&self.step.0), self.prelude.as_ref().map_or(0.0, |(graph, _)| all(graph))]
    }

    /// Bytes of each weight in its form.
    pub fn weights(&self, runtime: &Runtime) -> Result<HashMap<(String, Form), usize>, CpuError> {
        let mut all = HashMap::new();
        for graph in self.graphs() {
            all.extend(velatura_cpu::weights_of(runtime, graph)?);
        }
        Ok(all)
    }
}

fn input_bytes(graph: &Graph) -> usize {
    graph.inputs().iter().map(|(_, value)| graph.ty(*value).bytes()).sum()
}

/// A network ready to run.
pub(crate) struct Plan {
    step: Executor,
    prelude: Option<Prelude>,
}

struct Prelude {
    executor: Executor,
    /// What its results are of: the bytes of its inputs, in the graph's order. Nothing where there are no results.
    of: Option<Vec<Vec<u8>>>,
}

impl Plan {
    /// Registers the weights that it needs.
    pub fn new(runtime: &Arc<Runtime>, planned: Planned, store: &Arc<WeightStore>) -> Result<Self, CpuError> {
        let executor = |(graph, plan): Laid| Executor::planned(runtime, graph, plan, store);
        let prelude =
            planned.prelude.map(|laid| executor(laid).map(|executor| Prelude { executor, of: None }));
        Ok(Plan { step: executor(planned.step)?, prelude: prelude.transpose()? })
    }

    /// Runs the network on the named inputs. The outputs stay readable until the next run.
    pub fn run(&mut self, inputs: &[(&str, Data<'_>)], cancel: &CancelToken) -> Result<(), CpuError> {
        self.run_observed(inputs, cancel, |_, _, _| ())
    }

    /// As [`Plan::run`], and says how long each node took of what runs every time.
    pub fn run_observed(
        &mut self,
        inputs: &[(&str, Data<'_>)],
        cancel: &CancelToken,
        observe: impl FnMut(&Graph, usize, Duration),
    ) -> Result<(), CpuError> {
        let Some(prelude) = &mut self.prelude else {
            return self.step.run_observed(inputs, cancel, observe);
        };
        prelude.run(inputs, cancel)?;
        let mut all = inputs.to_vec();
        for (name, _) in prelude.executor.graph().outputs() {
            all.push((name, prelude.executor.output_data(name)?));
        }
        self.step.run_observed(&all, cancel, observe)
    }

    /// An output of the last run.
    pub fn output(&self, name: &str) -> Result<&[f32], CpuError> {
        self.step.output(name)
    }

    /// Gives the memory of the activations back until the next run; the outputs are gone with it.
    pub fn rest(&mut self) {
        self.step.rest();
        if let Some(prelude) = &mut self.prelude {
            prelude.executor.rest();
            prelude.of = None;
        }
    }

    /// Says that the weights are others than at the last run.
    pub fn reloaded(&mut self) {
        if let Some(prelude) = &mut self.prelude {
            prelude.of = None;
        }
    }

    /// Bytes that are held of [`Planned::activation_bytes`].
    pub fn held_bytes(&self) -> usize {
        let prelude = self.prelude.as_ref().map_or(0, |prelude| {
            let kept: usize = prelude.of.iter().flatten().map(Vec::len).sum();
            prelude.executor.held_bytes() + kept
        });
        self.step.held_bytes() + prelude
    }
}

impl Prelude {
    /// Makes its results those of these inputs, unless they are.
    fn run(&mut self, inputs: &[(&str, Data<'_>)], cancel: &CancelToken) -> Result<(), CpuError> {
        let given =
            |name: &str| inputs.iter().find(|(n, _)| *n == name).map_or(&[][..], |(_, data)| bytes(data));
        let read = self.executor.graph().inputs().iter().map(|(name, _)| given(name));
        if self.of.as_ref().is_some_and(|of| of.iter().map(Vec::as_slice).eq(read.clone())) {
            return Ok(());
        }
        let read = read.map(<[u8]>::to_vec).collect();
        // A run that is stopped leaves half of the results.
        self.of = None;
        self.executor.run(inputs, cancel)?;
        self.of = Some(read);
        Ok(())
    }
}

fn bytes<'a>(data: &Data<'a>) -> &'a [u8] {
    match data {
        Data::F32(x) => bytemuck::cast_slice(x),
        Data::Bf16(x) => bytemuck::cast_slice(x),
        Data::I32(x) => bytemuck::cast_slice(x),
    }
}

#[cfg(test)]
mod tests;
