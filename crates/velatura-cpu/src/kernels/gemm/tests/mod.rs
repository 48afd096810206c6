//! The kernels against obvious loops in double precision, for every instruction set of this machine.

mod conv;
mod products;
mod strassen;

use half::bf16;
use velatura_graph::{Activation, DType};

use super::Epilogue;
use crate::{Data, DataMut, Isa, ThreadPool};

pub(super) const FLOATS: [DType; 2] = [DType::F32, DType::Bf16];

/// A small generator, so that cases are the same everywhere.
pub(super) struct Noise(pub u64);

impl Noise {
    pub(super) fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 40) as f32 / (1u64 << 23) as f32) - 1.0
    }

    /// Numbers in -1..1 that brain floating point holds exactly.
    pub(super) fn numbers(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| bf16::from_f32(self.next()).to_f32()).collect()
    }

    /// Numbers in -1..1 that a type holds exactly, with all of its bits.
    pub(super) fn stored(&mut self, dtype: DType, count: usize) -> Vec<f32> {
        match dtype {
            DType::Bf16 => self.numbers(count),
            _ => (0..count).map(|_| self.next()).collect(),
        }
    }
}

/// A tensor in either storage type.
#[derive(Clone)]
pub(super) enum Store {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
}

impl Store {
    pub(super) fn new(dtype: DType, values: &[f32]) -> Self {
        match dtype {
            DType::Bf16 => Store::Bf16(values.iter().map(|&x| bf16::from_f32(x)).collect()),
            _ => Store::F32(values.to_vec()),
        }
    }

    pub(super) fn nan(dtype: DType, count: usize) -> Self {
        Store::new(dtype, &vec![f32::NAN; count])
    }

    pub(super) fn data(&self) -> Data<'_> {
        match self {
            Store::F32(x) => Data::F32(x),
            Store::Bf16(x) => Data::Bf16(x),
        }
    }

    pub(super) fn data_mut(&mut self) -> DataMut<'_> {
        match self {
            Store::F32(x) => DataMut::F32(x),
            Store::Bf16(x) => DataMut::Bf16(x),
        }
    }

    pub(super) fn values(&self) -> Vec<f32> {
        match self {
            Store::F32(x) => x.clone(),
            Store::Bf16(x) => x.iter().map(|x| x.to_f32()).collect(),
        }
    }

    /// Distance of neighbouring numbers, relative.
    fn precision(&self) -> f64 {
        match self {
            Store::F32(_) => 1e-6,
            Store::Bf16(_) => 1.0 / 256.0,
        }
    }

    /// What activations err by before they are rounded, as a share of themselves: `math_bf16`, whose tests hold them to it.
    fn activation_error(&self) -> f64 {
        match self {
            Store::F32(_) => 0.0,
            Store::Bf16(_) => 3e-4,
        }
    }
}

/// A sum and the sum of magnitudes, which bounds its rounding.
#[derive(Clone, Copy, Default)]
pub(super) struct Exact {
    pub sum: f64,
    pub size: f64,
    /// The magnitude of an activation that is made more coarsely where the result is rounded to brain floating point.
    pub activation: f64,
}

impl Exact {
    pub(super) fn add(&mut self, a: f32, b: f32) {
        let p = f64::from(a) * f64::from(b);
        self.sum += p;
        self.size += p.abs();
    }
}

pub(super) fn check(what: &str, got: &Store, want: &[Exact]) {
    let (precision, activation_error) = (got.precision(), got.activation_error());
    let got = got.values();
    assert_eq!(got.len(), want.len());
    for (i, (&got, want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - want.sum).abs();
        let activation = activation_error * want.activation;
        let bound = 3e-6 * want.size + activation + precision * want.sum.abs() + 1e-6;
        assert!(error <= bound, "{what}: element {i} is {got}, not {} (bound {bound})", want.sum);
    }
}

/// Scratch memory at an odd address, filled so that reading it before writing shows.
pub(super) fn scratch(bytes: usize) -> Vec<u8> {
    vec![0xff; bytes]
}

/// Operands of an epilogue chosen by bits.
pub(super) struct Finish {
    bias: Option<Vec<f32>>,
    per_image: Option<Store>,
    residual: Option<Store>,
    activation: Option<Activation>,
}

const ACTIVATIONS: [Activation; 7] = [
    Activation::Relu,
    Activation::Silu,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::QuickGelu,
    Activation::Tanh,
    Activation::Sigmoid,
];

impl Finish {
    pub(super) fn new(bits: usize, images: usize, rows: usize, columns: usize, noise: &mut Noise) -> Self {
        let dtype = FLOATS[bits / 8 % 2];
        Finish {
            bias: (bits & 1 != 0).then(|| noise.numbers(columns)),
            per_image: (bits & 2 != 0).then(|| Store::new(dtype, &noise.numbers(images * columns))),
            residual: (bits & 4 != 0).then(|| Store::new(dtype, &noise.numbers(rows * columns))),
            activation: ACTIVATIONS.get(bits / 16 % 8).copied(),
        }
    }

    pub(super) fn epilogue(&self) -> Epilogue<'_> {
        Epilogue {
            bias: self.bias.as_deref(),
            per_image: self.per_image.as_ref().map(Store::data),
            residual: self.residual.as_ref().map(Store::data),
            activation: self.activation,
            gate: None,
        }
    }

    pub(super) fn apply(&self, images: usize, columns: usize, values: &mut [Exact]) {
        let rows = values.len() / columns;
        let (per_image, residual) =
            (self.per_image.as_ref().map(Store::values), self.residual.as_ref().map(Store::values));
        for (i, value) in values.iter_mut().enumerate() {
            let (row, column) = (i / columns, i % columns);
            if let Some(bias) = &self.bias {
                value.add(bias[column], 1.0);
            }
            if let Some(per_image) = &per_image {
                value.add(per_image[row / (rows / images) * columns + column], 1.0);
            }
            if let Some(activation) = self.activation {
                value.sum = activate(activation, value.sum);
                let exact = matches!(activation, Activation::Relu | Activation::Tanh | Activation::Sigmoid);
                value.activation = if exact || residual.is_some() { 0.0 } else { value.sum.abs() };
            }
            if let Some(residual) = &residual {
                value.add(residual[i], 1.0);
            }
        }
    }
}

pub(super) fn activate(activation: Activation, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match activation {
        Activation::Relu => x.max(0.0),
        Activation::Silu => x * sigmoid(x),
        Activation::Gelu => {
            let erf = crate::kernels::elementwise::math::tests::erf64;
            0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))
        }
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
        }
        Activation::QuickGelu => x * sigmoid(1.702 * x),
        Activation::Tanh => x.tanh(),
        Activation::Sigmoid => sigmoid(x),
    }
}

/// Calls `f` for every supported instruction set and storage type.
pub(super) fn everywhere(f: impl Fn(Isa, DType)) {
    for isa in Isa::supported() {
        for dtype in FLOATS {
            f(isa, dtype);
        }
    }
}

/// Calls `f` with pools of one, two and three threads and expects the same bits.
pub(super) fn on_any_threads(what: &str, f: impl Fn(&ThreadPool) -> Store) -> Store {
    let bits = |s: &Store| s.values().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let one = f(&ThreadPool::new(1));
    for threads in [2, 3] {
        assert!(
            bits(&one) == bits(&f(&ThreadPool::new(threads))),
            "{what}: {threads} threads give other bits"
        );
    }
    one
}
