//! Nearest and bilinear resizing and average pooling of `[N, H, W, C]` images, with their adjoints.

use super::dispatch::{Out, buffer_len, for_chunks, read, simd, with_scratch};
use super::math::madd;
use crate::{Data, DataMut, Isa, ThreadPool};

/// How to resize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// The element at `floor(i * in / out)`.
    Nearest,
    /// Two neighbours on each axis around `(i + 0.5) * in / out - 0.5`, limited to the edge
    /// (`align_corners=False`, without antialiasing).
    Bilinear,
}

/// Where one output index of an axis reads: two inputs and the weight of the second.
#[derive(Clone, Copy)]
struct Tap {
    first: usize,
    second: usize,
    weight: f32,
}

impl Resize {
    fn tap(self, input: usize, output: usize, index: usize) -> Tap {
        let scale = input as f32 / output as f32;
        match self {
            Resize::Nearest => {
                let at = ((index as f32 * scale) as usize).min(input - 1);
                Tap { first: at, second: at, weight: 0.0 }
            }
            Resize::Bilinear => {
                let at = (scale * (index as f32 + 0.5) - 0.5).max(0.0);
                let first = (at as usize).min(input - 1);
                Tap { first, second: (first + 1).min(input - 1), weight: (at - first as f32).clamp(0.0, 1.0) }
            }
        }
    }

    /// The weight with which output `index` reads input `at`.
    fn weight(self, input: usize, output: usize, index: usize, at: usize) -> f32 {
        let tap = self.tap(input, output, index);
        let mut weight = 0.0;
        if tap.first == at {
            weight += 1.0 - tap.weight;
        }
        if tap.second == at {
            weight += tap.weight;
        }
        weight
    }

    /// The outputs that may read input `at`.
    fn readers(self, input: usize, output: usize, at: usize) -> std::ops::Range<usize> {
        let scale = output as f32 / input as f32;
        let low = ((at as f32 - 1.0) * scale - 2.0).max(0.0) as usize;
        let high = ((at as f32 + 2.0) * scale + 3.0) as usize;
        low.min(output)..high.min(output)
    }
}

/// Resizes `x` of `[n, h, w, c]` to `[n, out_size[0], out_size[1], c]`.
pub fn resize(
    pool: &ThreadPool,
    isa: Isa,
    method: Resize,
    x: Data<'_>,
    shape: [usize; 4],
    out: DataMut<'_>,
    out_size: [usize; 2],
) {
    let ([n, h, w, c], [oh, ow]) = (shape, out_size);
    assert_eq!(x.len(), n * h * w * c, "resize: input size");
    assert_eq!(out.len(), n * oh * ow * c, "resize: output size");
    let out = Out::new(out);
    for_chunks(pool, n * oh, (16_384 / (ow * c).max(1)).max(1), |start, count| {
        with_scratch(2 * buffer_len(x, w * c), |buffer: &mut [f32]| {
            let (a, b) = buffer.split_at_mut(buffer.len() / 2);
            for row in start..start + count {
                let (image, y) = (row / oh, row % oh);
                let vertical = method.tap(h, oh, y);
                let top = read(isa, x, (image * h + vertical.first) * w * c, w * c, a);
                let bottom = read(isa, x, (image * h + vertical.second) * w * c, w * c, b);
                // SAFETY: rows are disjoint.
                unsafe {
                    out.write(isa, row * ow * c, ow * c, |out| {
                        for (column, pixel) in out.chunks_exact_mut(c).enumerate() {
                            let t = method.tap(w, ow, column);
                            let (l, r) = (t.first * c..t.first * c + c, t.second * c..t.second * c + c);
                            if method == Resize::Nearest {
                                pixel.copy_from_slice(&top[l]);
                            } else {
                                let corners = [&top[l.clone()], &top[r.clone()], &bottom[l], &bottom[r]];
                                blend(isa, corners, t.weight, vertical.weight, pixel);
                            }
                        }
                    });
                }
            }
        });
    });
}

simd! {
    fn blend(corners: [&[f32]; 4], wx: f32, wy: f32, out: &mut [f32]) {
        let [a, b, c, d] = corners;
        for (i, o) in out.iter_mut().enumerate() {
            let top = madd::<FMA>(b[i] - a[i], wx, a[i]);
            let bottom = madd::<FMA>(d[i] - c[i], wx, c[i]);
            *o = madd::<FMA>(bottom - top, wy, top);
        }
    }
}

/// The adjoint of [`resize`]: `dx` of `[n, h, w, c]` from `dy` of `[n, out_size[0], out_size[1], c]`. Each
/// input pixel gathers from the output pixels that read it, in order.
pub fn resize_backward(
    pool: &ThreadPool,
    isa: Isa,
    method: Resize,
    dy: Data<'_>,
    shape: [usize; 4],
    dx: DataMut<'_>,
    out_size: [usize; 2],
) {
    let ([n, h, w, c], [oh, ow]) = (shape, out_size);
    assert_eq!(dx.len(), n * h * w * c, "resize_backward: output size");
    assert_eq!(dy.len(), n * oh * ow * c, "resize_backward: gradient size");
    let out = Out::new(dx);
    for_chunks(pool, n * h, (16_384 / (w * c).max(1)).max(1), |start, count| {
        with_scratch(buffer_len(dy, ow * c), |buffer: &mut [f32]| {
            for row in start..start + count {
                let (image, at) = (row / h, row % h);
                // SAFETY: rows are disjoint.
                unsafe {
                    out.write(isa, row * w * c, w * c, |out| {
                        out.fill(0.0);
                        for y in method.readers(h, oh, at) {
                            let vertical = method.weight(h, oh, y, at);
                            if vertical == 0.0 {
                                continue;
                            }
                            let dy = read(isa, dy, (image * oh + y) * ow * c, ow * c, buffer);
                            for (column, pixel) in out.chunks_exact_mut(c).enumerate() {
                                for x in method.readers(w, ow, column) {
                                    let weight = vertical * method.weight(w, ow, x, column);
                                    if weight != 0.0 {
                                        add_weighted(isa, &dy[x * c..x * c + c], weight, pixel);
                                    }
                                }
                            }
                        }
                    });
                }
            }
        });
    });
}

