//! Element types and the activation functions that kernels fuse.

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
