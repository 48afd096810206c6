//! Strassen's algorithm against the product as it is written.

use velatura_graph::{Activation, DType};

use super::products::{gated, product};
use super::{Exact, Finish, Noise, Store, check, everywhere, on_any_threads, scratch};
use crate::kernels::gemm::*;
use crate::{DataMut, Isa, ThreadPool};

const STRASSEN: [LinearAlgorithm; 2] =
    [LinearAlgorithm::Strassen(Levels::One), LinearAlgorithm::Strassen(Levels::Two)];

/// Numbers in -1..1 whose sums brain floating point holds exactly.
fn coarse(noise: &mut Noise, count: usize) -> Vec<f32> {
    (0..count).map(|_| (noise.next() * 32.0).round() / 32.0).collect()
}

/// Rows, outputs and inputs: rows that fill tiles and tasks or do not; panels in pairs, with one more, with a narrow one;
/// depths of several blocks, and of odd halves. Then fours of rows and of panels.
const SHAPES: [[usize; 3]; 13] = [
    [2, 128, 4],
    [14, 130, 12],
    [50, 192, 36],
    [128, 200, 64],
    [26, 320, 500],
    [4, 256, 8],
    [28, 290, 24],
    [52, 520, 72],
    [256, 330, 1000],
    // What cannot be halved is computed directly: rows, depth, columns. A depth of 15 can, in pairs.
    [7, 128, 12],
    [8, 128, 13],
    [8, 128, 15],
    [8, 5, 12],
];

fn cases() -> impl Iterator<Item = ([usize; 3], LinearAlgorithm)> {
    SHAPES.into_iter().flat_map(|shape| STRASSEN.map(|algorithm| (shape, algorithm)))
}

#[test]
fn linear_layers_by_seven_products() {
    everywhere(|isa, dtype| {
        for ([m, n, k], algorithm) in cases() {
            for bits in [0, 0x75, 0xf2] {
                let what = format!("{algorithm:?} {m} {n} {k} {bits} {dtype:?} {isa:?}");
                let mut noise = Noise((m * 7919 + n * 31 + k) as u64);
                let (x, w) = (coarse(&mut noise, m * k), coarse(&mut noise, n * k));
                let images = if m % 2 == 0 { 2 } else { 1 };
                let finish = Finish::new(bits, images, m, n, &mut noise);
                let store = Store::new(dtype, &x);
                let got = on_any_threads(&what, |pool| {
                    let weight = PackedMatrix::linear(pool, isa, dtype, &w, [n, k]).unwrap();
                    let mut out = Store::nan(if bits & 128 != 0 { DType::F32 } else { dtype }, m * n);
                    let mut memory = scratch(linear_scratch_bytes(isa, dtype, [m, k, n], algorithm));
                    let (x, out_data) = (store.data(), out.data_mut());
                    linear(pool, isa, algorithm, x, m, &weight, &finish.epilogue(), out_data, &mut memory)
                        .unwrap();
                    out
                });
                let mut want = product([m, n, k], |i, k_| x[i * k + k_], |k_, j| w[j * k + k_]);
                wider(&mut want, k);
                finish.apply(images, n, &mut want);
                check(&what, &got, &want);
            }
        }
    });
}

/// Sums of neighbours' products pass through an element and are taken off again: they round as theirs do.
fn wider(want: &mut [Exact], depth: usize) {
    want.iter_mut().for_each(|want| want.size = want.size.max(depth as f64));
}

#[test]
fn gated_layers_by_seven_products() {
    everywhere(|isa, dtype| {
        for ([m, n, k], algorithm) in cases().filter(|([_, n, _], _)| n % 2 == 0) {
            let what = format!("gated {algorithm:?} {m} {n} {k} {dtype:?} {isa:?}");
            let mut noise = Noise(7);
            let (x, w) = (coarse(&mut noise, m * k), coarse(&mut noise, n * k));
            let store = Store::new(dtype, &x);
            let epilogue = Epilogue { gate: Some(Activation::Gelu), ..Epilogue::default() };
            let got = on_any_threads(&what, |pool| {
                let weight = PackedMatrix::linear_gated(pool, isa, dtype, &w, [n, k]).unwrap();
                let mut out = Store::nan(dtype, m * n / 2);
                let mut memory = scratch(linear_scratch_bytes(isa, dtype, [m, k, n], algorithm));
                let (x, out_data) = (store.data(), out.data_mut());
                linear(pool, isa, algorithm, x, m, &weight, &epilogue, out_data, &mut memory).unwrap();
                out
            });
            let mut want = product([m, n, k], |i, k_| x[i * k + k_], |k_, j| w[j * k + k_]);
            wider(&mut want, k);
            check(&what, &got, &gated(&want, n));
        }
    });
}

#[test]
fn a_group_of_rows_does_not_depend_on_the_others() {
    let pool = ThreadPool::new(2);
    everywhere(|isa, dtype| {
        let [m, n, k] = [40, 320, 40];
        let mut noise = Noise(3);
        let (x, w) = (noise.numbers(m * k), noise.numbers(n * k));
        let weight = PackedMatrix::linear(&pool, isa, dtype, &w, [n, k]).unwrap();
        let run = |x: &[f32], algorithm| {
            let (x, m) = (Store::new(dtype, x), x.len() / k);
            let mut out = vec![0.0; m * n];
            let mut memory = scratch(linear_scratch_bytes(isa, dtype, [m, k, n], algorithm));
            let (none, to) = (Epilogue::default(), DataMut::F32(&mut out));
            linear(&pool, isa, algorithm, x.data(), m, &weight, &none, to, &mut memory).unwrap();
            out
        };
        for algorithm in STRASSEN {
            assert_eq!(run(&x, algorithm)[12 * n..24 * n], run(&x[12 * k..24 * k], algorithm));
        }
    });
}

/// Sums that are rounded to brain floating point: on independent operands the error of one level is √6 times their own rounding,
/// that of two a little more than twice that.
#[test]
fn the_error_in_brain_floating_point_is_as_computed() {
    let [m, n, k] = [64, 256, 256];
    let mut noise = Noise(11);
    let (x, w) = (noise.numbers(m * k), noise.numbers(n * k));
    let want = product([m, n, k], |i, k_| x[i * k + k_], |k_, j| w[j * k + k_]);
    let pool = ThreadPool::new(1);
    // On tiles all are direct.
    let isa = Isa::active().min(Isa::Avx512);
    if compute_dtype(isa, DType::Bf16) != DType::Bf16 {
        return;
    }
    for (algorithm, least, most) in [
        (LinearAlgorithm::Direct(Orders::default()), 0.0, 1e-6),
        (STRASSEN[0], 2e-3, 6e-3),
        (STRASSEN[1], 4e-3, 12e-3),
    ] {
        let x = Store::new(DType::Bf16, &x);
        let weight = PackedMatrix::linear(&pool, isa, DType::Bf16, &w, [n, k]).unwrap();
        let mut out = vec![0.0; m * n];
        let mut memory = scratch(linear_scratch_bytes(isa, DType::Bf16, [m, k, n], algorithm));
        let (none, to) = (Epilogue::default(), DataMut::F32(&mut out));
        linear(&pool, isa, algorithm, x.data(), m, &weight, &none, to, &mut memory).unwrap();
        let square = |x: f64| x * x;
        let error: f64 = out.iter().zip(&want).map(|(&x, want)| square(f64::from(x) - want.sum)).sum();
        let size: f64 = want.iter().map(|want| square(want.sum)).sum();
        let relative = (error / size).sqrt();
        assert!((least..most).contains(&relative), "{algorithm:?}: {relative}");
    }
}
