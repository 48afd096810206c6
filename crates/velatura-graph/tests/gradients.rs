//! Every gradient rule against central finite differences in double precision, through the reference interpreter.

mod common;

use std::collections::HashMap;

use common::{Random, relative_error};
use velatura_graph::op::{
    Conv2d, Epilogue, GroupNorm, Linear, ReduceKind, Resize, ResizeMode, UnaryFunction, Window,
};
use velatura_graph::op::{Reduce, Unary};
use velatura_graph::reference::{Array, evaluate};
use velatura_graph::{Activation, Builder, DType, Op, Var, gradients, loss};

const ACTIVATIONS: [Activation; 7] = [
    Activation::Relu,
    Activation::Silu,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::QuickGelu,
    Activation::Tanh,
    Activation::Sigmoid,
];

/// What an input of a case holds, and whether the gradient towards it is checked.
#[derive(Clone)]
enum Data {
    /// Uniform on [-1, 1).
    Any(Vec<usize>),
    /// Uniform on [0.5, 2).
    Positive(Vec<usize>),
    /// Apart from each other and from corners.
    Distinct(Vec<usize>),
    /// Indices below a limit.
    Ids(Vec<usize>, usize),
    /// Fixed numbers, no gradient.
    Fixed(Vec<usize>, Vec<f64>),
}

fn any(shape: &[usize]) -> Data {
    Data::Any(shape.to_vec())
}
fn positive(shape: &[usize]) -> Data {
    Data::Positive(shape.to_vec())
}
fn distinct(shape: &[usize]) -> Data {
    Data::Distinct(shape.to_vec())
}
fn ids(shape: &[usize], limit: usize) -> Data {
    Data::Ids(shape.to_vec(), limit)
}

type Build = Box<dyn for<'g> Fn(&[Var<'g>]) -> Var<'g>>;

struct Case {
    name: String,
    inputs: Vec<Data>,
    build: Build,
}

fn case(
    name: impl Into<String>,
    inputs: impl Into<Vec<Data>>,
    build: impl for<'g> Fn(&[Var<'g>]) -> Var<'g> + 'static,
) -> Case {
    Case { name: name.into(), inputs: inputs.into(), build: Box::new(build) }
}

/// Records an operation that has no method of its own.
fn apply<'g>(op: impl Into<Op>, inputs: &[Var<'g>]) -> Var<'g> {
    inputs[0].builder().push(op.into(), inputs)[0]
}

fn check(case: &Case) -> Result<(), String> {
    let mut random = Random(case.name.bytes().fold(1, |h, b| h * 33 % 1_000_003 + u64::from(b)));
    let builder = Builder::new();
    let (mut vars, mut wanted, mut given) = (Vec::new(), Vec::new(), HashMap::new());
    for (i, data) in case.inputs.iter().enumerate() {
        let name = format!("input{i}");
        let (array, dtype, differentiable) = match data {
            Data::Any(shape) => (random.array(shape, -1.0, 1.0), DType::F32, true),
            Data::Positive(shape) => (random.array(shape, 0.5, 2.0), DType::F32, true),
            Data::Distinct(shape) => (random.distinct(shape), DType::F32, true),
            Data::Ids(shape, limit) => {
                (Array::from_fn(shape, |_| random.below(*limit) as f64), DType::I32, false)
            }
            Data::Fixed(shape, values) => (Array::from_fn(shape, |i| values[i]), DType::F32, false),
        };
        vars.push(builder.input(&name, &array.shape, dtype));
        if differentiable {
            wanted.push((name.clone(), vars[i]));
        }
        given.insert(name, array);
    }
    let result = (case.build)(&vars);
    // A random projection, so that no error cancels in a sum.
    let projection = random.array(&result.shape(), -1.0, 1.0).data.into_iter().map(|x| x as f32).collect();
    let scalar = (result * builder.constant(&result.shape(), projection)).sum_all();
    builder.output("loss", scalar);
    let towards: Vec<Var<'_>> = wanted.iter().map(|(_, v)| *v).collect();
    let together = gradients(&builder, scalar, &towards).map_err(|e| e.to_string())?;
    for ((name, var), grad) in wanted.iter().zip(together) {
        builder.output(&format!("grad {name}"), grad);
        // Asked for alone, the rule is told that the other adjoints are not wanted.
        let alone = gradients(&builder, scalar, &[*var]).map_err(|e| e.to_string())?[0];
        builder.output(&format!("alone {name}"), alone);
    }
    let names: Vec<String> = wanted.into_iter().map(|(n, _)| n).collect();
    let graph = builder.finish().map_err(|e| e.to_string())?;
    velatura_graph::validate(&graph).map_err(|e| e.to_string())?;
    let outputs = evaluate(&graph, &given);
    let mut forward = graph.clone();
    forward.retain_outputs(|name| name == "loss");
    let forward = velatura_graph::passes::remove_dead(forward);
    for name in names {
        let got = &outputs[&format!("grad {name}")];
        let expected = differences(&name, &given, |given| evaluate(&forward, given)["loss"].data[0]);
        let error = relative_error(got, &expected);
        if error.is_nan() || error > 1e-6 {
            return Err(format!("towards {name}: relative error {error:e}\n{got:?}\n{expected:?}"));
        }
        if got != &outputs[&format!("alone {name}")] {
            return Err(format!("towards {name}: another gradient when asked for alone"));
        }
    }
    Ok(())
}

