//! Where the time of a run goes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use velatura_graph::{Graph, Op};

use crate::Isa;
use crate::executor::{Algorithm, algorithm, traffic};

/// Nodes of one operation on tensors of the same types by the same algorithm, over all runs that were observed.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// The operation.
    pub operation: &'static str,
    /// What it reads and makes: `bf16[2, 64, 64, 320], f32[320, 320, 3, 3] -> bf16[2, 64, 64, 320]`.
    pub types: String,
    /// What it is computed by, where there are products.
    pub algorithm: Option<Algorithm>,
    /// How many nodes were run.
    pub count: usize,
    /// Seconds of all of them together.
    pub seconds: f64,
    /// Arithmetic of all of them together ([`Graph::flops`]).
    pub flops: f64,
    /// What all of them together move ([`traffic`]).
    pub bytes: f64,
    /// The first of the nodes, by itself ([`Graph::alone`]).
    pub example: Arc<Graph>,
}

/// Adds up what [`Executor::run_observed`](crate::Executor::run_observed) reports.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    isa: Isa,
    lines: Vec<Line>,
    index: HashMap<(&'static str, String, Option<Algorithm>), usize>,
}

impl Profile {
    /// An empty one, of runs on this instruction set.
    pub fn new(isa: Isa) -> Self {
        Profile { isa, lines: Vec::new(), index: HashMap::new() }
    }

    /// Notes that a node of the graph took so long.
    pub fn add(&mut self, graph: &Graph, index: usize, took: Duration) {
        let node = &graph.nodes()[index];
        if node.op.is_source() || matches!(node.op, Op::Reshape(_) | Op::Detach(_)) {
            return;
        }
        let list =
            |values: &[_]| values.iter().map(|&v| graph.ty(v).to_string()).collect::<Vec<_>>().join(", ");
        let types = format!("{} -> {}", list(&node.inputs), list(&node.outputs));
        let (operation, algorithm) = (node.op.name(), algorithm(graph, index, self.isa));
        let place = *self.index.entry((operation, types.clone(), algorithm)).or_insert(self.lines.len());
        if place == self.lines.len() {
            let example = Arc::new(graph.alone(index));
            let (count, seconds, flops, bytes) = (0, 0.0, 0.0, 0.0);
            self.lines.push(Line { operation, types, algorithm, count, seconds, flops, bytes, example });
        }
        let line = &mut self.lines[place];
        line.count += 1;
        line.seconds += took.as_secs_f64();
        line.flops += graph.flops(node);
        line.bytes += traffic(graph, index, self.isa);
    }

    /// What took time, the longest first.
    pub fn lines(&self) -> Vec<Line> {
        let mut lines = self.lines.clone();
        lines.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        lines
    }
}
