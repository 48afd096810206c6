//! Convolutions and their gradients.

use proptest::prelude::*;
use velatura_graph::DType;

use super::{Exact, Finish, Noise, Store, check, everywhere, on_any_threads, scratch};
use crate::Isa;
use crate::kernels::gemm::*;

/// Calls `f(x index, weight index, y index)` for every product that the convolution sums.
fn products(g: &ConvGeometry, mut f: impl FnMut(usize, usize, usize)) {
    let (inputs, outputs) = (g.in_channels / g.groups, g.out_channels / g.groups);
    let (oh, ow) = (g.out_height(), g.out_width());
    for n in 0..g.batch {
        for oy in 0..oh {
            for ox in 0..ow {
                for ky in 0..g.kernel[0] {
                    for kx in 0..g.kernel[1] {
                        let (y, x) = (oy * g.stride[0] + ky, ox * g.stride[1] + kx);
                        let (Some(y), Some(x)) = (y.checked_sub(g.padding[0]), x.checked_sub(g.padding[1]))
                        else {
                            continue;
                        };
                        if y >= g.height || x >= g.width {
                            continue;
                        }
                        for o in 0..g.out_channels {
                            for i in 0..inputs {
                                let at_x = ((n * g.height + y) * g.width + x) * g.in_channels
                                    + o / outputs * inputs
                                    + i;
                                let at_w = ((o * inputs + i) * g.kernel[0] + ky) * g.kernel[1] + kx;
                                let at_y = ((n * oh + oy) * ow + ox) * g.out_channels + o;
                                f(at_x, at_w, at_y);
                            }
                        }
                    }
                }
            }
        }
    }
}

fn case(isa: Isa, dtype: DType, g: ConvGeometry, bits: usize) {
    let what = format!("{g:?} {bits} {dtype:?} {isa:?}");
    let mut noise = Noise(17);
    let shape = g.weight_shape();
    let weights: usize = shape.iter().product();
    let x = noise.stored(dtype, g.in_pixels() * g.in_channels);
    let w = noise.stored(dtype, weights);
    let dy = noise.stored(dtype, g.out_pixels() * g.out_channels);
    let (x_store, dy_store) = (Store::new(dtype, &x), Store::new(dtype, &dy));
    let finish = Finish::new(bits, g.batch, g.out_pixels(), g.out_channels, &mut noise);
    let got = on_any_threads(&what, |pool| {
        let weight = PackedMatrix::conv2d(pool, isa, dtype, &w, shape, g.groups).unwrap();
        let mut out = Store::nan(dtype, dy.len());
        let mut memory = scratch(conv2d_scratch_bytes(isa, dtype, &g, ConvAlgorithm::Direct));
        let epilogue = finish.epilogue();
        conv2d(pool, isa, &g, x_store.data(), &weight, &epilogue, out.data_mut(), &mut memory).unwrap();
        out
    });
    let mut want = vec![Exact::default(); dy.len()];
    products(&g, |i, j, k| want[k].add(x[i], w[j]));
    finish.apply(g.batch, g.out_channels, &mut want);
    check(&what, &got, &want);

    let got = on_any_threads(&what, |pool| {
        let weight =
            PackedMatrix::conv2d_input_gradient(pool, isa, dtype, &w, shape, g.groups, g.stride).unwrap();
        let mut out = Store::nan(dtype, x.len());
        let mut memory = scratch(conv2d_input_gradient_scratch_bytes(isa, dtype, &g, ConvAlgorithm::Direct));
        let residual = Some(x_store.data());
        conv2d_input_gradient(pool, isa, &g, dy_store.data(), &weight, residual, out.data_mut(), &mut memory)
            .unwrap();
        out
    });
    // With the image itself as the residual.
    let mut want = vec![Exact::default(); x.len()];
    products(&g, |i, j, k| want[i].add(dy[k], w[j]));
    want.iter_mut().zip(&x).for_each(|(sum, &x)| sum.add(x, 1.0));
    check(&format!("input gradient of {what}"), &got, &want);

    let got = on_any_threads(&what, |pool| {
        let mut out = vec![f32::NAN; weights];
        weight_gradient(pool, isa, dtype, &g, ConvAlgorithm::Direct, [&x_store, &dy_store], &mut out);
        Store::F32(out)
    });
    let mut want = vec![Exact::default(); weights];
    products(&g, |i, j, k| want[j].add(x[i], dy[k]));
    check(&format!("weight gradient of {what}"), &got, &want);
}

