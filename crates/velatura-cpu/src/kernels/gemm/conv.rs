//! Convolution of channels-last images, and the gradient of its input, as products with row pointers.

use super::driver::{Product, RowBlock, Slide, run};
use super::epilogue::Epilogue;
use super::error::{GemmError, check_len};
use super::finish::Finish;
use super::packed::{PackedMatrix, Purpose};
use super::prepare::{Rows, rows, rows_bytes};
use super::tile::{ROWS, STEP};
use super::winograd::Tiling;
use super::{linear, scratch, winograd};
use crate::{Data, DataMut, Isa, ThreadPool};
use velatura_graph::DType;

/// A convolution: the image, the window and how it moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvGeometry {
    /// Images.
    pub batch: usize,
    /// Rows of the input.
    pub height: usize,
    /// Columns of the input.
    pub width: usize,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Rows and columns of the window.
    pub kernel: [usize; 2],
    /// Steps of the window, down and right.
    pub stride: [usize; 2],
    /// Zeros around the input: top, left, bottom, right.
    pub padding: [usize; 4],
    /// Groups of channels that do not see each other.
    pub groups: usize,
}

impl ConvGeometry {
    fn output(&self, size: usize, axis: usize) -> usize {
        let padded = size + self.padding[axis] + self.padding[axis + 2];
        padded.checked_sub(self.kernel[axis]).map_or(0, |room| room / self.stride[axis].max(1) + 1)
    }

    /// Rows of the output.
    pub fn out_height(&self) -> usize {
        self.output(self.height, 0)
    }

    /// Columns of the output.
    pub fn out_width(&self) -> usize {
        self.output(self.width, 1)
    }

    /// Pixels of all input images.
    pub fn in_pixels(&self) -> usize {
        self.batch * self.height * self.width
    }

    /// Pixels of all output images.
    pub fn out_pixels(&self) -> usize {
        self.batch * self.out_height() * self.out_width()
    }

    /// Shape of the weight, `[out, in / groups, kh, kw]`.
    pub fn weight_shape(&self) -> [usize; 4] {
        [self.out_channels, self.in_channels / self.groups, self.kernel[0], self.kernel[1]]
    }

    /// Multiplications and additions of the convolution, padding included.
    pub fn flops(&self) -> f64 {
        2.0 * self.out_pixels() as f64 * self.weight_shape().iter().product::<usize>() as f64
    }

    /// The convolution, of turned windows, that takes the gradient of the output to that of the input: only for a stride of one
    /// and a single group, and padding that leaves each window a pixel.
    pub fn input_gradient(&self) -> Option<ConvGeometry> {
        let margin = |axis: usize| (self.kernel[axis % 2] - 1).checked_sub(self.padding[axis]);
        if self.stride != [1, 1] || self.groups != 1 || self.kernel.contains(&0) {
            return None;
        }
        Some(ConvGeometry {
            height: self.out_height(),
            width: self.out_width(),
            in_channels: self.out_channels,
            out_channels: self.in_channels,
            padding: [margin(0)?, margin(1)?, margin(2)?, margin(3)?],
            ..*self
        })
    }

    /// Whether it is a linear layer over the pixels.
    pub(super) fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.padding == [0; 4] && self.groups == 1
    }

    pub(super) fn check(&self) -> Result<(), GemmError> {
        if self.kernel.contains(&0) || self.stride.contains(&0) {
            return Err(GemmError::Geometry(format!("kernel {:?}, stride {:?}", self.kernel, self.stride)));
        }
        let divides = |channels: usize| channels.is_multiple_of(self.groups);
        if self.groups == 0 || !divides(self.in_channels) || !divides(self.out_channels) {
            return Err(GemmError::Geometry(format!(
                "{} groups do not divide {} and {} channels",
                self.groups, self.in_channels, self.out_channels
            )));
        }
        Ok(())
    }

    fn check_weight(
        &self,
        operation: &'static str,
        isa: Isa,
        weight: &PackedMatrix,
        purpose: Purpose,
    ) -> Result<(), GemmError> {
        self.check()?;
        let stride = if purpose == Purpose::ConvInputGradient { self.stride } else { [1, 1] };
        let fits = weight.purpose == purpose
            && weight.shape == self.weight_shape()
            && weight.groups == self.groups
            && weight.stride == stride
            && weight.isa() == isa;
        if fits {
            return Ok(());
        }
        let [shape, groups] = [format!("{:?}", self.weight_shape()), self.groups.to_string()];
        Err(GemmError::Packing {
            operation,
            expected: format!("{purpose:?} {shape}, {groups} groups, stride {stride:?}, on {}", isa.name()),
            found: weight.description(),
        })
    }
}

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConvAlgorithm {
    /// Every product that is written.
    Direct,
    /// Winograd's algorithm; see [`winograd_pays`](super::winograd_pays).
    Winograd(Tiling),
}

