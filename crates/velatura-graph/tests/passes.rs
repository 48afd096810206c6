//! Passes keep the meaning of a graph, and each does what it is for.

mod common;

use std::collections::HashMap;

use common::graphs::random_graph;
use common::{assert_same, run};
use proptest::prelude::*;
use velatura_graph::op::{Epilogue, Window};
use velatura_graph::passes::{
    Fusion, Precision, for_inference, for_training, fuse, lower_precision, merge_common, remove_dead,
};
use velatura_graph::{Activation, Builder, DType, Graph, Init, Node, Op, Var, gradients, loss, validate};

/// Adds the gradient of `loss` towards every parameter as an output.
fn with_gradients(graph: Graph) -> Graph {
    let builder = Builder::from_graph(graph);
    let loss = builder.var(builder.with_graph(|g| g.output("loss").unwrap()));
    let parameters: Vec<_> =
        builder.with_graph(|g| g.parameters().iter().map(|p| (p.name.clone(), p.value)).collect());
    let wanted: Vec<Var<'_>> = parameters.iter().map(|(_, v)| builder.var(*v)).collect();
    for ((name, _), grad) in parameters.iter().zip(gradients(&builder, loss, &wanted).unwrap()) {
        builder.output(&format!("grad {name}"), grad);
    }
    builder.finish().unwrap()
}

fn random(choices: &[u32], checkpoint: bool) -> Graph {
    let builder = Builder::new();
    random_graph(&builder, choices, checkpoint);
    builder.finish().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn passes_keep_the_meaning(choices in prop::collection::vec(any::<u32>(), 0..40), checkpoint: bool) {
        let graph = random(&choices, checkpoint);
        prop_assert_eq!(validate(&graph), Ok(()));
        let expected = run(&graph);
        for (name, changed) in [
            ("dead", remove_dead(graph.clone())),
            ("common", merge_common(graph.clone())),
            ("fused", fuse(graph.clone(), Fusion::Differentiable)),
            ("all fused", fuse(graph.clone(), Fusion::All)),
            ("bf16", lower_precision(graph.clone(), Precision::Bf16)),
            ("inference f32", for_inference(graph.clone(), Precision::F32)),
            ("inference bf16", for_inference(graph.clone(), Precision::Bf16)),
        ] {
            prop_assert_eq!(validate(&changed), Ok(()), "{}", name);
            // The order of sums is kept, so only what is fused may round otherwise, and in double precision.
            assert_same(&run(&changed), &expected, 1e-12);
        }
        let trained = with_gradients(graph.clone());
        prop_assert_eq!(validate(&trained), Ok(()));
        let expected = run(&trained);
        assert_same(&run(&for_training(trained.clone(), Precision::F32)), &expected, 1e-12);
        let lowered = for_training(trained, Precision::Bf16);
        prop_assert_eq!(validate(&lowered), Ok(()));
        prop_assert!(lowered.outputs().iter().all(|(_, v)| lowered.ty(*v).dtype == DType::F32));
        assert_same(&run(&lowered), &expected, 1e-12);
        // Fused first, the gradients are the same.
        let fused = with_gradients(fuse(remove_dead(merge_common(graph)), Fusion::Differentiable));
        let got = run(&fused);
        let left: HashMap<_, _> = expected.into_iter().filter(|(name, _)| got.contains_key(name)).collect();
        assert_same(&got, &left, 1e-9);
    }

    #[test]
    fn tidying_twice_changes_nothing(choices in prop::collection::vec(any::<u32>(), 0..40)) {
        let once = remove_dead(merge_common(with_gradients(random(&choices, true))));
        prop_assert_eq!(&remove_dead(merge_common(once.clone())), &once);
        let uses = once.uses();
        let useless = |n: &&Node| !matches!(n.op, Op::Input(_)) && n.outputs.iter().all(|v| uses[v.index()] == 0);
        prop_assert_eq!(once.nodes().iter().find(useless), None);
    }
}

fn count(graph: &Graph, name: &str) -> usize {
    graph.nodes().iter().filter(|n| n.op.name() == name).count()
}

fn only<'a>(graph: &'a Graph, name: &str) -> &'a Node {
    assert_eq!(count(graph, name), 1, "{graph}");
    graph.nodes().iter().find(|n| n.op.name() == name).unwrap()
}

