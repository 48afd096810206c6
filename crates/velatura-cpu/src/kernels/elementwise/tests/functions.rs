use velatura_graph::Activation;

use super::super::math::tests::erf64;
use super::super::{
    Binary, Unary, activation_backward, add_scaled, binary, gated, gated_backward, softmax, softmax_backward,
    unary,
};
use super::{Input, assert_close, assert_threads_agree, every_kind, noise, output};
use crate::{Data, DataMut};

const ACTIVATIONS: [Activation; 7] = [
    Activation::Relu,
    Activation::Silu,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::QuickGelu,
    Activation::Tanh,
    Activation::Sigmoid,
];

pub(crate) fn activation64(activation: Activation, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match activation {
        Activation::Relu => x.max(0.0),
        Activation::Silu => x * sigmoid(x),
        Activation::Gelu => 0.5 * x * (1.0 + erf64(x / std::f64::consts::SQRT_2)),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
        Activation::QuickGelu => x * sigmoid(1.702 * x),
        Activation::Tanh => x.tanh(),
        Activation::Sigmoid => sigmoid(x),
    }
}

fn unary64(op: Unary, x: f64) -> f64 {
    match op {
        Unary::Activation(a) => activation64(a, x),
        Unary::Neg => -x,
        Unary::Exp => x.exp(),
        Unary::Log => x.ln(),
        Unary::Sqrt => x.sqrt(),
        Unary::Rsqrt => 1.0 / x.sqrt(),
        Unary::Square => x * x,
        Unary::Abs => x.abs(),
        Unary::Sign => {
            if x == 0.0 {
                0.0
            } else {
                x.signum()
            }
        }
        Unary::Sin => x.sin(),
        Unary::Cos => x.cos(),
        Unary::Reciprocal => 1.0 / x,
        Unary::Affine { scale, shift } => x * f64::from(scale) + f64::from(shift),
        Unary::Clamp { min, max } => x.clamp(f64::from(min), f64::from(max)),
        Unary::Pow(p) => x.powf(f64::from(p)),
    }
}

#[test]
fn unary_functions_follow_their_definition() {
    let mut ops = vec![
        Unary::Neg,
        Unary::Exp,
        Unary::Square,
        Unary::Abs,
        Unary::Sign,
        Unary::Sin,
        Unary::Cos,
        Unary::Affine { scale: 1.5, shift: -0.25 },
        Unary::Clamp { min: -0.5, max: 0.75 },
    ];
    ops.extend(ACTIVATIONS.map(Unary::Activation));
    let positive = [Unary::Log, Unary::Sqrt, Unary::Rsqrt, Unary::Reciprocal, Unary::Pow(1.7)];
    for count in [1, 17, 1029] {
        let any: Vec<f32> = noise(count, 3).iter().map(|x| 6.0 * x).collect();
        let above: Vec<f32> = noise(count, 4).iter().map(|x| 1.5 + x).collect();
        let inputs = [Input::new(&any), Input::new(&above)];
        every_kind(|isa, pool, short, out_short| {
            for (input, ops) in inputs.iter().zip([&ops[..], &positive]) {
                for &op in ops {
                    let got = output(count, out_short, |out| unary(pool, isa, op, input.data(short), out));
                    let want: Vec<f64> = input.wide.iter().map(|&x| unary64(op, f64::from(x))).collect();
                    let relative = if out_short { 4.1e-3 } else { 1e-6 };
                    assert_close(&format!("{op:?} {isa:?}"), &got, &want, relative, 1e-6);
                }
            }
        });
    }
}

#[test]
fn gradients_of_activations_are_their_slopes() {
    let count = 531;
    let x: Vec<f32> = noise(count, 5).iter().map(|x| 5.0 * x).collect();
    let (x, dy) = (Input::new(&x), Input::new(&noise(count, 6)));
    every_kind(|isa, pool, short, out_short| {
        for activation in ACTIVATIONS {
            let got = output(count, out_short, |out| {
                activation_backward(pool, isa, activation, x.data(short), dy.data(!short), out);
            });
            let want: Vec<f64> = (x.wide.iter().zip(&dy.wide))
                .map(|(&x, &dy)| {
                    let (x, h) = (f64::from(x), 1e-5);
                    let slope =
                        (activation64(activation, x + h) - activation64(activation, x - h)) / (2.0 * h);
                    slope * f64::from(dy)
                })
                .collect();
            let relative = if out_short { 4.1e-3 } else { 2e-6 };
            assert_close(&format!("{activation:?} {isa:?}"), &got, &want, relative, 1e-6);
        }
    });
}

