//! How fast memory is read, measured: what kernels that move more than they compute are held against.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::{AlignedBytes, ThreadPool};

/// Bytes that are read: more than the last-level cache of a processor holds, and more again where there are many threads,
/// because there are many caches then.
const LEAST: usize = 256 << 20;
const FOR_EACH_THREAD: usize = 16 << 20;

/// Numbers of a task.
const TASK: usize = 1 << 17;

/// Bytes a second that all threads of the pool together read from memory, one after another: the best of several passes over
/// more than the caches hold.
pub fn read_bandwidth(pool: &ThreadPool) -> f64 {
    let mut memory = AlignedBytes::zeroed(LEAST.max(pool.threads() * FOR_EACH_THREAD));
    // Memory that was never written may be one page of zeros again and again.
    memory.typed_mut::<u8>().fill(1);
    let numbers: &[u64] = memory.typed();
    let tasks = numbers.len().div_ceil(TASK);
    let sum = AtomicU64::new(0);
    (0..5)
        .map(|_| {
            let start = Instant::now();
            pool.run(tasks, |task, _| {
                let part = &numbers[task * TASK..numbers.len().min((task + 1) * TASK)];
                sum.fetch_add(total(part), Ordering::Relaxed);
            });
            std::hint::black_box(&sum);
            memory.len() as f64 / start.elapsed().as_secs_f64()
        })
        .fold(0.0, f64::max)
}

/// The sum of all numbers, in lanes enough that loads and not additions take the time.
fn total(numbers: &[u64]) -> u64 {
    let mut sums = [0u64; 16];
    for chunk in numbers.chunks_exact(sums.len()) {
        sums.iter_mut().zip(chunk).for_each(|(sum, x)| *sum = sum.wrapping_add(*x));
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_at_a_possible_pace() {
        let measured = read_bandwidth(&ThreadPool::new(2));
        // Between a tenth of the slowest memory in use and what no socket has.
        assert!((1e8..2e12).contains(&measured), "{measured}");
    }
}
