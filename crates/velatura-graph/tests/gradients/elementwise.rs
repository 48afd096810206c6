//! Elementwise functions, shapes, reductions and losses.

use std::collections::HashMap;

use velatura_graph::op::{Reduce, ReduceKind, Unary, UnaryFunction};
use velatura_graph::reference::{Array, evaluate};
use velatura_graph::{Builder, DType, gradients, loss};

use super::{ACTIVATIONS, Data, any, apply, case, check_all, distinct, ids, positive};

#[test]
fn unary_functions() {
    let mut cases = Vec::new();
    for function in [
        UnaryFunction::Neg,
        UnaryFunction::Exp,
        UnaryFunction::Square,
        UnaryFunction::Sin,
        UnaryFunction::Cos,
        UnaryFunction::Affine { scale: -1.5, shift: 0.25 },
    ] {
        cases.push(case(format!("{function:?}"), [any(&[3, 5])], move |v| apply(Unary { function }, v)));
    }
    for function in [
        UnaryFunction::Log,
        UnaryFunction::Sqrt,
        UnaryFunction::Rsqrt,
        UnaryFunction::Reciprocal,
        UnaryFunction::Pow { exponent: 2.5 },
        UnaryFunction::Pow { exponent: -0.75 },
        UnaryFunction::Pow { exponent: 1.0 },
        UnaryFunction::Pow { exponent: 0.5 },
    ] {
        cases.push(case(format!("{function:?}"), [positive(&[3, 5])], move |v| apply(Unary { function }, v)));
    }
    for function in
        [UnaryFunction::Abs, UnaryFunction::Clamp { min: -0.5, max: 0.5 }, UnaryFunction::Reciprocal]
    {
        let name = format!("{function:?} on both sides of 0");
        cases.push(case(name, [distinct(&[5, 5])], move |v| {
            if function == UnaryFunction::Reciprocal {
                // Far enough from the pole for the difference quotient.
                return apply(Unary { function }, &[v[0] + 5.0]);
            }
            apply(Unary { function }, v)
        }));
    }
    for activation in ACTIVATIONS {
        cases.push(case(format!("{activation:?}"), [distinct(&[9, 11])], move |v| {
            v[0].activation(activation)
        }));
    }
    cases.push(case("no gradient through sign", [distinct(&[5])], |v| v[0].sign() * 3.0));
    cases.push(case("scalar", [any(&[])], |v| v[0].exp()));
    cases.push(case("cast there and back", [any(&[3])], |v| v[0].cast(DType::Bf16).cast(DType::F32).exp()));
    check_all(cases);
}

#[test]
fn binary_functions_broadcast() {
    let shapes: [(&[usize], &[usize]); 7] = [
        (&[3, 4], &[3, 4]),
        (&[3, 4], &[4]),
        (&[3, 1], &[1, 4]),
        (&[4], &[2, 3, 4]),
        (&[], &[2, 3]),
        (&[2, 1, 3, 1], &[5, 1, 2]),
        (&[1], &[1, 1]),
    ];
    let mut cases = Vec::new();
    for (a, b) in shapes {
        cases.push(case(format!("add {a:?} {b:?}"), [any(a), any(b)], |v| v[0] + v[1]));
        cases.push(case(format!("sub {a:?} {b:?}"), [any(a), any(b)], |v| v[0] - v[1]));
        cases.push(case(format!("mul {a:?} {b:?}"), [any(a), any(b)], |v| v[0] * v[1]));
        cases.push(case(format!("div {a:?} {b:?}"), [any(a), positive(b)], |v| v[0] / v[1]));
        // Shifted by half of the spacing, no element of one side equals one of the other.
        cases.push(case(format!("max {a:?} {b:?}"), [distinct(a), distinct(b)], |v| {
            v[0].maximum(v[1] * 0.5 + 0.0125)
        }));
        cases.push(case(format!("min {a:?} {b:?}"), [distinct(a), distinct(b)], |v| {
            v[0].minimum(v[1] * 0.5 + 0.0125)
        }));
    }
    cases.push(case("one value on both sides", [any(&[2, 3])], |v| v[0] * v[0] + v[0]));
    cases.push(case("comparisons have no gradient", [distinct(&[4, 3])], |v| {
        v[0] * v[0].greater(v[0] * 0.5 + 0.01)
    }));
    cases.push(case("a value used by many", [any(&[2, 3]), any(&[3])], |v| {
        let h = (v[0] * v[1]).sin();
        h.exp() * h + h.square().sum(&[1], true) + v[1]
    }));
    check_all(cases);
}

#[test]
fn a_tie_is_shared_as_in_pytorch() {
    let builder = Builder::new();
    let (a, b) = (builder.input("a", &[3], DType::F32), builder.input("b", &[3], DType::F32));
    let grads = gradients(&builder, a.maximum(b).sum_all() + a.max(&[0], false), &[a, b]).unwrap();
    builder.output("da", grads[0]);
    builder.output("db", grads[1]);
    let graph = builder.finish().unwrap();
    let given = |x: [f64; 3]| Array { shape: vec![3], data: x.to_vec() };
    let given = HashMap::from([("a".into(), given([2.0, 2.0, 0.0])), ("b".into(), given([2.0, 1.0, 1.0]))]);
    let outputs = evaluate(&graph, &given);
    assert_eq!(outputs["da"].data, [0.5 + 0.5, 1.0 + 0.5, 0.0]);
    assert_eq!(outputs["db"].data, [0.5, 0.0, 1.0]);
}

