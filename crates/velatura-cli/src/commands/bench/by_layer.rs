//! The table of where a run's time went.

use std::fmt::Write;

use serde_json::{Value, json};
use velatura_cpu::kernels::gemm::fma_peak;
use velatura_cpu::{Line, Profile, Runtime};
use velatura_graph::DType;

/// Lines printed; the rest is one more.
const SHOWN: usize = 25;

/// Multiply-add peaks of this machine, FLOP/s.
struct Peaks {
    f32: f64,
    bf16: f64,
}

impl Peaks {
    fn measure(threads: usize) -> Self {
        let Runtime { pool, isa } = &*Runtime::new(Some(threads));
        Peaks { f32: fma_peak(pool, *isa, DType::F32), bf16: fma_peak(pool, *isa, DType::Bf16) }
    }

    /// Which part of the peak was reached; nothing where there are no products.
    fn share(&self, line: &Line) -> Option<f64> {
        let peak = if line.is_bf16() { self.bf16 } else { self.f32 };
        (line.flops > 0.0 && line.seconds > 0.0).then(|| line.flops / line.seconds / peak)
    }
}

/// Time for each operation, then for each operation on tensors of the same types, of one of `runs` runs.
pub fn table(profile: &Profile, runs: usize, threads: usize) -> String {
    let (peaks, runs) = (Peaks::measure(threads), runs.max(1) as f64);
    let total: f64 = profile.operations().iter().map(|line| line.seconds).sum();
    let mut text = String::new();
    for (title, lines) in [("operation", profile.operations()), ("operation on", profile.lines())] {
        let _ = writeln!(text, "\n{:>10} {:>6} {:>6} {:>8}  {title}", "ms", "share", "times", "of peak");
        let mut write = |line: &Line, share: Option<f64>| {
            let share = share.map_or(String::new(), |share| format!("{:.0}%", share * 100.0));
            let _ = writeln!(
                text,
                "{:>10.2} {:>5.1}% {:>6} {share:>8}  {} {}",
                line.seconds / runs * 1e3,
                line.seconds / total * 100.0,
                (line.count as f64 / runs).round(),
                line.operation,
                line.types
            );
        };
        lines.iter().take(SHOWN).for_each(|line| write(line, peaks.share(line)));
        if let Some((first, rest)) = lines.get(SHOWN..).and_then(|rest| rest.split_first()) {
            let mut sum = Line { operation: "others", types: String::new(), ..first.clone() };
            for line in rest {
                sum.count += line.count;
                sum.seconds += line.seconds;
            }
            write(&sum, None);
        }
    }
    text
}

/// The same, every line of it, seconds of one run.
pub fn to_json(profile: &Profile, runs: usize, threads: usize) -> Value {
    let (peaks, runs) = (Peaks::measure(threads), runs.max(1) as f64);
    let line = |line: Line| {
        json!({
            "operation": line.operation, "types": line.types, "seconds": line.seconds / runs,
            "times": (line.count as f64 / runs).round(), "flops": line.flops / runs,
            "share_of_peak": peaks.share(&line),
        })
    };
    profile.lines().into_iter().map(line).collect()
}