/// The derivative towards every element by the five-point rule, whose error is of fourth order.
fn differences(
    name: &str,
    given: &HashMap<String, Array>,
    f: impl Fn(&HashMap<String, Array>) -> f64,
) -> Array {
    const STEP: f64 = 1e-3;
    let mut moved = given.clone();
    let original = given[name].clone();
    Array::from_fn(&original.shape, |i| {
        let mut at = |steps: f64| {
            moved.get_mut(name).unwrap().data[i] = original.data[i] + steps * STEP;
            f(&moved)
        };
        let slope = (8.0 * (at(1.0) - at(-1.0)) - (at(2.0) - at(-2.0))) / (12.0 * STEP);
        at(0.0);
        slope
    })
}

fn check_all(cases: Vec<Case>) {
    let failures: Vec<String> =
        cases.iter().filter_map(|c| check(c).err().map(|e| format!("{}: {e}", c.name))).collect();
    assert!(failures.is_empty(), "{} of {} cases:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

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

#[test]
fn matrix_products() {
    let mut cases = Vec::new();
    for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
        let side =
            |rows: usize, columns: usize, swap: bool| if swap { [columns, rows] } else { [rows, columns] };
        let (a, b) = (side(3, 4, ta), side(4, 5, tb));
        for leading in [&[][..], &[2], &[2, 3]] {
            let (a_whole, b_whole) = ([leading, &a].concat(), [leading, &b].concat());
            let name = format!("{leading:?} {ta} {tb}");
            cases.push(case(format!("matmul {name}"), [any(&a_whole), any(&b_whole)], move |v| {
                v[0].matmul_transposed(v[1], ta, tb)
            }));
            cases.push(case(format!("matmul with one matrix {name}"), [any(&a_whole), any(&b)], move |v| {
                v[0].matmul_transposed(v[1], ta, tb)
            }));
        }
    }
    cases.push(case("a matrix with itself", [any(&[2, 3, 3])], |v| v[0].matmul(v[0])));
    check_all(cases);
}

#[test]
fn linear_layers() {
    let mut cases = Vec::new();
    for shape in [&[4][..], &[3, 4], &[2, 3, 4], &[2, 3, 2, 4]] {
        let weight = any(&[5, 4]);
        cases.push(case(format!("linear {shape:?}"), [any(shape), weight.clone()], |v| {
            v[0].linear(v[1], None)
        }));
        cases.push(case(format!("biased {shape:?}"), [any(shape), weight.clone(), any(&[5])], |v| {
            v[0].linear(v[1], Some(v[2]))
        }));
        let result = [&shape[..shape.len() - 1], &[5]].concat();
        let op = Linear { epilogue: Epilogue { residual: true, ..Epilogue::default() } };
        cases.push(case(
            format!("residual {shape:?}"),
            [any(shape), weight.clone(), any(&result)],
            move |v| apply(op.clone(), v),
        ));
        if shape.len() > 1 {
            let epilogue = Epilogue { bias: true, per_image: true, residual: true, activation: None };
            let inputs = [any(shape), weight, any(&[5]), any(&[shape[0], 5]), any(&result)];
            cases.push(case(format!("all {shape:?}"), inputs, move |v| apply(Linear { epilogue }, v)));
        }
    }
    check_all(cases);
}

#[test]
fn convolutions() {
    let mut cases = Vec::new();
    // Batch, height, width, channels in and out per group, kernel, stride, padding, groups.
    let windows = [
        ([2, 5, 4], [3, 2], [3, 3], [1, 1], [1, 1, 1, 1], 1),
        ([1, 5, 6], [2, 3], [3, 3], [2, 2], [1, 1, 1, 1], 1),
        ([1, 6, 5], [2, 1], [3, 3], [2, 2], [0, 0, 1, 1], 1),
        ([2, 3, 4], [3, 2], [1, 1], [1, 1], [0; 4], 1),
        ([1, 5, 5], [2, 2], [1, 1], [2, 2], [0; 4], 1),
        ([1, 7, 8], [1, 2], [4, 4], [4, 4], [0; 4], 1),
        ([1, 4, 7], [2, 1], [2, 3], [1, 2], [2, 0, 1, 3], 1),
        ([1, 4, 4], [2, 3], [3, 3], [1, 1], [1, 1, 1, 1], 2),
        ([1, 4, 5], [1, 1], [3, 3], [1, 1], [1, 1, 1, 1], 3),
        ([1, 5, 4], [1, 2], [3, 2], [2, 1], [1, 0, 0, 1], 3),
        ([1, 2, 2], [1, 1], [5, 5], [1, 1], [3, 2, 2, 3], 1),
        ([1, 3, 3], [2, 2], [3, 3], [1, 1], [0; 4], 1),
        ([2, 1, 1], [2, 2], [1, 1], [1, 1], [0; 4], 2),
    ];
    for (size, [c_in, c_out], kernel, stride, padding, groups) in windows {
        let window = Window { stride, padding, groups };
        let x = any(&[size[0], size[1], size[2], c_in * groups]);
        let (out, weight) = (c_out * groups, any(&[c_out * groups, c_in, kernel[0], kernel[1]]));
        let name = format!("{size:?} {c_in} {c_out} {kernel:?} {window:?}");
        cases.push(case(&name, [x.clone(), weight.clone()], move |v| v[0].conv2d(v[1], None, window)));
        let outputs = |axis: usize| {
            (size[axis + 1] + padding[axis] + padding[axis + 2] - kernel[axis]) / stride[axis] + 1
        };
        let result = [size[0], outputs(0), outputs(1), out];
        for bits in 1..8 {
            let epilogue = Epilogue {
                bias: bits & 1 != 0,
                per_image: bits & 2 != 0,
                residual: bits & 4 != 0,
                activation: None,
            };
            if bits != 1 && bits != 7 && size[0] == 1 {
                continue;
            }
            let mut inputs = vec![x.clone(), weight.clone()];
            inputs.extend(epilogue.bias.then(|| any(&[out])));
            inputs.extend(epilogue.per_image.then(|| any(&[size[0], out])));
            inputs.extend(epilogue.residual.then(|| any(&result)));
            cases.push(case(format!("{name} {epilogue:?}"), inputs, move |v| {
                apply(Conv2d { window, epilogue }, v)
            }));
        }
    }
    let epilogue = Epilogue { per_image: true, ..Epilogue::default() };
    let op = Conv2d { window: Window::new(1, 1), epilogue };
    let inputs = [any(&[2, 3, 3, 2]), any(&[3, 2, 3, 3]), any(&[2, 1, 1, 3])];
    cases.push(case("row for each image with axes of length 1", inputs, move |v| apply(op.clone(), v)));
    check_all(cases);
}

#[test]
fn attention() {
    let mut cases = Vec::new();
    // Batch, queries, keys, heads, channels of a head.
    for [b, tq, tk, heads, d] in [[1, 4, 4, 1, 3], [2, 3, 5, 2, 2], [1, 5, 3, 3, 1], [2, 1, 4, 2, 3]] {
        let qkv = [any(&[b, tq, heads * d]), any(&[b, tk, heads * d]), any(&[b, tk, heads * d])];
        for causal in [false, true] {
            let name = format!("{b} {tq} {tk} {heads} {d} causal {causal}");
            cases.push(case(&name, qkv.clone(), move |v| {
                v[0].attention(v[1], v[2], None, heads, None, causal)
            }));
            cases.push(case(format!("{name} scaled"), qkv.clone(), move |v| {
                v[0].attention(v[1], v[2], None, heads, Some(1.7), causal)
            }));
            let masks =
                [[1, 1, 1, tk], [b, 1, 1, tk], [1, heads, tq, tk], [b, 1, tq, tk], [b, heads, tq, tk]];
            for shape in masks {
                let mut random = Random(shape.iter().sum::<usize>() as u64);
                let count = shape.iter().product();
                let mut values: Vec<f64> = (0..count).map(|_| random.uniform(-2.0, 2.0)).collect();
                // Some keys are closed; with a whole row of a mask, all of them.
                values.iter_mut().skip(1).step_by(3).for_each(|v| *v = f64::NEG_INFINITY);
                if shape[2] > 1 {
                    values[..tk].fill(f64::NEG_INFINITY);
                }
                let inputs: Vec<Data> =
                    qkv.iter().cloned().chain([Data::Fixed(shape.to_vec(), values)]).collect();
                cases.push(case(format!("{name} mask {shape:?}"), inputs, move |v| {
                    v[0].attention(v[1], v[2], Some(v[3]), heads, None, causal)
                }));
            }
        }
    }
    cases.push(case("one tensor for all three", [any(&[1, 4, 6])], |v| {
        v[0].attention(v[0], v[0], None, 2, None, false)
    }));
    check_all(cases);
}

#[test]
fn normalisation() {
    let mut cases = Vec::new();
    for (shape, groups) in [(&[2, 3, 4, 6][..], 3), (&[2, 5, 4], 1), (&[3, 4], 2), (&[1, 2, 3, 4], 4)] {
        let c = shape[shape.len() - 1];
        let inputs = [any(shape), any(&[c]), any(&[c])];
        cases.push(case(format!("group norm {shape:?}"), inputs, move |v| {
            v[0].group_norm(v[1], v[2], groups, 1e-2)
        }));
    }
    for activation in ACTIVATIONS {
        let op = GroupNorm { groups: 2, eps: 1e-5, activation: Some(activation) };
        // Beta keeps the values away from the corner of a ReLU.
        let beta = Data::Fixed(vec![4], vec![9.0, -9.0, 9.0, 9.0]);
        let inputs =
            [any(&[2, 3, 2, 4]), any(&[4]), if activation == Activation::Relu { beta } else { any(&[4]) }];
        cases.push(case(format!("group norm {activation:?}"), inputs, move |v| apply(op.clone(), v)));
    }
    for shape in [&[7][..], &[3, 5], &[2, 3, 4]] {
        let c = [shape[shape.len() - 1]];
        cases
            .push(case(format!("layer norm {shape:?}"), [any(shape)], |v| v[0].layer_norm(None, None, 1e-3)));
        cases.push(case(format!("layer norm, gamma {shape:?}"), [any(shape), any(&c)], |v| {
            v[0].layer_norm(Some(v[1]), None, 1e-3)
        }));
        cases.push(case(format!("layer norm, both {shape:?}"), [any(shape), any(&c), any(&c)], |v| {
            v[0].layer_norm(Some(v[1]), Some(v[2]), 1e-3)
        }));
        cases.push(case(format!("rms norm {shape:?}"), [any(shape), any(&c)], |v| v[0].rms_norm(v[1], 1e-3)));
    }
    check_all(cases);
}

#[test]
fn images_and_tables() {
    let mut cases = Vec::new();
    for mode in [ResizeMode::Nearest, ResizeMode::Bilinear] {
        for (height, width) in [(6, 10), (7, 4), (2, 3), (3, 5), (1, 1), (5, 8)] {
            let name = format!("{mode:?} 3x5 to {height}x{width}");
            cases.push(case(name, [any(&[2, 3, 5, 2])], move |v| apply(Resize { mode, height, width }, v)));
        }
    }
    for (kernel, stride) in [(2, 2), (3, 1), (1, 2), (3, 2), (2, 3)] {
        let name = format!("pool {kernel} {stride}");
        cases.push(case(name, [any(&[2, 5, 7, 2])], move |v| v[0].avg_pool2d(kernel, stride)));
    }
    // Nine indices into four rows: some repeat.
    cases.push(case("embedding", [any(&[4, 3]), ids(&[9], 4)], |v| v[0].embedding(v[1])));
    cases
        .push(case("embedding of a matrix", [any(&[2, 3]), ids(&[2, 5], 2)], |v| v[0].embedding(v[1]).sin()));
    cases.push(case("embedding of a scalar", [any(&[2, 3]), ids(&[], 2)], |v| v[0].embedding(v[1])));
    check_all(cases);
}

#[test]
fn a_residual_block_and_an_attention_block() {
    check_all(vec![
        case(
            "residual block",
            [any(&[2, 3, 3, 4]), any(&[2, 3]), any(&[4]), any(&[4]), any(&[4, 4, 3, 3]), any(&[4, 3])],
            |v| {
                let (x, temb, gamma, beta, conv, project) = (v[0], v[1], v[2], v[3], v[4], v[5]);
                let window = Window::new(1, 1);
                let h = x.group_norm(gamma, beta, 2, 1e-3).silu().conv2d(conv, Some(beta), window);
                let h = h + temb.silu().linear(project, None).reshape(&[2, 1, 1, 4]);
                h.group_norm(gamma, beta, 2, 1e-3).silu().conv2d(conv, None, window) + x
            },
        ),
        case(
            "attention block",
            [
                any(&[2, 5, 4]),
                any(&[2, 3, 4]),
                any(&[4]),
                any(&[4, 4]),
                any(&[4, 4]),
                any(&[8, 4]),
                any(&[4, 4]),
            ],
            |v| {
                let (x, text, gamma, q, k, up, down) = (v[0], v[1], v[2], v[3], v[4], v[5], v[6]);
                let h = x.layer_norm(Some(gamma), None, 1e-3);
                let keys = text.linear(k, None);
                let x = x + h.linear(q, None).attention(keys, keys, None, 2, None, false);
                let gated = x.rms_norm(gamma, 1e-3).linear(up, None).chunks(2, 2);
                x + (gated[0] * gated[1].gelu()).linear(down, None)
            },
        ),
    ]);
}
