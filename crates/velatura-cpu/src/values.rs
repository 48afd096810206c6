//! The numbers of a weight as its source stores them.

use std::borrow::Cow;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// The numbers of a weight, row-major, as its source stores them: packing reads any of these, so that a model's file
/// need not be converted first.
#[derive(Clone, Debug, PartialEq)]
pub enum Values<'w> {
    /// IEEE binary32.
    F32(Cow<'w, [f32]>),
    /// IEEE binary16.
    F16(Cow<'w, [f16]>),
    /// The upper half of binary32.
    Bf16(Cow<'w, [bf16]>),
}

impl<'w> Values<'w> {
    /// Borrowed numbers in single precision.
    pub fn of(values: &'w [f32]) -> Self {
        Values::F32(Cow::Borrowed(values))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Values::F32(values) => values.len(),
            Values::F16(values) => values.len(),
            Values::Bf16(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// In single precision, borrowed where they are.
    pub fn into_f32(self) -> Cow<'w, [f32]> {
        match self {
            Values::F32(values) => values,
            Values::F16(values) => Cow::Owned(values.to_f32_vec()),
            Values::Bf16(values) => Cow::Owned(values.to_f32_vec()),
        }
    }
}

impl<'w> From<Cow<'w, [f32]>> for Values<'w> {
    fn from(values: Cow<'w, [f32]>) -> Self {
        Values::F32(values)
    }
}
