//! The fixture of `scripts/fixtures/models.py`, and the graphs that its cases describe.

use std::collections::HashMap;

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use velatura_graph::{Builder, DType, Graph, Var, gradients, loss};
use velatura_models::{AutoencoderConfig, TextConfig, TextInputs, UNetConfig, UNetInputs};

const FIXTURE: &[u8] = include_bytes!("../fixtures/models.safetensors");

/// One network with what it is given and what PyTorch made of it.
#[derive(Deserialize)]
pub struct Case {
    pub name: String,
    network: String,
    config: serde_json::Value,
    inputs: Vec<String>,
    outputs: Vec<String>,
    parameters: Vec<(String, Vec<usize>)>,
}

/// A tensor of the fixture. Indices are whole numbers.
#[derive(Clone)]
pub struct Tensor {
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
}

/// Everything a graph reads, by name.
pub type Given = HashMap<String, Tensor>;

/// Runs a graph and returns its outputs: what the networks are held against PyTorch with.
pub struct Runner {
    pub run: fn(Graph, &Given) -> HashMap<String, Vec<f64>>,
    /// Below this share of the largest gradient, a gradient's error is measured against that share instead of the
    /// gradient's own size: some are zero but for rounding (a bias of keys moves all scores alike).
    pub smallest: f64,
}

pub fn case(name: &str) -> Case {
    #[derive(Deserialize)]
    struct Cases {
        cases: Vec<Case>,
    }
    let (_, metadata) = SafeTensors::read_metadata(FIXTURE).unwrap();
    let cases: Cases = serde_json::from_str(&metadata.metadata().as_ref().unwrap()["cases"]).unwrap();
    cases.cases.into_iter().find(|c| c.name == name).unwrap_or_else(|| panic!("no case {name}"))
}

impl Case {
    fn tensor(&self, name: &str) -> Tensor {
        let file = SafeTensors::deserialize(FIXTURE).unwrap();
        let view = file.tensor(&format!("{}/{name}", self.name)).unwrap();
        let words = view.data().chunks_exact(4).map(|b| <[u8; 4]>::try_from(b).unwrap());
        let (dtype, data) = match view.dtype() {
            Dtype::F32 => (DType::F32, words.map(f32::from_le_bytes).collect()),
            Dtype::I32 => (DType::I32, words.map(|b| i32::from_le_bytes(b) as f32).collect()),
            other => panic!("{other:?}"),
        };
        Tensor { dtype, shape: view.shape().to_vec(), data }
    }

    /// The network's outputs by name, with the denoising loss and its gradients if wanted.
    pub fn graph(&self, checkpointing: bool, with_gradients: bool) -> Graph {
        let b = Builder::new();
        let made = self.build(&b, checkpointing);
        for (name, value) in &made {
            b.output(name, *value);
        }
        if with_gradients {
            let error = |(name, value): &(&str, Var<'_>)| {
                let target = numbers(&format!("target.{name}"), value.ty().elements());
                let target = b.constant(&value.shape(), target);
                loss::mse(b.var(value.id()), target)
            };
            let total = made.iter().map(error).reduce(|a, b| a + b).unwrap();
            let known: Vec<_> =
                b.with_graph(|g| g.parameters().iter().map(|p| (p.name.clone(), p.value)).collect());
            let wanted: Vec<Var<'_>> = known.iter().map(|(_, v)| b.var(*v)).collect();
            let grads = gradients(&b, total, &wanted).unwrap();
            known.iter().zip(grads).for_each(|((name, _), grad)| b.output(&format!("gradient.{name}"), grad));
        }
        b.finish().unwrap()
    }

