//! The kernels of this folder against slow obvious references in double precision.

mod copies;
mod functions;
mod images;
mod reductions;

use half::bf16;

use crate::{Data, DataMut, Isa, ThreadPool};

/// Numbers in `[-1, 1)` that any run repeats.
pub(crate) fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// `x` rounded by the `half` crate.
pub(crate) fn narrow(x: &[f32]) -> Vec<bf16> {
    x.iter().map(|&x| bf16::from_f32(x)).collect()
}

/// `x` rounded to what bf16 can hold.
pub(crate) fn rounded(x: &[f32]) -> Vec<f32> {
    x.iter().map(|&x| bf16::from_f32(x).to_f32()).collect()
}

/// Runs a kernel with an output of either type and returns it in single precision.
pub(crate) fn output(count: usize, short: bool, f: impl FnOnce(DataMut<'_>)) -> Vec<f32> {
    if short {
        let mut out = vec![bf16::NAN; count];
        f(DataMut::Bf16(&mut out));
        out.iter().map(|x| x.to_f32()).collect()
    } else {
        let mut out = vec![f32::NAN; count];
        f(DataMut::F32(&mut out));
        out
    }
}

/// One input, stored either way.
pub(crate) struct Input {
    pub(crate) wide: Vec<f32>,
    short: Vec<bf16>,
}

impl Input {
    /// Numbers that both element types hold exactly.
    pub(crate) fn new(x: &[f32]) -> Self {
        Input { wide: rounded(x), short: narrow(x) }
    }

    pub(crate) fn data(&self, short: bool) -> Data<'_> {
        if short { Data::Bf16(&self.short) } else { Data::F32(&self.wide) }
    }
}

#[track_caller]
pub(crate) fn assert_close(what: &str, got: &[f32], want: &[f64], relative: f64, absolute: f64) {
    assert_eq!(got.len(), want.len(), "{what}: sizes");
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let got = f64::from(got);
        let same = got == want || (got.is_nan() && want.is_nan());
        assert!(
            same || (got - want).abs() <= absolute + relative * want.abs(),
            "{what}: element {i} is {got}, should be {want}"
        );
    }
}

/// Calls `f(isa, pool, x short, out short)` for every instruction set and mix of element types.
pub(crate) fn every_kind(mut f: impl FnMut(Isa, &ThreadPool, bool, bool)) {
    let pool = ThreadPool::new(2);
    for isa in Isa::supported() {
        for kind in 0..4 {
            f(isa, &pool, kind & 1 != 0, kind & 2 != 0);
        }
    }
}

/// Runs `f` on pools of several sizes and compares the bits.
#[track_caller]
pub(crate) fn assert_threads_agree(f: impl Fn(Isa, &ThreadPool) -> Vec<f32>) {
    for isa in Isa::supported() {
        let one: Vec<u32> = f(isa, &ThreadPool::new(1)).iter().map(|x| x.to_bits()).collect();
        for threads in [2, 3] {
            let many: Vec<u32> = f(isa, &ThreadPool::new(threads)).iter().map(|x| x.to_bits()).collect();
            assert!(one == many, "{isa:?}: {threads} threads give other bits");
        }
    }
}
