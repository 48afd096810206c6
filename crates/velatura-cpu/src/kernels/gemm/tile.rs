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

use super::finish::{self, FinishFn};
use super::lanes::{Lanes, Plain};
use super::{strassen, thirds, winograd};
use crate::Isa;
use crate::kernels::{LINE, fetch, fetch_far};

/// Rows of a full tile. Six rows of four 512-bit vectors are 24 accumulators and leave room for four
/// vectors of B and one of A; on AVX2 six by two are 12 of the 16 registers.
pub(super) const ROWS: usize = 6;

/// Bytes of one step of one row or column.
pub(super) const STEP: usize = 4;

/// Bytes that B is fetched ahead of its use into the first-level cache.
const AHEAD: usize = 2048;

/// The operands of one tile.
pub(super) struct Tile {
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
    /// Whether the accumulators start from `sums` and not from zeros.
    pub carry: bool,
    /// Where the accumulators go: rows of `sums_stride` elements, whole vectors.
    pub sums: *mut f32,
    pub sums_stride: usize,
    /// Sums that the accumulators are added to while they are in registers, laid out as `sums`.
    pub adds: [Add; 2],
    /// Whether the accumulators are stored in `sums`, or wanted for `adds` alone.
    pub kept: bool,
    /// What the next tiles will read, brought into the second-level cache meanwhile: a line for each step.
    pub next: [Lines; 2],
}

/// Sums that a tile is added to, with its sign; nowhere where `to` is null.
#[derive(Clone, Copy)]
pub(super) struct Add {
    pub to: *mut f32,
    pub sign: f32,
}

impl Add {
    pub(super) const NONE: Add = Add { to: std::ptr::null_mut(), sign: 0.0 };
}

/// Successive lines of the caches, that may not be there: fetching is no reading.
#[derive(Clone, Copy)]
pub(super) struct Lines {
    pub from: *const u8,
    pub count: usize,
}

impl Lines {
    pub(super) const NONE: Lines = Lines { from: std::ptr::null(), count: 0 };

    /// Part `part` of `parts` of the lines that hold `bytes` bytes.
    pub(super) fn part(from: *const u8, bytes: usize, part: usize, parts: usize) -> Lines {
        let share = bytes.div_ceil(LINE).div_ceil(parts.max(1));
        let first = (part * share).min(bytes.div_ceil(LINE));
        Lines { from: from.wrapping_add(first * LINE), count: share.min(bytes.div_ceil(LINE) - first) }
    }
}

/// What the four bytes of a step hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Steps {
    /// A single-precision number.
    Single,
    /// Two brain floating-point numbers.
    Pairs,
    /// Four bytes; sums are then whole numbers, stored as the bits of single-precision ones.
    Bytes,
    /// Of rows a single-precision number, of panels two brain floating-point numbers that are a third of one each: see
    /// [`thirds`](super::thirds).
    Thirds,
}

// The same as constants of the kernel, which cannot be of an enum's type.
pub(super) const SINGLE: u8 = Steps::Single as u8;
pub(super) const PAIRS: u8 = Steps::Pairs as u8;
pub(super) const BYTES: u8 = Steps::Bytes as u8;
pub(super) const THIRDS: u8 = Steps::Thirds as u8;

/// A tile kernel for a fixed number of rows and vectors of columns.
pub(super) type TileFn = unsafe fn(&Tile);

/// The tile kernels of one instruction set and arithmetic.
pub(super) struct Kernels {
    pub isa: Isa,
    /// Whether products run on AMX tiles where those of pairs or bytes fill them: see `amx`.
    pub amx: bool,
    /// Columns of a vector.
    pub lanes: usize,
    /// Columns of a full panel.
    pub panel: usize,
    pub steps: Steps,
    /// By vectors of columns, then rows, each less one.
    pub tiles: &'static [[TileFn; ROWS]],
    /// Writes finished sums to the output.
    pub finish: FinishFn,
    /// Transforms of Winograd's convolution: of the input, of the products.
    pub winograd: winograd::Transforms,
    /// Sums of Strassen's algorithm.
    pub strassen: strassen::Operations,
}

