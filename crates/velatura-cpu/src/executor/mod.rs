//! Runs a planned graph.

mod algorithm;
mod dispatch;
mod memory;
mod order;
mod products;
mod simple;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use velatura_graph::{DType, Graph, MemoryPlan, Op, ValueId, plan_memory};

use crate::error::CpuError;
use crate::kernels::Order;
use crate::runtime::{CancelToken, Runtime};
use crate::weights::{Form, WeightStore, bytes_of};
use crate::{AlignedBytes, Data, Isa};
pub use algorithm::{Algorithm, Arithmetic, Method, algorithm, traffic};
use dispatch::Frame;
use memory::Memory;

/// A graph ready to run: its plan, its arena, and where its weights are.
pub struct Executor {
    runtime: Arc<Runtime>,
    store: Arc<WeightStore>,
    graph: Graph,
    plan: MemoryPlan,
    arena: AlignedBytes,
    /// Constants written out in full, by value.
    constants: Vec<Option<Vec<f32>>>,
    /// For each value that is a parameter read as it is: its place in the store.
    raw: Vec<Option<usize>>,
    /// How each value lies in memory.
    orders: Vec<Order>,
    /// For each node that reads a packed weight: its place in the store.
    packed: Vec<Option<usize>>,
}

/// The memory plan that an [`Executor`] for this graph would follow, scratch memory of the kernels included. Nothing is
/// allocated for it.
pub fn plan(runtime: &Runtime, graph: &Graph) -> MemoryPlan {
    plan_memory(graph, |node| products::scratch_bytes(graph, node, runtime))
}

/// The weights that an [`Executor`] for this graph reads, in their forms, with the bytes that each takes when it is loaded.
///
/// # Errors
/// A weight of a shape that its kernel cannot pack.
pub fn weights(runtime: &Runtime, graph: &Graph) -> Result<HashMap<(String, Form), usize>, CpuError> {
    let mut all = HashMap::new();
    let mut failed = None;
    each_weight(graph, runtime.isa, |_, name, shape, form| match bytes_of(runtime.isa, shape, &form) {
        Ok(bytes) => drop(all.insert((name.to_string(), form), bytes)),
        Err(error) => failed = Some(error),
    });
    failed.map_or(Ok(all), |error| Err(error.into()))
}

/// Who reads a weight.
enum Reader {
    /// Nodes that read this value as it is.
    Value(ValueId),
    /// The node of this index, which wants it packed.
    Node(usize),
}

/// Every weight that a graph reads, with its shape and form.
fn each_weight(graph: &Graph, isa: Isa, mut read: impl FnMut(Reader, &str, &[usize], Form)) {
    for (i, node) in graph.nodes().iter().enumerate() {
        let form = products::packed_weight(graph, i, isa);
        for (place, &value) in node.inputs.iter().enumerate() {
            let Some((name, shape)) = parameter(graph, value) else { continue };
            match &form {
                Some((at, form)) if *at == place => read(Reader::Node(i), name, shape, form.clone()),
                _ => read(Reader::Value(value), name, shape, Form::Raw),
            }
        }
    }
    for (_, value) in graph.outputs() {
        if let Some((name, shape)) = parameter(graph, *value) {
            read(Reader::Value(*value), name, shape, Form::Raw);
        }
    }
}

impl Executor {
    /// Plans a graph and registers the weights that it needs, which [`WeightStore::load`] then supplies.
    ///
    /// The graph has been through [`velatura_graph::passes::for_inference`] or `for_training`.
    pub fn new(runtime: &Arc<Runtime>, graph: Graph, store: &Arc<WeightStore>) -> Result<Self, CpuError> {
        let plan = plan(runtime, &graph);
        Self::planned(runtime, graph, plan, store)
    }

    /// The same with the plan that [`plan`] gave for the graph.
    pub fn planned(
        runtime: &Arc<Runtime>,
        graph: Graph,
        plan: MemoryPlan,
        store: &Arc<WeightStore>,
    ) -> Result<Self, CpuError> {
        let mut raw = vec![None; graph.values().len()];
        let mut packed = vec![None; graph.nodes().len()];
        each_weight(&graph, runtime.isa, |reader, name, shape, form| {
            let position = Some(store.register(name, shape, form));
            match reader {
                Reader::Value(value) => raw[value.index()] = position,
                Reader::Node(node) => packed[node] = position,
            }
        });
        let mut constants = vec![None; graph.values().len()];
        for node in graph.nodes() {
            if let Op::Constant(constant) = &node.op {
                let elements = graph.ty(node.outputs[0]).elements();
                let values = if constant.values.len() == 1 {
                    vec![constant.values[0]; elements]
                } else {
                    constant.values.to_vec()
                };
                constants[node.outputs[0].index()] = Some(values);
            }
        }
        let (runtime, store) = (Arc::clone(runtime), Arc::clone(store));
        let orders = order::orders(&graph, runtime.isa);
        let arena = AlignedBytes::default();
        Ok(Executor { runtime, store, graph, plan, arena, constants, raw, orders, packed })
    }

    /// The graph that is run.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The instruction set of its kernels.
    pub fn isa(&self) -> Isa {
        self.runtime.isa
    }

