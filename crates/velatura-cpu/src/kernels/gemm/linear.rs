//! Linear layers: one matrix product with a packed weight.

use super::driver::{Dequantize, Product, RowBlock, run};
use super::epilogue::Epilogue;
use super::error::{GemmError, check_len};
use super::finish::Finish;
use super::int8;
use super::packed::PackedMatrix;
use super::prepare::{Rows, rows, rows_bytes};
use super::scratch;
use super::strassen::{self, Levels};
use super::tile::{Kernels, ROWS};
use crate::kernels::Order;
use crate::{Data, DataMut, Isa, ThreadPool};
use velatura_graph::DType;

/// How the products of a linear layer are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinearAlgorithm {
    /// As it is written.
    Direct(Orders),
    /// Strassen's algorithm where rows and depth can be divided so often, and products do not run [on tiles](super::on_tiles); see
    /// [`strassen_pays`](super::strassen_pays).
    Strassen(Levels),
}

/// How the operands of a linear layer lie in memory. In [`Order::Tiles`] they can where products run [on them](super::on_tiles), stored
/// in brain floating point, and where the weight is not in 8 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Orders {
    /// Of the input.
    pub input: Order,
    /// Of the output.
    pub output: Order,
}

/// Bytes of scratch memory that [`linear`] needs for `[m, in]` stored as `storage` to `[m, out]`; often zero.
pub fn linear_scratch_bytes(
    isa: Isa,
    storage: DType,
    [m, inputs, outputs]: [usize; 3],
    algorithm: LinearAlgorithm,
) -> usize {
    scratch::total(&parts(kernels_for(isa, storage), storage, [m, inputs, outputs], algorithm))
}

fn parts(
    kernels: &'static Kernels,
    storage: DType,
    [m, inputs, outputs]: [usize; 3],
    algorithm: LinearAlgorithm,
) -> [usize; 2] {
    let sums = match algorithm {
        LinearAlgorithm::Direct(_) => 0,
        LinearAlgorithm::Strassen(levels) => strassen::scratch_bytes(kernels, [m, inputs, outputs], levels),
    };
    [rows_bytes(kernels, storage, m, 1, inputs), sums]
}

/// Bytes of scratch memory that [`linear`] needs for `rows` rows and a weight from [`PackedMatrix::linear_int8`].
pub fn linear_int8_scratch_bytes(rows: usize, inputs: usize) -> usize {
    scratch::total(&int8::parts(rows, inputs))
}