impl Kernels {
    /// The kernels for an instruction set; `pairs` only where it has them.
    pub(super) fn of(isa: Isa, pairs: bool) -> &'static Kernels {
        match (isa, pairs) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Amx, true) => &x86::AMX_BF16,
            #[cfg(target_arch = "x86_64")]
            (Isa::Amx, false) => &const { x86::AMX_F32 },
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, true) => &const { x86::AVX512_BF16 },
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, false) => &const { x86::AVX512_F32 },
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, _) => &const { x86::AVX2_F32 },
            _ => &const { PORTABLE_F32 },
        }
    }

    /// The kernels for products as they are written: on AMX tiles single precision is taken in thirds.
    pub(super) fn of_products(isa: Isa, pairs: bool) -> &'static Kernels {
        match (isa, pairs) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Amx, false) => &x86::AMX_THIRDS,
            _ => Kernels::of(isa, pairs),
        }
    }

    /// The kernels for products of bytes.
    pub(super) fn of_bytes(isa: Isa) -> &'static Kernels {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => &x86::AMX_BYTES,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => &const { x86::AVX512_BYTES },
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &x86::AVX2_BYTES,
            _ => &PORTABLE_BYTES,
        }
    }

    /// The numbers of a row that a step holds.
    pub(super) fn depth(&self) -> usize {
        match self.steps {
            Steps::Single | Steps::Thirds => 1,
            Steps::Pairs => 2,
            Steps::Bytes => 4,
        }
    }

    /// Steps of a panel for so many of a row.
    pub(super) fn panel_steps(&self, steps: usize) -> usize {
        match self.steps {
            Steps::Thirds => steps.div_ceil(thirds::DEPTH) * thirds::STEPS,
            _ => steps,
        }
    }

    /// Columns that are finished together: for a gated layer half of them are values, and half their gates.
    pub(super) fn together(&self) -> usize {
        if self.amx { 2 * self.panel } else { self.panel }
    }

    /// Whether a step is a pair of brain floating-point numbers.
    pub(super) fn pairs(&self) -> bool {
        self.steps == Steps::Pairs
    }

    /// Computes a tile of `rows` rows and `width` columns, a multiple of [`Kernels::lanes`].
    ///
    /// # Safety
    /// All pointers of the tile are valid for the extents that it names.
    #[inline(always)]
    pub(super) unsafe fn run(&self, rows: usize, width: usize, tile: &Tile) {
        // SAFETY: the caller's promise; the table was chosen for a supported instruction set.
        unsafe { self.tiles[width / self.lanes - 1][rows - 1](tile) }
    }
}

/// Where the steps of some rows and of their panel are.
struct Place<const R: usize> {
    a: [*const u8; R],
    b: *const u8,
    row_step: usize,
    panel_step: usize,
}

/// Adds up `count` steps, `U` in a round, and fetches a line from `far` on for each, where there are any.
#[inline(always)]
unsafe fn steps<
    L: Lanes,
    const STEPS: u8,
    const AHEAD: usize,
    const R: usize,
    const V: usize,
    const U: usize,
>(
    acc: &mut [[L; V]; R],
    at: &mut Place<R>,
    count: usize,
    mut far: Option<*const u8>,
) {
    // SAFETY: the contract of `Kernels::run`.
    unsafe {
        for _ in 0..count / U {
            round::<L, STEPS, AHEAD, R, V, U>(acc, at, &mut far);
        }
        for _ in 0..count % U {
            round::<L, STEPS, AHEAD, R, V, 1>(acc, at, &mut far);
        }
    }
}

#[inline(always)]
unsafe fn round<
    L: Lanes,
    const STEPS: u8,
    const AHEAD: usize,
    const R: usize,
    const V: usize,
    const U: usize,
>(
    acc: &mut [[L; V]; R],
    at: &mut Place<R>,
    far: &mut Option<*const u8>,
) {
    // SAFETY: the contract of `Kernels::run`.
    unsafe {
        for u in 0..U {
            let b = at.b.wrapping_add(u * at.panel_step);
            if AHEAD > 0 {
                fetch(b.wrapping_add(AHEAD), V * L::WIDTH * STEP);
            }
            if let Some(line) = far {
                fetch_far(*line);
                *line = line.wrapping_add(LINE);
            }
            let columns: [L; V] = std::array::from_fn(|v| L::load(b.cast::<f32>().add(v * L::WIDTH)));
            for r in 0..R {
                let x = L::splat_bits(at.a[r].add(u * at.row_step));
                for v in 0..V {
                    acc[r][v] = match STEPS {
                        BYTES => acc[r][v].multiply_add_bytes(x, columns[v]),
                        PAIRS => acc[r][v].multiply_add_pairs(x, columns[v]),
                        _ => acc[r][v].multiply_add(x, columns[v]),
                    };
                }
            }
        }
        for r in 0..R {
            at.a[r] = at.a[r].wrapping_add(U * at.row_step);
        }
        at.b = at.b.wrapping_add(U * at.panel_step);
    }
}

