//! Gradients of weights on AMX tiles: reductions over rows, or pixels.
//!
//! ```text
//! linear       dW[o][i]      = sum over rows    dy[row][o] * x[row][i]
//! convolution  dW[o][c, t]   = sum over pixels  x[pixel + t][c] * dy[pixel][o]
//! ```
//!
//! The first operand is turned, so that a row is a channel and its steps are pairs of rows or pixels; the second is packed into
//! panels with the same steps. Both are made once, in memory; what is left is a [`Product`], that of a convolution with its output
//! turned. The pixels of a convolution lie as
//! in an image with its padding, so that a tap is nothing but another place to start reading; those of a stride are dealt out to
//! one such image for each phase. Where the gradient has no pixel it is zero.

use std::ops::Range;

use super::super::conv::ConvGeometry;
use super::super::driver::{self, Product};
use super::super::epilogue::Epilogue;
use super::super::error::GemmError;
use super::super::finish::Finish;
use super::super::pack::{Cells, Layout, Number, pack_halves};
use super::super::tile::{Kernels, ROWS, STEP};
use super::super::transpose::transpose;
use super::SIDE;
use crate::kernels::LINE;
use crate::kernels::elementwise::dispatch::with_scratch;
use crate::{DataMut, ThreadPool};

/// Columns of the turned operand that a task makes, and steps that it turns at a time.
const COLUMNS: usize = 64;
const STEPS: usize = 64;
/// Steps of a panel that a task makes.
const PART: usize = 256;

/// Lines of rows, or pixels, by which the operands are read: all that is special about a convolution.
struct Lines {
    /// Images, and rows and pixels of one, without its padding.
    images: usize,
    height: usize,
    width: usize,
    /// Rows and pixels of an image with its padding, of one phase; the pixels are even.
    rows: usize,
    pixels: usize,
}

impl Lines {
    /// Steps of a line.
    fn steps(&self) -> usize {
        self.pixels / 2
    }

    /// Lines of all images.
    fn count(&self) -> usize {
        self.images * self.rows
    }
}

/// From which pixels of an operand a line is made.
#[derive(Clone, Copy)]
struct Place {
    /// The pixel at the line's beginning, which may lie outside, and from one to the next.
    first: isize,
    step: usize,
}

/// Writes steps of a line, pairs of pixels, into rows of `width` cells: zeros where there is no pixel.
fn write_pairs<T: Number>(
    kernels: &Kernels,
    line: Option<&[T]>,
    [channel, columns, all]: [usize; 3],
    place: Place,
    pixels: usize,
    width: usize,
    to: &mut [u32],
) {
    let Some(line) = line else { return to.fill(0) };
    let steps = to.len() / width;
    let pixel = |place_in_line: usize| {
        let at = place.first + (place_in_line * place.step) as isize;
        usize::try_from(at).ok().filter(|&at| at < pixels)
    };
    let from = |at: usize| &line[at * all + channel..];
    let mut step = 0;
    while step < steps {
        let (low, high) = (pixel(2 * step), pixel(2 * step + 1));
        let mut end = step + 1;
        if low.is_some() && high.is_some() {
            while end < steps && pixel(2 * end + 1).is_some() {
                end += 1;
            }
        }
        let to = &mut to[step * width..end * width];
        let stride = 2 * place.step * all;
        pack_halves(kernels.isa, low.map(from), high.map(from), stride, columns, width, to);
        step = end;
    }
}

/// The gradient of a linear layer's weight by its sizes.
pub(in super::super) struct LinearGradient {
    kernels: &'static Kernels,
    rows: usize,
    inputs: usize,
    outputs: usize,
}

impl LinearGradient {
    pub(in super::super) fn new(kernels: &'static Kernels, [rows, inputs, outputs]: [usize; 3]) -> Self {
        LinearGradient { kernels, rows, inputs, outputs }
    }

    fn lines(&self) -> Lines {
        let pixels = self.rows.next_multiple_of(2);
        Lines { images: 1, height: 1, width: self.rows, rows: 1, pixels }
    }

    /// Bytes of memory for the turned gradient, and the panels of the input.
    pub(in super::super) fn bytes(&self) -> [usize; 2] {
        let steps = self.lines().steps();
        [self.outputs * turned_row(steps), Layout::right(self.kernels, self.inputs, steps).bytes()]
    }

