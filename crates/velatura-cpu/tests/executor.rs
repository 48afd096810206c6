//! The executor against the reference interpreter, node by node and on whole graphs with their gradients, in every
//! precision and instruction set that this processor has.

use std::borrow::Cow;
use std::collections::HashMap;

use velatura_cpu::{CancelToken, CpuError, Data, Executor, Isa, Runtime, Values, WeightStore};
use velatura_graph::op::{ResizeMode, Window};
use velatura_graph::passes::{Fusion, Precision, for_inference, for_training, fuse, split};
use velatura_graph::reference::{Array, evaluate};
use velatura_graph::{Activation, Builder, DType, Graph, Init, Var, gradients};

/// Reproducible numbers in about [-1, 1].
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / 8_388_608.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

struct Tensors(HashMap<String, Vec<f32>>, HashMap<String, Vec<i32>>);

impl Tensors {
    fn of(graph: &Graph) -> Self {
        let (mut floats, mut ints) = (HashMap::new(), HashMap::new());
        let named = graph.inputs().iter().map(|(n, v)| (n.clone(), *v));
        let named = named.chain(graph.parameters().iter().map(|p| (p.name.clone(), p.value)));
        for (i, (name, value)) in named.enumerate() {
            let ty = graph.ty(value);
            match ty.dtype {
                DType::I32 => {
                    ints.insert(name, (0..ty.elements() as i32).map(|i| i * 7 % 5).collect());
                }
                _ => {
                    floats.insert(name, numbers(i as u64 + 1, ty.elements()));
                }
            }
        }
        Tensors(floats, ints)
    }

    fn arrays(&self, graph: &Graph) -> HashMap<String, Array> {
        let named = graph.inputs().iter().map(|(n, v)| (n.clone(), *v));
        let named = named.chain(graph.parameters().iter().map(|p| (p.name.clone(), p.value)));
        named
            .map(|(name, value)| {
                let data = match (self.0.get(&name), self.1.get(&name)) {
                    (Some(x), _) => x.iter().map(|&x| f64::from(x)).collect(),
                    (_, Some(x)) => x.iter().map(|&x| f64::from(x)).collect(),
                    _ => unreachable!(),
                };
                (name, Array { shape: graph.ty(value).shape.clone(), data })
            })
            .collect()
    }
}

fn execute(graph: Graph, tensors: &Tensors, isa: Isa, threads: usize) -> HashMap<String, Vec<f32>> {
    let runtime = Runtime::with_isa(threads, isa);
    let store = WeightStore::new(&runtime);
    let mut executor = Executor::new(&runtime, graph, &store).unwrap();
    store.load(&|name| tensors.0.get(name).map(|v| Cow::Borrowed(v.as_slice()))).unwrap();
    let mut inputs: Vec<(&str, Data<'_>)> =
        tensors.0.iter().map(|(n, v)| (n.as_str(), Data::F32(v))).collect();
    inputs.extend(tensors.1.iter().map(|(n, v)| (n.as_str(), Data::I32(v))));
    executor.run(&inputs, &CancelToken::default()).unwrap();
    let names: Vec<String> = executor.graph().outputs().iter().map(|(n, _)| n.clone()).collect();
    names.into_iter().map(|n| (n.clone(), executor.output(&n).unwrap().to_vec())).collect()
}

fn relative_error(a: &[f32], b: &Array) -> f64 {
    assert_eq!(a.len(), b.data.len());
    let difference: f64 = a.iter().zip(&b.data).map(|(&x, y)| (f64::from(x) - y).powi(2)).sum();
    let size: f64 = b.data.iter().map(|y| y * y).sum();
    (difference / size.max(1e-12)).sqrt()
}

/// Holds the graph that `build` makes, and its gradients towards all parameters, against the reference.
fn check(name: &str, build: impl for<'g> Fn(&'g Builder) -> Var<'g>) {
    let forward = || {
        let b = Builder::new();
        let y = build(&b);
        b.output("y", y);
        b.finish().unwrap_or_else(|e| panic!("{name}: {e}"))
    };
    let with_gradients = || {
        let b = Builder::from_graph(fuse(forward(), Fusion::Differentiable));
        let y = b.var(b.with_graph(|g| g.output("y")).unwrap());
        // Weights that differ from place to place, so that no gradient is trivially zero.
        let elements = y.ty().elements();
        let loss = (y * b.constant(&y.shape(), numbers(99, elements))).sum_all();
        let parameters: Vec<(String, _)> =
            b.with_graph(|g| g.parameters().iter().map(|p| (p.name.clone(), p.value)).collect());
        let wanted: Vec<Var<'_>> = parameters.iter().map(|(_, v)| b.var(*v)).collect();
        let grads = gradients(&b, loss, &wanted).unwrap_or_else(|e| panic!("{name}: {e}"));
        parameters.iter().zip(grads).for_each(|((n, _), g)| b.output(&format!("grad:{n}"), g));
        b.finish().unwrap()
    };
    for (what, graph, training) in [("forward", forward(), false), ("gradients", with_gradients(), true)] {
        let tensors = Tensors::of(&graph);
        let expected = evaluate(&graph, &tensors.arrays(&graph));
        for (precision, tolerance) in [(Precision::F32, 2e-6), (Precision::Bf16, 1.5e-2)] {
            for isa in Isa::supported() {
                let pass = if training { for_training } else { for_inference };
                let one = execute(pass(graph.clone(), precision), &tensors, isa, 1);
                let three = execute(pass(graph.clone(), precision), &tensors, isa, 3);
                for (output, expected) in &expected {
                    let error = relative_error(&one[output], expected);
                    let limit = if training { 3.0 * tolerance } else { tolerance };
                    assert!(
                        error <= limit,
                        "{name}, {what} {output}, {precision:?} {isa:?}: error {error:.2e}"
                    );
                    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                    assert_eq!(
                        bits(&one[output]),
                        bits(&three[output]),
                        "{name} {output}: threads change bits"
                    );
                }
            }
        }
    }
}

