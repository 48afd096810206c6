//! What can be wrong with a call.

use velatura_graph::DType;

/// A matrix product or convolution that was asked for with operands that do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GemmError {
    /// An operand has the wrong number of elements.
    #[error("{operation}: {operand} has {found} elements where the shapes ask for {expected}")]
    Length {
        /// The operation.
        operation: &'static str,
        /// The operand.
        operand: &'static str,
        /// Elements that the shapes ask for.
        expected: usize,
        /// Elements given.
        found: usize,
    },
    /// An operand is stored in a type that the kernel does not take there.
    #[error("{operation}: {operand} is stored as {found:?}; cast it to {expected} first")]
    Storage {
        /// The operation.
        operation: &'static str,
        /// The operand.
        operand: &'static str,
        /// What is accepted.
        expected: &'static str,
        /// What was given.
        found: DType,
    },
    /// An operand that cannot lie in tiles.
    #[error(
        "{operation}: {operand}, {shape:?} of {dtype:?}, cannot lie in tiles: they are of bf16 on AMX, rows and columns multiples of 32; \
         the weight is {weight}"
    )]
    Order {
        /// The operation.
        operation: &'static str,
        /// The operand.
        operand: &'static str,
        /// How it is stored.
        dtype: DType,
        /// Its rows and columns.
        shape: [usize; 2],
        /// What the weight was packed for.
        weight: String,
    },
    /// The packed weight was made for something else.
    #[error("{operation}: the weight was packed for {found}, not for {expected}")]
    Packing {
        /// The operation.
        operation: &'static str,
        /// What it takes.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A geometry that describes no convolution.
    #[error("convolution: {0}")]
    Geometry(String),
    /// Too little scratch memory.
    #[error(
        "{operation}: {given} bytes of scratch memory given, {needed} needed; see {operation}_scratch_bytes"
    )]
    Scratch {
        /// The operation.
        operation: &'static str,
        /// Bytes needed.
        needed: usize,
        /// Bytes given.
        given: usize,
    },
}

impl GemmError {
    /// The two operands of a weight gradient, which must be stored alike, are not, or are no numbers.
    pub(super) fn mixed(operation: &'static str, x: DType, dy: DType) -> Self {
        let (operand, found) = if x == DType::I32 { ("the input", x) } else { ("the gradient", dy) };
        let expected = "the same floating-point type as the other operand";
        GemmError::Storage { operation, operand, expected, found }
    }
}

/// Holds an operand's length against the shapes.
pub(super) fn check_len(
    operation: &'static str,
    operand: &'static str,
    expected: usize,
    found: usize,
) -> Result<(), GemmError> {
    if expected == found { Ok(()) } else { Err(GemmError::Length { operation, operand, expected, found }) }
}