    /// # Safety
    /// The operands have these sizes, the memory has [`LinearGradient::bytes`].
    pub(in super::super) unsafe fn run<T: Number>(
        &self,
        pool: &ThreadPool,
        x: &[T],
        dy: &[T],
        out: &mut [f32],
        memory: [*mut u8; 2],
    ) -> Result<(), GemmError> {
        let (lines, kernels) = (self.lines(), self.kernels);
        let mut out = DataMut::F32(out);
        let finish =
            Epilogue::default().bind("linear_weight_gradient", self.outputs, self.inputs, &mut out)?;
        let place = Place { first: 0, step: 1 };
        let row = turned_row(lines.steps());
        let [turned, panels] = memory.map(Memory);
        turn(pool, kernels, &lines, self.outputs, &turned, row, |_| (Some(dy), place));
        pack(pool, kernels, &lines, self.inputs, &panels, |_| Some(x));
        let product = Product {
            kernels,
            items: 1,
            rows: self.outputs,
            columns: self.inputs,
            segments: 1,
            steps: lines.steps(),
            row_step: STEP,
            panels: panels.0,
            item_panels: 0,
            item_columns: 0,
            first_column: 0,
            slide: None,
            dequantize: None,
            finish: &finish,
        };
        // SAFETY: the caller's promise; the operands were made with these steps.
        unsafe {
            driver::run(pool, &product, 0, |block| {
                for (i, output) in block.outputs.iter_mut().enumerate() {
                    *output = block.first + i;
                    block.pointers[i / ROWS][i % ROWS] = turned.at(*output * row);
                }
            });
        }
        Ok(())
    }
}

/// The gradient of a convolution's weight, of one group.
pub(in super::super) struct ConvGradient {
    kernels: &'static Kernels,
    g: ConvGeometry,
    lines: Lines,
}

impl ConvGradient {
    pub(in super::super) fn new(kernels: &'static Kernels, g: &ConvGeometry) -> Self {
        let beyond = |axis: usize| (g.kernel[axis] - 1) / g.stride[axis];
        let lines = Lines {
            images: g.batch,
            height: g.out_height(),
            width: g.out_width(),
            rows: g.out_height() + beyond(0),
            pixels: (g.out_width() + beyond(1)).next_multiple_of(2),
        };
        ConvGradient { kernels, g: *g, lines }
    }

    fn phases(&self) -> usize {
        self.g.stride[0] * self.g.stride[1]
    }

    fn taps(&self) -> usize {
        self.g.kernel[0] * self.g.kernel[1]
    }

    /// Steps of the images of a phase.
    fn steps(&self) -> usize {
        self.lines.count() * self.lines.steps()
    }

    /// Pixels from the beginning of the turned image to the place of a tap.
    fn shift(&self, tap: usize) -> usize {
        let [y, x] = [tap / self.g.kernel[1], tap % self.g.kernel[1]];
        let [down, across] = self.g.stride;
        let phase = y % down * across + x % across;
        phase * 2 * self.steps() + y / down * self.lines.pixels + x / across
    }

    /// Bytes of a row of the turned image, with zeros that the last taps read.
    fn row(&self) -> usize {
        let behind = (self.g.kernel[0] / self.g.stride[0] + 1) * self.lines.pixels;
        turned_row(self.phases() * self.steps() + behind)
    }

    /// Bytes of memory for the turned image, and the panels of the gradient.
    pub(in super::super) fn bytes(&self) -> [usize; 2] {
        let g = &self.g;
        [g.in_channels * self.row(), Layout::right(self.kernels, g.out_channels, self.steps()).bytes()]
    }

    /// # Safety
    /// The operands have these sizes, the memory has [`ConvGradient::bytes`].
    pub(in super::super) unsafe fn run<T: Number>(
        &self,
        pool: &ThreadPool,
        x: &[T],
        dy: &[T],
        out: &mut [f32],
        memory: [*mut u8; 2],
    ) -> Result<(), GemmError> {
        let (g, kernels, lines, row) = (&self.g, self.kernels, &self.lines, self.row());
        let [turned, panels] = memory.map(Memory);
        let [down, across] = g.stride;
        let image = Lines {
            images: self.phases() * g.batch,
            height: g.height,
            width: g.width,
            rows: lines.rows,
            pixels: lines.pixels,
        };
        turn(pool, kernels, &image, g.in_channels, &turned, row, |line| {
            let (image, y) = (line / lines.rows, line % lines.rows);
            let (phase, image) = (image / g.batch, image % g.batch);
            let y = (y * down + phase / across).checked_sub(g.padding[0]).filter(|&y| y < g.height);
            let first = (phase % across) as isize - g.padding[1] as isize;
            let of_line = |y: usize| &x[(image * g.height + y) * g.width * g.in_channels..];
            (y.map(of_line), Place { first, step: across })
        });
        pack(pool, kernels, lines, g.out_channels, &panels, |line| {
            let (image, y) = (line / lines.rows, line % lines.rows);
            let of_line = |y: usize| &dy[(image * lines.height + y) * lines.width * g.out_channels..];
            (y < lines.height).then(|| of_line(y))
        });
        let rows = self.taps() * g.in_channels;
        let mut target = DataMut::F32(out);
        let finish = Epilogue::default().bind("conv2d_weight_gradient", g.out_channels, rows, &mut target)?;
        let finish = Finish { turned: true, ..finish };
        let product = Product {
            kernels,
            items: 1,
            rows,
            columns: g.out_channels,
            segments: 1,
            steps: self.steps(),
            row_step: STEP,
            panels: panels.0,
            item_panels: 0,
            item_columns: 0,
            first_column: 0,
            slide: None,
            dequantize: None,
            finish: &finish,
        };
        // SAFETY: the caller's promise; the operands were made with these steps, and zeros behind them.
        unsafe {
            driver::run(pool, &product, 0, |block| {
                for (i, output) in block.outputs.iter_mut().enumerate() {
                    *output = block.first + i;
                    let (channel, tap) = (*output / self.taps(), *output % self.taps());
                    let start = channel * row + self.shift(tap) * size_of::<u16>();
                    block.pointers[i / ROWS][i % ROWS] = turned.at(start);
                }
            });
        }
        Ok(())
    }
}

