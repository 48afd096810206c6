//! Every gradient rule against central finite differences in double precision, through the reference interpreter.

#[path = "../common/mod.rs"]
mod common;
mod elementwise;
mod layers;

use std::collections::HashMap;

use common::{Random, relative_error};
use velatura_graph::reference::{Array, evaluate};
use velatura_graph::{Activation, Builder, DType, Op, Var, gradients};

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
