//! Which values lie in tiles: those that nothing but products on AMX tiles read, and that their makers can write so.

use velatura_graph::{Graph, Node, Op, ValueId};

use crate::Isa;
use crate::kernels::gemm::{compute_dtype, on_tiles};
use crate::kernels::{Order, attention};

/// The order of each value's elements, seen as rows of its last axis.
pub(super) fn orders(graph: &Graph, isa: Isa) -> Vec<Order> {
    let mut orders = vec![Order::Rows; graph.values().len()];
    for node in graph.nodes().iter().filter(|node| writes_tiles(graph, node, isa)) {
        let value = node.outputs[0];
        let ty = graph.ty(value);
        let shape = [ty.elements() / ty.last().max(1), ty.last()];
        let stored = on_tiles(isa, ty.dtype);
        if stored && Order::Tiles.takes(shape) && is_read_in_tiles(graph, value, isa) {
            orders[value.index()] = Order::Tiles;
        }
    }
    orders
}

/// Whether the kernel of a node can write its first output in tiles.
fn writes_tiles(graph: &Graph, node: &Node, isa: Isa) -> bool {
    matches!(node.op, Op::LayerNorm(_) | Op::RmsNorm(_) | Op::Attention(_))
        || multiplies_tiles(graph, node, isa)
}

/// Whether a node is a linear layer whose products run on tiles.
fn multiplies_tiles(graph: &Graph, node: &Node, isa: Isa) -> bool {
    let Op::Linear(op) = &node.op else { return false };
    !op.int8 && on_tiles(isa, compute_dtype(isa, graph.ty(node.inputs[0]).dtype))
}

/// Whether a value is nothing but the input of linear layers and attention on tiles.
fn is_read_in_tiles(graph: &Graph, value: ValueId, isa: Isa) -> bool {
    let mut readers = graph.nodes().iter().filter(|node| node.inputs.contains(&value));
    let reads = |node: &Node| match &node.op {
        Op::Attention(op) => {
            let (inputs, rest) = node.inputs.split_at(3);
            let computed = attention::compute_dtype(isa, inputs.iter().map(|&input| graph.ty(input).dtype));
            let head_dim = graph.ty(inputs[0]).last() / op.heads;
            attention::reads_tiles(isa, computed, head_dim) && !rest.contains(&value)
        }
        _ => multiplies_tiles(graph, node, isa) && !node.inputs[1..].contains(&value),
    };
    readers.all(reads) && graph.outputs().iter().all(|(_, output)| *output != value)
}
