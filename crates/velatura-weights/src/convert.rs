//! Conversions between storage types and f32.

use std::borrow::Cow;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::{DType, Storage, blocks};

/// Little-endian bytes of a type as f32, borrowed when they already are that and aligned. Nothing for a type that is
/// not read, or bytes that are no whole number of elements.
pub(crate) fn to_f32(bytes: Cow<'_, [u8]>, dtype: DType) -> Option<Cow<'_, [f32]>> {
    if dtype == DType::F32
        && cfg!(target_endian = "little")
        && let Cow::Borrowed(bytes) = bytes
        && let Ok(values) = bytemuck::try_cast_slice::<u8, f32>(bytes)
    {
        return Some(Cow::Borrowed(values));
    }
    let (block, bits) = dtype.block();
    let elements = bytes.len().checked_mul(8)? / bits * block;
    if dtype.bytes_for(elements) != Some(bytes.len()) {
        return None;
    }
    let mut out = vec![0.0; elements];
    decode_f32(&bytes, dtype, &mut out).then_some(Cow::Owned(out))
}

/// Decodes little-endian bytes of a type into f32: a tensor's, or any run of whole blocks of it, so that several
/// threads can share one tensor and write where its values are wanted. False, with nothing written, for a type that is
/// not read, or where the bytes are not exactly those of as many elements as `out` has.
pub fn decode_f32(bytes: &[u8], dtype: DType, out: &mut [f32]) -> bool {
    if dtype.bytes_for(out.len()) != Some(bytes.len()) {
        return false;
    }
    decode(bytes, dtype, out)
}

fn decode(bytes: &[u8], dtype: DType, out: &mut [f32]) -> bool {
    fn each<const N: usize>(bytes: &[u8], out: &mut [f32], one: impl Fn([u8; N]) -> f32) {
        for (o, b) in out.iter_mut().zip(bytes.as_chunks().0) {
            *o = one(*b);
        }
    }
    match dtype {
        DType::F32 => each(bytes, out, f32::from_le_bytes),
        DType::F16 => match bytemuck::try_cast_slice::<u8, f16>(bytes) {
            Ok(values) if cfg!(target_endian = "little") => values.convert_to_f32_slice(out),
            _ => each(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
        },
        DType::Bf16 => each(bytes, out, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
        DType::F64 => each(bytes, out, |b| f64::from_le_bytes(b) as f32),
        DType::F8E4M3 => each(bytes, out, |[b]| e4m3(b)),
        DType::F8E5M2 => each(bytes, out, |[b]| f16::from_bits(u16::from(b) << 8).to_f32()),
        DType::I64 => each(bytes, out, |b| i64::from_le_bytes(b) as f32),
        DType::I32 => each(bytes, out, |b| i32::from_le_bytes(b) as f32),
        DType::I16 => each(bytes, out, |b| f32::from(i16::from_le_bytes(b))),
        DType::I8 => each(bytes, out, |[b]| f32::from(b as i8)),
        DType::U8 => each(bytes, out, |[b]| f32::from(b)),
        DType::Bool => each(bytes, out, |[b]| f32::from(u8::from(b != 0))),
        _ => return blocks::decode(dtype, bytes, out),
    }
    true
}

/// Four bits of exponent with bias 7, three of mantissa; all ones is not a number and there is no infinity
/// (Micikevicius et al., "FP8 formats for deep learning", 2022).
fn e4m3(b: u8) -> f32 {
    let (sign, exponent, mantissa) = (u32::from(b >> 7) << 31, u32::from(b >> 3 & 15), u32::from(b & 7));
    let magnitude = match (exponent, mantissa) {
        (15, 7) => f32::NAN,
        (0, m) => m as f32 / 512.0,
        (e, m) => f32::from_bits((e + 120) << 23 | m << 20),
    };
    f32::from_bits(magnitude.to_bits() | sign)
}

/// f32 as little-endian bytes of a storage type, rounded to nearest even.
pub fn f32_to_bytes(values: &[f32], storage: Storage) -> Vec<u8> {
    let mut out = Vec::with_capacity(values.len() * storage.bytes());
    match storage {
        Storage::F32 => values.iter().for_each(|v| out.extend(v.to_le_bytes())),
        Storage::F16 => values.iter().for_each(|v| out.extend(f16::from_f32(*v).to_le_bytes())),
        Storage::Bf16 => values.iter().for_each(|v| out.extend(bf16::from_f32(*v).to_le_bytes())),
        Storage::F64 => values.iter().for_each(|v| out.extend(f64::from(*v).to_le_bytes())),
    }
    out
}
