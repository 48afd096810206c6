//! The update against `torch.optim.AdamW`'s formulas in double precision.

use super::{AdamW, Ema, Segment, adamw, squared_norm};
use crate::kernels::elementwise::tests::{assert_close, assert_threads_agree, noise};
use crate::{Isa, ThreadPool};

struct State {
    weights: Vec<f32>,
    m: Vec<f32>,
    v: Vec<f32>,
    average: Vec<f32>,
}

const SEGMENTS: [Segment; 3] = [
    Segment { offset: 0, len: 33_000, weight_decay: 0.1 },
    Segment { offset: 33_000, len: 5, weight_decay: 0.0 },
    // 33005..33007 belongs to no segment.
    Segment { offset: 33_007, len: 6_996, weight_decay: 0.02 },
];
const COUNT: usize = 40_003;

fn run(isa: Isa, pool: &ThreadPool, steps: u64) -> State {
    let mut s = State {
        weights: noise(COUNT, 1),
        m: vec![0.0; COUNT],
        v: vec![0.0; COUNT],
        average: noise(COUNT, 1),
    };
    for step in 1..=steps {
        let gradients = noise(COUNT, 10 + step);
        let constants = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.99, eps: 1e-8, step, clip_scale: 0.5 };
        let ema = Some(Ema { average: &mut s.average, decay: 0.9 });
        adamw(pool, isa, &constants, &SEGMENTS, &mut s.weights, &gradients, &mut s.m, &mut s.v, ema);
    }
    s
}

#[test]
fn adamw_follows_its_definition() {
    let pool = ThreadPool::new(2);
    let start = noise(COUNT, 1);
    let mut want = [start.clone(), vec![0.0; COUNT], vec![0.0; COUNT], start]
        .map(|x| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>());
    for step in 1..=5 {
        let gradients = noise(COUNT, 10 + step);
        for s in SEGMENTS {
            for i in s.offset..s.offset + s.len {
                let g = 0.5 * f64::from(gradients[i]);
                let lr = f64::from(1e-2f32);
                let [w, m, v, average] = &mut want;
                let (beta1, beta2) = (f64::from(0.9f32), f64::from(0.99f32));
                w[i] *= 1.0 - lr * f64::from(s.weight_decay);
                m[i] = beta1 * m[i] + (1.0 - beta1) * g;
                v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
                let (c1, c2) = (1.0 - beta1.powi(step as i32), 1.0 - beta2.powi(step as i32));
                w[i] -= lr / c1 * m[i] / ((v[i] / c2).sqrt() + 1e-8);
                average[i] = 0.9 * average[i] + 0.1 * w[i];
            }
        }
    }
    for isa in Isa::supported() {
        let got = run(isa, &pool, 5);
        assert_close("weights", &got.weights, &want[0], 2e-6, 2e-6);
        assert_close("m", &got.m, &want[1], 2e-6, 1e-6);
        assert_close("v", &got.v, &want[2], 1e-5, 1e-6);
        assert_close("average", &got.average, &want[3], 2e-6, 2e-6);
        assert_eq!(got.weights[33_005..33_007], noise(COUNT, 1)[33_005..33_007]);
    }
    assert_threads_agree(|isa, pool| {
        let s = run(isa, pool, 2);
        [s.weights, s.m, s.v, s.average].concat()
    });
}

#[test]
fn norms_are_exact_enough_and_show_what_is_not_finite() {
    let pool = ThreadPool::new(2);
    for count in [0, 1, 31, 100_003] {
        let mut x = noise(count, 5);
        let want: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        for isa in Isa::supported() {
            let got = squared_norm(&pool, isa, &x);
            assert!((got - want).abs() <= 1e-12 * want, "{got} {want}");
        }
        if let Some(last) = x.last_mut() {
            *last = f32::NAN;
            assert!(Isa::supported().all(|isa| squared_norm(&pool, isa, &x).is_nan()));
            let middle = count / 2;
            x[middle] = f32::NEG_INFINITY;
            x[count - 1] = if middle == count - 1 { x[middle] } else { 0.0 };
            assert!(Isa::supported().all(|isa| squared_norm(&pool, isa, &x) == f64::INFINITY));
        }
    }
    let x = noise(100_003, 5);
    assert_threads_agree(|isa, pool| {
        let bits = squared_norm(pool, isa, &x).to_bits();
        vec![f32::from_bits(bits as u32), f32::from_bits((bits >> 32) as u32)]
    });
}
