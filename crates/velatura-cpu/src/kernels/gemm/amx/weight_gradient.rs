//! Gradients of weights on AMX tiles: reductions over pixels, or the rows of a linear layer, which is a convolution of one tap
//! over one line.
//!
//! ```text
//! dW[o][c, tap] = sum over pixels  x[pixel + tap][c] * dy[pixel][o]
//! ```
//!
//! The image is turned, so that a row is a channel and its steps are pairs of pixels; the gradient is packed into panels with the
//! same steps. Both are made once, in memory; what is left is a [`Product`] with its output turned. Pixels lie as in an image
//! with its padding, so that a tap is nothing but another place to start reading; those of a stride are dealt out to one such
//! image for each phase. Where the gradient has no pixel it is zero.

use std::ops::Range;

use super::super::conv::ConvGeometry;
use super::super::driver::{self, Product};
use super::super::epilogue::Epilogue;
use super::super::error::GemmError;
use super::super::pack::{Cells, Layout, Number, pack_halves};
use super::super::tile::{Kernels, ROWS, STEP};
use super::SIDE;
use crate::kernels::LINE;
use crate::kernels::elementwise::dispatch::with_scratch;
use crate::kernels::transpose::transpose_to;
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

/// The gradient of the weight of a convolution of one group.
pub(in super::super) struct WeightGradient {
    kernels: &'static Kernels,
    g: ConvGeometry,
    lines: Lines,
}

impl WeightGradient {
    pub(in super::super) fn new(kernels: &'static Kernels, g: &ConvGeometry) -> Self {
        let beyond = |axis: usize| (g.kernel[axis] - 1) / g.stride[axis];
        let lines = Lines {
            images: g.batch,
            height: g.out_height(),
            width: g.out_width(),
            rows: g.out_height() + beyond(0),
            pixels: (g.out_width() + beyond(1)).next_multiple_of(2),
        };
        WeightGradient { kernels, g: *g, lines }
    }

    /// That of a linear layer.
    pub(in super::super) fn linear(kernels: &'static Kernels, [rows, inputs, outputs]: [usize; 3]) -> Self {
        let g = ConvGeometry {
            batch: 1,
            height: 1,
            width: rows,
            in_channels: inputs,
            out_channels: outputs,
            kernel: [1, 1],
            stride: [1, 1],
            padding: [0; 4],
            groups: 1,
        };
        Self::new(kernels, &g)
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

    /// Cells of a row of the turned image, with zeros that the last taps read.
    fn row(&self) -> usize {
        let [down, across] = [0, 1].map(|axis| (self.g.kernel[axis] - 1) / self.g.stride[axis]);
        let behind = (down * self.lines.pixels + across).div_ceil(2);
        turned_row(self.phases() * self.steps() + behind)
    }

    /// Bytes of memory for the turned image, and the panels of the gradient.
    pub(in super::super) fn bytes(&self) -> [usize; 2] {
        let g = &self.g;
        [g.in_channels * self.row() * STEP, Layout::right(self.kernels, g.out_channels, self.steps()).bytes()]
    }

    /// # Safety
    /// The operands have these sizes, the memory has [`WeightGradient::bytes`].
    pub(in super::super) unsafe fn run<T: Number>(
        &self,
        pool: &ThreadPool,
        operation: &'static str,
        x: &[T],
        dy: &[T],
        out: &mut [f32],
        memory: [*mut u8; 2],
    ) -> Result<(), GemmError> {
        let (g, kernels, lines, row) = (&self.g, self.kernels, &self.lines, self.row());
        let [turned, panels] = memory.map(|memory| Cells(memory.cast()));
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
        let finish = Epilogue::default().bind(operation, g.out_channels, rows, &mut target)?;
        let sizes = [rows, self.steps(), g.out_channels];
        let product =
            Product { turned: true, ..Product::new(kernels, sizes, panels.0.cast_const().cast(), &finish) };
        // SAFETY: the caller's promise; the operands were made with these steps, and zeros behind them.
        unsafe {
            driver::run(pool, &product, 0, |block| {
                for (i, output) in block.outputs.iter_mut().enumerate() {
                    *output = block.first + i;
                    let (channel, tap) = (*output / self.taps(), *output % self.taps());
                    let row = turned.at(channel * row).cast::<u16>();
                    block.pointers[i / ROWS][i % ROWS] = row.wrapping_add(self.shift(tap)).cast();
                }
            });
        }
        Ok(())
    }
}

/// Cells of a row of so many steps: whole lines of the caches.
pub(in super::super) fn turned_row(steps: usize) -> usize {
    steps.next_multiple_of(LINE / STEP)
}

/// Turns a matrix `[depth, columns]`: for each column a row of [`turned_row`] cells, of pairs of its numbers, then zeros.
pub(in super::super) fn turn_rows<T: Number>(
    pool: &ThreadPool,
    kernels: &Kernels,
    matrix: &[T],
    [depth, columns]: [usize; 2],
    to: &Cells,
) {
    let pixels = depth.next_multiple_of(2);
    let lines = Lines { images: 1, height: 1, width: depth, rows: 1, pixels };
    let row = turned_row(lines.steps());
    turn(pool, kernels, &lines, columns, to, row, |_| (Some(matrix), Place { first: 0, step: 1 }));
}

/// Turns an operand `[lines][pixels][columns]`: for each column a row of `row` cells, of the steps of all lines, then zeros.
/// `line` tells what a line is made from.
fn turn<'a, T: Number + 'a>(
    pool: &ThreadPool,
    kernels: &Kernels,
    lines: &Lines,
    columns: usize,
    to: &Cells,
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
                let to = to.at(channel * row + number * of_line + first);
                // SAFETY: rows of all columns; tasks have columns or steps of their own.
                unsafe { transpose_to(kernels.isa, cells, width, [steps, count], to, row) };
            }
        });
    });
    for column in 0..columns {
        // SAFETY: the end of a row.
        unsafe { to.at(column * row + all).write_bytes(0, row - all) };
    }
}

/// Packs an operand `[lines][pixels][columns]` into panels of the steps of all lines.
fn pack<'a, T: Number + 'a>(
    pool: &ThreadPool,
    kernels: &Kernels,
    lines: &Lines,
    columns: usize,
    to: &Cells,
    line: impl Fn(usize) -> Option<&'a [T]> + Sync,
) {
    let of_line = lines.steps();
    let layout = Layout::right(kernels, columns, lines.count() * of_line);
    let (together, part) = ((PART / of_line.max(1)).max(1), of_line.min(PART));
    let (groups, parts) = (lines.count().div_ceil(together), of_line.div_ceil(part.max(1)));
    pool.run(groups * parts, |index, _| {
        let (group, first) = (index / parts, index % parts * part);
        let steps = part.min(of_line - first);
        let numbers: Range<usize> = group * together..lines.count().min((group + 1) * together);
        for p in 0..layout.panels() {
            let width = layout.width(p);
            for number in numbers.clone() {
                let at = layout.start(p) + (number * of_line + first) * width;
                // SAFETY: inside the panels; tasks have steps of their own.
                let to = unsafe { std::slice::from_raw_parts_mut(to.at(at), steps * width) };
                let sizes = [p * layout.panel, layout.valid(p), columns];
                let place = Place { first: 2 * first as isize, step: 1 };
                write_pairs(kernels, line(number), sizes, place, lines.width, width, to);
            }
        }
    });
}
