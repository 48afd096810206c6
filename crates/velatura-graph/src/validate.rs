//! Whether a graph is what every pass and executor takes it to be.

use std::collections::HashSet;

use crate::error::GraphError;
use crate::graph::{Graph, ValueId};
use crate::op::Op;

/// Checks that every node comes after those whose results it reads, that shapes are those of the shape rules and
/// storage types of the same kind, and that names are unique and belong to the values they name.
///
/// Storage precision is free, since [`crate::passes::lower_precision`] decides it: an `f32` may be a `bf16`.
///
/// # Errors
/// [`GraphError::Inconsistent`] with the first fault.
pub fn validate(graph: &Graph) -> Result<(), GraphError> {
    check(graph).map_err(GraphError::Inconsistent)
}

fn check(graph: &Graph) -> Result<(), String> {
    let mut made = vec![false; graph.values().len()];
    for (i, node) in graph.nodes().iter().enumerate() {
        let at = format!("node {i}, {}", node.op.name());
        let known = |v: &ValueId| made.get(v.index()) == Some(&true);
        if let Some(early) = node.inputs.iter().find(|v| !known(v)) {
            return Err(format!("{at}: reads value {} before it is made", early.index()));
        }
        let inputs: Vec<_> = node.inputs.iter().map(|&v| graph.ty(v)).collect();
        let types = node.op.infer(&inputs).map_err(|reason| format!("{at}: {reason}"))?;
        if types.len() != node.outputs.len() || types.len() != node.op.output_count() {
            return Err(format!("{at}: makes {} values, not {}", node.outputs.len(), types.len()));
        }
        for (&output, rule) in node.outputs.iter().zip(&types) {
            let Some(value) = graph.values().get(output.index()) else {
                return Err(format!("{at}: makes a value that the graph does not have"));
            };
            let same_kind = value.ty.dtype.is_float() == rule.dtype.is_float();
            if value.ty.shape != rule.shape || !same_kind {
                return Err(format!("{at}: makes {rule}, and the graph says {}", value.ty));
            }
            value.ty.check_size().map_err(|reason| format!("{at}: {reason}"))?;
            if value.producer != i || std::mem::replace(&mut made[output.index()], true) {
                return Err(format!("{at}: makes a value that another node makes"));
            }
        }
    }
    if let Some(orphan) = made.iter().position(|m| !m) {
        return Err(format!("no node makes value {orphan}"));
    }
    check_names(graph)
}

fn check_names(graph: &Graph) -> Result<(), String> {
    let inputs = graph.inputs().iter().map(|(name, v)| ("input", name, *v));
    let parameters = graph.parameters().iter().map(|p| ("parameter", &p.name, p.value));
    let outputs = graph.outputs().iter().map(|(name, v)| ("output", name, *v));
    let mut seen = HashSet::new();
    for (kind, name, value) in inputs.chain(parameters).chain(outputs) {
        if !seen.insert((kind, name)) {
            return Err(format!("two {kind}s are named {name}"));
        }
        let Some(producer) = graph.values().get(value.index()).map(|v| &graph.nodes()[v.producer]) else {
            return Err(format!("{kind} {name} names a value that the graph does not have"));
        };
        let belongs = match (&producer.op, kind) {
            (Op::Input(op), "input") => op.name == *name,
            (Op::Parameter(op), "parameter") => op.name == *name,
            (_, kind) => kind == "output",
        };
        if !belongs {
            return Err(format!("{kind} {name} names the result of {}", producer.op.name()));
        }
    }
    let listed = |op: &Op| match op {
        Op::Input(op) => seen.contains(&("input", &op.name)),
        Op::Parameter(op) => seen.contains(&("parameter", &op.name)),
        _ => true,
    };
    match graph.nodes().iter().find(|node| !listed(&node.op)) {
        Some(node) => Err(format!("{:?} is not listed", node.op)),
        None => Ok(()),
    }
}
