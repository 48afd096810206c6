//! Group norm of `[N, pixels, C]`, forward.

use velatura_graph::Activation;

use crate::kernels::elementwise::dispatch::{Out, Shared, buffer_len, read, simd, with_scratch};
use crate::kernels::elementwise::math::madd;
use crate::kernels::elementwise::unary::activate_in_place;
use crate::{Data, DataMut, Isa, ThreadPool};

/// What a group norm works on: `[batch, pixels, channels]`, channels in `groups` equal runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNorm {
    /// Images.
    pub batch: usize,
    /// Height times width.
    pub pixels: usize,
    /// Channels, a multiple of `groups`.
    pub channels: usize,
    /// Runs of channels that share a mean and a variance.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Applied to the result.
    pub activation: Option<Activation>,
}

/// Elements of one part: small enough for the second-level cache, between the two passes over it.
const PART: usize = 64 * 1024;

/// Up to this many elements an image is one task, which finds it in the cache when it writes.
const WHOLE_IMAGE: usize = 256 * 1024;

impl GroupNorm {
    pub(super) fn check(&self, elements: usize) {
        assert!(self.groups > 0 && self.channels.is_multiple_of(self.groups), "group norm: groups");
        assert_eq!(elements, self.batch * self.pixels * self.channels, "group norm: size");
    }

    /// Pixels of one part.
    pub(super) fn part(&self) -> usize {
        (PART / self.channels.max(1)).max(1)
    }

    pub(super) fn parts(&self) -> usize {
        self.pixels.div_ceil(self.part())
    }

    pub(super) fn image_is_one_task(&self) -> bool {
        self.pixels * self.channels <= WHOLE_IMAGE
    }

    pub(super) fn part_pixels(&self, part: usize) -> std::ops::Range<usize> {
        part * self.part()..((part + 1) * self.part()).min(self.pixels)
    }

    fn group_channels(&self) -> usize {
        self.channels / self.groups
    }
}

/// What normalised values are multiplied by, and what is added then.
#[derive(Clone, Copy, Debug, Default)]
pub struct Affine<'a> {
    /// One factor for each channel; ones where there is none.
    pub gamma: Option<&'a [f32]>,
    /// One summand for each channel; zeros where there is none.
    pub beta: Option<&'a [f32]>,
    /// `[batch, 2 * channels]`: for each image and channel what is added to one for a second factor, then second summands.
    pub modulation: Option<Data<'a>>,
}

impl Affine<'_> {
    pub(super) fn check(&self, norm: &GroupNorm) {
        let c = norm.channels;
        assert!(self.gamma.is_none_or(|g| g.len() == c), "group norm: gamma");
        assert!(self.beta.is_none_or(|b| b.len() == c), "group norm: beta");
        assert!(self.modulation.is_none_or(|m| m.len() == norm.batch * 2 * c), "group norm: modulation");
    }

    /// Calls `f` with the factors and summands of an image's channels.
    pub(super) fn with_image<R>(
        &self,
        isa: Isa,
        channels: usize,
        image: usize,
        f: impl FnOnce(&[f32], &[f32]) -> R,
    ) -> R {
        let wide = self.modulation.map_or(0, |m| buffer_len(m, 2 * channels));
        with_scratch(2 * channels + wide, |buffer: &mut [f32]| {
            let (factors, rest) = buffer.split_at_mut(channels);
            let (summands, wide) = rest.split_at_mut(channels);
            match self.gamma {
                Some(gamma) => factors.copy_from_slice(gamma),
                None => factors.fill(1.0),
            }
            match self.beta {
                Some(beta) => summands.copy_from_slice(beta),
                None => summands.fill(0.0),
            }
            if let Some(modulation) = self.modulation {
                let row = read(isa, modulation, image * 2 * channels, 2 * channels, wide);
                let (scale, shift) = row.split_at(channels);
                modulate(isa, scale, shift, factors, summands);
            }
            f(factors, summands)
        })
    }
}

