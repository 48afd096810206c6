//! Linear layers in 8 bits: weights with a scale for each output, activations with a scale for each row that is found when
//! they are read (as in Dettmers et al. 2022, "LLM.int8()", without their outliers).
//!
//! Activations are stored as `q + 128` without a sign, because that is what processors multiply with signed bytes; 128
//! times the sum of a column's weights is taken off again. Sums of whole numbers are exact, so that the only error is
//! the rounding of the operands.

use super::driver::Dequantize;
use super::finish::Finish;
use super::linear;
use super::pack::{Layout, Number};
use super::packed::PackedMatrix;
use super::prepare::Rows;
use super::tile::STEP;
use crate::kernels::elementwise::dispatch::{Shared, for_chunks, simd};
use crate::{Data, Isa, ThreadPool};

/// Largest magnitude of a quantized number.
const LARGEST: f32 = 127.0;
/// What is smaller counts as zero: its inverse would overflow.
const LEAST: f32 = 1e-30;
/// Greatest depth whose sums fit 32 bits.
pub(super) const DEEPEST: usize = (i32::MAX / (255 * 128)) as usize;
/// Added to activations.
const OFFSET: i32 = 128;

/// What takes the products of a weight back to numbers, by column.
#[derive(Debug, Default)]
pub(super) struct Columns {
    /// What a quantized weight is worth.
    pub scales: Vec<f32>,
    /// What the offset of the activations adds to a sum.
    pub offsets: Vec<i32>,
}

/// Bytes of a quantized row.
fn row_bytes(depth: usize) -> usize {
    depth.next_multiple_of(STEP)
}

/// Parts of the scratch memory for the quantized rows and their scales.
pub(super) fn parts(rows: usize, depth: usize) -> [usize; 2] {
    [rows * row_bytes(depth), rows * size_of::<f32>()]
}

/// Quantizes a weight `[columns, depth]` into the panels of `layout`.
pub(super) fn pack<T: Number>(
    pool: &ThreadPool,
    isa: Isa,
    weight: &[T],
    depth: usize,
    layout: &Layout,
    cells: &mut [u32],
) -> Columns {
    let mut columns = Columns { scales: vec![0.0; layout.columns], offsets: vec![0; layout.columns] };
    let (scales, offsets) = (Shared::new(&mut columns.scales), Shared::new(&mut columns.offsets));
    let cells = Shared::new(cells);
    pool.run(layout.panels(), |panel, _| {
        let (first, count, width) = (panel * layout.panel, layout.valid(panel), layout.width(panel));
        // SAFETY: one task for each panel and its columns.
        let (cells, scales, offsets) = unsafe {
            let cells = cells.slice(layout.start(panel), width * layout.steps);
            (cells, scales.slice(first, count), offsets.slice(first, count))
        };
        for n in 0..count {
            let column = &weight[(first + n) * depth..][..depth];
            (scales[n], offsets[n]) = quantize_column(isa, column, width, &mut cells[n..]);
        }
    });
    columns
}

simd! {
    /// Writes a column of cells, `width` apart; returns its scale and what the offset adds.
    fn quantize_column<T: Number>(column: &[T], width: usize, cells: &mut [u32]) -> (f32, i32) {
        let mut greatest = 0.0f32;
        for x in column {
            greatest = greatest.max(x.single().abs());
        }
        let inverse = if greatest > LEAST { LARGEST / greatest } else { 0.0 };
        let mut sum = 0;
        for (cell, four) in cells.iter_mut().step_by(width).zip(column.chunks(STEP)) {
            let mut bytes = [0; STEP];
            for (byte, x) in bytes.iter_mut().zip(four) {
                let q = (x.single() * inverse).round_ties_even() as i8;
                *byte = q as u8;
                sum += i32::from(q);
            }
            *cell = u32::from_le_bytes(bytes);
        }
        (greatest / LARGEST, OFFSET * sum)
    }
}

/// Quantizes the rows of `x`, and multiplies.
///
/// # Safety
/// `x` has `rows` rows of the weight's depth; `finish` was bound for `rows` rows; the memory has the [`parts`].
pub(super) unsafe fn product(
    pool: &ThreadPool,
    weight: &PackedMatrix,
    x: Data<'_>,
    rows: usize,
    finish: &Finish,
    [bytes, scales]: [*mut u8; 2],
) {
    let (isa, depth) = (weight.isa(), weight.depth);
    // SAFETY: the caller's promise.
    let (quantized, scales) = unsafe {
        let quantized = std::slice::from_raw_parts_mut(bytes, rows * row_bytes(depth));
        (quantized, std::slice::from_raw_parts_mut(scales.cast::<f32>(), rows))
    };
    match x {
        Data::F32(x) => quantize_rows(pool, isa, x, depth, quantized, scales),
        Data::Bf16(x) => quantize_rows(pool, isa, x, depth, quantized, scales),
        Data::I32(_) => unreachable!("checked by the caller"),
    }
    let x = Rows { data: bytes, stride: row_bytes(depth), group: 0 };
    let dequantize = Dequantize { columns: &weight.quantized, rows: scales };
    // SAFETY: the caller's promise.
    unsafe { linear::product(pool, weight, x, rows, Some(dequantize), finish) };
}

fn quantize_rows<T: Number>(
    pool: &ThreadPool,
    isa: Isa,
    x: &[T],
    depth: usize,
    to: &mut [u8],
    scales: &mut [f32],
) {
    let (rows, stride) = (scales.len(), row_bytes(depth));
    let (to, scales) = (Shared::new(to), Shared::new(scales));
    for_chunks(pool, rows, (1 << 14) / depth + 1, |start, count| {
        // SAFETY: chunks are disjoint.
        let (to, scales) = unsafe { (to.slice(start * stride, count * stride), scales.slice(start, count)) };
        let rows = x[start * depth..].chunks_exact(depth).zip(to.chunks_exact_mut(stride));
        for (scale, (x, to)) in scales.iter_mut().zip(rows) {
            *scale = quantize_row(isa, x, to);
        }
    });
}

simd! {
    fn quantize_row<T: Number>(x: &[T], to: &mut [u8]) -> f32 {
        // In lanes: a maximum taken in order would not be vectorised.
        let mut lanes = [0.0f32; 32];
        let whole = x.chunks_exact(32);
        for x in whole.remainder() {
            lanes[0] = lanes[0].max(x.single().abs());
        }
        for x in whole {
            for (lane, x) in lanes.iter_mut().zip(x) {
                let size = x.single().abs();
                *lane = if size > *lane { size } else { *lane };
            }
        }
        let greatest = lanes.iter().fold(0.0f32, |a, b| a.max(*b));
        let inverse = if greatest > LEAST { LARGEST / greatest } else { 0.0 };
        // Adding it leaves the nearest whole number in the low bits.
        const ROUND: f32 = 12_582_912.0;
        let (numbers, padding) = to.split_at_mut(x.len());
        for (q, x) in numbers.iter_mut().zip(x) {
            *q = ((x.single() * inverse + ROUND).to_bits() as u8).wrapping_add(OFFSET as u8);
        }
        padding.fill(OFFSET as u8);
        greatest / LARGEST
    }
}

simd! {
    /// Whole numbers, stored as the bits of `sums`, to what they stand for.
    pub(super) fn dequantize(sums: &mut [f32], offsets: &[i32], scales: &[f32], row: f32) {
        for ((sum, offset), scale) in sums.iter_mut().zip(offsets).zip(scales) {
            *sum = (sum.to_bits() as i32 - offset) as f32 * (row * scale);
        }
    }
}
