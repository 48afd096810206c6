//! What a layer by itself rounds.

use std::borrow::Cow;
use std::sync::Arc;

use half::bf16;
use velatura_cpu::{CancelToken, Data, Executor, Line, Runtime, Values, WeightStore, algorithm};
use velatura_graph::{ALONE, DType, Graph, Op, Shortcuts};

use super::random::{Draws, Spread};
use crate::Error;

/// The error of a line's layer by itself: on normally distributed inputs, as they are stored, and weights of a deviation of one
/// over the root of what each result sums, the root mean square of the difference from the same layer in f32 without fast
/// algorithms, over that of the result. Rounding weights and results counts. Nothing where it is that layer itself, and for
/// operations that only copy, take indices, or want what a forward pass found.
///
/// # Errors
/// Too little memory, or when the caller stops it.
pub fn layer_error(runtime: &Arc<Runtime>, line: &Line, cancel: &CancelToken) -> Result<Option<f64>, Error> {
    let Some(graph) = measured(runtime, line) else { return Ok(None) };
    let exact = graph.in_single_precision();
    let draws = Draws::new(3);
    let inputs = inputs(&graph, &draws);
    let found = result(runtime, graph, &inputs, &draws, cancel)?;
    let reference = result(runtime, exact, &inputs, &draws, cancel)?;
    Ok(Some(super::relative_error(&found, &reference)))
}

/// The graph of the layer, computed as it was in the line, where there is something to measure.
fn measured(runtime: &Runtime, line: &Line) -> Option<Graph> {
    let layer = |graph: &Graph| graph.nodes().iter().position(|node| node.op.name() == line.operation);
    let mut graph = line.example.as_ref().clone();
    let node = layer(&graph)?;
    let measurable = matches!(
        graph.nodes()[node].op,
        Op::Linear(_)
            | Op::LinearInputGradient(_)
            | Op::LinearWeightGradient(_)
            | Op::MatMul(_)
            | Op::Conv2d(_)
            | Op::Conv2dInputGradient(_)
            | Op::Conv2dWeightGradient(_)
            | Op::Attention(_)
            | Op::GroupNorm(_)
            | Op::LayerNorm(_)
            | Op::RmsNorm(_)
            | Op::Softmax(_)
            | Op::Gated(_)
    );
    // What a layer is computed by may follow from the graph that it was in.
    if algorithm(&graph, node, runtime.isa) != line.algorithm {
        graph.set_shortcuts(Shortcuts::None);
    }
    let exact = graph.in_single_precision();
    let rounds = graph.values() != exact.values() || algorithm(&exact, node, runtime.isa) != line.algorithm;
    (measurable && rounds && algorithm(&graph, node, runtime.isa) == line.algorithm).then_some(graph)
}

/// What is drawn for the inputs of a layer, as it is stored.
fn inputs(graph: &Graph, draws: &Draws) -> Vec<(String, Vec<f32>)> {
    let masks = graph.nodes().iter().filter_map(|node| match &node.op {
        Op::Attention(op) if op.mask => node.inputs.get(3).copied(),
        _ => None,
    });
    let masks: Vec<_> = masks.collect();
    let drawn = |(name, value): &(String, _)| {
        let ty = graph.ty(*value);
        let mut numbers = draws.numbers(name, Spread::NORMAL, ty.elements());
        if masks.contains(value) {
            // Every key is seen.
            numbers.fill(0.0);
        }
        if ty.dtype == DType::Bf16 {
            numbers.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
        }
        (name.clone(), numbers)
    };
    graph.inputs().iter().map(drawn).collect()
}

