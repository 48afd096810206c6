//! Every kernel against attention in double precision, written as its definition.

use half::bf16;
use velatura_graph::DType;

use super::{AttentionShape, Gradients, Mask, Rows, backward, compute_dtype, forward, reads_tiles};
use crate::kernels::Order;
use crate::kernels::elementwise::tests::{narrow, noise, rounded};
use crate::kernels::order::tests::in_tiles;
use crate::{Data, DataMut, Isa, ThreadPool};

struct Case {
    shape: AttentionShape,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    dout: Vec<f32>,
    mask: Option<(Vec<f32>, [usize; 4])>,
}

impl Case {
    fn new(shape: AttentionShape, mask: Option<[usize; 4]>) -> Self {
        let doubled = |n, seed| noise(n, seed).iter().map(|x| 2.0 * x).collect::<Vec<_>>();
        let rounded = |n, seed| rounded(&doubled(n, seed));
        let mask = mask.map(|dims| {
            let mut mask = noise(dims.iter().product(), 9);
            mask.iter_mut().for_each(|m| *m = if *m > 0.5 { f32::NEG_INFINITY } else { *m });
            (mask, dims)
        });
        Case {
            shape,
            q: rounded(shape.q_len(), 1),
            k: rounded(shape.k_len(), 2),
            v: rounded(shape.k_len(), 3),
            dout: rounded(shape.q_len(), 4),
            mask,
        }
    }

    fn mask(&self) -> Option<Mask<'_>> {
        self.mask.as_ref().map(|(data, shape)| Mask { data, shape: *shape })
    }

    /// Output, lse, dq, dk, dv by the definition.
    fn exact(&self) -> [Vec<f64>; 5] {
        let s = &self.shape;
        let (d, w) = (s.head_dim, s.heads * s.head_dim);
        let mut out = vec![0.0; s.q_len()];
        let mut lse = vec![f64::NEG_INFINITY; s.batch * s.heads * s.q_tokens];
        let (mut dq, mut dk, mut dv) = (vec![0.0; s.q_len()], vec![0.0; s.k_len()], vec![0.0; s.k_len()]);
        let f = f64::from;
        for b in 0..s.batch {
            for h in 0..s.heads {
                for i in 0..s.q_tokens {
                    let qi = (b * s.q_tokens + i) * w + h * d;
                    let key = |j: usize| (b * s.k_tokens + j) * w + h * d;
                    let scores: Vec<f64> = (0..s.k_tokens)
                        .map(|j| {
                            let dot: f64 = (0..d).map(|c| f(self.q[qi + c]) * f(self.k[key(j) + c])).sum();
                            let mask = self.mask().map_or(0.0, |m| {
                                let [sb, sh, sq, sk] = m.strides();
                                f(m.data[b * sb + h * sh + i * sq + j * sk])
                            });
                            let hidden = s.causal && j > i;
                            if hidden { f64::NEG_INFINITY } else { dot * f(s.scale) + mask }
                        })
                        .collect();
                    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    if top == f64::NEG_INFINITY {
                        continue;
                    }
                    let sum: f64 = scores.iter().map(|x| (x - top).exp()).sum();
                    lse[(b * s.heads + h) * s.q_tokens + i] = top + sum.ln();
                    let p: Vec<f64> = scores.iter().map(|x| (x - top).exp() / sum).collect();
                    let mut total = 0.0;
                    for c in 0..d {
                        out[qi + c] = (0..s.k_tokens).map(|j| p[j] * f(self.v[key(j) + c])).sum();
                        total += out[qi + c] * f(self.dout[qi + c]);
                    }
                    for j in 0..s.k_tokens {
                        let dp: f64 = (0..d).map(|c| f(self.dout[qi + c]) * f(self.v[key(j) + c])).sum();
                        let ds = p[j] * (dp - total) * f(s.scale);
                        for c in 0..d {
                            dv[key(j) + c] += p[j] * f(self.dout[qi + c]);
                            dq[qi + c] += ds * f(self.k[key(j) + c]);
                            dk[key(j) + c] += ds * f(self.q[qi + c]);
                        }
                    }
                }
            }
        }
        [out, lse, dq, dk, dv]
    }

    /// The same by the kernels; bf16 inputs when asked for, outputs in single precision.
    fn kernels(&self, isa: Isa, threads: usize, short: bool) -> [Vec<f32>; 5] {
        self.kernels_in(isa, threads, short, false)
    }

    /// The same, with scores of bytes when asked for.
    fn kernels_in(&self, isa: Isa, threads: usize, short: bool, int8: bool) -> [Vec<f32>; 5] {
        let s = &self.shape;
        let pool = ThreadPool::new(threads);
        let narrowed = [&self.q, &self.k, &self.v, &self.dout].map(|x| narrow(x));
        let [q, k, v, dout] = if short {
            [0, 1, 2, 3].map(|i| Data::Bf16(&narrowed[i]))
        } else {
            [Data::F32(&self.q), Data::F32(&self.k), Data::F32(&self.v), Data::F32(&self.dout)]
        };
        let [q, k, v] = [q, k, v].map(|x| Rows::packed(x, s));
        let mut out = vec![f32::NAN; s.q_len()];
        let mut lse = vec![f32::NAN; s.batch * s.heads * s.q_tokens];
        forward(
            &pool,
            isa,
            s,
            q,
            k,
            v,
            self.mask(),
            int8,
            DataMut::F32(&mut out),
            Order::Rows,
            Some(&mut lse),
        );
        let (mut dq, mut dk, mut dv) =
            (vec![f32::NAN; s.q_len()], vec![f32::NAN; s.k_len()], vec![f32::NAN; s.k_len()]);
        let gradients =
            Gradients { q: DataMut::F32(&mut dq), k: DataMut::F32(&mut dk), v: DataMut::F32(&mut dv) };
        backward(&pool, isa, s, q, k, v, self.mask(), Data::F32(&out), &lse, dout, gradients);
        [out, lse, dq, dk, dv]
    }
}

