//! The operations. Each is one place: its shape rule, its gradient, and its meaning in slow, obviously right
//! arithmetic, the oracle for every fast kernel. To add one: a struct with [`Operation`], and a line below.

mod attention;
mod conv;
mod elementwise;
mod embedding;
mod gated;
mod loss;
mod matmul;
mod norm;
mod pool;
mod reduce;
mod resize;
mod shape;
mod softmax;
mod source;

pub use attention::{Attention, AttentionGradient};
pub use conv::{Conv2d, Conv2dInputGradient, Conv2dWeightGradient, Window};
pub use elementwise::{Binary, BinaryFunction, Cast, Detach, Unary, UnaryFunction, UnaryGradient};
pub use embedding::{Embedding, EmbeddingGradient};
pub use gated::{Gated, GatedGradient};
pub use loss::{CrossEntropy, CrossEntropyGradient};
pub use matmul::{Epilogue, Linear, LinearInputGradient, LinearWeightGradient, MatMul};
pub use norm::{GroupNorm, GroupNormGradient, LayerNorm, LayerNormGradient, RmsNorm, RmsNormGradient};
pub use pool::{AvgPool2d, AvgPool2dGradient};
pub use reduce::{Reduce, ReduceKind};
pub use resize::{Resize, ResizeGradient, ResizeMode};
pub use shape::{BroadcastTo, Concat, Pad, Permute, Reshape, Slice};
pub use softmax::{Softmax, SoftmaxGradient};
pub use source::{Constant, Input, Parameter};

use crate::error::GraphError;
use crate::reference::Array;
use crate::types::TensorType;
use crate::var::Var;

/// What every operation defines.
pub trait Operation {
    /// Name in messages and listings.
    fn name(&self) -> &'static str;

    /// How many values it makes.
    fn output_count(&self) -> usize {
        1
    }

    /// The types of the outputs, or why the inputs do not fit.
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String>;

    /// The adjoint of each input, recorded into the graph of the given values; `None` where there is none.
    fn gradient<'g>(&self, _at: &Adjoint<'_, 'g>) -> Result<Vec<Option<Var<'g>>>, GraphError> {
        Err(GraphError::NotDifferentiable {
            operation: self.name(),
            reason: "it is itself part of a backward pass, or has no derivative".into(),
        })
    }

    /// The meaning, in double precision. `types` are the types that [`Operation::infer`] gave.
    fn evaluate(&self, inputs: &[&Array], types: &[TensorType]) -> Vec<Array>;
}

/// What a gradient rule works with.
pub struct Adjoint<'a, 'g> {
    /// The values that the operation read.
    pub inputs: &'a [Var<'g>],
    /// The values that it made.
    pub outputs: &'a [Var<'g>],
    /// The adjoints of its outputs, where something depends on them.
    pub grads: &'a [Option<Var<'g>>],
    /// Whether the adjoint of each input is wanted.
    pub wanted: &'a [bool],
}

impl<'g> Adjoint<'_, 'g> {
    /// The adjoint of the first output, which exists whenever a rule of a single output is called.
    pub fn grad(&self) -> Var<'g> {
        self.grads[0].unwrap_or_else(|| {
            let builder = self.outputs[0].builder();
            builder.fill(&self.outputs[0].shape(), 0.0)
        })
    }
}

macro_rules! operations {
    ($($name:ident),* $(,)?) => {
        /// Any operation.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs)]
        pub enum Op { $($name($name)),* }

        impl Op {
            /// The operation behind its common face.
            pub fn operation(&self) -> &dyn Operation {
                match self { $(Op::$name(op) => op),* }
            }
        }

        $(impl From<$name> for Op {
            fn from(op: $name) -> Op { Op::$name(op) }
        })*
    };
}

operations!(
    Input,
    Parameter,
    Constant,
    Unary,
    UnaryGradient,
    Binary,
    Cast,
    Detach,
    Reshape,
    Permute,
    Slice,
    Pad,
    Concat,
    BroadcastTo,
    Reduce,
    Softmax,
    SoftmaxGradient,
    CrossEntropy,
    CrossEntropyGradient,
    MatMul,
    Linear,
    LinearInputGradient,
    LinearWeightGradient,
    Conv2d,
    Conv2dInputGradient,
    Conv2dWeightGradient,
    Attention,
    AttentionGradient,
    GroupNorm,
    GroupNormGradient,
    LayerNorm,
    LayerNormGradient,
    RmsNorm,
    RmsNormGradient,
    Resize,
    ResizeGradient,
    AvgPool2d,
    AvgPool2dGradient,
    Embedding,
    EmbeddingGradient,
    Gated,
    GatedGradient,
);

impl Op {
    /// Name in messages and listings.
    pub fn name(&self) -> &'static str {
        self.operation().name()
    }

    /// How many values it makes.
    pub fn output_count(&self) -> usize {
        self.operation().output_count()
    }

    /// The types of the outputs, or why the inputs do not fit.
    pub fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        self.operation().infer(inputs)
    }

    /// Whether it has no inputs: the caller, the model or the graph itself supplies its value.
    pub fn is_source(&self) -> bool {
        matches!(self, Op::Input(_) | Op::Parameter(_) | Op::Constant(_))
    }
}

/// Fails a shape rule unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)*) => {
        if !$condition {
            return Err(format!($($message)*));
        }
    };
}
pub(crate) use ensure;

/// Fails unless there are exactly this many inputs.
pub(crate) fn arity(inputs: &[&TensorType], count: usize) -> Result<(), String> {
    ensure!(inputs.len() == count, "{count} inputs expected, {} given", inputs.len());
    Ok(())
}

/// Fails unless every input is of a floating-point type.
pub(crate) fn floats(inputs: &[&TensorType]) -> Result<(), String> {
    ensure!(inputs.iter().all(|t| t.dtype.is_float()), "floating-point inputs expected");
    Ok(())
}

/// The four axes of an image.
pub(crate) fn image(ty: &TensorType) -> Result<[usize; 4], String> {
    <[usize; 4]>::try_from(ty.shape.as_slice())
        .map_err(|_| "an image of four axes [batch, height, width, channels] expected".into())
}
