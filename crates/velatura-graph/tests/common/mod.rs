//! What the tests of this crate share: deterministic data, and running a graph through the reference interpreter.
#![allow(dead_code)]

pub mod graphs;

use std::collections::HashMap;

use velatura_graph::Graph;
use velatura_graph::reference::{Array, evaluate};

/// SplitMix64 (Steele, Lea and Flood 2014).
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform on `[low, high)`.
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// One of `0..count`.
    pub fn below(&mut self, count: usize) -> usize {
        (self.bits() % count as u64) as usize
    }

    pub fn array(&mut self, shape: &[usize], low: f64, high: f64) -> Array {
        Array::from_fn(shape, |_| self.uniform(low, high))
    }

    /// Values at least 0.04 from each other and from every multiple of 0.5, in random order.
    pub fn distinct(&mut self, shape: &[usize]) -> Array {
        let count: usize = shape.iter().product();
        // Offset so that no value comes near a corner of a piecewise function placed at a multiple of 0.5.
        let mut values: Vec<f64> = (0..count).map(|i| (i as f64 - (count / 2) as f64) * 0.1 + 0.05).collect();
        for i in (1..count).rev() {
            values.swap(i, self.below(i + 1));
        }
        let mut values = values.into_iter();
        Array::from_fn(shape, |_| values.next().unwrap())
    }
}

/// Data for every input and parameter of a graph, the same for the same name and shape. Indices are below 2.
pub fn data_for(graph: &Graph) -> HashMap<String, Array> {
    let inputs = graph.inputs().iter().map(|(n, v)| (n.clone(), *v));
    let parameters = graph.parameters().iter().map(|p| (p.name.clone(), p.value));
    inputs
        .chain(parameters)
        .map(|(name, value)| {
            let seed = name.bytes().fold(7u64, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(b)));
            let (ty, mut random) = (graph.ty(value), Random(seed));
            let array = if ty.dtype.is_float() {
                random.array(&ty.shape, -1.0, 1.0)
            } else {
                Array::from_fn(&ty.shape, |_| random.below(2) as f64)
            };
            (name, array)
        })
        .collect()
}

/// Runs a graph on [`data_for`] it.
pub fn run(graph: &Graph) -> HashMap<String, Array> {
    evaluate(graph, &data_for(graph))
}

/// The largest difference, as a share of the largest expected magnitude.
pub fn relative_error(got: &Array, expected: &Array) -> f64 {
    assert_eq!(got.shape, expected.shape);
    let scale = expected.data.iter().fold(0.0f64, |m, x| m.max(x.abs())).max(1e-3);
    let difference = |(a, b): (&f64, &f64)| if a == b { 0.0 } else { (a - b).abs() / scale };
    // A maximum that does not lose NaN.
    got.data
        .iter()
        .zip(&expected.data)
        .map(difference)
        .fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m })
}

/// Asserts that two runs agree on every output of the first.
pub fn assert_same(got: &HashMap<String, Array>, expected: &HashMap<String, Array>, tolerance: f64) {
    for (name, expected) in expected {
        let error = relative_error(&got[name], expected);
        assert!(error <= tolerance, "{name} differs by {error:e}");
    }
}