/// The kernel itself, compiled for each instruction set by the wrappers below.
#[inline(always)]
unsafe fn tile<L: Lanes, const STEPS: u8, const AHEAD: usize, const R: usize, const V: usize>(t: &Tile) {
    // SAFETY: all pointers are valid for their extents: the contract of `Kernels::run`.
    unsafe {
        let mut acc = [[L::zero(); V]; R];
        if t.carry {
            for r in 0..R {
                for v in 0..V {
                    acc[r][v] = L::load(t.sums.add(r * t.sums_stride + v * L::WIDTH));
                }
            }
        }
        let mut linear = t.panel;
        let mut next = t.next;
        for s in 0..t.segments {
            let pointers = &*t.rows.add(s);
            let a: [*const u8; R] = std::array::from_fn(|r| pointers[r].wrapping_add(t.offset));
            let b = if t.panel_offsets.is_null() { linear } else { t.panel.add(*t.panel_offsets.add(s)) };
            linear = linear.wrapping_add(t.panel_segment);
            let mut at = Place { a, b, row_step: t.row_step, panel_step: t.panel_step };
            let mut left = t.steps;
            while left > 0 {
                // The first lines that are left.
                let (far, count) = match next.iter_mut().find(|lines| lines.count > 0) {
                    Some(lines) => {
                        let (from, count) = (lines.from, lines.count.min(left));
                        *lines = Lines { from: from.wrapping_add(count * LINE), count: lines.count - count };
                        (Some(from), count)
                    }
                    None => (None, left),
                };
                left -= count;
                // Where steps lie together the compiler knows how far apart they are, and whether there are lines: arithmetic
                // on addresses would take the place of products.
                let together = t.row_step == STEP && t.panel_step == V * L::WIDTH * STEP;
                if together {
                    (at.row_step, at.panel_step) = (STEP, V * L::WIDTH * STEP);
                }
                match far {
                    Some(_) if together => steps::<L, STEPS, AHEAD, R, V, 4>(&mut acc, &mut at, count, far),
                    None if together => steps::<L, STEPS, AHEAD, R, V, 4>(&mut acc, &mut at, count, None),
                    _ => steps::<L, STEPS, AHEAD, R, V, 1>(&mut acc, &mut at, count, far),
                }
            }
        }
        if t.kept {
            for r in 0..R {
                for v in 0..V {
                    acc[r][v].store(t.sums.add(r * t.sums_stride + v * L::WIDTH));
                }
            }
        }
        for add in &t.adds {
            if add.to.is_null() {
                break;
            }
            let sign = L::splat_bits((&raw const add.sign).cast());
            for r in 0..R {
                for v in 0..V {
                    let to = add.to.add(r * t.sums_stride + v * L::WIDTH);
                    L::load(to).multiply_add(sign, acc[r][v]).store(to);
                }
            }
        }
    }
}

unsafe fn portable<const R: usize, const V: usize>(t: &Tile) {
    // SAFETY: the contract of `Kernels::run`.
    unsafe { tile::<Plain, SINGLE, AHEAD, R, V>(t) }
}

