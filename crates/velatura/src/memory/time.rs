//! How long a run will take, roughly.

use velatura_graph::DType;

use super::RunPlan;
use crate::engine::Engine;
use crate::request::Precision;

/// The share of the multiply-add peak that whole networks reach, as direct convolutions count their arithmetic: Stable
/// Diffusion's U-Net reaches 115% in bf16 and 119% in f32, its autoencoder, which is convolutions alone, 194%; small
/// networks less (docs/performance.md).
const EFFICIENCY: f64 = 1.1;
/// Bytes of packed weights made in a second, from a file that the system holds in memory.
const PACKING: f64 = 2.5e9;

impl Engine {
    /// An estimate of the seconds that a run will take on this machine: the arithmetic of its networks at a usual share of
    /// the multiply-add peak, which is measured now (some hundredths of a second), and the packing of weights.
    pub fn expected_seconds(&self, plan: &RunPlan) -> f64 {
        let runtime = self.runtime();
        let peak = |dtype| velatura_cpu::kernels::gemm::fma_peak(&runtime.pool, runtime.isa, dtype);
        let (f32, bf16) = (peak(DType::F32), peak(DType::Bf16));
        // Of a network in 8 bits only the linear layers are faster than in bf16.
        let of = |precision| if precision == Precision::F32 { f32 } else { bf16 };
        let seconds = plan.parts.iter().map(|part| {
            part.flops / (of(part.precision) * EFFICIENCY).max(1.0) + part.packed as f64 / PACKING
        });
        seconds.sum()
    }
}
