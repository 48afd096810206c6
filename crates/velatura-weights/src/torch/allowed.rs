//! What a checkpoint's pickle may name. Everything else is refused where it is named, before anything could be made
//! of it; what is allowed here is still never called, only understood.

use crate::DType;

/// What a name in a pickle stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Class {
    /// `collections.OrderedDict` and `dict`.
    Dict,
    /// `torch._utils._rebuild_tensor_v2` and its predecessor.
    Tensor,
    /// `torch._utils._rebuild_tensor_v3`, which carries the element type itself.
    TypedTensor,
    /// `torch._utils._rebuild_parameter`: its first argument.
    First,
    /// A storage class with its element type.
    Storage(DType),
    /// `torch.storage.UntypedStorage`: bytes.
    Bytes,
    /// An element type, `torch.float16`.
    Type(DType),
    /// Something that accompanies weights and holds none that are looked for.
    Opaque,
}

pub(crate) fn class(module: &str, name: &str) -> Option<Class> {
    Some(match (module, name) {
        ("collections", "OrderedDict") | ("builtins" | "__builtin__", "dict") => Class::Dict,
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Class::Tensor,
        ("torch._utils", "_rebuild_tensor_v3") => Class::TypedTensor,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Class::First,
        ("torch.storage" | "torch", "UntypedStorage") => Class::Bytes,
        ("torch" | "torch.cuda", name) => return torch(name),
        ("torch.serialization", "_get_layout") => Class::Opaque,
        ("torch.nn.modules.container", "ParameterDict" | "ParameterList") => Class::Opaque,
        ("torch.nn.parameter", "Parameter") => Class::Opaque,
        ("collections", "defaultdict" | "Counter" | "deque") => Class::Opaque,
        ("builtins" | "__builtin__", "set" | "frozenset" | "list" | "tuple" | "int" | "float" | "bool") => {
            Class::Opaque
        }
        ("builtins" | "__builtin__", "str" | "bytes" | "complex" | "slice" | "bytearray") => Class::Opaque,
        ("typing", "Any") | ("_codecs", "encode") | ("datetime", _) => Class::Opaque,
        ("numpy", "dtype" | "ndarray") => Class::Opaque,
        ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar" | "_reconstruct") => Class::Opaque,
        ("argparse", "Namespace") => Class::Opaque,
        (module, _) if known_package(module) => Class::Opaque,
        _ => return None,
    })
}

/// Packages whose configuration objects training programs leave beside the weights.
fn known_package(module: &str) -> bool {
    ["pytorch_lightning", "lightning_fabric", "lightning", "omegaconf"]
        .iter()
        .any(|p| module.strip_prefix(p).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

fn torch(name: &str) -> Option<Class> {
    use DType::*;
    let storage = |t| Some(Class::Storage(t));
    match name {
        "DoubleStorage" => storage(F64),
        "FloatStorage" => storage(F32),
        "HalfStorage" => storage(F16),
        "BFloat16Storage" => storage(Bf16),
        "LongStorage" => storage(I64),
        "IntStorage" => storage(I32),
        "ShortStorage" => storage(I16),
        "CharStorage" => storage(I8),
        "ByteStorage" => storage(U8),
        "BoolStorage" => storage(Bool),
        "ComplexFloatStorage" => storage(Other("C64", 64)),
        "ComplexDoubleStorage" => storage(Other("C128", 128)),
        "QInt8Storage" | "QUInt8Storage" => storage(Other("quantized", 8)),
        "QInt32Storage" => storage(Other("quantized", 32)),
        "Size" | "device" | "Generator" => Some(Class::Opaque),
        "contiguous_format" | "channels_last" | "strided" | "preserve_format" => Some(Class::Opaque),
        _ => element_type(name).map(Class::Type),
    }
}

fn element_type(name: &str) -> Option<DType> {
    use DType::*;
    Some(match name {
        "float64" | "double" => F64,
        "float32" | "float" => F32,
        "float16" | "half" => F16,
        "bfloat16" => Bf16,
        "float8_e4m3fn" => F8E4M3,
        "float8_e5m2" => F8E5M2,
        "int64" | "long" => I64,
        "int32" | "int" => I32,
        "int16" | "short" => I16,
        "int8" => I8,
        "uint8" => U8,
        "bool" => Bool,
        "uint16" => Other("U16", 16),
        "uint32" => Other("U32", 32),
        "uint64" => Other("U64", 64),
        "float8_e4m3fnuz" => Other("F8_E4M3FNUZ", 8),
        "float8_e5m2fnuz" => Other("F8_E5M2FNUZ", 8),
        "float8_e8m0fnu" => Other("F8_E8M0", 8),
        "complex64" => Other("C64", 64),
        "complex128" => Other("C128", 128),
        _ => return None,
    })
}
