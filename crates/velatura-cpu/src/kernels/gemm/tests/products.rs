//! Linear layers, their gradients, and batched products.

use proptest::prelude::*;
use velatura_graph::{Activation, DType};

use super::{Exact, Finish, Noise, Store, activate, check, everywhere, on_any_threads, scratch};
use crate::kernels::Order;
use crate::kernels::gemm::*;
use crate::kernels::order::tests::in_tiles;
use crate::{Data, DataMut, Isa, ThreadPool, Values};

/// `[m, k] x [k, n]` with elements by function.
pub(super) fn product(
    [m, n, k]: [usize; 3],
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
) -> Vec<Exact> {
    let mut out = vec![Exact::default(); m * n];
    for (i, out) in out.iter_mut().enumerate() {
        for k in 0..k {
            out.add(a(i / n, k), b(k, i % n));
        }
    }
    out
}

const DIRECT: LinearAlgorithm = LinearAlgorithm::Direct(Orders { input: Order::Rows, output: Order::Rows });

fn linear_case(isa: Isa, dtype: DType, [m, n, k]: [usize; 3], images: usize, bits: usize) {
    let what = format!("linear {m} {n} {k} {images} {bits} {dtype:?} {isa:?}");
    let mut noise = Noise((m * 7919 + n * 31 + k) as u64);
    let (x, w) = (noise.stored(dtype, m * k), noise.stored(dtype, n * k));
    let finish = Finish::new(bits, images, m, n, &mut noise);
    let x_store = Store::new(dtype, &x);
    let out_dtype = if bits & 128 != 0 { DType::F32 } else { dtype };
    let got = on_any_threads(&what, |pool| {
        let weight = PackedMatrix::linear(pool, isa, dtype, &w, [n, k]).unwrap();
        assert_eq!((weight.inputs(), weight.outputs()), (k, n));
        let mut out = Store::nan(out_dtype, m * n);
        let mut memory =
            scratch(linear_scratch_bytes(isa, dtype, [m, weight.inputs(), weight.outputs()], DIRECT));
        linear(
            pool,
            isa,
            DIRECT,
            x_store.data(),
            m,
            &weight,
            &finish.epilogue(),
            out.data_mut(),
            &mut memory,
        )
        .unwrap();
        out
    });
    let mut want = product([m, n, k], |i, k_| x[i * k + k_], |k_, j| w[j * k + k_]);
    finish.apply(images, n, &mut want);
    check(&what, &got, &want);
}

#[test]
fn linear_layers_of_odd_shapes() {
    everywhere(|isa, dtype| {
        for shape in
            [[1, 1, 1], [1, 130, 7], [6, 64, 8], [7, 65, 33], [13, 16, 5], [100, 3, 64], [97, 81, 31]]
        {
            linear_case(isa, dtype, shape, 1, 0x70);
            linear_case(isa, dtype, shape, 1, 0xf5);
        }
    });
}

/// Root mean square, relative.
fn error(got: &[f32], want: &[Exact]) -> f64 {
    let squares = |f: &dyn Fn(usize) -> f64| (0..want.len()).map(|i| f(i).powi(2)).sum::<f64>();
    (squares(&|i| f64::from(got[i]) - want[i].sum) / squares(&|i| want[i].sum)).sqrt()
}

/// Products of thirds are nearer to exact ones than those of single precision; without the low thirds they would not be.
#[test]
fn single_precision_in_thirds_is_no_less_exact() {
    let (pool, [m, n, k]) = (ThreadPool::new(2), [33, 48, 1291]);
    let mut noise = Noise(41);
    let (x, w) = (noise.stored(DType::F32, m * k), noise.stored(DType::F32, n * k));
    let want = product([m, n, k], |i, k_| x[i * k + k_], |k_, j| w[j * k + k_]);
    let run = |isa: Isa| {
        let weight = PackedMatrix::linear(&pool, isa, DType::F32, &w, [n, k]).unwrap();
        let mut out = vec![f32::NAN; m * n];
        let (x, to) = (Data::F32(&x), DataMut::F32(&mut out));
        linear(&pool, isa, DIRECT, x, m, &weight, &Epilogue::default(), to, &mut []).unwrap();
        error(&out, &want)
    };
    for isa in Isa::supported().filter(|&isa| in_thirds(isa, DType::F32)) {
        let [thirds, single] = [isa, Isa::Avx512].map(run);
        println!("{thirds:.2e} in thirds, {single:.2e} in single precision");
        assert!(thirds <= single, "{thirds:.2e} in thirds, {single:.2e} in single precision");
    }
}

