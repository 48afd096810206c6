//! What this machine can do at most: the roofs that layers are held under.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use velatura_cpu::kernels::gemm::{PRODUCTS_OF_THIRDS, byte_peak, compute_dtype, fma_peak, in_thirds};
use velatura_cpu::kernels::read_bandwidth;
use velatura_cpu::{Arithmetic, Runtime};
use velatura_graph::DType;

/// The measured limits of the threads in use.
pub struct Machine {
    /// The instruction set.
    pub isa: &'static str,
    /// Threads in use.
    pub threads: usize,
    /// Multiply-add peaks, operations a second: of f32, of bf16 where the instruction set multiplies it, of f32 in thirds where
    /// that is a sixth of it, of bytes where asked for.
    pub peaks: Vec<(Arithmetic, f64)>,
    /// Bytes a second that are read from memory.
    pub bandwidth: f64,
}

impl Machine {
    /// Measures them; that of bytes where `int8` says so.
    pub fn measure(runtime: &Runtime, int8: bool) -> Self {
        let Runtime { pool, isa } = runtime;
        let mut peaks = vec![(Arithmetic::F32, fma_peak(pool, *isa, DType::F32))];
        if compute_dtype(*isa, DType::Bf16) == DType::Bf16 {
            let peak = fma_peak(pool, *isa, DType::Bf16);
            peaks.push((Arithmetic::Bf16, peak));
            if in_thirds(*isa, DType::F32) {
                peaks.push((Arithmetic::F32InThirds, peak / PRODUCTS_OF_THIRDS as f64));
            }
        }
        if int8 {
            peaks.push((Arithmetic::Int8, byte_peak(pool, *isa)));
        }
        Machine { isa: isa.name(), threads: pool.threads(), peaks, bandwidth: read_bandwidth(pool) }
    }

    /// The peak of an arithmetic that a layer was computed in.
    pub fn peak(&self, arithmetic: Arithmetic) -> Option<f64> {
        self.peaks.iter().find(|(known, _)| *known == arithmetic).map(|(_, peak)| *peak)
    }

    /// `236 GFLOP/s in f32, 473 in bf16; 33.1 GB/s from memory`
    pub fn describe(&self) -> String {
        let peak = |(i, (arithmetic, peak)): (usize, &(Arithmetic, f64))| {
            format!("{:.0}{} in {arithmetic}", peak / 1e9, if i == 0 { " GFLOP/s" } else { "" })
        };
        let peaks: Vec<String> = self.peaks.iter().enumerate().map(peak).collect();
        format!("{}; {:.1} GB/s from memory", peaks.join(", "), self.bandwidth / 1e9)
    }

    /// The peaks by arithmetic.
    pub fn peaks_json(&self) -> Value {
        json!(self.peaks.iter().map(|(a, peak)| (a.to_string(), *peak)).collect::<BTreeMap<_, _>>())
    }
}
