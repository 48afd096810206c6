//! Batched products of two activations.

#[cfg(target_arch = "x86_64")]
use super::amx::weight_gradient::{turn_rows, turned_row};
use super::driver::{Product, run};
use super::epilogue::Epilogue;
use super::error::{GemmError, check_len};
use super::linear::{fill, kernels_for};
use super::pack::{Layout, Number, Source, pack};
use super::prepare::{rows, rows_bytes};
use super::scratch;
use super::tile::{Kernels, ROWS, STEP};
#[cfg(target_arch = "x86_64")]
use super::{pack::Cells, prepare::Rows};
use crate::{Data, DataMut, Isa, ThreadPool};
use velatura_graph::DType;

/// Shapes of `[batch, m, k] x [batch, k, n]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatmulGeometry {
    /// Products.
    pub batch: usize,
    /// Rows of the first operand.
    pub m: usize,
    /// Columns of the second operand.
    pub n: usize,
    /// What is summed over.
    pub k: usize,
    /// Whether the first operand is stored `[batch, k, m]`.
    pub transpose_a: bool,
    /// Whether the second operand is stored `[batch, n, k]`.
    pub transpose_b: bool,
    /// Whether the second operand is one matrix for all products.
    pub broadcast_b: bool,
}

struct Sizes {
    /// Steps of the depth.
    steps: usize,
    right: Layout,
    left: Layout,
    /// Matrices on the right.
    right_items: usize,
    parts: [usize; 2],
}

impl MatmulGeometry {
    fn sizes(&self, kernels: &Kernels, storage: DType) -> Sizes {
        let steps = self.k.div_ceil(kernels.depth());
        let right = Layout::right(kernels, self.n, steps);
        let left = Layout::left(self.m, steps);
        let right_items = if self.broadcast_b { 1 } else { self.batch };
        let a = match self.transpose_a {
            #[cfg(target_arch = "x86_64")]
            true if kernels.amx => self.batch * self.m * turned_row(steps) * STEP,
            true => self.batch * left.bytes(),
            false => rows_bytes(kernels, storage, self.batch * self.m, 1, self.k),
        };
        Sizes { steps, right, left, right_items, parts: [a, right_items * right.bytes()] }
    }
}

/// Bytes of scratch memory that [`matmul`] needs for operands stored as `storage`.
pub fn matmul_scratch_bytes(isa: Isa, storage: DType, geometry: &MatmulGeometry) -> usize {
    scratch::total(&geometry.sizes(kernels_for(isa, storage), storage).parts)
}