    fn build<'g>(&self, b: &'g Builder, checkpointing: bool) -> Vec<(&'static str, Var<'g>)> {
        let input = |name: &str| {
            self.inputs.iter().any(|n| n == name).then(|| {
                let tensor = self.tensor(&format!("input/{name}"));
                b.input(name, &tensor.shape, tensor.dtype)
            })
        };
        let (p, json) = (b.params(), self.config.to_string());
        match self.network.as_str() {
            "unet" => {
                let config = UNetConfig::from_json(&json).unwrap();
                let config = UNetConfig { gradient_checkpointing: checkpointing, ..config };
                let inputs = UNetInputs {
                    sample: input("sample").unwrap(),
                    timestep: input("timestep").unwrap(),
                    context: input("context"),
                    context_mask: input("context_mask"),
                    class_labels: input("class_labels"),
                    pooled: input("pooled"),
                    time_ids: input("time_ids"),
                    timestep_condition: input("timestep_condition"),
                    deep: None,
                };
                vec![("sample", config.build(&p, inputs))]
            }
            "autoencoder" => {
                let config = AutoencoderConfig::from_json(&json).unwrap();
                let config = AutoencoderConfig { gradient_checkpointing: checkpointing, ..config };
                let moments = config.encode(&p, input("picture").unwrap());
                let picture = config.decode(&p, input("latent").unwrap());
                vec![("mean", moments.mean), ("log_variance", moments.log_variance), ("picture", picture)]
            }
            "text" => {
                let config = TextConfig::from_json(&json).unwrap();
                let config = TextConfig { gradient_checkpointing: checkpointing, ..config };
                let inputs = TextInputs {
                    ids: input("ids").unwrap(),
                    end_rows: input("end_rows"),
                    pool_mask: input("pool_mask"),
                    attention_mask: input("attention_mask"),
                    replaced: None,
                };
                let out = config.build(&p, inputs);
                let made = [("hidden", out.hidden), ("penultimate", out.state(2)), ("pooled", out.pooled)];
                made.into_iter().chain(out.projected.map(|p| ("projected", p))).collect()
            }
            other => panic!("{other}"),
        }
    }

    /// Inputs and weights of the case.
    pub fn given(&self) -> Given {
        let inputs = self.inputs.iter().map(|n| (n.clone(), self.tensor(&format!("input/{n}"))));
        let weights = self.parameters.iter().map(|(name, shape)| {
            let tensor = Tensor { dtype: DType::F32, shape: shape.clone(), data: weight(name, shape) };
            (name.clone(), tensor)
        });
        inputs.chain(weights).collect()
    }

    /// Holds the names and shapes of the graph's parameters against PyTorch's.
    pub fn check_parameters(&self, graph: &Graph) {
        let parameters = graph.parameters().iter();
        let mut ours: Vec<_> =
            parameters.map(|p| (p.name.clone(), graph.ty(p.value).shape.clone())).collect();
        let mut theirs = self.parameters.clone();
        ours.sort();
        theirs.sort();
        assert_eq!(ours, theirs, "{}", self.name);
    }

    /// Holds a run's outputs and gradients against PyTorch's; returns the largest error of each kind.
    pub fn check(&self, made: &HashMap<String, Vec<f64>>, smallest: f64) -> (f64, f64) {
        let mut forward: f64 = 0.0;
        for name in &self.outputs {
            let expected = self.tensor(&format!("output/{name}"));
            let error = distance(&made[name], &expected.data) / size(&expected.data);
            assert!(error <= 1e-5, "{} {name}: relative error {error:.2e}", self.name);
            forward = forward.max(error);
        }
        let expected = self.tensor("gradients").data;
        let mut rest = expected.as_slice();
        let (mut samples, mut largest) = (Vec::new(), 0.0f64);
        for (name, shape) in &self.parameters {
            let elements: usize = shape.iter().product();
            let stride = sample_stride(elements);
            let (own, after) = rest.split_at(elements.div_ceil(stride));
            let ours: Vec<f64> = made[&format!("gradient.{name}")].iter().copied().step_by(stride).collect();
            largest = largest.max(size(own));
            samples.push((name, ours, own));
            rest = after;
        }
        assert!(rest.is_empty());
        let mut backward: f64 = 0.0;
        for (name, ours, theirs) in samples {
            let error = distance(&ours, theirs) / size(theirs).max(smallest * largest);
            assert!(error <= 1e-4, "{} gradient of {name}: relative error {error:.2e}", self.name);
            backward = backward.max(error);
        }
        (forward, backward)
    }
}

fn distance(a: &[f64], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, &b)| (a - f64::from(b)).powi(2)).sum::<f64>().sqrt()
}

fn size(a: &[f32]) -> f64 {
    a.iter().map(|&a| f64::from(a).powi(2)).sum::<f64>().sqrt()
}

/// At which stride a gradient's elements were kept.
fn sample_stride(elements: usize) -> usize {
    let smallest = (elements / 32).max(1);
    (smallest..).find(|s| s % 2 != 0 && s % 3 != 0).unwrap()
}

/// The script's `numbers`: SplitMix64 seeded by the name's FNV-1a hash.
fn numbers(name: &str, count: usize) -> Vec<f32> {
    let seed = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let number = |i: u64| {
        let mut z = seed.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 40) as f32 / 8_388_608.0 - 1.0
    };
    (1..=count as u64).map(number).collect()
}

/// The script's `weight`.
fn weight(name: &str, shape: &[usize]) -> Vec<f32> {
    let numbers = numbers(name, shape.iter().product());
    let scale = match shape {
        [_] if name.ends_with(".weight") => return numbers.into_iter().map(|u| 1.0 + 0.25 * u).collect(),
        [_] => 0.1,
        _ => (3.0 / shape[1..].iter().product::<usize>() as f64).sqrt() as f32,
    };
    numbers.into_iter().map(|u| scale * u).collect()
}