#[test]
fn gated_units_and_their_gradients() {
    // The last rows are longer than a block.
    for (rows, c) in [(1, 1), (7, 33), (3, 1500)] {
        let x: Vec<f32> = noise(rows * 2 * c, 7).iter().map(|x| 4.0 * x).collect();
        let (x, dy) = (Input::new(&x), Input::new(&noise(rows * c, 8)));
        let f = |activation, x: &[f64]| -> Vec<f64> {
            let row = |x: &[f64]| -> Vec<f64> {
                (0..c).map(|i| x[i] * activation64(activation, x[c + i])).collect()
            };
            x.chunks(2 * c).flat_map(row).collect()
        };
        every_kind(|isa, pool, short, out_short| {
            for activation in ACTIVATIONS {
                let wide: Vec<f64> = x.wide.iter().map(|&x| f64::from(x)).collect();
                let what = format!("{activation:?} {isa:?} {rows} {c}");
                let relative = if out_short { 4.1e-3 } else { 2e-6 };
                let got =
                    output(rows * c, out_short, |out| gated(pool, isa, activation, x.data(short), c, out));
                assert_close(&what, &got, &f(activation, &wide), relative, 3e-6);
                let got = output(rows * 2 * c, out_short, |dx| {
                    gated_backward(pool, isa, activation, x.data(short), c, dy.data(!short), dx);
                });
                let want: Vec<f64> = (0..wide.len())
                    .map(|i| {
                        let (row, column) = (i / (2 * c), i % (2 * c));
                        let (value, gate) =
                            (wide[row * 2 * c + column % c], wide[row * 2 * c + c + column % c]);
                        let h = 1e-5;
                        let slope = (activation64(activation, gate + h) - activation64(activation, gate - h))
                            / (2.0 * h);
                        let factor = if column < c { activation64(activation, gate) } else { value * slope };
                        factor * f64::from(dy.wide[row * c + column % c])
                    })
                    .collect();
                assert_close(&what, &got, &want, relative, 1e-5);
            }
        });
    }
}

fn broadcast_index(index: usize, out: &[usize], shape: &[usize]) -> usize {
    let (mut rest, mut at, mut step) = (index, 0, 1);
    for axis in (0..out.len()).rev() {
        let i = rest % out[axis];
        rest /= out[axis];
        if let Some(own) = (axis + shape.len()).checked_sub(out.len()) {
            at += if shape[own] == 1 { 0 } else { i * step };
            step *= shape[own];
        }
    }
    at
}

#[test]
fn binary_functions_broadcast_as_numpy_does() {
    let patterns: [(&[usize], &[usize]); 9] = [
        (&[3, 5, 7], &[3, 5, 7]),
        (&[3, 5, 7], &[]),
        (&[], &[4, 9]),
        (&[3, 5, 37], &[37]),
        (&[2, 4, 3, 19], &[2, 1, 1, 19]),
        (&[6, 21], &[6, 1]),
        (&[1, 5, 1, 3], &[2, 1, 4, 1]),
        (&[2, 1, 2, 3, 1, 2], &[1, 3, 2, 1, 5, 2]),
        (&[2, 1500], &[1, 1500]),
    ];
    for (a_shape, b_shape) in patterns {
        let rank = a_shape.len().max(b_shape.len());
        let side = |s: &[usize], axis: usize| (axis + s.len()).checked_sub(rank).map_or(1, |i| s[i]);
        let shape: Vec<usize> = (0..rank).map(|axis| side(a_shape, axis).max(side(b_shape, axis))).collect();
        let count = shape.iter().product();
        let a = Input::new(&noise(a_shape.iter().product(), 7));
        let b: Vec<f32> = noise(b_shape.iter().product(), 8).iter().map(|x| x + 2.0).collect();
        let b = Input::new(&b);
        every_kind(|isa, pool, short, out_short| {
            for op in [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div, Binary::Max, Binary::Min] {
                let (x, y) = (a.data(short), b.data(!short));
                let got = output(count, out_short, |out| {
                    binary(pool, isa, op, x, a_shape, y, b_shape, out, &shape);
                });
                let want: Vec<f64> = (0..count)
                    .map(|i| {
                        let x = f64::from(a.wide[broadcast_index(i, &shape, a_shape)]);
                        let y = f64::from(b.wide[broadcast_index(i, &shape, b_shape)]);
                        match op {
                            Binary::Add => x + y,
                            Binary::Sub => x - y,
                            Binary::Mul => x * y,
                            Binary::Div => x / y,
                            Binary::Max => x.max(y),
                            Binary::Min => x.min(y),
                        }
                    })
                    .collect();
                let relative = if out_short { 4.1e-3 } else { 2e-7 };
                assert_close(&format!("{op:?} {a_shape:?} {b_shape:?} {isa:?}"), &got, &want, relative, 1e-9);
            }
        });
    }
}

