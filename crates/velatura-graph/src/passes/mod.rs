//! Passes: functions from graph to graph that keep its meaning.

mod common;
mod dead;
mod fuse;
mod low_rank;
mod precision;
mod rewrite;
mod split;

pub use common::merge_common;
pub use dead::remove_dead;
pub use fuse::{Fusion, fuse};
pub use low_rank::{LowRank, add_low_rank};
pub use precision::{Precision, lower_precision};
pub use split::{Split, split};

use crate::graph::Graph;

/// The usual order for a graph that will only be run: tidy, fuse everything, lower the precision.
pub fn for_inference(graph: Graph, precision: Precision) -> Graph {
    let graph = fuse(remove_dead(merge_common(graph)), Fusion::All);
    remove_dead(merge_common(lower_precision(graph, precision)))
}

/// The usual order for a graph that already holds its backward pass. What is to be fused in the forward pass was
/// fused with [`Fusion::Differentiable`] before the gradients were taken; here the sums of adjoints are.
pub fn for_training(graph: Graph, precision: Precision) -> Graph {
    let graph = fuse(remove_dead(merge_common(graph)), Fusion::Differentiable);
    remove_dead(merge_common(lower_precision(graph, precision)))
}
