//! Tiny Stable Diffusion pipelines: their weights made from names, and what diffusers made of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use velatura::{GenerateRequest, Precision};
use velatura_weights::{SafetensorsFile, Storage, TensorSource, TensorToWrite, write_safetensors};

/// What diffusers made.
pub struct Expected(SafetensorsFile);

impl Expected {
    /// Stable Diffusion 1.5 and 2.1.
    pub fn sd() -> Self {
        Self::open("stable_diffusion")
    }

    /// Stable Diffusion XL and its refiner.
    pub fn xl() -> Self {
        Self::open("stable_diffusion_xl")
    }

    /// Models that read pictures, and distilled ones.
    pub fn pictures() -> Self {
        Self::open("stable_diffusion_pictures")
    }

    /// Stable Diffusion XL with pictures, masks, and guidance beyond its scale.
    pub fn xl_pictures() -> Self {
        Self::open("stable_diffusion_xl_pictures")
    }

    /// Prompts as other tools read them.
    pub fn prompts() -> Self {
        Self::open("prompt_vectors")
    }

    /// Stable Diffusion 1.5 with every kind of guidance.
    pub fn guidance() -> Self {
        Self::open("stable_diffusion_guidance")
    }

    /// Stable Diffusion 1.5 with parts of the denoiser kept between steps.
    pub fn deepcache() -> Self {
        Self::open("stable_diffusion_deepcache")
    }

    /// Stable Diffusion 1.5 with what samplers and schedules are told beyond their names.
    pub fn sampling() -> Self {
        Self::open("stable_diffusion_sampling")
    }

    fn open(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        Expected(SafetensorsFile::open(folder.join(format!("{name}.safetensors"))).unwrap())
    }

    /// An entry of the metadata, which is JSON.
    pub fn json(&self, key: &str) -> Value {
        serde_json::from_str(&self.0.metadata()[key]).unwrap()
    }

    pub fn case(&self, name: &str) -> Case {
        let cases: Vec<Case> = serde_json::from_value(self.json("cases")).unwrap();
        cases.into_iter().find(|case| case.name == name).unwrap()
    }

    pub fn numbers(&self, name: &str) -> Vec<f32> {
        self.0.f32(name).unwrap().into_owned()
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        self.0.tensor_bytes(name).unwrap().into_owned()
    }
}

/// A pipeline.
#[derive(Deserialize)]
pub struct Case {
    pub name: String,
    /// Half the width of the range of its biases.
    bias: f32,
    /// Name and shape of every weight, for each part.
    weights: BTreeMap<String, Vec<(String, Vec<usize>)>>,
    /// Each part's `config.json`.
    pub configs: BTreeMap<String, Value>,
    /// `scheduler_config.json`.
    pub scheduler: Value,
    /// An upscaler's, of the noise on the picture that it reads.
    #[serde(default)]
    low_res_scheduler: Option<Value>,
    /// `model_index.json`, as far as it says how prompts are treated.
    #[serde(default)]
    index: Value,
    /// What diffusers was asked for, by the name of the run.
    #[serde(default)]
    pub runs: BTreeMap<String, GenerateRequest>,
}

impl Case {
    /// What diffusers was asked for in a run.
    pub fn request(&self, run: &str) -> GenerateRequest {
        GenerateRequest { precision: Some(Precision::F32), ..self.runs[run].clone() }
    }

    /// Writes it as diffusers' `save_pretrained` does, without a tokenizer of its own.
    pub fn write_folder(&self, folder: &Path) {
        for (part, weights) in &self.weights {
            let values: Vec<Vec<f32>> = weights
                .iter()
                .map(|(name, shape)| weight(&format!("{part}.{name}"), shape, self.bias))
                .collect();
            let tensors: Vec<TensorToWrite<'_>> = weights
                .iter()
                .zip(&values)
                .map(|((name, shape), values)| TensorToWrite::new(name.clone(), shape, Storage::F32, values))
                .collect();
            std::fs::create_dir_all(folder.join(part)).unwrap();
            write_safetensors(weights_file(folder, part), &tensors, &BTreeMap::new()).unwrap();
            let config = self.configs[part].to_string();
            std::fs::write(folder.join(part).join("config.json"), config).unwrap();
        }
        if !self.index.is_null() {
            std::fs::write(folder.join("model_index.json"), self.index.to_string()).unwrap();
        }
        let schedulers =
            [("scheduler", Some(&self.scheduler)), ("low_res_scheduler", self.low_res_scheduler.as_ref())];
        for (name, config) in schedulers {
            let Some(config) = config else { continue };
            std::fs::create_dir_all(folder.join(name)).unwrap();
            std::fs::write(folder.join(name).join("scheduler_config.json"), config.to_string()).unwrap();
        }
    }
}

/// Where a part's weights are.
pub fn weights_file(folder: &Path, part: &str) -> PathBuf {
    let name = if part.starts_with("text_encoder") { "model" } else { "diffusion_pytorch_model" };
    folder.join(part).join(format!("{name}.safetensors"))
}

/// Uniform on [-1, 1): SplitMix64 seeded with the name's FNV-1a hash, the upper 24 bits of each.
pub fn numbers(name: &str, count: usize) -> impl Iterator<Item = f32> {
    let seed = name
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325u64, |seed, byte| (seed ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3));
    (1..=count as u64).map(move |i| {
        let mut z = seed.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        (z >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    })
}

/// A weight, as the script makes it.
fn weight(name: &str, shape: &[usize], bias: f32) -> Vec<f32> {
    let numbers = numbers(name, shape.iter().product());
    match shape {
        [_] if name.ends_with(".weight") => numbers.map(|u| 1.0 + 0.25 * u).collect(),
        [_] => numbers.map(|u| bias * u).collect(),
        _ => {
            let scale = (3.0 / shape[1..].iter().product::<usize>() as f64).sqrt() as f32;
            numbers.map(|u| scale * u).collect()
        }
    }
}
