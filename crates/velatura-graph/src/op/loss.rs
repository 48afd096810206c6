//! Cross-entropy against class indices, fused so that the probabilities are never stored.

use super::{Adjoint, Operation, arity, ensure, floats};
use crate::error::GraphError;
use crate::reference::Array;
use crate::types::{DType, TensorType};
use crate::var::Var;

/// `-log softmax(logits)[target]` for each row: logits `[rows, classes]`, targets i32 `[rows]`, result `[rows]`.
#[derive(Clone, Debug, PartialEq)]
pub struct CrossEntropy;

/// The adjoint of [`CrossEntropy`]: `(logits, targets, dy) -> dlogits`.
#[derive(Clone, Debug, PartialEq)]
pub struct CrossEntropyGradient;

fn check(inputs: &[&TensorType]) -> Result<(), String> {
    ensure!(inputs[0].rank() == 2 && inputs[0].dtype.is_float(), "logits [rows, classes] expected");
    ensure!(
        inputs[1].dtype == DType::I32 && inputs[1].shape == inputs[0].shape[..1],
        "one class index for each row expected"
    );
    Ok(())
}

fn probabilities(row: &[f64]) -> Vec<f64> {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = row.iter().map(|x| (x - max).exp()).sum();
    row.iter().map(|x| (x - max).exp() / sum).collect()
}

impl Operation for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        arity(inputs, 2)?;
        check(inputs)?;
        Ok(vec![TensorType::f32(inputs[1].shape.clone())])
    }
    fn gradient<'g>(&self, at: &Adjoint<'_, 'g>) -> Result<Vec<Option<Var<'g>>>, GraphError> {
        let inputs = [at.inputs[0], at.inputs[1], at.grad()];
        Ok(vec![Some(at.inputs[0].builder().push(CrossEntropyGradient.into(), &inputs)[0]), None])
    }
    fn evaluate(&self, inputs: &[&Array], _: &[TensorType]) -> Vec<Array> {
        let (logits, targets) = (inputs[0], inputs[1]);
        let rows = logits.data.chunks(logits.shape[1]).zip(&targets.data);
        let data = rows.map(|(row, &t)| -probabilities(row)[t as usize].ln()).collect();
        vec![Array { shape: targets.shape.clone(), data }]
    }
}

impl Operation for CrossEntropyGradient {
    fn name(&self) -> &'static str {
        "cross-entropy gradient"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        arity(inputs, 3)?;
        check(inputs)?;
        floats(&inputs[2..])?;
        ensure!(inputs[2].shape == inputs[1].shape, "one gradient for each row expected");
        Ok(vec![inputs[0].clone()])
    }
    fn evaluate(&self, inputs: &[&Array], _: &[TensorType]) -> Vec<Array> {
        let (logits, targets, dy) = (inputs[0], inputs[1], inputs[2]);
        let mut out = logits.clone();
        for (i, row) in out.rows_mut().enumerate() {
            let p = probabilities(row);
            for (j, x) in row.iter_mut().enumerate() {
                let hit = f64::from(u8::from(j == targets.data[i] as usize));
                *x = (p[j] - hit) * dy.data[i];
            }
        }
        vec![out]
    }
}
