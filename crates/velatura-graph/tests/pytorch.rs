//! Every operation and its gradient against PyTorch in double precision.
//! The fixtures are made by `scripts/fixtures/operations.py`.

mod common;

use std::collections::HashMap;

use common::relative_error;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use velatura_graph::op::{
    Binary, BinaryFunction, GroupNorm, Reduce, ReduceKind, ResizeMode, Unary, UnaryFunction, Window,
};
use velatura_graph::reference::{Array, evaluate};
use velatura_graph::{Activation, Builder, DType, Op, Var, gradients, loss};

const FIXTURES: &[u8] = include_bytes!("fixtures/operations.safetensors");

fn array(tensors: &SafeTensors<'_>, name: &str) -> Option<(Array, DType)> {
    let tensor = tensors.tensor(name).ok()?;
    let (data, dtype) = match tensor.dtype() {
        Dtype::F64 => {
            let number = |b: &[u8]| f64::from_le_bytes(b.try_into().unwrap());
            (tensor.data().chunks_exact(8).map(number).collect(), DType::F32)
        }
        Dtype::I32 => {
            let number = |b: &[u8]| f64::from(i32::from_le_bytes(b.try_into().unwrap()));
            (tensor.data().chunks_exact(4).map(number).collect(), DType::I32)
        }
        other => panic!("{name} is stored as {other:?}"),
    };
    Some((Array { shape: tensor.shape().to_vec(), data }, dtype))
}

fn activation(name: &str) -> Activation {
    use Activation::*;
    let all = [Relu, Silu, Gelu, GeluTanh, QuickGelu, Tanh, Sigmoid];
    all.into_iter().find(|a| a.name() == name).unwrap_or_else(|| panic!("{name} is no activation"))
}

fn unary(name: &str) -> UnaryFunction {
    match name {
        "exp" => UnaryFunction::Exp,
        "abs" => UnaryFunction::Abs,
        "sin" => UnaryFunction::Sin,
        "cos" => UnaryFunction::Cos,
        "square" => UnaryFunction::Square,
        "neg" => UnaryFunction::Neg,
        "reciprocal" => UnaryFunction::Reciprocal,
        "log" => UnaryFunction::Log,
        "sqrt" => UnaryFunction::Sqrt,
        "rsqrt" => UnaryFunction::Rsqrt,
        name => UnaryFunction::Activation(activation(name)),
    }
}

