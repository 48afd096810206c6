//! What passes share: copying a graph node by node while changing some.

use crate::graph::{Graph, Node, ValueId};
use crate::op::Op;
use crate::types::TensorType;

/// A graph being copied.
pub(super) struct Rewriter<'a> {
    old: &'a Graph,
    pub(super) new: Graph,
    map: Vec<Option<ValueId>>,
}

impl<'a> Rewriter<'a> {
    pub(super) fn new(old: &'a Graph) -> Self {
        let new = Graph { shortcuts: old.shortcuts, ..Graph::default() };
        Rewriter { old, new, map: vec![None; old.values().len()] }
    }

    /// Where a value of the old graph is now. Passes visit nodes in order, so it has been copied.
    pub(super) fn value(&self, old: ValueId) -> ValueId {
        self.map[old.index()].unwrap_or_else(|| unreachable!("a value is read before it is made"))
    }

    pub(super) fn values(&self, old: &[ValueId]) -> Vec<ValueId> {
        old.iter().map(|&v| self.value(v)).collect()
    }

    /// Says that a value of the old graph is now this one.
    pub(super) fn replace(&mut self, old: ValueId, new: ValueId) {
        self.map[old.index()] = Some(new);
    }

    /// Appends a node that stands for `node`, with these output types.
    pub(super) fn emit(&mut self, node: &Node, op: Op, inputs: Vec<ValueId>, types: Vec<TensorType>) {
        let outputs = self.new.push(op, inputs, types, node.segment, node.recomputed);
        for (&old, new) in node.outputs.iter().zip(outputs) {
            self.replace(old, new);
        }
    }

    /// Copies a node as it is.
    pub(super) fn copy(&mut self, node: &Node) {
        let types = node.outputs.iter().map(|&v| self.old.ty(v).clone()).collect();
        self.emit(node, node.op.clone(), self.values(&node.inputs), types);
    }

    /// The new graph, with the names of the old one for everything that was copied.
    pub(super) fn finish(mut self) -> Graph {
        for (name, value) in self.old.inputs() {
            if let Some(value) = self.map[value.index()] {
                self.new.inputs.push((name.clone(), value));
            }
        }
        for parameter in self.old.parameters() {
            if let Some(value) = self.map[parameter.value.index()] {
                self.new.parameter_index.insert(parameter.name.clone(), self.new.parameters.len());
                self.new.parameters.push(crate::ParameterInfo { value, ..parameter.clone() });
            }
        }
        self.new.outputs = self.old.outputs().iter().map(|(n, v)| (n.clone(), self.value(*v))).collect();
        debug_assert_eq!(crate::validate(&self.new), Ok(()));
        self.new
    }
}
