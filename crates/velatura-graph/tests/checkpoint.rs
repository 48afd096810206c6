//! Checkpointed segments: the same gradients from less memory.

mod common;

use common::graphs::{UNet, random_graph, unet};
use common::{assert_same, run};
use proptest::prelude::*;
use velatura_graph::op::Window;
use velatura_graph::passes::{Fusion, Precision, for_training, fuse};
use velatura_graph::{Builder, DType, Graph, Init, Var, gradients, loss, plan_memory, validate};

/// A training graph of a scalar loss with the gradient towards every parameter.
fn trained(precision: Precision, build: impl for<'g> Fn(&'g Builder) -> Var<'g>) -> Graph {
    let builder = Builder::new();
    let loss = build(&builder);
    builder.output("the loss", loss);
    differentiated(fuse(builder.finish().unwrap(), Fusion::Differentiable), precision)
}

/// Adds the gradients of the output `the loss` towards every parameter, and makes the graph ready to run.
fn differentiated(graph: Graph, precision: Precision) -> Graph {
    let builder = Builder::from_graph(graph);
    let loss = builder.var(builder.with_graph(|g| g.output("the loss").unwrap()));
    let parameters: Vec<_> =
        builder.with_graph(|g| g.parameters().iter().map(|p| (p.name.clone(), p.value)).collect());
    let wanted: Vec<Var<'_>> = parameters.iter().map(|(_, v)| builder.var(*v)).collect();
    for ((name, _), grad) in parameters.iter().zip(gradients(&builder, loss, &wanted).unwrap()) {
        builder.output(&format!("grad {name}"), grad);
    }
    let graph = for_training(builder.finish().unwrap(), precision);
    validate(&graph).unwrap();
    graph
}

fn recomputed(graph: &Graph) -> usize {
    graph.nodes().iter().filter(|n| n.recomputed).count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn gradients_equal_those_without(choices in prop::collection::vec(any::<u32>(), 0..40)) {
        let forward = |checkpoint| {
            let builder = Builder::new();
            builder.output("the loss", random_graph(&builder, &choices, checkpoint));
            builder.finish().unwrap()
        };
        let plain = differentiated(forward(false), Precision::F32);
        let checkpointed = differentiated(forward(true), Precision::F32);
        prop_assert_eq!(recomputed(&plain), 0);
        // The same numbers in the same order: not a bit differs.
        let expected = run(&plain);
        assert_same(&run(&checkpointed), &expected, 0.0);
        // Nothing is fused across the border of a segment, which changes the order of sums.
        let fused = differentiated(fuse(forward(true), Fusion::Differentiable), Precision::F32);
        assert_same(&run(&fused), &expected, 1e-9);
    }
}

/// `build` gets a function that makes a checkpointed segment, or does nothing.
fn same_with_and_without(
    build: impl for<'g> Fn(&'g Builder, Var<'g>, &dyn Fn(&dyn Fn() -> Var<'g>) -> Var<'g>) -> Var<'g>,
) {
    let graph = |on: bool| {
        trained(Precision::F32, |b| {
            let x = b.input("x", &[2, 3], DType::F32) * b.parameter("w", &[3], Init::Ones);
            build(b, x, &|inner| if on { b.checkpoint(inner) } else { inner() }).mean_all()
        })
    };
    let (plain, checkpointed) = (graph(false), graph(true));
    assert!(recomputed(&checkpointed) > 0, "{checkpointed}");
    assert_same(&run(&checkpointed), &run(&plain), 0.0);
}

#[test]
fn adjacent_segments() {
    same_with_and_without(|_, x, segment| segment(&|| segment_b(segment, segment(&|| x.sin().exp()))));
}

fn segment_b<'g>(segment: &dyn Fn(&dyn Fn() -> Var<'g>) -> Var<'g>, h: Var<'g>) -> Var<'g> {
    segment(&|| h.exp().sin())
}

#[test]
fn nested_segments_are_part_of_the_outer_one() {
    same_with_and_without(|_, x, segment| {
        segment(&|| {
            let h = x.sin();
            let inner = segment(&|| h.exp().cos());
            inner * h
        })
    });
}

#[test]
fn skip_connections_across_segments() {
    same_with_and_without(|_, x, segment| {
        let a = segment(&|| x.sin().exp());
        let b = segment(&|| (a.cos() * a).exp());
        let c = segment(&|| (b + a).sin().exp() * x);
        c + a.square() + b
    });
}

#[test]
fn values_inside_a_segment_that_others_read() {
    same_with_and_without(|_, x, segment| {
        let leak = std::cell::Cell::new(x);
        let a = segment(&|| {
            leak.set(x.exp());
            leak.get().sin().square()
        });
        a * leak.get().cos() + segment(&|| leak.get().sin())
    });
}

