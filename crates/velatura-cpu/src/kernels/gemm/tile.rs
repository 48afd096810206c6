//! The tile kernel: up to six rows by one panel of columns of a product, accumulated in registers.
//!
//! ```text
//! for s in segments:                        a filter tap, a row of an image, or the whole depth at once
//!     for k in steps:
//!         for r in rows:
//!             C[r][..] += A[s][r][k] * B[s][k][..]
//! ```
//!
//! Every row of every segment has its own pointer, so a convolution needs no copy of its patches and its
//! padding is a pointer to zeros. A step is 32 bits of a row: a single-precision number, or two brain
//! floating-point numbers that meet two rows of B. Each element of C is one chain of additions in the order
//! of the loops, whatever tile it falls in: that is what makes results independent of how work is split.

use velatura_graph::Activation;

use super::lanes::{Lanes, Plain};
use crate::Isa;
use crate::kernels::elementwise::dispatch::simd;
use crate::kernels::elementwise::math::{activate, for_activation};

/// Rows of a full tile. Six rows of four 512-bit vectors are 24 accumulators and leave room for four
/// vectors of B and one of A; on AVX2 six by two are 12 of the 16 registers.
pub(super) const ROWS: usize = 6;

/// Bytes of one step of one row or column.
pub(super) const STEP: usize = 4;

/// Bytes that B is fetched ahead of its use.
const AHEAD: usize = 2048;

/// A row-major matrix that the end of a tile reads or writes; null where there is none.
#[derive(Clone, Copy)]
pub(super) struct Matrix {
    pub data: *mut u8,
    pub bf16: bool,
    /// Elements from row to row.
    pub stride: usize,
}

impl Matrix {
    pub(super) const NONE: Matrix = Matrix { data: std::ptr::null_mut(), bf16: false, stride: 0 };
}

/// What happens to the accumulators: `out = activation(acc + bias + per_image) + residual`.
#[derive(Clone, Copy)]
pub(super) struct Finish {
    pub out: Matrix,
    /// One number for each column, or null.
    pub bias: *const f32,
    /// One row for each image.
    pub per_image: Matrix,
    /// Output rows of one image.
    pub image_rows: usize,
    pub residual: Matrix,
    pub activation: Option<Activation>,
}

/// Where the accumulators go.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    /// To single-precision rows of `stride` elements, whole vectors, to be continued.
    Partial { to: *mut f32, stride: usize },
    /// Through the epilogue to the rows `rows` of the output, `columns` columns from `column` on.
    Finished { finish: &'a Finish, rows: *const usize, column: usize, columns: usize },
}

/// The operands of one tile.
pub(super) struct Tile<'a> {
    /// For each segment [`ROWS`] pointers to the first step of a row.
    pub rows: *const [*const u8; ROWS],
    pub segments: usize,
    pub steps: usize,
    /// Bytes added to every row pointer.
    pub offset: usize,
    /// Bytes from one step of a row to the next.
    pub row_step: usize,
    pub panel: *const u8,
    /// Bytes from one step of the panel to the next.
    pub panel_step: usize,
    /// Bytes from one segment of the panel to the next, where `panel_offsets` is null.
    pub panel_segment: usize,
    /// For each segment its distance from `panel` in bytes, or null.
    pub panel_offsets: *const usize,
    /// What the accumulators start from, as [`Target::Partial`] left them; null for zeros.
    pub start: *const f32,
    pub start_stride: usize,
    pub target: Target<'a>,
}

/// A tile kernel for a fixed number of rows and vectors of columns.
pub(super) type TileFn = unsafe fn(&Tile<'_>);

/// The tile kernels of one instruction set and arithmetic.
pub(super) struct Kernels {
    pub isa: Isa,
    /// Columns of a vector.
    pub lanes: usize,
    /// Columns of a full panel.
    pub panel: usize,
    /// Whether a step is a pair of brain floating-point numbers.
    pub pairs: bool,
    /// By vectors of columns, then rows, each less one.
    pub tiles: &'static [[TileFn; ROWS]],
}

impl Kernels {
    /// The kernels for an instruction set; `pairs` only where it has them.
    pub(super) fn of(isa: Isa, pairs: bool) -> &'static Kernels {
        match (isa, pairs) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, true) => &x86::AVX512_BF16,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, false) => &x86::AVX512_F32,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, _) => &x86::AVX2_F32,
            _ => &PORTABLE_F32,
        }
    }

    /// The numbers of a row that a step holds.
    pub(super) fn depth(&self) -> usize {
        if self.pairs { 2 } else { 1 }
    }

    /// Computes a tile of `rows` rows and `width` columns, a multiple of [`Kernels::lanes`].
    ///
    /// # Safety
    /// All pointers of the tile are valid for the extents that it names.
    #[inline(always)]
    pub(super) unsafe fn run(&self, rows: usize, width: usize, tile: &Tile<'_>) {
        // SAFETY: the caller's promise; the table was chosen for a supported instruction set.
        unsafe { self.tiles[width / self.lanes - 1][rows - 1](tile) }
    }
}