/// One axis of a gather: output position `i` of `count` is written to `i * to_step + to_start`, and reads
/// `i * step + start + tap * tap_step` for each tap, where that is inside `0..size`.
#[derive(Clone, Copy, Debug)]
struct Axis {
    count: usize,
    to_step: usize,
    to_start: usize,
    size: usize,
    step: usize,
    taps: usize,
    start: isize,
    tap_step: isize,
}

impl Axis {
    fn forward(size: usize, out: usize, kernel: usize, stride: usize, padding: usize) -> Self {
        Axis {
            count: out,
            to_step: 1,
            to_start: 0,
            size,
            step: stride,
            taps: kernel,
            start: -(padding as isize),
            tap_step: 1,
        }
    }

    /// The input positions that meet the taps `phase, phase + stride, ..` of the window, reading the output's
    /// gradient of `out` positions.
    fn gradient(size: usize, out: usize, kernel: usize, stride: usize, padding: usize, phase: usize) -> Self {
        // Position i meets tap t at output (i + padding - t) / stride, where that is whole.
        let first = (phase as isize - padding as isize).rem_euclid(stride as isize) as usize;
        Axis {
            count: size.saturating_sub(first).div_ceil(stride),
            to_step: stride,
            to_start: first,
            size: out,
            step: 1,
            taps: kernel.saturating_sub(phase).div_ceil(stride),
            start: (first as isize + padding as isize - phase as isize) / stride as isize,
            tap_step: -1,
        }
    }
}

/// Names the rows of a gather from an image of `y.size` by `x.size` pixels to one `to_width` by `to_height`.
struct Gather {
    y: Axis,
    x: Axis,
    to_height: usize,
    to_width: usize,
}

impl Gather {
    fn fill(&self, source: Rows, block: &mut RowBlock<'_>) {
        let (y, x) = (&self.y, &self.x);
        let segments = y.taps * x.taps;
        let base = source.data.wrapping_add(block.item * source.group);
        let mut column = block.first % x.count;
        let mut line = block.first / x.count % y.count;
        let mut image = block.first / x.count / y.count;
        for (i, output) in block.outputs.iter_mut().enumerate() {
            *output = (image * self.to_height + line * y.to_step + y.to_start) * self.to_width
                + column * x.to_step
                + x.to_start;
            let table = &mut block.pointers[i / ROWS * segments..][..segments];
            let (first_y, first_x) =
                ((line * y.step) as isize + y.start, (column * x.step) as isize + x.start);
            for (tap_y, table) in table.chunks_exact_mut(x.taps.max(1)).enumerate() {
                let at_y = first_y + tap_y as isize * y.tap_step;
                let inside = (at_y as usize) < y.size;
                // A miss may wrap around; its pointer is not used.
                let pixels = (image * y.size).wrapping_add(at_y as usize).wrapping_mul(x.size);
                let row = base.wrapping_add(pixels.wrapping_mul(source.stride));
                for (tap_x, pointers) in table.iter_mut().enumerate() {
                    let at_x = (first_x + tap_x as isize * x.tap_step) as usize;
                    let pointer = row.wrapping_add(at_x.wrapping_mul(source.stride));
                    pointers[i % ROWS] = if inside && at_x < x.size { pointer } else { block.zeros };
                }
            }
            column += 1;
            if column == x.count {
                column = 0;
                line += 1;
                if line == y.count {
                    line = 0;
                    image += 1;
                }
            }
        }
    }

    /// How the window slides, if it does so pixel by pixel along lines of whole pairs of AMX tiles.
    fn slide(&self) -> Option<Slide> {
        let x = &self.x;
        let slides = x.step == 1 && x.taps > 1 && x.count.is_multiple_of(Slide::ROWS);
        slides.then_some(Slide { taps: x.taps, backward: x.tap_step < 0 })
    }

