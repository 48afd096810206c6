//! What can be wrong with a graph.

use crate::types::TensorType;

/// A graph that cannot be built, differentiated or planned.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GraphError {
    /// An operation does not fit its inputs.
    #[error("{place}{operation}: {reason} (inputs: {})", inputs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Shape {
        /// Where in the model, as a parameter path ending in ": ", or empty.
        place: String,
        /// The operation's name.
        operation: &'static str,
        /// What does not fit.
        reason: String,
        /// Types of the inputs.
        inputs: Vec<TensorType>,
    },
    /// One parameter name was asked for with two shapes.
    #[error("parameter {name} is used with shape {first:?} and with shape {second:?}")]
    ParameterShape {
        /// Full name of the parameter.
        name: String,
        /// The shape it was first declared with.
        first: Vec<usize>,
        /// The shape it was then asked for with.
        second: Vec<usize>,
    },
    /// Two inputs or two outputs have one name.
    #[error("the graph has two {kind}s named {name}")]
    Duplicate {
        /// `input` or `output`.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// A graph that contradicts itself: the fault of whatever made it.
    #[error("the graph is inconsistent: {0}")]
    Inconsistent(String),
    /// A gradient was asked of something that has none.
    #[error("{operation} cannot be differentiated: {reason}")]
    NotDifferentiable {
        /// The operation's name.
        operation: &'static str,
        /// Why.
        reason: String,
    },
    /// An input, output or parameter name that the graph does not have.
    #[error("the graph has no {kind} named {name}")]
    Unknown {
        /// `input`, `output` or `parameter`.
        kind: &'static str,
        /// The name asked for.
        name: String,
    },
}
