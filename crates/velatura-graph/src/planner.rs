//! The memory planner: lays every activation into one arena by its lifetime, and knows the peak before a run.

use crate::graph::{Graph, ValueId};
use crate::op::Op;

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

struct Block {
    bytes: usize,
    first: usize,
    last: usize,
    owner: Owner,
}

#[derive(Clone, Copy)]
enum Owner {
    Value(usize),
    Scratch(usize),
}

/// Plans the memory of a graph. `scratch` gives the scratch bytes that the executor wants for each node.
///
/// Blocks are placed from the largest to the smallest at the lowest gap among those alive at the same time
/// (greedy by size, Pisarchyk and Lee 2020).
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
    let mut blocks = Vec::new();
    for (i, node) in graph.nodes().iter().enumerate() {
        for &value in &node.outputs {
            let v = value.index();
            placements[v] = match (node.op.is_source(), root[v] != value, last[v]) {
                (true, ..) => Placement::Source,
                (_, true, _) => Placement::Alias(root[v]),
                (.., None) if node.outputs.len() == 1 => Placement::Unused,
                (.., until) => {
                    let bytes = graph.ty(value).bytes().next_multiple_of(ALIGNMENT);
                    let last = until.unwrap_or(i);
                    blocks.push(Block { bytes, first: i, last, owner: Owner::Value(v) });
                    Placement::Unused
                }
            };
        }
        let bytes = scratch(i).next_multiple_of(ALIGNMENT);
        if bytes > 0 {
            blocks.push(Block { bytes, first: i, last: i, owner: Owner::Scratch(i) });
        }
    }
    let live_bytes = peak(&blocks, end);
    blocks.sort_by_key(|b| (std::cmp::Reverse(b.bytes), b.first));
    let mut placed: Vec<(usize, Block)> = Vec::with_capacity(blocks.len());
    let mut arena_bytes = 0;
    for block in blocks {
        let mut neighbours: Vec<(usize, usize)> = placed
            .iter()
            .filter(|(_, other)| other.first <= block.last && block.first <= other.last)
            .map(|(offset, other)| (*offset, offset + other.bytes))
            .collect();
        neighbours.sort_unstable();
        let mut offset = 0;
        for (start, stop) in neighbours {
            if start >= offset + block.bytes {
                break;
            }
            offset = offset.max(stop);
        }
        arena_bytes = arena_bytes.max(offset + block.bytes);
        match block.owner {
            Owner::Value(v) => placements[v] = Placement::Arena { offset, bytes: block.bytes },
            Owner::Scratch(node) => plan_scratch[node] = Some((offset, block.bytes)),
        }
        placed.push((offset, block));
    }
    MemoryPlan { placements, scratch: plan_scratch, arena_bytes, live_bytes }
}

fn peak(blocks: &[Block], end: usize) -> usize {
    let mut change = vec![0isize; end + 2];
    for block in blocks {
        change[block.first] += block.bytes as isize;
        change[block.last + 1] -= block.bytes as isize;
    }
    let mut alive = 0;
    change
        .into_iter()
        .map(|c| {
            alive += c;
            alive
        })
        .max()
        .unwrap_or(0) as usize
}
