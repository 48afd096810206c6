//! Low-rank adapters beside linear layers (LoRA, Hu et al. 2021).

use std::collections::HashMap;

use super::rewrite::Rewriter;
use crate::graph::{Graph, Init, Node, ParameterInfo, ValueId};
use crate::op::{Epilogue, Linear, Op, Parameter, Unary, UnaryFunction};
use crate::types::TensorType;

/// The size of low-rank adapters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LowRank {
    /// Rank of each: the features between its two matrices.
    pub rank: usize,
    /// What an adapter adds is scaled by `alpha / rank`.
    pub alpha: f32,
}

/// Lays an adapter beside each linear layer whose weight is a parameter `NAME.weight` and for whose `NAME` `chosen`
/// holds: `W x + b` becomes `W x + b + (alpha / rank) B A x`. The new parameters are `NAME.lora_A.weight`
/// `[rank, in]` and `NAME.lora_B.weight` `[out, rank]`, PEFT's names. A begins as diffusers' training scripts have it,
/// Gaussian of deviation `1 / rank`, and B at zero, so that the network begins unchanged.
///
/// The weights beside which they lie stay what they were. Whoever takes gradients towards the adapters alone has none
/// computed for other weights. For graphs before they are fused: layers with an activation fused into them are left as
/// they are.
pub fn add_low_rank(graph: &Graph, size: LowRank, chosen: impl Fn(&str) -> bool) -> Graph {
    let rank = size.rank.max(1);
    let scale = size.alpha / rank as f32;
    let mut rewriter = Rewriter::new(graph);
    let mut adapters = HashMap::new();
    for node in graph.nodes() {
        rewriter.copy(node);
        let Some(name) = adaptable(graph, node).filter(|name| chosen(name)) else { continue };
        let (x, plain) = (rewriter.value(node.inputs[0]), rewriter.value(node.outputs[0]));
        let (x_ty, y_ty) = (graph.ty(node.inputs[0]), graph.ty(node.outputs[0]).clone());
        let new = &mut rewriter.new;
        // A weight that is read twice has one adapter.
        let [a, b] = *adapters.entry(name).or_insert_with(|| {
            let gaussian = Init::Normal(1.0 / rank as f32);
            let a = parameter(new, format!("{name}.lora_A.weight"), [rank, x_ty.last()], gaussian);
            let b = parameter(new, format!("{name}.lora_B.weight"), [y_ty.last(), rank], Init::Zeros);
            [a, b]
        });
        let mut add = |op: Op, inputs: Vec<ValueId>, ty: &TensorType| {
            new.push(op, inputs, vec![ty.clone()], node.segment, node.recomputed)[0]
        };
        let mut narrow = x_ty.clone();
        if let Some(features) = narrow.shape.last_mut() {
            *features = rank;
        }
        let mut down = add(Linear::default().into(), vec![x, a], &narrow);
        if scale != 1.0 {
            // On the narrow side, where it costs least.
            let function = UnaryFunction::Affine { scale, shift: 0.0 };
            down = add(Unary { function }.into(), vec![down], &narrow);
        }
        let epilogue = Epilogue { residual: true, ..Epilogue::default() };
        let sum = add(Linear { epilogue, ..Linear::default() }.into(), vec![down, b, plain], &y_ty);
        rewriter.replace(node.outputs[0], sum);
    }
    rewriter.finish()
}

/// The name of a linear layer that can have an adapter.
fn adaptable<'a>(graph: &'a Graph, node: &Node) -> Option<&'a str> {
    let Op::Linear(linear) = &node.op else { return None };
    let weight = graph.values()[node.inputs[1].index()].producer;
    let Op::Parameter(Parameter { name, .. }) = &graph.nodes()[weight].op else { return None };
    name.strip_suffix(".weight").filter(|_| linear.epilogue.activation.is_none() && linear.gate.is_none())
}

fn parameter(graph: &mut Graph, name: String, shape: [usize; 2], init: Init) -> ValueId {
    let ty = TensorType::f32(shape);
    let op = Op::Parameter(Parameter { name: name.clone(), ty: ty.clone() });
    let value = graph.push(op, Vec::new(), vec![ty], None, false)[0];
    graph.parameter_index.insert(name.clone(), graph.parameters.len());
    graph.parameters.push(ParameterInfo { name, value, init });
    value
}
