use super::super::{Pool, Resize, average_pool, average_pool_backward, resize, resize_backward};
use super::{Input, assert_close, every_kind, noise, output};

/// PyTorch's formulas, one output element at a time.
fn resize64(method: Resize, x: &[f32], [n, h, w, c]: [usize; 4], [oh, ow]: [usize; 2]) -> Vec<f64> {
    let mut out = Vec::new();
    let source = |i: usize, input: usize, output: usize| match method {
        Resize::Nearest => ((i * input / output) as f64, 0.0),
        Resize::Bilinear => {
            let at = ((i as f64 + 0.5) * input as f64 / output as f64 - 0.5).max(0.0);
            (at.floor(), at - at.floor())
        }
    };
    for image in 0..n {
        for y in 0..oh {
            for x_out in 0..ow {
                let ((y0, wy), (x0, wx)) = (source(y, h, oh), source(x_out, w, ow));
                let (y0, x0) = (y0 as usize, x0 as usize);
                let (y1, x1) = ((y0 + 1).min(h - 1), (x0 + 1).min(w - 1));
                for channel in 0..c {
                    let at = |y: usize, xx: usize| f64::from(x[((image * h + y) * w + xx) * c + channel]);
                    let top = at(y0, x0) * (1.0 - wx) + at(y0, x1) * wx;
                    let bottom = at(y1, x0) * (1.0 - wx) + at(y1, x1) * wx;
                    out.push(top * (1.0 - wy) + bottom * wy);
                }
            }
        }
    }
    out
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

#[test]
fn resizing_and_its_adjoint() {
    for (shape, size) in [
        ([1, 4, 4, 3], [8, 8]),
        ([2, 5, 7, 3], [10, 14]),
        ([1, 9, 6, 5], [4, 11]),
        ([1, 1, 1, 2], [3, 5]),
        ([1, 8, 8, 1], [3, 3]),
    ] {
        let [n, _, _, c] = shape;
        let x = Input::new(&noise(shape.iter().product(), 1));
        let dy = Input::new(&noise(n * size[0] * size[1] * c, 2));
        every_kind(|isa, pool, short, out_short| {
            for method in [Resize::Nearest, Resize::Bilinear] {
                let what = format!("{method:?} {shape:?} {size:?} {isa:?}");
                let tolerance = if out_short { 4.1e-3 } else { 2e-6 };
                let y = output(dy.wide.len(), out_short, |out| {
                    resize(pool, isa, method, x.data(short), shape, out, size);
                });
                assert_close(&what, &y, &resize64(method, &x.wide, shape, size), tolerance, 2e-6);
                let dx = output(x.wide.len(), false, |out| {
                    resize_backward(pool, isa, method, dy.data(short), shape, out, size);
                });
                if !out_short {
                    let (a, b) = (dot(&y, &dy.wide), dot(&x.wide, &dx));
                    assert!((a - b).abs() < 1e-4 * (1.0 + a.abs()), "{what}: {a} {b}");
                }
            }
        });
    }
}

#[test]
fn pooling_and_its_adjoint() {
    let windows = [
        Pool { kernel: [2, 2], stride: [2, 2], padding: [0, 0] },
        Pool { kernel: [3, 2], stride: [2, 1], padding: [1, 0] },
        Pool { kernel: [3, 3], stride: [1, 1], padding: [1, 1] },
        Pool { kernel: [2, 2], stride: [3, 3], padding: [0, 0] },
    ];
    for shape in [[2, 6, 8, 3], [1, 7, 5, 4]] {
        let [n, h, w, c] = shape;
        let x = Input::new(&noise(shape.iter().product(), 1));
        for window in windows {
            let [oh, ow] = window.out_size([h, w]);
            let dy = Input::new(&noise(n * oh * ow * c, 2));
            let mut want = vec![0.0; dy.wide.len()];
            for (i, want) in want.iter_mut().enumerate() {
                let (channel, column, y, image) = (i % c, i / c % ow, i / c / ow % oh, i / c / ow / oh);
                for ky in 0..window.kernel[0] {
                    for kx in 0..window.kernel[1] {
                        let at = |i: usize, k: usize, axis: usize| {
                            (i * window.stride[axis] + k).checked_sub(window.padding[axis])
                        };
                        if let (Some(yy), Some(xx)) = (at(y, ky, 0), at(column, kx, 1))
                            && yy < h
                            && xx < w
                        {
                            *want += f64::from(x.wide[((image * h + yy) * w + xx) * c + channel]);
                        }
                    }
                }
                *want /= (window.kernel[0] * window.kernel[1]) as f64;
            }
            every_kind(|isa, pool, short, out_short| {
                let y = output(want.len(), out_short, |out| {
                    average_pool(pool, isa, &window, x.data(short), shape, out);
                });
                assert_close(&format!("{window:?}"), &y, &want, if out_short { 4.1e-3 } else { 2e-6 }, 2e-6);
                if !out_short {
                    let dx = output(x.wide.len(), false, |out| {
                        average_pool_backward(pool, isa, &window, dy.data(short), shape, out);
                    });
                    let (a, b) = (dot(&y, &dy.wide), dot(&x.wide, &dx));
                    assert!((a - b).abs() < 1e-4 * (1.0 + a.abs()), "{window:?}: {a} {b}");
                }
            });
        }
    }
}
