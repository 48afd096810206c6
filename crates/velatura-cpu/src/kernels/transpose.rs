//! Rows that become columns: matrices of 32-bit cells, turned sixteen by sixteen in registers.

use crate::Isa;

/// Cells of a side of what is turned at once.
const SIDE: usize = 16;

/// `to[column * to_stride + row] = from[row * from_stride + column]` for so many rows and columns.
pub(crate) fn transpose(
    isa: Isa,
    from: &[u32],
    from_stride: usize,
    [rows, columns]: [usize; 2],
    to: &mut [u32],
    to_stride: usize,
) {
    if rows == 0 || columns == 0 {
        return;
    }
    assert!((columns - 1) * to_stride + rows <= to.len());
    // SAFETY: looked at above.
    unsafe { transpose_to(isa, from, from_stride, [rows, columns], to.as_mut_ptr(), to_stride) };
}

/// [`transpose`] into memory of which other threads may write other parts meanwhile.
///
/// # Safety
/// Nothing else touches `rows` cells of each of the `columns` rows of `to`, which are there.
pub(crate) unsafe fn transpose_to(
    isa: Isa,
    from: &[u32],
    from_stride: usize,
    [rows, columns]: [usize; 2],
    to: *mut u32,
    to_stride: usize,
) {
    if rows == 0 || columns == 0 {
        return;
    }
    assert!((rows - 1) * from_stride + columns <= from.len());
    for row in (0..rows).step_by(SIDE) {
        for column in (0..columns).step_by(SIDE) {
            let sides = [SIDE.min(rows - row), SIDE.min(columns - column)];
            let from = &from[row * from_stride + column..];
            let to = to.wrapping_add(column * to_stride + row);
            // SAFETY: kernels are called with an instruction set that the processor supports; what is left of the one matrix
            // was looked at above, the other is the caller's promise.
            unsafe {
                match isa {
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512 | Isa::Amx => avx512(from.as_ptr(), from_stride, sides, to, to_stride),
                    _ => plain(from, from_stride, sides, to, to_stride),
                }
            }
        }
    }
}

/// # Safety
/// As for [`transpose_to`].
unsafe fn plain(
    from: &[u32],
    from_stride: usize,
    [rows, columns]: [usize; 2],
    to: *mut u32,
    to_stride: usize,
) {
    let (whole_rows, whole_columns) = (rows / 4 * 4, columns / 4 * 4);
    for row in (0..whole_rows).step_by(4) {
        for column in (0..whole_columns).step_by(4) {
            // SAFETY: the caller's promise.
            unsafe {
                let from = from.as_ptr().add(row * from_stride + column);
                square(from, from_stride, to.add(column * to_stride + row), to_stride);
            }
        }
    }
    for row in 0..rows {
        let begin = if row < whole_rows { whole_columns } else { 0 };
        for column in begin..columns {
            // SAFETY: the caller's promise.
            unsafe { to.add(column * to_stride + row).write(from[row * from_stride + column]) };
        }
    }
}

