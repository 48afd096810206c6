//! Low-rank adapters: what they compute, what is trained, and their gradients.

mod common;

use std::collections::HashMap;

use common::{data_for, relative_error};
use velatura_graph::passes::{Fusion, LowRank, add_low_rank, for_training, fuse, remove_dead};
use velatura_graph::reference::{Array, evaluate};
use velatura_graph::{Activation, Builder, DType, Graph, Init, Op, gradients, validate};

const SIZE: LowRank = LowRank { rank: 2, alpha: 3.0 };

/// Two layers, the second of which reads its weight twice; the whole a checkpointed segment if so asked.
fn graph(checkpoint: bool) -> Graph {
    let b = Builder::new();
    let x = b.input("x", &[2, 3, 5], DType::F32);
    let p = b.params();
    let first = (p.get("first.weight", &[4, 5], Init::Zeros), p.get("first.bias", &[4], Init::Zeros));
    let second = p.get("second.weight", &[4, 4], Init::Zeros);
    let build = || {
        let h = x.linear(first.0, Some(first.1)).activation(Activation::Silu);
        h.linear(second, None).silu().linear(second, None)
    };
    let y = if checkpoint { b.checkpoint(build) } else { build() };
    b.output("y", y);
    b.output("loss", y.square().mean_all());
    b.finish().unwrap()
}

fn is_adapter(name: &str) -> bool {
    name.contains(".lora_")
}

/// `W + (alpha / rank) B A`, from the definition.
fn merged(given: &HashMap<String, Array>, name: &str) -> Array {
    let (a, b) = (&given[&format!("{name}.lora_A.weight")], &given[&format!("{name}.lora_B.weight")]);
    let mut weight = given[&format!("{name}.weight")].clone();
    let columns = weight.shape[1];
    for (i, w) in weight.data.iter_mut().enumerate() {
        let (row, column) = (i / columns, i % columns);
        let product: f64 = (0..SIZE.rank).map(|r| b.at(&[row, r]) * a.at(&[r, column])).sum();
        *w += f64::from(SIZE.alpha) / SIZE.rank as f64 * product;
    }
    weight
}

#[test]
fn an_adapter_is_a_weight_of_low_rank_added() {
    for checkpoint in [false, true] {
        let plain = graph(checkpoint);
        let adapted = add_low_rank(&plain, SIZE, |_| true);
        assert_eq!(validate(&adapted), Ok(()));
        let given = data_for(&adapted);
        let mut moved = given.clone();
        for name in ["first", "second"] {
            moved.insert(format!("{name}.weight"), merged(&given, name));
        }
        let (got, expected) = (evaluate(&adapted, &given), evaluate(&plain, &moved));
        assert!(relative_error(&got["y"], &expected["y"]) < 1e-12);
        // And not what the layers alone make.
        assert!(relative_error(&evaluate(&plain, &given)["y"], &expected["y"]) > 1e-2);
    }
}

#[test]
fn adapters_begin_as_nothing_and_lie_only_where_they_were_asked_for() {
    let adapted = add_low_rank(&graph(false), SIZE, |name| name == "second");
    let added: Vec<(&str, Init)> = adapted
        .parameters()
        .iter()
        .filter(|p| is_adapter(&p.name))
        .map(|p| (p.name.as_str(), p.init))
        .collect();
    let expected = [("second.lora_A.weight", Init::Normal(0.5)), ("second.lora_B.weight", Init::Zeros)];
    assert_eq!(added, expected);
    let mut given = data_for(&adapted);
    given.get_mut("second.lora_B.weight").unwrap().data.fill(0.0);
    assert_eq!(evaluate(&adapted, &given)["y"], evaluate(&graph(false), &given)["y"]);
}

/// The gradients towards the adapters alone.
fn trained(forward: Graph) -> Graph {
    let names: Vec<_> = forward.parameters().iter().filter(|p| is_adapter(&p.name)).cloned().collect();
    let loss = forward.output("loss").unwrap();
    let b = Builder::from_graph(forward);
    let wanted: Vec<_> = names.iter().map(|p| b.var(p.value)).collect();
    let grads = gradients(&b, b.var(loss), &wanted).unwrap();
    names.iter().zip(grads).for_each(|(p, grad)| b.output(&format!("grad:{}", p.name), grad));
    b.finish().unwrap()
}

#[test]
fn gradients_of_adapters_are_those_of_finite_differences() {
    const STEP: f64 = 1e-4;
    for checkpoint in [false, true] {
        let forward = add_low_rank(&graph(checkpoint), SIZE, |_| true);
        let fused = fuse(forward.clone(), Fusion::Differentiable);
        let trained = for_training(trained(fused), Default::default());
        assert_eq!(validate(&trained), Ok(()));
        let mut given = data_for(&forward);
        let got = evaluate(&trained, &given);
        let mut checked = 0;
        for name in forward.parameters().iter().map(|p| &p.name).filter(|name| is_adapter(name)) {
            let original = given[name].clone();
            let expected = Array::from_fn(&original.shape, |i| {
                let mut at = |step: f64| {
                    given.get_mut(name).unwrap().data[i] = original.data[i] + step;
                    evaluate(&forward, &given)["loss"].data[0]
                };
                let slope = (at(STEP) - at(-STEP)) / (2.0 * STEP);
                at(0.0);
                slope
            });
            assert!(relative_error(&got[&format!("grad:{name}")], &expected) < 1e-6, "{name}");
            checked += 1;
        }
        assert_eq!(checked, 4);
    }
}

#[test]
fn no_gradient_is_computed_for_the_weights_beside_adapters() {
    let graph = remove_dead(trained(add_low_rank(&graph(false), SIZE, |_| true)));
    let mut towards: Vec<Vec<usize>> = graph
        .nodes()
        .iter()
        .filter(|n| matches!(n.op, Op::LinearWeightGradient(_)))
        .map(|n| graph.ty(n.outputs[0]).shape.clone())
        .collect();
    towards.sort();
    // Two matrices at each of the three places.
    assert_eq!(towards, [[2, 4], [2, 4], [2, 5], [4, 2], [4, 2], [4, 2]]);
}
