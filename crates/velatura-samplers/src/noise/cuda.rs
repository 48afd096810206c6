//! `torch.randn` on a CUDA device, computed on the host.

use super::{Randn, philox4x32_10};

/// The first value of each thread of PyTorch's CUDA generator, as the web UIs draw their noise.
///
/// Call number `n` after the seed, value `i`: counter `[n, 0, i, 0]`, key the seed. Exact for calls small
/// enough that CUDA gives each value its own thread, which latents are.
#[derive(Debug, Clone)]
pub struct CudaPhilox {
    seed: u64,
    call: u32,
}

impl CudaPhilox {
    /// The generator with a seed.
    pub fn new(seed: u64) -> Self {
        CudaPhilox { seed, call: 0 }
    }
}

/// Box-Muller with the constants of cuRAND, which are single precision; the rest is in double.
fn normal(x: u32, y: u32) -> f32 {
    const TWO_POW_MINUS_32: f32 = 2.328_306_4e-10;
    const TAU_TWO_POW_MINUS_32: f32 = (2.328_306_4e-10_f64 * 6.283_185_5_f64) as f32;
    let scaled = |bits: u32, unit: f32| f64::from(bits) * f64::from(unit) + f64::from(unit / 2.0);
    let radius = (-2.0 * scaled(x, TWO_POW_MINUS_32).ln()).sqrt();
    (radius * scaled(y, TAU_TWO_POW_MINUS_32).sin()) as f32
}

impl Randn for CudaPhilox {
    fn randn(&mut self, out: &mut [f32]) {
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        for (index, value) in out.iter_mut().enumerate() {
            let [x, y, ..] = philox4x32_10([self.call, 0, index as u32, (index >> 32) as u32], key);
            *value = normal(x, y);
        }
        self.call = self.call.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values_of_seed_zero() {
        // What A1111 publishes for torch.randn((3, 4), device="cuda") after torch.manual_seed(0). Those
        // digits are the exact transform; the device and the web UI round its constants to single
        // precision, which moves values near a zero of the sine by up to 5e-7.
        let want = [
            -0.9246626,
            -0.42534415,
            -2.6438457,
            0.14518388,
            -0.12086647,
            -0.5797256,
            -0.6228512,
            -0.32838709,
            -1.0745423,
            -0.36314407,
            -1.6710507,
            2.265505_f32,
        ];
        let mut got = [0.0; 12];
        CudaPhilox::new(0).randn(&mut got);
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() <= 5e-7 * want.abs(), "{got} {want}");
        }
    }
}