simd! {
    fn add_weighted(x: &[f32], weight: f32, out: &mut [f32]) {
        for (o, &x) in out.iter_mut().zip(x) {
            *o = madd::<FMA>(x, weight, *o);
        }
    }
}

/// Window of an average pool: size and step on each axis, zeros around the edge. As PyTorch's default, the
/// padding counts in the mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Height and width of the window.
    pub kernel: [usize; 2],
    /// Distance between windows.
    pub stride: [usize; 2],
    /// Zeros added on each side.
    pub padding: [usize; 2],
}

impl Pool {
    /// The output's height and width for an input's.
    pub fn out_size(&self, input: [usize; 2]) -> [usize; 2] {
        std::array::from_fn(|i| {
            (input[i] + 2 * self.padding[i]).saturating_sub(self.kernel[i]) / self.stride[i] + 1
        })
    }
}

/// Mean of each window of `x`, `[n, h, w, c]`.
pub fn average_pool(
    pool: &ThreadPool,
    isa: Isa,
    window: &Pool,
    x: Data<'_>,
    shape: [usize; 4],
    out: DataMut<'_>,
) {
    let [n, h, w, c] = shape;
    let [oh, ow] = window.out_size([h, w]);
    assert_eq!(x.len(), n * h * w * c, "average_pool: input size");
    assert_eq!(out.len(), n * oh * ow * c, "average_pool: output size");
    let weight = 1.0 / (window.kernel[0] * window.kernel[1]) as f32;
    let out = Out::new(out);
    for_chunks(pool, n * oh, (4096 / (ow * c).max(1)).max(1), |start, count| {
        with_scratch(buffer_len(x, w * c), |buffer: &mut [f32]| {
            for row in start..start + count {
                let (image, y) = (row / oh, row % oh);
                // SAFETY: rows are disjoint.
                unsafe {
                    out.write(isa, row * ow * c, ow * c, |out| {
                        out.fill(0.0);
                        for ky in 0..window.kernel[0] {
                            let at = y * window.stride[0] + ky;
                            if at < window.padding[0] || at - window.padding[0] >= h {
                                continue;
                            }
                            let x = read(isa, x, (image * h + at - window.padding[0]) * w * c, w * c, buffer);
                            for (column, pixel) in out.chunks_exact_mut(c).enumerate() {
                                for kx in 0..window.kernel[1] {
                                    let at = column * window.stride[1] + kx;
                                    if at >= window.padding[1] && at - window.padding[1] < w {
                                        let at = (at - window.padding[1]) * c;
                                        add_weighted(isa, &x[at..at + c], weight, pixel);
                                    }
                                }
                            }
                        }
                    });
                }
            }
        });
    });
}

/// The adjoint of [`average_pool`]: `dx` of `shape` from `dy` of the pooled shape.
pub fn average_pool_backward(
    pool: &ThreadPool,
    isa: Isa,
    window: &Pool,
    dy: Data<'_>,
    shape: [usize; 4],
    dx: DataMut<'_>,
) {
    let [n, h, w, c] = shape;
    let [oh, ow] = window.out_size([h, w]);
    assert_eq!(dx.len(), n * h * w * c, "average_pool_backward: output size");
    assert_eq!(dy.len(), n * oh * ow * c, "average_pool_backward: gradient size");
    let weight = 1.0 / (window.kernel[0] * window.kernel[1]) as f32;
    let out = Out::new(dx);
    for_chunks(pool, n * h, (4096 / (w * c).max(1)).max(1), |start, count| {
        with_scratch(buffer_len(dy, ow * c), |buffer: &mut [f32]| {
            for row in start..start + count {
                let (image, at) = (row / h, row % h);
                // SAFETY: rows are disjoint.
                unsafe {
                    out.write(isa, row * w * c, w * c, |out| {
                        out.fill(0.0);
                        for y in windows_over(at, 0, window, oh) {
                            let dy = read(isa, dy, (image * oh + y) * ow * c, ow * c, buffer);
                            for (column, pixel) in out.chunks_exact_mut(c).enumerate() {
                                for x in windows_over(column, 1, window, ow) {
                                    add_weighted(isa, &dy[x * c..x * c + c], weight, pixel);
                                }
                            }
                        }
                    });
                }
            }
        });
    });
}

/// The windows that contain input `at` of an axis.
fn windows_over(at: usize, axis: usize, window: &Pool, count: usize) -> std::ops::Range<usize> {
    let (padded, stride) = (at + window.padding[axis], window.stride[axis]);
    let first = (padded + 1).saturating_sub(window.kernel[axis]).div_ceil(stride);
    first.min(count)..(padded / stride + 1).min(count)
}
