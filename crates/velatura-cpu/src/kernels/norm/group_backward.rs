//! Group norm of `[N, pixels, C]`, backward.
//!
//! With `z = xhat gamma + beta`, `y = activation(z)` and `dz = dy activation'(z)`: `dgamma` and `dbeta` are
//! the sums of `dz xhat` and `dz` over images and pixels, and
//! `dx = rstd (dz gamma - mean(dz gamma) - xhat mean(dz gamma xhat))` with the means over the group.

use super::group::{Affine, GroupNorm, ROWS_AT_ONCE, affine_rows, scale_and_shift};
use crate::kernels::elementwise::dispatch::{Out, Shared, buffer_len, read, simd, with_scratch};
use crate::kernels::elementwise::math::madd;
use crate::kernels::elementwise::reduce::add_into;
use crate::kernels::elementwise::unary::slope_block;
use crate::{Data, DataMut, Isa, ThreadPool};

/// What [`group_norm_backward`] writes: not added to what is there.
#[derive(Debug)]
pub struct GroupNormGradients<'a> {
    /// Of the input.
    pub dx: DataMut<'a>,
    /// Of gamma, `[channels]`.
    pub dgamma: Option<&'a mut [f32]>,
    /// Of beta, `[channels]`.
    pub dbeta: Option<&'a mut [f32]>,
    /// Of the modulation, `[batch, 2 * channels]`.
    pub dmodulation: Option<&'a mut [f32]>,
}

/// The gradients of [`group_norm`](super::group_norm) from its input, its `stats` and the gradient of its output. The
/// residual, where given, is added to the gradient of the input.
#[allow(clippy::too_many_arguments)]
pub fn group_norm_backward(
    pool: &ThreadPool,
    isa: Isa,
    norm: &GroupNorm,
    x: Data<'_>,
    affine: &Affine<'_>,
    stats: &[f32],
    dy: Data<'_>,
    residual: Option<Data<'_>>,
    gradients: GroupNormGradients<'_>,
) {
    let GroupNormGradients { dx, dgamma, dbeta, dmodulation } = gradients;
    norm.check(x.len());
    norm.check(dy.len());
    norm.check(dx.len());
    residual.iter().for_each(|r| norm.check(r.len()));
    affine.check(norm);
    let c = norm.channels;
    assert_eq!(stats.len(), norm.batch * norm.groups * 2, "group norm: stats");
    let parts = norm.parts();
    let job = Backward { isa, norm, x, affine, stats, dy, residual };
    let out = Out::new(dx);
    // For each image: the sums over all of it, `[2, c]`, then those of its parts.
    let per_image = (parts + 1) * 2 * c;
    with_scratch(norm.batch * per_image, |sums: &mut [f32]| {
        let shared = Shared::new(sums);
        if norm.image_is_one_task() {
            pool.run(norm.batch, |image, _| {
                // SAFETY: one task for each image.
                let sums = unsafe { shared.slice(image * per_image, per_image) };
                let (total, partial) = sums.split_at_mut(2 * c);
                for (part, sums) in partial.chunks_exact_mut((2 * c).max(1)).enumerate() {
                    job.part_sums(image, part, sums);
                }
                job.total(partial, total);
                for part in 0..parts {
                    job.apply(image, part, total, &out);
                }
            });
        } else {
            pool.run(norm.batch * parts, |unit, _| {
                let (image, part) = (unit / parts, unit % parts);
                // SAFETY: one task for each part.
                let sums = unsafe { shared.slice(image * per_image + (part + 1) * 2 * c, 2 * c) };
                job.part_sums(image, part, sums);
            });
            for image in 0..norm.batch {
                // SAFETY: no task is running.
                let sums = unsafe { shared.slice(image * per_image, per_image) };
                let (total, partial) = sums.split_at_mut(2 * c);
                job.total(partial, total);
            }
            pool.run(norm.batch * parts, |unit, _| {
                let image = unit / parts;
                // SAFETY: only read from here on.
                let total = unsafe { shared.read(image * per_image, 2 * c) };
                job.apply(image, unit % parts, total, &out);
            });
        }
        // SAFETY: no task is running.
        let total = |image: usize| unsafe { shared.read(image * per_image, 2 * c) };
        for (half, target) in [dgamma, dbeta].into_iter().enumerate() {
            let Some(target) = target else { continue };
            assert_eq!(target.len(), c, "group norm: gradients of the parameters");
            target.fill(0.0);
            for image in 0..norm.batch {
                let sums = &total(image)[half * c..][..c];
                match affine.modulation {
                    None => add_into(isa, sums, target),
                    // By way of what gamma and beta are multiplied by.
                    Some(_) => {
                        let only = Affine { gamma: None, beta: None, ..*affine };
                        only.with_image(isa, c, image, |scale, _| add_scaled(isa, sums, scale, target));
                    }
                }
            }
        }
        if let Some(target) = dmodulation {
            assert_eq!(target.len(), norm.batch * 2 * c, "group norm: gradient of the modulation");
            let plain = Affine { modulation: None, ..*affine };
            for (image, target) in target.chunks_exact_mut((2 * c).max(1)).enumerate() {
                let (hat, sums) = total(image).split_at(c);
                let (scale, shift) = target.split_at_mut(c);
                plain.with_image(isa, c, image, |gamma, beta| {
                    for i in 0..c {
                        scale[i] = hat[i] * gamma[i] + sums[i] * beta[i];
                    }
                });
                shift.copy_from_slice(sums);
            }
        }
    });
}