fn shape(
    batch: usize,
    heads: usize,
    q_tokens: usize,
    k_tokens: usize,
    head_dim: usize,
    causal: bool,
) -> AttentionShape {
    let scale = 1.0 / (head_dim as f32).sqrt();
    AttentionShape { batch, heads, q_tokens, k_tokens, head_dim, causal, scale }
}

fn relative_error(got: &[f32], want: &[f64]) -> f64 {
    let (mut difference, mut norm) = (0.0, 0.0);
    for (&got, &want) in got.iter().zip(want) {
        if got == f32::NEG_INFINITY && want == f64::NEG_INFINITY {
            continue;
        }
        difference += (f64::from(got) - want).powi(2);
        norm += want * want;
    }
    // One key makes exact zeros of the gradients of Q and K: compare with the inputs there.
    (difference / norm.max(1e-3 * got.len() as f64)).sqrt()
}

const NAMES: [&str; 5] = ["out", "lse", "dq", "dk", "dv"];

fn check(case: &Case) {
    check_first(5, 3e-6, case);
}

/// Compares the first few of [`NAMES`]; the tolerance is that of single precision.
fn check_first(count: usize, single: f64, case: &Case) {
    let exact = case.exact();
    for isa in Isa::supported() {
        for short in [false, true] {
            let got = case.kernels(isa, 1, short);
            let tolerance = if short && isa.multiplies_bf16() { 8e-3 } else { single };
            for ((name, got), want) in NAMES.iter().zip(&got).zip(&exact).take(count) {
                let error = relative_error(got, want);
                assert!(error <= tolerance, "{name} {isa:?} {short} {:?}: {error}", case.shape);
            }
        }
    }
}

#[test]
fn forward_and_backward_follow_the_definition() {
    for (q, k, d) in
        [(1, 1, 8), (1, 70, 40), (7, 3, 13), (17, 77, 40), (50, 65, 16), (197, 130, 33), (64, 64, 64)]
    {
        check(&Case::new(shape(1, 2, q, k, d, false), None));
    }
    check(&Case::new(shape(1, 1, 20, 30, 160, false), None));
    check(&Case::new(shape(1, 1, 9, 70, 50, false), None));
    check(&Case::new(shape(1, 2, 33, 150, 100, false), None));
    check(&Case::new(shape(3, 1, 5, 9, 24, false), None));
}