/// Runs a layer. Weights are drawn by their names, and so are the same for the same layer in other precisions.
fn result(
    runtime: &Arc<Runtime>,
    graph: Graph,
    inputs: &[(String, Vec<f32>)],
    draws: &Draws,
    cancel: &CancelToken,
) -> Result<Vec<f32>, Error> {
    let weights: Vec<(String, Spread, usize)> = graph
        .parameters()
        .iter()
        .map(|parameter| {
            let ty = graph.ty(parameter.value);
            let spread = match ty.rank() {
                0 | 1 => Spread::of(parameter.init),
                _ => Spread::summed(ty.elements() / ty.shape[0]),
            };
            (parameter.name.clone(), spread, ty.elements())
        })
        .collect();
    let narrow: Vec<Vec<bf16>> = inputs
        .iter()
        .map(|(name, numbers)| match graph.input(name) {
            Ok(value) if graph.ty(value).dtype == DType::Bf16 => {
                numbers.iter().map(|&x| bf16::from_f32(x)).collect()
            }
            _ => Vec::new(),
        })
        .collect();
    let given: Vec<(&str, Data<'_>)> = inputs
        .iter()
        .zip(&narrow)
        .map(|((name, wide), narrow)| match narrow.is_empty() {
            true => (name.as_str(), Data::F32(wide)),
            false => (name.as_str(), Data::Bf16(narrow)),
        })
        .collect();
    let store = WeightStore::new(runtime);
    let mut plan = Executor::new(runtime, graph, &store)?;
    store.load(&|name: &str| {
        let (_, spread, len) = weights.iter().find(|(known, ..)| known == name)?;
        Some(Values::F32(Cow::Owned(draws.numbers(name, *spread, *len))))
    })?;
    plan.run(&given, cancel)?;
    Ok(plan.output(ALONE)?.to_vec())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use velatura_cpu::{Isa, Profile};
    use velatura_graph::op::Window;
    use velatura_graph::passes::{Precision, for_inference};
    use velatura_graph::{Builder, Init};

    use super::*;

    /// Errors by operation, of a network of one wide convolution, one linear layer and a norm.
    fn errors(isa: Isa, precision: Precision, direct: bool) -> Vec<(String, Option<f64>)> {
        let (b, channels) = (Builder::new(), 64);
        let x = b.input("x", &[1, 32, 32, channels], DType::F32);
        let weight = |name: &str, shape: &[usize]| b.params().get(name, shape, Init::Zeros);
        let window = Window::new(1, 1);
        let y =
            x.conv2d(weight("conv", &[channels, channels, 3, 3]), Some(weight("bias", &[channels])), window);
        let y = y.group_norm(weight("scale", &[channels]), weight("shift", &[channels]), 4, 1e-5);
        let y = y.reshape(&[1, 1024, channels]).linear(weight("linear", &[channels, channels]), None);
        b.output("y", y.permute(&[0, 2, 1]));
        let mut graph = for_inference(b.finish().unwrap(), precision);
        if direct {
            graph.set_shortcuts(Shortcuts::None);
        }
        let mut profile = Profile::new(isa);
        (0..graph.nodes().len()).for_each(|node| profile.add(&graph, node, Duration::ZERO));
        let runtime = Runtime::with_isa(2, isa);
        let lines = profile.lines();
        let error = |line: &Line| layer_error(&runtime, line, &CancelToken::default()).unwrap();
        lines.iter().map(|line| (line.operation.to_string(), error(line))).collect()
    }

    fn of(errors: &[(String, Option<f64>)], operation: &str) -> Option<f64> {
        errors.iter().find(|(name, _)| name == operation).unwrap().1
    }

    #[test]
    fn what_is_stored_in_bf16_is_rounded_once() {
        for isa in Isa::supported() {
            let errors = errors(isa, Precision::Bf16, true);
            // The rounding of a number to 8 bits is 2^-9 at most, 1.7e-3 in the mean of squares; that of operands adds to it.
            let [norm, linear, conv] =
                ["group norm", "linear", "conv2d"].map(|name| of(&errors, name).unwrap());
            assert!((1.5e-3..1.9e-3).contains(&norm), "{isa:?}: {norm:.2e}");
            assert!((1.5e-3..3.5e-3).contains(&linear), "{isa:?}: {linear:.2e}");
            assert!((1.5e-3..3.5e-3).contains(&conv), "{isa:?}: {conv:.2e}");
            assert_eq!(of(&errors, "permute"), None);
        }
    }

    #[test]
    fn winograds_algorithm_and_bytes_round_more() {
        for isa in Isa::supported() {
            let [fast, direct] = [false, true].map(|direct| errors(isa, Precision::F32, direct));
            // Single precision directly is what the others are held against.
            assert!(direct.iter().all(|(_, error)| error.is_none()), "{isa:?}: {direct:?}");
            let error = of(&fast, "conv2d").unwrap();
            assert!((1e-8..1e-5).contains(&error), "{isa:?}: {error:.2e}");
            assert_eq!(of(&fast, "linear"), None);

            let [fast, direct] = [false, true].map(|direct| errors(isa, Precision::Bf16, direct));
            let conv = |errors| of(errors, "conv2d").unwrap();
            let (fast, direct) = (conv(&fast), conv(&direct));
            match isa {
                Isa::Amx | Isa::Avx512 => assert!(fast > 1.5 * direct, "{isa:?}: {fast:.2e}, {direct:.2e}"),
                // Products of single precision hide behind the rounding of the result.
                _ => assert!(fast > 0.99 * direct, "{isa:?}: {fast:.2e}, {direct:.2e}"),
            }

            let int8 = errors(isa, Precision::Int8, false);
            let error = of(&int8, "linear").unwrap();
            assert!((5e-3..3e-2).contains(&error), "{isa:?}: {error:.2e}");
        }
    }
}
