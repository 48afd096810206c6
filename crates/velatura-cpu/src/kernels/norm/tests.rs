//! Norms against their definition in double precision; gradients against finite differences of it.

use velatura_graph::Activation;

use super::{
    Affine, GroupNorm, GroupNormGradients, RowNorm, RowNormKind, group_norm, group_norm_backward, row_norm,
    row_norm_backward,
};
use crate::kernels::Order;
use crate::kernels::elementwise::tests::{
    Input, assert_close, assert_threads_agree, every_kind, noise, output,
};
use crate::kernels::order::tests::in_tiles;
use crate::{Data, DataMut, Isa, ThreadPool};

fn activation64(activation: Option<Activation>, x: f64) -> f64 {
    match activation {
        None => x,
        Some(Activation::Silu) => x / (1.0 + (-x).exp()),
        Some(other) => panic!("not tested here: {other:?}"),
    }
}

/// Normalises runs given as lists of elements, then scales by channel.
fn normalise64(
    x: &[f64],
    channels: usize,
    runs: &[Vec<usize>],
    centre: bool,
    eps: f32,
    parameters: [&[f64]; 2],
    activation: Option<Activation>,
) -> (Vec<f64>, Vec<f64>) {
    let (mut out, mut stats) = (vec![0.0; x.len()], Vec::new());
    for run in runs {
        let n = run.len() as f64;
        let mean = if centre { run.iter().map(|&i| x[i]).sum::<f64>() / n } else { 0.0 };
        let variance = run.iter().map(|&i| (x[i] - mean).powi(2)).sum::<f64>() / n;
        let rstd = 1.0 / (variance + f64::from(eps)).sqrt();
        stats.extend([mean, rstd]);
        for &i in run {
            let z = (x[i] - mean) * rstd * parameters[0][i % channels] + parameters[1][i % channels];
            out[i] = activation64(activation, z);
        }
    }
    (out, stats)
}

fn group_runs(norm: &GroupNorm) -> Vec<Vec<usize>> {
    let width = norm.channels / norm.groups;
    let mut runs = Vec::new();
    for image in 0..norm.batch {
        for group in 0..norm.groups {
            let pixels = image * norm.pixels..(image + 1) * norm.pixels;
            runs.push(
                pixels.flat_map(|p| (0..width).map(move |i| p * norm.channels + group * width + i)).collect(),
            );
        }
    }
    runs
}