#[test]
fn later_keys_may_outweigh_all_before_them() {
    // Of the second block a little, of the third by more than single precision holds as a power of two.
    for factors in [[1.0, 8.0, 8.0], [1.0, 8.0, 128.0], [128.0, 1.0, 8.0]] {
        let mut case = Case::new(shape(1, 2, 50, 150, 16, false), None);
        for (token, k) in case.k.chunks_mut(32).enumerate() {
            k.iter_mut().for_each(|x| *x *= factors[token / 64]);
        }
        // Scores of hundreds are rounded to 1e-5, which is a relative error of their exponentials.
        check_first(2, 1e-5, &case);
    }
}

#[test]
fn first_keys_may_weigh_next_to_nothing() {
    // Scores from -300 down, those of later keys a little higher, or as they come.
    for later in [-1.0, 1.0] {
        let mut case = Case::new(shape(1, 2, 50, 300, 16, false), None);
        let far = |k: f32, token: usize| if token < 200 { -16.0 - k.abs() } else { k * later };
        case.q = rounded(&case.q.iter().map(|q| q.abs() + 4.0).collect::<Vec<_>>());
        case.k = rounded(&case.k.iter().enumerate().map(|(i, &k)| far(k, i / 32)).collect::<Vec<_>>());
        check_first(2, 1e-5, &case);
    }
}

#[test]
fn scores_of_bytes_follow_the_definition() {
    let one_mask = Some([1, 1, 60, 90]);
    let cases = [
        (shape(1, 2, 7, 3, 13, false), None),
        (shape(2, 2, 50, 150, 40, false), None),
        (shape(1, 3, 400, 700, 16, false), None),
        (shape(1, 1, 20, 30, 160, false), None),
        (shape(1, 2, 77, 77, 16, true), None),
        (shape(2, 1, 60, 90, 24, false), one_mask),
    ];
    for (shape, mask) in cases {
        let mut case = Case::new(shape, mask);
        // The same for all keys: it changes no weight, and takes nothing from what tells them apart.
        let offsets = rounded(&noise(shape.heads * shape.head_dim, 7));
        let shifted = |k: &[f32]| -> Vec<f32> {
            k.chunks(offsets.len()).flat_map(|k| k.iter().zip(&offsets).map(|(k, o)| k + 30.0 * o)).collect()
        };
        let plain = case.exact();
        for isa in Isa::supported() {
            let got = case.kernels_in(isa, 1, true, true);
            for ((name, got), want) in NAMES.iter().zip(&got).zip(&plain).take(2) {
                let error = relative_error(got, want);
                assert!(error <= 1.5e-2, "{name} {isa:?} {shape:?}: {error}");
            }
            assert!(got == case.kernels_in(isa, 3, true, true), "{isa:?} {shape:?}: threads");
        }
        if mask.is_none() {
            case.k = rounded(&shifted(&case.k));
            let exact = case.exact();
            for isa in Isa::supported() {
                let got = case.kernels_in(isa, 1, true, true);
                for ((name, got), want) in NAMES.iter().zip(&got).zip(&exact).take(2) {
                    let error = relative_error(got, want);
                    assert!(error <= 1.5e-2, "{name} of shifted keys, {isa:?} {shape:?}: {error}");
                }
            }
        }
    }
}

#[test]
fn causal_attention_sees_the_past_only() {
    for (q, k, d) in [(1, 1, 8), (77, 77, 16), (200, 200, 8), (5, 90, 8), (90, 5, 8)] {
        check(&Case::new(shape(1, 2, q, k, d, true), None));
    }
}

#[test]
fn masks_broadcast() {
    for dims in [[2, 3, 21, 70], [1, 3, 1, 70], [2, 1, 1, 70], [1, 1, 21, 70]] {
        check(&Case::new(shape(2, 3, 21, 70, 8, false), Some(dims)));
    }
}

