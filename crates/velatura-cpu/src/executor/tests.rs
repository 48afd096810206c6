//! The arena: as planned before, as allocated, and as used.

use std::borrow::Cow;

use velatura_graph::op::Window;
use velatura_graph::passes::{Fusion, Precision, for_inference, for_training, fuse};
use velatura_graph::{Builder, DType, Graph, Init, Var, gradients};

use super::*;

/// Two residual blocks and an attention, of a size at which activations outweigh everything else.
fn network(b: &Builder) -> Var<'_> {
    let weight = |name: &str, shape: &[usize]| b.parameter(name, shape, Init::Zeros);
    let mut x = b.input("x", &[2, 24, 24, 16], DType::F32);
    for i in 0..2 {
        let (scale, shift) = (weight(&format!("{i}.scale"), &[16]), weight(&format!("{i}.shift"), &[16]));
        let h = x.group_norm(scale, shift, 4, 1e-5).silu();
        let kernel = weight(&format!("{i}.weight"), &[16, 16, 3, 3]);
        x = x + h.conv2d(kernel, Some(weight(&format!("{i}.bias"), &[16])), Window::new(1, 1));
    }
    let tokens = x.reshape(&[2, 576, 16]);
    let project = |name: &str| tokens.linear(weight(name, &[16, 16]), None);
    tokens + project("q").attention(project("k"), project("v"), None, 2, None, false)
}

fn training() -> Graph {
    let b = Builder::new();
    b.output("loss", network(&b).square().mean_all());
    let b = Builder::from_graph(fuse(b.finish().unwrap(), Fusion::Differentiable));
    let loss = b.var(b.with_graph(|g| g.output("loss")).unwrap());
    let names: Vec<(String, ValueId)> =
        b.with_graph(|g| g.parameters().iter().map(|p| (p.name.clone(), p.value)).collect());
    let wanted: Vec<Var<'_>> = names.iter().map(|(_, v)| b.var(*v)).collect();
    let found = gradients(&b, loss, &wanted).unwrap();
    names.iter().zip(found).for_each(|((name, _), g)| b.output(&format!("grad:{name}"), g));
    b.finish().unwrap()
}

fn inference() -> Graph {
    let b = Builder::new();
    b.output("y", network(&b));
    b.finish().unwrap()
}

/// How many bytes of the arena a run writes: those that do not keep either of two marks.
fn written(executor: &mut Executor) -> usize {
    let x: Vec<f32> = (0..2 * 24 * 24 * 16).map(|i| (i as f32 * 0.37).sin()).collect();
    let mut kept = vec![true; executor.arena_bytes()];
    executor.arena.reserve(kept.len());
    for mark in [0xa5u8, 0x5a] {
        executor.arena.typed_mut::<u8>().fill(mark);
        executor.run(&[("x", Data::F32(&x))], &CancelToken::default()).unwrap();
        kept.iter_mut().zip(executor.arena.typed::<u8>()).for_each(|(kept, &byte)| *kept &= byte == mark);
    }
    kept.iter().filter(|&&kept| !kept).count()
}

#[test]
fn the_arena_is_as_large_as_planned_and_is_used() {
    for precision in [Precision::F32, Precision::Bf16] {
        for graph in [for_inference(inference(), precision), for_training(training(), precision)] {
            let runtime = Runtime::new(Some(2));
            let predicted = plan(&runtime, &graph).arena_bytes;
            let store = WeightStore::new(&runtime);
            let mut executor = Executor::new(&runtime, graph, &store).unwrap();
            let values: Vec<f32> = (0..16 * 16 * 9).map(|i| (i as f32 * 0.71).cos()).collect();
            let sizes: Vec<(String, usize)> = executor
                .graph()
                .parameters()
                .iter()
                .map(|p| (p.name.clone(), executor.graph().ty(p.value).elements()))
                .collect();
            let len = |name: &str| sizes.iter().find(|(n, _)| n == name).map(|(_, len)| *len);
            store.load(&|name| len(name).map(|len| Cow::Borrowed(&values[..len]))).unwrap();
            assert_eq!((executor.arena_bytes(), executor.held_bytes()), (predicted, 0));
            let written = written(&mut executor);
            assert_eq!(executor.held_bytes(), predicted);
            assert!(written as f64 >= 0.95 * predicted as f64, "{precision:?}: {written} of {predicted}");
        }
    }
}