simd! {
    /// Applies an activation function to a buffer of accumulators.
    #[inline(never)]
    fn activate_all(activation: Activation, values: &mut [f32]) {
        for_activation!(activation, A => {
            for v in values.iter_mut() {
                *v = activate::<FMA>(A, *v);
            }
        });
    }
}

/// The kernel itself, compiled for each instruction set by the wrappers below.
#[inline(always)]
unsafe fn tile<L: Lanes, const PAIRS: bool, const R: usize, const V: usize>(isa: Isa, t: &Tile<'_>) {
    // SAFETY: all pointers are valid for their extents: the contract of `Kernels::run`.
    unsafe {
        let mut acc = [[L::zero(); V]; R];
        if !t.start.is_null() {
            for r in 0..R {
                for v in 0..V {
                    acc[r][v] = L::load(t.start.add(r * t.start_stride + v * L::WIDTH));
                }
            }
        }
        let mut linear = t.panel;
        for s in 0..t.segments {
            let pointers = &*t.rows.add(s);
            let a: [*const u8; R] = std::array::from_fn(|r| pointers[r].wrapping_add(t.offset));
            let mut b = if t.panel_offsets.is_null() { linear } else { t.panel.add(*t.panel_offsets.add(s)) };
            linear = linear.wrapping_add(t.panel_segment);
            let mut at = 0usize;
            for _ in 0..t.steps {
                #[cfg(target_arch = "x86_64")]
                {
                    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
                    let lines = (V * L::WIDTH * STEP).div_ceil(64);
                    for line in 0..lines {
                        _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(AHEAD + line * 64).cast());
                    }
                }
                let columns: [L; V] = std::array::from_fn(|v| L::load(b.cast::<f32>().add(v * L::WIDTH)));
                for r in 0..R {
                    let x = L::splat_bits(a[r].add(at));
                    for v in 0..V {
                        acc[r][v] = if PAIRS {
                            acc[r][v].multiply_add_pairs(x, columns[v])
                        } else {
                            acc[r][v].multiply_add(x, columns[v])
                        };
                    }
                }
                at += t.row_step;
                b = b.wrapping_add(t.panel_step);
            }
        }
        match t.target {
            Target::Partial { to, stride } => {
                for r in 0..R {
                    for v in 0..V {
                        acc[r][v].store(to.add(r * stride + v * L::WIDTH));
                    }
                }
            }
            Target::Finished { finish, rows, column, columns } => {
                // Through memory: were the accumulators themselves indexed by the epilogue's loops, the
                // compiler would keep them there during the main loop too.
                let mut done = [0.0f32; ROWS * 64];
                for r in 0..R {
                    for v in 0..V {
                        acc[r][v].store(done.as_mut_ptr().add((r * V + v) * L::WIDTH));
                    }
                }
                finish_tile::<L, R, V>(isa, &mut done, finish, rows, column, columns);
            }
        }
    }
}

/// The epilogue over a finished tile, `R` rows of `V` vectors each.
#[inline(always)]
unsafe fn finish_tile<L: Lanes, const R: usize, const V: usize>(
    isa: Isa,
    done: &mut [f32; ROWS * 64],
    finish: &Finish,
    rows: *const usize,
    column: usize,
    columns: usize,
) {
    // Only the last vector can be partly outside the matrix.
    let last = columns - (V - 1) * L::WIDTH;
    let full = last == L::WIDTH;
    // SAFETY: the matrices hold `columns` columns from `column` on in each of the rows named.
    unsafe {
        let mut bias = [L::zero(); V];
        if !finish.bias.is_null() {
            for v in 0..V {
                let from = finish.bias.add(column + v * L::WIDTH);
                bias[v] = if full || v + 1 < V { L::load(from) } else { L::load_first(from, last) };
            }
        }
        if finish.activation.is_none() {
            for r in 0..R {
                let row = *rows.add(r);
                let mut acc = summed::<L, V>(done, r, &bias, finish, row, column, last);
                write_row::<L, V>(&mut acc, finish, row, column, last);
            }
            return;
        }
        for r in 0..R {
            let acc = summed::<L, V>(done, r, &bias, finish, *rows.add(r), column, last);
            for v in 0..V {
                acc[v].store(done.as_mut_ptr().add((r * V + v) * L::WIDTH));
            }
        }
        if let Some(activation) = finish.activation {
            activate_all(isa, activation, &mut done[..R * V * L::WIDTH]);
        }
        for r in 0..R {
            let mut acc: [L; V] =
                std::array::from_fn(|v| L::load(done.as_ptr().add((r * V + v) * L::WIDTH)));
            write_row::<L, V>(&mut acc, finish, *rows.add(r), column, last);
        }
    }
}