/// `out = epilogue(x B)`: x `[m, in]`, out `[m, out]`.
///
/// With a gate, out is `[m, out / 2]`. With a weight packed by [`PackedMatrix::linear`] it is the layer, in 8 bits (whatever the algorithm) by [`PackedMatrix::linear_int8`], with one packed by
/// [`PackedMatrix::linear_input_gradient`] the gradient of its input. `x` must be stored as the weight was
/// packed for; `out` and the epilogue's operands in either floating-point type.
///
/// # Errors
/// Operands that do not fit together.
pub fn linear(
    pool: &ThreadPool,
    isa: Isa,
    algorithm: LinearAlgorithm,
    x: Data<'_>,
    m: usize,
    weight: &PackedMatrix,
    epilogue: &Epilogue<'_>,
    mut out: DataMut<'_>,
    scratch: &mut [u8],
) -> Result<(), GemmError> {
    let operation = "linear";
    let gated = epilogue.gate.is_some();
    if !weight.purpose.is_linear() || weight.purpose.is_gated() != gated || weight.isa() != isa {
        return Err(GemmError::Packing {
            operation,
            expected: format!("a {} layer on {}", if gated { "gated linear" } else { "linear" }, isa.name()),
            found: weight.description(),
        });
    }
    check_len(operation, "the input", m * weight.depth, x.len())?;
    let mut finish = epilogue.bind(operation, m, weight.columns, &mut out)?;
    let orders = match algorithm {
        LinearAlgorithm::Direct(orders) => orders,
        LinearAlgorithm::Strassen(_) => Orders::default(),
    };
    let tiles = weight.kernels.amx && weight.kernels.pairs();
    let shapes = [(orders.input, x.dtype(), weight.depth), (orders.output, out.dtype(), finish.out.stride)];
    for ((order, dtype, columns), operand) in shapes.into_iter().zip(["the input", "the output"]) {
        let can = tiles && dtype == DType::Bf16 && order.takes([m, columns]);
        if order == Order::Tiles && !can {
            let weight = weight.description();
            return Err(GemmError::Order { operation, operand, dtype, shape: [m, columns], weight });
        }
    }
    finish.order = orders.output;
    if weight.purpose.is_int8() {
        if x.dtype() == DType::I32 {
            let (operand, expected) = ("the input", "f32 or bf16");
            return Err(GemmError::Storage { operation, operand, expected, found: DType::I32 });
        }
        let memory = scratch::cut(operation, scratch, int8::parts(m, weight.depth))?;
        // SAFETY: lengths were checked, and the scratch memory was cut for it.
        unsafe { int8::product(pool, weight, x, m, &finish, memory) };
        return Ok(());
    }
    if let (Order::Tiles, Data::Bf16(x)) = (orders.input, x) {
        let product = Product { tiles: Some(x.as_ptr().cast()), ..whole(weight, m, None, &finish) };
        // SAFETY: lengths were checked; rows in tiles want no pointers.
        unsafe { run(pool, &product, 0, |block| name(0, block)) };
        return Ok(());
    }
    let sizes = [m, weight.depth, weight.columns];
    let memory = scratch::cut(operation, scratch, parts(weight.kernels, x.dtype(), sizes, algorithm))?;
    // SAFETY: lengths were checked, and the scratch memory was cut for it.
    unsafe {
        let x = rows(pool, weight.kernels, operation, x, [m, 1, weight.depth], memory[0])?;
        match algorithm {
            LinearAlgorithm::Direct(_) => product(pool, weight, x, m, None, &finish),
            LinearAlgorithm::Strassen(levels) => {
                strassen::product(pool, weight, x, m, &finish, levels, memory[1]);
            }
        }
    }
    Ok(())
}

/// The product of rows and the only part of a weight with one tap; rows of bytes come with what takes their products back.
///
/// # Safety
/// `x` has `m` rows of the weight's depth; `finish` was bound for `m` rows.
pub(super) unsafe fn product(
    pool: &ThreadPool,
    weight: &PackedMatrix,
    x: Rows,
    m: usize,
    dequantize: Option<Dequantize<'_>>,
    finish: &Finish,
) {
    let product = whole(weight, m, dequantize, finish);
    // SAFETY: the caller's promise.
    unsafe { run(pool, &product, 0, |block| fill(x, 0, block)) };
}

/// `m` rows by all columns of the only part of a weight with one tap.
pub(super) fn whole<'a>(
    weight: &PackedMatrix,
    m: usize,
    dequantize: Option<Dequantize<'a>>,
    finish: &'a Finish,
) -> Product<'a> {
    let sizes = [m, weight.steps(), weight.columns];
    Product { dequantize, ..Product::new(weight.kernels, sizes, weight.panels(0), finish) }
}

/// Names successive rows, from row `base` on.
pub(super) fn fill(x: Rows, base: usize, block: &mut RowBlock<'_>) {
    name(base, block);
    for (i, row) in block.outputs.iter().enumerate() {
        block.pointers[i / ROWS][i % ROWS] = x.data.wrapping_add(row * x.stride);
    }
}

/// Names the rows of the output alone.
fn name(base: usize, block: &mut RowBlock<'_>) {
    for (i, output) in block.outputs.iter_mut().enumerate() {
        *output = base + block.first + i;
    }
}

/// The kernels for operands stored as `storage`.
pub(super) fn kernels_for(isa: Isa, storage: DType) -> &'static Kernels {
    Kernels::of(isa, super::compute_dtype(isa, storage) == DType::Bf16)
}