#[test]
fn layers_in_tiles_are_those_of_rows() {
    let pool = ThreadPool::new(2);
    for isa in Isa::supported() {
        for ([m, n, k], gate) in [
            ([32, 32, 32], None),
            ([160, 96, 224], None),
            ([64, 192, 320], Some(Activation::Gelu)),
            ([32, 64, 64], Some(Activation::Silu)),
        ] {
            let mut noise = Noise(17);
            let (x, w) = (Store::new(DType::Bf16, &noise.numbers(m * k)), noise.numbers(n * k));
            let (bias, width) = (noise.numbers(n), if gate.is_some() { n / 2 } else { n });
            let residual = Store::new(DType::Bf16, &noise.numbers(m * width));
            let pack = if gate.is_some() { PackedMatrix::linear_gated } else { PackedMatrix::linear };
            let weight = pack(&pool, isa, DType::Bf16, &w, [n, k]).unwrap();
            for residual in [None, Some(residual.data())] {
                let epilogue = Epilogue { bias: Some(&bias), gate, residual, ..Epilogue::default() };
                let run = |x: Data<'_>, orders: Orders| {
                    let algorithm = LinearAlgorithm::Direct(orders);
                    let mut out = vec![half::bf16::NAN; m * width];
                    let mut memory = scratch(linear_scratch_bytes(isa, DType::Bf16, [m, k, n], algorithm));
                    let to = DataMut::Bf16(&mut out);
                    linear(&pool, isa, algorithm, x, m, &weight, &epilogue, to, &mut memory).map(|()| out)
                };
                let Data::Bf16(rows) = x.data() else { unreachable!() };
                let tiles = in_tiles(rows, k);
                let want = run(x.data(), Orders::default()).unwrap();
                for (input, output) in
                    [(Order::Tiles, Order::Rows), (Order::Rows, Order::Tiles), (Order::Tiles, Order::Tiles)]
                {
                    let x = if input == Order::Tiles { Data::Bf16(&tiles) } else { x.data() };
                    let got = run(x, Orders { input, output });
                    if !on_tiles(isa, compute_dtype(isa, DType::Bf16)) {
                        assert!(matches!(got, Err(GemmError::Order { .. })), "{isa:?}");
                        continue;
                    }
                    let want = if output == Order::Tiles { in_tiles(&want, width) } else { want.clone() };
                    assert!(got.unwrap() == want, "{m} {n} {k} {gate:?} {input:?} {output:?}");
                }
            }
        }
    }
}

#[test]
fn every_epilogue() {
    everywhere(|isa, dtype| {
        for bits in 0..128 {
            linear_case(isa, dtype, [14, 37, 12], 2, bits);
        }
        linear_case(isa, dtype, [14, 70, 12], 7, 128 + 0x1f);
    });
}

#[test]
fn a_deep_product_is_one_chain_whatever_the_blocks() {
    // Cut into many blocks where the panel is wide, and into other ones where it is narrow.
    let pool = ThreadPool::new(2);
    everywhere(|isa, dtype| {
        let (m, k) = (8, 501);
        let mut noise = Noise(5);
        let (x, w) = (Store::new(dtype, &noise.numbers(m * k)), noise.numbers(64 * k));
        let run = |n: usize| {
            let weight = PackedMatrix::linear(&pool, isa, dtype, &w[..n * k], [n, k]).unwrap();
            let mut out = vec![0.0; m * n];
            let mut memory =
                scratch(linear_scratch_bytes(isa, dtype, [m, weight.inputs(), weight.outputs()], DIRECT));
            let epilogue = Epilogue::default();
            linear(&pool, isa, DIRECT, x.data(), m, &weight, &epilogue, DataMut::F32(&mut out), &mut memory)
                .unwrap();
            out
        };
        let (wide, narrow) = (run(64), run(5));
        for i in 0..m {
            assert_eq!(wide[i * 64..][..5], narrow[i * 5..][..5]);
        }
    });
}