fn conv<'g>(b: &'g Builder, name: &str, x: Var<'g>, out: usize, kernel: usize, window: Window) -> Var<'g> {
    let shape = [out, x.channels() / window.groups, kernel, kernel];
    let w = b.parameter(&format!("{name}.weight"), &shape, Init::Zeros);
    x.conv2d(w, Some(b.parameter(&format!("{name}.bias"), &[out], Init::Zeros)), window)
}

#[test]
fn elementwise_and_shapes() {
    check("elementwise", |b| {
        let x = b.parameter("x", &[2, 3, 5, 7], Init::Zeros);
        let row = b.parameter("row", &[7], Init::Zeros);
        let image = b.parameter("image", &[2, 1, 1, 7], Init::Zeros);
        let y = (x * row + image).silu() - (x + 3.0).log() / (row.square() + 1.0);
        let z = y.sin() * x.cos() + (x + 2.0).rsqrt() + (image.exp() * x).gelu();
        (-z).maximum(x).minimum(row.abs() + 0.3).tanh()
    });
    check("shapes", |b| {
        let x = b.parameter("x", &[2, 3, 5, 6], Init::Zeros);
        let halves = x.chunks(3, 2);
        let y = halves[0].concat(&[halves[1].sigmoid()], 1).permute(&[2, 0, 3, 1]).reshape(&[5, 36]);
        let z = y.slice(1, 3, 20).pad(0, 1, 2).reshape(&[8, 1, 20]).broadcast_to(&[8, 3, 20]);
        z.softmax() + z.log_softmax() * 0.1 + z.mean(&[0], true) + z.sum(&[2], true) * 0.1
    });
}

#[test]
fn embeddings_pools_and_resizing() {
    check("embedding", |b| {
        let table = b.parameter("table", &[5, 9], Init::Zeros);
        table.embedding(b.input("ids", &[2, 4], DType::I32)).quick()
    });
    check("images", |b| {
        let x = b.parameter("x", &[2, 6, 9, 5], Init::Zeros);
        let up = x.resize(ResizeMode::Nearest, 12, 18).avg_pool2d(2, 2);
        up.resize(ResizeMode::Bilinear, 7, 5) + x.resize(ResizeMode::Bilinear, 7, 5) * 0.5
    });
}

trait Quick {
    fn quick(self) -> Self;
}

impl Quick for Var<'_> {
    fn quick(self) -> Self {
        self.activation(Activation::QuickGelu)
    }
}

