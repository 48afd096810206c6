//! The memory planner: lays every activation into one arena by its lifetime, and knows the peak before a run.

mod layout;

use crate::graph::{Graph, ValueId};
use crate::op::Op;
use layout::Block;

/// Offsets and sizes are multiples of this: a cache line, and the widest vector.
pub const ALIGNMENT: usize = 64;

/// Where a value lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Outside the arena: an input, parameter or constant.
    Source,
    /// In the arena.
    Arena {
        /// Bytes from its start.
        offset: usize,
        /// Bytes taken.
        bytes: usize,
    },
    /// The same memory as another value, itself a source or in the arena.
    Alias(ValueId),
    /// Nothing ever reads it.
    Unused,
}

/// Where everything lives during a run.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryPlan {
    /// By [`ValueId::index`].
    pub placements: Vec<Placement>,
    /// For each node, offset and bytes of its scratch memory, if it wants any.
    pub scratch: Vec<Option<(usize, usize)>>,
    /// Bytes of the arena: the peak of activations and scratch.
    pub arena_bytes: usize,
    /// The most bytes alive at any one node: no layout can be smaller.
    pub live_bytes: usize,
}

#[derive(Clone, Copy)]
enum Owner {
    Value(usize),
    Scratch(usize),
}

/// Plans the memory of a graph. `scratch` gives the scratch bytes that the executor wants for each node.
///
/// The same graph gives the same plan. Sizes that do not fit in an address space saturate: such a plan can be made
/// and says so, and no machine can run it.
pub fn plan_memory(graph: &Graph, scratch: impl Fn(usize) -> usize) -> MemoryPlan {
    let values = graph.values().len();
    let mut root: Vec<ValueId> = (0..values).map(|i| ValueId(i as u32)).collect();
    let mut last = vec![None; values];
    for (i, node) in graph.nodes().iter().enumerate() {
        if matches!(node.op, Op::Reshape(_) | Op::Detach(_)) {
            root[node.outputs[0].index()] = root[node.inputs[0].index()];
        }
        node.inputs.iter().for_each(|v| last[root[v.index()].index()] = Some(i));
    }
    let end = graph.nodes().len();
    graph.outputs().iter().for_each(|(_, v)| last[root[v.index()].index()] = Some(end));

    let mut placements = vec![Placement::Unused; values];
    let mut plan_scratch = vec![None; end];
    let (mut blocks, mut owners) = (Vec::new(), Vec::new());
    for (i, node) in graph.nodes().iter().enumerate() {
        for &value in &node.outputs {
            let v = value.index();
            placements[v] = match (node.op.is_source(), root[v] != value, last[v]) {
                (true, ..) => Placement::Source,
                (_, true, _) => Placement::Alias(root[v]),
                (.., None) if node.outputs.len() == 1 => Placement::Unused,
                (.., until) => {
                    // A result that nothing reads is still written, beside the node's other results.
                    let last = until.unwrap_or(i);
                    blocks.push(Block { bytes: aligned(graph.ty(value).bytes()), first: i, last });
                    owners.push(Owner::Value(v));
                    Placement::Unused
                }
            };
        }
        let bytes = aligned(scratch(i));
        if bytes > 0 {
            blocks.push(Block { bytes, first: i, last: i });
            owners.push(Owner::Scratch(i));
        }
    }
    let live_bytes = layout::alive(&blocks).into_iter().max().unwrap_or(0);
    let (offsets, arena_bytes) = layout::lay_out(&blocks, live_bytes);
    for ((owner, block), offset) in owners.into_iter().zip(&blocks).zip(offsets) {
        match owner {
            Owner::Value(v) => placements[v] = Placement::Arena { offset, bytes: block.bytes },
            Owner::Scratch(node) => plan_scratch[node] = Some((offset, block.bytes)),
        }
    }
    MemoryPlan { placements, scratch: plan_scratch, arena_bytes, live_bytes }
}

fn aligned(bytes: usize) -> usize {
    bytes.checked_next_multiple_of(ALIGNMENT).unwrap_or(usize::MAX)
}
