//! Fuses what follows a product or a normalisation into it, so that it costs no pass over memory of its own.

use super::rewrite::Rewriter;
use crate::graph::{Graph, Node, ValueId};
use crate::op::{BinaryFunction, Epilogue, Linear, Op, UnaryFunction};

/// How much is fused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fusion {
    /// Only what keeps the graph differentiable: sums into products, activations into group norms.
    Differentiable,
    /// Activations and gates into products too, whose gradient would need what is no longer stored.
    All,
}

/// Fuses activations, gates and sums into the linear layers, convolutions and group norms before them.
pub fn fuse(mut graph: Graph, fusion: Fusion) -> Graph {
    // Each round takes one follower into each producer; chains need as many rounds as they are long.
    loop {
        let (next, changed) = round(&graph, fusion);
        graph = next;
        if !changed {
            return graph;
        }
    }
}

/// A node to be replaced together with the producer it absorbs.
struct Match {
    producer: usize,
    op: Op,
    inputs: Vec<ValueId>,
}

fn round(graph: &Graph, fusion: Fusion) -> (Graph, bool) {
    let uses = graph.uses();
    let readers = first_readers(graph);
    let mut matches: Vec<Option<Match>> = Vec::with_capacity(graph.nodes().len());
    let mut absorbed = vec![false; graph.nodes().len()];
    for (index, node) in graph.nodes().iter().enumerate() {
        // Results that the producer makes beside the first would be made later than before.
        let late = |values: &[ValueId]| values.iter().all(|v| readers[v.index()] > index);
        let found = find(graph, node, fusion, &uses, &absorbed, &late);
        if let Some(found) = &found {
            absorbed[found.producer] = true;
        }
        matches.push(found);
    }
    // A node that absorbs and is absorbed in the same round would have to wait: leave it to the next one.
    for (i, found) in matches.iter_mut().enumerate() {
        if absorbed[i]
            && let Some(own) = found.take()
        {
            absorbed[own.producer] = false;
        }
    }
    let changed = absorbed.contains(&true);
    let mut rewriter = Rewriter::new(graph);
    for (i, node) in graph.nodes().iter().enumerate() {
        match &matches[i] {
            _ if absorbed[i] => {}
            None => rewriter.copy(node),
            Some(found) => {
                let inputs = rewriter.values(&found.inputs);
                let producer = &graph.nodes()[found.producer];
                let mut types: Vec<_> = producer.outputs.iter().map(|&v| graph.ty(v).clone()).collect();
                types[0] = graph.ty(node.outputs[0]).clone();
                // The fused node makes the follower's result first, then the producer's other results.
                let mut outputs = producer.outputs.clone();
                outputs[0] = node.outputs[0];
                let stands_for = Node { outputs, ..node.clone() };
                rewriter.emit(&stands_for, found.op.clone(), inputs, types);
            }
        }
    }
    (rewriter.finish(), changed)
}

/// For each value the position of the first node that reads it; past the end where none does.
fn first_readers(graph: &Graph) -> Vec<usize> {
    let mut readers = vec![usize::MAX; graph.values().len()];
    for (index, node) in graph.nodes().iter().enumerate().rev() {
        node.inputs.iter().for_each(|v| readers[v.index()] = index);
    }
    readers
}

