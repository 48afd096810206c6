//! Prints how much of the arithmetic peak the products and convolutions reach, for shapes of diffusion models.
//!
//! `cargo run --release -p velatura-cpu --example gemm_speed [FILTER]`; environment: `VELATURA_ISA`, and
//! `VELATURA_THREADS` for the number of threads.

use std::time::Instant;

use half::bf16;
use velatura_cpu::kernels::gemm::*;
use velatura_cpu::{AlignedBytes, Data, DataMut, Isa, ThreadPool};
use velatura_graph::DType;

/// Numbers in either type, that begin on a line of the caches as those of a plan do.
struct Tensor {
    singles: Vec<f32>,
    memory: AlignedBytes,
    dtype: DType,
}

impl Tensor {
    fn new(dtype: DType, count: usize) -> Self {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let singles: Vec<f32> = (0..count).map(|_| next()).collect();
        let mut memory = AlignedBytes::zeroed(count * dtype.size());
        match dtype {
            DType::Bf16 => {
                let to = memory.typed_mut::<bf16>().iter_mut();
                to.zip(&singles).for_each(|(to, &x)| *to = bf16::from_f32(x));
            }
            _ => memory.typed_mut::<f32>()[..count].copy_from_slice(&singles),
        }
        Tensor { singles, memory, dtype }
    }

    fn data(&self) -> Data<'_> {
        let count = self.singles.len();
        match self.dtype {
            DType::Bf16 => Data::Bf16(&self.memory.typed()[..count]),
            _ => Data::F32(&self.memory.typed()[..count]),
        }
    }

    fn data_mut(&mut self) -> DataMut<'_> {
        let count = self.singles.len();
        match self.dtype {
            DType::Bf16 => DataMut::Bf16(&mut self.memory.typed_mut()[..count]),
            _ => DataMut::F32(&mut self.memory.typed_mut()[..count]),
        }
    }
}

struct Bench {
    pool: ThreadPool,
    isa: Isa,
    filter: String,
}

impl Bench {
    /// The best of many runs, at least a few, for about half a second.
    fn report(&self, name: &str, dtype: DType, peak: f64, flops: f64, mut run: impl FnMut()) {
        run();
        let begin = Instant::now();
        let mut best = f64::INFINITY;
        let mut runs = 0;
        while runs < 5 || (begin.elapsed().as_secs_f64() < 0.5 && runs < 2000) {
            let start = Instant::now();
            run();
            best = best.min(start.elapsed().as_secs_f64());
            runs += 1;
        }
        println!(
            "{name:44} {dtype:5} {:10.3} ms {:8.1} GFLOP/s {:5.1}%",
            best * 1e3,
            flops / best / 1e9,
            100.0 * flops / best / peak
        );
    }

    fn wanted(&self, name: &str) -> bool {
        name.contains(&self.filter)
    }

    fn linear(&self, dtype: DType, peak: f64, [m, k, n]: [usize; 3]) {
        let flops = 2.0 * (m * k * n) as f64;
        let (pool, isa) = (&self.pool, self.isa);
        let (x, mut dy) = (Tensor::new(dtype, m * k), Tensor::new(dtype, m * n));
        let w = Tensor::new(DType::F32, n * k).singles;
        let name = format!("linear {m}x{k}x{n}");
        if self.wanted(&name) {
            let weight = PackedMatrix::linear(pool, isa, dtype, &w, [n, k]).expect("shapes fit");
            let epilogue = Epilogue { bias: Some(&w[..n]), ..Epilogue::default() };
            let algorithms = [
                (name.clone(), LinearAlgorithm::Direct(Orders::default())),
                (format!("{name} Strassen"), LinearAlgorithm::Strassen(Levels::One)),
                (format!("{name} Strassen twice"), LinearAlgorithm::Strassen(Levels::Two)),
            ];
            // On tiles there is the first alone.
            let computed = compute_dtype(isa, dtype);
            let count =
                if on_tiles(isa, computed) || in_thirds(isa, computed) { 1 } else { algorithms.len() };
            for (name, algorithm) in algorithms.into_iter().take(count) {
                let mut memory = vec![0; linear_scratch_bytes(isa, dtype, [m, k, n], algorithm)];
                self.report(&name, dtype, peak, flops, || {
                    let (x, y) = (x.data(), dy.data_mut());
                    linear(pool, isa, algorithm, x, m, &weight, &epilogue, y, &mut memory).expect("fits");
                });
            }
        }
        let name = format!("{name} weight gradient");
        if self.wanted(&name) {
            let mut out = vec![0.0; n * k];
            let mut memory = vec![0; linear_weight_gradient_scratch_bytes(isa, dtype, m, k, n)];
            self.report(&name, dtype, peak, flops, || {
                linear_weight_gradient(pool, isa, x.data(), dy.data(), [m, k, n], &mut out, &mut memory)
                    .expect("fits");
            });
        }
    }