/// A graph with one output from an image `[2, 4, 4, 6]` and a row for each image `[2, 6]`.
fn graph(build: impl for<'g> FnOnce(&'g Builder, Var<'g>, Var<'g>) -> Var<'g>) -> Graph {
    let builder = Builder::new();
    let (x, row) = (builder.input("x", &[2, 4, 4, 6], DType::F32), builder.input("row", &[2, 6], DType::F32));
    let y = build(&builder, x, row);
    builder.output("y", y);
    builder.finish().unwrap()
}

fn conv<'g>(builder: &'g Builder, x: Var<'g>, name: &str, bias: bool) -> Var<'g> {
    let weight = builder.parameter(name, &[6, 6, 3, 3], Init::Zeros);
    let bias = bias.then(|| builder.parameter(&format!("{name} bias"), &[6], Init::Zeros));
    x.conv2d(weight, bias, Window::new(1, 1))
}

fn norm<'g>(builder: &'g Builder, x: Var<'g>) -> Var<'g> {
    x.group_norm(
        builder.parameter("gamma", &[6], Init::Ones),
        builder.parameter("beta", &[6], Init::Zeros),
        3,
        1e-5,
    )
}

#[test]
fn dead_nodes_go_and_inputs_stay() {
    let graph = graph(|b, x, _| {
        b.input("unused", &[3], DType::F32).exp();
        conv(b, x, "unused weight", false);
        x.exp().sin();
        x.exp()
    });
    let tidy = remove_dead(graph.clone());
    assert_eq!(
        tidy.nodes().iter().map(|n| n.op.name()).collect::<Vec<_>>(),
        ["input", "input", "input", "exp"]
    );
    assert!(tidy.parameters().is_empty() && tidy.parameter("unused weight").is_none());
    assert_eq!(tidy.inputs().len(), 3);
    // Forgetting an output makes what only it needed dead.
    let mut without = graph;
    without.retain_outputs(|_| false);
    assert_eq!(remove_dead(without).nodes().len(), 3);
}

#[test]
fn common_nodes_merge() {
    let graph = graph(|b, x, row| {
        let twice = || x.exp().sin() * b.fill(&[6], 2.0);
        // Attributes tell apart what is of one kind.
        let apart = x.clamp(0.0, 1.0) + x.clamp(0.0, 2.0) + b.fill(&[6], 3.0);
        let keys = row.reshape(&[2, 1, 6]);
        let attend = || keys.attention(keys, keys, None, 2, None, false).reshape(&[2, 1, 1, 6]);
        twice() + twice() + apart + attend() + attend()
    });
    let merged = merge_common(graph);
    for (name, expected) in [("exp", 1), ("sin", 1), ("clamp", 2), ("constant", 2), ("attention", 1)] {
        assert_eq!(count(&merged, name), expected, "{name} in\n{merged}");
    }
}

#[test]
fn recomputed_nodes_stay_apart_from_their_originals() {
    let graph = graph(|b, x, _| b.checkpoint(|| x.exp().sin().exp()).mean_all());
    let builder = Builder::from_graph(graph);
    let [x, y] = ["x", "y"].map(|name| {
        let id = builder.with_graph(|g| g.input(name).or_else(|_| g.output(name)).unwrap());
        builder.var(id)
    });
    let grad = gradients(&builder, y, &[x]).unwrap()[0];
    builder.output("grad", grad);
    let trained = for_training(builder.finish().unwrap(), Precision::F32);
    assert_eq!(trained.nodes().iter().filter(|n| n.recomputed).count(), 3, "{trained}");
    assert_eq!(count(&trained, "exp"), 4, "{trained}");
}

#[test]
fn fusion_takes_silu_into_the_norm() {
    for fusion in [Fusion::Differentiable, Fusion::All] {
        let fused = fuse(graph(|b, x, _| norm(b, x).silu()), fusion);
        let Op::GroupNorm(op) = &only(&fused, "group norm").op else { panic!() };
        assert_eq!((op.activation, count(&fused, "silu")), (Some(Activation::Silu), 0));
    }
}

#[test]
fn fusion_takes_sums_into_the_convolution() {
    let orders: [for<'g> fn(Var<'g>, Var<'g>) -> Var<'g>; 2] = [|a, b| a + b, |a, b| b + a];
    for add in orders {
        for bias in [false, true] {
            let original = graph(|b, x, row| {
                let h = conv(b, x, "w", bias);
                add(add(h, row.reshape(&[2, 1, 1, 6])), x)
            });
            let fused = fuse(original.clone(), Fusion::Differentiable);
            let Op::Conv2d(op) = &only(&fused, "conv2d").op else { panic!() };
            assert_eq!(op.epilogue, Epilogue { bias, per_image: true, activation: None, residual: true });
            assert_eq!(count(&fused, "add"), 0);
            assert_same(&run(&fused), &run(&original), 1e-12);
        }
    }
}

