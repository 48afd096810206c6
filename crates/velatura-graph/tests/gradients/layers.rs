//! Products, convolutions, attention, norms, images and tables.

use velatura_graph::Activation;
use velatura_graph::op::{Conv2d, Epilogue, GroupNorm, Linear, Resize, ResizeMode, Window};

use super::common::Random;
use super::{ACTIVATIONS, Data, any, apply, case, check_all, distinct, ids};

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
fn gated_units() {
    let mut cases = Vec::new();
    for activation in ACTIVATIONS {
        for shape in [&[6][..], &[3, 2], &[2, 3, 4]] {
            // Away from the corner of a rectified gate.
            let inputs = [distinct(shape)];
            cases.push(case(format!("gated {activation:?} {shape:?}"), inputs, move |v| {
                v[0].gated(activation)
            }));
        }
    }
    check_all(cases);
}

#[test]
fn modulated_norms() {
    let mut cases = Vec::new();
    for (shape, c) in [(&[2, 3, 3, 6][..], 6), (&[3, 4], 4), (&[1, 5, 2], 2)] {
        for activation in [None, Some(Activation::Silu)] {
            for modulation in
                [vec![shape[0], 2 * c], [&[shape[0]], &vec![1; shape.len() - 2][..], &[2 * c]].concat()]
            {
                let inputs = [any(shape), any(&[c]), any(&[c]), any(&modulation)];
                cases.push(case(format!("{shape:?} {modulation:?} {activation:?}"), inputs, move |v| {
                    let y = v[0].group_norm_modulated(v[1], v[2], v[3], 2, 1e-3);
                    activation.map_or(y, |a| y.activation(a))
                }));
                let inputs = [any(shape), any(&[c]), any(&[c]), any(&modulation)];
                let op = GroupNorm { groups: 2, eps: 1e-3, modulated: true, activation };
                cases.push(case(
                    format!("fused {shape:?} {modulation:?} {activation:?}"),
                    inputs,
                    move |v| apply(op.clone(), v),
                ));
            }
        }
    }
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
        let op = Linear { epilogue: Epilogue { residual: true, ..Epilogue::default() }, ..Linear::default() };
        cases.push(case(
            format!("residual {shape:?}"),
            [any(shape), weight.clone(), any(&result)],
            move |v| apply(op.clone(), v),
        ));
        if shape.len() > 1 {
            let epilogue = Epilogue { bias: true, per_image: true, residual: true, activation: None };
            let inputs = [any(shape), weight, any(&[5]), any(&[shape[0], 5]), any(&result)];
            cases.push(case(format!("all {shape:?}"), inputs, move |v| {
                apply(Linear { epilogue, ..Linear::default() }, v)
            }));
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
        let op = GroupNorm { groups: 2, eps: 1e-5, modulated: false, activation: Some(activation) };
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