#[test]
fn scaled_sums() {
    let (a, b) = (Input::new(&noise(1300, 1)), Input::new(&noise(1300, 2)));
    every_kind(|isa, pool, short, out_short| {
        let got = output(1300, out_short, |out| {
            add_scaled(pool, isa, a.data(short), 0.5, b.data(false), -2.0, out);
        });
        let want: Vec<f64> =
            a.wide.iter().zip(&b.wide).map(|(&a, &b)| 0.5 * f64::from(a) - 2.0 * f64::from(b)).collect();
        assert_close("add_scaled", &got, &want, if out_short { 4.1e-3 } else { 1e-6 }, 1e-6);
    });
}

#[test]
fn softmax_and_its_gradient() {
    for columns in [1, 5, 77, 1100] {
        let rows = 3;
        let x: Vec<f32> = noise(rows * columns, 11).iter().map(|x| 8.0 * x).collect();
        let (x, dy) = (Input::new(&x), Input::new(&noise(rows * columns, 12)));
        let exact = |log: bool| -> Vec<f64> {
            x.wide
                .chunks(columns)
                .flat_map(|row| {
                    let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
                    row.iter()
                        .map(|&x| if log { f64::from(x) - sum.ln() } else { f64::from(x).exp() / sum })
                        .collect::<Vec<_>>()
                })
                .collect()
        };
        every_kind(|isa, pool, short, out_short| {
            for log in [false, true] {
                let want = exact(log);
                let got = output(x.wide.len(), out_short, |out| {
                    softmax(pool, isa, log, x.data(short), columns, out);
                });
                assert_close("softmax", &got, &want, if out_short { 4.1e-3 } else { 2e-6 }, 2e-6);

                let y: Vec<f32> = want.iter().map(|&y| y as f32).collect();
                let got = output(y.len(), out_short, |out| {
                    softmax_backward(pool, isa, log, Data::F32(&y), dy.data(short), columns, out);
                });
                let gradient: Vec<f64> =
                    want.chunks(columns)
                        .zip(dy.wide.chunks(columns))
                        .flat_map(|(y, dy)| {
                            let dot: f64 = y
                                .iter()
                                .zip(dy)
                                .map(|(y, &d)| if log { f64::from(d) } else { y * f64::from(d) })
                                .sum();
                            y.iter()
                                .zip(dy)
                                .map(|(y, &d)| {
                                    if log { f64::from(d) - y.exp() * dot } else { y * (f64::from(d) - dot) }
                                })
                                .collect::<Vec<_>>()
                        })
                        .collect();
                assert_close("gradient", &got, &gradient, if out_short { 4.1e-3 } else { 1e-5 }, 1e-5);
            }
        });
    }
}

#[test]
fn softmax_of_hidden_rows_and_not_a_number() {
    let x = [f32::NEG_INFINITY, f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY, f32::NAN, 1.0];
    every_kind(|isa, pool, _, _| {
        let mut out = [9.0; 6];
        softmax(pool, isa, false, Data::F32(&x), 2, DataMut::F32(&mut out));
        assert_eq!(out[..4], [0.0, 0.0, 1.0, 0.0], "{isa:?}");
        assert!(out[4].is_nan() && out[5].is_nan());
    });
}

#[test]
fn threads_do_not_change_bits() {
    let x = noise(70_001, 1);
    assert_threads_agree(|isa, pool| {
        output(x.len(), false, |out| {
            unary(pool, isa, Unary::Activation(Activation::Gelu), Data::F32(&x), out)
        })
    });
    assert_threads_agree(|isa, pool| {
        output(70_000, false, |out| {
            binary(
                pool,
                isa,
                Binary::Mul,
                Data::F32(&x[..70_000]),
                &[700, 100],
                Data::F32(&x[..100]),
                &[100],
                out,
                &[700, 100],
            );
        })
    });
}