fn weight_gradient(
    pool: &crate::ThreadPool,
    isa: Isa,
    dtype: DType,
    g: &ConvGeometry,
    algorithm: ConvAlgorithm,
    [x, dy]: [&Store; 2],
    out: &mut [f32],
) {
    let mut memory = scratch(conv2d_weight_gradient_scratch_bytes(isa, dtype, g, algorithm));
    conv2d_weight_gradient(pool, isa, g, algorithm, x.data(), dy.data(), out, &mut memory).unwrap();
}

fn square(
    batch: usize,
    size: [usize; 2],
    channels: [usize; 2],
    kernel: usize,
    stride: usize,
) -> ConvGeometry {
    ConvGeometry {
        batch,
        height: size[0],
        width: size[1],
        in_channels: channels[0],
        out_channels: channels[1],
        kernel: [kernel; 2],
        stride: [stride; 2],
        padding: [kernel / 2; 4],
        groups: 1,
    }
}

#[test]
fn usual_convolutions() {
    everywhere(|isa, dtype| {
        case(isa, dtype, square(2, [5, 7], [6, 70], 3, 1), 0x75);
        case(isa, dtype, square(1, [8, 8], [33, 5], 3, 1), 0x12);
        case(isa, dtype, square(2, [6, 5], [16, 24], 1, 1), 0x77);
        case(isa, dtype, square(1, [9, 8], [5, 4], 3, 2), 0x73);
        // The down-sampling of diffusers' autoencoders: padded at the bottom and right alone.
        let down = ConvGeometry { padding: [0, 0, 1, 1], ..square(1, [8, 8], [8, 8], 3, 2) };
        case(isa, dtype, down, 0x70);
        // Patches.
        case(isa, dtype, ConvGeometry { padding: [0; 4], ..square(2, [8, 8], [3, 10], 4, 4) }, 0x71);
        // More taps than numbers of a task that packs.
        case(isa, dtype, ConvGeometry { padding: [0; 4], ..square(1, [17, 34], [3, 5], 17, 17) }, 0x71);
    });
}

#[test]
fn groups_and_depthwise() {
    everywhere(|isa, dtype| {
        case(isa, dtype, ConvGeometry { groups: 2, ..square(2, [5, 4], [8, 6], 3, 1) }, 0x17);
        case(isa, dtype, ConvGeometry { groups: 5, ..square(1, [5, 6], [5, 5], 3, 1) }, 0x71);
        case(isa, dtype, ConvGeometry { groups: 3, ..square(1, [7, 6], [3, 6], 3, 2) }, 0x70);
    });
}

#[test]
fn large_convolutions_are_cut_into_blocks() {
    everywhere(|isa, dtype| {
        case(isa, dtype, square(1, [3, 3], [150, 64], 3, 1), 0x71);
        case(isa, dtype, square(5, [6, 7], [20, 70], 3, 1), 0x71);
    });
}

#[test]
fn windows_slide_along_lines() {
    everywhere(|isa, dtype| {
        // Lines of 32 and 64, as many channels as fill tiles of either operand, taps across of two, three and five.
        case(isa, dtype, square(2, [3, 32], [64, 40], 3, 1), 0x75);
        case(isa, dtype, square(1, [2, 64], [32, 96], 3, 1), 0x12);
        let even =
            ConvGeometry { kernel: [1, 2], padding: [0, 1, 0, 0], ..square(1, [3, 32], [32, 32], 1, 1) };
        case(isa, dtype, even, 0x71);
        let wide =
            ConvGeometry { kernel: [3, 5], padding: [1, 3, 0, 1], ..square(2, [3, 32], [96, 33], 1, 1) };
        case(isa, dtype, wide, 0x70);
        case(isa, dtype, ConvGeometry { groups: 2, ..square(1, [2, 32], [64, 64], 3, 1) }, 0x17);
        // Down alone.
        case(isa, dtype, ConvGeometry { stride: [2, 1], ..square(1, [4, 32], [32, 34], 3, 1) }, 0x73);
        // Tiles that lines do not fill.
        case(isa, dtype, square(1, [2, 48], [32, 32], 3, 1), 0x70);
    });
}

