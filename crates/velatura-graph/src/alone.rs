//! One node by itself, as it is and in single precision: what the error of an algorithm is measured with.

use std::collections::HashMap;

use crate::graph::{Graph, ParameterInfo, ValueId};
use crate::op::{Cast, Input, Op};
use crate::shortcuts::Shortcuts;
use crate::types::{DType, TensorType};

/// The output of [`Graph::alone`].
pub const ALONE: &str = "result";

impl Graph {
    /// The graph of one node of this one. Parameters and constants that it reads stay what they are; everything else that it
    /// reads is an input, of the type it is stored in, whose name is its place among what the node reads (`0`, `1` and so on).
    /// The output [`ALONE`] is its first result, in f32 where it is floating point.
    ///
    /// # Panics
    /// Where there is no such node.
    pub fn alone(&self, node: usize) -> Graph {
        let node = &self.nodes[node];
        let mut graph = Graph { shortcuts: self.shortcuts, ..Graph::default() };
        let mut now: HashMap<ValueId, ValueId> = HashMap::new();
        for (place, &value) in node.inputs.iter().enumerate() {
            now.entry(value).or_insert_with(|| graph.push_source(self, value, place));
        }
        let inputs = node.inputs.iter().map(|value| now[value]).collect();
        let types: Vec<TensorType> = node.outputs.iter().map(|&value| self.ty(value).clone()).collect();
        let mut result = graph.push(node.op.clone(), inputs, types.clone(), None, false)[0];
        if types[0].dtype == DType::Bf16 {
            let op = Op::Cast(Cast { to: DType::F32 });
            result =
                graph.push(op, vec![result], vec![TensorType::f32(types[0].shape.clone())], None, false)[0];
        }
        graph.add_output(ALONE, result);
        graph
    }

    /// Appends the source that stands for a value of another graph.
    fn push_source(&mut self, from: &Graph, value: ValueId, place: usize) -> ValueId {
        let ty = from.ty(value).clone();
        let op = match &from.nodes[from.values[value.index()].producer].op {
            op @ (Op::Parameter(_) | Op::Constant(_)) => op.clone(),
            _ => Op::Input(Input { name: place.to_string(), ty: ty.clone() }),
        };
        let id = self.push(op.clone(), vec![], vec![ty], None, false)[0];
        match op {
            Op::Input(input) => self.inputs.push((input.name, id)),
            Op::Parameter(parameter) => {
                if let Some(known) = from.parameter(&parameter.name) {
                    self.parameter_index.insert(parameter.name, self.parameters.len());
                    self.parameters.push(ParameterInfo { value: id, ..known.clone() });
                }
            }
            _ => {}
        }
        id
    }

    /// The same graph computed as exactly as an executor does: everything stored in f32, nothing in 8 bits, and
    /// without [shortcuts](Shortcuts). Inputs become f32, too.
    pub fn in_single_precision(&self) -> Graph {
        let mut graph = self.clone();
        graph.set_shortcuts(Shortcuts::None);
        let widen = |dtype: &mut DType| {
            if *dtype == DType::Bf16 {
                *dtype = DType::F32;
            }
        };
        graph.values.iter_mut().for_each(|value| widen(&mut value.ty.dtype));
        for node in &mut graph.nodes {
            match &mut node.op {
                Op::Input(input) => widen(&mut input.ty.dtype),
                Op::Cast(cast) => widen(&mut cast.to),
                Op::Linear(linear) => linear.int8 = false,
                Op::Attention(attention) => attention.int8 = false,
                _ => {}
            }
        }
        graph
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Window;
    use crate::passes::{Precision, for_inference};
    use crate::{Builder, Init, validate};

    /// A convolution, an attention of its pixels to each other, and a linear layer.
    fn network(precision: Precision) -> Graph {
        let b = Builder::new();
        let x = b.input("x", &[1, 4, 4, 3], DType::F32).silu();
        let weight = b.params().at("conv").get("weight", &[3, 3, 3, 3], Init::Normal(0.5));
        let tokens = x.conv2d(weight, None, Window::new(1, 1)).reshape(&[1, 16, 3]);
        let tokens = tokens.attention(tokens, tokens, None, 1, None, false);
        b.output("y", tokens.linear(b.params().get("project", &[2, 3], Init::Zeros), None));
        for_inference(b.finish().unwrap(), precision)
    }

    fn node(graph: &Graph, operation: &str) -> usize {
        graph.nodes().iter().position(|node| node.op.name() == operation).unwrap()
    }

    #[test]
    fn a_node_keeps_its_types_and_its_weight() {
        let graph = network(Precision::Bf16);
        let at = node(&graph, "conv2d");
        let alone = graph.alone(at);
        assert_eq!(validate(&alone), Ok(()));
        let conv = &alone.nodes()[node(&alone, "conv2d")];
        assert_eq!(conv.op, graph.nodes()[at].op);
        let types = |graph: &Graph, values: &[ValueId]| -> Vec<TensorType> {
            values.iter().map(|&v| graph.ty(v).clone()).collect()
        };
        let there = &graph.nodes()[at];
        assert_eq!(types(&alone, &conv.inputs), types(&graph, &there.inputs));
        assert_eq!(types(&alone, &conv.outputs), types(&graph, &there.outputs));
        assert_eq!(alone.parameter("conv.weight").unwrap().init, Init::Normal(0.5));
        assert_eq!(alone.ty(alone.output(ALONE).unwrap()), &TensorType::f32([1, 4, 4, 3]));
        assert_eq!(alone.flops(conv), graph.flops(there));

        // What is read thrice is one input.
        let attention = graph.alone(node(&graph, "attention"));
        assert_eq!((validate(&attention), attention.inputs().len()), (Ok(()), 1));
    }

    #[test]
    fn single_precision_leaves_nothing_rounded() {
        let graph = network(Precision::Int8);
        let linear = graph.alone(node(&graph, "linear"));
        let exact = linear.in_single_precision();
        assert_eq!(validate(&exact), Ok(()));
        assert!(linear.shortcuts() > exact.shortcuts() && exact.shortcuts() == Shortcuts::None);
        assert!(exact.values().iter().all(|value| value.ty.dtype == DType::F32));
        let int8 = |graph: &Graph| {
            let marked = |op: &Op| match op {
                Op::Linear(op) => op.int8,
                Op::Attention(op) => op.int8,
                _ => false,
            };
            graph.nodes().iter().any(|node| marked(&node.op))
        };
        assert!(int8(&linear) && !int8(&exact));
        let attention = graph.alone(node(&graph, "attention"));
        assert!(int8(&attention) && !int8(&attention.in_single_precision()));
        // Passes keep what was asked for.
        assert!(for_inference(exact, Precision::Bf16).shortcuts() == Shortcuts::None);
    }
}
