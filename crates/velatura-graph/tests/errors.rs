//! What does not fit is refused with the place, the operation and the reason, and never with a panic.

use velatura_graph::op::*;
use velatura_graph::{Activation, Builder, DType, GraphError, Init, TensorType, Var, gradients};

fn error(build: impl FnOnce(&Builder)) -> String {
    let builder = Builder::new();
    build(&builder);
    builder.finish().expect_err("this does not fit").to_string()
}

#[test]
fn errors_name_the_place_the_operation_and_the_reason() {
    let x = |b: &Builder, shape: &[usize]| b.input("x", shape, DType::F32).id();
    type Build = Box<dyn Fn(&Builder)>;
    let cases: Vec<(&[&str], Build)> = vec![
        (
            &["down.0.conv: conv2d: ", "channels", "f32[1, 8, 8, 3]", "f32[4, 5, 3, 3]"],
            Box::new(move |b| {
                let p = b.params().at("down").at(0).at("conv");
                let w = p.get("weight", &[4, 5, 3, 3], Init::Zeros);
                b.var(x(b, &[1, 8, 8, 3])).conv2d(w, None, Window::new(1, 1));
            }),
        ),
        (
            &["weight: linear: the weight takes 5 channels, the input has 3"],
            Box::new(move |b| {
                let w = b.params().get("weight", &[4, 5], Init::Zeros);
                b.var(x(b, &[2, 3])).linear(w, None);
            }),
        ),
        (
            &["conv2d", "does not fit in 4"],
            Box::new(move |b| {
                b.var(x(b, &[1, 4, 4, 2])).conv2d(b.fill(&[2, 2, 5, 5], 0.0), None, Window::new(1, 0));
            }),
        ),
        (
            &["conv2d", "stride is zero"],
            Box::new(move |b| {
                b.var(x(b, &[1, 4, 4, 2])).conv2d(b.fill(&[2, 2, 3, 3], 0.0), None, Window::new(0, 1));
            }),
        ),
        (
            &["add", "shapes differ", "f32[2, 3]", "f32[2]"],
            Box::new(move |b| {
                let _ = b.var(x(b, &[2, 3])) + b.fill(&[2], 1.0);
            }),
        ),
        (
            &["reshape", "6 elements cannot take the shape [4]"],
            Box::new(move |b| {
                b.var(x(b, &[2, 3])).reshape(&[4]);
            }),
        ),
        (
            &["slice", "2 entries from 2 are not inside axis 1 of length 3"],
            Box::new(move |b| {
                b.var(x(b, &[2, 3])).slice(1, 2, 2);
            }),
        ),
        (
            &["slice", "there is no axis 2"],
            Box::new(move |b| {
                b.var(x(b, &[2, 3])).slice(2, 0, 1);
            }),
        ),
        (
            &["chunks", "axis 1 of length 10 does not divide into 3"],
            Box::new(move |b| {
                b.var(x(b, &[2, 10])).chunks(1, 3);
            }),
        ),
        (
            &["group norm", "6 channels do not divide into 4 groups"],
            Box::new(move |b| {
                b.var(x(b, &[2, 6])).group_norm(b.fill(&[6], 1.0), b.fill(&[6], 0.0), 4, 1e-5);
            }),
        ),
        (
            &["layer norm", "beta without gamma"],
            Box::new(move |b| {
                b.var(x(b, &[2, 6])).layer_norm(None, Some(b.fill(&[6], 0.0)), 1e-5);
            }),
        ),
        (
            &["attention", "6 channels do not divide into 4 heads"],
            Box::new(move |b| {
                let x = b.var(x(b, &[1, 2, 6]));
                x.attention(x, x, None, 4, None, false);
            }),
        ),
        (
            &["attention", "into 0 heads"],
            Box::new(move |b| {
                let x = b.var(x(b, &[1, 2, 6]));
                x.attention(x, x, None, 0, None, false);
            }),
        ),
        (
            &["attention", "mask [1, 1, 3, 2] does not broadcast to [1, 2, 2, 2]"],
            Box::new(move |b| {
                let x = b.var(x(b, &[1, 2, 6]));
                x.attention(x, x, Some(b.fill(&[1, 1, 3, 2], 0.0)), 2, None, false);
            }),
        ),
        (
            &["embedding", "i32 indices expected"],
            Box::new(move |b| {
                b.var(x(b, &[4, 2])).embedding(b.fill(&[3], 0.0));
            }),
        ),
        (
            &["matmul", "the inner lengths are 3 and 2"],
            Box::new(move |b| {
                let x = b.var(x(b, &[2, 3]));
                x.matmul(x);
            }),
        ),
        (
            &["average pool", "a window of 5 does not fit in 4"],
            Box::new(move |b| {
                b.var(x(b, &[1, 4, 4, 2])).avg_pool2d(5, 1);
            }),
        ),
        (
            &["resize", "the new size is empty"],
            Box::new(move |b| {
                b.var(x(b, &[1, 4, 4, 2])).resize(ResizeMode::Nearest, 0, 4);
            }),
        ),
        (
            &["sum", "axes [1, 0] are not ascending"],
            Box::new(move |b| {
                b.var(x(b, &[2, 3])).sum(&[1, 0], false);
            }),
        ),
        (
            &["concat", "the inputs differ outside axis 0"],
            Box::new(move |b| {
                b.var(x(b, &[2, 3])).concat(&[b.fill(&[2, 4], 0.0)], 0);
            }),
        ),
        (
            &["constant", "5 values do not fill the shape [2, 3]"],
            Box::new(|b| {
                b.constant(&[2, 3], vec![0.0; 5]);
            }),
        ),
        (
            &["broadcast", "would be empty"],
            Box::new(|b| {
                b.fill(&[1], 0.0).broadcast_to(&[0]);
            }),
        ),
        (
            &["input", "x: ", "would be empty", "[2, 0]"],
            Box::new(move |b| {
                x(b, &[2, 0]);
            }),
        ),
        (
            &["parameter", "w: ", "too large"],
            Box::new(|b| {
                b.parameter("w", &[usize::MAX, usize::MAX], Init::Zeros);
            }),
        ),
        (
            &["pad", "overflows"],
            Box::new(|b| {
                b.fill(&[2], 0.0).pad(0, usize::MAX, usize::MAX);
            }),
        ),
        (
            &["pad", "too large"],
            Box::new(|b| {
                b.fill(&[2], 0.0).pad(0, usize::MAX / 2, 0);
            }),
        ),
        (
            &["conv2d", "padding overflows"],
            Box::new(move |b| {
                let window = Window::new(1, usize::MAX);
                b.var(x(b, &[1, 4, 4, 2])).conv2d(b.fill(&[2, 2, 3, 3], 0.0), None, window);
            }),
        ),
        (
            &["conv2d", "groups"],
            Box::new(move |b| {
                let window = Window { groups: usize::MAX, ..Window::new(1, 1) };
                b.var(x(b, &[1, 4, 4, 2])).conv2d(b.fill(&[2, 2, 3, 3], 0.0), None, window);
            }),
        ),
        (
            &["dims", "3 axes expected", "f32[2, 3]"],
            Box::new(move |b| {
                let [_, _, _] = b.var(x(b, &[2, 3])).dims();
            }),
        ),
        (
            &["two inputs named x"],
            Box::new(move |b| {
                x(b, &[2]);
                x(b, &[2]);
            }),
        ),
        (
            &["two outputs named y"],
            Box::new(move |b| {
                let x = b.var(x(b, &[2]));
                b.output("y", x);
                b.output("y", x.exp());
            }),
        ),
        (
            &["parameter w is used with shape [2] and with shape [3]"],
            Box::new(|b| {
                b.parameter("w", &[2], Init::Zeros);
                b.parameter("w", &[3], Init::Zeros);
            }),
        ),
    ];
    for (parts, build) in cases {
        let message = error(|b| build(b));
        for part in parts {
            assert!(message.contains(part), "{message:?} does not say {part:?}");
        }
    }
}

