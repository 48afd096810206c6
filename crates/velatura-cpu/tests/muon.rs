//! Muon against `torch.optim.Muon`, and its matrices against what orthogonal means.

use proptest::prelude::*;
use safetensors::SafeTensors;
use velatura_cpu::kernels::optimizer::{Ema, Matrix, Muon, muon, orthogonalize};
use velatura_cpu::{Isa, ThreadPool};

const LR: f32 = 0.01;
const WEIGHT_DECAY: f32 = 0.1;

fn tensor(file: &SafeTensors<'_>, name: &str) -> (Vec<usize>, Vec<f32>) {
    let view = file.tensor(name).unwrap();
    let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    (view.shape().to_vec(), values)
}

/// All matrices of the fixture in one flat buffer, with a gap between them.
struct Case {
    matrices: Vec<Matrix>,
    start: Vec<f32>,
    gradients: Vec<Vec<f32>>,
    end: Vec<f32>,
    exact: Vec<f32>,
}

const GAP: usize = 3;

fn case() -> Case {
    let bytes =
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/muon.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut case = Case {
        matrices: Vec::new(),
        start: Vec::new(),
        gradients: vec![Vec::new(); 3],
        end: Vec::new(),
        exact: Vec::new(),
    };
    for name in ["wide", "tall", "square", "row"] {
        let (shape, start) = tensor(&file, &format!("{name}.start"));
        let (_, gradients) = tensor(&file, &format!("{name}.gradients"));
        let (_, end) = tensor(&file, &format!("{name}.end"));
        let (_, exact) = tensor(&file, &format!("{name}.exact"));
        let offset = case.start.len();
        case.matrices.push(Matrix { offset, rows: shape[0], columns: shape[1], weight_decay: WEIGHT_DECAY });
        for (all, own) in case.gradients.iter_mut().zip(gradients.chunks(start.len())) {
            all.extend(own);
            all.extend([7.0; GAP]);
        }
        for (all, own) in [(&mut case.start, start), (&mut case.end, end), (&mut case.exact, exact)] {
            all.extend(own);
            all.extend([1.0; GAP]);
        }
    }
    case
}

fn run(isa: Isa, pool: &ThreadPool, case: &Case) -> (Vec<f32>, Vec<f32>) {
    let mut weights = case.start.clone();
    let (mut momentum, mut average) = (vec![0.0; weights.len()], weights.clone());
    for gradients in &case.gradients {
        // The direction does not depend on the size of the gradients, clipped or not.
        let step = Muon { lr: LR, momentum: 0.95, clip_scale: 0.25 };
        let ema = Some(Ema { average: &mut average, decay: 0.5 });
        muon(pool, isa, &step, &case.matrices, &mut weights, gradients, &mut momentum, ema);
    }
    (weights, average)
}

/// How far the weights end from where double precision takes them, relative to how far they were moved.
fn error(case: &Case, weights: &[f32]) -> f64 {
    let distance = |a: &[f32]| a.iter().zip(&case.exact).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
    (distance(weights) / distance(&case.start)).sqrt()
}

#[test]
fn it_steps_as_pytorchs_does() {
    let (case, pool) = (case(), ThreadPool::new(2));
    // PyTorch iterates in bf16 too; that is the accuracy to reach.
    let allowed = error(&case, &case.end);
    assert!((1e-3..5e-2).contains(&allowed), "{allowed}");
    for isa in Isa::supported() {
        let (weights, average) = run(isa, &pool, &case);
        let error = error(&case, &weights);
        assert!(error <= allowed, "{isa:?}: {error}, PyTorch's {allowed}");
        for (m, next) in case.matrices.iter().zip(&case.matrices[1..]) {
            assert_eq!(weights[m.offset + m.rows * m.columns..next.offset], [1.0; GAP], "the gap");
        }
        assert!(average != weights && average != case.start);
    }
}

#[test]
fn its_bits_do_not_depend_on_threads() {
    let case = case();
    for isa in Isa::supported() {
        let one = run(isa, &ThreadPool::new(1), &case);
        assert!([2, 3].into_iter().all(|n| run(isa, &ThreadPool::new(n), &case) == one), "{isa:?}");
    }
}

#[test]
fn zeros_stay_zeros_and_what_is_not_finite_is_left_alone() {
    for isa in Isa::supported() {
        let mut zeros = [0.0; 6];
        orthogonalize(isa, &mut zeros, 2, 3);
        assert_eq!(zeros, [0.0; 6]);
        let mut bad = [1.0, f32::INFINITY];
        orthogonalize(isa, &mut bad, 1, 2);
        assert_eq!(bad, [1.0, f32::INFINITY]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// The product of the matrix with itself over its longer side is near the identity: its trace is the sum of the
    /// squared singular values, each of which ends up between about 0.7 and 1.2.
    #[test]
    fn singular_values_come_near_one(rows in 1usize..40, columns in 1usize..40, seed in 1u64..1000, size in -20i32..20) {
        let mut state = seed;
        let mut x: Vec<f32> = (0..rows * columns).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * 2f32.powi(size)
        }).collect();
        orthogonalize(Isa::active(), &mut x, rows, columns);
        let trace: f64 = x.iter().map(|&v| f64::from(v).powi(2)).sum();
        let mean = trace / rows.min(columns) as f64;
        prop_assert!((0.4..1.5).contains(&mean), "{rows}x{columns}: {mean}");
    }
}