    /// # Safety
    /// `source` has the pixels of `batch` images; `finish` was bound for the pixels written.
    unsafe fn run(
        &self,
        pool: &ThreadPool,
        batch: usize,
        source: Rows,
        weight: &PackedMatrix,
        part: usize,
        finish: &Finish,
    ) {
        let rows = batch * self.y.count * self.x.count;
        let sizes = [rows, weight.steps(), weight.columns];
        let product = Product {
            items: weight.groups,
            segments: self.y.taps * self.x.taps,
            item_panels: weight.layout(part).bytes(),
            item_columns: weight.columns,
            slide: self.slide(),
            ..Product::new(weight.kernels, sizes, weight.panels(part), finish)
        };
        // SAFETY: the caller's promise; pointers are to pixels of the source or to a pixel of zeros.
        unsafe { run(pool, &product, weight.steps() * STEP, |block| self.fill(source, block)) };
    }
}

/// Bytes of scratch memory that [`conv2d`] needs for an image stored as `storage`; often zero.
pub fn conv2d_scratch_bytes(
    isa: Isa,
    storage: DType,
    geometry: &ConvGeometry,
    algorithm: ConvAlgorithm,
) -> usize {
    let g = geometry;
    let kernels = linear::kernels_for(isa, storage);
    if let ConvAlgorithm::Winograd(tiling) = algorithm {
        return scratch::total(&[winograd::bytes(kernels, tiling, g)]);
    }
    let depth = g.in_channels / g.groups.max(1);
    scratch::total(&[rows_bytes(kernels, storage, g.in_pixels(), g.groups, depth)])
}

/// Bytes of scratch memory that [`conv2d_input_gradient`] needs for gradients stored as `storage`; often zero.
pub fn conv2d_input_gradient_scratch_bytes(
    isa: Isa,
    storage: DType,
    geometry: &ConvGeometry,
    algorithm: ConvAlgorithm,
) -> usize {
    let g = geometry;
    if let (ConvAlgorithm::Winograd(_), Some(gradient)) = (algorithm, g.input_gradient()) {
        return conv2d_scratch_bytes(isa, storage, &gradient, algorithm);
    }
    let kernels = linear::kernels_for(isa, storage);
    let depth = g.out_channels / g.groups.max(1);
    scratch::total(&[rows_bytes(kernels, storage, g.out_pixels(), g.groups, depth)])
}

/// `out = epilogue(conv(x))`: x `[N, H, W, in]`, out `[N, H', W', out]`, weight from [`PackedMatrix::conv2d`], or from
/// [`PackedMatrix::conv2d_winograd`] where the window is 3x3 of stride 1 and the channels a multiple of 16.
///
/// `x` must be stored as the weight was packed for; `out` and the epilogue's operands in either
/// floating-point type.
///
/// # Errors
/// Operands that do not fit together.
pub fn conv2d(
    pool: &ThreadPool,
    isa: Isa,
    geometry: &ConvGeometry,
    x: Data<'_>,
    weight: &PackedMatrix,
    epilogue: &Epilogue<'_>,
    mut out: DataMut<'_>,
    scratch: &mut [u8],
) -> Result<(), GemmError> {
    let (operation, g) = ("conv2d", geometry);
    let winograd = match weight.purpose {
        Purpose::ConvWinograd(tiling) => Some(tiling),
        _ => None,
    };
    g.check_weight(operation, isa, weight, winograd.map_or(Purpose::Conv, Purpose::ConvWinograd))?;
    check_len(operation, "the input", g.in_pixels() * g.in_channels, x.len())?;
    if epilogue.gate.is_some() {
        return Err(GemmError::Geometry("a gate after a convolution".into()));
    }
    let finish = epilogue.bind(operation, g.out_pixels(), g.out_channels, &mut out)?;
    if let Some(tiling) = winograd {
        return by_winograd(pool, operation, tiling, g, x, weight, &finish, scratch);
    }
    let bytes = rows_bytes(weight.kernels, x.dtype(), g.in_pixels(), g.groups, weight.depth);
    let [memory] = scratch::cut(operation, scratch, [bytes])?;
    // SAFETY: lengths were checked, and the scratch memory was cut for it.
    unsafe {
        let x = rows(pool, weight.kernels, operation, x, [g.in_pixels(), g.groups, weight.depth], memory)?;
        if g.is_pointwise() {
            linear::product(pool, weight, x, g.out_pixels(), None, &finish);
            return Ok(());
        }
        let (to_height, to_width) = (g.out_height(), g.out_width());
        let gather = Gather {
            y: Axis::forward(g.height, to_height, g.kernel[0], g.stride[0], g.padding[0]),
            x: Axis::forward(g.width, to_width, g.kernel[1], g.stride[1], g.padding[1]),
            to_height,
            to_width,
        };
        gather.run(pool, g.batch, x, weight, 0, &finish);
    }
    Ok(())
}

