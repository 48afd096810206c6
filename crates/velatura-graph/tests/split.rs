//! A graph and its two parts are the same function, and the prelude has what is worth keeping and nothing else.

mod common;

use std::collections::HashMap;

use common::graphs::{UNet, random_graph, unet};
use common::{assert_same, data_for, run};
use proptest::prelude::*;
use velatura_graph::passes::{Precision, Split, for_inference, split};
use velatura_graph::reference::{Array, evaluate};
use velatura_graph::{Builder, DType, Graph, Init, ValueId, validate};

/// Runs the prelude, and the rest on what came of it.
fn run_parts(whole: &Graph, Split { prelude, rest }: &Split) -> HashMap<String, Array> {
    let mut data = data_for(whole);
    data.extend(evaluate(prelude, &data));
    evaluate(rest, &data)
}

fn check(whole: &Graph, parts: &Split) {
    let Split { prelude, rest } = parts;
    assert_eq!((validate(prelude), validate(rest)), (Ok(()), Ok(())));
    for (name, value) in prelude.outputs() {
        assert_eq!(prelude.ty(*value), rest.ty(rest.input(name).unwrap()), "{name}");
    }
    for graph in [prelude, rest] {
        let uses = graph.uses();
        let unread = graph.inputs().iter().find(|(_, value)| uses[value.index()] == 0);
        assert_eq!(unread, None);
    }
    // In the same order and by the same arithmetic: no rounding may differ.
    assert_same(&run_parts(whole, parts), &run(whole), 0.0);
}

fn count(graph: &Graph, name: &str) -> usize {
    graph.nodes().iter().filter(|node| node.op.name() == name).count()
}

fn names(list: &[(String, ValueId)]) -> Vec<&str> {
    list.iter().map(|(name, _)| name.as_str()).collect()
}

fn denoiser(precision: Precision) -> Graph {
    let builder = Builder::new();
    let config = UNet { batch: 1, size: 8, channels: vec![8, 16], blocks: 1, checkpoint: false };
    builder.output("y", unet(&builder, &config));
    for_inference(builder.finish().unwrap(), precision)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_parts_are_the_whole(choices in prop::collection::vec(any::<u32>(), 0..40), bf16: bool) {
        let builder = Builder::new();
        random_graph(&builder, &choices, false);
        let mut whole = builder.finish().unwrap();
        // Other outputs may be fixed, and this one mixes all inputs.
        whole.retain_outputs(|name| name == "loss");
        let whole = for_inference(whole, if bf16 { Precision::Bf16 } else { Precision::F32 });
        for fixed in [&["tokens"][..], &["row"], &["tokens", "row"]] {
            if let Some(parts) = split(&whole, fixed) {
                check(&whole, &parts);
            }
        }
    }
}

#[test]
fn a_denoiser_is_divided_at_its_keys_and_values() {
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let whole = denoiser(precision);
        let parts = split(&whole, &["text"]).unwrap();
        check(&whole, &parts);
        // Half of the attentions look at the text.
        let linears = count(&whole, "attention");
        assert!(linears > 4);
        assert_eq!(names(parts.prelude.inputs()), ["text"]);
        assert_eq!(count(&parts.prelude, "linear"), linears, "keys and values");
        assert_eq!(parts.prelude.outputs().len(), linears);
        assert_eq!(count(&parts.rest, "linear"), count(&whole, "linear") - linears);
        let stored = if precision == Precision::F32 { DType::F32 } else { DType::Bf16 };
        assert!(parts.prelude.outputs().iter().all(|(_, v)| parts.prelude.ty(*v).dtype == stored));
        // Each weight is in one of the parts, and no arithmetic was lost.
        let weights = |graph: &Graph| graph.parameters().len();
        assert_eq!(weights(&parts.prelude) + weights(&parts.rest), weights(&whole));
        let flops = |graph: &Graph| graph.nodes().iter().map(|node| graph.flops(node)).sum::<f64>();
        assert_eq!(flops(&parts.prelude) + flops(&parts.rest), flops(&whole));
    }
}

#[test]
fn what_is_cheap_or_of_weights_alone_stays() {
    let b = Builder::new();
    let (x, text) = (b.input("x", &[1, 4, 6], DType::F32), b.input("text", &[1, 3, 6], DType::F32));
    let mask = b.input("mask", &[1, 3], DType::F32);
    let weight = |name: &str| b.parameter(name, &[6, 6], Init::Zeros);
    // A product of weights, and a weight scaled.
    let merged = weight("a").matmul_transposed(weight("b"), false, false).affine(2.0, 0.0);
    let k = text.linear(weight("k"), None);
    let v = text.linear(weight("v"), None).layer_norm(None, None, 1e-5);
    let scores = mask.affine(1e4, -1e4).reshape(&[1, 1, 1, 3]);
    let mixed = x.linear(merged, None).attention(k, v, Some(scores), 2, None, false);
    // What is read as it is has no product before it either.
    b.output("y", mixed + text.slice(1, 0, 1));
    let whole = for_inference(b.finish().unwrap(), Precision::F32);
    let parts = split(&whole, &["text", "mask"]).unwrap();
    check(&whole, &parts);
    let kinds: Vec<&str> = parts.prelude.nodes().iter().map(|node| node.op.name()).collect();
    let computed = kinds.iter().filter(|kind| !["input", "parameter"].contains(kind));
    assert_eq!(computed.collect::<Vec<_>>(), [&"linear", &"linear", &"layer norm"]);
    assert_eq!(names(parts.prelude.inputs()), ["text"]);
    let mut read = names(parts.rest.inputs());
    read.retain(|name| !name.starts_with("prelude."));
    assert_eq!((read, parts.rest.inputs().len()), (vec!["x", "text", "mask"], 5));
}

#[test]
fn what_does_not_repeat_is_not_divided() {
    let whole = denoiser(Precision::F32);
    assert_eq!(split(&whole, &[]), None);
    assert_eq!(split(&whole, &["no such input"]), None);
    // All inputs fixed: the answer itself is.
    assert_eq!(split(&whole, &["sample", "temb", "text"]), None);
}