    fn conv(&self, dtype: DType, peak: f64, batch: usize, size: usize, channels: [usize; 2], stride: usize) {
        let g = ConvGeometry {
            batch,
            height: size,
            width: size,
            in_channels: channels[0],
            out_channels: channels[1],
            kernel: [3, 3],
            stride: [stride; 2],
            padding: [1; 4],
            groups: 1,
        };
        let (pool, isa) = (&self.pool, self.isa);
        let name = format!("conv {batch}x{size}x{size} {}-{} /{stride}", channels[0], channels[1]);
        let shape = g.weight_shape();
        let w = Tensor::new(DType::F32, shape.iter().product()).singles;
        let mut x = Tensor::new(dtype, g.in_pixels() * g.in_channels);
        let mut dy = Tensor::new(dtype, g.out_pixels() * g.out_channels);
        if self.wanted(&name) {
            let weight = PackedMatrix::conv2d(pool, isa, dtype, &w, shape, 1).expect("shapes fit");
            let mut memory = vec![0; conv2d_scratch_bytes(isa, dtype, &g, ConvAlgorithm::Direct)];
            let epilogue = Epilogue { bias: Some(&w[..channels[1]]), ..Epilogue::default() };
            self.report(&name, dtype, peak, g.flops(), || {
                conv2d(pool, isa, &g, x.data(), &weight, &epilogue, dy.data_mut(), &mut memory)
                    .expect("fits");
            });
        }
        let gradient = format!("{name} weight gradient");
        if self.wanted(&gradient) {
            let mut out = vec![0.0; w.len()];
            let mut memory =
                vec![0; conv2d_weight_gradient_scratch_bytes(isa, dtype, &g, ConvAlgorithm::Direct)];
            self.report(&gradient, dtype, peak, g.flops(), || {
                conv2d_weight_gradient(
                    pool,
                    isa,
                    &g,
                    ConvAlgorithm::Direct,
                    x.data(),
                    dy.data(),
                    &mut out,
                    &mut memory,
                )
                .expect("fits");
            });
        }
        let gradient = format!("{name} input gradient");
        if self.wanted(&gradient) {
            let stride = g.stride;
            let weight = PackedMatrix::conv2d_input_gradient(pool, isa, dtype, &w, shape, 1, stride)
                .expect("shapes fit");
            let mut memory =
                vec![0; conv2d_input_gradient_scratch_bytes(isa, dtype, &g, ConvAlgorithm::Direct)];
            self.report(&gradient, dtype, peak, g.flops(), || {
                conv2d_input_gradient(pool, isa, &g, dy.data(), &weight, None, x.data_mut(), &mut memory)
                    .expect("fits");
            });
        }
        let packing = format!("{name} packing (elements as operations)");
        if self.wanted(&packing) {
            let mut weight = PackedMatrix::conv2d(pool, isa, dtype, &w, shape, 1).expect("shapes fit");
            self.report(&packing, dtype, peak, w.len() as f64, || {
                weight.repack(pool, &w).expect("fits");
            });
        }
    }
}

fn main() {
    let threads = std::env::var("VELATURA_THREADS").ok().and_then(|t| t.parse().ok());
    let pool = threads.map_or_else(ThreadPool::with_all_processors, ThreadPool::new);
    let bench = Bench { pool, isa: Isa::active(), filter: std::env::args().nth(1).unwrap_or_default() };
    for dtype in [DType::F32, DType::Bf16] {
        let peak = fma_peak(&bench.pool, bench.isa, dtype);
        println!("peak {dtype} on {}: {:.1} GFLOP/s", bench.isa.name(), peak / 1e9);
        bench.linear(dtype, peak, [4096, 320, 1280]);
        bench.linear(dtype, peak, [2048, 1280, 10240]);
        bench.linear(dtype, peak, [2048, 192, 192]);
        bench.linear(dtype, peak, [64, 768, 768]);
        bench.linear(dtype, peak, [2, 1280, 1280]);
        for (batch, size, channels, stride) in [
            (2, 64, [320, 320], 1),
            (2, 64, [320, 320], 2),
            (2, 16, [1280, 1280], 1),
            (8, 16, [64, 64], 1),
            (8, 16, [192, 192], 1),
            (64, 16, [64, 64], 1),
            (64, 8, [192, 192], 1),
            (8, 64, [32, 32], 1),
            (8, 64, [64, 64], 1),
            (8, 64, [3, 32], 1),
            (8, 64, [32, 3], 1),
        ] {
            bench.conv(dtype, peak, batch, size, channels, stride);
        }
    }
}