fn number(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

fn numbers<const N: usize>(value: &Value) -> [usize; N] {
    std::array::from_fn(|i| number(&value[i]))
}

/// What a case of the fixtures computes.
fn build<'g>(case: &Value, v: &[Var<'g>]) -> Var<'g> {
    let apply = |op: Op| v[0].builder().push(op, v)[0];
    let float = |key: &str| case[key].as_f64().map(|x| x as f32);
    let flag = |key: &str| case[key].as_bool().unwrap_or(false);
    let text = |key: &str| case[key].as_str().unwrap();
    match text("op") {
        "unary" => apply(Unary { function: unary(text("function")) }.into()),
        "pow" => v[0].powf(float("exponent").unwrap()),
        "clamp" => v[0].clamp(float("min").unwrap(), float("max").unwrap()),
        "binary" => {
            let function = match text("function") {
                "add" => BinaryFunction::Add,
                "sub" => BinaryFunction::Sub,
                "mul" => BinaryFunction::Mul,
                "div" => BinaryFunction::Div,
                "max" => BinaryFunction::Max,
                _ => BinaryFunction::Min,
            };
            apply(Binary { function }.into())
        }
        "reduce" => {
            let kind = match text("kind") {
                "sum" => ReduceKind::Sum,
                "mean" => ReduceKind::Mean,
                _ => ReduceKind::Max,
            };
            let axes = case["axes"].as_array().unwrap().iter().map(number).collect();
            apply(Reduce { kind, axes, keep: flag("keep") }.into())
        }
        "matmul" => {
            let [a, b] = [0, 1].map(|i| case["transpose"][i].as_bool().unwrap());
            v[0].matmul_transposed(v[1], a, b)
        }
        "linear" => v[0].linear(v[1], v.get(2).copied()),
        "conv2d" => {
            let window = Window {
                stride: numbers(&case["stride"]),
                padding: numbers(&case["padding"]),
                groups: number(&case["groups"]),
            };
            v[0].conv2d(v[1], v.get(2).copied(), window)
        }
        "attention" => v[0].attention(
            v[1],
            v[2],
            v.get(3).copied(),
            number(&case["heads"]),
            float("scale"),
            flag("causal"),
        ),
        "group_norm" => {
            let (groups, eps) = (number(&case["groups"]), float("eps").unwrap());
            let activation = case["activation"].as_str().map(activation);
            apply(GroupNorm { groups, eps, modulated: false, activation }.into())
        }
        "layer_norm" => v[0].layer_norm(v.get(1).copied(), v.get(2).copied(), float("eps").unwrap()),
        "rms_norm" => v[0].rms_norm(v[1], float("eps").unwrap()),
        "resize" => {
            let mode = if text("mode") == "nearest" { ResizeMode::Nearest } else { ResizeMode::Bilinear };
            let [height, width] = numbers(&case["size"]);
            v[0].resize(mode, height, width)
        }
        "avg_pool" => v[0].avg_pool2d(number(&case["kernel"]), number(&case["stride"])),
        "embedding" => v[0].embedding(v[1]),
        "softmax" => v[0].softmax(),
        "log_softmax" => v[0].log_softmax(),
        "cross_entropy" => v[0].cross_entropy(v[1]),
        "mse" => loss::mse(v[0], v[1]),
        "l1" => loss::l1(v[0], v[1]),
        "huber" => loss::huber(v[0], v[1], float("c").unwrap()),
        "weighted_mse" => loss::weighted_mse(v[0], v[1], v[2]),
        "kl" => loss::kl_divergence(v[0], v[1]),
        op => panic!("unknown operation {op}"),
    }
}

/// The largest relative error of the result and of the gradients of a case, with what it is of.
fn error(case: &Value, tensors: &SafeTensors<'_>) -> (f64, String) {
    let name = case["name"].as_str().unwrap();
    let builder = Builder::new();
    let (mut vars, mut wanted, mut given, mut expected) = (vec![], vec![], HashMap::new(), vec![]);
    for i in 0..number(&case["inputs"]) {
        let (x, dtype) = array(tensors, &format!("{name}.in.{i}")).unwrap();
        vars.push(builder.input(&format!("in.{i}"), &x.shape, dtype));
        given.insert(format!("in.{i}"), x);
        if let Some((grad, _)) = array(tensors, &format!("{name}.grad.{i}")) {
            wanted.push(vars[i]);
            expected.push((format!("grad.{i}"), grad));
        }
    }
    let out = build(case, &vars);
    let (adjoint, _) = array(tensors, &format!("{name}.adjoint")).unwrap();
    let loss = (out * builder.input("adjoint", &adjoint.shape, DType::F32)).sum_all();
    given.insert("adjoint".into(), adjoint);
    let grads = gradients(&builder, loss, &wanted).unwrap();
    for (grad, (name, _)) in grads.into_iter().zip(&expected) {
        builder.output(name, grad);
    }
    builder.output("out", out);
    expected.push(("out".into(), array(tensors, &format!("{name}.out")).unwrap().0));
    let got = evaluate(&builder.finish().unwrap(), &given);
    let errors = expected.into_iter().map(|(name, expected)| (relative_error(&got[&name], &expected), name));
    errors.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
}

#[test]
fn operations_agree_with_pytorch() {
    let tensors = SafeTensors::deserialize(FIXTURES).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(FIXTURES).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&metadata.metadata().as_ref().unwrap()["cases"]).unwrap();
    assert!(cases.len() > 100);
    let failures: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let (error, of) = error(case, &tensors);
            // Constants such as epsilons and the weights of resizing are single precision.
            (error.is_nan() || error > 1e-6).then(|| format!("{of} differs by {error:e} in {case}"))
        })
        .collect();
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
}
