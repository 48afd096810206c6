use super::super::{Reduce, reduce};
use super::{Input, assert_close, assert_threads_agree, every_kind, noise, output};
use crate::{Data, DataMut, Isa, ThreadPool};

fn exact(op: Reduce, x: &[f32], shape: &[usize], axes: &[usize]) -> Vec<f64> {
    let kept: usize = (0..shape.len()).filter(|a| !axes.contains(a)).map(|a| shape[a]).product();
    let mut out = vec![if op == Reduce::Max { f64::NEG_INFINITY } else { 0.0 }; kept];
    for (flat, &x) in x.iter().enumerate() {
        let (mut rest, mut at, mut step) = (flat, 0, 1);
        for axis in (0..shape.len()).rev() {
            if !axes.contains(&axis) {
                at += rest % shape[axis] * step;
                step *= shape[axis];
            }
            rest /= shape[axis];
        }
        out[at] = if op == Reduce::Max { out[at].max(f64::from(x)) } else { out[at] + f64::from(x) };
    }
    if op == Reduce::Mean {
        let n = (x.len() / kept) as f64;
        out.iter_mut().for_each(|x| *x /= n);
    }
    out
}

#[test]
fn reductions_over_any_axes() {
    for shape in [&[3, 4, 5, 7][..], &[2, 300, 3], &[1, 40, 1], &[7], &[2, 1, 2, 3, 2, 2]] {
        let x = Input::new(&noise(shape.iter().product(), 1));
        for subset in 0..1usize << shape.len() {
            let axes: Vec<usize> = (0..shape.len()).filter(|a| subset >> a & 1 != 0).collect();
            for op in [Reduce::Sum, Reduce::Mean, Reduce::Max] {
                let want = exact(op, &x.wide, shape, &axes);
                every_kind(|isa, pool, short, out_short| {
                    let got = output(want.len(), out_short, |out| {
                        reduce(pool, isa, op, x.data(short), shape, &axes, out);
                    });
                    let tolerance = if out_short { 4.1e-3 } else { 2e-6 };
                    assert_close(&format!("{op:?} {shape:?} {axes:?}"), &got, &want, tolerance, 5e-6);
                });
            }
        }
    }
}

#[test]
fn long_axes() {
    let x = noise(60_000, 2);
    let cases: [(&[usize], &[usize]); 4] =
        [(&[60_000], &[0]), (&[6000, 10], &[0]), (&[20, 3000], &[1]), (&[2, 30, 1000], &[1])];
    for (shape, axes) in cases {
        let want = exact(Reduce::Sum, &x, shape, axes);
        for isa in Isa::supported() {
            let pool = ThreadPool::new(2);
            let got = output(want.len(), false, |out| {
                reduce(&pool, isa, Reduce::Sum, Data::F32(&x), shape, axes, out);
            });
            assert_close("sum", &got, &want, 1e-6, 1e-4);
        }
        assert_threads_agree(|isa, pool| {
            output(want.len(), false, |out| reduce(pool, isa, Reduce::Sum, Data::F32(&x), shape, axes, out))
        });
    }
}

#[test]
fn a_maximum_passes_not_a_number_on() {
    let pool = ThreadPool::new(1);
    for isa in Isa::supported() {
        for at in [0, 40, 99] {
            let mut x = noise(100, 3);
            x[at] = f32::NAN;
            for (shape, axis) in [([1, 100], 1), ([100, 1], 0)] {
                let mut out = [0.0];
                reduce(&pool, isa, Reduce::Max, Data::F32(&x), &shape, &[axis], DataMut::F32(&mut out));
                assert!(out[0].is_nan(), "{isa:?} {at}");
            }
            let wide: Vec<f32> = x.iter().flat_map(|&x| [x, 0.0]).collect();
            let mut out = [0.0; 2];
            reduce(&pool, isa, Reduce::Max, Data::F32(&wide), &[100, 2], &[0], DataMut::F32(&mut out));
            assert!(out[0].is_nan() && out[1] == 0.0);
        }
    }
}
