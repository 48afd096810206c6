//! One weight in one form.

use std::sync::Mutex;

use half::slice::HalfFloatSliceExt;
use velatura_graph::DType;

use super::Form;
use crate::error::CpuError;
use crate::kernels::gemm::{GemmError, PackedMatrix, Purpose};
use crate::runtime::Runtime;
use crate::{AlignedBytes, Isa, ThreadPool, Values};

/// A weight in one form.
pub(super) enum Packed {
    /// Not loaded yet.
    Empty,
    /// Not kept: packed whenever it is wanted.
    Streamed,
    /// [`Form::Raw`].
    Raw(AlignedBytes),
    /// Any other form.
    Matrix(PackedMatrix),
}

impl Packed {
    pub fn bytes(&self) -> usize {
        match self {
            Packed::Empty | Packed::Streamed => 0,
            Packed::Raw(values) => values.len(),
            Packed::Matrix(matrix) => matrix.bytes(),
        }
    }
}

pub(super) struct Entry {
    pub name: String,
    pub shape: Vec<usize>,
    pub form: Form,
    pub packed: Packed,
}

/// Bytes that a weight of this shape takes in a form.
pub(crate) fn bytes_of(isa: Isa, shape: &[usize], form: &Form) -> Result<usize, GemmError> {
    match form {
        Form::Raw => Ok(shape.iter().product::<usize>() * size_of::<f32>()),
        form => Ok(matrix(isa, shape, form)?.bytes()),
    }
}

/// The matrix of a form, without memory.
fn matrix(isa: Isa, shape: &[usize], form: &Form) -> Result<PackedMatrix, GemmError> {
    let axis = |i: usize| shape.get(i).copied().unwrap_or(1);
    let (dtype, groups, stride, purpose) = match *form {
        Form::Linear(dtype) => (dtype, 1, [1; 2], Purpose::Linear),
        Form::LinearGated(dtype) => (dtype, 1, [1; 2], Purpose::LinearGated),
        Form::LinearInt8 => (DType::F32, 1, [1; 2], Purpose::LinearInt8),
        Form::LinearInt8Gated => (DType::F32, 1, [1; 2], Purpose::LinearInt8Gated),
        Form::LinearGradient(dtype) => (dtype, 1, [1; 2], Purpose::LinearInputGradient),
        Form::Conv(dtype, groups) => (dtype, groups, [1; 2], Purpose::Conv),
        Form::Winograd(dtype, tiling) => (dtype, 1, [1; 2], Purpose::ConvWinograd(tiling)),
        Form::WinogradGradient(dtype, tiling) => {
            (dtype, 1, [1; 2], Purpose::ConvInputGradientWinograd(tiling))
        }
        Form::ConvGradient(dtype, groups, stride) => (dtype, groups, stride, Purpose::ConvInputGradient),
        Form::Raw => unreachable!("raw weights are not packed"),
    };
    PackedMatrix::empty(isa, dtype, [0, 1, 2, 3].map(axis), groups, stride, purpose)
}

impl Entry {
    /// That the values are as many as the shape says.
    pub fn check(&self, values: &Values<'_>) -> Result<(), CpuError> {
        if values.len() == self.shape.iter().product::<usize>() {
            return Ok(());
        }
        Err(CpuError::WrongWeight { name: self.name.clone(), shape: self.shape.clone(), given: values.len() })
    }

    /// The form in memory that is yet to be filled.
    pub fn empty(&self, isa: Isa, memory: AlignedBytes) -> Result<Packed, CpuError> {
        if self.form == Form::Raw {
            return Ok(Packed::Raw(memory));
        }
        let mut matrix = matrix(isa, &self.shape, &self.form)?;
        matrix.set_memory(memory);
        Ok(Packed::Matrix(matrix))
    }

    pub fn fill(&mut self, runtime: &Runtime, values: Values<'_>) -> Result<(), CpuError> {
        match &mut self.packed {
            Packed::Matrix(matrix) => matrix.fill(&runtime.pool, &values)?,
            Packed::Raw(to) => widen(&runtime.pool, &values, to.typed_mut()),
            Packed::Empty | Packed::Streamed => {}
        }
        Ok(())
    }
}

/// Elements of one task of widening.
const CHUNK: usize = 1 << 16;

/// Numbers in single precision, on all threads.
fn widen(pool: &ThreadPool, values: &Values<'_>, to: &mut [f32]) {
    let chunks: Vec<Mutex<&mut [f32]>> = to.chunks_mut(CHUNK).map(Mutex::new).collect();
    pool.run(chunks.len(), |i, _| {
        let mut to = chunks[i].lock().unwrap_or_else(|e| e.into_inner());
        let part = i * CHUNK..i * CHUNK + to.len();
        match values {
            Values::F32(values) => to.copy_from_slice(&values[part]),
            Values::F16(values) => values[part].convert_to_f32_slice(&mut to),
            Values::Bf16(values) => values[part].convert_to_f32_slice(&mut to),
        }
    });
}
