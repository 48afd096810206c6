//! The forward pass. A task packs the keys and values of its head once, as many as stay in the second-level cache with their
//! weights, and lets its queries meet them, 32 at a time: see [`run`](super::run).

use std::ops::Range;

use super::super::forward::{Job, Parts, finish, head_rows};
use super::pack::{self, Turned};
use super::run::{BLOCK, Run, State};
use super::{CELLS, PAIR, SQUARE};
use crate::ThreadPool;
use crate::kernels::amx::{SIDE, Unit, fetch_to_write};
use crate::kernels::elementwise::dispatch::with_scratch;

/// Cells of packed keys and values, and of weights, that stay in the second-level cache.
const PACKED: usize = if cfg!(test) { 12 << 10 } else { 380 << 10 };
/// Queries of a task where there are more than enough heads to keep threads busy, and where there are few.
const MANY: usize = 4096;
const FEW: usize = 512;
/// Tasks that keep a few threads evenly busy.
const ENOUGH_TASKS: usize = 8;

/// How many pieces of channels there are, and of keys.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    /// Units of 32 channels of queries and keys.
    pub channels: usize,
    /// Tiles of 16 channels of the values, with that of ones.
    pub rows: usize,
    /// Units of keys that are packed at a time.
    pub keys: usize,
}

impl Sizes {
    fn new(head_dim: usize, keys: usize) -> Sizes {
        let (channels, rows) = (head_dim.div_ceil(PAIR), (head_dim + 1).div_ceil(SIDE));
        let of_unit = (channels + 1) * CELLS + rows * SIDE * SIDE;
        let most = (PACKED / of_unit).max(BLOCK) / BLOCK * BLOCK;
        Sizes { channels, rows, keys: keys.div_ceil(PAIR).min(most).max(1) }
    }

    /// Elements of the sums of a run.
    fn sums(&self) -> usize {
        self.rows * SIDE * PAIR
    }
}

/// See [`forward`](super::super::forward): all inputs are brain floating-point numbers.
pub(in super::super) fn forward(pool: &ThreadPool, job: &Job<'_>) {
    let shape = job.shape;
    let heads = shape.batch * shape.heads;
    let queries = if heads >= ENOUGH_TASKS { MANY } else { FEW };
    let tasks = shape.q_tokens.div_ceil(queries).max(1);
    let queries = shape.q_tokens.div_ceil(tasks).next_multiple_of(PAIR).max(PAIR);
    pool.run(heads * tasks, |index, _| {
        let (head, first) = (index / tasks, index % tasks * queries);
        if first < shape.q_tokens {
            let range = first..shape.q_tokens.min(first + queries);
            let lens = lens(job, range.len());
            let len = lens.iter().map(|len| len.next_multiple_of(SIDE)).sum();
            // The buffer is taken here because a closure inside the task would not be compiled for its instruction set.
            with_scratch(len, |scratch: &mut [u32]| {
                let mut parts = Parts(scratch);
                // SAFETY: the kernel was chosen for a processor that has the tiles.
                unsafe { task(job, head, range, lens.map(|len| parts.take(len))) };
            });
        }
    });
}

/// Runs whose queries and sums are kept: all, where keys are packed in several groups, else one at a time.
fn kept(job: &Job<'_>, sizes: Sizes, queries: usize) -> usize {
    if job.shape.k_tokens > sizes.keys * PAIR { queries.div_ceil(PAIR) } else { 1 }
}

/// Cells of the parts of a task's memory: packed keys, values and queries, sums, what weights are relative to, scores, weights,
/// sums of the last tiles, and rows on the way.
fn lens(job: &Job<'_>, queries: usize) -> [usize; 9] {
    let sizes = Sizes::new(job.shape.head_dim, job.shape.k_tokens);
    let runs = kept(job, sizes, queries);
    [
        sizes.keys * sizes.channels * CELLS,
        sizes.keys * sizes.rows * SIDE * SIDE,
        runs * sizes.channels * CELLS,
        runs * sizes.sums(),
        runs * PAIR,
        BLOCK * SQUARE,
        sizes.keys * CELLS,
        3 * SIDE * PAIR,
        PAIR * job.shape.head_dim.max(PAIR),
    ]
}

