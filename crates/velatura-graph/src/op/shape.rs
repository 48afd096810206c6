//! Operations that move elements without changing them.

use super::{Adjoint, Operation, arity, elementwise::broadcast, ensure};
use crate::error::GraphError;
use crate::reference::Array;
use crate::types::TensorType;
use crate::var::Var;

/// The same elements in row-major order under another shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Reshape {
    /// The new shape.
    pub shape: Vec<usize>,
}

/// Axis `i` of the result is axis `axes[i]` of the input.
#[derive(Clone, Debug, PartialEq)]
pub struct Permute {
    /// The order of the axes.
    pub axes: Vec<usize>,
}

/// `length` entries of one axis from `start`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Slice {
    pub axis: usize,
    pub start: usize,
    pub length: usize,
}

/// Zeros around one axis; the adjoint of [`Slice`].
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Pad {
    pub axis: usize,
    pub before: usize,
    pub after: usize,
}

/// Joins tensors along one axis.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Concat {
    pub axis: usize,
}

/// Repeats axes of length 1 and adds leading ones.
#[derive(Clone, Debug, PartialEq)]
pub struct BroadcastTo {
    /// The new shape.
    pub shape: Vec<usize>,
}

impl Operation for Reshape {
    fn name(&self) -> &'static str {
        "reshape"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        arity(inputs, 1)?;
        let wanted = TensorType::new(self.shape.clone(), inputs[0].dtype);
        ensure!(
            wanted.elements() == inputs[0].elements(),
            "{} elements cannot take the shape {:?}",
            inputs[0].elements(),
            self.shape
        );
        Ok(vec![wanted])
    }
    fn gradient<'g>(&self, at: &Adjoint<'_, 'g>) -> Result<Vec<Option<Var<'g>>>, GraphError> {
        Ok(vec![Some(at.grad().reshape(&at.inputs[0].shape()))])
    }
    fn evaluate(&self, inputs: &[&Array], _: &[TensorType]) -> Vec<Array> {
        vec![Array { shape: self.shape.clone(), data: inputs[0].data.clone() }]
    }
}

impl Operation for Permute {
    fn name(&self) -> &'static str {
        "permute"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        arity(inputs, 1)?;
        let mut sorted = self.axes.clone();
        sorted.sort_unstable();
        ensure!(
            sorted.iter().copied().eq(0..inputs[0].rank()),
            "{:?} is not an order of {} axes",
            self.axes,
            inputs[0].rank()
        );
        let shape: Vec<usize> = self.axes.iter().map(|&a| inputs[0].shape[a]).collect();
        Ok(vec![TensorType::new(shape, inputs[0].dtype)])
    }
    fn gradient<'g>(&self, at: &Adjoint<'_, 'g>) -> Result<Vec<Option<Var<'g>>>, GraphError> {
        let mut inverse = vec![0; self.axes.len()];
        self.axes.iter().enumerate().for_each(|(i, &a)| inverse[a] = i);
        Ok(vec![Some(at.grad().permute(&inverse))])
    }
    fn evaluate(&self, inputs: &[&Array], types: &[TensorType]) -> Vec<Array> {
        let x = inputs[0];
        vec![Array::from_index(&types[0].shape, |out| {
            let mut index = vec![0; out.len()];
            self.axes.iter().zip(out).for_each(|(&a, &i)| index[a] = i);
            x.at(&index)
        })]
    }
}

impl Operation for Slice {
    fn name(&self) -> &'static str {
        "slice"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        arity(inputs, 1)?;
        let mut shape = inputs[0].shape.clone();
        ensure!(self.axis < shape.len(), "there is no axis {}", self.axis);
        let fits = self.start.checked_add(self.length).is_some_and(|end| end <= shape[self.axis]);
        ensure!(
            fits && self.length > 0,
            "{} entries from {} are not inside axis {} of length {}",
            self.length,
            self.start,
            self.axis,
            shape[self.axis]
        );
        shape[self.axis] = self.length;
        Ok(vec![TensorType::new(shape, inputs[0].dtype)])
    }
    fn gradient<'g>(&self, at: &Adjoint<'_, 'g>) -> Result<Vec<Option<Var<'g>>>, GraphError> {
        let whole = at.inputs[0].shape()[self.axis];
        Ok(vec![Some(at.grad().pad(self.axis, self.start, whole - self.start - self.length))])
    }
    fn evaluate(&self, inputs: &[&Array], types: &[TensorType]) -> Vec<Array> {
        let x = inputs[0];
        vec![Array::from_index(&types[0].shape, |out| {
            let mut index = out.to_vec();
            index[self.axis] += self.start;
            x.at(&index)
        })]
    }
}

