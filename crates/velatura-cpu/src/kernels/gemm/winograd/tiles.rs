//! Tiles: which pixels of an image they are.

use super::super::conv::ConvGeometry;
use super::Tiling;
use std::ops::Range;

/// Tiles of the output, counted over all images.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    pub tiling: Tiling,
    down: usize,
    across: usize,
    pub out_height: usize,
    pub out_width: usize,
}

impl Tiles {
    pub fn new(tiling: Tiling, g: &ConvGeometry) -> Self {
        let [down, across] = tiling.out();
        let (out_height, out_width) = (g.out_height(), g.out_width());
        let (down, across) = (out_height.div_ceil(down), out_width.div_ceil(across));
        Tiles { tiling, down, across, out_height, out_width }
    }

    /// Tiles of one image.
    pub fn of_image(&self) -> usize {
        self.down * self.across
    }

    /// Image, and the first row and column of the output.
    pub fn place(&self, tile: usize) -> [usize; 3] {
        let (image, tile) = (tile / self.of_image(), tile % self.of_image());
        let [down, across] = self.tiling.out();
        [image, tile / self.across * down, tile % self.across * across]
    }
}

/// The pixels of a tile, some of which may lie outside of the image, where all is zero.
#[derive(Clone)]
pub(in super::super) struct Pixels {
    /// The first channel of the upper left one, which may be outside.
    first: *const u8,
    /// Bytes from row to row, and from column to column.
    row: usize,
    column: usize,
    /// Rows and columns that are inside.
    rows: Range<usize>,
    columns: Range<usize>,
    /// Whether they are brain floating-point numbers.
    pub narrow: bool,
    /// A multiple of the vector's lanes.
    pub channels: usize,
}

/// Zeros in place of pixels outside of the image, for as many channels as a vector may read.
static ZEROS: [f32; 16] = [0.0; 16];

impl Pixels {
    /// Zero throughout.
    pub fn zero(narrow: bool, channels: usize) -> Self {
        Pixels { first: std::ptr::null(), row: 0, column: 0, rows: 0..0, columns: 0..0, narrow, channels }
    }

    /// Whether all of `down` by `across` pixels are inside.
    #[inline(always)]
    pub fn are_inside(&self, down: usize, across: usize) -> bool {
        (self.rows.len(), self.columns.len()) == (down, across)
    }

    /// The channel of a pixel inside.
    #[inline(always)]
    pub fn at(&self, y: usize, x: usize, channel: usize) -> *const u8 {
        let size = if self.narrow { 2 } else { 4 };
        self.first.wrapping_add(y * self.row + x * self.column + channel * size)
    }

    /// The channel of any pixel.
    #[inline(always)]
    pub fn at_or_zero(&self, y: usize, x: usize, channel: usize) -> *const u8 {
        match self.rows.contains(&y) && self.columns.contains(&x) {
            true => self.at(y, x, channel),
            false => ZEROS.as_ptr().cast(),
        }
    }
}

/// Finds the pixels of tiles in images.
pub(super) struct Reader {
    pub image: *const u8,
    pub narrow: bool,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    /// Zeros before the image: top, left.
    pub padding: [usize; 2],
    /// Pixels of a tile, down and across.
    pub size: [usize; 2],
    pub places: Tiles,
}

// SAFETY: the image is only read.
unsafe impl Sync for Reader {}

impl Reader {
    pub fn pixels(&self, tile: usize) -> Pixels {
        let [image, row, column] = self.places.place(tile);
        let inside = |first: usize, padding: usize, size: usize, all: usize| {
            let start = padding.saturating_sub(first).min(size);
            start..(all + padding).saturating_sub(first).clamp(start, size)
        };
        let rows = inside(row, self.padding[0], self.size[0], self.height);
        let columns = inside(column, self.padding[1], self.size[1], self.width);
        let pixel = self.channels * if self.narrow { 2 } else { 4 };
        let y = (image * self.height + row).wrapping_sub(self.padding[0]);
        let first = y.wrapping_mul(self.width).wrapping_add(column).wrapping_sub(self.padding[1]);
        Pixels {
            first: self.image.wrapping_add(first.wrapping_mul(pixel)),
            row: self.width * pixel,
            column: pixel,
            rows,
            columns,
            narrow: self.narrow,
            channels: self.channels,
        }
    }
}
