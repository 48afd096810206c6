//! ggml's block types: small integers that share scales. The layouts and formulas are those of ggml's
//! `ggml-quants.c`; arithmetic is in f32 in its order, so the values are the same to the bit as its own up to the
//! fusing of a product and a sum.

use half::f16;

use crate::DType;

/// Decodes whole blocks; `bytes` and `out` have the lengths that [`DType::bytes_for`] relates. False for a type that
/// is no block type.
pub(crate) fn decode(dtype: DType, bytes: &[u8], out: &mut [f32]) -> bool {
    match dtype {
        DType::Q4_0 => each::<18, 32>(bytes, out, q4_0),
        DType::Q4_1 => each::<20, 32>(bytes, out, q4_1),
        DType::Q5_0 => each::<22, 32>(bytes, out, q5_0),
        DType::Q5_1 => each::<24, 32>(bytes, out, q5_1),
        DType::Q8_0 => each::<34, 32>(bytes, out, q8_0),
        DType::Q2K => each::<84, 256>(bytes, out, q2_k),
        DType::Q3K => each::<110, 256>(bytes, out, q3_k),
        DType::Q4K => each::<144, 256>(bytes, out, q4_k),
        DType::Q5K => each::<176, 256>(bytes, out, q5_k),
        DType::Q6K => each::<210, 256>(bytes, out, q6_k),
        _ => return false,
    }
    true
}

/// f32 values, a multiple of 32 of them, as Q8_0 blocks: the scale is the largest magnitude over 127, halves are
/// rounded away from zero.
pub(crate) fn encode_q8_0(values: &[f32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(values.len() / 32 * 34);
    for block in values.as_chunks::<32>().0 {
        let largest = block.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let scale = largest / 127.0;
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        out.extend(f16::from_f32(scale).to_le_bytes());
        out.extend(block.iter().map(|v| (v * inverse).round() as i8 as u8));
    }
    out
}

fn each<const BYTES: usize, const ELEMENTS: usize>(
    bytes: &[u8],
    out: &mut [f32],
    block: fn(&[u8; BYTES], &mut [f32; ELEMENTS]),
) {
    for (b, o) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        block(b, o);
    }
}

fn half_at(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

fn word_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn q4_0(b: &[u8; 18], y: &mut [f32; 32]) {
    let d = half_at(b, 0);
    for j in 0..16 {
        let q = b[2 + j];
        y[j] = (f32::from(q & 15) - 8.0) * d;
        y[j + 16] = (f32::from(q >> 4) - 8.0) * d;
    }
}

fn q4_1(b: &[u8; 20], y: &mut [f32; 32]) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    for j in 0..16 {
        let q = b[4 + j];
        y[j] = f32::from(q & 15) * d + m;
        y[j + 16] = f32::from(q >> 4) * d + m;
    }
}

/// The fifth bits of elements `j` and `j + 16`, each in its place.
fn fifth_bits(high: u32, j: usize) -> (u8, u8) {
    ((high >> j << 4) as u8 & 16, (high >> (j + 12)) as u8 & 16)
}

fn q5_0(b: &[u8; 22], y: &mut [f32; 32]) {
    let (d, high) = (half_at(b, 0), word_at(b, 2));
    for j in 0..16 {
        let (q, (h0, h1)) = (b[6 + j], fifth_bits(high, j));
        y[j] = (f32::from(q & 15 | h0) - 16.0) * d;
        y[j + 16] = (f32::from(q >> 4 | h1) - 16.0) * d;
    }
}

fn q5_1(b: &[u8; 24], y: &mut [f32; 32]) {
    let (d, m, high) = (half_at(b, 0), half_at(b, 2), word_at(b, 4));
    for j in 0..16 {
        let (q, (h0, h1)) = (b[8 + j], fifth_bits(high, j));
        y[j] = f32::from(q & 15 | h0) * d + m;
        y[j + 16] = f32::from(q >> 4 | h1) * d + m;
    }
}

