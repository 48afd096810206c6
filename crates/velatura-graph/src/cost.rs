//! How much arithmetic a node is.

use crate::graph::{Graph, Node};
use crate::op::Op;

impl Graph {
    /// Arithmetic of the matrix products of a node, a fused multiply-add counted as two; 0 for everything else, whose
    /// cost is reading and writing. Causal attention counts as if it were not.
    pub fn flops(&self, node: &Node) -> f64 {
        let elements = |shape: &[usize]| shape.iter().map(|&n| n as f64).product::<f64>();
        let input = |i: usize| self.ty(node.inputs[i]).shape.as_slice();
        let output = || self.ty(node.outputs[0]).shape.as_slice();
        let last = |shape: &[usize]| shape.last().map_or(1.0, |&n| n as f64);
        let multiply_adds = match &node.op {
            Op::Linear(linear) => {
                let halves = if linear.gate.is_some() { 2.0 } else { 1.0 };
                elements(output()) * halves * last(input(0))
            }
            Op::LinearInputGradient(_) => elements(input(0)) * last(output()),
            Op::LinearWeightGradient(_) => elements(input(0)) * last(input(1)),
            Op::MatMul(op) => {
                let a = input(0);
                elements(output()) * a[if op.transpose_a { a.len() - 2 } else { a.len() - 1 }] as f64
            }
            // One of the weight's rows for every element of the result.
            Op::Conv2d(_) => elements(output()) * elements(&input(1)[1..]),
            Op::Conv2dInputGradient(_) => elements(input(0)) * elements(&input(1)[1..]),
            Op::Conv2dWeightGradient(_) => elements(input(1)) * elements(&output()[1..]),
            // Scores and sums; backwards the scores again, and four products more.
            Op::Attention(_) => 2.0 * elements(input(0)) * input(1)[1] as f64,
            Op::AttentionGradient(_) => 5.0 * elements(input(0)) * input(1)[1] as f64,
            _ => 0.0,
        };
        2.0 * multiply_adds
    }
}

#[cfg(test)]
mod tests {
    use crate::op::Window;
    use crate::{Builder, DType, Init, gradients};

    #[test]
    fn products_and_their_gradients_count_alike() {
        let builder = Builder::new();
        let x = builder.input("x", &[2, 8, 8, 4], DType::F32);
        let weight = builder.params().get("weight", &[6, 4, 3, 3], Init::Zeros);
        let y = x.conv2d(weight, None, Window { stride: [2, 2], ..Window::new(1, 1) });
        let grads = gradients(&builder, y.sum_all(), &[x, weight]).unwrap();
        grads.into_iter().enumerate().for_each(|(i, grad)| builder.output(&i.to_string(), grad));
        let graph = builder.finish().unwrap();
        let counts: Vec<f64> = graph.nodes().iter().map(|n| graph.flops(n)).filter(|&n| n > 0.0).collect();
        // 2 images of 4x4 pixels of 6 channels, each from 3x3 pixels of 4.
        assert_eq!(counts, vec![(2 * 2 * 16 * 6 * 9 * 4) as f64; 3]);
    }

    #[test]
    fn attention_counts_scores_and_sums() {
        let builder = Builder::new();
        let q = builder.input("q", &[3, 10, 16], DType::F32);
        let k = builder.input("k", &[3, 20, 16], DType::F32);
        builder.output("y", q.attention(k, k, None, 4, None, false));
        let graph = builder.finish().unwrap();
        let total: f64 = graph.nodes().iter().map(|n| graph.flops(n)).sum();
        // For each of 3 sequences and 4 heads: 10x20 scores over 4 channels, and 10x4 sums over 20 keys.
        assert_eq!(total, (3 * 4 * 2 * (10 * 20 * 4 + 10 * 4 * 20)) as f64);
    }
}
