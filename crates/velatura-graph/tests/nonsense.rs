//! Operations with attributes and inputs that make no sense are refused, never a panic.

mod common;

use common::Random;
use proptest::prelude::*;
use velatura_graph::op::*;
use velatura_graph::{Activation, Builder, DType, Op, Var, gradients, plan_memory, validate};

/// Lengths that are usual, zero, or near the ends of the types.
fn length(random: &mut Random) -> usize {
    [0, 1, 1, 2, 2, 3, 4, 6, 1 << 20, 1 << 31, 1 << 40, usize::MAX / 2, usize::MAX - 1, usize::MAX]
        [random.below(14)]
}

fn lengths(random: &mut Random) -> Vec<usize> {
    (0..random.below(6)).map(|_| length(random)).collect()
}

fn nonsense(random: &mut Random) -> Op {
    let flag = |r: &mut Random| r.below(2) == 0;
    let small = |r: &mut Random| [0, 1, 2, 3, usize::MAX][r.below(5)];
    let activation = flag(random).then_some(Activation::Silu);
    let epilogue =
        Epilogue { bias: flag(random), per_image: flag(random), activation, residual: flag(random) };
    let window = Window {
        stride: [small(random), small(random)],
        padding: [(); 4].map(|()| small(random)),
        groups: small(random),
    };
    let (height, width, kernel, stride) = (length(random), length(random), small(random), small(random));
    let mode = if flag(random) { ResizeMode::Nearest } else { ResizeMode::Bilinear };
    let attention = Attention {
        heads: small(random),
        scale: f32::NAN,
        causal: flag(random),
        mask: flag(random),
        int8: false,
    };
    let group_norm = GroupNorm { groups: small(random), eps: 0.0, modulated: flag(random), activation };
    let log = flag(random);
    let function = UnaryFunction::Pow { exponent: f32::NAN };
    match random.below(39) {
        0 => Unary { function }.into(),
        1 => UnaryGradient { function }.into(),
        2 => Binary { function: BinaryFunction::Max }.into(),
        3 => Cast { to: [DType::F32, DType::Bf16, DType::I32][random.below(3)] }.into(),
        4 => Detach.into(),
        5 => Reshape { shape: lengths(random) }.into(),
        6 => Permute { axes: lengths(random) }.into(),
        7 => Slice { axis: small(random), start: length(random), length: length(random) }.into(),
        8 => Pad { axis: small(random), before: length(random), after: length(random) }.into(),
        9 => Concat { axis: small(random) }.into(),
        10 => BroadcastTo { shape: lengths(random) }.into(),
        11 => Reduce { kind: ReduceKind::Max, axes: lengths(random), keep: log }.into(),
        12 => Softmax { log }.into(),
        13 => SoftmaxGradient { log }.into(),
        14 => CrossEntropy.into(),
        15 => CrossEntropyGradient.into(),
        16 => MatMul { transpose_a: flag(random), transpose_b: log }.into(),
        17 | 18 => Linear { epilogue, ..Linear::default() }.into(),
        19 => LinearInputGradient { residual: log }.into(),
        20 => LinearWeightGradient.into(),
        21 | 22 => Conv2d { window, epilogue }.into(),
        23 => Conv2dInputGradient { window, height, width, residual: log }.into(),
        24 => Conv2dWeightGradient { window, kernel: [kernel, stride] }.into(),
        25 => attention.into(),
        26 => AttentionGradient { forward: attention }.into(),
        27 => group_norm.into(),
        28 => GroupNormGradient { forward: group_norm, residual: log }.into(),
        29 => LayerNorm { eps: 0.0, gamma: flag(random), beta: log }.into(),
        30 => LayerNormGradient { gamma: log, residual: flag(random) }.into(),
        31 => RmsNorm { eps: 0.0 }.into(),
        32 => RmsNormGradient.into(),
        33 => Resize { mode, height, width }.into(),
        34 => ResizeGradient { mode, height, width }.into(),
        35 if log => AvgPool2d { kernel, stride }.into(),
        35 => AvgPool2dGradient { kernel, stride, height, width }.into(),
        36 => Gated { activation: Activation::Silu }.into(),
        37 => GatedGradient { activation: Activation::Gelu }.into(),
        _ if log => Embedding.into(),
        _ => EmbeddingGradient { rows: length(random) }.into(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nonsense_never_panics(seed: u64) {
        let mut random = Random(seed);
        let builder = Builder::new();
        let mut pool: Vec<Var<'_>> = (0..5)
            .map(|i| {
                let dtype = [DType::F32, DType::F32, DType::Bf16, DType::I32][random.below(4)];
                // Mostly sizes that can exist, so that what follows is reached.
                let shape = lengths(&mut random).into_iter();
                let shape: Vec<usize> = shape.map(|n| if n > 6 && i > 0 { 2 } else { n.max(usize::from(i > 0)) }).collect();
                builder.input(&format!("x{i}"), &shape, dtype)
            })
            .filter(|v| v.shape().iter().product::<usize>() > 0)
            .collect();
        for _ in 0..40 {
            // Whatever fits is built; what does not is forgotten, so that the next one is tried on healthy values.
            let op = nonsense(&mut random);
            let inputs: Vec<Var<'_>> = (0..random.below(6)).map(|_| pool[random.below(pool.len())]).collect();
            let known = builder.with_graph(|g| g.values().len());
            let made = builder.push(op, &inputs);
            if builder.with_graph(|g| g.values().len()) > known {
                pool.extend(made);
            }
        }
        let loss = pool.iter().filter(|v| v.ty().dtype.is_float()).map(|v| v.sum_all()).reduce(|a, b| a + b);
        if let Some(loss) = loss {
            let _ = gradients(&builder, loss, &pool);
        }
        let graph = builder.with_graph(Clone::clone);
        prop_assert_eq!(validate(&graph), Ok(()));
        let _ = (plan_memory(&graph, |n| n), graph.to_string(), graph.parameter_elements());
        let _ = builder.finish();
    }
}