#[test]
fn norms() {
    check("norms", |b| {
        let x = b.parameter("x", &[2, 5, 12], Init::Zeros) * 2.0 + 0.3;
        let vector = |name: &str| b.parameter(name, &[12], Init::Zeros);
        let y = x.group_norm(vector("g1"), vector("b1"), 3, 1e-5).silu();
        let z = (y + x).layer_norm(Some(vector("g2")), Some(vector("b2")), 1e-5);
        (z + x).rms_norm(vector("g3"), 1e-6) + x.layer_norm(None, None, 1e-5)
    });
}

#[test]
fn gates_and_modulations() {
    check("gated", |b| {
        let x = b.parameter("x", &[3, 7, 22], Init::Zeros) * 2.0;
        x.gated(Activation::Gelu) + x.gated(Activation::Silu)
    });
    check("modulated", |b| {
        let x = b.parameter("x", &[2, 5, 6, 12], Init::Zeros) * 2.0 + 0.3;
        let vector = |name: &str| b.parameter(name, &[12], Init::Zeros);
        let row = b.parameter("row", &[2, 7], Init::Zeros);
        let modulation = row.linear(b.parameter("w", &[24, 7], Init::Zeros), None);
        let y = x.group_norm_modulated(vector("gamma"), vector("beta"), modulation, 4, 1e-5).silu();
        y + x.group_norm_modulated(vector("gamma"), vector("beta"), modulation, 3, 1e-5)
    });
}

#[test]
fn adjoints_that_meet_are_summed_where_they_are_made() {
    fn build(b: &Builder) -> Var<'_> {
        let x = b.parameter("x", &[2, 6, 5, 8], Init::Zeros);
        let vector = |name: &str| b.parameter(name, &[8], Init::Zeros);
        let h =
            conv(b, "conv", x.group_norm(vector("g"), vector("b"), 2, 1e-5).silu(), 8, 3, Window::new(1, 1));
        let x = conv(b, "other", x, 8, 3, Window::new(1, 1)) + h + x;
        let tokens = x.reshape(&[2, 30, 8]);
        let own = tokens.layer_norm(Some(vector("g2")), Some(vector("b2")), 1e-5);
        let project = |name: &str| own.linear(b.parameter(name, &[8, 8], Init::Zeros), None);
        (project("q").attention(project("k"), project("v"), None, 2, None, false) + tokens)
            .square()
            .mean_all()
    }
    check("residual stream", |b| build(b).reshape(&[1]));
    let b = Builder::new();
    let loss = build(&b);
    let parameters: Vec<_> = b.with_graph(|g| g.parameters().iter().map(|p| p.value).collect());
    let wanted: Vec<Var<'_>> = parameters.iter().map(|&v| b.var(v)).collect();
    let grads = gradients(&b, loss, &wanted).unwrap();
    grads.into_iter().enumerate().for_each(|(i, g)| b.output(&i.to_string(), g));
    let graph = for_training(fuse(b.finish().unwrap(), Fusion::Differentiable), Precision::Bf16);
    // The two that are left belong to the forward pass.
    assert_eq!(graph.nodes().iter().filter(|n| n.op.name() == "add").count(), 2, "{graph}");
}

#[test]
fn products() {
    check("linear", |b| {
        let x = b.parameter("x", &[3, 11, 21], Init::Zeros);
        let w = b.parameter("w", &[37, 21], Init::Zeros);
        let y = x.linear(w, Some(b.parameter("bias", &[37], Init::Zeros))).silu();
        let back = b.parameter("back", &[21, 37], Init::Zeros);
        y.linear(back, None) + x
    });
    check("matmul", |b| {
        let x = b.parameter("x", &[2, 3, 7, 10], Init::Zeros);
        let y = b.parameter("y", &[2, 3, 10, 5], Init::Zeros);
        let z = x.matmul(y);
        let t = x.matmul_transposed(b.parameter("t", &[5, 10], Init::Zeros), false, true);
        (z + t).matmul_transposed(x, true, false)
    });
}

