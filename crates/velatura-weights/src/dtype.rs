//! How numbers are stored in a file.

use safetensors::Dtype;

/// The plain floating-point storage types; all but F64 are what [`crate::write_safetensors`] is usually asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of binary32.
    Bf16,
    /// IEEE binary64.
    F64,
}

impl Storage {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Storage::F64 => 8,
            Storage::F32 => 4,
            Storage::F16 | Storage::Bf16 => 2,
        }
    }

    /// The name in a safetensors header.
    pub fn name(self) -> &'static str {
        match self {
            Storage::F64 => "F64",
            Storage::F32 => "F32",
            Storage::F16 => "F16",
            Storage::Bf16 => "BF16",
        }
    }

    pub(crate) fn from_safetensors(dtype: Dtype) -> Option<Self> {
        DType::from_safetensors(dtype).storage()
    }
}

impl std::fmt::Display for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How a tensor is stored in any of the formats: plain numbers, or ggml's blocks of small integers that share a
/// scale. Every one but [`DType::Other`] can be read as f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE binary64.
    F64,
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of binary32.
    Bf16,
    /// 8 bits, 4 of exponent and 3 of mantissa, without infinities (OCP 8-bit floating point, `e4m3fn`).
    F8E4M3,
    /// 8 bits, 5 of exponent and 2 of mantissa, as IEEE would have it (OCP 8-bit floating point, `e5m2`).
    F8E5M2,
    /// 64-bit signed integer.
    I64,
    /// 32-bit signed integer.
    I32,
    /// 16-bit signed integer.
    I16,
    /// 8-bit signed integer.
    I8,
    /// 8-bit unsigned integer.
    U8,
    /// One byte, 0 or 1.
    Bool,
    /// ggml: 32 elements of 4 bits, a scale.
    Q4_0,
    /// ggml: 32 elements of 4 bits, a scale and a minimum.
    Q4_1,
    /// ggml: 32 elements of 5 bits, a scale.
    Q5_0,
    /// ggml: 32 elements of 5 bits, a scale and a minimum.
    Q5_1,
    /// ggml: 32 elements of 8 bits, a scale.
    Q8_0,
    /// ggml: 256 elements of 2 bits, 16 scales and minima of 4 bits.
    Q2K,
    /// ggml: 256 elements of 3 bits, 16 scales of 6 bits.
    Q3K,
    /// ggml: 256 elements of 4 bits, 8 scales and minima of 6 bits.
    Q4K,
    /// ggml: 256 elements of 5 bits, 8 scales and minima of 6 bits.
    Q5K,
    /// ggml: 256 elements of 6 bits, 16 scales of 8 bits.
    Q6K,
    /// A type that is not read; its name and the bits of an element.
    Other(&'static str, usize),
}

impl DType {
    /// The name in messages and listings: safetensors' for plain numbers, ggml's for blocks.
    pub fn name(self) -> &'static str {
        match self {
            DType::F64 => "F64",
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::Bf16 => "BF16",
            DType::F8E4M3 => "F8_E4M3",
            DType::F8E5M2 => "F8_E5M2",
            DType::I64 => "I64",
            DType::I32 => "I32",
            DType::I16 => "I16",
            DType::I8 => "I8",
            DType::U8 => "U8",
            DType::Bool => "BOOL",
            DType::Q4_0 => "Q4_0",
            DType::Q4_1 => "Q4_1",
            DType::Q5_0 => "Q5_0",
            DType::Q5_1 => "Q5_1",
            DType::Q8_0 => "Q8_0",
            DType::Q2K => "Q2_K",
            DType::Q3K => "Q3_K",
            DType::Q4K => "Q4_K",
            DType::Q5K => "Q5_K",
            DType::Q6K => "Q6_K",
            DType::Other(name, _) => name,
        }
    }

    /// Elements of a block and bits that it takes; a plain type's block is one element.
    pub fn block(self) -> (usize, usize) {
        let (elements, bytes) = match self {
            DType::F64 | DType::I64 => (1, 8),
            DType::F32 | DType::I32 => (1, 4),
            DType::F16 | DType::Bf16 | DType::I16 => (1, 2),
            DType::F8E4M3 | DType::F8E5M2 | DType::I8 | DType::U8 | DType::Bool => (1, 1),
            DType::Q4_0 => (32, 18),
            DType::Q4_1 => (32, 20),
            DType::Q5_0 => (32, 22),
            DType::Q5_1 => (32, 24),
            DType::Q8_0 => (32, 34),
            DType::Q2K => (256, 84),
            DType::Q3K => (256, 110),
            DType::Q4K => (256, 144),
            DType::Q5K => (256, 176),
            DType::Q6K => (256, 210),
            DType::Other(_, bits) => return (1, bits),
        };
        (elements, bytes * 8)
    }

    /// Bytes that this many elements take; nothing when they do not fill whole blocks or the size overflows.
    pub fn bytes_for(self, elements: usize) -> Option<usize> {
        let (block, bits) = self.block();
        if !elements.is_multiple_of(block) {
            return None;
        }
        let bits = (elements / block).checked_mul(bits)?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    /// The plain floating-point type that this is, if it is one.
    pub fn storage(self) -> Option<Storage> {
        match self {
            DType::F64 => Some(Storage::F64),
            DType::F32 => Some(Storage::F32),
            DType::F16 => Some(Storage::F16),
            DType::Bf16 => Some(Storage::Bf16),
            _ => None,
        }
    }

    pub(crate) fn from_safetensors(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F64 => DType::F64,
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::Bf16,
            Dtype::F8_E4M3 => DType::F8E4M3,
            Dtype::F8_E5M2 => DType::F8E5M2,
            Dtype::I64 => DType::I64,
            Dtype::I32 => DType::I32,
            Dtype::I16 => DType::I16,
            Dtype::I8 => DType::I8,
            Dtype::U8 => DType::U8,
            Dtype::BOOL => DType::Bool,
            Dtype::U64 => DType::Other("U64", 64),
            Dtype::U32 => DType::Other("U32", 32),
            Dtype::U16 => DType::Other("U16", 16),
            Dtype::C64 => DType::Other("C64", 64),
            Dtype::F4 => DType::Other("F4", 4),
            Dtype::F6_E2M3 => DType::Other("F6_E2M3", 6),
            Dtype::F6_E3M2 => DType::Other("F6_E3M2", 6),
            Dtype::F8_E8M0 => DType::Other("F8_E8M0", 8),
            Dtype::F8_E4M3FNUZ => DType::Other("F8_E4M3FNUZ", 8),
            Dtype::F8_E5M2FNUZ => DType::Other("F8_E5M2FNUZ", 8),
            other => DType::Other("another type", other.bitsize()),
        }
    }
}

impl From<Storage> for DType {
    fn from(storage: Storage) -> Self {
        match storage {
            Storage::F64 => DType::F64,
            Storage::F32 => DType::F32,
            Storage::F16 => DType::F16,
            Storage::Bf16 => DType::Bf16,
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