#[test]
fn fusion_takes_activations_into_products_when_nothing_is_differentiated_after() {
    let original = graph(|b, x, _| {
        let w = b.parameter("w", &[6, 6], Init::Zeros);
        let h = x.linear(w, Some(b.parameter("b", &[6], Init::Zeros))).gelu();
        conv(b, h, "c", true).silu() + h
    });
    let fused = fuse(original.clone(), Fusion::All);
    let Op::Linear(op) = &only(&fused, "linear").op else { panic!() };
    assert_eq!(op.epilogue.activation, Some(Activation::Gelu));
    let Op::Conv2d(op) = &only(&fused, "conv2d").op else { panic!() };
    let expected =
        Epilogue { bias: true, per_image: false, activation: Some(Activation::Silu), residual: true };
    assert_eq!(op.epilogue, expected);
    assert_same(&run(&fused), &run(&original), 1e-12);
    let differentiable = fuse(original, Fusion::Differentiable);
    assert_eq!(count(&differentiable, "gelu") + count(&differentiable, "silu"), 2);
}

#[test]
fn fusion_keeps_the_order_of_activation_and_residual() {
    // silu(conv + x) is not silu(conv) + x.
    let original = graph(|b, x, _| (conv(b, x, "c", true) + x).silu());
    let fused = fuse(original.clone(), Fusion::All);
    assert_eq!(count(&fused, "silu"), 1);
    assert_same(&run(&fused), &run(&original), 1e-12);
    // Nor can a row for each image be added after the activation.
    let original = graph(|b, x, row| conv(b, x, "c", true).silu() + row.reshape(&[2, 1, 1, 6]));
    assert_same(&run(&fuse(original.clone(), Fusion::All)), &run(&original), 1e-12);
}

#[test]
fn fusion_leaves_what_others_read() {
    let twice = graph(|b, x, _| {
        let h = conv(b, x, "c", true);
        h.silu() + h
    });
    let fused = fuse(twice, Fusion::All);
    assert_eq!((count(&fused, "silu"), count(&fused, "add")), (1, 1));
    let doubled = graph(|b, x, _| {
        let h = conv(b, x, "c", true);
        h + h
    });
    assert_eq!(count(&fuse(doubled, Fusion::All), "add"), 1);
    let output = graph(|b, x, _| {
        let h = conv(b, x, "c", true);
        b.output("h", h);
        h + x
    });
    assert_eq!(count(&fuse(output, Fusion::All), "add"), 1);
    let segments = graph(|b, x, _| b.checkpoint(|| conv(b, x, "c", true)).silu());
    assert_eq!(count(&fuse(segments, Fusion::All), "silu"), 1);
    // Two convolutions into one sum: one takes the other as its residual.
    let two = graph(|b, x, _| conv(b, x, "c", true) + conv(b, x, "d", false));
    let fused = fuse(two.clone(), Fusion::Differentiable);
    assert_eq!((count(&fused, "conv2d"), count(&fused, "add")), (2, 0));
    assert_same(&run(&fused), &run(&two), 1e-12);
}