/// A convolution by Winograd's algorithm, whose operands fit together.
fn by_winograd(
    pool: &ThreadPool,
    operation: &'static str,
    tiling: Tiling,
    g: &ConvGeometry,
    x: Data<'_>,
    weight: &PackedMatrix,
    finish: &Finish,
    scratch: &mut [u8],
) -> Result<(), GemmError> {
    if g.stride != [1, 1] || !g.in_channels.is_multiple_of(16) {
        return Err(GemmError::Geometry(format!("{g:?}, for Winograd")));
    }
    let [memory] = scratch::cut(operation, scratch, [winograd::bytes(weight.kernels, tiling, g)])?;
    // SAFETY: lengths were checked, and the scratch memory was cut for it.
    unsafe { winograd::conv2d(pool, tiling, g, x, weight, finish, memory) }
}

/// The gradient of a convolution's input: dy `[N, H', W', out]` to `[N, H, W, in]`, weight from
/// [`PackedMatrix::conv2d_input_gradient`], or from [`PackedMatrix::conv2d_input_gradient_winograd`] where the window is 3x3 of
/// stride 1 and the channels a multiple of 16; the residual, where given, is added.
///
/// Positions of the input are taken by phase of the stride, so that each sums over just the taps that it met.
///
/// # Errors
/// Operands that do not fit together.
pub fn conv2d_input_gradient(
    pool: &ThreadPool,
    isa: Isa,
    geometry: &ConvGeometry,
    dy: Data<'_>,
    weight: &PackedMatrix,
    residual: Option<Data<'_>>,
    mut out: DataMut<'_>,
    scratch: &mut [u8],
) -> Result<(), GemmError> {
    let (operation, g) = ("conv2d_input_gradient", geometry);
    let winograd = match weight.purpose {
        Purpose::ConvInputGradientWinograd(tiling) => Some(tiling),
        _ => None,
    };
    let purpose = winograd.map_or(Purpose::ConvInputGradient, Purpose::ConvInputGradientWinograd);
    g.check_weight(operation, isa, weight, purpose)?;
    check_len(operation, "the gradient", g.out_pixels() * g.out_channels, dy.len())?;
    let epilogue = Epilogue { residual, ..Epilogue::default() };
    let finish = epilogue.bind(operation, g.in_pixels(), g.in_channels, &mut out)?;
    if let Some(tiling) = winograd {
        let Some(gradient) = g.input_gradient() else {
            return Err(GemmError::Geometry(format!("{g:?}, for Winograd")));
        };
        return by_winograd(pool, operation, tiling, &gradient, dy, weight, &finish, scratch);
    }
    let bytes = rows_bytes(weight.kernels, dy.dtype(), g.out_pixels(), g.groups, weight.depth);
    let [memory] = scratch::cut(operation, scratch, [bytes])?;
    // SAFETY: lengths were checked, and the scratch memory was cut for it.
    unsafe {
        let dy = rows(pool, weight.kernels, operation, dy, [g.out_pixels(), g.groups, weight.depth], memory)?;
        if g.is_pointwise() {
            linear::product(pool, weight, dy, g.in_pixels(), None, &finish);
            return Ok(());
        }
        let axis = |i: usize, size, out, phase| {
            Axis::gradient(size, out, g.kernel[i], g.stride[i], g.padding[i], phase)
        };
        for phase_y in 0..g.stride[0] {
            for phase_x in 0..g.stride[1] {
                let gather = Gather {
                    y: axis(0, g.height, g.out_height(), phase_y),
                    x: axis(1, g.width, g.out_width(), phase_x),
                    to_height: g.height,
                    to_width: g.width,
                };
                gather.run(pool, g.batch, dy, weight, phase_y * g.stride[1] + phase_x, &finish);
            }
        }
    }
    Ok(())
}
