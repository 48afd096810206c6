//! The reference interpreter: every operation in slow, obviously right double precision. The oracle for every
//! fast kernel, and what finite differences are taken of.

use std::collections::HashMap;

use crate::graph::{Graph, ValueId};
use crate::op::Op;

/// A tensor of the reference interpreter. Indices are whole numbers.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Array {
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// Elements in row-major order.
    pub data: Vec<f64>,
}

impl Array {
    /// Each element from its row-major position.
    pub fn from_fn(shape: &[usize], f: impl FnMut(usize) -> f64) -> Self {
        Array { shape: shape.to_vec(), data: (0..shape.iter().product()).map(f).collect() }
    }

    /// Each element from its index.
    pub fn from_index(shape: &[usize], mut f: impl FnMut(&[usize]) -> f64) -> Self {
        let mut index = vec![0; shape.len()];
        Self::from_fn(shape, |_| {
            let value = f(&index);
            advance(&mut index, shape);
            value
        })
    }

    /// The element at an index.
    pub fn at(&self, index: &[usize]) -> f64 {
        self.data[self.place(index)]
    }

    /// The element at an index, to write.
    pub fn at_mut(&mut self, index: &[usize]) -> &mut f64 {
        let place = self.place(index);
        &mut self.data[place]
    }

    /// A function of each element.
    pub fn map(&self, f: impl FnMut(f64) -> f64) -> Self {
        Array { shape: self.shape.clone(), data: self.data.iter().copied().map(f).collect() }
    }

    /// Calls `f` with each index and element.
    pub fn for_each_index(&self, mut f: impl FnMut(&[usize], f64)) {
        let mut index = vec![0; self.shape.len()];
        for &value in &self.data {
            f(&index, value);
            advance(&mut index, &self.shape);
        }
    }

    /// The rows along the last axis.
    pub fn rows_mut(&mut self) -> impl Iterator<Item = &mut [f64]> {
        let width = self.shape.last().copied().unwrap_or(1);
        self.data.chunks_mut(width)
    }

    /// With axes of length 1 repeated, and leading ones added.
    pub fn broadcast_to(&self, shape: &[usize]) -> Self {
        let extra = shape.len() - self.shape.len();
        Self::from_index(shape, |index| {
            let own = index[extra..].iter().zip(&self.shape);
            self.at(&own.map(|(&i, &n)| if n == 1 { 0 } else { i }).collect::<Vec<_>>())
        })
    }

    fn place(&self, index: &[usize]) -> usize {
        index.iter().zip(&self.shape).fold(0, |place, (i, n)| place * n + i)
    }
}

fn advance(index: &mut [usize], shape: &[usize]) {
    for axis in (0..shape.len()).rev() {
        index[axis] += 1;
        if index[axis] < shape[axis] {
            return;
        }
        index[axis] = 0;
    }
}

/// Runs a graph. Inputs and parameters are found by name in `given`; returns every value, by [`ValueId::index`].
///
/// # Panics
/// When a name is missing: this is a tool for tests.
pub fn evaluate_all(graph: &Graph, given: &HashMap<String, Array>) -> Vec<Array> {
    let mut values: Vec<Array> = vec![Array::default(); graph.values().len()];
    for node in graph.nodes() {
        let results = match &node.op {
            Op::Input(crate::op::Input { name, .. }) | Op::Parameter(crate::op::Parameter { name, .. }) => {
                vec![given.get(name).unwrap_or_else(|| panic!("no value for {name}")).clone()]
            }
            op => {
                let inputs: Vec<&Array> = node.inputs.iter().map(|v| &values[v.index()]).collect();
                let types: Vec<_> = node.outputs.iter().map(|&v| graph.ty(v).clone()).collect();
                op.operation().evaluate(&inputs, &types)
            }
        };
        for (&id, result) in node.outputs.iter().zip(results) {
            assert_eq!(graph.ty(id).shape, result.shape, "{} disagrees with its shape rule", node.op.name());
            values[id.index()] = result;
        }
    }
    values
}

/// Runs a graph and returns its outputs by name. See [`evaluate_all`].
pub fn evaluate(graph: &Graph, given: &HashMap<String, Array>) -> HashMap<String, Array> {
    let values = evaluate_all(graph, given);
    let output = |(name, id): &(String, ValueId)| (name.clone(), values[id.index()].clone());
    graph.outputs().iter().map(output).collect()
}

/// The error function to double precision, by its series and by the continued fraction of its complement
/// (Abramowitz and Stegun 7.1.6, 7.1.14).
pub fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a < 3.0 {
        let (mut term, mut sum, mut n) = (a, a, 0.0);
        while term > 1e-17 * sum {
            n += 1.0;
            term *= 2.0 * a * a / (2.0 * n + 1.0);
            sum += term;
        }
        let value = 2.0 / std::f64::consts::PI.sqrt() * (-a * a).exp() * sum;
        return value.copysign(x);
    }
    let fraction = (1..=60).rev().fold(a, |tail, n| a + f64::from(n) / 2.0 / tail);
    (1.0 - (-a * a).exp() / (std::f64::consts::PI.sqrt() * fraction)).copysign(x)
}

#[cfg(test)]
mod tests {
    use super::erf;

    #[test]
    fn erf_agrees_with_tables() {
        // Abramowitz and Stegun, table 7.1.
        for (x, y) in [(0.0, 0.0), (0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0)] {
            assert!((erf(x) - y).abs() < 1e-10 && (erf(-x) + y).abs() < 1e-10, "{x}");
        }
        assert!((erf(2.999_999) - erf(3.000_001)).abs() < 1e-8);
        assert!((erf(4.0) - 0.999_999_984_582_742_1).abs() < 1e-15);
    }
}
