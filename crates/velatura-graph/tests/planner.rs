//! The memory planner: what is alive at one time does not overlap, and the arena is hardly larger than it must be.

mod common;

use common::Random;
use common::graphs::{UNet, random_graph, unet};
use proptest::prelude::*;
use velatura_graph::passes::{Fusion, Precision, for_inference, for_training, fuse};
use velatura_graph::{Builder, DType, Graph, MemoryPlan, Op, Placement, Var, gradients, loss, plan_memory};

/// Bytes of scratch of a node, some with none.
fn scratch(node: usize) -> usize {
    (node % 3) * 100
}

/// Follows a run: writes every result into the arena as the executor would, and asserts at every read, and for the
/// outputs at the end, that it still stands there.
fn assert_no_overwriting(graph: &Graph, plan: &MemoryPlan) {
    // For each stretch of 64 bytes, what was last written there.
    let mut arena: Vec<Option<u32>> = vec![None; plan.arena_bytes / 64];
    let mut write = |offset: usize, bytes: usize, mark: Option<u32>| {
        assert!(offset.is_multiple_of(64) && bytes.is_multiple_of(64) && offset + bytes <= plan.arena_bytes);
        arena[offset / 64..(offset + bytes) / 64].fill(mark);
        arena.clone()
    };
    let mut now = Vec::new();
    let read = |arena: &[Option<u32>], v: usize, what: &str| {
        let root = match plan.placements[v] {
            Placement::Alias(root) => root.index(),
            _ => v,
        };
        match plan.placements[root] {
            Placement::Arena { offset, bytes } => {
                assert!(bytes >= graph.values()[v].ty.bytes());
                let stands =
                    arena[offset / 64..(offset + bytes) / 64].iter().all(|m| *m == Some(root as u32));
                assert!(stands, "value {v} was overwritten before {what} reads it");
            }
            Placement::Source => assert!(graph.nodes()[graph.values()[root].producer].op.is_source()),
            other => panic!("value {v}, which {what} reads, is {other:?}"),
        }
    };
    for (i, node) in graph.nodes().iter().enumerate() {
        let before = now.clone();
        if let Some((offset, bytes)) = plan.scratch[i] {
            assert!(bytes >= scratch(i));
            now = write(offset, bytes, None);
        } else {
            assert_eq!(scratch(i), 0);
        }
        for v in &node.outputs {
            if let Placement::Arena { offset, bytes } = plan.placements[v.index()] {
                now = write(offset, bytes, Some(v.index() as u32));
            }
        }
        // A kernel reads its inputs while it writes its outputs and scratch.
        for v in &node.inputs {
            read(&before, v.index(), node.op.name());
            read(&now, v.index(), node.op.name());
        }
        for v in &node.outputs {
            if matches!(plan.placements[v.index()], Placement::Arena { .. }) {
                read(&now, v.index(), "its own node");
            }
            let aliased = matches!(plan.placements[v.index()], Placement::Alias(_));
            assert_eq!(aliased, matches!(node.op, Op::Reshape(_) | Op::Detach(_)));
        }
    }
    graph.outputs().iter().for_each(|(name, v)| read(&now, v.index(), name));
}

fn trained(builder: &Builder, loss: Var<'_>) {
    let parameters: Vec<_> =
        builder.with_graph(|g| g.parameters().iter().map(|p| (p.name.clone(), p.value)).collect());
    let wanted: Vec<Var<'_>> = parameters.iter().map(|(_, v)| builder.var(*v)).collect();
    for ((name, _), grad) in parameters.iter().zip(gradients(builder, loss, &wanted).unwrap()) {
        builder.output(&format!("grad {name}"), grad);
    }
}

/// Inference and training graphs of a denoiser.
fn denoiser(config: &UNet, precision: Precision, training: bool) -> Graph {
    let builder = Builder::new();
    let out = unet(&builder, config);
    if !training {
        builder.output("out", out);
        return for_inference(builder.finish().unwrap(), precision);
    }
    let target = builder.input("target", &out.shape(), DType::F32);
    builder.output("loss", loss::mse(out, target));
    let builder = Builder::from_graph(fuse(builder.finish().unwrap(), Fusion::Differentiable));
    let loss = builder.var(builder.with_graph(|g| g.output("loss").unwrap()));
    trained(&builder, loss);
    for_training(builder.finish().unwrap(), precision)
}

fn config(size: usize, channels: &[usize], blocks: usize) -> UNet {
    UNet { batch: 2, size, channels: channels.to_vec(), blocks, checkpoint: false }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_alive_is_overwritten(choices in prop::collection::vec(any::<u32>(), 0..60), checkpoint: bool) {
        let builder = Builder::new();
        let loss = random_graph(&builder, &choices, checkpoint);
        trained(&builder, loss);
        let graph = builder.finish().unwrap();
        for graph in [for_training(graph.clone(), Precision::Bf16), graph] {
            let plan = plan_memory(&graph, scratch);
            prop_assert!(plan.arena_bytes >= plan.live_bytes);
            assert_no_overwriting(&graph, &plan);
            prop_assert_eq!(&plan, &plan_memory(&graph, scratch));
        }
    }
}

