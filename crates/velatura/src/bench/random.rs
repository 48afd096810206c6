//! Numbers for weights and inputs that nobody trained.

use velatura_graph::Init;
use velatura_samplers::noise::CounterRng;

/// Different random numbers; tensors repeat them, each beginning elsewhere.
const NUMBERS: usize = (1 << 20) - 3;

/// Normally distributed numbers to take from.
pub(super) struct Draws(Vec<f32>);

/// Mean and standard deviation.
#[derive(Clone, Copy)]
pub(super) struct Spread {
    mean: f32,
    deviation: f32,
}

impl Spread {
    /// The normal distribution.
    pub const NORMAL: Spread = Spread { mean: 0.0, deviation: 1.0 };

    /// That of a weight which begins so.
    pub fn of(init: Init) -> Self {
        // Biases that begin as zeros have something to show, too.
        let (mean, deviation) = match init {
            Init::Zeros => (0.0, 0.02),
            Init::Ones => (1.0, 0.02),
            Init::Normal(deviation) => (0.0, deviation),
            Init::Uniform(bound) => (0.0, bound / 3.0f32.sqrt()),
        };
        Spread { mean, deviation }
    }

    /// That of weights whose products with so many normally distributed numbers have a sum of deviation one.
    pub fn summed(fan_in: usize) -> Self {
        Spread { mean: 0.0, deviation: (fan_in.max(1) as f32).sqrt().recip() }
    }
}

impl Draws {
    pub fn new(seed: u64) -> Self {
        let mut numbers = vec![0.0; NUMBERS];
        CounterRng::new(seed, 0).at(0).fill_normal(&mut numbers);
        Draws(numbers)
    }

    /// The numbers of a tensor of this name.
    pub fn numbers(&self, name: &str, spread: Spread, len: usize) -> Vec<f32> {
        let start = name.bytes().fold(7usize, |h, b| h.wrapping_mul(31).wrapping_add(usize::from(b)));
        let endless = self.0.iter().cycle().skip(start % self.0.len());
        endless.take(len).map(|x| spread.mean + spread.deviation * x).collect()
    }
}
