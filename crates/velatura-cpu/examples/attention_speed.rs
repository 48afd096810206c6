//! Prints the speed of attention as a share of the measured multiply-add peak.
//!
//! `cargo run --release -p velatura-cpu --example attention_speed`

use std::time::Instant;

use half::bf16;
use velatura_cpu::kernels::Order;
use velatura_cpu::kernels::attention::{AttentionShape, Gradients, Rows, backward, forward};
use velatura_cpu::kernels::gemm::fma_peak;
use velatura_cpu::{Data, DataMut, Isa, ThreadPool};
use velatura_graph::DType;

fn noise(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// The shortest of several runs, in seconds: other programs share the processor.
fn best(mut f: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut shortest = f64::MAX;
    let mut runs = 0;
    while runs < 3 || (start.elapsed().as_secs_f64() < 1.5 && runs < 50) {
        let run = Instant::now();
        f();
        shortest = shortest.min(run.elapsed().as_secs_f64());
        runs += 1;
    }
    shortest
}

fn main() {
    let pool = ThreadPool::with_all_processors();
    println!("{} threads; share of the measured multiply-add peak", pool.threads());
    for isa in Isa::supported() {
        for short in [false, true] {
            let dtype = if short { DType::Bf16 } else { DType::F32 };
            let peak = fma_peak(&pool, isa, dtype) / 1e9;
            let name = if short { "bf16" } else { "f32" };
            println!("{} {name}: peak {peak:.0} GFLOP/s", isa.name());
            for (batch, tokens, keys, heads, d) in [
                (1, 4096, 4096, 8, 40),
                (1, 1024, 1024, 8, 80),
                (2, 4096, 77, 8, 40),
                (64, 256, 256, 4, 32),
                (64, 64, 64, 4, 64),
            ] {
                measure(&pool, isa, short, peak, batch, [tokens, keys, heads, d]);
            }
        }
    }
}

fn measure(pool: &ThreadPool, isa: Isa, short: bool, peak: f64, batch: usize, sizes: [usize; 4]) {
    let [q_tokens, k_tokens, heads, head_dim] = sizes;
    let scale = 1.0 / (head_dim as f32).sqrt();
    let s = AttentionShape { batch, heads, q_tokens, k_tokens, head_dim, causal: false, scale };
    let wide = [noise(s.q_len(), 1), noise(s.k_len(), 2), noise(s.k_len(), 3), noise(s.q_len(), 4)];
    let narrow = wide.each_ref().map(|x| x.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>());
    let data = |i: usize| if short { Data::Bf16(&narrow[i]) } else { Data::F32(&wide[i]) };
    let [q, k, v] = [0, 1, 2].map(|i| Rows::packed(data(i), &s));
    let mut out = vec![0.0; s.q_len()];
    let mut lse = vec![0.0; batch * heads * q_tokens];
    let seconds = best(|| {
        forward(pool, isa, &s, q, k, v, None, false, DataMut::F32(&mut out), Order::Rows, Some(&mut lse));
    });
    let (mut dq, mut dk, mut dv) = (vec![0.0; s.q_len()], vec![0.0; s.k_len()], vec![0.0; s.k_len()]);
    let back = best(|| {
        let gradients =
            Gradients { q: DataMut::F32(&mut dq), k: DataMut::F32(&mut dk), v: DataMut::F32(&mut dv) };
        backward(pool, isa, &s, q, k, v, None, Data::F32(&out), &lse, data(3), gradients);
    });
    let speed = |operations: f64, seconds: f64| {
        let rate = operations / seconds / 1e9;
        format!("{:8.2} ms {rate:6.0} GFLOP/s {:3.0}%", seconds * 1e3, 100.0 * rate / peak)
    };
    println!(
        "  {batch:2} x {q_tokens:4} x {k_tokens:4}, {heads} heads of {head_dim:3}: forward {}, backward {}",
        speed(s.forward_operations(), seconds),
        speed(2.5 * s.forward_operations(), back)
    );
}