/// One row of the product with bias and the row of its image.
#[inline(always)]
unsafe fn summed<L: Lanes, const V: usize>(
    done: &[f32; ROWS * 64],
    r: usize,
    bias: &[L; V],
    finish: &Finish,
    row: usize,
    column: usize,
    last: usize,
) -> [L; V] {
    // SAFETY: as for `finish_tile`.
    unsafe {
        let mut acc: [L; V] =
            std::array::from_fn(|v| L::load(done.as_ptr().add((r * V + v) * L::WIDTH)).add(bias[v]));
        if !finish.per_image.data.is_null() {
            add_row::<L, V>(&mut acc, &finish.per_image, row / finish.image_rows, column, last);
        }
        acc
    }
}

/// Adds the residual to a row and writes it.
#[inline(always)]
unsafe fn write_row<L: Lanes, const V: usize>(
    acc: &mut [L; V],
    finish: &Finish,
    row: usize,
    column: usize,
    last: usize,
) {
    // SAFETY: as for `finish_tile`.
    unsafe {
        if !finish.residual.data.is_null() {
            add_row::<L, V>(acc, &finish.residual, row, column, last);
        }
        let at = row * finish.out.stride + column;
        for v in 0..V {
            let whole = last == L::WIDTH || v + 1 < V;
            if finish.out.bf16 {
                let to = finish.out.data.cast::<u16>().add(at + v * L::WIDTH);
                if whole { acc[v].store_bf16(to) } else { acc[v].store_bf16_first(to, last) }
            } else {
                let to = finish.out.data.cast::<f32>().add(at + v * L::WIDTH);
                if whole { acc[v].store(to) } else { acc[v].store_first(to, last) }
            }
        }
    }
}

/// Adds a row of a matrix; `last` columns of it in the last vector.
#[inline(always)]
unsafe fn add_row<L: Lanes, const V: usize>(
    acc: &mut [L; V],
    m: &Matrix,
    row: usize,
    column: usize,
    last: usize,
) {
    let at = row * m.stride + column;
    // SAFETY: inside the matrix, by the contract of `finish_tile`.
    unsafe {
        for v in 0..V {
            let whole = last == L::WIDTH || v + 1 < V;
            let x = if m.bf16 {
                let from = m.data.cast::<u16>().add(at + v * L::WIDTH);
                if whole { L::load_bf16(from) } else { L::load_bf16_first(from, last) }
            } else {
                let from = m.data.cast::<f32>().add(at + v * L::WIDTH);
                if whole { L::load(from) } else { L::load_first(from, last) }
            };
            acc[v] = acc[v].add(x);
        }
    }
}

unsafe fn portable<const R: usize, const V: usize>(t: &Tile<'_>) {
    // SAFETY: the contract of `Kernels::run`.
    unsafe { tile::<Plain, false, R, V>(Isa::Portable, t) }
}

macro_rules! row_counts {
    ($kernel:ident, $v:literal) => {
        [
            $kernel::<1, $v>,
            $kernel::<2, $v>,
            $kernel::<3, $v>,
            $kernel::<4, $v>,
            $kernel::<5, $v>,
            $kernel::<6, $v>,
        ]
    };
}

static PORTABLE_F32: Kernels =
    Kernels { isa: Isa::Portable, lanes: 8, panel: 8, pairs: false, tiles: &[row_counts!(portable, 1)] };

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__m256, __m512};

    use super::{Kernels, Tile, tile};
    use crate::Isa;

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2<const R: usize, const V: usize>(t: &Tile<'_>) {
        // SAFETY: the contract of `Kernels::run`.
        unsafe { tile::<__m256, false, R, V>(Isa::Avx2, t) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    unsafe fn avx512<const R: usize, const V: usize>(t: &Tile<'_>) {
        // SAFETY: the contract of `Kernels::run`.
        unsafe { tile::<__m512, false, R, V>(Isa::Avx512, t) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    unsafe fn avx512_bf16<const R: usize, const V: usize>(t: &Tile<'_>) {
        // SAFETY: the contract of `Kernels::run`.
        unsafe { tile::<__m512, true, R, V>(Isa::Avx512, t) }
    }

    pub(super) static AVX2_F32: Kernels = Kernels {
        isa: Isa::Avx2,
        lanes: 8,
        panel: 16,
        pairs: false,
        tiles: &[row_counts!(avx2, 1), row_counts!(avx2, 2)],
    };

    pub(super) static AVX512_F32: Kernels = Kernels {
        isa: Isa::Avx512,
        lanes: 16,
        panel: 64,
        pairs: false,
        tiles: &[
            row_counts!(avx512, 1),
            row_counts!(avx512, 2),
            row_counts!(avx512, 3),
            row_counts!(avx512, 4),
        ],
    };

    pub(super) static AVX512_BF16: Kernels = Kernels {
        isa: Isa::Avx512,
        lanes: 16,
        panel: 64,
        pairs: true,
        tiles: &[
            row_counts!(avx512_bf16, 1),
            row_counts!(avx512_bf16, 2),
            row_counts!(avx512_bf16, 3),
            row_counts!(avx512_bf16, 4),
        ],
    };
}