#[test]
fn weights_shared_by_segments_are_read_again_not_computed_again() {
    let graph = trained(Precision::Bf16, |b| {
        let w = || b.parameter("w", &[4, 4], Init::Ones);
        let x = b.input("x", &[2, 4], DType::F32);
        let h = b.checkpoint(|| x.linear(w(), None).silu());
        b.checkpoint(|| h.linear(w(), None).silu()).mean_all()
    });
    assert_eq!(graph.parameters().len(), 1);
    assert_eq!(graph.nodes().iter().filter(|n| n.op.name() == "parameter").count(), 1);
}

#[test]
fn a_denoiser_has_the_same_gradients() {
    let graph = |checkpoint| {
        trained(Precision::F32, |b| {
            let config = UNet { batch: 1, size: 4, channels: vec![4, 8], blocks: 1, checkpoint };
            loss::mse(unet(b, &config), b.fill(&[1, 4, 4, 4], 0.25))
        })
    };
    let (plain, checkpointed) = (graph(false), graph(true));
    assert!(recomputed(&checkpointed) > 50);
    assert_same(&run(&checkpointed), &run(&plain), 0.0);
}

#[test]
fn what_much_arithmetic_made_small_is_kept() {
    // 4 times the keys, and 2 times 9 times the channels, for each element of the result; the linear layers in
    // between have too little of it.
    let graph = |on: bool, keys: usize, channels: usize| {
        trained(Precision::F32, |b| {
            let p = b.params();
            let x = b.input("x", &[1, 1, keys, channels], DType::F32);
            let inner = || {
                let weight = |name: &str, shape: &[usize]| p.get(name, shape, Init::Ones);
                let h = x.linear(weight("in", &[channels, channels]), None).silu();
                let h = h.conv2d(weight("conv", &[8, channels, 3, 3]), None, Window::new(1, 1)).silu();
                let q = h.reshape(&[1, keys, 8]);
                q.attention(q, q, None, 1, None, false).square()
            };
            let y = if on { b.checkpoint(inner) } else { inner() };
            y.mean_all()
        })
    };
    let again = |graph: &Graph, name: &str| {
        graph.nodes().iter().filter(|n| n.recomputed && n.op.name() == name).count()
    };
    let (few, many) = (graph(true, 1023, 227), graph(true, 1024, 228));
    for (name, of_few, of_many) in [("linear", 1, 1), ("conv2d", 1, 0), ("attention", 1, 0)] {
        assert_eq!((again(&few, name), again(&many, name)), (of_few, of_many), "{name}");
    }
    let more = graph(true, 1024, 4);
    assert_same(&run(&more), &run(&graph(false, 1024, 4)), 0.0);
}

/// A chain of residual blocks on images `[4, 32, 32, 16]`.
fn chain(blocks: usize, checkpoint: bool, precision: Precision) -> Graph {
    trained(precision, |b| {
        let p = b.params();
        let x = b.input("x", &[4, 32, 32, 16], DType::F32);
        let block = |x: Var<'_>, i: usize| -> velatura_graph::ValueId {
            let p = p.at(i);
            let build = || {
                let half = |x: Var<'_>, name: &str| {
                    let (p, x) = (p.at(name), b.var(x.id()));
                    let (gamma, beta) =
                        (p.get("gamma", &[16], Init::Ones), p.get("beta", &[16], Init::Zeros));
                    let weight = p.get("weight", &[16, 16, 3, 3], Init::Zeros);
                    x.group_norm(gamma, beta, 4, 1e-5).silu().conv2d(weight, None, Window::new(1, 1)).id()
                };
                let x = b.var(x.id());
                let h = b.var(half(x, "a"));
                (b.var(half(h, "b")) + x).id()
            };
            if checkpoint { b.checkpoint(build) } else { build() }
        };
        let out = (0..blocks).fold(x, |x, i| b.var(block(x, i)));
        out.square().mean_all()
    })
}

#[test]
fn a_deep_chain_takes_markedly_less_memory() {
    for precision in [Precision::F32, Precision::Bf16] {
        let arena = |checkpoint| plan_memory(&chain(24, checkpoint, precision), |_| 0).arena_bytes;
        let (plain, checkpointed) = (arena(false), arena(true));
        println!("24 blocks in {precision:?}: {} KiB, checkpointed {} KiB", plain >> 10, checkpointed >> 10);
        assert!(checkpointed * 5 < plain * 2, "{plain} to {checkpointed}");
    }
    // What is kept of each block is its result alone.
    let more = |checkpoint| {
        let arena = |blocks| plan_memory(&chain(blocks, checkpoint, Precision::F32), |_| 0).arena_bytes;
        (arena(24) - arena(12)) / 12
    };
    let image = 4 * 32 * 32 * 16 * 4;
    let gradients = 2 * (16 * 16 * 9 + 16 + 16) * 4;
    println!("one block more: {} KiB, checkpointed {} KiB", more(false) >> 10, more(true) >> 10);
    assert!(more(true) < image + gradients + image / 10);
    assert!(more(false) > 3 * image);
}
