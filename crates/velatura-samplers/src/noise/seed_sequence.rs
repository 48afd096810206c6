//! NumPy's `SeedSequence`, from which the Brownian trees of k-diffusion take their seeds.

const XSHIFT: u32 = 16;

/// The hash of a word; its constant moves on with every use.
struct Hash {
    constant: u32,
    multiplier: u32,
}

impl Hash {
    fn of(&mut self, value: u32) -> u32 {
        let value = value ^ self.constant;
        self.constant = self.constant.wrapping_mul(self.multiplier);
        let value = value.wrapping_mul(self.constant);
        value ^ (value >> XSHIFT)
    }
}

fn mix(x: u32, y: u32) -> u32 {
    let mixed = x.wrapping_mul(0xca01_f9dd).wrapping_sub(y.wrapping_mul(0x4973_f715));
    mixed ^ (mixed >> XSHIFT)
}

/// Little-endian words of a number, at least one.
fn words(value: u64) -> impl Iterator<Item = u32> {
    let high = (value >> 32) as u32;
    [value as u32].into_iter().chain((high != 0).then_some(high))
}

/// The first word of `SeedSequence(entropy, spawn_key=spawn_key, pool_size=POOL).generate_state(..)`, after O'Neill's
/// `seed_seq` with NumPy's constants.
pub(super) fn first_word<const POOL: usize>(entropy: u64, spawn_key: &[u64]) -> u32 {
    let mut source: Vec<u32> = words(entropy).collect();
    if !spawn_key.is_empty() {
        source.resize(POOL.max(source.len()), 0);
        source.extend(spawn_key.iter().flat_map(|&key| words(key)));
    }
    let mut hash = Hash { constant: 0x43b0_d7e5, multiplier: 0x931e_8875 };
    let mut pool = [0u32; POOL];
    for (i, slot) in pool.iter_mut().enumerate() {
        *slot = hash.of(source.get(i).copied().unwrap_or(0));
    }
    for from in 0..POOL {
        for to in 0..POOL {
            if from != to {
                pool[to] = mix(pool[to], hash.of(pool[from]));
            }
        }
    }
    for &word in source.iter().skip(POOL) {
        for slot in &mut pool {
            *slot = mix(*slot, hash.of(word));
        }
    }
    Hash { constant: 0x8b51_f9dd, multiplier: 0x58f3_8ded }.of(pool[0])
}
