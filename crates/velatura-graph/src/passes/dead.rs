//! Removes nodes that no output depends on.

use super::rewrite::Rewriter;
use crate::graph::Graph;
use crate::op::Op;

/// Removes nodes that no output depends on. Inputs stay, so that callers may always supply them.
pub fn remove_dead(graph: Graph) -> Graph {
    remove(&graph, |op| matches!(op, Op::Input(_)))
}

/// As [`remove_dead`], and the inputs that nothing reads.
pub(super) fn remove_unread(graph: &Graph) -> Graph {
    remove(graph, |_| false)
}

fn remove(graph: &Graph, stays: impl Fn(&Op) -> bool) -> Graph {
    let mut needed = vec![false; graph.values().len()];
    graph.outputs().iter().for_each(|(_, v)| needed[v.index()] = true);
    let mut alive = vec![false; graph.nodes().len()];
    for (i, node) in graph.nodes().iter().enumerate().rev() {
        alive[i] = stays(&node.op) || node.outputs.iter().any(|v| needed[v.index()]);
        if alive[i] {
            node.inputs.iter().for_each(|v| needed[v.index()] = true);
        }
    }
    let mut rewriter = Rewriter::new(graph);
    graph.nodes().iter().zip(alive).filter(|(_, alive)| *alive).for_each(|(node, _)| rewriter.copy(node));
    rewriter.finish()
}
