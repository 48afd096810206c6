//! Merges nodes that compute the same thing.

use std::collections::HashMap;

use super::rewrite::Rewriter;
use crate::graph::{Graph, ValueId};
use crate::op::Op;

/// Merges nodes of the same operation on the same inputs. A node that was recomputed to save memory stays apart
/// from its original.
pub fn merge_common(graph: Graph) -> Graph {
    let mut rewriter = Rewriter::new(&graph);
    let mut seen: HashMap<(&'static str, Vec<ValueId>, bool), Vec<usize>> = HashMap::new();
    for (i, node) in graph.nodes().iter().enumerate() {
        if matches!(node.op, Op::Input(_) | Op::Parameter(_)) {
            rewriter.copy(node);
            continue;
        }
        let key = (node.op.name(), rewriter.values(&node.inputs), node.recomputed);
        let candidates = seen.entry(key).or_default();
        match candidates.iter().find(|&&j| graph.nodes()[j].op == node.op) {
            Some(&j) => {
                for (&old, &twin) in node.outputs.iter().zip(&graph.nodes()[j].outputs) {
                    let now = rewriter.value(twin);
                    rewriter.replace(old, now);
                }
            }
            None => {
                candidates.push(i);
                rewriter.copy(node);
            }
        }
    }
    rewriter.finish()
}