#[test]
fn gradients_of_linear_layers() {
    everywhere(|isa, dtype| {
        for [m, n, k] in [[1, 1, 1], [7, 65, 33], [50, 20, 130], [301, 9, 6], [301, 70, 150], [301, 150, 70]]
        {
            let what = format!("gradients {m} {n} {k} {dtype:?} {isa:?}");
            let mut noise = Noise(9);
            let [x, w, dy] = [m * k, n * k, m * n].map(|count| noise.stored(dtype, count));
            let (xs, dys) = (Store::new(dtype, &x), Store::new(dtype, &dy));
            let got = on_any_threads(&what, |pool| {
                let weight = PackedMatrix::linear_input_gradient(pool, isa, dtype, &w, [n, k]).unwrap();
                let mut out = Store::nan(DType::F32, m * k);
                let mut memory =
                    scratch(linear_scratch_bytes(isa, dtype, [m, weight.inputs(), weight.outputs()], DIRECT));
                let none = Epilogue::default();
                linear(pool, isa, DIRECT, dys.data(), m, &weight, &none, out.data_mut(), &mut memory)
                    .unwrap();
                out
            });
            check(&what, &got, &product([m, k, n], |i, j| dy[i * n + j], |j, c| w[j * k + c]));
            let got = on_any_threads(&what, |pool| {
                let mut out = vec![f32::NAN; n * k];
                let mut memory = scratch(linear_weight_gradient_scratch_bytes(isa, dtype, m, k, n));
                linear_weight_gradient(pool, isa, xs.data(), dys.data(), [m, k, n], &mut out, &mut memory)
                    .unwrap();
                Store::F32(out)
            });
            check(&what, &got, &product([n, k, m], |o, i| dy[i * n + o], |i, c| x[i * k + c]));
            let got = on_any_threads(&what, |pool| {
                let mut out = vec![f32::NAN; n];
                let mut memory = scratch(column_sums_scratch_bytes(m, n));
                column_sums(pool, isa, dys.data(), m, &mut out, &mut memory).unwrap();
                Store::F32(out)
            });
            check(&what, &got, &product([1, n, m], |_, _| 1.0, |i, o| dy[i * n + o]));
        }
    });
}

#[test]
fn repacking_replaces_the_weight() {
    let pool = ThreadPool::new(2);
    let (n, k) = (70, 9);
    let mut noise = Noise(1);
    let [first, second] = [(); 2].map(|()| noise.stored(DType::F32, n * k));
    for isa in Isa::supported() {
        let mut weight = PackedMatrix::linear(&pool, isa, DType::F32, &first, [n, k]).unwrap();
        weight.repack(&pool, &second).unwrap();
        let x: Vec<f32> = (0..k).map(|i| if i == 3 { 1.0 } else { 0.0 }).collect();
        let mut out = vec![0.0; n];
        let none = Epilogue::default();
        linear(&pool, isa, DIRECT, Data::F32(&x), 1, &weight, &none, DataMut::F32(&mut out), &mut [])
            .unwrap();
        assert!((0..n).all(|o| out[o] == second[o * k + 3]));
    }
}

