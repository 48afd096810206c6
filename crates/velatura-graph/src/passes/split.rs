//! What a graph computes from inputs that stay the same over many runs, apart from the rest.

use super::dead::remove_unread;
use super::rewrite::Rewriter;
use crate::graph::{Graph, Node, ValueId};
use crate::op::{Input, Op};

/// A graph in two parts.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// What depends on fixed inputs and parameters alone. Its outputs are stored as the values were in the whole graph, so
    /// they need not be f32.
    pub prelude: Graph,
    /// Everything else, with the outputs of the whole graph. The prelude's outputs are inputs of the same names and types.
    pub rest: Graph,
}

/// What a value is computed from; of all that a node reads, the last in this order counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    /// Parameters and constants.
    Weights,
    /// Fixed inputs as well, but by no product yet.
    Fixed,
    /// Fixed inputs, by a product.
    Product,
    /// Other inputs as well.
    Varying,
}

/// Divides a graph by its inputs of the names `fixed`, which stay the same from run to run while others vary. The prelude has
/// the products of what is fixed and what follows from those. What comes before the first product (the scores of a mask, the
/// sinusoids of a size) costs less than its place in memory, and stays in the rest where the rest reads it.
///
/// For graphs to be run, after [`super::for_inference`]: nodes and types stay as they are, so that both parts together have the
/// bits of the whole. Neither part has inputs that it does not read.
///
/// Nothing where there is no such product, or where it makes an output of the graph, whose answer then stays the same as well.
pub fn split(graph: &Graph, fixed: &[&str]) -> Option<Split> {
    let from = origins(graph, fixed);
    let of = |value: &ValueId| from[value.index()];
    let product = |node: &Node| node.outputs.iter().any(|v| of(v) == Origin::Product);
    let mut carried = vec![false; graph.values().len()];
    for node in graph.nodes().iter().filter(|node| !product(node)) {
        node.inputs.iter().filter(|v| of(v) == Origin::Product).for_each(|v| carried[v.index()] = true);
    }
    if !carried.contains(&true) || graph.outputs().iter().any(|(_, v)| of(v) == Origin::Product) {
        return None;
    }
    let name = |value: ValueId| format!("prelude.{}", value.index());

    let mut prelude = graph.clone();
    let mut rest = Rewriter::new(graph);
    prelude.outputs.clear();
    for node in graph.nodes() {
        if !product(node) {
            rest.copy(node);
            continue;
        }
        for &value in node.outputs.iter().filter(|v| carried[v.index()]) {
            prelude.outputs.push((name(value), value));
            let ty = graph.ty(value).clone();
            let op = Op::Input(Input { name: name(value), ty: ty.clone() });
            let input = rest.new.push(op, Vec::new(), vec![ty], None, false)[0];
            rest.new.inputs.push((name(value), input));
            rest.replace(value, input);
        }
    }
    Some(Split { prelude: remove_unread(&prelude), rest: remove_unread(&rest.finish()) })
}

/// By value.
fn origins(graph: &Graph, fixed: &[&str]) -> Vec<Origin> {
    let mut from = vec![Origin::Weights; graph.values().len()];
    for node in graph.nodes() {
        let read = node.inputs.iter().map(|v| from[v.index()]).max().unwrap_or(Origin::Weights);
        let made = match &node.op {
            Op::Input(input) if fixed.contains(&input.name.as_str()) => Origin::Fixed,
            Op::Input(_) => Origin::Varying,
            _ if read == Origin::Fixed && graph.flops(node) > 0.0 => Origin::Product,
            _ => read,
        };
        node.outputs.iter().for_each(|v| from[v.index()] = made);
    }
    from
}
