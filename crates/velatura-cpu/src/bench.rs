//! How fast the kernels are, as a share of what the processor can do, which is measured by the same run.

use std::time::Instant;

use half::bf16;
use velatura_graph::DType;

use crate::kernels::Order;
use crate::kernels::attention::{self, AttentionShape, Rows};
use crate::kernels::gemm::{
    self, ConvAlgorithm, ConvGeometry, Epilogue, GemmError, LinearAlgorithm, Orders, PackedMatrix,
};
use crate::{AlignedBytes, Data, DataMut, Runtime};

/// One measured kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// What was run, with its sizes.
    pub name: &'static str,
    /// Storage type of the activations.
    pub dtype: DType,
    /// Median seconds of one call.
    pub median_s: f64,
    /// Arithmetic done in that time, FLOP/s, a fused multiply-add counted as two.
    pub flops: f64,
    /// That, as a fraction of the fused-multiply-add peak for this type.
    pub share_of_peak: f64,
}

/// The peaks and all measurements.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Instruction set in use.
    pub isa: &'static str,
    /// Threads in use.
    pub threads: usize,
    /// Fused-multiply-add peak in f32, FLOP/s.
    pub peak_f32: f64,
    /// Multiply-add peak in the arithmetic that bf16 activations get, FLOP/s.
    pub peak_bf16: f64,
    /// The kernels.
    pub kernels: Vec<Measurement>,
}

/// Numbers without pattern, in the given storage.
struct Tensor {
    f32: Vec<f32>,
    bf16: Vec<bf16>,
}

impl Tensor {
    fn new(elements: usize, seed: u32, dtype: DType) -> Self {
        let mut state = seed | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as f32 / u32::MAX as f32 - 0.5
        };
        let f32: Vec<f32> = (0..elements).map(|_| next()).collect();
        match dtype {
            DType::Bf16 => Tensor { bf16: f32.iter().map(|&x| bf16::from_f32(x)).collect(), f32: vec![] },
            _ => Tensor { f32, bf16: vec![] },
        }
    }

    fn read(&self) -> Data<'_> {
        if self.bf16.is_empty() { Data::F32(&self.f32) } else { Data::Bf16(&self.bf16) }
    }

    fn write(&mut self) -> DataMut<'_> {
        if self.bf16.is_empty() { DataMut::F32(&mut self.f32) } else { DataMut::Bf16(&mut self.bf16) }
    }
}

/// The middle one; of an even number the mean of the two in the middle, of none not a number.
pub fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    let half = times.len() / 2;
    match times.len() {
        0 => f64::NAN,
        n if n % 2 == 0 => (times[half - 1] + times[half]) / 2.0,
        _ => times[half],
    }
}

/// Median seconds of a call after a warm-up.
fn timed(runs: usize, mut call: impl FnMut() -> Result<(), GemmError>) -> Result<f64, GemmError> {
    call()?;
    let times = (0..runs.max(1))
        .map(|_| {
            let start = Instant::now();
            call().map(|()| start.elapsed().as_secs_f64())
        })
        .collect::<Result<Vec<f64>, GemmError>>()?;
    Ok(median(times))
}

/// Measures the kernels on the shapes of Stable Diffusion 1.5 at 512x512, `runs` times each.
///
/// # Errors
/// Only through an error of this crate.
pub fn kernels(runtime: &Runtime, runs: usize) -> Result<Report, GemmError> {
    let (pool, isa) = (&runtime.pool, runtime.isa);
    let peak = |dtype| gemm::fma_peak(pool, isa, dtype);
    let (peak_f32, peak_bf16) = (peak(DType::F32), peak(DType::Bf16));
    let mut kernels = Vec::new();
    for (dtype, peak) in [(DType::F32, peak_f32), (DType::Bf16, peak_bf16)] {
        let mut add = |name, operations: f64, median_s: f64| {
            let flops = operations / median_s;
            kernels.push(Measurement { name, dtype, median_s, flops, share_of_peak: flops / peak });
        };
        add("conv2d 3x3, 2x64x64x320 to 320", conv_operations(), conv(runtime, dtype, runs)?);
        add("conv2d weight gradient, the same", conv_operations(), weight_gradient(runtime, dtype, runs)?);
        add("conv2d input gradient, the same", conv_operations(), input_gradient(runtime, dtype, runs)?);
        let linear_operations = 2.0 * (4096 * 320 * 1280) as f64;
        add("linear 4096x320x1280", linear_operations, linear(runtime, dtype, runs)?);
        let shape = ATTENTION;
        add("attention 4096x4096, 8 heads of 40", shape.forward_operations(), attend(runtime, dtype, runs)?);
    }
    Ok(Report { isa: isa.name(), threads: pool.threads(), peak_f32, peak_bf16, kernels })
}

