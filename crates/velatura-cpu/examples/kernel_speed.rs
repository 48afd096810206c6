//! Prints each kernel's share of the processor's peak.

fn main() {
    let runtime = velatura_cpu::Runtime::new(None);
    match velatura_cpu::bench::kernels(&runtime, 7) {
        Ok(report) => {
            println!(
                "{} x{}: f32 {:.0} GFLOP/s, bf16 {:.0}",
                report.isa,
                report.threads,
                report.peak_f32 / 1e9,
                report.peak_bf16 / 1e9
            );
            for k in report.kernels {
                println!(
                    "{:40} {:5} {:8.2} ms {:6.0} GFLOP/s {:5.1}%",
                    k.name,
                    k.dtype.to_string(),
                    k.median_s * 1e3,
                    k.flops / 1e9,
                    k.share_of_peak * 100.0
                );
            }
        }
        Err(error) => eprintln!("error: {error}"),
    }
}
