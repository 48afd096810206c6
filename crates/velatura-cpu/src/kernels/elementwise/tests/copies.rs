use half::bf16;

use super::super::{
    View, cast, concat, embedding, embedding_backward, expand, fill, pad, permute, slice, strided_copy,
};
use super::{Input, assert_close, every_kind, narrow, noise, output};
use crate::{Data, DataMut, Isa, ThreadPool};

fn indices(shape: &[usize], mut flat: usize) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for axis in (0..shape.len()).rev() {
        index[axis] = flat % shape[axis];
        flat /= shape[axis];
    }
    index
}

fn flat(shape: &[usize], index: &[usize]) -> usize {
    shape.iter().zip(index).fold(0, |at, (n, i)| at * n + i)
}

#[test]
fn casts_round_to_nearest_even() {
    let mut x: Vec<f32> =
        (0..3000u32).map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761) ^ 0x3f80_0000)).collect();
    x.extend([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, f32::MIN_POSITIVE, 1e-42]);
    x.extend([0x3f80_8000u32, 0x3f81_8000, 0x3f80_8001, 0x7f80_0001, 0xff80_0001].map(f32::from_bits));
    let want = narrow(&x);
    let pool = ThreadPool::new(2);
    for isa in Isa::supported() {
        let mut out = vec![bf16::ZERO; x.len()];
        cast(&pool, isa, Data::F32(&x), DataMut::Bf16(&mut out));
        for ((x, got), want) in x.iter().zip(&out).zip(&want) {
            assert!(got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()), "{x} {isa:?}");
        }
        let mut back = vec![0.0; x.len()];
        cast(&pool, isa, Data::Bf16(&want), DataMut::F32(&mut back));
        assert!(back.iter().zip(&want).all(|(b, w)| b.to_bits() == w.to_f32().to_bits() || b.is_nan()));
        let mut whole = vec![0; 3];
        cast(&pool, isa, Data::F32(&[1.9, -2.9, 3e20]), DataMut::I32(&mut whole));
        assert_eq!(whole, [1, -2, i32::MAX]);
        cast(&pool, isa, Data::I32(&[7, -8]), DataMut::F32(&mut back[..2]));
        assert_eq!(back[..2], [7.0, -8.0]);
    }
}

#[test]
fn permutations() {
    let pool = ThreadPool::new(2);
    let cases: [(&[usize], &[usize]); 7] = [
        (&[5, 7], &[1, 0]),
        (&[70, 45], &[1, 0]),
        (&[2, 3, 4], &[2, 0, 1]),
        (&[2, 9, 3, 8], &[0, 2, 1, 3]),
        (&[2, 33, 40, 3], &[0, 3, 1, 2]),
        (&[3, 4, 5], &[0, 1, 2]),
        (&[2, 3, 2, 3, 2, 3], &[5, 3, 1, 0, 2, 4]),
    ];
    for (shape, order) in cases {
        let x: Vec<i32> = (0..shape.iter().product::<usize>() as i32).collect();
        let target: Vec<usize> = order.iter().map(|&a| shape[a]).collect();
        let mut out = vec![-1; x.len()];
        permute(&pool, Data::I32(&x), shape, order, DataMut::I32(&mut out));
        for (at, &got) in out.iter().enumerate() {
            let index = indices(&target, at);
            let mut source = vec![0; shape.len()];
            order.iter().zip(&index).for_each(|(&axis, &i)| source[axis] = i);
            assert_eq!(got, x[flat(shape, &source)], "{shape:?} {order:?}");
        }
    }
}

