//! The graph itself: nodes in the order in which they run, and the values between them.

use std::collections::HashMap;

use crate::error::GraphError;
use crate::op::Op;
use crate::shortcuts::Shortcuts;
use crate::types::TensorType;

/// Identifies a value of one graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub(crate) u32);

impl ValueId {
    /// Stands for the result of an operation that could not be built.
    pub(crate) const POISON: ValueId = ValueId(u32::MAX);

    /// Position in [`Graph::values`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A tensor that flows through the graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Shape and element type.
    pub ty: TensorType,
    /// Position in [`Graph::nodes`] of the node that makes it.
    pub producer: usize,
}

/// One operation at work.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it does.
    pub op: Op,
    /// What it reads.
    pub inputs: Vec<ValueId>,
    /// What it makes.
    pub outputs: Vec<ValueId>,
    /// The checkpointed segment it belongs to, if any.
    pub segment: Option<u32>,
    /// Whether it repeats a node of the forward pass to save memory. Such a node is never merged with its original.
    pub recomputed: bool,
}

/// How a parameter begins its life when a model is trained from scratch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All zero.
    Zeros,
    /// All one.
    Ones,
    /// Gaussian with this standard deviation.
    Normal(f32),
    /// Uniform on `[-bound, bound)`.
    Uniform(f32),
}

impl Init {
    /// PyTorch's default for linear and convolution layers and their biases: uniform on
    /// `1/sqrt(fan_in)`, where `fan_in` counts the inputs of one output.
    pub fn fan_in(fan_in: usize) -> Self {
        Init::Uniform(1.0 / (fan_in.max(1) as f32).sqrt())
    }
}

/// A named weight of the model.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterInfo {
    /// Full dotted name, as diffusers writes it.
    pub name: String,
    /// Its value in the graph.
    pub value: ValueId,
    /// How it is initialised.
    pub init: Init,
}

/// Nodes in the order in which they run, and the values between them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    pub(crate) nodes: Vec<Node>,
    pub(crate) values: Vec<Value>,
    pub(crate) inputs: Vec<(String, ValueId)>,
    pub(crate) parameters: Vec<ParameterInfo>,
    pub(crate) parameter_index: HashMap<String, usize>,
    pub(crate) outputs: Vec<(String, ValueId)>,
    pub(crate) shortcuts: Shortcuts,
}

impl Graph {
    /// The nodes, each after those whose results it reads.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All values, indexed by [`ValueId::index`].
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// The type of a value.
    pub fn ty(&self, value: ValueId) -> &TensorType {
        &self.values[value.index()].ty
    }

    /// What the caller supplies at each run.
    pub fn inputs(&self) -> &[(String, ValueId)] {
        &self.inputs
    }

    /// The weights, in order of first use.
    pub fn parameters(&self) -> &[ParameterInfo] {
        &self.parameters
    }

    /// What a run returns.
    pub fn outputs(&self) -> &[(String, ValueId)] {
        &self.outputs
    }

    /// The parameter with this full name.
    pub fn parameter(&self, name: &str) -> Option<&ParameterInfo> {
        self.parameter_index.get(name).map(|&i| &self.parameters[i])
    }

    /// The value of a named output.
    pub fn output(&self, name: &str) -> Result<ValueId, GraphError> {
        find(&self.outputs, "output", name)
    }

    /// The value of a named input.
    pub fn input(&self, name: &str) -> Result<ValueId, GraphError> {
        find(&self.inputs, "input", name)
    }

    /// Names another output.
    pub fn add_output(&mut self, name: impl Into<String>, value: ValueId) {
        self.outputs.push((name.into(), value));
    }

    /// Forgets the outputs whose names are not to be kept; what only they needed is then dead.
    pub fn retain_outputs(&mut self, keep: impl Fn(&str) -> bool) {
        self.outputs.retain(|(name, _)| keep(name));
    }

    /// The total number of weights.
    pub fn parameter_elements(&self) -> usize {
        self.parameters.iter().map(|p| self.ty(p.value).elements()).sum()
    }

    /// For each value, how many times nodes and outputs read it.
    pub fn uses(&self) -> Vec<usize> {
        let mut uses = vec![0; self.values.len()];
        let read = self.nodes.iter().flat_map(|n| &n.inputs).chain(self.outputs.iter().map(|(_, v)| v));
        read.for_each(|v| uses[v.index()] += 1);
        uses
    }

    /// Appends a node whose shape rule has been applied already.
    pub(crate) fn push(
        &mut self,
        op: Op,
        inputs: Vec<ValueId>,
        types: Vec<TensorType>,
        segment: Option<u32>,
        recomputed: bool,
    ) -> Vec<ValueId> {
        let producer = self.nodes.len();
        let outputs: Vec<ValueId> = types
            .into_iter()
            .map(|ty| {
                self.values.push(Value { ty, producer });
                ValueId(self.values.len() as u32 - 1)
            })
            .collect();
        self.nodes.push(Node { op, inputs, outputs: outputs.clone(), segment, recomputed });
        outputs
    }
}

fn find(list: &[(String, ValueId)], kind: &'static str, name: &str) -> Result<ValueId, GraphError> {
    list.iter()
        .find(|(n, _)| n == name)
        .map(|(_, v)| *v)
        .ok_or_else(|| GraphError::Unknown { kind, name: name.to_string() })
}