#[test]
fn an_image_does_not_depend_on_its_batch() {
    everywhere(|isa, dtype| {
        for g in [square(3, [3, 32], [64, 40], 3, 1), square(5, [6, 7], [20, 70], 3, 1)] {
            let (pool, mut noise) = (crate::ThreadPool::new(2), Noise(29));
            let x = noise.stored(dtype, g.in_pixels() * g.in_channels);
            let w = noise.stored(dtype, g.weight_shape().iter().product());
            let weight = PackedMatrix::conv2d(&pool, isa, dtype, &w, g.weight_shape(), 1).unwrap();
            let run = |g: &ConvGeometry| {
                let x = Store::new(dtype, &x[..g.in_pixels() * g.in_channels]);
                let mut out = Store::nan(dtype, g.out_pixels() * g.out_channels);
                let mut memory = scratch(conv2d_scratch_bytes(isa, dtype, g, ConvAlgorithm::Direct));
                let epilogue = Epilogue::default();
                conv2d(&pool, isa, g, x.data(), &weight, &epilogue, out.data_mut(), &mut memory).unwrap();
                out.values()
            };
            let one = run(&ConvGeometry { batch: 1, ..g });
            assert!(run(&g)[..one.len()] == one, "{g:?} {dtype:?} {isa:?}");
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_convolution(
        batch in 1usize..3, height in 3usize..9, width in 3usize..9,
        inputs in 1usize..9, outputs in 1usize..9, groups in 1usize..3,
        kernel in [1usize..5, 1usize..5], stride in [1usize..4, 1usize..4],
        padding in [0usize..4, 0usize..4, 0usize..4, 0usize..4], bits in 0usize..128,
    ) {
        let g = ConvGeometry {
            batch, height, width,
            in_channels: inputs * groups, out_channels: outputs * groups,
            kernel, stride, padding, groups,
        };
        if g.out_pixels() > 0 {
            everywhere(|isa, dtype| case(isa, dtype, g, bits));
        }
    }
}

/// Root mean square of the difference over that of the exact result.
fn relative_error(got: &Store, want: &[Exact]) -> f64 {
    let got = got.values();
    let difference: f64 = got.iter().zip(want).map(|(&x, want)| (f64::from(x) - want.sum).powi(2)).sum();
    (difference / want.iter().map(|want| want.sum.powi(2)).sum::<f64>()).sqrt()
}

/// By Winograd's algorithm. Sums of rounded sums have no bound for each element; what matters is how far the whole is off:
/// in bf16 the input is rounded once more, behind its transform, and the weights behind theirs.
fn winograd_case(isa: Isa, dtype: DType, tiling: Tiling, g: ConvGeometry, bits: usize) {
    let what = format!("Winograd {tiling:?} {g:?} {bits} {dtype:?} {isa:?}");
    let mut noise = Noise(23);
    let shape = g.weight_shape();
    let x = noise.numbers(g.in_pixels() * g.in_channels);
    let w = noise.numbers(shape.iter().product());
    let finish = Finish::new(bits, g.batch, g.out_pixels(), g.out_channels, &mut noise);
    let run = |pool: &crate::ThreadPool, g: &ConvGeometry, x: &[f32], finish: &Finish| {
        let weight = PackedMatrix::conv2d_winograd(pool, isa, dtype, &w, shape, tiling).unwrap();
        let (x, mut out) = (Store::new(dtype, x), Store::nan(dtype, g.out_pixels() * g.out_channels));
        let mut memory = scratch(conv2d_scratch_bytes(isa, dtype, g, ConvAlgorithm::Winograd(tiling)));
        conv2d(pool, isa, g, x.data(), &weight, &finish.epilogue(), out.data_mut(), &mut memory).unwrap();
        out
    };
    let got = on_any_threads(&what, |pool| run(pool, &g, &x, &finish));
    let mut want = vec![Exact::default(); g.out_pixels() * g.out_channels];
    products(&g, |i, j, k| want[k].add(x[i], w[j]));
    finish.apply(g.batch, g.out_channels, &mut want);
    let bound = match (compute_dtype(isa, dtype), dtype) {
        (DType::Bf16, _) => [6e-3, 9e-3, 1.5e-2][tiling as usize],
        (_, DType::Bf16) => 2e-3,
        _ => [1e-6, 1e-6, 2e-6][tiling as usize],
    };
    let error = relative_error(&got, &want);
    assert!(error < bound, "{what}: {error}");

    // The gradient of the input, which is a convolution over as many channels as the output has.
    let dy = noise.numbers(g.out_pixels() * g.out_channels);
    if g.input_gradient().is_some() && g.out_channels.is_multiple_of(16) {
        let (x_store, dy_store) = (Store::new(dtype, &x), Store::new(dtype, &dy));
        let got = on_any_threads(&what, |pool| {
            let weight =
                PackedMatrix::conv2d_input_gradient_winograd(pool, isa, dtype, &w, shape, tiling).unwrap();
            let mut out = Store::nan(dtype, x.len());
            let algorithm = ConvAlgorithm::Winograd(tiling);
            let mut memory = scratch(conv2d_input_gradient_scratch_bytes(isa, dtype, &g, algorithm));
            let (dy, residual, out_data) = (dy_store.data(), Some(x_store.data()), out.data_mut());
            conv2d_input_gradient(pool, isa, &g, dy, &weight, residual, out_data, &mut memory).unwrap();
            out
        });
        let mut want = vec![Exact::default(); x.len()];
        products(&g, |i, j, k| want[i].add(dy[k], w[j]));
        want.iter_mut().zip(&x).for_each(|(sum, &x)| sum.add(x, 1.0));
        let error = relative_error(&got, &want);
        assert!(error < bound, "input gradient of {what}: {error}");
    }

    // The gradient of the weight, which has one tiling.
    if tiling == Tiling::Small && g.out_channels.is_multiple_of(16) {
        let (x_store, dy_store) = (Store::new(dtype, &x), Store::new(dtype, &dy));
        let got = on_any_threads(&what, |pool| {
            let mut out = vec![f32::NAN; w.len()];
            let algorithm = ConvAlgorithm::Winograd(tiling);
            weight_gradient(pool, isa, dtype, &g, algorithm, [&x_store, &dy_store], &mut out);
            Store::F32(out)
        });
        let mut want = vec![Exact::default(); w.len()];
        products(&g, |i, j, k| want[j].add(x[i], dy[k]));
        let error = relative_error(&got, &want);
        assert!(error < bound, "weight gradient of {what}: {error}");
    }

    // An image by itself is the same to the bit.
    if g.batch > 1 {
        let (pool, alone) = (crate::ThreadPool::new(1), ConvGeometry { batch: 1, ..g });
        let plain = Finish::new(0, 1, 1, 1, &mut noise);
        let all = run(&pool, &g, &x, &plain).values();
        let one = run(&pool, &alone, &x[..alone.in_pixels() * g.in_channels], &plain).values();
        assert!(all[..one.len()] == one, "{what}: an image depends on its batch");
    }
}

#[test]
fn winograds_convolutions() {
    everywhere(|isa, dtype| {
        for tiling in Tiling::ALL {
            winograd_case(isa, dtype, tiling, square(2, [5, 7], [16, 70], 3, 1), 0x75);
            winograd_case(isa, dtype, tiling, square(3, [18, 13], [48, 32], 3, 1), 0x12);
            winograd_case(isa, dtype, tiling, square(1, [11, 6], [16, 144], 3, 1), 0x12);
            winograd_case(isa, dtype, tiling, square(1, [2, 1], [32, 5], 3, 1), 0x77);
            winograd_case(isa, dtype, tiling, square(2, [39, 22], [96, 83], 3, 1), 0x31);
            let uneven = ConvGeometry { padding: [0, 2, 1, 0], ..square(1, [9, 8], [16, 64], 3, 1) };
            winograd_case(isa, dtype, tiling, uneven, 0x70);
        }
    });
}

#[test]
fn winograd_of_no_image_is_no_work() {
    everywhere(|isa, dtype| {
        let (pool, g) = (crate::ThreadPool::new(2), square(0, [8, 8], [32, 32], 3, 1));
        for tiling in Tiling::ALL {
            let w = vec![1.0; 32 * 32 * 9];
            let weight =
                PackedMatrix::conv2d_winograd(&pool, isa, dtype, &w, g.weight_shape(), tiling).unwrap();
            let (x, mut out) = (Store::new(dtype, &[]), Store::nan(dtype, 0));
            let mut memory = scratch(conv2d_scratch_bytes(isa, dtype, &g, ConvAlgorithm::Winograd(tiling)));
            let epilogue = Epilogue::default();
            conv2d(&pool, isa, &g, x.data(), &weight, &epilogue, out.data_mut(), &mut memory).unwrap();
        }
    });
}

#[test]
fn winograd_is_refused_where_it_does_not_apply() {
    let (pool, isa) = (crate::ThreadPool::new(1), Isa::active());
    let w = vec![0.0; 16 * 16 * 9];
    assert!(
        PackedMatrix::conv2d_winograd(&pool, isa, DType::F32, &w, [16, 16, 9, 1], Tiling::Small).is_err()
    );
    let weight =
        PackedMatrix::conv2d_winograd(&pool, isa, DType::F32, &w, [16, 16, 3, 3], Tiling::Small).unwrap();
    let strided = square(1, [4, 4], [16, 16], 3, 2);
    let (x, mut out) = (vec![0.0; 256], vec![0.0; strided.out_pixels() * 16]);
    let given = crate::Data::F32(&x);
    let out = crate::DataMut::F32(&mut out);
    assert!(conv2d(&pool, isa, &strided, given, &weight, &Epilogue::default(), out, &mut []).is_err());
    let (dy, mut gradient) = (vec![0.0; strided.out_pixels() * 16], w);
    let algorithm = ConvAlgorithm::Winograd(Tiling::Small);
    let (dy, gradient) = (crate::Data::F32(&dy), &mut gradient);
    assert!(conv2d_weight_gradient(&pool, isa, &strided, algorithm, given, dy, gradient, &mut []).is_err());
}