#[test]
fn weights_of_any_storage_pack_alike() {
    use std::borrow::Cow;

    use half::{bf16, f16};

    use crate::Values;
    use crate::kernels::gemm::Purpose;
    let pool = ThreadPool::new(2);
    for ([out, inputs, kh, kw], groups, stride) in [
        ([70, 37, 1, 1], 1, [1, 1]),
        ([37, 70, 3, 3], 1, [2, 1]),
        ([6, 9, 3, 2], 3, [1, 1]),
        ([130, 150, 1, 1], 1, [1, 1]),
    ] {
        // Numbers of every size that either type of 16 bits has, the smallest and the largest with them.
        let numbers = Noise(5).numbers(out * inputs * kh * kw);
        let short: Vec<f16> =
            (0..).zip(&numbers).map(|(i, &x)| f16::from_f32(x * 2f32.powi(i % 43 - 26))).collect();
        let brain: Vec<bf16> =
            (0..).zip(&numbers).map(|(i, &x)| bf16::from_f32(x * 2f32.powi(i % 90 - 45))).collect();
        let wide: [Vec<f32>; 2] =
            [short.iter().map(|x| x.to_f32()).collect(), brain.iter().map(|x| x.to_f32()).collect()];
        for purpose in
            [Purpose::Linear, Purpose::LinearInputGradient, Purpose::Conv, Purpose::ConvInputGradient]
        {
            if (kh * kw > 1 || groups > 1)
                && matches!(purpose, Purpose::Linear | Purpose::LinearInputGradient)
            {
                continue;
            }
            everywhere(|isa, dtype| {
                let pack = |values: &Values<'_>| {
                    let shape = [out, inputs, kh, kw];
                    PackedMatrix::new(&pool, isa, dtype, values, shape, groups, stride, purpose).unwrap()
                };
                let cells = |packed: &PackedMatrix| {
                    // SAFETY: a weight has as many bytes, written when it was packed.
                    unsafe { std::slice::from_raw_parts(packed.panels(0), packed.bytes()) }.to_vec()
                };
                let given = [Values::F16(Cow::Borrowed(&short)), Values::Bf16(Cow::Borrowed(&brain))];
                for (given, wide) in given.iter().zip(&wide) {
                    let (from_short, from_wide) = (pack(given), pack(&Values::of(wide)));
                    assert!(cells(&from_short) == cells(&from_wide), "{purpose:?} {isa:?} {dtype:?}");
                }
            });
        }
    }
}

fn matmul_case(isa: Isa, dtype: DType, out_dtype: DType, g: MatmulGeometry) {
    let what = format!("{g:?} {dtype:?} {isa:?}");
    let mut noise = Noise(3);
    let b_batch = if g.broadcast_b { 1 } else { g.batch };
    let (a, b) = (noise.numbers(g.batch * g.m * g.k), noise.numbers(b_batch * g.n * g.k));
    let (a_store, b_store) = (Store::new(dtype, &a), Store::new(dtype, &b));
    let got = on_any_threads(&what, |pool| {
        let mut out = Store::nan(out_dtype, g.batch * g.m * g.n);
        let mut memory = scratch(matmul_scratch_bytes(isa, dtype, &g));
        matmul(pool, isa, &g, a_store.data(), b_store.data(), out.data_mut(), &mut memory).unwrap();
        out
    });
    let mut want = Vec::new();
    for batch in 0..g.batch {
        let a = &a[batch * g.m * g.k..];
        let b = &b[if g.broadcast_b { 0 } else { batch * g.n * g.k }..];
        want.extend(product(
            [g.m, g.n, g.k],
            |i, k| if g.transpose_a { a[k * g.m + i] } else { a[i * g.k + k] },
            |k, j| if g.transpose_b { b[j * g.k + k] } else { b[k * g.n + j] },
        ));
    }
    check(&what, &got, &want);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn batched_products(
        batch in 1usize..4, m in 1usize..40, n in 1usize..100, k in 0usize..40,
        transpose_a: bool, transpose_b: bool, broadcast_b: bool, single: bool,
    ) {
        let g = MatmulGeometry { batch, m, n, k, transpose_a, transpose_b, broadcast_b };
        everywhere(|isa, dtype| matmul_case(isa, dtype, if single { DType::F32 } else { dtype }, g));
    }

    #[test]
    fn linear_layers(m in 1usize..70, n in 1usize..150, k in 1usize..90, bits in 0usize..256) {
        everywhere(|isa, dtype| linear_case(isa, dtype, [m, n, k], 1, bits));
    }
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let pool = ThreadPool::new(1);
    let isa = Isa::Portable;
    let weight = PackedMatrix::linear(&pool, isa, DType::F32, &[0.0; 12], [3, 4]).unwrap();
    let none = Epilogue::default();
    let mut out = [0.0; 6];
    let mut call = |x: &[f32], epilogue: &Epilogue<'_>| {
        linear(&pool, isa, DIRECT, Data::F32(x), 2, &weight, epilogue, DataMut::F32(&mut out), &mut [])
    };
    assert!(call(&[0.0; 8], &none).is_ok());
    let error = call(&[0.0; 7], &none).unwrap_err();
    assert_eq!(error.to_string(), "linear: the input has 7 elements where the shapes ask for 8");
    assert!(call(&[0.0; 8], &Epilogue { bias: Some(&[0.0; 2]), ..none }).is_err());
    assert!(call(&[0.0; 8], &Epilogue { residual: Some(Data::I32(&[0; 6])), ..none }).is_err());
    assert!(PackedMatrix::linear(&pool, isa, DType::F32, &[0.0; 11], [3, 4]).is_err());
    let narrow = [half::bf16::ZERO; 8];
    let result =
        linear(&pool, isa, DIRECT, Data::Bf16(&narrow), 2, &weight, &none, DataMut::F32(&mut out), &mut []);
    assert!(matches!(result, Err(GemmError::Scratch { .. })));
}

