//! Reverse-mode differentiation, from graph to graph.

use std::collections::{HashMap, HashSet};

use crate::builder::Builder;
use crate::error::GraphError;
use crate::graph::{Node, ValueId};
use crate::op::{Adjoint, Op};
use crate::var::Var;

/// Matrix products that take at least so much arithmetic for each element of their result, FLOP, are not computed
/// again: attention over 1024 keys or more, 3x3 convolutions of 228 channels or more, linear layers of 2048 features or
/// more. Of what checkpointing saves and costs in Stable Diffusion's denoiser they are a tenth of the memory and more
/// than half of the time.
const KEPT: f64 = 4096.0;

/// Records the gradients of a scalar towards each of `wanted` (zeros where it does not depend on one).
///
/// Values inside a checkpointed segment (see [`Builder::checkpoint`]) that the backward pass needs are computed
/// again just before it enters the segment, from the values that flowed into it. What much arithmetic made small is
/// kept, as Chen et al. 2016 keep the results of convolutions: attention over many keys, convolutions of many channels.
pub fn gradients<'g>(
    builder: &'g Builder,
    loss: Var<'g>,
    wanted: &[Var<'g>],
) -> Result<Vec<Var<'g>>, GraphError> {
    if loss.ty().elements() != 1 {
        return Err(GraphError::NotDifferentiable {
            operation: "gradient",
            reason: format!("a scalar loss is needed, not {}", loss.ty()),
        });
    }
    let nodes: Vec<Node> = builder.with_graph(|g| g.nodes().to_vec());
    let active = depends_on(&nodes, wanted);
    let mut backward = Backward { builder, nodes: &nodes, adjoints: HashMap::new(), again: HashMap::new() };
    backward.adjoints.insert(loss.id(), builder.fill(&loss.shape(), 1.0));
    let mut entered = HashSet::new();
    for node in nodes.iter().rev() {
        let grads: Vec<Option<Var<'g>>> =
            node.outputs.iter().map(|v| backward.adjoints.get(v).copied()).collect();
        if grads.iter().all(Option::is_none) || !node.inputs.iter().any(|v| active.contains(v)) {
            continue;
        }
        if let Some(segment) = node.segment
            && entered.insert(segment)
        {
            backward.recompute(segment);
        }
        backward.visit(node, &grads, &active)?;
    }
    Ok(wanted
        .iter()
        .map(|v| backward.adjoints.get(&v.id()).copied().unwrap_or_else(|| builder.fill(&v.shape(), 0.0)))
        .collect())
}

/// All values that depend on one of these.
fn depends_on(nodes: &[Node], sources: &[Var<'_>]) -> HashSet<ValueId> {
    let mut active: HashSet<ValueId> = sources.iter().map(|v| v.id()).collect();
    for node in nodes {
        if node.inputs.iter().any(|v| active.contains(v)) {
            active.extend(&node.outputs);
        }
    }
    active
}

struct Backward<'a, 'g> {
    builder: &'g Builder,
    nodes: &'a [Node],
    adjoints: HashMap<ValueId, Var<'g>>,
    /// The second computation of values inside checkpointed segments.
    again: HashMap<ValueId, ValueId>,
}

impl<'g> Backward<'_, 'g> {
    /// Records the nodes of a segment a second time, those whose results are kept left out; those that nothing needs
    /// are removed with other dead nodes.
    fn recompute(&mut self, segment: u32) {
        self.builder.set_recomputing(true);
        for node in self.nodes.iter().filter(|n| n.segment == Some(segment) && !n.op.is_source()) {
            if self.is_kept(node) {
                continue;
            }
            let inputs: Vec<Var<'g>> = node.inputs.iter().map(|&v| self.value(v)).collect();
            let outputs = self.builder.push(node.op.clone(), &inputs);
            self.again.extend(node.outputs.iter().copied().zip(outputs.iter().map(|v| v.id())));
        }
        self.builder.set_recomputing(false);
    }

    fn is_kept(&self, node: &Node) -> bool {
        self.builder.with_graph(|g| g.flops(node) >= KEPT * g.ty(node.outputs[0]).elements() as f64)
    }

    /// A value of the forward pass as the backward pass reads it.
    fn value(&self, id: ValueId) -> Var<'g> {
        self.builder.var(self.again.get(&id).copied().unwrap_or(id))
    }

    fn visit(
        &mut self,
        node: &Node,
        grads: &[Option<Var<'g>>],
        active: &HashSet<ValueId>,
    ) -> Result<(), GraphError> {
        // A node reads its inputs inside its own segment from the second computation; what flows into the
        // segment was kept. Outputs likewise.
        let inputs: Vec<Var<'g>> = node.inputs.iter().map(|&v| self.value(v)).collect();
        let outputs: Vec<Var<'g>> = node.outputs.iter().map(|&v| self.value(v)).collect();
        let is_float = |v: &ValueId| self.builder.var(*v).ty().dtype.is_float();
        let wanted: Vec<bool> = node.inputs.iter().map(|v| active.contains(v) && is_float(v)).collect();
        let at = Adjoint { inputs: &inputs, outputs: &outputs, grads, wanted: &wanted };
        if matches!(node.op, Op::Detach(_)) {
            return Ok(());
        }
        let adjoints = node.op.operation().gradient(&at)?;
        for ((id, adjoint), wanted) in node.inputs.iter().zip(adjoints).zip(wanted) {
            let Some(adjoint) = adjoint.filter(|_| wanted) else { continue };
            let total = match self.adjoints.get(id) {
                Some(&earlier) => earlier + adjoint,
                None => adjoint,
            };
            self.adjoints.insert(*id, total);
        }
        Ok(())
    }
}
