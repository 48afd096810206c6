//! Random numbers with random access, for training.

use super::{philox4x32_10, vecmath};

/// A family of random streams: the numbers of (`seed`, `stream`, `index`) depend on nothing else.
///
/// Training draws the numbers of sample `index` of step so-and-so directly, so a resumed run draws what an
/// uninterrupted one would have, in any order and on any number of threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CounterRng {
    seed: u64,
    stream: u32,
}

impl CounterRng {
    /// The numbers of one purpose (`stream`: noise, timesteps, caption dropout, ...) of one run (`seed`).
    pub fn new(seed: u64, stream: u32) -> Self {
        CounterRng { seed, stream }
    }

    /// The numbers of one item, from the first on: up to 2^34 words.
    pub fn at(self, index: u64) -> Draws {
        Draws { rng: self, index, block: 0, words: [0; 4], left: 0 }
    }
}

/// The numbers of one item, in order.
#[derive(Debug, Clone)]
pub struct Draws {
    rng: CounterRng,
    index: u64,
    block: u32,
    words: [u32; 4],
    left: usize,
}

impl Draws {
    /// 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.left == 0 {
            let CounterRng { seed, stream } = self.rng;
            let counter = [self.block, self.index as u32, (self.index >> 32) as u32, stream];
            self.words = philox4x32_10(counter, [seed as u32, (seed >> 32) as u32]);
            self.block = self.block.wrapping_add(1);
            self.left = 4;
        }
        self.left -= 1;
        self.words[3 - self.left]
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let low = u64::from(self.next_u32());
        low | u64::from(self.next_u32()) << 32
    }

    /// Uniform in 0..1 (1 excluded) with 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in 0..1 (1 excluded) with 24 bits.
    pub fn uniform_f32(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 / (1 << 24) as f32
    }

    /// A whole number below `bound`, all equally likely; 0 when `bound` is 0 (Lemire 2019).
    pub fn below(&mut self, bound: u32) -> u32 {
        let threshold = if bound == 0 { 0 } else { bound.wrapping_neg() % bound };
        loop {
            let wide = u64::from(self.next_u32()) * u64::from(bound);
            if wide as u32 >= threshold {
                return (wide >> 32) as u32;
            }
        }
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// A unit normal number.
    pub fn normal(&mut self) -> f32 {
        self.normal_pair().0
    }

    /// Fills `out` with unit normal numbers.
    pub fn fill_normal(&mut self, out: &mut [f32]) {
        for pair in out.chunks_mut(2) {
            let (first, second) = self.normal_pair();
            pair[0] = first;
            if let Some(value) = pair.get_mut(1) {
                *value = second;
            }
        }
    }

    /// Box-Muller on two words.
    fn normal_pair(&mut self) -> (f32, f32) {
        // In 2^-32..=1, so that the logarithm is finite.
        let u = (self.next_u32() as f32 + 1.0) / 4_294_967_296.0;
        let radius = (-2.0 * vecmath::ln(u)).sqrt();
        let (sin, cos) = vecmath::sin_cos(std::f32::consts::TAU * self.uniform_f32());
        (radius * cos, radius * sin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_is_random() {
        let rng = CounterRng::new(0x1234_5678_9abc_def0, 3);
        let forward: Vec<u32> = (0..50).map(|i| rng.at(i).next_u32()).collect();
        let mut backward: Vec<u32> = (0..50).rev().map(|i| rng.at(i).next_u32()).collect();
        backward.reverse();
        assert_eq!(forward, backward);
        assert_ne!(rng.at(0).next_u32(), CounterRng::new(0x1234_5678_9abc_def0, 4).at(0).next_u32());
        assert_ne!(rng.at(0).next_u32(), rng.at(1 << 32).next_u32());
    }

    #[test]
    fn a_shorter_fill_is_the_beginning_of_a_longer_one() {
        let rng = CounterRng::new(7, 0);
        let (mut long, mut short) = ([0.0; 33], [0.0; 17]);
        rng.at(9).fill_normal(&mut long);
        rng.at(9).fill_normal(&mut short);
        assert_eq!(long[..17], short);
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut draws = CounterRng::new(1, 2).at(3);
        let n = 200_000;
        let mut normal = vec![0.0; n];
        draws.fill_normal(&mut normal);
        let moment = |p: i32| normal.iter().map(|&v| f64::from(v).powi(p)).sum::<f64>() / n as f64;
        // Four standard errors.
        let error = 4.0 / (n as f64).sqrt();
        assert!(moment(1).abs() < error);
        assert!((moment(2) - 1.0).abs() < error * 2f64.sqrt());
        assert!(moment(3).abs() < error * 15f64.sqrt());
        assert!((moment(4) - 3.0).abs() < error * 96f64.sqrt());
        assert!(normal.iter().all(|v| v.is_finite()));
        let mean = (0..n).map(|_| draws.uniform()).sum::<f64>() / n as f64;
        assert!((mean - 0.5).abs() < error * (1.0f64 / 12.0).sqrt());
        let mut counts = [0u32; 7];
        (0..n).for_each(|_| counts[draws.below(7) as usize] += 1);
        let want = n as f64 / 7.0;
        let chi2: f64 = counts.iter().map(|&c| (f64::from(c) - want).powi(2) / want).sum();
        assert!(chi2 < 24.0, "{chi2}");
        assert_eq!(draws.below(1), 0);
        assert_eq!(draws.below(0), 0);
    }
}
