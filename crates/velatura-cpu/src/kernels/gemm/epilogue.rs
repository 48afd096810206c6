//! What is done to a product before it is written.

use velatura_graph::{Activation, DType};

use super::error::{GemmError, check_len};
use super::finish::{Finish, Matrix};
use crate::kernels::Order;
use crate::{Data, DataMut};

/// `out = activation(product + bias + per_image) + residual`, before the only store; with a gate, of the sums' first half times
/// the function of the second, before the residual.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// One number for each column.
    pub bias: Option<&'a [f32]>,
    /// `[images, columns]`: a row for all rows of an image, such as the timestep's embedding. The rows of the
    /// product are divided evenly among the images.
    pub per_image: Option<Data<'a>>,
    /// The function applied.
    pub activation: Option<Activation>,
    /// The function of the second half of a linear layer's columns, by which the first half is multiplied: the output has
    /// half as many columns as the product. Without an activation.
    pub gate: Option<Activation>,
    /// Of the output's shape, in either storage type.
    pub residual: Option<Data<'a>>,
}

fn matrix(
    data: Data<'_>,
    stride: usize,
    operation: &'static str,
    operand: &'static str,
) -> Result<Matrix, GemmError> {
    let (pointer, bf16) = match data {
        Data::F32(x) => (x.as_ptr().cast::<u8>(), false),
        Data::Bf16(x) => (x.as_ptr().cast::<u8>(), true),
        Data::I32(_) => {
            return Err(GemmError::Storage {
                operation,
                operand,
                expected: "f32 or bf16",
                found: DType::I32,
            });
        }
    };
    Ok(Matrix { data: pointer.cast_mut(), bf16, stride })
}

impl Epilogue<'_> {
    /// Holds the operands against an output of `rows` by `columns`.
    pub(super) fn bind(
        &self,
        operation: &'static str,
        rows: usize,
        columns: usize,
        out: &mut DataMut<'_>,
    ) -> Result<Finish, GemmError> {
        let width = if self.gate.is_some() { columns / 2 } else { columns };
        check_len(operation, "the output", rows * width, out.len())?;
        let mut target = matrix(out.as_ref(), width, operation, "the output")?;
        target.data = match out {
            DataMut::F32(x) => x.as_mut_ptr().cast(),
            DataMut::Bf16(x) => x.as_mut_ptr().cast(),
            DataMut::I32(x) => x.as_mut_ptr().cast(),
        };
        let mut finish = Finish {
            out: target,
            order: Order::Rows,
            bias: std::ptr::null(),
            per_image: Matrix::NONE,
            image_rows: 1,
            residual: Matrix::NONE,
            activation: self.activation,
            gate: self.gate,
        };
        if let Some(bias) = self.bias {
            check_len(operation, "the bias", columns, bias.len())?;
            finish.bias = bias.as_ptr();
        }
        if let Some(per_image) = self.per_image.filter(|_| rows > 0) {
            let images = (per_image.len() / columns.max(1)).max(1);
            let images = if rows.is_multiple_of(images) { images } else { 1 };
            check_len(operation, "the row for each image", images * columns, per_image.len())?;
            finish.per_image = matrix(per_image, columns, operation, "the row for each image")?;
            finish.image_rows = rows / images;
        }
        if let Some(residual) = self.residual {
            check_len(operation, "the residual", rows * width, residual.len())?;
            finish.residual = matrix(residual, width, operation, "the residual")?;
        }
        Ok(finish)
    }
}