/// Transposes four by four elements.
///
/// # Safety
/// Four rows of four elements at these distances are inside of both allocations.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn square(from: *const u32, from_stride: usize, to: *mut u32, to_stride: usize) {
    use std::arch::x86_64::*;
    // SAFETY: the caller's promise; every x86-64 processor has these instructions.
    unsafe {
        let load = |row: usize| _mm_loadu_ps(from.add(row * from_stride).cast());
        let (a, b, c, d) = (load(0), load(1), load(2), load(3));
        let (ab_low, ab_high) = (_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
        let (cd_low, cd_high) = (_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
        let store = |row: usize, x: __m128| _mm_storeu_ps(to.add(row * to_stride).cast(), x);
        store(0, _mm_movelh_ps(ab_low, cd_low));
        store(1, _mm_movehl_ps(cd_low, ab_low));
        store(2, _mm_movelh_ps(ab_high, cd_high));
        store(3, _mm_movehl_ps(cd_high, ab_high));
    }
}

/// Transposes four by four elements.
///
/// # Safety
/// Four rows of four elements at these distances are inside of both allocations.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
unsafe fn square(from: *const u32, from_stride: usize, to: *mut u32, to_stride: usize) {
    for row in 0..4 {
        for column in 0..4 {
            // SAFETY: the caller's promise.
            unsafe { *to.add(column * to_stride + row) = *from.add(row * from_stride + column) };
        }
    }
}

/// At most [`SIDE`] rows and columns.
///
/// # Safety
/// Both matrices have these rows and columns.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
// Loops of constant length over places keep the values in registers.
#[allow(clippy::needless_range_loop)]
unsafe fn avx512(
    from: *const u32,
    from_stride: usize,
    [rows, columns]: [usize; 2],
    to: *mut u32,
    to_stride: usize,
) {
    use std::arch::x86_64::*;
    let (of_rows, of_columns) = (u16::MAX >> (SIDE - rows), u16::MAX >> (SIDE - columns));
    let mut a = [_mm512_setzero_si512(); SIDE];
    for i in 0..SIDE {
        if i < rows {
            // SAFETY: the caller's promise; only the columns are read.
            a[i] = unsafe { _mm512_maskz_loadu_epi32(of_columns, from.add(i * from_stride).cast()) };
        }
    }
    // Pairs of rows, then fours: after that quarter `q` of `a[4 * g + c]` is column `4 * q + c` of the rows from `4 * g` on.
    let mut b = a;
    for i in 0..SIDE / 2 {
        b[2 * i] = _mm512_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
        b[2 * i + 1] = _mm512_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
    }
    for g in 0..4 {
        for c in 0..2 {
            a[4 * g + 2 * c] = _mm512_unpacklo_epi64(b[4 * g + c], b[4 * g + c + 2]);
            a[4 * g + 2 * c + 1] = _mm512_unpackhi_epi64(b[4 * g + c], b[4 * g + c + 2]);
        }
    }
    // Quarters 0 and 2, and 1 and 3, of two fours; then one of four.
    const EVEN: i32 = 0b10_00_10_00;
    const ODD: i32 = 0b11_01_11_01;
    for c in 0..4 {
        let even = _mm512_shuffle_i32x4::<EVEN>(a[c], a[4 + c]);
        let more_even = _mm512_shuffle_i32x4::<EVEN>(a[8 + c], a[12 + c]);
        let odd = _mm512_shuffle_i32x4::<ODD>(a[c], a[4 + c]);
        let more_odd = _mm512_shuffle_i32x4::<ODD>(a[8 + c], a[12 + c]);
        b[c] = _mm512_shuffle_i32x4::<EVEN>(even, more_even);
        b[4 + c] = _mm512_shuffle_i32x4::<EVEN>(odd, more_odd);
        b[8 + c] = _mm512_shuffle_i32x4::<ODD>(even, more_even);
        b[12 + c] = _mm512_shuffle_i32x4::<ODD>(odd, more_odd);
    }
    for i in 0..SIDE {
        if i < columns {
            // SAFETY: the caller's promise; only the rows are written.
            unsafe { _mm512_mask_storeu_epi32(to.add(i * to_stride).cast(), of_rows, b[i]) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_goes_where_it_belongs() {
        for isa in Isa::supported() {
            for [rows, columns] in [[1, 1], [16, 16], [3, 20], [40, 9], [17, 33], [64, 48]] {
                let (from_stride, to_stride) = (columns + 3, rows + 5);
                let from: Vec<u32> = (1..=(rows * from_stride) as u32).collect();
                let mut to = vec![0; columns * to_stride];
                transpose(isa, &from, from_stride, [rows, columns], &mut to, to_stride);
                for (i, &got) in to.iter().enumerate() {
                    let (column, row) = (i / to_stride, i % to_stride);
                    let expected = if row < rows { from[row * from_stride + column] } else { 0 };
                    assert_eq!(got, expected, "{isa:?}, {rows}x{columns}, row {row}, column {column}");
                }
            }
        }
    }
}
