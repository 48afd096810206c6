//! Table lookup.

use super::{Adjoint, Operation, arity, ensure, floats};
use crate::error::GraphError;
use crate::reference::Array;
use crate::types::{DType, TensorType};
use crate::var::Var;

/// Rows of a table `[rows, width]` by index: ids of shape `S` give `[S, width]`. The executor refuses an index
/// outside the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding;

/// The adjoint of [`Embedding`]: `(ids, dy) -> dtable`, `f32`.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddingGradient {
    /// Rows of the table.
    pub rows: usize,
}

impl Operation for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        arity(inputs, 2)?;
        ensure!(inputs[0].rank() == 2 && inputs[0].dtype.is_float(), "a table [rows, width] expected");
        ensure!(inputs[1].dtype == DType::I32, "i32 indices expected");
        let mut shape = inputs[1].shape.clone();
        shape.push(inputs[0].shape[1]);
        Ok(vec![TensorType::new(shape, inputs[0].dtype)])
    }
    fn gradient<'g>(&self, at: &Adjoint<'_, 'g>) -> Result<Vec<Option<Var<'g>>>, GraphError> {
        let op = EmbeddingGradient { rows: at.inputs[0].shape()[0] };
        Ok(vec![Some(at.inputs[0].builder().push(op.into(), &[at.inputs[1], at.grad()])[0]), None])
    }
    fn evaluate(&self, inputs: &[&Array], types: &[TensorType]) -> Vec<Array> {
        let width = inputs[0].shape[1];
        let row = |&id: &f64| inputs[0].data[id as usize * width..][..width].to_vec();
        vec![Array { shape: types[0].shape.clone(), data: inputs[1].data.iter().flat_map(row).collect() }]
    }
}

impl Operation for EmbeddingGradient {
    fn name(&self) -> &'static str {
        "embedding gradient"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        arity(inputs, 2)?;
        let rank = inputs[0].rank();
        floats(&inputs[1..])?;
        ensure!(inputs[0].dtype == DType::I32, "i32 indices expected");
        ensure!(
            inputs[1].rank() == rank + 1 && inputs[1].shape[..rank] == inputs[0].shape,
            "one row of the gradient for each index expected"
        );
        Ok(vec![TensorType::f32([self.rows, inputs[1].last()])])
    }
    fn evaluate(&self, inputs: &[&Array], types: &[TensorType]) -> Vec<Array> {
        let width = types[0].shape[1];
        let mut out = Array::from_fn(&types[0].shape, |_| 0.0);
        for (&id, row) in inputs[0].data.iter().zip(inputs[1].data.chunks(width)) {
            let target = &mut out.data[id as usize * width..][..width];
            target.iter_mut().zip(row).for_each(|(t, d)| *t += d);
        }
        vec![out]
    }
}
