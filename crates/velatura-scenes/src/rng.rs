/// A small counter-based random generator (SplitMix64): the state is a key, so a stream for any
/// (seed, index) can be opened directly and never depends on what was drawn before.
///
/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's finaliser: a bijection that spreads every input bit over the whole word.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// FNV-1a of a string, mixed: a hash that stays the same over versions of Rust and of this crate.
pub(crate) fn hash_str(text: &str) -> u64 {
    let fnv = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    mix(fnv)
}

impl Rng {
    /// The stream for a key made of several numbers, such as `[seed, index, purpose]`.
    pub fn new(key: &[u64]) -> Self {
        let state = key.iter().fold(GOLDEN, |state, &part| mix(state ^ mix(part.wrapping_add(GOLDEN))));
        Self { state }
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }

    /// A number in `[0, 1)`.
    pub fn unit(&mut self) -> f32 {
        // 24 bits: exactly representable, and never rounds up to 1.
        (self.next_u64() >> 40) as f32 / (1_u64 << 24) as f32
    }

    /// A number in `[low, high)`.
    pub fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// An index in `0..count`; 0 when `count` is 0.
    pub fn below(&mut self, count: usize) -> usize {
        ((u128::from(self.next_u64()) * count as u128) >> 64) as usize
    }

    /// True with the given probability.
    pub fn chance(&mut self, probability: f32) -> bool {
        self.unit() < probability
    }

    /// One of the items, or `None` when there are none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len()))
    }

    /// An index drawn in proportion to the weights; the last one when they are all zero.
    pub fn weighted(&mut self, weights: &[f32]) -> usize {
        let mut left = self.unit() * weights.iter().sum::<f32>();
        for (index, &weight) in weights.iter().enumerate() {
            if left < weight {
                return index;
            }
            left -= weight;
        }
        // Rounding may leave a crumb: give it to the last kind that can occur at all.
        weights.iter().rposition(|&weight| weight > 0.0).unwrap_or(weights.len().saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_apart_and_repeatable() {
        let first: Vec<u64> = (0..100).map(|i| Rng::new(&[7, i]).next_u64()).collect();
        let again: Vec<u64> = (0..100).map(|i| Rng::new(&[7, i]).next_u64()).collect();
        assert_eq!(first, again);
        let distinct: std::collections::HashSet<_> = first.iter().collect();
        assert_eq!(distinct.len(), 100);
        assert_ne!(Rng::new(&[1, 2]).next_u64(), Rng::new(&[2, 1]).next_u64());
    }

    #[test]
    fn draws_are_spread_evenly() {
        let mut rng = Rng::new(&[3]);
        let mut bins = [0_usize; 7];
        for _ in 0..70_000 {
            bins[rng.below(7)] += 1;
        }
        assert!(bins.iter().all(|&count| (9_600..10_400).contains(&count)), "{bins:?}");
        let mean = (0..10_000).map(|_| f64::from(rng.unit())).sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        let heavy = (0..10_000).filter(|_| rng.weighted(&[1.0, 0.0, 3.0]) == 2).count();
        assert!((7_300..7_700).contains(&heavy), "{heavy}");
    }
}