    /// Where everything lives.
    pub fn plan(&self) -> &MemoryPlan {
        &self.plan
    }

    /// Bytes of activations and scratch, as planned: what a run allocates.
    pub fn arena_bytes(&self) -> usize {
        self.plan.arena_bytes
    }

    /// Bytes of them that are allocated: none before the first run, and after [`Executor::rest`].
    pub fn held_bytes(&self) -> usize {
        self.arena.len()
    }

    /// Gives the memory of the activations back until the next run; the outputs are gone with it.
    pub fn rest(&mut self) {
        self.arena = AlignedBytes::default();
    }

    /// Runs the graph on the named inputs. The outputs stay readable until the next run.
    pub fn run(&mut self, inputs: &[(&str, Data<'_>)], cancel: &CancelToken) -> Result<(), CpuError> {
        self.run_observed(inputs, cancel, |_, _, _| ())
    }

    /// As [`Executor::run`], and says how long each node took.
    pub fn run_observed(
        &mut self,
        inputs: &[(&str, Data<'_>)],
        cancel: &CancelToken,
        mut observe: impl FnMut(&Graph, usize, Duration),
    ) -> Result<(), CpuError> {
        self.arena.reserve(self.plan.arena_bytes);
        let given = self.match_inputs(inputs)?;
        let weights = self.store.loaded();
        let memory = Memory {
            arena: self.arena.as_mut_ptr(),
            plan: &self.plan,
            graph: &self.graph,
            constants: &self.constants,
            raw: &self.raw,
            weights: &weights,
            inputs: &given,
        };
        for (i, node) in self.graph.nodes().iter().enumerate() {
            if cancel.is_cancelled() {
                return Err(CpuError::Cancelled);
            }
            let start = Instant::now();
            let streamed =
                self.packed[i].map(|position| weights.stream(position, &self.store)).transpose()?;
            let streamed = streamed.flatten();
            let frame = Frame {
                runtime: &self.runtime,
                graph: &self.graph,
                memory: &memory,
                orders: &self.orders,
                weights: &weights,
                streamed: streamed.as_ref(),
            };
            frame.run_node(i, node, self.packed[i])?;
            if let Some(matrix) = streamed {
                self.store.give_back(matrix);
            }
            observe(&self.graph, i, start.elapsed());
        }
        Ok(())
    }

    /// An output of the last run, in single precision, as the outputs of whole graphs are.
    ///
    /// An output that is itself an input of the graph cannot be read back this way.
    pub fn output(&self, name: &str) -> Result<&[f32], CpuError> {
        match self.output_data(name)? {
            Data::F32(output) => Ok(output),
            _ => Err(CpuError::UnknownOutput(name.to_string())),
        }
    }

    /// As [`Executor::output`], of the type that the output has: those of a [`velatura_graph::passes::Split::prelude`] may have
    /// any.
    pub fn output_data(&self, name: &str) -> Result<Data<'_>, CpuError> {
        let unknown = || CpuError::UnknownOutput(name.to_string());
        let value = self.graph.output(name).map_err(|_| unknown())?;
        let root = memory::root(&self.plan, value);
        if let Some(constant) = &self.constants[root.index()] {
            return Ok(Data::F32(constant));
        }
        let (offset, _) = memory::arena_place(&self.plan, root).ok_or_else(unknown)?;
        let ty = self.graph.ty(value);
        let data = match ty.dtype {
            DType::F32 => part(&self.arena, offset, ty.elements()).map(Data::F32),
            DType::Bf16 => part(&self.arena, offset, ty.elements()).map(Data::Bf16),
            DType::I32 => part(&self.arena, offset, ty.elements()).map(Data::I32),
        };
        data.ok_or_else(unknown)
    }

    fn match_inputs<'d>(&self, given: &[(&str, Data<'d>)]) -> Result<Vec<Option<Data<'d>>>, CpuError> {
        let mut found = vec![None; self.graph.values().len()];
        for (name, value) in self.graph.inputs() {
            let expected = self.graph.ty(*value);
            let Some((_, data)) = given.iter().find(|(n, _)| n == name) else {
                // An input that nothing reads need not be given.
                if self.graph.nodes().iter().any(|n| n.inputs.contains(value)) {
                    return Err(CpuError::MissingInput { name: name.clone(), expected: expected.clone() });
                }
                continue;
            };
            if data.dtype() != expected.dtype || data.len() != expected.elements() {
                return Err(CpuError::WrongInput {
                    name: name.clone(),
                    expected: expected.clone(),
                    given: data.len(),
                });
            }
            found[value.index()] = Some(*data);
        }
        Ok(found)
    }
}

/// The elements from this byte on; nothing where the memory has been given back.
fn part<T: bytemuck::AnyBitPattern>(memory: &AlignedBytes, offset: usize, elements: usize) -> Option<&[T]> {
    memory.typed().get(offset / size_of::<T>()..)?.get(..elements)
}

/// Name and shape of a value that is a parameter.
fn parameter(graph: &Graph, value: ValueId) -> Option<(&str, &[usize])> {
    match &graph.nodes()[graph.values()[value.index()].producer].op {
        Op::Parameter(parameter) => Some((&parameter.name, &parameter.ty.shape)),
        _ => None,
    }
}