/// `activation((x - mean) * rstd * gamma + beta)` with the mean and variance of each group of each image, and each
/// image's modulation before the activation.
///
/// `stats`, where given, receives `[batch, groups, 2]`: the mean and the reciprocal standard deviation.
#[allow(clippy::too_many_arguments)]
pub fn group_norm(
    pool: &ThreadPool,
    isa: Isa,
    norm: &GroupNorm,
    x: Data<'_>,
    affine: &Affine<'_>,
    out: DataMut<'_>,
    stats: Option<&mut [f32]>,
) {
    norm.check(x.len());
    norm.check(out.len());
    affine.check(norm);
    let size = norm.batch * norm.groups * 2;
    assert!(stats.as_ref().is_none_or(|s| s.len() == size), "group norm: stats");
    if x.is_empty() {
        return;
    }
    let out = Out::new(out);
    with_scratch(if stats.is_some() { 0 } else { size }, |own: &mut [f32]| {
        let stats = Shared::new(stats.unwrap_or(own));
        let partial_len = norm.parts() * norm.groups * 2;
        if norm.image_is_one_task() {
            pool.run(norm.batch, |image, _| {
                with_scratch(partial_len, |partial: &mut [f32]| {
                    for part in 0..norm.parts() {
                        let results = &mut partial[part * norm.groups * 2..][..norm.groups * 2];
                        part_moments(isa, norm, x, image, part, results);
                    }
                    // SAFETY: one task for each image.
                    let stats = unsafe { stats.slice(image * norm.groups * 2, norm.groups * 2) };
                    finish(norm, partial, stats);
                    for part in 0..norm.parts() {
                        apply_part(isa, norm, x, affine, stats, image, part, &out);
                    }
                });
            });
        } else {
            with_scratch(norm.batch * partial_len, |partial: &mut [f32]| {
                let partial = Shared::new(partial);
                let parts = norm.parts();
                pool.run(norm.batch * parts, |unit, _| {
                    // SAFETY: one task for each part.
                    let results = unsafe { partial.slice(unit * norm.groups * 2, norm.groups * 2) };
                    part_moments(isa, norm, x, unit / parts, unit % parts, results);
                });
                for image in 0..norm.batch {
                    // SAFETY: no task is running.
                    unsafe {
                        let stats = stats.slice(image * norm.groups * 2, norm.groups * 2);
                        finish(norm, partial.slice(image * partial_len, partial_len), stats);
                    }
                }
                pool.run(norm.batch * parts, |unit, _| {
                    let image = unit / parts;
                    // SAFETY: only read from here on.
                    let stats = unsafe { stats.read(image * norm.groups * 2, norm.groups * 2) };
                    apply_part(isa, norm, x, affine, stats, image, unit % parts, &out);
                });
            });
        }
    });
}

/// Mean and sum of squared deviations of each group in one part, interleaved.
fn part_moments(isa: Isa, norm: &GroupNorm, x: Data<'_>, image: usize, part: usize, results: &mut [f32]) {
    let (c, range) = (norm.channels, norm.part_pixels(part));
    let pixels = range.len();
    let len = pixels * c;
    let width = norm.group_channels();
    with_scratch(buffer_len(x, len) + 2 * c, |buffer: &mut [f32]| {
        let (channels, buffer) = buffer.split_at_mut(2 * c);
        let (sums, means) = channels.split_at_mut(c);
        let x = read(isa, x, (image * norm.pixels + range.start) * c, len, buffer);
        column_sums(isa, x, sums);
        let count = (pixels * width) as f64;
        for (group, sums) in sums.chunks_exact(width).enumerate() {
            let mean = (sums.iter().map(|&s| f64::from(s)).sum::<f64>() / count) as f32;
            results[2 * group] = mean;
            means[group * width..][..width].fill(mean);
        }
        column_squares(isa, x, means, sums);
        for (group, sums) in sums.chunks_exact(width).enumerate() {
            results[2 * group + 1] = sums.iter().map(|&s| f64::from(s)).sum::<f64>() as f32;
        }
    });
}