/// Asks for the rows of the output that some queries of a head write in the end.
fn fetch_output(job: &Job<'_>, head: usize, queries: Range<usize>) {
    let shape = job.shape;
    let (sequence, head) = (head / shape.heads, head % shape.heads);
    let columns = shape.heads * shape.head_dim;
    for query in queries {
        for column in (head * shape.head_dim..(head + 1) * shape.head_dim).step_by(job.out.of_line()) {
            let place = job.order.place(sequence * shape.q_tokens + query, column, columns);
            fetch_to_write(job.out.at(place));
        }
    }
}

/// # Safety
/// The processor has [`Isa::Amx`](crate::Isa::Amx); the parts are of [`lens`].
#[target_feature(enable = "avx512vbmi,avx512bf16,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
unsafe fn task(job: &Job<'_>, head: usize, queries: Range<usize>, parts: [&mut [u32]; 9]) {
    let shape = job.shape;
    let sizes = Sizes::new(shape.head_dim, shape.k_tokens);
    let kept = kept(job, sizes, queries.len());
    let [keys, values, packed, sums, greatest, scores, weights, rest, rows] = parts;
    let run = Run {
        job,
        head,
        sizes,
        // SAFETY: the caller's promise; no other unit is taken while this one is.
        unit: unsafe { Unit::take() },
        keys: keys.as_ptr(),
        values: values.as_ptr(),
        scores: scores.as_mut_ptr().cast(),
        weights: weights.as_mut_ptr(),
        rest: rest.as_mut_ptr().cast(),
    };
    let (sums, greatest): (&mut [f32], &mut [f32]) =
        (bytemuck::cast_slice_mut(sums), bytemuck::cast_slice_mut(greatest));
    let [q, k, v] = [(&job.q, shape.q_tokens), (&job.k, shape.k_tokens), (&job.v, shape.k_tokens)]
        .map(|(rows, tokens)| head_rows(shape, rows, tokens, head));
    let turned = Turned { together: SIDE, planes: sizes.rows, units: sizes.keys, with_ones: true };
    let end = if shape.causal { shape.k_tokens.min(queries.end) } else { shape.k_tokens };
    let mut start = 0;
    // Without keys there are sums, too.
    loop {
        let group = start..end.min(start + sizes.keys * PAIR);
        // SAFETY: compiled for the instruction set.
        unsafe {
            pack::rows(&k, group.clone(), sizes.channels, keys);
            pack::turned(job.isa, &v, group.clone(), turned, rows, values);
        }
        for (index, first) in queries.clone().step_by(PAIR).enumerate() {
            let count = PAIR.min(queries.end - first);
            let sums = &mut sums[index % kept * sizes.sums()..][..sizes.sums()];
            let greatest = &mut greatest[index % kept * PAIR..][..PAIR];
            let packed = &mut packed[index % kept * sizes.channels * CELLS..][..sizes.channels * CELLS];
            if start == 0 {
                sums.fill(0.0);
                greatest.fill(f32::NEG_INFINITY);
                // SAFETY: compiled for the instruction set.
                unsafe { pack::lanes(job.isa, &q, first..first + count, sizes.channels, rows, packed) };
            }
            if group.end == end {
                fetch_output(job, head, first..first + count);
            }
            let (queries, sums_at) = (packed.as_ptr(), sums.as_mut_ptr());
            let state = State { first, count, queries, sums: sums_at, greatest: greatest.as_mut_ptr() };
            // SAFETY: the operands were packed for these sizes; compiled for the instruction set.
            unsafe { run.group(&state, group.clone()) };
            if group.end == end {
                let (out, sum) = sums.split_at(shape.head_dim * PAIR);
                finish(job, head, first, PAIR, out, [&greatest[..count], &sum[..count]], rows);
            }
        }
        start = group.end;
        if start == end {
            break;
        }
    }
}