/// Rounds rows to 8 bits with a scale for each, as the documentation of the kernel says.
fn rounded_rows(x: &[f32], depth: usize) -> Vec<f32> {
    let row = |row: &[f32]| {
        let greatest = row.iter().fold(0.0f32, |a, x| a.max(x.abs()));
        let scale = greatest / 127.0;
        let inverse = if greatest > 0.0 { 127.0 / greatest } else { 0.0 };
        row.iter().map(|x| (x * inverse).round_ties_even() * scale).collect::<Vec<f32>>()
    };
    x.chunks(depth).flat_map(row).collect()
}

#[test]
fn layers_in_8_bits() {
    everywhere(|isa, dtype| {
        for (m, inputs, outputs, bits) in
            [(7, 33, 70, 0x75), (13, 320, 64, 0x12), (1, 4, 5, 0x70), (20, 1290, 48, 0x77)]
        {
            let what = format!("{m}x{inputs}x{outputs} in 8 bits, {dtype:?} {isa:?}");
            let mut noise = Noise(5);
            let (mut x, w) = (noise.numbers(m * inputs), noise.numbers(inputs * outputs));
            // A row of zeros has no scale.
            x[..inputs].fill(0.0);
            let finish = Finish::new(bits, 1, m, outputs, &mut noise);
            let store = Store::new(dtype, &x);
            let got = on_any_threads(&what, |pool| {
                let weight = PackedMatrix::linear_int8(pool, isa, &w, [outputs, inputs]).unwrap();
                let mut out = Store::nan(dtype, m * outputs);
                let mut memory = scratch(linear_int8_scratch_bytes(m, inputs));
                let epilogue = finish.epilogue();
                linear(pool, isa, DIRECT, store.data(), m, &weight, &epilogue, out.data_mut(), &mut memory)
                    .unwrap();
                out
            });
            let (x, w) = (rounded_rows(&x, inputs), rounded_rows(&w, inputs));
            let mut want = vec![Exact::default(); m * outputs];
            for (r, x) in x.chunks(inputs).enumerate() {
                for (c, w) in w.chunks(inputs).enumerate() {
                    x.iter().zip(w).for_each(|(&x, &w)| want[r * outputs + c].add(x, w));
                }
            }
            finish.apply(1, outputs, &mut want);
            check(&what, &got, &want);
        }
    });
}

/// The first half of the columns times the GELU of the second.
pub(super) fn gated(product: &[Exact], columns: usize) -> Vec<Exact> {
    let rows = product.chunks(columns).flat_map(|row| {
        let (values, gates) = row.split_at(columns / 2);
        values.iter().zip(gates).map(|(value, gate)| {
            let gelu = activate(Activation::Gelu, gate.sum);
            // A change of the gate changes its GELU by no more than 1.13 times as much.
            let size = value.size * gelu.abs() + 1.13 * value.sum.abs() * gate.size;
            Exact { sum: value.sum * gelu, size, activation: 0.0 }
        })
    });
    rows.collect()
}

