//! How the rows of a matrix lie in memory.

use half::bf16;

use super::elementwise::dispatch::{Shared, Stored, simd};

/// An order of the elements of a matrix `[rows, columns]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Order {
    /// Row after row.
    #[default]
    Rows,
    /// Blocks of 32 rows by 32 columns, `[rows / 32, columns / 32, 32, 32]`: of brain floating-point numbers two AMX tiles. Products
    /// on such tiles read them as they are.
    Tiles,
}

/// Rows, and columns, of a block.
pub(crate) const SIDE: usize = 32;

impl Order {
    /// Whether a matrix of this shape can have the order: it is whole blocks.
    pub fn takes(self, [rows, columns]: [usize; 2]) -> bool {
        self == Order::Rows || rows.is_multiple_of(SIDE) && columns.is_multiple_of(SIDE)
    }

    /// Elements before that of a row and a column, of a matrix of so many columns. Those behind it follow up to the end of the row,
    /// or of the block.
    #[inline(always)]
    pub(crate) fn place(self, row: usize, column: usize, columns: usize) -> usize {
        match self {
            Order::Rows => row * columns + column,
            Order::Tiles => {
                let block = row / SIDE * columns + column / SIDE * SIDE;
                block * SIDE + row % SIDE * SIDE + column % SIDE
            }
        }
    }

    /// Writes some elements of a row, from a column on, of a matrix of so many columns.
    ///
    /// # Safety
    /// As for [`Shared::slice`].
    #[inline(always)]
    pub(crate) unsafe fn write<T: Stored>(
        self,
        out: &Shared<'_, T>,
        row: usize,
        mut column: usize,
        columns: usize,
        values: &[f32],
    ) {
        let before_end = column.wrapping_neg() % SIDE;
        let mut write = |values: &[f32]| {
            if !values.is_empty() {
                let place = self.place(row, column, columns);
                // SAFETY: the caller's promise.
                let to = unsafe { out.slice(place, values.len()) };
                to.iter_mut().zip(values).for_each(|(to, &x)| *to = T::of(x));
            }
            column += values.len();
        };
        if self == Order::Rows {
            return write(values);
        }
        // The end of a block, whole ones, and the beginning of one.
        let (end, rest) = values.split_at(before_end.min(values.len()));
        write(end);
        let blocks = rest.chunks_exact(SIDE);
        let beginning = blocks.remainder();
        blocks.for_each(&mut write);
        write(beginning);
    }
}

simd! {
    /// Copies rows of `columns` elements, from row `first` of the blocks of these tiles on.
    pub(crate) fn copy_to_tiles(rows: &[bf16], first: usize, columns: usize, tiles: &mut [bf16]) {
        for (block, tile) in tiles.chunks_exact_mut(SIDE * SIDE).enumerate() {
            let rows = rows.chunks_exact(columns).map(|row| &row[block * SIDE..][..SIDE]);
            for (to, from) in tile.chunks_exact_mut(SIDE).skip(first).zip(rows) {
                to.copy_from_slice(from);
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::Isa;

    /// Rows of so many columns, in tiles.
    pub(in crate::kernels) fn in_tiles<T: Copy>(rows: &[T], columns: usize) -> Vec<T> {
        let mut tiles = rows.to_vec();
        for (i, x) in rows.iter().enumerate() {
            tiles[Order::Tiles.place(i / columns, i % columns, columns)] = *x;
        }
        tiles
    }

    #[test]
    fn every_element_has_its_own_place() {
        let [rows, columns] = [64, 96];
        let mut seen = vec![false; rows * columns];
        for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
            let place = Order::Tiles.place(row, column, columns);
            assert!(!std::mem::replace(&mut seen[place], true));
            // `[rows / 32, columns / 32, 32, 32]`
            let block = (row / 32) * (columns / 32) + column / 32;
            assert_eq!(place, block * 1024 + row % 32 * 32 + column % 32);
        }
        assert!(Order::Tiles.takes([rows, columns]) && !Order::Tiles.takes([rows, 40]));
        assert!(!Order::Tiles.takes([33, columns]) && Order::Rows.takes([33, 40]));
    }

    #[test]
    fn rows_come_to_their_places() {
        let [rows, columns] = [32, 160];
        let values: Vec<f32> = (0..rows * columns).map(|i| (i % 251) as f32).collect();
        let narrow: Vec<bf16> = values.iter().map(|&x| bf16::from_f32(x)).collect();
        let expected = in_tiles(&narrow, columns);
        for isa in Isa::supported() {
            let mut copied = vec![bf16::ZERO; rows * columns];
            for (some, rows) in narrow.chunks(8 * columns).enumerate() {
                copy_to_tiles(isa, rows, 8 * some, columns, &mut copied);
            }
            assert_eq!(copied, expected);
        }
        // Pieces that do not end where blocks do, of which some are shorter than one.
        for length in [40, 10, 160] {
            let mut copied = vec![bf16::ZERO; rows * columns];
            let out = Shared::new(&mut copied);
            for (row, values) in values.chunks(columns).enumerate() {
                for (piece, values) in values.chunks(length).enumerate() {
                    // SAFETY: one after the other.
                    unsafe { Order::Tiles.write(&out, row, piece * length, columns, values) };
                }
            }
            assert_eq!(copied, expected);
        }
    }
}