#[test]
fn a_query_without_keys_gives_zeros() {
    let mut case = Case::new(shape(1, 1, 5, 70, 8, false), Some([1, 1, 5, 70]));
    let (mask, _) = case.mask.as_mut().unwrap();
    mask[140..210].fill(f32::NEG_INFINITY);
    check(&case);
    for isa in Isa::supported() {
        let [out, lse, dq, ..] = case.kernels(isa, 1, false);
        assert!(out[16..24].iter().chain(&dq[16..24]).all(|&x| x == 0.0));
        assert_eq!(lse[2], f32::NEG_INFINITY);
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let case = Case::new(shape(2, 3, 210, 90, 24, false), None);
    for isa in Isa::supported() {
        for short in [false, true] {
            let one = case.kernels(isa, 1, short);
            for threads in [2, 3] {
                assert!(one == case.kernels(isa, threads, short), "{isa:?} {short}");
            }
        }
    }
}

#[test]
fn a_joint_product_is_read_in_place() {
    let s = shape(2, 2, 19, 19, 8, false);
    let joint = noise(2 * 19 * 48, 5);
    let part = |i: usize| -> Vec<f32> { joint.chunks(48).flat_map(|r| r[i * 16..][..16].to_vec()).collect() };
    let pool = ThreadPool::new(1);
    for isa in Isa::supported() {
        let run = |[q, k, v]: [Rows<'_>; 3]| {
            let mut out = vec![0.0; s.q_len()];
            forward(&pool, isa, &s, q, k, v, None, false, DataMut::F32(&mut out), Order::Rows, None);
            out
        };
        let joint =
            [0, 1, 2].map(|i| Rows { data: Data::F32(&joint[i * 16..]), stride: 48, order: Order::Rows });
        let parts = [part(0), part(1), part(2)];
        let parts = [0, 1, 2].map(|i| Rows::packed(Data::F32(&parts[i]), &s));
        assert_eq!(run(joint), run(parts));
    }
}

#[test]
fn what_lies_in_tiles_is_the_same() {
    // Heads that are blocks, of sequences that are and that begin in the middle of one; and heads that begin there.
    for s in [shape(2, 2, 48, 80, 64, false), shape(1, 1, 64, 96, 96, true), shape(1, 4, 32, 7, 40, true)] {
        let columns = s.heads * s.head_dim;
        let [q, k, v] =
            [(s.q_len(), 1), (s.k_len(), 2), (s.k_len(), 3)].map(|(n, seed)| narrow(&noise(n, seed)));
        let pool = ThreadPool::new(2);
        for isa in Isa::supported() {
            let run = |inputs: [&Vec<bf16>; 3], order, output| {
                let [q, k, v] = inputs.map(|x| Rows { order, ..Rows::packed(Data::Bf16(x), &s) });
                let mut out = narrow(&vec![f32::NAN; s.q_len()]);
                forward(&pool, isa, &s, q, k, v, None, false, DataMut::Bf16(&mut out), output, None);
                out
            };
            let want = run([&q, &k, &v], Order::Rows, Order::Rows);
            assert!(run([&q, &k, &v], Order::Rows, Order::Tiles) == in_tiles(&want, columns), "{isa:?}");
            if reads_tiles(isa, compute_dtype(isa, [DType::Bf16]), s.head_dim) {
                let [q, k, v] = [&q, &k, &v].map(|x| in_tiles(x, columns));
                assert!(run([&q, &k, &v], Order::Tiles, Order::Rows) == want, "{s:?}");
            }
        }
    }
}

#[test]
fn not_a_number_is_passed_on() {
    let s = shape(1, 1, 4, 40, 8, false);
    let pool = ThreadPool::new(1);
    for isa in Isa::supported() {
        let (q, mut k, v) = (noise(s.q_len(), 1), noise(s.k_len(), 2), noise(s.k_len(), 3));
        k[30] = f32::NAN;
        let mut out = vec![0.0; s.q_len()];
        let [q, k, v] = [&q, &k, &v].map(|x| Rows::packed(Data::F32(x), &s));
        forward(&pool, isa, &s, q, k, v, None, false, DataMut::F32(&mut out), Order::Rows, None);
        assert!(out.iter().all(|x| x.is_nan()), "{isa:?}");
        let [q, k, v] = [q, k, v].map(|x| match x.data {
            Data::F32(x) => narrow(x),
            _ => unreachable!(),
        });
        let [q, k, v] = [&q, &k, &v].map(|x| Rows::packed(Data::Bf16(x), &s));
        forward(&pool, isa, &s, q, k, v, None, true, DataMut::F32(&mut out), Order::Rows, None);
        assert!(out.iter().all(|x| x.is_nan()), "bytes, {isa:?}");
    }
}
