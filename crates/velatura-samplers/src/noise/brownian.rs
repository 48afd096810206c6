//! Brownian motion over sigma, as k-diffusion's stochastic samplers draw their noise.

use super::seed_sequence::first_word;
use super::{LatentShape, RngKind};

/// The part of a run for which noise is wanted, as sigmas of k-diffusion (on rectified flow: times).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Way {
    /// Where it begins.
    pub from: f32,
    /// Where it ends.
    pub to: f32,
    /// Lowest sigma above 0 of the whole run.
    pub least: f32,
    /// Highest sigma of the whole run.
    pub most: f32,
}

/// The tree of torchsde's `BrownianTree`, with the generator of the device on which the other tool keeps it: a
/// Brownian motion that follows from its seed and its ends alone, not from where or in which order it is read.
///
/// Same arithmetic in the same precision as torchsde 0.2.6, so the increments between given sigmas are those of
/// k-diffusion, A1111 and ComfyUI to the bit on a CPU; on a GPU as far as [`CudaPhilox`](super::CudaPhilox) is exact.
/// The deviation by which they are divided may differ in its last bit, because PyTorch does not round it correctly,
/// and so may the sigma in the middle of a step of `dpmpp_sde`, which moves that half step's noise a little.
pub struct BrownianTree {
    kind: RngKind,
    seed: u64,
    root: Node,
}

struct Node {
    start: f64,
    end: f64,
    key: u64,
    depth: u64,
    /// Increment from start to end.
    increment: Vec<f32>,
}

/// Times are rounded to six digits (`tol=1e-6`) as Python's `round` does.
fn round(time: f64) -> f64 {
    format!("{time:.6}").parse().unwrap_or(time)
}

/// Halvings after which any two times differ by less than their rounding.
const DEEPEST: u64 = 60;

impl BrownianTree {
    /// The motion of a seed between two times, for `len` values.
    pub fn new(kind: RngKind, seed: u64, start: f32, end: f32, len: usize) -> Self {
        let (start, end) = (f64::from(start), f64::from(end));
        let mut increment = vec![0.0; len];
        kind.generator(u64::from(first_word::<24>(seed, &[]))).randn(&mut increment);
        let scale = (end - start).sqrt() as f32;
        increment.iter_mut().for_each(|v| *v *= scale);
        let root = Node { start: round(start), end: round(end), key: 0, depth: 0, increment };
        BrownianTree { kind, seed, root }
    }

    /// The two halves of a node.
    fn split(&self, node: &Node) -> (Node, Node) {
        let middle = round(0.5 * (node.end + node.start));
        let mut left = vec![0.0f32; node.increment.len()];
        let seed = first_word::<24>(self.seed, &[node.key, node.depth]);
        self.kind.generator(u64::from(seed)).randn(&mut left);
        // The scalars are computed in double precision and applied in single, one after another, as PyTorch does.
        let inverse = 1.0 / (node.end - node.start);
        let (before, after) = (middle - node.start, node.end - middle);
        let deviation = (before * after * inverse).sqrt() as f32;
        let (share, inverse) = (before as f32, inverse as f32);
        for (left, whole) in left.iter_mut().zip(&node.increment) {
            *left = share * whole * inverse + deviation * *left;
        }
        let right = node.increment.iter().zip(&left).map(|(whole, left)| whole - left).collect();
        let child = |start, end, bit, increment| Node {
            start,
            end,
            key: 2 * node.key + bit,
            depth: node.depth + 1,
            increment,
        };
        (child(node.start, middle, 0, left), child(middle, node.end, 1, right))
    }

    /// Increment of the motion between two times, which are brought into its range.
    pub fn increment(&self, from: f32, to: f32) -> Vec<f32> {
        let (start, end) = (self.root.start, self.root.end);
        let inside = |time: f32| round(f64::from(time).max(start).min(end));
        let (from, to) = (inside(from), inside(to));
        let mut sum = vec![0.0f32; self.root.increment.len()];
        if from >= to {
            return sum;
        }
        // Whole nodes from left to right; what lies across a middle is cut there.
        let mut add = |increment: &[f32]| sum.iter_mut().zip(increment).for_each(|(sum, v)| *sum += v);
        if (from, to) == (start, end) {
            add(&self.root.increment);
            return sum;
        }
        let (left, right) = self.split(&self.root);
        let mut open = vec![(right, from, to), (left, from, to)];
        while let Some((node, from, to)) = open.pop() {
            let (from, to) = (from.max(node.start), to.min(node.end));
            if from >= to {
                continue;
            }
            if (from <= node.start && to >= node.end) || node.depth >= DEEPEST {
                add(&node.increment);
                continue;
            }
            let (left, right) = self.split(&node);
            open.push((right, from, to));
            open.push((left, from, to));
        }
        sum
    }

    /// Unit noise for a way: its increment over its deviation, negative because sigmas fall, laid out as ours.
    pub fn noise(&self, way: Way, shape: LatentShape, out: &mut [f32]) {
        let deviation = (way.to - way.from).abs().sqrt();
        let mut drawn = self.increment(way.from.min(way.to), way.from.max(way.to));
        let sign = if way.from <= way.to { 1.0 } else { -1.0 };
        drawn.iter_mut().for_each(|v| *v = *v * sign / deviation);
        if shape.len() == out.len() {
            shape.to_channels_last(&drawn, out);
        } else {
            out.iter_mut().zip(&drawn).for_each(|(out, &v)| *out = v);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_as_python_rounds() {
        // Ties that binary numbers can hold go to the even digit.
        assert_eq!(round(0.0078125), 0.007812);
        assert_eq!(round(0.0234375), 0.023438);
        assert_eq!(round(14.614_641_189_575_195), 14.614641);
    }

    #[test]
    fn increments_add_up() {
        let tree = BrownianTree::new(RngKind::Cpu, 7, 0.03, 14.6, 64);
        let (a, b, c) = (tree.increment(0.5, 1.25), tree.increment(1.25, 9.0), tree.increment(0.5, 9.0));
        for ((a, b), c) in a.iter().zip(&b).zip(&c) {
            assert!((a + b - c).abs() < 1e-4);
        }
        assert!(tree.increment(3.0, 3.0).iter().all(|v| *v == 0.0));
        // Beyond the ends there is nothing.
        assert_eq!(tree.increment(0.0, 0.5), tree.increment(0.03, 0.5));
    }
}
