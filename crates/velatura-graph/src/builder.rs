//! Building graphs: the recorder behind [`Var`], and parameters by dotted path.

use std::cell::{Cell, RefCell};

use crate::error::GraphError;
use crate::graph::{Graph, Init, ParameterInfo, ValueId};
use crate::op::{Constant, Input, Op, Parameter};
use crate::types::{DType, TensorType};
use crate::var::Var;

/// Records operations into a graph.
///
/// Building never fails on the spot: the first operation that does not fit is remembered, everything computed
/// from it is ignored, and [`Builder::finish`] returns the error. Model code therefore reads like arithmetic.
#[derive(Debug, Default)]
pub struct Builder {
    graph: RefCell<Graph>,
    error: RefCell<Option<GraphError>>,
    segment: Cell<Option<u32>>,
    segments: Cell<u32>,
    recomputing: Cell<bool>,
    place: RefCell<String>,
}

impl Builder {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// Continues an existing graph.
    pub fn from_graph(graph: Graph) -> Self {
        let segments = graph.nodes.iter().filter_map(|n| n.segment).max().map_or(0, |s| s + 1);
        Builder { segments: Cell::new(segments), graph: RefCell::new(graph), ..Self::default() }
    }

    /// Declares an input that the caller supplies at each run.
    pub fn input(&self, name: &str, shape: &[usize], dtype: DType) -> Var<'_> {
        if self.graph.borrow().inputs.iter().any(|(n, _)| n == name) {
            self.fail(GraphError::Duplicate { kind: "input", name: name.to_string() });
        }
        let ty = TensorType::new(shape, dtype);
        let var = self.push(Op::Input(Input { name: name.to_string(), ty }), &[])[0];
        if var.id != ValueId::POISON {
            self.graph.borrow_mut().inputs.push((name.to_string(), var.id));
        }
        var
    }

    /// A constant tensor; `values` holds all elements in row-major order, or one that fills the shape.
    pub fn constant(&self, shape: &[usize], values: Vec<f32>) -> Var<'_> {
        self.push(Op::Constant(Constant { shape: shape.to_vec(), values: values.into() }), &[])[0]
    }

    /// A tensor in which every element is `value`.
    pub fn fill(&self, shape: &[usize], value: f32) -> Var<'_> {
        self.constant(shape, vec![value])
    }

    /// The weight with this full name; asked for twice, it is the same weight.
    pub fn parameter(&self, name: &str, shape: &[usize], init: Init) -> Var<'_> {
        let known = self.graph.borrow().parameter(name).map(|p| p.value);
        if let Some(id) = known {
            let var = Var { builder: self, id };
            if var.shape() != shape {
                self.fail(GraphError::ParameterShape {
                    name: name.to_string(),
                    first: var.shape(),
                    second: shape.to_vec(),
                });
            }
            return var;
        }
        let op = Op::Parameter(Parameter { name: name.to_string(), ty: TensorType::f32(shape) });
        // A weight outlives every segment, so it is never part of one.
        let segment = self.segment.replace(None);
        let var = self.push(op, &[])[0];
        self.segment.set(segment);
        if var.id != ValueId::POISON {
            let mut graph = self.graph.borrow_mut();
            let index = graph.parameters.len();
            graph.parameter_index.insert(name.to_string(), index);
            graph.parameters.push(ParameterInfo { name: name.to_string(), value: var.id, init });
        }
        var
    }

    /// Parameters from the root of the name space.
    pub fn params(&self) -> Params<'_> {
        Params { builder: self, prefix: String::new() }
    }

    /// Marks what `build` records as one segment: its inner values are not kept for the backward pass but
    /// computed again there (gradient checkpointing, Chen et al. 2016).
    pub fn checkpoint<T>(&self, build: impl FnOnce() -> T) -> T {
        if self.segment.get().is_some() {
            return build();
        }
        let id = self.segments.get();
        self.segments.set(id + 1);
        self.segment.set(Some(id));
        let result = build();
        self.segment.set(None);
        result
    }

    /// Names an output of the graph. No two have one name.
    pub fn output(&self, name: &str, value: Var<'_>) {
        if self.graph.borrow().outputs.iter().any(|(n, _)| n == name) {
            self.fail(GraphError::Duplicate { kind: "output", name: name.to_string() });
        }
        if value.id != ValueId::POISON {
            self.graph.borrow_mut().add_output(name, value.id);
        }
    }

    /// The handle of a value by its identity.
    pub fn var(&self, id: ValueId) -> Var<'_> {
        Var { builder: self, id }
    }

    /// Looks at the graph as it stands.
    pub fn with_graph<T>(&self, look: impl FnOnce(&Graph) -> T) -> T {
        look(&self.graph.borrow())
    }

    /// The finished graph, or the first thing that was wrong.
    pub fn finish(self) -> Result<Graph, GraphError> {
        match self.error.into_inner() {
            Some(error) => Err(error),
            None => Ok(self.graph.into_inner()),
        }
    }

    /// Records an operation; its outputs stand for nothing when it does not fit.
    pub fn push<'g>(&'g self, op: Op, inputs: &[Var<'g>]) -> Vec<Var<'g>> {
        let count = op.output_count();
        let poison = || vec![Var { builder: self, id: ValueId::POISON }; count];
        if inputs.iter().any(|v| v.id == ValueId::POISON) {
            return poison();
        }
        let ids: Vec<ValueId> = inputs.iter().map(|v| v.id).collect();
        let types: Vec<TensorType> = {
            let graph = self.graph.borrow();
            ids.iter().map(|&id| graph.ty(id).clone()).collect()
        };
        let inferred = op.infer(&types.iter().collect::<Vec<_>>());
        let inferred = inferred.and_then(|out| out.iter().try_for_each(TensorType::check_size).map(|()| out));
        match inferred {
            Ok(outputs) => {
                let mut graph = self.graph.borrow_mut();
                let ids = graph.push(op, ids, outputs, self.segment.get(), self.recomputing.get());
                ids.into_iter().map(|id| Var { builder: self, id }).collect()
            }
            Err(reason) => {
                self.fail_shape(op.name(), reason, types);
                poison()
            }
        }
    }

    /// Remembers that an operation does not fit, and where in the model that was.
    pub(crate) fn fail_shape(&self, operation: &'static str, reason: String, inputs: Vec<TensorType>) {
        let place = self.place.borrow().clone();
        self.fail(GraphError::Shape { place, operation, reason, inputs });
    }

    pub(crate) fn set_recomputing(&self, on: bool) {
        self.recomputing.set(on);
    }

    /// Remembers an error found while building, unless there is one already.
    pub fn fail(&self, error: GraphError) {
        self.error.borrow_mut().get_or_insert(error);
    }
}

/// A place in the name space of parameters: `params.at("down_blocks").at(0).at("conv")`.
#[derive(Clone, Debug)]
pub struct Params<'g> {
    builder: &'g Builder,
    prefix: String,
}

impl<'g> Params<'g> {
    /// The place below this one.
    pub fn at(&self, name: impl std::fmt::Display) -> Params<'g> {
        let prefix = self.full_name(&name.to_string());
        Params { builder: self.builder, prefix }
    }

    /// The weight of this name and shape here.
    pub fn get(&self, name: &str, shape: &[usize], init: Init) -> Var<'g> {
        // Errors that follow name the last parameter that was used, the best hint of where they are.
        let place = if self.prefix.is_empty() { name } else { &self.prefix };
        *self.builder.place.borrow_mut() = format!("{place}: ");
        self.builder.parameter(&self.full_name(name), shape, init)
    }

    /// The builder that records.
    pub fn builder(&self) -> &'g Builder {
        self.builder
    }

    /// The dotted path of this place.
    pub fn path(&self) -> &str {
        &self.prefix
    }

    fn full_name(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) }
    }
}