/// Combines the parts of an image, in order, into mean and reciprocal standard deviation.
fn finish(norm: &GroupNorm, partial: &[f32], stats: &mut [f32]) {
    let width = norm.group_channels() as f64;
    for group in 0..norm.groups {
        let (mut mean, mut squares, mut count) = (0.0f64, 0.0f64, 0.0f64);
        for part in 0..norm.parts() {
            let own = norm.part_pixels(part).len() as f64 * width;
            let at = (part * norm.groups + group) * 2;
            let difference = f64::from(partial[at]) - mean;
            let total = count + own;
            mean += difference * own / total;
            squares += f64::from(partial[at + 1]) + difference * difference * count * own / total;
            count = total;
        }
        stats[2 * group] = mean as f32;
        stats[2 * group + 1] = (1.0 / (squares / count + f64::from(norm.eps)).sqrt()) as f32;
    }
}

#[allow(clippy::too_many_arguments)]
fn apply_part(
    isa: Isa,
    norm: &GroupNorm,
    x: Data<'_>,
    affine: &Affine<'_>,
    stats: &[f32],
    image: usize,
    part: usize,
    out: &Out<'_>,
) {
    let c = norm.channels;
    let rows = ROWS_AT_ONCE.div_ceil(c);
    with_scratch(buffer_len(x, rows * c) + 2 * c, |buffer: &mut [f32]| {
        let (channels, buffer) = buffer.split_at_mut(2 * c);
        let (scale, shift) = channels.split_at_mut(c);
        affine
            .with_image(isa, c, image, |gamma, beta| scale_and_shift(norm, stats, gamma, beta, scale, shift));
        let range = norm.part_pixels(part);
        for first in range.clone().step_by(rows) {
            let len = rows.min(range.end - first) * c;
            let start = (image * norm.pixels + first) * c;
            let x = read(isa, x, start, len, buffer);
            let rounded = matches!(out, Out::Bf16(_));
            // SAFETY: parts are disjoint.
            unsafe {
                out.write(isa, start, len, |out| {
                    affine_rows(isa, x, scale, shift, out);
                    if let Some(activation) = norm.activation {
                        activate_in_place(isa, activation, rounded, out);
                    }
                });
            }
        }
    });
}

/// Elements handled between reading and writing; stays in the first-level cache.
pub(super) const ROWS_AT_ONCE: usize = 1024;

/// The norm of one image as one factor and one summand for each channel.
pub(super) fn scale_and_shift(
    norm: &GroupNorm,
    stats: &[f32],
    gamma: &[f32],
    beta: &[f32],
    scale: &mut [f32],
    shift: &mut [f32],
) {
    let width = norm.group_channels();
    for (channel, (scale, shift)) in scale.iter_mut().zip(shift).enumerate() {
        let group = channel / width;
        let factor = stats[2 * group + 1] * gamma[channel];
        *scale = factor;
        *shift = beta[channel] - stats[2 * group] * factor;
    }
}

simd! {
    fn modulate(scale: &[f32], shift: &[f32], factors: &mut [f32], summands: &mut [f32]) {
        for (((factor, summand), &scale), &shift) in factors.iter_mut().zip(summands).zip(scale).zip(shift) {
            *factor = madd::<FMA>(*factor, scale, *factor);
            *summand = madd::<FMA>(*summand, scale, *summand) + shift;
        }
    }
}

simd! {
    fn column_sums(x: &[f32], sums: &mut [f32]) {
        sums.fill(0.0);
        for row in x.chunks_exact(sums.len()) {
            for (s, x) in sums.iter_mut().zip(row) {
                *s += x;
            }
        }
    }
}

simd! {
    fn column_squares(x: &[f32], means: &[f32], sums: &mut [f32]) {
        sums.fill(0.0);
        for row in x.chunks_exact(sums.len()) {
            for ((s, x), mean) in sums.iter_mut().zip(row).zip(means) {
                let d = x - mean;
                *s = madd::<FMA>(d, d, *s);
            }
        }
    }
}

simd! {
    pub(super) fn affine_rows(x: &[f32], scale: &[f32], shift: &[f32], out: &mut [f32]) {
        let c = scale.len();
        for (out, x) in out.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
            for (((o, &x), &scale), &shift) in out.iter_mut().zip(x).zip(scale).zip(shift) {
                *o = madd::<FMA>(x, scale, shift);
            }
        }
    }
}