/// Bytes of a row of so many steps.
fn turned_row(steps: usize) -> usize {
    (steps * STEP).next_multiple_of(LINE)
}

#[derive(Clone, Copy)]
struct Memory(*mut u8);

// SAFETY: tasks write disjoint parts, and read when all are written.
unsafe impl Sync for Memory {}

impl Memory {
    fn at(&self, bytes: usize) -> *mut u8 {
        self.0.wrapping_add(bytes)
    }
}

/// Turns an operand `[lines][pixels][columns]`: for each column a row of `row` bytes, of the steps of all lines, then zeros.
/// `line` tells what a line is made from.
fn turn<'a, T: Number + 'a>(
    pool: &ThreadPool,
    kernels: &Kernels,
    lines: &Lines,
    columns: usize,
    to: &Memory,
    row: usize,
    line: impl Fn(usize) -> (Option<&'a [T]>, Place) + Sync,
) {
    let (of_line, all) = (lines.steps(), lines.count() * lines.steps());
    // Some lines, or part of a long one.
    let (together, part) = ((STEPS / of_line.max(1)).max(1), of_line.min(4 * STEPS));
    let (groups, parts) = (lines.count().div_ceil(together), of_line.div_ceil(part.max(1)));
    let blocks = columns.div_ceil(COLUMNS);
    pool.run(groups * parts * blocks, |index, _| {
        let (block, index) = (index % blocks, index / blocks);
        let (group, first) = (index / parts, index % parts * part);
        let (channel, count) = (block * COLUMNS, COLUMNS.min(columns - block * COLUMNS));
        let width = count.next_multiple_of(SIDE);
        let steps = part.min(of_line - first);
        with_scratch(steps * width, |cells: &mut [u32]| {
            for number in group * together..lines.count().min((group + 1) * together) {
                let (from, mut place) = line(number);
                place.first += (2 * first * place.step) as isize;
                write_pairs(kernels, from, [channel, count, columns], place, lines.width, width, cells);
                let at = channel * row + (number * of_line + first) * STEP;
                let cells_of_row = row / STEP;
                // SAFETY: rows of all columns; tasks have columns or steps of their own.
                let to = unsafe {
                    std::slice::from_raw_parts_mut(
                        to.at(at).cast::<u32>(),
                        (count - 1) * cells_of_row + steps,
                    )
                };
                transpose(kernels.isa, cells, width, [steps, count], to, cells_of_row);
            }
        });
    });
    let behind = row - all * STEP;
    for column in 0..columns {
        // SAFETY: the end of a row.
        unsafe { to.at(column * row + all * STEP).write_bytes(0, behind) };
    }
}

/// Packs an operand `[lines][pixels][columns]` into panels of the steps of all lines.
fn pack<'a, T: Number + 'a>(
    pool: &ThreadPool,
    kernels: &Kernels,
    lines: &Lines,
    columns: usize,
    to: &Memory,
    line: impl Fn(usize) -> Option<&'a [T]> + Sync,
) {
    let of_line = lines.steps();
    let layout = Layout::right(kernels, columns, lines.count() * of_line);
    let (together, part) = ((PART / of_line.max(1)).max(1), of_line.min(PART));
    let (groups, parts) = (lines.count().div_ceil(together), of_line.div_ceil(part.max(1)));
    let cells = Cells(to.0.cast());
    pool.run(groups * parts, |index, _| {
        let (group, first) = (index / parts, index % parts * part);
        let steps = part.min(of_line - first);
        let numbers: Range<usize> = group * together..lines.count().min((group + 1) * together);
        for p in 0..layout.panels() {
            let width = layout.width(p);
            for number in numbers.clone() {
                let at = layout.start(p) + (number * of_line + first) * width;
                // SAFETY: inside the panels; tasks have steps of their own.
                let to = unsafe { std::slice::from_raw_parts_mut(cells.at(at), steps * width) };
                let sizes = [p * layout.panel, layout.valid(p), columns];
                let place = Place { first: 2 * first as isize, step: 1 };
                write_pairs(kernels, line(number), sizes, place, lines.width, width, to);
            }
        }
    });
}
