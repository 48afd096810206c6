//! The end of a tile: from sums in the first-level cache through the epilogue to the output.

use velatura_graph::Activation;

use super::lanes::{Lanes, Plain};
use super::tile::ROWS;
use crate::Isa;
use crate::kernels::elementwise::unary::activate_in_place;
use crate::kernels::{Order, fetch};

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

/// What happens to the sums: `out = activation(sums + bias + per_image) + residual`, or with a gate
/// `out = values * gate(gates) + residual`, where values and gates are the two halves of `sums + bias + per_image`.
#[derive(Clone, Copy)]
pub(super) struct Finish {
    pub out: Matrix,
    /// How the output lies in memory.
    pub order: Order,
    /// One number for each column, or null.
    pub bias: *const f32,
    /// One row for each image.
    pub per_image: Matrix,
    /// Output rows of one image.
    pub image_rows: usize,
    pub residual: Matrix,
    pub activation: Option<Activation>,
    pub gate: Option<Activation>,
}

// SAFETY: the matrices outlive the operation; tasks write disjoint parts of the output and only read the others.
unsafe impl Sync for Finish {}

impl Finish {
    /// Elements before a row and column of the output.
    #[inline(always)]
    fn place(&self, row: usize, column: usize) -> usize {
        self.order.place(row, column, self.out.stride)
    }

    /// Whether an activation is rounded to bf16 before anything is added.
    fn rounds(&self) -> bool {
        self.out.bf16 && self.residual.data.is_null()
    }

    /// Whether nothing but a bias and a residual is added, and all is stored as numbers of one type: most layers.
    fn is_plain(&self) -> bool {
        let alike = self.residual.data.is_null() || self.residual.bf16 == self.out.bf16;
        alike && self.activation.is_none() && self.gate.is_none() && self.per_image.data.is_null()
    }

    /// Whether a gate is all there is beside a bias.
    fn is_plain_gate(&self) -> bool {
        let alone = self.residual.data.is_null() && self.per_image.data.is_null();
        alone && !self.bias.is_null()
    }

    /// Brings the lines of the output, which lies row after row, and the residual that the end of a tile will touch into the
    /// first-level cache.
    pub(super) fn fetch(&self, rows: &[usize], column: usize, columns: usize) {
        let halves = if self.gate.is_some() { 2 } else { 1 };
        for matrix in [&self.out, &self.residual].into_iter().filter(|m| !m.data.is_null()) {
            let size = if matrix.bf16 { 2 } else { 4 };
            for &row in rows {
                let from = matrix.data.wrapping_add((row * matrix.stride + column / halves) * size);
                fetch(from, columns / halves * size);
            }
        }
    }
}

/// The sums of a tile and their place in the output.
pub(super) struct Sums<'a> {
    /// Rows of `width` elements, one after another; may be overwritten.
    pub data: *mut f32,
    /// Columns with padding: whole vectors.
    pub width: usize,
    /// Rows of the output.
    pub rows: &'a [usize],
    /// The first column of the output, and how many there are.
    pub column: usize,
    pub columns: usize,
}