#[test]
fn the_arena_of_a_denoiser_is_hardly_larger_than_what_is_alive() {
    let mut rows = String::new();
    let mut worst = 0.0f64;
    for (name, config) in [
        ("glyphs 16px", config(16, &[64, 128, 192], 2)),
        ("pixels 32px", config(32, &[32, 64], 1)),
        ("sd 64px", config(64, &[320, 640, 1280, 1280], 2)),
        ("odd 24px", config(24, &[48, 80, 144], 3)),
    ] {
        for precision in [Precision::F32, Precision::Bf16] {
            for training in [false, true] {
                let graph = denoiser(&config, precision, training);
                let plan = plan_memory(&graph, |_| 0);
                let over = plan.arena_bytes as f64 / plan.live_bytes as f64 - 1.0;
                worst = worst.max(over);
                rows += &format!(
                    "{name:12} {precision:?} training {training}: {} nodes, alive {} KiB, over by {:.2}%\n",
                    graph.nodes().len(),
                    plan.live_bytes >> 10,
                    over * 100.0
                );
            }
        }
    }
    println!("{rows}");
    assert!(worst < 0.05, "{rows}");
}

/// Processor time of this thread where the system tells it, for other work on the machine must not fail a test.
fn milliseconds() -> f64 {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = told.and_then(|s| s.split(' ').next()?.parse::<f64>().ok());
    let since =
        || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as f64;
    nanoseconds.unwrap_or_else(since) / 1e6
}

#[test]
fn planning_thousands_of_nodes_takes_milliseconds() {
    let graph = denoiser(&config(64, &[320, 640, 1280, 1280], 8), Precision::Bf16, true);
    // Random lifetimes are harder than those of any network: many are long, all overlap others.
    let builder = Builder::new();
    let (mut random, mut pool) = (Random(1), vec![builder.input("x", &[1], DType::F32)]);
    for i in 0..700 {
        let (a, b) = (pool[random.below(pool.len())], pool[random.below(pool.len())]);
        pool.push(
            a.mean_all() + b.mean_all().reshape(&[1]).broadcast_to(&[1 + random.below(1000)]) * i as f32,
        );
    }
    builder.output("all", pool.into_iter().map(|v| v.mean_all()).reduce(|a, b| a + b).unwrap());
    for graph in [graph, builder.finish().unwrap()] {
        let start = milliseconds();
        let plan = plan_memory(&graph, |_| 0);
        let took = milliseconds() - start;
        let over = plan.arena_bytes as f64 / plan.live_bytes as f64 - 1.0;
        println!("{} nodes in {took:.1} ms, over by {:.2}%", graph.nodes().len(), over * 100.0);
        // Some 30 ms; a build without optimisation gets its slack.
        assert!(graph.nodes().len() > 5000 && took < 250.0);
    }
}

#[test]
fn aliases_share_memory_and_outputs_live_to_the_end() {
    let builder = Builder::new();
    let x = builder.input("x", &[4, 16], DType::F32);
    let h = x.exp();
    builder.output("flat", h.reshape(&[64]).detach());
    builder.output("input", x.reshape(&[64]));
    builder.output("last", x.sin().cos().sin());
    let graph = builder.finish().unwrap();
    let plan = plan_memory(&graph, |_| 0);
    assert_no_overwriting(&graph, &plan_memory(&graph, scratch));
    let flat = graph.output("flat").unwrap();
    assert_eq!(plan.placements[flat.index()], Placement::Alias(h_id(&graph)));
    let Placement::Alias(root) = plan.placements[graph.output("input").unwrap().index()] else { panic!() };
    assert_eq!(plan.placements[root.index()], Placement::Source);
    // `flat` throughout, and two of the chain at a time.
    assert_eq!((plan.live_bytes, plan.arena_bytes), (3 * 256, 3 * 256));
}

fn h_id(graph: &Graph) -> velatura_graph::ValueId {
    graph.nodes().iter().find(|n| n.op.name() == "exp").unwrap().outputs[0]
}

#[test]
fn sizes_beyond_any_machine_are_planned_without_panic() {
    let builder = Builder::new();
    let x = builder.input("x", &[1 << 30, 1 << 30], DType::F32);
    builder.output("y", (x.exp() + x.sin()).cos());
    let graph = builder.finish().unwrap();
    let plan = plan_memory(&graph, |_| usize::MAX);
    assert_eq!(plan.arena_bytes, usize::MAX);
    assert!(plan_memory(&graph, |_| 0).arena_bytes >= 3 << 62);
}