#[test]
fn what_has_no_gradient_says_so() {
    let refused = |build: &dyn for<'g> Fn(&'g Builder, Var<'g>) -> Var<'g>| {
        let builder = Builder::new();
        let x = builder.input("x", &[1, 2, 4], DType::F32);
        let loss = build(&builder, x);
        gradients(&builder, loss, &[x]).expect_err("there is no gradient").to_string()
    };
    let message = refused(&|_, x| x.exp());
    assert!(message.contains("a scalar loss is needed, not f32[1, 2, 4]"), "{message}");
    let message = refused(&|b, x| {
        let epilogue = Epilogue { activation: Some(Activation::Silu), ..Epilogue::default() };
        b.push(Linear { epilogue, ..Linear::default() }.into(), &[x, b.fill(&[3, 4], 1.0)])[0].sum_all()
    });
    assert!(message.contains("fused activation cannot be differentiated"), "{message}");
    let message = refused(&|_, x| {
        let mask = x.slice(2, 0, 2).reshape(&[1, 1, 2, 2]);
        x.attention(x, x, Some(mask), 2, None, false).sum_all()
    });
    assert!(message.contains("attention") && message.contains("the mask has no gradient"), "{message}");
    let message =
        refused(&|b, x| b.push(LayerNorm { eps: 1e-5, gamma: false, beta: false }.into(), &[x])[1].sum_all());
    assert!(message.contains("layer norm") && message.contains("statistics"), "{message}");
    let message = refused(&|b, x| gradients(b, x.silu().sum_all(), &[x]).unwrap()[0].sum_all());
    assert!(message.contains("unary gradient cannot be differentiated"), "{message}");
}