struct Backward<'a> {
    isa: Isa,
    norm: &'a GroupNorm,
    x: Data<'a>,
    affine: &'a Affine<'a>,
    stats: &'a [f32],
    dy: Data<'a>,
    residual: Option<Data<'a>>,
}

impl Backward<'_> {
    fn image_stats(&self, image: usize) -> &[f32] {
        &self.stats[image * self.norm.groups * 2..][..self.norm.groups * 2]
    }

    /// Calls `f(start, x, dz, xhat scale, xhat shift)` for runs of whole pixels of a part.
    fn for_rows(&self, image: usize, part: usize, mut f: impl FnMut(usize, &[f32], &[f32], &[f32], &[f32])) {
        let (isa, norm, c) = (self.isa, self.norm, self.norm.channels);
        let rows = ROWS_AT_ONCE.div_ceil(c.max(1));
        let n = rows * c;
        let (nx, ny) = (buffer_len(self.x, n), buffer_len(self.dy, n));
        with_scratch(nx + ny + 2 * n + 4 * c, |buffer: &mut [f32]| {
            let (bx, buffer) = buffer.split_at_mut(nx);
            let (by, buffer) = buffer.split_at_mut(ny);
            let (z, buffer) = buffer.split_at_mut(n);
            let (dz, buffer) = buffer.split_at_mut(n);
            let (scale, buffer) = buffer.split_at_mut(c);
            let (shift, buffer) = buffer.split_at_mut(c);
            let (hat_scale, hat_shift) = buffer.split_at_mut(c);
            let stats = self.image_stats(image);
            self.affine.with_image(isa, c, image, |gamma, beta| {
                scale_and_shift(norm, stats, gamma, beta, scale, shift);
            });
            Affine::default().with_image(isa, c, image, |ones, zeros| {
                scale_and_shift(norm, stats, ones, zeros, hat_scale, hat_shift);
            });
            let range = norm.part_pixels(part);
            for first in range.clone().step_by(rows) {
                let len = rows.min(range.end - first) * c;
                let start = (image * norm.pixels + first) * c;
                let x = read(isa, self.x, start, len, bx);
                let dy = read(isa, self.dy, start, len, by);
                let dz = match norm.activation {
                    None => dy,
                    Some(activation) => {
                        affine_rows(isa, x, scale, shift, &mut z[..len]);
                        slope_block(isa, activation, &z[..len], dy, &mut dz[..len]);
                        &dz[..len]
                    }
                };
                f(start, x, dz, hat_scale, hat_shift);
            }
        });
    }

    /// Sums over a part, for each channel: `dz xhat`, then `dz`.
    fn part_sums(&self, image: usize, part: usize, sums: &mut [f32]) {
        sums.fill(0.0);
        let (hat, plain) = sums.split_at_mut(self.norm.channels);
        self.for_rows(image, part, |_, x, dz, scale, shift| {
            accumulate(self.isa, x, dz, scale, shift, hat, plain);
        });
    }

    fn total(&self, partial: &[f32], total: &mut [f32]) {
        total.fill(0.0);
        for part in partial.chunks_exact(total.len().max(1)) {
            add_into(self.isa, part, total);
        }
    }

    fn apply(&self, image: usize, part: usize, total: &[f32], out: &Out<'_>) {
        let (norm, c) = (self.norm, self.norm.channels);
        let width = c / norm.groups;
        let count = (norm.pixels * width) as f64;
        let longest = ROWS_AT_ONCE.div_ceil(c.max(1)) * c;
        let wide = self.residual.map_or(0, |r| buffer_len(r, longest));
        with_scratch(3 * c + wide, |buffer: &mut [f32]| {
            // dx = dz a + x b + d, each constant over an image's channel.
            let (a, rest) = buffer.split_at_mut(c);
            let (b, rest) = rest.split_at_mut(c);
            let (d, wide) = rest.split_at_mut(c);
            let stats = self.image_stats(image);
            self.affine.with_image(self.isa, c, image, |gamma, _| {
                for group in 0..norm.groups {
                    let (mean, rstd) = (f64::from(stats[2 * group]), f64::from(stats[2 * group + 1]));
                    let channels = group * width..(group + 1) * width;
                    let (mut hat, mut plain) = (0.0, 0.0);
                    for channel in channels.clone() {
                        let gamma = f64::from(gamma[channel]);
                        hat += gamma * f64::from(total[channel]);
                        plain += gamma * f64::from(total[c + channel]);
                    }
                    let factor = -rstd * rstd * hat / count;
                    let constant = -rstd * plain / count - factor * mean;
                    for channel in channels {
                        a[channel] = (rstd * f64::from(gamma[channel])) as f32;
                        b[channel] = factor as f32;
                        d[channel] = constant as f32;
                    }
                }
            });
            self.for_rows(image, part, |start, x, dz, _, _| {
                // SAFETY: parts are disjoint.
                unsafe {
                    out.write(self.isa, start, x.len(), |out| {
                        combine(self.isa, x, dz, a, b, d, out);
                        if let Some(residual) = self.residual {
                            add_into(self.isa, read(self.isa, residual, start, x.len(), wide), out);
                        }
                    });
                }
            });
        });
    }
}