unsafe fn portable_bytes<const R: usize, const V: usize>(t: &Tile) {
    // SAFETY: the contract of `Kernels::run`.
    unsafe { tile::<Plain, BYTES, AHEAD, R, V>(t) }
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

const PORTABLE_F32: Kernels = Kernels {
    isa: Isa::Portable,
    amx: false,
    lanes: 8,
    panel: 8,
    steps: Steps::Single,
    tiles: &[row_counts!(portable, 1)],
    finish: finish::portable,
    winograd: winograd::portable::TRANSFORMS,
    strassen: strassen::PORTABLE,
};

static PORTABLE_BYTES: Kernels =
    Kernels { steps: Steps::Bytes, tiles: &[row_counts!(portable_bytes, 1)], ..PORTABLE_F32 };

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__m256, __m512};

    use super::{AHEAD, BYTES, Kernels, PAIRS, SINGLE, Steps, Tile, finish, strassen, tile, winograd};
    use crate::Isa;

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2<const R: usize, const V: usize>(t: &Tile) {
        // SAFETY: the contract of `Kernels::run`.
        unsafe { tile::<__m256, SINGLE, AHEAD, R, V>(t) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    unsafe fn avx512<const R: usize, const V: usize>(t: &Tile) {
        // SAFETY: the contract of `Kernels::run`.
        unsafe { tile::<__m512, SINGLE, AHEAD, R, V>(t) }
    }

    // Faster on processors with AMX than when B is fetched into the first-level cache.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    unsafe fn amx<const R: usize, const V: usize>(t: &Tile) {
        // SAFETY: the contract of `Kernels::run`.
        unsafe { tile::<__m512, SINGLE, 0, R, V>(t) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    unsafe fn avx512_bf16<const R: usize, const V: usize>(t: &Tile) {
        // SAFETY: the contract of `Kernels::run`.
        unsafe { tile::<__m512, PAIRS, AHEAD, R, V>(t) }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2_bytes<const R: usize, const V: usize>(t: &Tile) {
        // SAFETY: the contract of `Kernels::run`.
        unsafe { tile::<__m256, BYTES, AHEAD, R, V>(t) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,avx2,fma,f16c")]
    unsafe fn avx512_bytes<const R: usize, const V: usize>(t: &Tile) {
        // SAFETY: the contract of `Kernels::run`.
        unsafe { tile::<__m512, BYTES, AHEAD, R, V>(t) }
    }

    pub(super) static AVX2_BYTES: Kernels = Kernels {
        steps: Steps::Bytes,
        tiles: &[row_counts!(avx2_bytes, 1), row_counts!(avx2_bytes, 2)],
        ..AVX2_F32
    };

    pub(super) const AVX512_BYTES: Kernels = Kernels {
        steps: Steps::Bytes,
        tiles: &[
            row_counts!(avx512_bytes, 1),
            row_counts!(avx512_bytes, 2),
            row_counts!(avx512_bytes, 3),
            row_counts!(avx512_bytes, 4),
        ],
        ..AVX512_F32
    };

    pub(super) const AVX2_F32: Kernels = Kernels {
        isa: Isa::Avx2,
        amx: false,
        lanes: 8,
        panel: 16,
        steps: Steps::Single,
        tiles: &[row_counts!(avx2, 1), row_counts!(avx2, 2)],
        finish: finish::x86::avx2,
        winograd: winograd::avx2::TRANSFORMS,
        strassen: strassen::x86::AVX2,
    };

    pub(super) const AVX512_F32: Kernels = Kernels {
        isa: Isa::Avx512,
        amx: false,
        lanes: 16,
        panel: 64,
        steps: Steps::Single,
        tiles: &[
            row_counts!(avx512, 1),
            row_counts!(avx512, 2),
            row_counts!(avx512, 3),
            row_counts!(avx512, 4),
        ],
        finish: finish::x86::avx512,
        winograd: winograd::avx512::TRANSFORMS,
        strassen: strassen::x86::AVX512,
    };

    pub(super) const AMX_F32: Kernels = Kernels {
        isa: Isa::Amx,
        tiles: &[row_counts!(amx, 1), row_counts!(amx, 2), row_counts!(amx, 3), row_counts!(amx, 4)],
        ..AVX512_F32
    };

    pub(super) static AMX_BF16: Kernels = Kernels { isa: Isa::Amx, amx: true, panel: 16, ..AVX512_BF16 };

    pub(super) static AMX_BYTES: Kernels = Kernels { isa: Isa::Amx, amx: true, panel: 16, ..AVX512_BYTES };

    pub(super) static AMX_THIRDS: Kernels = Kernels { amx: true, panel: 16, steps: Steps::Thirds, ..AMX_F32 };

    pub(super) const AVX512_BF16: Kernels = Kernels {
        isa: Isa::Avx512,
        amx: false,
        lanes: 16,
        panel: 64,
        steps: Steps::Pairs,
        tiles: &[
            row_counts!(avx512_bf16, 1),
            row_counts!(avx512_bf16, 2),
            row_counts!(avx512_bf16, 3),
            row_counts!(avx512_bf16, 4),
        ],
        finish: finish::x86::avx512,
        winograd: winograd::avx512::TRANSFORMS_BF16,
        strassen: strassen::x86::AVX512_BF16,
    };
}