#[test]
fn convolutions() {
    check("residual block", |b| {
        let x = b.parameter("x", &[2, 6, 7, 8], Init::Zeros);
        let temb = b.parameter("temb", &[2, 1, 1, 19], Init::Zeros);
        let h = conv(b, "conv1", x.silu(), 19, 3, Window::new(1, 1)) + temb;
        conv(b, "conv2", h.silu(), 8, 3, Window::new(1, 1)) + conv(b, "shortcut", x, 8, 1, Window::new(1, 0))
    });
    check("strided, grouped and uneven", |b| {
        let x = b.parameter("x", &[3, 9, 8, 6], Init::Zeros);
        let uneven = Window { stride: [2, 2], padding: [0, 0, 1, 1], groups: 1 };
        let y = conv(b, "down", x, 33, 3, uneven);
        let z = conv(b, "grouped", y, 12, 3, Window { groups: 3, ..Window::new(1, 1) });
        conv(b, "depthwise", z, 12, 5, Window { groups: 12, ..Window::new(1, 2) })
    });
}

#[test]
fn attentions() {
    check("attention", |b| {
        let x = b.parameter("x", &[2, 13, 24], Init::Zeros) * 2.0;
        let c = b.parameter("c", &[2, 7, 24], Init::Zeros);
        let y = x.attention(x * 0.7, x.sin(), None, 3, None, true);
        let mask = b.input("mask", &[2, 1, 1, 7], DType::F32);
        (y + x).attention(c, c.cos(), Some(mask), 2, None, false)
    });
}

#[test]
fn checkpointed_segments_give_the_same_bits() {
    let build = |checkpoint: bool| {
        let b = Builder::new();
        let mut x = b.parameter("x", &[2, 8, 8, 8], Init::Zeros);
        for i in 0..3 {
            let block = || conv(&b, &format!("c{i}"), x.silu(), 8, 3, Window::new(1, 1)).silu() + x;
            x = if checkpoint { b.checkpoint(block) } else { block() };
        }
        let loss = x.square().mean_all();
        let names: Vec<(String, _)> =
            b.with_graph(|g| g.parameters().iter().map(|p| (p.name.clone(), p.value)).collect());
        let wanted: Vec<Var<'_>> = names.iter().map(|(_, v)| b.var(*v)).collect();
        let grads = gradients(&b, loss, &wanted).unwrap();
        names.iter().zip(grads).for_each(|((n, _), g)| b.output(&format!("grad:{n}"), g));
        for_training(b.finish().unwrap(), Precision::F32)
    };
    let tensors = Tensors::of(&build(false));
    let (plain, segmented) =
        (execute(build(false), &tensors, Isa::active(), 2), execute(build(true), &tensors, Isa::active(), 2));
    assert_eq!(plain, segmented);
}

/// Large enough for Strassen's algorithm, whose pairs of rows must not know of other images.
#[test]
fn large_linear_layers_do_not_depend_on_the_batch() {
    let [tokens, inputs, outputs] = [1024, 1024, 640];
    let layer = |batch: usize, precision: Precision| {
        let b = Builder::new();
        let x = b.input("x", &[batch, tokens, inputs], DType::F32);
        b.output("y", x.linear(b.parameter("weight", &[outputs, inputs], Init::Zeros), None));
        for_inference(b.finish().unwrap(), precision)
    };
    let (x, weight) = (numbers(1, 2 * tokens * inputs), numbers(2, outputs * inputs));
    let run = |graph: Graph, x: &[f32], isa: Isa| {
        let floats =
            [("x", x), ("weight", weight.as_slice())].map(|(name, x)| (name.to_string(), x.to_vec()));
        execute(graph, &Tensors(HashMap::from(floats), HashMap::new()), isa, 2).remove("y").unwrap()
    };
    for (precision, tolerance) in [(Precision::F32, 2e-6), (Precision::Bf16, 1e-2)] {
        for isa in Isa::supported() {
            let both = run(layer(2, precision), &x, isa);
            let direct = run(layer(2, precision).in_single_precision(), &x, isa);
            let direct =
                Array { shape: vec![both.len()], data: direct.iter().map(|&x| f64::from(x)).collect() };
            let error = relative_error(&both, &direct);
            assert!(error <= tolerance, "{precision:?} {isa:?}: {error:.2e}");
            // Thirds on tiles are multiplied as it is written.
            assert_eq!(error == 0.0, (precision, isa) == (Precision::F32, Isa::Amx), "{precision:?} {isa:?}");
            let alone = x.chunks(tokens * inputs).flat_map(|x| run(layer(1, precision), x, isa));
            assert!(alone.eq(both), "{precision:?} {isa:?}: the batch changes bits");
        }
    }
}