simd! {
    /// `total += x * scale`.
    fn add_scaled(x: &[f32], scale: &[f32], total: &mut [f32]) {
        for ((t, &x), &scale) in total.iter_mut().zip(x).zip(scale) {
            *t = madd::<FMA>(x, scale, *t);
        }
    }
}

simd! {
    fn accumulate(x: &[f32], dz: &[f32], scale: &[f32], shift: &[f32], hat: &mut [f32], plain: &mut [f32]) {
        let c = scale.len();
        let (shift, hat, plain) = (&shift[..c], &mut hat[..c], &mut plain[..c]);
        for (x, dz) in x.chunks_exact(c).zip(dz.chunks_exact(c)) {
            // Lengths that the compiler can see: without bounds checks the loop vectorises.
            let (x, dz) = (&x[..c], &dz[..c]);
            for i in 0..c {
                hat[i] = madd::<FMA>(dz[i], madd::<FMA>(x[i], scale[i], shift[i]), hat[i]);
                plain[i] += dz[i];
            }
        }
    }
}

simd! {
    fn combine(x: &[f32], dz: &[f32], a: &[f32], b: &[f32], d: &[f32], out: &mut [f32]) {
        let c = a.len();
        let (b, d) = (&b[..c], &d[..c]);
        for ((out, x), dz) in out.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(dz.chunks_exact(c)) {
            let (out, x, dz) = (&mut out[..c], &x[..c], &dz[..c]);
            for i in 0..c {
                out[i] = madd::<FMA>(dz[i], a[i], madd::<FMA>(x[i], b[i], d[i]));
            }
        }
    }
}