const CONV: ConvGeometry = ConvGeometry {
    batch: 2,
    height: 64,
    width: 64,
    in_channels: 320,
    out_channels: 320,
    kernel: [3; 2],
    stride: [1; 2],
    padding: [1; 4],
    groups: 1,
};
const PIXELS: usize = 2 * 64 * 64;
const WEIGHT: [usize; 4] = [320, 320, 3, 3];
const ATTENTION: AttentionShape = AttentionShape {
    batch: 1,
    heads: 8,
    q_tokens: 4096,
    k_tokens: 4096,
    head_dim: 40,
    causal: false,
    scale: 0.158,
};

fn conv_operations() -> f64 {
    2.0 * (PIXELS * 9 * 320) as f64 * 320.0
}

fn scratch(bytes: usize) -> AlignedBytes {
    AlignedBytes::zeroed(bytes)
}

fn conv(runtime: &Runtime, dtype: DType, runs: usize) -> Result<f64, GemmError> {
    let (pool, isa) = (&runtime.pool, runtime.isa);
    let (x, mut y) = (Tensor::new(PIXELS * 320, 1, dtype), Tensor::new(PIXELS * 320, 2, dtype));
    let weight = Tensor::new(320 * 320 * 9, 3, DType::F32);
    let packed = PackedMatrix::conv2d(pool, isa, dtype, &weight.f32, WEIGHT, 1)?;
    let mut memory = scratch(gemm::conv2d_scratch_bytes(isa, dtype, &CONV, ConvAlgorithm::Direct));
    let bias = vec![0.1; 320];
    let epilogue = Epilogue { bias: Some(&bias), ..Epilogue::default() };
    timed(runs, || {
        gemm::conv2d(pool, isa, &CONV, x.read(), &packed, &epilogue, y.write(), memory.typed_mut::<u8>())
    })
}

fn input_gradient(runtime: &Runtime, dtype: DType, runs: usize) -> Result<f64, GemmError> {
    let (pool, isa) = (&runtime.pool, runtime.isa);
    let (dy, mut dx) = (Tensor::new(PIXELS * 320, 1, dtype), Tensor::new(PIXELS * 320, 2, dtype));
    let weight = Tensor::new(320 * 320 * 9, 3, DType::F32);
    let packed = PackedMatrix::conv2d_input_gradient(pool, isa, dtype, &weight.f32, WEIGHT, 1, [1, 1])?;
    let mut memory =
        scratch(gemm::conv2d_input_gradient_scratch_bytes(isa, dtype, &CONV, ConvAlgorithm::Direct));
    timed(runs, || {
        let memory = memory.typed_mut::<u8>();
        gemm::conv2d_input_gradient(pool, isa, &CONV, dy.read(), &packed, None, dx.write(), memory)
    })
}

fn weight_gradient(runtime: &Runtime, dtype: DType, runs: usize) -> Result<f64, GemmError> {
    let (pool, isa) = (&runtime.pool, runtime.isa);
    let (x, dy) = (Tensor::new(PIXELS * 320, 1, dtype), Tensor::new(PIXELS * 320, 2, dtype));
    let mut out = vec![0.0; 320 * 320 * 9];
    let direct = ConvAlgorithm::Direct;
    let mut memory = scratch(gemm::conv2d_weight_gradient_scratch_bytes(isa, dtype, &CONV, direct));
    timed(runs, || {
        let memory = memory.typed_mut::<u8>();
        gemm::conv2d_weight_gradient(pool, isa, &CONV, direct, x.read(), dy.read(), &mut out, memory)
    })
}

fn linear(runtime: &Runtime, dtype: DType, runs: usize) -> Result<f64, GemmError> {
    let (pool, isa) = (&runtime.pool, runtime.isa);
    let (x, mut y) = (Tensor::new(4096 * 320, 1, dtype), Tensor::new(4096 * 1280, 2, dtype));
    let weight = Tensor::new(1280 * 320, 3, DType::F32);
    let packed = PackedMatrix::linear(pool, isa, dtype, &weight.f32, [1280, 320])?;
    let direct = LinearAlgorithm::Direct(Orders::default());
    let mut memory = scratch(gemm::linear_scratch_bytes(isa, dtype, [4096, 320, 1280], direct));
    timed(runs, || {
        let memory = memory.typed_mut::<u8>();
        gemm::linear(pool, isa, direct, x.read(), 4096, &packed, &Epilogue::default(), y.write(), memory)
    })
}

fn attend(runtime: &Runtime, dtype: DType, runs: usize) -> Result<f64, GemmError> {
    let (pool, isa) = (&runtime.pool, runtime.isa);
    let [q, k, v, mut out] = [1, 2, 3, 4].map(|seed| Tensor::new(ATTENTION.q_len(), seed, dtype));
    timed(runs, || {
        let [q, k, v] = [&q, &k, &v].map(|x| Rows::packed(x.read(), &ATTENTION));
        attention::forward(pool, isa, &ATTENTION, q, k, v, None, false, out.write(), Order::Rows, None);
        Ok(())
    })
}
