//! What can go wrong when a graph is run.

use velatura_graph::TensorType;

use crate::kernels::gemm::GemmError;

/// A graph that cannot be run as asked.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CpuError {
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// An input was not supplied.
    #[error("input {name} of type {expected} was not given")]
    MissingInput {
        /// Its name.
        name: String,
        /// What the graph expects.
        expected: TensorType,
    },
    /// An input does not have the type that the graph was built for.
    #[error("input {name} must be {expected}; {given} elements of another kind or number were given")]
    WrongInput {
        /// Its name.
        name: String,
        /// What the graph expects.
        expected: TensorType,
        /// The number of elements given.
        given: usize,
    },
    /// A weight was not found when the weights were loaded.
    #[error("the model has no weight {name} of shape {shape:?}")]
    MissingWeight {
        /// Its full name.
        name: String,
        /// The shape that the graph expects.
        shape: Vec<usize>,
    },
    /// A weight has another number of elements than the graph expects.
    #[error("weight {name} has {given} elements; the graph expects shape {shape:?}")]
    WrongWeight {
        /// Its full name.
        name: String,
        /// The shape that the graph expects.
        shape: Vec<usize>,
        /// The number of elements given.
        given: usize,
    },
    /// The weights of this plan have not been loaded.
    #[error("weight {0} is used before the weights were loaded")]
    NotLoaded(String),
    /// An index lies outside the table it points into.
    #[error("index {index} lies outside a table of {rows} rows")]
    Index {
        /// The index.
        index: i32,
        /// Rows of the table.
        rows: usize,
    },
    /// An output name that the graph does not have.
    #[error("the graph has no output named {0}")]
    UnknownOutput(String),
    /// A product whose operands do not fit: an error of this crate.
    #[error(transparent)]
    Gemm(#[from] GemmError),
}