/// `out [batch, m, n] = a b`, with either operand stored transposed; both stored alike, out in either type.
///
/// # Errors
/// Operands that do not fit together.
pub fn matmul(
    pool: &ThreadPool,
    isa: Isa,
    geometry: &MatmulGeometry,
    a: Data<'_>,
    b: Data<'_>,
    mut out: DataMut<'_>,
    scratch: &mut [u8],
) -> Result<(), GemmError> {
    let operation = "matmul";
    let g = geometry;
    if a.dtype() != b.dtype() || a.dtype() == DType::I32 {
        return Err(GemmError::Storage {
            operation,
            operand: "the second operand",
            expected: "the floating-point type of the first",
            found: b.dtype(),
        });
    }
    let kernels = kernels_for(isa, a.dtype());
    let sizes = g.sizes(kernels, a.dtype());
    check_len(operation, "the first operand", g.batch * g.m * g.k, a.len())?;
    check_len(operation, "the second operand", sizes.right_items * g.n * g.k, b.len())?;
    let finish = Epilogue::default().bind(operation, g.batch * g.m, g.n, &mut out)?;
    let [left, right] = scratch::cut(operation, scratch, sizes.parts)?;
    if out.is_empty() {
        return Ok(());
    }
    if g.k > 0 {
        let (depth_stride, column_stride) = if g.transpose_b { (1, g.k) } else { (g.n, 1) };
        // SAFETY: the scratch memory was cut for it, and the length was checked.
        unsafe {
            pack_data(
                pool,
                kernels,
                b,
                sizes.right_items,
                g.k,
                depth_stride,
                column_stride,
                &sizes.right,
                right,
            )
        };
    }
    // One B for all is one taller product.
    let joined = g.broadcast_b && !g.transpose_a;
    let (items, m) = if joined { (1, g.batch * g.m) } else { (g.batch, g.m) };
    let mut product = Product {
        items,
        item_panels: if g.broadcast_b { 0 } else { sizes.right.bytes() },
        ..Product::new(kernels, [m, sizes.steps, g.n], right, &finish)
    };
    #[cfg(target_arch = "x86_64")]
    if let (true, true, Data::Bf16(a)) = (g.transpose_a, kernels.amx, a) {
        let row = turned_row(sizes.steps);
        for (item, a) in a.chunks_exact((g.k * g.m).max(1)).enumerate() {
            turn_rows(
                pool,
                kernels,
                a,
                [g.k, g.m],
                &Cells(left.cast::<u32>().wrapping_add(item * g.m * row)),
            );
        }
        let x = Rows { data: left, stride: row * STEP, group: 0 };
        // SAFETY: the scratch memory was cut for the rows.
        unsafe { run(pool, &product, 0, |block| fill(x, block.item * m, block)) };
        return Ok(());
    }
    if g.transpose_a {
        product.row_step = ROWS * STEP;
        let left = Panels(left);
        // SAFETY: the scratch memory was cut for the panels; rows start at multiples of ROWS, as panels do.
        unsafe {
            if g.k > 0 {
                pack_data(pool, kernels, a, g.batch, g.k, g.m, 1, &sizes.left, left.at(0));
            }
            run(pool, &product, 0, |block| {
                for (i, output) in block.outputs.iter_mut().enumerate() {
                    let row = block.first + i;
                    *output = block.item * g.m + row;
                    let cell = block.item * sizes.left.cells() + sizes.left.start(row / ROWS) + row % ROWS;
                    block.pointers[i / ROWS][i % ROWS] = left.at(cell * STEP);
                }
            });
        }
    } else {
        // SAFETY: the scratch memory was cut for it, and lengths were checked.
        unsafe {
            let x = rows(pool, kernels, operation, a, [g.batch * g.m, 1, g.k], left)?;
            run(pool, &product, 0, |block| fill(x, block.item * m, block));
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Panels(*mut u8);

// SAFETY: only read while it is shared.
unsafe impl Sync for Panels {}

impl Panels {
    fn at(&self, offset: usize) -> *mut u8 {
        self.0.wrapping_add(offset)
    }
}

/// # Safety
/// As for [`pack`].
#[allow(clippy::too_many_arguments)]
unsafe fn pack_data(
    pool: &ThreadPool,
    kernels: &Kernels,
    data: Data<'_>,
    items: usize,
    depth: usize,
    depth_stride: usize,
    column_stride: usize,
    layout: &Layout,
    to: *mut u8,
) {
    #[allow(clippy::too_many_arguments)]
    unsafe fn typed<T: Number>(
        pool: &ThreadPool,
        kernels: &Kernels,
        data: &[T],
        items: usize,
        depth: usize,
        depth_stride: usize,
        column_stride: usize,
        layout: &Layout,
        to: *mut u8,
    ) {
        let item_stride = depth * layout.columns;
        let source = Source { data, items, item_stride, taps: &[0], depth, depth_stride, column_stride };
        // SAFETY: the caller's promise.
        unsafe { pack(pool, kernels.isa, kernels.pairs(), &source, layout, to.cast()) };
    }
    // SAFETY: the caller's promise.
    unsafe {
        match data {
            Data::F32(x) => {
                typed(pool, kernels, x, items, depth, depth_stride, column_stride, layout, to);
            }
            Data::Bf16(x) => {
                typed(pool, kernels, x, items, depth, depth_stride, column_stride, layout, to);
            }
            Data::I32(_) => {}
        }
    }
}