fn q8_0(b: &[u8; 34], y: &mut [f32; 32]) {
    let d = half_at(b, 0);
    for j in 0..32 {
        y[j] = f32::from(b[2 + j] as i8) * d;
    }
}

/// 16 groups of 16: a byte of 4-bit scale and 4-bit minimum each, then 2-bit numbers, then the scales' scales.
fn q2_k(b: &[u8; 84], y: &mut [f32; 256]) {
    let (d, min) = (half_at(b, 80), half_at(b, 82));
    for (group, y) in y.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (dl, ml) = (d * f32::from(b[group] & 15), min * f32::from(b[group] >> 4));
        let (q, shift) = two_bit_group(&b[16..80], group);
        for (y, q) in y.iter_mut().zip(q) {
            *y = dl * f32::from(q >> shift & 3) - ml;
        }
    }
}

/// Where the 2-bit numbers of a group of 16 are: 32 bytes hold four rows of 32 elements, one in each pair of bits.
fn two_bit_group(q: &[u8], group: usize) -> (&[u8], u32) {
    let (half, row, column) = (group / 8, group % 8 / 2, group % 2);
    let start = half * 32 + column * 16;
    (&q[start..start + 16], row as u32 * 2)
}

/// As `q2_k`, with a third bit apart (clear means minus 4) and 6-bit scales without minima.
fn q3_k(b: &[u8; 110], y: &mut [f32; 256]) {
    let d = half_at(b, 108);
    let packed = &b[96..108];
    for (group, y) in y.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let low = packed[group % 8] >> (group / 8 * 4) & 15;
        let high = packed[8 + group % 4] >> (group / 4 * 2) & 3;
        let dl = d * (f32::from(low | high << 4) - 32.0);
        let (q, shift) = two_bit_group(&b[32..96], group);
        let bit = group / 2;
        let mask = &b[group % 2 * 16..];
        for ((y, q), m) in y.iter_mut().zip(q).zip(mask) {
            let third = if m >> bit & 1 == 1 { 0.0 } else { 4.0 };
            *y = dl * (f32::from(q >> shift & 3) - third);
        }
    }
}

/// The 6-bit scale and minimum of group `j` of eight, packed in twelve bytes.
fn scale_min(s: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (s[j] & 63, s[j + 4] & 63)
    } else {
        (s[j + 4] & 15 | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4)
    };
    (f32::from(scale), f32::from(min))
}

fn q4_k(b: &[u8; 144], y: &mut [f32; 256]) {
    let (d, min) = (half_at(b, 0), half_at(b, 2));
    for (group, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, m) = scale_min(&b[4..16], group);
        let (dl, ml) = (d * scale, min * m);
        let q = &b[16 + group / 2 * 32..];
        for (y, q) in y.iter_mut().zip(q) {
            *y = dl * f32::from(q >> (group % 2 * 4) & 15) - ml;
        }
    }
}

fn q5_k(b: &[u8; 176], y: &mut [f32; 256]) {
    let (d, min) = (half_at(b, 0), half_at(b, 2));
    for (group, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, m) = scale_min(&b[4..16], group);
        let (dl, ml) = (d * scale, min * m);
        let q = &b[48 + group / 2 * 32..];
        for ((y, q), high) in y.iter_mut().zip(q).zip(&b[16..48]) {
            *y = dl * f32::from(q >> (group % 2 * 4) & 15 | (high >> group & 1) << 4) - ml;
        }
    }
}

fn q6_k(b: &[u8; 210], y: &mut [f32; 256]) {
    let d = half_at(b, 208);
    for (row, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (half, row) = (row / 4, row % 4);
        let low = &b[half * 64 + row % 2 * 32..];
        let high = &b[128 + half * 32..];
        for (l, y) in y.iter_mut().enumerate() {
            let q = low[l] >> (row / 2 * 4) & 15 | (high[l] >> (row * 2) & 3) << 4;
            let scale = f32::from(b[192 + half * 8 + row * 2 + l / 16] as i8);
            *y = d * scale * (f32::from(q) - 32.0);
        }
    }
}