/// A transformer block of 64 tokens, whose attention also is an output where asked for.
fn block(heads: usize, shown: bool, precision: Precision) -> Graph {
    let b = Builder::new();
    let weight = |name: &str, shape: &[usize]| b.parameter(name, shape, Init::Zeros);
    let x = b.input("x", &[2, 32, 64], DType::F32);
    let h = x.layer_norm(Some(weight("norm", &[64])), None, 1e-5);
    let [q, k, v] = ["q", "k", "v"].map(|name| h.linear(weight(name, &[64, 64]), None));
    let attention = q.attention(k, v, None, heads, None, false);
    if shown {
        b.output("attention", attention);
    }
    let x = x + attention.linear(weight("out", &[64, 64]), None);
    let h = x.rms_norm(weight("norm2", &[64]), 1e-5).linear(weight("up", &[128, 64]), None);
    b.output("y", x + h.gelu().linear(weight("down", &[64, 128]), None));
    for_inference(b.finish().unwrap(), precision)
}

#[test]
fn what_products_on_tiles_alone_read_lies_in_them() {
    let in_tiles = |graph: &Graph, isa| -> Vec<&'static str> {
        let orders = order::orders(graph, isa);
        let nodes = graph.nodes().iter();
        nodes.filter(|n| orders[n.outputs[0].index()] == Order::Tiles).map(|n| n.op.name()).collect()
    };
    let projected = ["layer norm", "linear", "linear", "linear"];
    let all = [&projected[..], &["attention", "rms norm", "linear"]].concat();
    assert_eq!(in_tiles(&block(2, false, Precision::Bf16), Isa::Amx), all);
    let without = [&projected[..], &["rms norm", "linear"]].concat();
    assert_eq!(in_tiles(&block(2, true, Precision::Bf16), Isa::Amx), without);
    // Heads of half a block.
    let without = ["layer norm", "attention", "rms norm", "linear"];
    assert_eq!(in_tiles(&block(4, false, Precision::Bf16), Isa::Amx), without);
    assert!(in_tiles(&block(2, false, Precision::F32), Isa::Amx).is_empty());
    assert!(in_tiles(&block(2, false, Precision::Int8), Isa::Amx).is_empty());
    assert!(in_tiles(&block(2, false, Precision::Bf16), Isa::Avx512).is_empty());
    // What training reads again.
    assert!(in_tiles(&for_training(training(), Precision::Bf16), Isa::Amx).is_empty());
    let runtime = Runtime::new(Some(2));
    let run = |rows: bool| {
        let store = WeightStore::new(&runtime);
        let mut executor = Executor::new(&runtime, block(2, false, Precision::Bf16), &store).unwrap();
        if rows {
            executor.orders.fill(Order::Rows);
        }
        let values: Vec<f32> = (0..128 * 64).map(|i| (i as f32 * 0.71).cos() / 8.0).collect();
        let sizes: HashMap<String, usize> = executor
            .graph()
            .parameters()
            .iter()
            .map(|p| (p.name.clone(), executor.graph().ty(p.value).elements()))
            .collect();
        store.load(&|name| sizes.get(name).map(|&len| Cow::Borrowed(&values[..len]))).unwrap();
        let x: Vec<f32> = (0..2 * 32 * 64).map(|i| (i as f32 * 0.37).sin()).collect();
        executor.run(&[("x", Data::F32(&x))], &CancelToken::default()).unwrap();
        executor.output("y").unwrap().to_vec()
    };
    assert_eq!(run(false), run(true));
}