#[test]
fn shape_operations() {
    let x = || [any(&[2, 3, 5])];
    check_all(vec![
        case("reshape", x(), |v| v[0].reshape(&[3, 10])),
        case("reshape to a scalar", [any(&[1, 1])], |v| v[0].reshape(&[])),
        case("permute", x(), |v| v[0].permute(&[2, 0, 1])),
        case("permute of four axes", [any(&[2, 3, 2, 4])], |v| v[0].permute(&[0, 3, 1, 2])),
        case("permute of nothing", [any(&[])], |v| v[0].permute(&[])),
        case("slice of the first axis", x(), |v| v[0].slice(0, 1, 1)),
        case("slice of the last axis", x(), |v| v[0].slice(2, 1, 3)),
        case("chunks", [any(&[2, 6])], |v| v[0].chunks(1, 3).into_iter().reduce(|a, b| a * b).unwrap()),
        case("pad", x(), |v| v[0].pad(1, 2, 1)),
        case("pad by nothing", x(), |v| v[0].pad(2, 0, 0)),
        case("concat", [any(&[2, 1, 3]), any(&[2, 4, 3]), any(&[2, 2, 3])], |v| v[0].concat(&v[1..], 1)),
        case("concat with itself", [any(&[2, 3])], |v| v[0].concat(&[v[0].exp(), v[0]], 0)),
        case("concat of one", [any(&[2, 3])], |v| v[0].concat(&[], 1)),
        case("broadcast", [any(&[3, 1, 2])], |v| v[0].broadcast_to(&[2, 3, 4, 2])),
        case("broadcast of a scalar", [any(&[])], |v| v[0].broadcast_to(&[2, 3])),
        case("detach", [any(&[2, 3])], |v| v[0].detach() * 0.0 + v[0].square()),
    ]);
}

#[test]
fn detach_stops_the_gradient() {
    let builder = Builder::new();
    let x = builder.input("x", &[3], DType::F32);
    let grad = gradients(&builder, (x.detach() * x).sum_all(), &[x]).unwrap()[0];
    builder.output("grad", grad);
    let graph = builder.finish().unwrap();
    let x = Array { shape: vec![3], data: vec![1.0, 2.0, 3.0] };
    assert_eq!(evaluate(&graph, &HashMap::from([("x".into(), x.clone())]))["grad"], x);
}

#[test]
fn reductions() {
    let mut cases = Vec::new();
    for kind in [ReduceKind::Sum, ReduceKind::Mean, ReduceKind::Max] {
        for axes in [vec![], vec![0], vec![1], vec![2], vec![0, 2], vec![1, 2], vec![0, 1, 2]] {
            for keep in [false, true] {
                let op = Reduce { kind, axes: axes.clone(), keep };
                let name = format!("{kind:?} {axes:?} {keep}");
                cases.push(case(name, [distinct(&[2, 3, 5])], move |v| apply(op.clone(), v).square()));
            }
        }
    }
    cases.push(case("scalar", [any(&[])], |v| v[0].mean_all() + v[0].sum_all() + v[0].max(&[], true)));
    cases.push(case("axis of length 1", [any(&[3, 1])], |v| v[0].max(&[1], false) * v[0].mean(&[1], false)));
    cases.push(case("sum_to", [any(&[2, 3, 4])], |v| v[0].sum_to(&[3, 1]).square()));
    check_all(cases);
}

#[test]
fn softmax_and_losses() {
    let targets = || Data::Fixed(vec![3, 4], (0..12).map(|i| (i as f64).sin()).collect());
    check_all(vec![
        case("softmax", [any(&[2, 3, 7])], |v| v[0].softmax()),
        case("log softmax", [any(&[2, 3, 7])], |v| v[0].log_softmax()),
        case("softmax of one class", [any(&[3, 1])], |v| v[0].softmax() + v[0].log_softmax()),
        case("softmax of a vector", [any(&[5])], |v| v[0].softmax()),
        case("cross-entropy", [any(&[5, 7]), ids(&[5], 7)], |v| v[0].cross_entropy(v[1])),
        case("mean cross-entropy", [any(&[5, 3]), ids(&[5], 3)], |v| v[0].cross_entropy(v[1]).mean_all()),
        case("mse", [any(&[3, 4]), targets()], |v| loss::mse(v[0], v[1])),
        case("mse towards both", [any(&[3, 4]), any(&[3, 4])], |v| loss::mse(v[0], v[1])),
        case("l1", [distinct(&[3, 4]), Data::Fixed(vec![3, 4], vec![0.0; 12])], |v| loss::l1(v[0], v[1])),
        case("huber", [any(&[3, 4]), targets()], |v| loss::huber(v[0], v[1], 0.1)),
        case("weighted mse", [any(&[3, 2, 2]), any(&[3, 2, 2]), positive(&[3])], |v| {
            loss::weighted_mse(v[0], v[1], v[2])
        }),
        case("kl", [any(&[3, 2, 2]), any(&[3, 2, 2])], |v| loss::kl_divergence(v[0], v[1])),
    ]);
}