fn find(
    graph: &Graph,
    node: &Node,
    fusion: Fusion,
    uses: &[usize],
    absorbed: &[bool],
    late: &dyn Fn(&[ValueId]) -> bool,
) -> Option<Match> {
    let producer_of = |value: ValueId| {
        let index = graph.values()[value.index()].producer;
        let producer = &graph.nodes()[index];
        let fits = uses[value.index()] == 1
            && producer.outputs[0] == value
            && producer.segment == node.segment
            && producer.recomputed == node.recomputed
            && !absorbed[index]
            && late(&producer.outputs[1..]);
        fits.then_some((index, producer))
    };
    match &node.op {
        Op::Unary(unary) => {
            let UnaryFunction::Activation(activation) = unary.function else { return None };
            let (index, producer) = producer_of(node.inputs[0])?;
            let op = match &producer.op {
                Op::GroupNorm(norm) if norm.activation.is_none() => {
                    let mut norm = norm.clone();
                    norm.activation = Some(activation);
                    Op::GroupNorm(norm)
                }
                op if fusion == Fusion::All => with_epilogue(op, |epilogue| {
                    (epilogue.activation.is_none() && !epilogue.residual)
                        .then_some(Epilogue { activation: Some(activation), ..epilogue })
                })?,
                _ => return None,
            };
            Some(Match { producer: index, op, inputs: producer.inputs.clone() })
        }
        Op::Gated(gated) if fusion == Fusion::All => {
            let (index, producer) = producer_of(node.inputs[0])?;
            let Op::Linear(linear) = &producer.op else { return None };
            let plain = Linear {
                epilogue: Epilogue { bias: linear.epilogue.bias, ..Epilogue::default() },
                ..Linear::default()
            };
            let op = Linear { gate: Some(gated.activation), ..linear.clone() };
            (*linear == plain).then(|| Match {
                producer: index,
                op: op.into(),
                inputs: producer.inputs.clone(),
            })
        }
        Op::Binary(binary) if binary.function == BinaryFunction::Add => {
            // The later of the two producers waits least.
            let mut sides = [(node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])];
            sides.sort_by_key(|(main, _)| std::cmp::Reverse(graph.values()[main.index()].producer));
            sides.into_iter().find_map(|(main, other)| add(graph, node, main, other, &producer_of))
        }
        _ => None,
    }
}

fn add<'a>(
    graph: &Graph,
    node: &Node,
    main: ValueId,
    other: ValueId,
    producer_of: &impl Fn(ValueId) -> Option<(usize, &'a Node)>,
) -> Option<Match> {
    let (index, producer) = producer_of(main)?;
    let (result, other_ty) = (graph.ty(node.outputs[0]), graph.ty(other));
    if main == other || graph.ty(main).shape != result.shape {
        return None;
    }
    let mut inputs = producer.inputs.clone();
    let per_image_shape: Vec<usize> = (0..result.rank())
        .map(|i| if i == 0 || i + 1 == result.rank() { result.shape[i] } else { 1 })
        .collect();
    if other_ty.shape == result.shape {
        let op = with_epilogue(&producer.op, |e| (!e.residual).then_some(Epilogue { residual: true, ..e }))?;
        inputs.push(other);
        return Some(Match { producer: index, op, inputs });
    }
    if result.rank() > 2 && other_ty.shape == per_image_shape {
        let free = |e: Epilogue| !e.per_image && !e.residual && e.activation.is_none();
        let op = with_epilogue(&producer.op, |e| free(e).then_some(Epilogue { per_image: true, ..e }))?;
        inputs.push(other);
        return Some(Match { producer: index, op, inputs });
    }
    None
}

/// The operation with another epilogue, if it has one and the change is possible. The adjoints of products and norms
/// take a residual only.
fn with_epilogue(op: &Op, change: impl FnOnce(Epilogue) -> Option<Epilogue>) -> Option<Op> {
    let mut op = op.clone();
    let residual = match &mut op {
        Op::LinearInputGradient(op) => Some(&mut op.residual),
        Op::Conv2dInputGradient(op) => Some(&mut op.residual),
        Op::GroupNormGradient(op) => Some(&mut op.residual),
        Op::LayerNormGradient(op) => Some(&mut op.residual),
        _ => None,
    };
    if let Some(residual) = residual {
        let changed = change(Epilogue { residual: *residual, ..Epilogue::default() })?;
        let possible = changed == Epilogue { residual: true, ..Epilogue::default() };
        *residual = true;
        return possible.then_some(op);
    }
    match op {
        Op::Linear(mut linear) if linear.gate.is_none() => {
            linear.epilogue = change(linear.epilogue)?;
            Some(linear.into())
        }
        Op::Conv2d(mut conv) => {
            conv.epilogue = change(conv.epilogue)?;
            Some(conv.into())
        }
        _ => None,
    }
}