#[test]
fn gated_layers() {
    everywhere(|isa, dtype| {
        for (m, inputs, outputs, int8, plus) in [
            (7, 33, 70, false, true),
            (1, 8, 2, false, true),
            (13, 320, 128, false, true),
            (20, 1290, 206, false, true),
            (13, 320, 128, true, true),
            (9, 65, 74, true, true),
            // Without a residual, more rows than are taken at a time, in one chunk of the depth and in several.
            (75, 41, 192, false, false),
            (75, 330, 200, false, false),
            (75, 330, 192, true, false),
        ] {
            let what = format!("gated {m}x{inputs}x{outputs}, {dtype:?} {isa:?} {int8} {plus}");
            let mut noise = Noise(7);
            let (x, w) = (noise.stored(dtype, m * inputs), noise.stored(dtype, inputs * outputs));
            let (bias, residual) = (noise.numbers(outputs), noise.numbers(m * outputs / 2));
            let (x_store, residual) = (Store::new(dtype, &x), Store::new(dtype, &residual));
            let epilogue = Epilogue {
                bias: Some(&bias),
                residual: plus.then(|| residual.data()),
                gate: Some(Activation::Gelu),
                ..Epilogue::default()
            };
            let got = on_any_threads(&what, |pool| {
                let (weight, bytes) = if int8 {
                    let purpose = Purpose::LinearInt8Gated;
                    let (values, shape) = (Values::of(&w), [outputs, inputs, 1, 1]);
                    let weight = PackedMatrix::new(pool, isa, dtype, &values, shape, 1, [1; 2], purpose);
                    (weight.unwrap(), linear_int8_scratch_bytes(m, inputs))
                } else {
                    let weight = PackedMatrix::linear_gated(pool, isa, dtype, &w, [outputs, inputs]).unwrap();
                    let bytes =
                        linear_scratch_bytes(isa, dtype, [m, weight.inputs(), weight.outputs()], DIRECT);
                    (weight, bytes)
                };
                let (mut out, mut memory) = (Store::nan(dtype, m * outputs / 2), scratch(bytes));
                linear(pool, isa, DIRECT, x_store.data(), m, &weight, &epilogue, out.data_mut(), &mut memory)
                    .unwrap();
                out
            });
            let (x, w) = match int8 {
                true => (rounded_rows(&x_store.values(), inputs), rounded_rows(&w, inputs)),
                false => (x_store.values(), w),
            };
            let mut want = product([m, outputs, inputs], |i, k| x[i * inputs + k], |k, j| w[j * inputs + k]);
            for row in want.chunks_mut(outputs) {
                row.iter_mut().zip(&bias).for_each(|(want, &bias)| want.add(bias, 1.0));
            }
            let mut want = gated(&want, outputs);
            if plus {
                want.iter_mut().zip(residual.values()).for_each(|(want, residual)| want.add(residual, 1.0));
            } else {
                want.iter_mut().for_each(|want| want.activation = want.sum.abs());
            }
            check(&what, &got, &want);
        }
    });
}

#[test]
fn gates_are_refused_where_they_do_not_apply() {
    let (pool, isa) = (ThreadPool::new(1), Isa::Portable);
    assert!(PackedMatrix::linear_gated(&pool, isa, DType::F32, &[0.0; 9], [3, 3]).is_err());
    let weight = PackedMatrix::linear(&pool, isa, DType::F32, &[0.0; 8], [2, 4]).unwrap();
    let epilogue = Epilogue { gate: Some(Activation::Gelu), ..Epilogue::default() };
    let mut out = [0.0; 1];
    let result = linear(
        &pool,
        isa,
        DIRECT,
        Data::F32(&[0.0; 4]),
        1,
        &weight,
        &epilogue,
        DataMut::F32(&mut out),
        &mut [],
    );
    assert!(matches!(result, Err(GemmError::Packing { .. })));
}
