//! What the parity tests share: the fixture's tensors, the stand-in for the network, recorded noise.

use safetensors::SafeTensors;
use serde::de::DeserializeOwned;
use velatura_samplers::NoiseSource;

/// A fixture: tensors, and what its metadata says of them.
pub struct Fixture<C> {
    tensors: SafeTensors<'static>,
    pub cases: C,
}

impl<C: DeserializeOwned> Fixture<C> {
    pub fn load(bytes: &'static [u8]) -> Self {
        let (_, metadata) = SafeTensors::read_metadata(bytes).unwrap();
        let cases = serde_json::from_str(&metadata.metadata().as_ref().unwrap()["cases"]).unwrap();
        Fixture { tensors: SafeTensors::deserialize(bytes).unwrap(), cases }
    }

    pub fn get(&self, name: &str) -> Vec<f32> {
        self.find(name).unwrap_or_else(|| panic!("{name} is not in the fixture"))
    }

    pub fn find(&self, name: &str) -> Option<Vec<f32>> {
        let bytes = self.tensors.tensor(name).ok()?.data();
        Some(bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect())
    }
}

/// The stand-in for the network: a fixed function of each value alone.
pub fn network(x: &[f32], bias: &[f32], timestep: f32, sign: f64) -> Vec<f32> {
    let wave = 0.1 * sign * (0.01 * f64::from(timestep)).sin();
    let value = |(&x, &b): (&f32, &f32)| {
        let x = f64::from(x);
        (0.3 * x + 0.2 * x.sin() + f64::from(b) * wave) as f32
    };
    x.iter().zip(bias).map(value).collect()
}

/// Norm of the difference over the norm of the wanted vector.
pub fn relative_error(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut got.iter().zip(want).map(|(&g, &w)| f64::from(g) - f64::from(w)));
    difference / norm(&mut want.iter().map(|&w| f64::from(w))).max(1e-30)
}

/// Noise that the reference recorded, one row a draw.
pub struct Recorded(pub std::vec::IntoIter<f32>);

impl NoiseSource for Recorded {
    fn draw(&mut self, _image: usize, out: &mut [f32]) {
        out.iter_mut().for_each(|v| *v = self.0.next().expect("more draws than the reference made"));
    }
}
