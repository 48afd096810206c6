//! Element types, tensor types, and the activation functions that kernels fuse.

use std::fmt;

/// How the elements of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// The upper half of an `F32`; arithmetic on it is accumulated in `F32`.
    Bf16,
    /// Signed 32-bit integers: token ids and indices.
    I32,
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::Bf16 => 2,
        }
    }

    /// Whether it is a floating-point type.
    pub fn is_float(self) -> bool {
        self != DType::I32
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::Bf16 => "bf16",
            DType::I32 => "i32",
        })
    }
}

/// An elementwise function that a kernel can apply while it writes its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `max(x, 0)`
    Relu,
    /// `x * sigmoid(x)`
    Silu,
    /// `x * Phi(x)` with the exact Gaussian distribution function (error function).
    Gelu,
    /// The tanh approximation of [`Activation::Gelu`].
    GeluTanh,
    /// `x * sigmoid(1.702 x)`, as in the original CLIP.
    QuickGelu,
    /// Hyperbolic tangent.
    Tanh,
    /// Logistic function.
    Sigmoid,
}

/// The product of the lengths of the axes, saturating: lengths may come from a file or a request.
pub(crate) fn elements(shape: &[usize]) -> usize {
    // A zero anywhere makes it zero, also behind an overflow.
    if shape.contains(&0) { 0 } else { shape.iter().fold(1, |product, &n| product.saturating_mul(n)) }
}

/// Shape and element type of a value. Channels last: images are `[batch, height, width, channels]`,
/// tokens `[batch, tokens, channels]`. A scalar has the empty shape.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// Length of each axis, outermost first.
    pub shape: Vec<usize>,
    /// How the elements are stored.
    pub dtype: DType,
}

impl TensorType {
    /// A type from its parts.
    pub fn new(shape: impl Into<Vec<usize>>, dtype: DType) -> Self {
        TensorType { shape: shape.into(), dtype }
    }

    /// A tensor of single-precision numbers.
    pub fn f32(shape: impl Into<Vec<usize>>) -> Self {
        Self::new(shape, DType::F32)
    }

    /// A tensor of indices.
    pub fn i32(shape: impl Into<Vec<usize>>) -> Self {
        Self::new(shape, DType::I32)
    }

    /// The number of elements; `usize::MAX` where it is more than that.
    pub fn elements(&self) -> usize {
        elements(&self.shape)
    }

    /// Bytes that the elements take; `usize::MAX` where it is more than that.
    pub fn bytes(&self) -> usize {
        self.elements().saturating_mul(self.dtype.size())
    }

    /// Fails when there are no elements, or more than an address space holds. No value of a graph is so.
    pub(crate) fn check_size(&self) -> Result<(), String> {
        if self.elements() == 0 {
            return Err(format!("a tensor {self} would be empty"));
        }
        if self.bytes() > isize::MAX as usize {
            return Err(format!("a tensor {self} would be too large to address"));
        }
        Ok(())
    }

    /// The number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The length of the last axis; 1 for a scalar.
    pub fn last(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape)
    }
}