#[test]
fn joining_cutting_and_padding() {
    let pool = ThreadPool::new(2);
    for axis in 0..3 {
        let (mut a, mut b) = ([2, 3, 5], [2, 3, 5]);
        (a[axis], b[axis]) = (4, 1);
        let (x, y) = (noise(a.iter().product(), 1), noise(b.iter().product(), 2));
        let mut whole = a;
        whole[axis] = 5;
        let mut joined = vec![f32::NAN; x.len() + y.len()];
        concat(&pool, &[(Data::F32(&x), &a), (Data::F32(&y), &b)], axis, DataMut::F32(&mut joined));
        for (at, &got) in joined.iter().enumerate() {
            let mut index = indices(&whole, at);
            let want = if index[axis] < 4 {
                x[flat(&a, &index)]
            } else {
                index[axis] -= 4;
                y[flat(&b, &index)]
            };
            assert_eq!(got, want);
        }
        let mut starts = [0; 3];
        starts[axis] = 4;
        let mut out = vec![0.0; y.len()];
        slice(&pool, Data::F32(&joined), &whole, &starts, &[1; 3], DataMut::F32(&mut out), &b);
        assert_eq!(out, y);

        let (mut before, mut after) = ([0; 3], [0; 3]);
        (before[axis], after[axis]) = (2, 1);
        let mut padded = vec![0.0; x.len() / 4 * 7];
        pad(&pool, Data::F32(&x), &a, &before, &after, 0.5, DataMut::F32(&mut padded));
        let mut shape = a;
        shape[axis] = 7;
        for (at, &got) in padded.iter().enumerate() {
            let mut index = indices(&shape, at);
            let inside = (2..6).contains(&index[axis]);
            index[axis] = index[axis].wrapping_sub(2);
            assert_eq!(got, if inside { x[flat(&a, &index)] } else { 0.5 });
        }
    }
    let x: Vec<i32> = (0..20).collect();
    let mut out = [0; 4];
    slice(&pool, Data::I32(&x), &[4, 5], &[1, 0], &[2, 3], DataMut::I32(&mut out), &[2, 2]);
    assert_eq!(out, [5, 8, 15, 18]);
    let mut out = [0; 6];
    expand(&pool, Data::I32(&[1, 2]), &[2, 1], DataMut::I32(&mut out), &[2, 3]);
    assert_eq!(out, [1, 1, 1, 2, 2, 2]);
    expand(&pool, Data::I32(&[1, 2]), &[2], DataMut::I32(&mut out), &[3, 2]);
    assert_eq!(out, [1, 2, 1, 2, 1, 2]);
    let mut out = [0; 6];
    let (from, to) = (View { offset: 1, strides: vec![5, 2] }, View { offset: 0, strides: vec![1, 3] });
    strided_copy(&pool, &[3, 2], Data::I32(&x), &from, DataMut::I32(&mut out), &to);
    assert_eq!(out, [1, 6, 11, 3, 8, 13]);
}

#[test]
fn fills() {
    let pool = ThreadPool::new(2);
    assert!(output(40_000, false, |out| fill(&pool, out, 1.25)).iter().all(|&x| x == 1.25));
    assert!(output(33, true, |out| fill(&pool, out, -3.0)).iter().all(|&x| x == -3.0));
}

#[test]
fn lookups_and_their_gradient() {
    let (rows, width) = (600, 13);
    let table = Input::new(&noise(rows * width, 1));
    let ids: Vec<i32> = (0..97).map(|i| (i * i * 7) % 600).collect();
    let dy = Input::new(&noise(ids.len() * width, 2));
    every_kind(|isa, pool, short, out_short| {
        let got = output(ids.len() * width, out_short, |out| {
            embedding(pool, isa, table.data(short), width, &ids, out);
        });
        let want: Vec<f64> = ids
            .iter()
            .flat_map(|&id| table.wide[id as usize * width..][..width].iter().map(|&x| f64::from(x)))
            .collect();
        assert_close("embedding", &got, &want, 0.0, 0.0);
        let mut gradient = vec![f32::NAN; rows * width];
        embedding_backward(pool, isa, &ids, dy.data(short), width, &mut gradient);
        let mut want = vec![0.0; rows * width];
        for (dy, &id) in dy.wide.chunks(width).zip(&ids) {
            dy.iter().enumerate().for_each(|(i, &x)| want[id as usize * width + i] += f64::from(x));
        }
        assert_close("embedding gradient", &gradient, &want, 1e-6, 1e-6);
    });
}
