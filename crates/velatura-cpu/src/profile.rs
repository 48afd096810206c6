//! Where the time of a run goes.

use std::collections::HashMap;
use std::time::Duration;

use velatura_graph::{DType, Graph, Op};

/// Nodes of one operation on tensors of the same types, over all runs that were observed.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// The operation.
    pub operation: &'static str,
    /// What it reads and makes: `bf16[2, 64, 64, 320], f32[320, 320, 3, 3] -> bf16[2, 64, 64, 320]`.
    pub types: String,
    /// How it stores the first tensor that it reads: products of bf16 are faster.
    pub dtype: DType,
    /// How many nodes were run.
    pub count: usize,
    /// Seconds of all of them together.
    pub seconds: f64,
    /// Arithmetic of all of them together ([`Graph::flops`]).
    pub flops: f64,
}

impl Line {
    /// Whether it works on bf16.
    pub fn is_bf16(&self) -> bool {
        self.dtype == DType::Bf16
    }
}

/// Adds up what [`Executor::run_observed`](crate::Executor::run_observed) reports.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    lines: Vec<Line>,
    index: HashMap<(&'static str, String), usize>,
}

impl Profile {
    /// Notes that a node of the graph took so long.
    pub fn add(&mut self, graph: &Graph, node: usize, took: Duration) {
        let node = &graph.nodes()[node];
        if matches!(
            node.op,
            Op::Input(_) | Op::Parameter(_) | Op::Constant(_) | Op::Reshape(_) | Op::Detach(_)
        ) {
            return;
        }
        let list =
            |values: &[_]| values.iter().map(|&v| graph.ty(v).to_string()).collect::<Vec<_>>().join(", ");
        let types = format!("{} -> {}", list(&node.inputs), list(&node.outputs));
        let operation = node.op.name();
        let place = *self.index.entry((operation, types.clone())).or_insert(self.lines.len());
        if place == self.lines.len() {
            let dtype = node.inputs.first().map_or(DType::F32, |&v| graph.ty(v).dtype);
            self.lines.push(Line { operation, types, dtype, count: 0, seconds: 0.0, flops: 0.0 });
        }
        let line = &mut self.lines[place];
        line.count += 1;
        line.seconds += took.as_secs_f64();
        line.flops += graph.flops(node);
    }

    /// What took time, the longest first.
    pub fn lines(&self) -> Vec<Line> {
        let mut lines = self.lines.clone();
        lines.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        lines
    }

    /// The same without telling types apart.
    pub fn operations(&self) -> Vec<Line> {
        let mut sums: Vec<Line> = Vec::new();
        for line in &self.lines {
            match sums.iter_mut().find(|sum| sum.operation == line.operation) {
                Some(sum) => {
                    sum.count += line.count;
                    sum.seconds += line.seconds;
                    sum.flops += line.flops;
                }
                None => sums.push(Line { types: String::new(), ..line.clone() }),
            }
        }
        sums.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        sums
    }
}