#[test]
fn lowered_precision_stores_each_value_as_it_should() {
    use DType::{Bf16, F32};
    let builder = Builder::new();
    let x = builder.input("x", &[2, 4, 4, 6], F32);
    let table = builder.parameter("table", &[5, 6], Init::Zeros);
    let tokens = table.embedding(builder.input("ids", &[2, 3], DType::I32));
    let w = builder.parameter("w", &[6, 6], Init::Zeros);
    let h = norm(&builder, conv(&builder, x, "c", true)).silu();
    let h = conv(&builder, h, "d", true) + h;
    let keys = tokens.layer_norm(None, None, 1e-5).linear(w, None);
    let flat = h.reshape(&[2, 16, 6]);
    let mask = builder.fill(&[1, 1, 1, 3], -1.0);
    let h = flat.linear(w, None).attention(keys, keys, Some(mask), 2, None, false) + flat;
    let scores = h.rms_norm(builder.parameter("rms", &[6], Init::Ones), 1e-6).matmul(w);
    let classes = scores.mean(&[1], false).cross_entropy(builder.input("class", &[2], DType::I32)).mean_all();
    builder.output("loss", classes + loss::mse(h, builder.fill(&h.shape(), 0.5)));
    builder.output("h", h);
    let graph = for_training(with_gradients(builder.finish().unwrap()), Precision::Bf16);
    assert_eq!(validate(&graph), Ok(()));
    let mut seen = std::collections::HashSet::new();
    for node in graph.nodes() {
        let inputs: Vec<DType> = node.inputs.iter().map(|&v| graph.ty(v).dtype).collect();
        let outputs: Vec<DType> = node.outputs.iter().map(|&v| graph.ty(v).dtype).collect();
        let (expected_inputs, expected): (&[DType], &[DType]) = match &node.op {
            Op::Input(_) | Op::Parameter(_) | Op::Constant(_) => continue,
            Op::Linear(_) | Op::Conv2d(_) | Op::LinearInputGradient(_) | Op::Conv2dInputGradient(_) => {
                (&[Bf16, F32], &[Bf16])
            }
            Op::LinearWeightGradient(_) | Op::Conv2dWeightGradient(_) => (&[Bf16, Bf16], &[F32]),
            Op::MatMul(_) => (&[Bf16, Bf16], &[Bf16]),
            Op::Attention(_) => (&[Bf16, Bf16, Bf16, F32], &[Bf16, F32]),
            Op::AttentionGradient(_) => (&[Bf16, Bf16, Bf16, F32, Bf16, F32, Bf16], &[Bf16, Bf16, Bf16]),
            Op::GroupNorm(_) | Op::LayerNorm(_) | Op::RmsNorm(_) => (&[], &[Bf16, F32]),
            Op::GroupNormGradient(_) => (&[Bf16, F32, F32, F32], &[Bf16, F32, F32]),
            Op::RmsNormGradient(_) => (&[], &[Bf16, F32]),
            Op::Reduce(_) | Op::CrossEntropy(_) | Op::EmbeddingGradient(_) => (&[], &[F32]),
            _ => continue,
        };
        seen.insert(node.op.name());
        assert!(inputs.starts_with(expected_inputs), "{} reads {inputs:?}", node.op.name());
        assert_eq!(outputs, expected, "{}", node.op.name());
    }
    // Every kind of product, norm and reduction did occur.
    assert!(seen.len() >= 17, "{seen:?}");
    assert!(graph.outputs().iter().all(|(_, v)| graph.ty(*v).dtype == F32));
    assert!(graph.parameters().iter().all(|p| graph.ty(p.value).dtype == F32));
}

#[test]
fn f32_is_left_alone() {
    let original = graph(|b, x, _| conv(b, x, "c", true).silu());
    assert_eq!(lower_precision(original.clone(), Precision::F32), original);
}

#[test]
fn int8_marks_the_linear_layers_over_tokens_and_attention_alone() {
    let builder = Builder::new();
    let p = builder.params();
    let weight = |name: &str| p.get(name, &[6, 4], velatura_graph::Init::Ones);
    let tokens = builder.input("tokens", &[2, 3, 4], DType::F32);
    let pooled = builder.input("pooled", &[2, 4], DType::F32);
    builder.output("tokens", tokens.linear(weight("a"), None));
    builder.output("pooled", pooled.linear(weight("b"), None));
    let graph = builder.finish().unwrap();
    let marks = |precision| -> Vec<(usize, bool)> {
        let graph = for_inference(graph.clone(), precision);
        let linear = |node: &velatura_graph::Node| match &node.op {
            Op::Linear(op) => Some((graph.ty(node.inputs[0]).shape.len(), op.int8)),
            _ => None,
        };
        graph.nodes().iter().filter_map(linear).collect()
    };
    assert_eq!(marks(Precision::Int8), [(3, true), (2, false)]);
    let attention = {
        let builder = Builder::new();
        let tokens = builder.input("tokens", &[2, 3, 4], DType::F32);
        builder.output("out", tokens.attention(tokens, tokens, None, 2, None, false));
        builder.finish().unwrap()
    };
    let marked = |precision| {
        let graph = for_inference(attention.clone(), precision);
        graph.nodes().iter().any(|node| matches!(&node.op, Op::Attention(op) if op.int8))
    };
    assert!(marked(Precision::Int8) && !marked(Precision::Bf16));
    assert_eq!(marks(Precision::Bf16), [(3, false), (2, false)]);
}
