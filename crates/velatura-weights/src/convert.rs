//! Conversions between storage types and f32.

use std::borrow::Cow;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::Storage;

/// Little-endian bytes of a storage type as f32, borrowed when they already are that and aligned.
pub(crate) fn to_f32(bytes: &[u8], storage: Storage) -> Cow<'_, [f32]> {
    if cfg!(target_endian = "big") {
        return Cow::Owned(portable(bytes, storage));
    }
    match storage {
        Storage::F32 => match bytemuck::try_cast_slice::<u8, f32>(bytes) {
            Ok(values) => Cow::Borrowed(values),
            Err(_) => Cow::Owned(portable(bytes, storage)),
        },
        Storage::F16 => match bytemuck::try_cast_slice::<u8, f16>(bytes) {
            Ok(values) => {
                let mut out = vec![0.0; values.len()];
                values.convert_to_f32_slice(&mut out);
                Cow::Owned(out)
            }
            Err(_) => Cow::Owned(portable(bytes, storage)),
        },
        Storage::Bf16 | Storage::F64 => Cow::Owned(portable(bytes, storage)),
    }
}

/// For any alignment and byte order of the machine.
fn portable(bytes: &[u8], storage: Storage) -> Vec<f32> {
    match storage {
        Storage::F32 => bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        Storage::F16 => bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
        Storage::Bf16 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|&b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16))
            .collect(),
        Storage::F64 => bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b) as f32).collect(),
    }
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