fn to64(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// The gradient of `sum(dy f(x))` by central differences at some elements of `x`.
fn check_slopes(what: &str, x: &[f64], gradient: &[f32], tolerance: f64, loss: impl Fn(&[f64]) -> f64) {
    let mut x = x.to_vec();
    let scale = gradient.iter().fold(1e-3, |a: f64, &g| a.max(f64::from(g.abs())));
    for i in (0..x.len()).step_by(1 + x.len() / 23) {
        let (kept, h) = (x[i], 1e-4);
        x[i] = kept + h;
        let above = loss(&x);
        x[i] = kept - h;
        let slope = (above - loss(&x)) / (2.0 * h);
        x[i] = kept;
        let got = f64::from(gradient[i]);
        assert!((got - slope).abs() <= tolerance * scale, "{what}: element {i} is {got}, should be {slope}");
    }
}

fn weighted(dy: &[f32], y: &[f64]) -> f64 {
    dy.iter().zip(y).map(|(&d, y)| f64::from(d) * y).sum()
}

#[test]
fn group_norm_and_its_gradients() {
    // The last is cut into several parts of several tasks.
    for (batch, pixels, channels, groups) in
        [(1, 1, 10, 2), (2, 35, 12, 3), (2, 50, 40, 8), (1, 9, 5, 1), (1, 2100, 128, 32)]
    {
        for (activation, modulated) in
            [(None, false), (Some(Activation::Silu), false), (None, true), (Some(Activation::Silu), true)]
        {
            let norm = GroupNorm { batch, pixels, channels, groups, eps: 1e-5, activation };
            let count = batch * pixels * channels;
            let shifted: Vec<f32> = noise(count, 1).iter().map(|x| 2.0 * x + 3.0).collect();
            let (x, dy) = (Input::new(&shifted), Input::new(&noise(count, 2)));
            let residual = Input::new(&noise(count, 5));
            let gamma: Vec<f32> = noise(channels, 3).iter().map(|x| 1.0 + 0.5 * x).collect();
            let beta = noise(channels, 4);
            let modulation = Input::new(&match modulated {
                true => noise(batch * 2 * channels, 6).iter().map(|x| 0.5 * x).collect(),
                false => vec![0.0; batch * 2 * channels],
            });
            let runs = group_runs(&norm);
            let whole = |x: &[f64], gamma: &[f64], beta: &[f64], modulation: &[f64]| {
                let (mut y, stats) = normalise64(x, channels, &runs, true, norm.eps, [gamma, beta], None);
                for (i, y) in y.iter_mut().enumerate() {
                    let row = &modulation[i / (pixels * channels) * 2 * channels..][..2 * channels];
                    let (scale, shift) = (row[i % channels], row[channels + i % channels]);
                    *y = activation64(activation, *y * (1.0 + scale) + shift);
                }
                (y, stats)
            };
            let (x64, gamma64, beta64) = (to64(&x.wide), to64(&gamma), to64(&beta));
            let modulation64 = to64(&modulation.wide);
            let f = |x: &[f64], gamma: &[f64], beta: &[f64]| whole(x, gamma, beta, &modulation64).0;
            let (want, want_stats) = whole(&x64, &gamma64, &beta64, &modulation64);
            every_kind(|isa, pool, short, out_short| {
                let affine = Affine {
                    gamma: Some(&gamma),
                    beta: Some(&beta),
                    modulation: modulated.then(|| modulation.data(short)),
                };
                let mut stats = vec![f32::NAN; batch * groups * 2];
                let got = output(count, out_short, |out| {
                    group_norm(pool, isa, &norm, x.data(short), &affine, out, Some(&mut stats));
                });
                let tolerance = if out_short { 4.1e-3 } else { 1e-5 };
                assert_close(&format!("{norm:?} {isa:?}"), &got, &want, tolerance, 3e-6);
                assert_close("stats", &stats, &want_stats, 1e-5, 0.0);
                let (mut dgamma, mut dbeta) = (vec![f32::NAN; channels], vec![f32::NAN; channels]);
                let mut dmodulation = vec![f32::NAN; batch * 2 * channels];
                let dx = output(count, out_short, |dx| {
                    let gradients = GroupNormGradients {
                        dx,
                        dgamma: Some(&mut dgamma),
                        dbeta: Some(&mut dbeta),
                        dmodulation: Some(&mut dmodulation),
                    };
                    let residual = modulated.then(|| residual.data(!short));
                    let (x, dy) = (x.data(short), dy.data(short));
                    group_norm_backward(pool, isa, &norm, x, &affine, &stats, dy, residual, gradients);
                });
                let loose = if out_short { 5e-3 } else { 1e-4 };
                if count < 10_000 || (isa == Isa::active() && !short && !out_short) {
                    let of_x = |x: &[f64]| {
                        let added = if modulated { weighted(&residual.wide, x) } else { 0.0 };
                        weighted(&dy.wide, &f(x, &gamma64, &beta64)) + added
                    };
                    check_slopes("dx", &x64, &dx, loose, of_x);
                    let dg = |g: &[f64]| weighted(&dy.wide, &f(&x64, g, &beta64));
                    check_slopes("dgamma", &gamma64, &dgamma, 1e-4, dg);
                    let db = |b: &[f64]| weighted(&dy.wide, &f(&x64, &gamma64, b));
                    check_slopes("dbeta", &beta64, &dbeta, 1e-4, db);
                    let dm = |m: &[f64]| weighted(&dy.wide, &whole(&x64, &gamma64, &beta64, m).0);
                    check_slopes("dmodulation", &modulation64, &dmodulation, 1e-4, dm);
                }
            });
        }
    }
}

#[test]
fn row_norms_and_their_gradients() {
    for (rows, channels) in [(1, 3), (5, 40), (150, 33), (3, 1300)] {
        for kind in [RowNormKind::Layer, RowNormKind::Rms] {
            let norm = RowNorm { kind, rows, channels, eps: 1e-6 };
            let count = rows * channels;
            let shifted: Vec<f32> = noise(count, 1).iter().map(|x| 2.0 * x + 1.0).collect();
            let (x, dy) = (Input::new(&shifted), Input::new(&noise(count, 2)));
            let gamma: Vec<f32> = noise(channels, 3).iter().map(|x| 1.0 + 0.5 * x).collect();
            let (beta, residual) = (noise(channels, 4), Input::new(&noise(count, 5)));
            let runs: Vec<Vec<usize>> =
                (0..rows).map(|r| (r * channels..(r + 1) * channels).collect()).collect();
            let centre = kind == RowNormKind::Layer;
            let f = |x: &[f64], gamma: &[f64], beta: &[f64]| {
                normalise64(x, channels, &runs, centre, norm.eps, [gamma, beta], None).0
            };
            let (x64, gamma64, beta64) = (to64(&x.wide), to64(&gamma), to64(&beta));
            let (want, want_stats) =
                normalise64(&x64, channels, &runs, centre, norm.eps, [&gamma64, &beta64], None);
            every_kind(|isa, pool, short, out_short| {
                let mut stats = vec![f32::NAN; rows * 2];
                let got = output(count, out_short, |out| {
                    row_norm(
                        pool,
                        isa,
                        &norm,
                        x.data(short),
                        Some(&gamma),
                        Some(&beta),
                        out,
                        Order::Rows,
                        Some(&mut stats),
                    );
                });
                assert_close(&format!("{norm:?}"), &got, &want, if out_short { 4.1e-3 } else { 1e-5 }, 3e-6);
                assert_close("stats", &stats, &want_stats, 1e-5, 1e-6);
                let (mut dgamma, mut dbeta) = (vec![f32::NAN; channels], vec![f32::NAN; channels]);
                let dx = output(count, out_short, |out| {
                    let (dg, db) = (Some(&mut dgamma[..]), Some(&mut dbeta[..]));
                    row_norm_backward(
                        pool,
                        isa,
                        &norm,
                        x.data(short),
                        Some(&gamma),
                        &stats,
                        dy.data(short),
                        short.then(|| residual.data(out_short)),
                        out,
                        dg,
                        db,
                    );
                });
                let loose = if out_short { 5e-3 } else { 1e-4 };
                check_slopes("dx", &x64, &dx, loose, |x| {
                    let added = if short { weighted(&residual.wide, x) } else { 0.0 };
                    weighted(&dy.wide, &f(x, &gamma64, &beta64)) + added
                });
                let dg = |g: &[f64]| weighted(&dy.wide, &f(&x64, g, &beta64));
                check_slopes("dgamma", &gamma64, &dgamma, 1e-4, dg);
                let db = |b: &[f64]| weighted(&dy.wide, &f(&x64, &gamma64, b));
                check_slopes("dbeta", &beta64, &dbeta, 1e-4, db);
            });
        }
    }
}

#[test]
fn rows_in_tiles_are_the_same() {
    for (kind, rows, channels) in [(RowNormKind::Layer, 64, 96), (RowNormKind::Rms, 96, 1280)] {
        let norm = RowNorm { kind, rows, channels, eps: 1e-6 };
        let x = Input::new(&noise(rows * channels, 1));
        let (gamma, beta) = (noise(channels, 2), noise(channels, 3));
        let beta = (kind == RowNormKind::Layer).then_some(&beta[..]);
        every_kind(|isa, pool, short, _| {
            let run = |order| {
                let mut stats = vec![f32::NAN; rows * 2];
                let (x, gamma, stats_out) = (x.data(short), Some(&gamma[..]), Some(&mut stats[..]));
                let got = output(rows * channels, true, |out| {
                    row_norm(pool, isa, &norm, x, gamma, beta, out, order, stats_out);
                });
                (got, stats)
            };
            let ((want, stats), (got, same)) = (run(Order::Rows), run(Order::Tiles));
            assert_eq!(stats, same);
            assert!(got == in_tiles(&want, channels), "{norm:?} {isa:?}");
        });
    }
}

#[test]
fn a_large_mean_costs_no_accuracy() {
    // With E[x^2] - E[x]^2 in single precision the variance would be noise.
    let norm = GroupNorm { batch: 1, pixels: 3000, channels: 32, groups: 4, eps: 1e-6, activation: None };
    let count = 3000 * 32;
    let x: Vec<f32> = noise(count, 1).iter().map(|x| x + 500.0).collect();
    let ones = vec![1.0; 32];
    let (_, want) = normalise64(&to64(&x), 32, &group_runs(&norm), true, 1e-6, [&ones, &ones], None);
    for isa in Isa::supported() {
        let mut stats = [0.0; 8];
        let pool = ThreadPool::new(2);
        output(count, false, |out| {
            group_norm(&pool, isa, &norm, Data::F32(&x), &Affine::default(), out, Some(&mut stats))
        });
        assert_close("stats", &stats, &want, 2e-6, 0.0);
    }
}

#[test]
fn neither_threads_nor_the_batch_change_bits() {
    for (pixels, channels) in [(70, 24), (4200, 128)] {
        let one = GroupNorm {
            batch: 1,
            pixels,
            channels,
            groups: 8,
            eps: 1e-5,
            activation: Some(Activation::Silu),
        };
        let two = GroupNorm { batch: 2, ..one };
        let n = pixels * channels;
        let (x, dy) = (noise(2 * n, 1), noise(2 * n, 2));
        let gamma = noise(channels, 3);
        let affine = Affine { gamma: Some(&gamma), ..Affine::default() };
        let run = |isa, pool: &ThreadPool, norm: &GroupNorm| {
            let n = norm.batch * n;
            let mut stats = vec![0.0; norm.batch * 16];
            let mut all = output(n, false, |out| {
                group_norm(pool, isa, norm, Data::F32(&x[..n]), &affine, out, Some(&mut stats));
            });
            let mut dgamma = vec![0.0; channels];
            let mut dx = vec![0.0; n];
            let (x, dy) = (Data::F32(&x[..n]), Data::F32(&dy[..n]));
            let gradients = GroupNormGradients {
                dx: DataMut::F32(&mut dx),
                dgamma: Some(&mut dgamma),
                dbeta: None,
                dmodulation: None,
            };
            group_norm_backward(pool, isa, norm, x, &affine, &stats, dy, None, gradients);
            all.extend(dx);
            all.extend(dgamma);
            all
        };
        assert_threads_agree(|isa, pool| run(isa, pool, &two));
        for isa in Isa::supported() {
            let pool = ThreadPool::new(2);
            let (a, b) = (run(isa, &pool, &one), run(isa, &pool, &two));
            assert!(a[..n] == b[..n] && a[n..2 * n] == b[2 * n..3 * n]);
        }
    }
    let norm = RowNorm { kind: RowNormKind::Layer, rows: 300, channels: 50, eps: 1e-5 };
    let (x, dy) = (noise(15_000, 1), noise(15_000, 2));
    assert_threads_agree(|isa, pool| {
        let mut stats = vec![0.0; 600];
        let (mut dgamma, mut dbeta) = (vec![0.0; 50], vec![0.0; 50]);
        let mut all = output(15_000, false, |out| {
            row_norm(pool, isa, &norm, Data::F32(&x), None, None, out, Order::Rows, Some(&mut stats))
        });
        all.extend(output(15_000, false, |out| {
            let (dg, db) = (Some(&mut dgamma[..]), Some(&mut dbeta[..]));
            row_norm_backward(
                pool,
                isa,
                &norm,
                Data::F32(&x),
                None,
                &stats,
                Data::F32(&dy),
                None,
                out,
                dg,
                db,
            );
        }));
        all.extend(dgamma);
        all.extend(dbeta);
        all
    });
}
