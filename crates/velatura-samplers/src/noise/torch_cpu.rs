//! `torch.randn` on the CPU.

use super::{Mt19937, Randn, vecmath};

/// PyTorch's CPU generator after `torch.manual_seed(seed)`.
///
/// Calls for 16 values or more take uniform numbers in single precision and transform them in blocks of
/// 16, the first eight being radii and the last eight angles; calls for fewer take double precision and
/// keep the second of each pair for the next such call. Both are in one stream, as in PyTorch, so the
/// sequence of call lengths matters. The bits are those of PyTorch's x86-64 packages on processors with
/// AVX2; without AVX2 PyTorch itself differs in the last bits.
#[derive(Debug, Clone)]
pub struct TorchCpu {
    bits: Mt19937,
    spare: Option<f64>,
}

const BLOCK: usize = 16;

impl TorchCpu {
    /// The generator with a seed, of which the low 32 bits count.
    pub fn new(seed: u64) -> Self {
        TorchCpu { bits: Mt19937::new(seed), spare: None }
    }

    /// A uniform number in 0..1 with 24 random bits (`torch.rand` in single precision).
    pub fn uniform_f32(&mut self) -> f32 {
        (self.bits.next_u32() & 0x00ff_ffff) as f32 / (1 << 24) as f32
    }

    /// A uniform number in 0..1 with 53 random bits.
    pub fn uniform_f64(&mut self) -> f64 {
        (self.bits.next_u64() & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }

    fn scalar_normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let angle = 2.0 * std::f64::consts::PI * self.uniform_f64();
        let radius = (-2.0 * (-self.uniform_f64()).ln_1p()).sqrt();
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }
}

/// Box-Muller on uniform numbers, in place.
fn transform(block: &mut [f32]) {
    let (radii, angles) = block.split_at_mut(BLOCK / 2);
    for (a, b) in radii.iter_mut().zip(angles) {
        let radius = (-2.0 * vecmath::ln(1.0 - *a)).sqrt();
        let (sin, cos) = vecmath::sin_cos(std::f32::consts::TAU * *b);
        (*a, *b) = (radius * cos, radius * sin);
    }
}

impl Randn for TorchCpu {
    fn randn(&mut self, out: &mut [f32]) {
        if out.len() < BLOCK {
            out.iter_mut().for_each(|v| *v = self.scalar_normal() as f32);
            return;
        }
        out.iter_mut().for_each(|v| *v = self.uniform_f32());
        let whole = out.len() / BLOCK * BLOCK;
        out[..whole].chunks_exact_mut(BLOCK).for_each(transform);
        if whole < out.len() {
            // PyTorch draws the last 16 values afresh rather than transform a short block.
            let start = out.len() - BLOCK;
            let tail = &mut out[start..];
            tail.iter_mut().for_each(|v| *v = self.uniform_f32());
            transform(tail);
        }
    }
}