impl Operation for Pad {
    fn name(&self) -> &'static str {
        "pad"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        arity(inputs, 1)?;
        let mut shape = inputs[0].shape.clone();
        ensure!(self.axis < shape.len(), "there is no axis {}", self.axis);
        shape[self.axis] = shape[self.axis]
            .checked_add(self.before)
            .and_then(|n| n.checked_add(self.after))
            .ok_or("the padding overflows")?;
        Ok(vec![TensorType::new(shape, inputs[0].dtype)])
    }
    fn gradient<'g>(&self, at: &Adjoint<'_, 'g>) -> Result<Vec<Option<Var<'g>>>, GraphError> {
        let length = at.inputs[0].shape()[self.axis];
        Ok(vec![Some(at.grad().slice(self.axis, self.before, length))])
    }
    fn evaluate(&self, inputs: &[&Array], types: &[TensorType]) -> Vec<Array> {
        let x = inputs[0];
        vec![Array::from_index(&types[0].shape, |out| {
            let i = out[self.axis];
            if i < self.before || i >= self.before + x.shape[self.axis] {
                return 0.0;
            }
            let mut index = out.to_vec();
            index[self.axis] -= self.before;
            x.at(&index)
        })]
    }
}

impl Operation for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        ensure!(!inputs.is_empty(), "nothing to join");
        let mut shape = inputs[0].shape.clone();
        ensure!(self.axis < shape.len(), "there is no axis {}", self.axis);
        for other in &inputs[1..] {
            let agrees = other.rank() == shape.len()
                && other.dtype == inputs[0].dtype
                && (0..shape.len()).all(|i| i == self.axis || other.shape[i] == shape[i]);
            ensure!(agrees, "the inputs differ outside axis {}", self.axis);
            shape[self.axis] =
                shape[self.axis].checked_add(other.shape[self.axis]).ok_or("the joined axis overflows")?;
        }
        Ok(vec![TensorType::new(shape, inputs[0].dtype)])
    }
    fn gradient<'g>(&self, at: &Adjoint<'_, 'g>) -> Result<Vec<Option<Var<'g>>>, GraphError> {
        let mut start = 0;
        let part = |(input, &wanted): (&Var<'g>, &bool)| {
            let length = input.shape()[self.axis];
            start += length;
            wanted.then(|| at.grad().slice(self.axis, start - length, length))
        };
        Ok(at.inputs.iter().zip(at.wanted).map(part).collect())
    }
    fn evaluate(&self, inputs: &[&Array], types: &[TensorType]) -> Vec<Array> {
        vec![Array::from_index(&types[0].shape, |out| {
            let mut index = out.to_vec();
            for x in inputs {
                if index[self.axis] < x.shape[self.axis] {
                    return x.at(&index);
                }
                index[self.axis] -= x.shape[self.axis];
            }
            unreachable!("the shape rule adds up the lengths")
        })]
    }
}

impl Operation for BroadcastTo {
    fn name(&self) -> &'static str {
        "broadcast"
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        arity(inputs, 1)?;
        ensure!(
            broadcast(&inputs[0].shape, &self.shape).as_ref() == Some(&self.shape),
            "{:?} does not broadcast to {:?}",
            inputs[0].shape,
            self.shape
        );
        Ok(vec![TensorType::new(self.shape.clone(), inputs[0].dtype)])
    }
    fn gradient<'g>(&self, at: &Adjoint<'_, 'g>) -> Result<Vec<Option<Var<'g>>>, GraphError> {
        Ok(vec![Some(at.grad().sum_to(&at.inputs[0].shape()))])
    }
    fn evaluate(&self, inputs: &[&Array], _: &[TensorType]) -> Vec<Array> {
        vec![inputs[0].broadcast_to(&self.shape)]
    }
}