#[test]
fn bad_inputs_are_named() {
    let graph = || {
        let b = Builder::new();
        let x = b.input("x", &[2, 3], DType::F32);
        let table = b.parameter("table", &[4, 3], Init::Zeros);
        b.output("y", table.embedding(b.input("ids", &[2], DType::I32)) + x);
        b.finish().unwrap()
    };
    let runtime = Runtime::new(Some(1));
    let store = WeightStore::new(&runtime);
    let mut executor = Executor::new(&runtime, graph(), &store).unwrap();
    let (x, cancel) = ([0.5; 6], CancelToken::default());
    let ids = |ids: &'static [i32]| ("ids", Data::I32(ids));
    let run = |e: &mut Executor, i: &[(&str, Data<'_>)]| e.run(i, &cancel);
    assert!(
        matches!(run(&mut executor, &[ids(&[0, 1]), ("x", Data::F32(&x))]), Err(CpuError::NotLoaded(n)) if n == "table")
    );
    assert!(
        matches!(store.load(&|_| None::<Values<'_>>), Err(CpuError::MissingWeight { name, .. }) if name == "table")
    );
    assert!(matches!(
        store.load(&|_| Some(Values::of(&[0.0; 5]))),
        Err(CpuError::WrongWeight { given: 5, .. })
    ));
    store.load(&|_| Some(Values::of(&[0.0; 12]))).unwrap();
    assert!(
        matches!(run(&mut executor, &[ids(&[0, 1])]), Err(CpuError::MissingInput { name, .. }) if name == "x")
    );
    let short = run(&mut executor, &[ids(&[0, 1]), ("x", Data::F32(&x[..5]))]);
    assert!(matches!(short, Err(CpuError::WrongInput { given: 5, .. })));
    let outside = run(&mut executor, &[ids(&[0, 4]), ("x", Data::F32(&x))]);
    assert_eq!(outside, Err(CpuError::Index { index: 4, rows: 4 }));
    cancel.cancel();
    assert_eq!(executor.run(&[ids(&[0, 1]), ("x", Data::F32(&x))], &cancel), Err(CpuError::Cancelled));
    assert!(matches!(executor.output("z"), Err(CpuError::UnknownOutput(_))));
}

#[test]
fn what_a_prelude_makes_goes_on_in_its_own_type() {
    let b = Builder::new();
    let (x, text) = (b.input("x", &[2, 5, 8], DType::F32), b.input("text", &[2, 3, 8], DType::F32));
    let project = |name: &str| text.linear(b.parameter(name, &[8, 8], Init::Zeros), None);
    b.output("y", x.attention(project("k"), project("v"), None, 2, None, false));
    let whole = b.finish().unwrap();
    for (precision, stored) in [(Precision::F32, DType::F32), (Precision::Bf16, DType::Bf16)] {
        let whole = for_inference(whole.clone(), precision);
        let tensors = Tensors::of(&whole);
        let parts = split(&whole, &["text"]).unwrap();
        let runtime = Runtime::new(Some(2));
        let store = WeightStore::new(&runtime);
        let mut prelude = Executor::new(&runtime, parts.prelude, &store).unwrap();
        let mut rest = Executor::new(&runtime, parts.rest, &store).unwrap();
        store.load(&|name| tensors.0.get(name).map(|v| Cow::Borrowed(v.as_slice()))).unwrap();
        prelude.run(&[("text", Data::F32(&tensors.0["text"]))], &CancelToken::default()).unwrap();
        let mut inputs = vec![("x", Data::F32(&tensors.0["x"]))];
        for (name, _) in prelude.graph().outputs() {
            inputs.push((name, prelude.output_data(name).unwrap()));
            assert_eq!(inputs.last().unwrap().1.dtype(), stored);
            assert_eq!(prelude.output(name).is_ok(), stored == DType::F32);
        }
        rest.run(&inputs, &CancelToken::default()).unwrap();
        assert_eq!(rest.output("y").unwrap(), execute(whole, &tensors, runtime.isa, 2)["y"]);
        prelude.rest();
        assert!(prelude.graph().outputs().iter().all(|(name, _)| prelude.output_data(name).is_err()));
    }
}
