//! In which precision the networks are run.

use serde::{Deserialize, Serialize};

use super::RequestError;

/// In which precision the networks are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Single precision throughout: the reference.
    F32,
    /// bf16 storage and products, f32 accumulation; norms, softmax and samplers stay f32.
    Bf16,
    /// As bf16, and the linear layers of the denoiser and the scores of its attention multiply 8-bit numbers: faster, and a
    /// little less exact.
    Int8,
}

impl Precision {
    /// As it is written: `f32`, `bf16`, `int8`.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::Int8 => "int8",
        }
    }

    pub(crate) fn of_graph(self) -> velatura_graph::passes::Precision {
        match self {
            Precision::F32 => velatura_graph::passes::Precision::F32,
            Precision::Bf16 => velatura_graph::passes::Precision::Bf16,
            Precision::Int8 => velatura_graph::passes::Precision::Int8,
        }
    }
}

impl std::str::FromStr for Precision {
    type Err = RequestError;

    fn from_str(text: &str) -> Result<Self, RequestError> {
        match text.to_ascii_lowercase().as_str() {
            "f32" | "fp32" | "float32" => Ok(Precision::F32),
            "bf16" | "bfloat16" => Ok(Precision::Bf16),
            "int8" | "i8" => Ok(Precision::Int8),
            _ => Err(RequestError::Precision(text.chars().take(40).collect())),
        }
    }
}