/// [`finish`] compiled for an instruction set.
pub(super) type FinishFn = unsafe fn(&Finish, &Sums<'_>);

/// Applies the epilogue and writes.
///
/// # Safety
/// The sums are `rows.len()` rows of `width` elements; all matrices hold the rows and columns named.
#[inline(always)]
unsafe fn finish<L: Lanes>(isa: Isa, f: &Finish, sums: &Sums<'_>) {
    // SAFETY: the caller's promise.
    unsafe {
        if f.is_plain() && sums.columns.is_multiple_of(L::WIDTH) {
            match (f.out.bf16, f.bias.is_null(), f.residual.data.is_null()) {
                (true, false, false) => plain::<L, true, true, true>(f, sums),
                (true, false, true) => plain::<L, true, true, false>(f, sums),
                (true, true, false) => plain::<L, true, false, true>(f, sums),
                (true, true, true) => plain::<L, true, false, false>(f, sums),
                (false, false, false) => plain::<L, false, true, true>(f, sums),
                (false, false, true) => plain::<L, false, true, false>(f, sums),
                (false, true, false) => plain::<L, false, false, true>(f, sums),
                (false, true, true) => plain::<L, false, false, false>(f, sums),
            }
        } else if let Some(gate) = f.gate {
            let together = MOST_GATES / (sums.columns / 2).max(1);
            for (number, rows) in sums.rows.chunks(together).enumerate() {
                let data = sums.data.wrapping_add(number * together * sums.width);
                let Sums { width, column, columns, .. } = *sums;
                let sums = Sums { data, width, rows, column, columns };
                if f.is_plain_gate() && columns == 2 * L::WIDTH {
                    gated_pairs::<L>(isa, f, &sums, gate);
                } else {
                    gated::<L>(isa, f, &sums, gate);
                }
            }
        } else if let Some(activation) = f.activation {
            each::<L>(sums, |x, row, column, n| {
                add_inputs(f, L::load(x), row, column, n).store(x);
            });
            let values = std::slice::from_raw_parts_mut(sums.data, sums.rows.len() * sums.width);
            activate_in_place(isa, activation, f.rounds(), values);
            each::<L>(sums, |x, row, column, n| write(f, L::load(x), row, column, n));
        } else {
            each::<L>(sums, |x, row, column, n| {
                write(f, add_inputs(f, L::load(x), row, column, n), row, column, n);
            });
        }
    }
}

/// As [`finish`], where it [is plain](Finish::is_plain) and all vectors are whole: no question is asked for each. What is stored are
/// `HALVES`, brain floating-point numbers, or else single-precision ones.
#[inline(always)]
unsafe fn plain<L: Lanes, const HALVES: bool, const BIAS: bool, const RESIDUAL: bool>(
    f: &Finish,
    sums: &Sums<'_>,
) {
    let size = if HALVES { 2 } else { 4 };
    // SAFETY: the contract of `finish`.
    unsafe {
        let bias = f.bias.wrapping_add(sums.column);
        for (r, &row) in sums.rows.iter().enumerate() {
            let x = sums.data.wrapping_add(r * sums.width);
            let out = f.out.data.wrapping_add(f.place(row, sums.column) * size);
            let residual = f.residual.data.wrapping_add((row * f.residual.stride + sums.column) * size);
            let mut at = 0;
            while at < sums.columns {
                let first = with_inputs::<L, HALVES, BIAS, RESIDUAL>(x, bias, residual, at);
                let out = out.wrapping_add(at * size);
                at += L::WIDTH;
                if !HALVES {
                    first.store(out.cast());
                } else if at < sums.columns {
                    // Two vectors become one.
                    let second = with_inputs::<L, HALVES, BIAS, RESIDUAL>(x, bias, residual, at);
                    L::store_both_bf16([first, second], out.cast());
                    at += L::WIDTH;
                } else {
                    first.store_bf16(out.cast());
                }
            }
        }
    }
}

/// A vector of sums, from column `at` of all three on, with what [`plain`] adds.
#[inline(always)]
unsafe fn with_inputs<L: Lanes, const HALVES: bool, const BIAS: bool, const RESIDUAL: bool>(
    sums: *const f32,
    bias: *const f32,
    residual: *const u8,
    at: usize,
) -> L {
    // SAFETY: the contract of `finish`.
    unsafe {
        let mut x = L::load(sums.wrapping_add(at));
        if BIAS {
            x = x.add(L::load(bias.wrapping_add(at)));
        }
        if RESIDUAL {
            x = x.add(match HALVES {
                true => L::load_bf16(residual.cast::<u16>().wrapping_add(at)),
                false => L::load(residual.cast::<f32>().wrapping_add(at)),
            });
        }
        x
    }
}

/// Gates that are worked on at a time: of a tile half of the columns of the widest panel, of a narrower one more rows.
const MOST_GATES: usize = ROWS * 32;

/// As [`finish`], where the first half of the columns are values and the second half their gates, no more than [`MOST_GATES`].
#[inline(always)]
unsafe fn gated<L: Lanes>(isa: Isa, f: &Finish, sums: &Sums<'_>, gate: Activation) {
    let (half, column) = (sums.columns / 2, sums.column / 2);
    // Those of all rows together: the function is fast on many.
    let mut all = [0.0; MOST_GATES];
    let all = &mut all[..sums.rows.len() * half];
    let gates = all.as_mut_ptr();
    // SAFETY: the contract of `finish`: a row of sums has both halves, and the output is as wide as one of all.
    unsafe {
        for (r, &row) in sums.rows.iter().enumerate() {
            let values = sums.data.wrapping_add(r * sums.width);
            vectors::<L>(half, |at, n| {
                let value = first::<L>(values.add(at), n);
                store_first(add_inputs(f, value, row, column + at, n), values.add(at), n);
                let value = first::<L>(values.add(half + at), n);
                let gate = add_inputs(f, value, row, f.out.stride + column + at, n);
                store_first(gate, gates.add(r * half + at), n);
            });
        }
        activate_in_place(isa, gate, f.rounds(), all);
        for (r, &row) in sums.rows.iter().enumerate() {
            let values = sums.data.wrapping_add(r * sums.width);
            vectors::<L>(half, |at, n| {
                let value = first::<L>(values.add(at), n);
                let gate = first::<L>(gates.add(r * half + at), n);
                write(f, L::zero().multiply_add(value, gate), row, column + at, n);
            });
        }
    }
}

/// Rows whose gates are worked on at a time there.
const GATED_ROWS: usize = 8;

/// As [`gated`], where a row is a vector of values and one of gates, and [nothing else is asked for](Finish::is_plain_gate).
#[inline(always)]
unsafe fn gated_pairs<L: Lanes>(isa: Isa, f: &Finish, sums: &Sums<'_>, gate: Activation) {
    let (width, column) = (L::WIDTH, sums.column / 2);
    let mut gates = [0.0; GATED_ROWS * 16];
    // SAFETY: as in `gated`; no vector has more than 16 lanes.
    unsafe {
        let bias = f.bias.wrapping_add(column);
        let bias = [L::load(bias), L::load(bias.wrapping_add(f.out.stride))];
        let mut from = sums.data.cast_const();
        for rows in sums.rows.chunks(GATED_ROWS) {
            for r in 0..rows.len() {
                L::load(from.wrapping_add(r * sums.width + width))
                    .add(bias[1])
                    .store(gates.as_mut_ptr().wrapping_add(r * width));
            }
            activate_in_place(isa, gate, f.rounds(), &mut gates[..rows.len() * width]);
            for (r, &row) in rows.iter().enumerate() {
                let value = L::load(from.wrapping_add(r * sums.width)).add(bias[0]);
                let gated = L::zero().multiply_add(value, L::load(gates.as_ptr().wrapping_add(r * width)));
                let at = f.place(row, column);
                match f.out.bf16 {
                    true => gated.store_bf16(f.out.data.cast::<u16>().wrapping_add(at)),
                    false => gated.store(f.out.data.cast::<f32>().wrapping_add(at)),
                }
            }
            from = from.wrapping_add(rows.len() * sums.width);
        }
    }
}

/// Calls `f(first, n)` for the vectors of a row, `n` of whose lanes are inside.
#[inline(always)]
fn vectors<L: Lanes>(columns: usize, f: impl Fn(usize, usize)) {
    for at in (0..columns).step_by(L::WIDTH) {
        f(at, L::WIDTH.min(columns - at));
    }
}

#[inline(always)]
unsafe fn first<L: Lanes>(from: *const f32, n: usize) -> L {
    // SAFETY: the contract of `finish`.
    unsafe { if n == L::WIDTH { L::load(from) } else { L::load_first(from, n) } }
}

#[inline(always)]
unsafe fn store_first<L: Lanes>(x: L, to: *mut f32, n: usize) {
    // SAFETY: the contract of `finish`.
    unsafe { if n == L::WIDTH { x.store(to) } else { x.store_first(to, n) } }
}

/// Calls `f(sums, row, column, n)` for every vector, `n` of whose lanes are inside the matrix.
#[inline(always)]
fn each<L: Lanes>(sums: &Sums<'_>, f: impl Fn(*mut f32, usize, usize, usize)) {
    for (r, &row) in sums.rows.iter().enumerate() {
        vectors::<L>(sums.columns, |at, n| {
            f(sums.data.wrapping_add(r * sums.width + at), row, sums.column + at, n);
        });
    }
}

#[inline(always)]
unsafe fn add_inputs<L: Lanes>(f: &Finish, mut x: L, row: usize, column: usize, n: usize) -> L {
    // SAFETY: the contract of `finish`.
    unsafe {
        if !f.bias.is_null() {
            x = x.add(first(f.bias.add(column), n));
        }
        if !f.per_image.data.is_null() {
            x = x.add(read(&f.per_image, row / f.image_rows, column, n));
        }
    }
    x
}

#[inline(always)]
unsafe fn write<L: Lanes>(f: &Finish, mut x: L, row: usize, column: usize, n: usize) {
    // SAFETY: the contract of `finish`.
    unsafe {
        if !f.residual.data.is_null() {
            x = x.add(read(&f.residual, row, column, n));
        }
        let at = f.place(row, column);
        match (f.out.bf16, n == L::WIDTH) {
            (false, true) => x.store(f.out.data.cast::<f32>().add(at)),
            (false, false) => x.store_first(f.out.data.cast::<f32>().add(at), n),
            (true, true) => x.store_bf16(f.out.data.cast::<u16>().add(at)),
            (true, false) => x.store_bf16_first(f.out.data.cast::<u16>().add(at), n),
        }
    }
}

#[inline(always)]
unsafe fn read<L: Lanes>(m: &Matrix, row: usize, column: usize, n: usize) -> L {
    let at = row * m.stride + column;
    // SAFETY: the contract of `finish`.
    unsafe {
        match (m.bf16, n == L::WIDTH) {
            (false, true) => L::load(m.data.cast::<f32>().add(at)),
            (false, false) => L::load_first(m.data.cast::<f32>().add(at), n),
            (true, true) => L::load_bf16(m.data.cast::<u16>().add(at)),
            (true, false) => L::load_bf16_first(m.data.cast::<u16>().add(at), n),
        }
    }
}

pub(super) unsafe fn portable(f: &Finish, sums: &Sums<'_>) {
    // SAFETY: the contract of `finish`.
    unsafe { finish::<Plain>(Isa::Portable, f, sums) }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use std::arch::x86_64::{__m256, __m512};

    use super::{Finish, Sums, finish};
    use crate::Isa;

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in super::super) unsafe fn avx2(f: &Finish, sums: &Sums<'_>) {
        // SAFETY: the contract of `finish`.
        unsafe { finish::<__m256>(Isa::Avx2, f, sums) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    pub(in super::super) unsafe fn avx512(f: &Finish, sums: &Sums<'_>) {
        // SAFETY: the contract of `finish`.
        unsafe { finish::<__m512>(Isa::Avx512, f, sums) }
    }
}