#[test]
fn names_that_do_not_exist() {
    let builder = Builder::new();
    let x = builder.input("x", &[1], DType::F32);
    builder.output("y", x);
    let graph = builder.finish().unwrap();
    assert_eq!(graph.output("z").unwrap_err().to_string(), "the graph has no output named z");
    assert_eq!(graph.input("y").unwrap_err().to_string(), "the graph has no input named y");
    assert!(graph.parameter("x").is_none());
}

#[test]
fn poison_flows_through_everything_and_the_first_error_is_told() {
    let builder = Builder::new();
    let x = builder.input("x", &[2, 3], DType::F32);
    let bad = x.reshape(&[7]);
    assert_eq!(bad.ty(), TensorType::f32([]));
    for other in [x, bad] {
        let _ = (bad + other, bad - other, bad * other, bad / other, other + bad, -bad, bad * 2.0, bad + 1.0);
        let _ =
            (bad.maximum(other), other.matmul(bad), bad.linear(other, Some(bad)), other.linear(bad, None));
        let _ = (
            bad.conv2d(other, None, Window::new(1, 1)),
            bad.attention(other, bad, Some(other), 0, None, true),
        );
        let _ = (
            bad.group_norm(other, bad, 0, 0.0),
            bad.layer_norm(Some(other), None, 0.0),
            bad.rms_norm(other, 0.0),
        );
        let _ = (
            bad.concat(&[other, bad], 9),
            other.concat(&[bad], 0),
            bad.embedding(other),
            other.embedding(bad),
        );
        let _ = (bad.cross_entropy(other), velatura_graph::loss::mse(bad, other));
        let _ = velatura_graph::loss::kl_divergence(bad, other);
        let _ = velatura_graph::loss::weighted_mse(bad, bad, other);
        builder.checkpoint(|| bad.exp() + other);
    }
    let _ = (bad.permute(&[3, 1]), bad.slice(4, 1, 0), bad.pad(5, 1, 1), bad.chunks(3, 4), bad.chunks(0, 0));
    let _ = (bad.broadcast_to(&[0]), bad.sum(&[9], true), bad.mean_all(), bad.sum_to(&[2, 2]), bad.softmax());
    let _ =
        (bad.resize(ResizeMode::Bilinear, 0, 0), bad.avg_pool2d(0, 0), bad.cast(DType::Bf16), bad.detach());
    let [_, _, _]: [usize; 3] = bad.dims();
    builder.output("bad", bad);
    let grads = gradients(&builder, bad.mean_all(), &[x, bad]).unwrap();
    let _ = gradients(&builder, grads[0].sum_all() + x.sum_all(), &grads).unwrap();
    let error = builder.finish().unwrap_err();
    assert!(matches!(error, GraphError::Shape { operation: "reshape", .. }), "{error}");
}

#[test]
fn a_gradient_of_another_storage_type_is_an_error_not_a_panic() {
    let builder = Builder::new();
    let a = builder.input("a", &[2, 3], DType::Bf16);
    let b = builder.input("b", &[3, 2], DType::Bf16);
    let bias = builder.input("bias", &[2], DType::F32);
    let w = builder.input("w", &[2, 2], DType::F32);
    let loss = (a.matmul(b).linear(w, Some(bias)) * builder.fill(&[2, 2], 1.0)).sum_all();
    let _ = gradients(&builder, loss, &[a, b, w, bias]);
    let _ = builder.finish();
}
