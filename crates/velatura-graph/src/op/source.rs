//! Values that come from outside: the caller's inputs, the model's parameters, constants.

use std::sync::Arc;

use super::{Adjoint, Operation, ensure};
use crate::error::GraphError;
use crate::reference::Array;
use crate::types::{TensorType, elements};
use crate::var::Var;

/// A tensor that the caller supplies at each run.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// The name it is supplied under.
    pub name: String,
    /// Its type.
    pub ty: TensorType,
}

/// A weight of the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Its full dotted name.
    pub name: String,
    /// Its type, `f32` always: lower precisions are a matter of how the executor packs it.
    pub ty: TensorType,
}

/// A tensor written into the graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// All elements in row-major order, or a single one that fills the shape.
    pub values: Arc<[f32]>,
}

impl Operation for Input {
    fn name(&self) -> &'static str {
        "input"
    }
    fn infer(&self, _: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        self.ty.check_size().map_err(|reason| format!("{}: {reason}", self.name))?;
        Ok(vec![self.ty.clone()])
    }
    fn gradient<'g>(&self, _: &Adjoint<'_, 'g>) -> Result<Vec<Option<Var<'g>>>, GraphError> {
        Ok(vec![])
    }
    fn evaluate(&self, _: &[&Array], _: &[TensorType]) -> Vec<Array> {
        unreachable!("the interpreter supplies inputs itself")
    }
}

impl Operation for Parameter {
    fn name(&self) -> &'static str {
        "parameter"
    }
    fn infer(&self, _: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        self.ty.check_size().map_err(|reason| format!("{}: {reason}", self.name))?;
        Ok(vec![self.ty.clone()])
    }
    fn gradient<'g>(&self, _: &Adjoint<'_, 'g>) -> Result<Vec<Option<Var<'g>>>, GraphError> {
        Ok(vec![])
    }
    fn evaluate(&self, _: &[&Array], _: &[TensorType]) -> Vec<Array> {
        unreachable!("the interpreter supplies parameters itself")
    }
}

impl Operation for Constant {
    fn name(&self) -> &'static str {
        "constant"
    }
    fn infer(&self, _: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let elements = elements(&self.shape);
        ensure!(
            elements > 0 && (self.values.len() == 1 || self.values.len() == elements),
            "{} values do not fill the shape {:?}",
            self.values.len(),
            self.shape
        );
        Ok(vec![TensorType::f32(self.shape.clone())])
    }
    fn gradient<'g>(&self, _: &Adjoint<'_, 'g>) -> Result<Vec<Option<Var<'g>>>, GraphError> {
        Ok(vec![])
    }
    fn evaluate(&self, _: &[&Array], types: &[TensorType]) -> Vec<Array> {
        let splat = self.values.len() == 1;
        vec![Array::from_fn(&types[0].shape, |i| f64::from(self.values[if splat { 0 } else { i }]))]
    }
}
