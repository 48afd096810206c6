//! Sums, means and maxima over axes.

use super::{Adjoint, Operation, arity, ensure, floats};
use crate::error::GraphError;
use crate::reference::Array;
use crate::types::TensorType;
use crate::var::Var;

/// How a reduction combines elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ReduceKind {
    Sum,
    Mean,
    Max,
}

/// Combines the elements along some axes; always makes `f32`.
#[derive(Clone, Debug, PartialEq)]
pub struct Reduce {
    /// How.
    pub kind: ReduceKind,
    /// Along which axes, ascending.
    pub axes: Vec<usize>,
    /// Whether those axes stay, with length 1.
    pub keep: bool,
}

impl Reduce {
    fn kept_shape(&self, shape: &[usize]) -> Vec<usize> {
        shape.iter().enumerate().map(|(i, &n)| if self.axes.contains(&i) { 1 } else { n }).collect()
    }
}

impl Operation for Reduce {
    fn name(&self) -> &'static str {
        match self.kind {
            ReduceKind::Sum => "sum",
            ReduceKind::Mean => "mean",
            ReduceKind::Max => "max",
        }
    }
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        arity(inputs, 1)?;
        floats(inputs)?;
        let ascending = self.axes.windows(2).all(|w| w[0] < w[1]);
        ensure!(
            ascending && self.axes.iter().all(|&a| a < inputs[0].rank()),
            "the axes {:?} are not ascending axes of the input",
            self.axes
        );
        let mut shape = self.kept_shape(&inputs[0].shape);
        if !self.keep {
            let all = std::mem::take(&mut shape).into_iter().enumerate();
            shape = all.filter(|(i, _)| !self.axes.contains(i)).map(|(_, n)| n).collect();
        }
        Ok(vec![TensorType::f32(shape)])
    }
    fn gradient<'g>(&self, at: &Adjoint<'_, 'g>) -> Result<Vec<Option<Var<'g>>>, GraphError> {
        let (x, shape) = (at.inputs[0], at.inputs[0].shape());
        let kept = self.kept_shape(&shape);
        let dy = at.grad().reshape(&kept);
        let count: usize = self.axes.iter().map(|&a| shape[a]).product();
        let dx = match self.kind {
            ReduceKind::Sum => dy.broadcast_to(&shape),
            ReduceKind::Mean => (dy * (1.0 / count as f32)).broadcast_to(&shape),
            ReduceKind::Max => {
                // Shared equally among the places where the maximum stands, as `torch.amax` does.
                let winners = x.equal(at.outputs[0].reshape(&kept));
                winners * (dy / winners.sum(&self.axes, true))
            }
        };
        Ok(vec![Some(dx)])
    }
    fn evaluate(&self, inputs: &[&Array], types: &[TensorType]) -> Vec<Array> {
        let x = inputs[0];
        let kept = self.kept_shape(&x.shape);
        let start = if self.kind == ReduceKind::Max { f64::NEG_INFINITY } else { 0.0 };
        let mut out = Array::from_fn(&kept, |_| start);
        x.for_each_index(|index, value| {
            let at: Vec<usize> = index.iter().zip(&kept).map(|(&i, &n)| if n == 1 { 0 } else { i }).collect();
            let place = out.at_mut(&at);
            *place = if self.kind == ReduceKind::Max { place.max(value) } else { *place + value };
        });
        if self.kind == ReduceKind::Mean {
            let count = x.data.len() as f64 / out.data.len() as f64;
            out.data.iter_mut().for_each(|v| *v /= count);
        }
        out.shape.clone_from(&types[0].shape);
        vec![out]
    }
}
