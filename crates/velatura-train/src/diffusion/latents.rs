//! Latents of a fixed number of scenes, encoded once and kept in files.
//!
//! The files' names hold a hash of all that decides their contents (the autoencoder's weights, the data settings), so
//! that stale ones are never read; building goes on where it was stopped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::bf16;
use sha2::{Digest, Sha256};
use velatura_cpu::{CancelToken, Runtime};
use velatura_scenes::{RgbImage, Scenes};
use velatura_weights::{SafetensorsFile, Storage, TensorData, TensorToWrite, write_safetensors};

use crate::TrainError;
use crate::codec::Codec;
use crate::observer::Observer;
use crate::recipe::DiffusionRecipe;

/// Scenes of one file.
const SHARD: u64 = 8192;
/// Pictures that are encoded at once.
const TOGETHER: u64 = 32;
const TENSOR: &str = "latents";

/// Cached latents, mapped from their files.
pub(super) struct Latents {
    shards: Vec<SafetensorsFile>,
    /// Scenes in all.
    count: u64,
    /// Numbers of one scene.
    each: usize,
}

impl Latents {
    /// Opens the cache that a recipe asks for, after building what is missing; `None` when it asks for none.
    pub fn prepare(
        recipe: &DiffusionRecipe,
        codec: &Arc<Codec>,
        scenes: &Scenes,
        runtime: &Arc<Runtime>,
        observer: &mut dyn Observer,
        cancel: &CancelToken,
    ) -> Result<Option<Self>, TrainError> {
        let count = recipe.latents.cache;
        if count == 0 {
            return Ok(None);
        }
        let folder = recipe.output.join("latents");
        std::fs::create_dir_all(&folder).map_err(TrainError::write(&folder))?;
        let side = recipe.data.size as usize / codec.factor();
        let each = side * side * codec.note.config.latent_channels;
        let key = key(recipe, codec)?;
        let path = |shard: u64| folder.join(format!("{key}-{shard:04}.safetensors"));
        remove_others(&folder, &key);
        let mut shards = Vec::new();
        let mut encoder = None;
        for shard in 0..count.div_ceil(SHARD) {
            let range = shard * SHARD..((shard + 1) * SHARD).min(count);
            let shape = [(range.end - range.start) as usize, each];
            let path = path(shard);
            if let Some(file) = open(&path, &shape) {
                shards.push(file);
                continue;
            }
            let precision = recipe.training.precision.into();
            let encoder = match &mut encoder {
                Some(encoder) => encoder,
                none => {
                    none.insert(codec.encoder(runtime, TOGETHER as usize, recipe.data.size, precision)?)
                }
            };
            let mut bytes: Vec<u8> = Vec::with_capacity(shape[0] * each * 2);
            for start in range.clone().step_by(TOGETHER as usize) {
                observer.stage("encoding scenes", start, count);
                let end = (start + TOGETHER).min(range.end);
                let pictures = render(scenes, start..end);
                let latents = encoder.encode(&pictures, cancel)?;
                latents.iter().for_each(|&z| bytes.extend(bf16::from_f32(z).to_le_bytes()));
            }
            let tensor = TensorToWrite {
                name: TENSOR.into(),
                shape: shape.to_vec(),
                storage: Storage::Bf16,
                data: TensorData::Raw(&bytes),
            };
            write_safetensors(&path, &[tensor], &BTreeMap::new())?;
            let reason = "it was just written and cannot be read";
            shards.push(open(&path, &shape).ok_or_else(|| TrainError::bad_file(&path, reason))?);
            observer.stage("encoding scenes", range.end, count);
        }
        Ok(Some(Latents { shards, count, each }))
    }

    /// Scenes in all.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Appends the latent of a scene.
    pub fn push(&self, scene: u64, out: &mut Vec<f32>) -> Result<(), TrainError> {
        let shard = self.shards.get((scene / SHARD) as usize);
        let shard = shard.ok_or_else(|| TrainError::Internal(format!("scene {scene} is not cached")))?;
        let start = (scene % SHARD) as usize * self.each * 2;
        let bytes = &shard.bytes(TENSOR)?[start..start + self.each * 2];
        out.extend(bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()));
        Ok(())
    }
}

/// Renders on two threads: beside the encoder, drawing is what takes the time.
fn render(scenes: &Scenes, range: std::ops::Range<u64>) -> Vec<RgbImage> {
    let middle = range.start + (range.end - range.start) / 2;
    let draw = |range: std::ops::Range<u64>| range.map(|i| scenes.get(i).image).collect::<Vec<_>>();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| draw(middle..range.end));
        let mut pictures = draw(range.start..middle);
        match second.join() {
            Ok(rest) => pictures.extend(rest),
            Err(panic) => std::panic::resume_unwind(panic),
        }
        pictures
    })
}

/// A hash of all that decides the latents.
fn key(recipe: &DiffusionRecipe, codec: &Codec) -> Result<String, TrainError> {
    let data = serde_json::to_string(&recipe.data).map_err(|e| TrainError::Internal(e.to_string()))?;
    let precision = recipe.training.precision;
    let text = format!("1 {SHARD} {} {} {precision:?} {data}", recipe.latents.cache, codec.hash);
    Ok(Sha256::digest(text).iter().take(8).map(|b| format!("{b:02x}")).collect())
}

fn open(path: &Path, shape: &[usize]) -> Option<SafetensorsFile> {
    let file = SafetensorsFile::open(path).ok()?;
    let info = file.info(TENSOR).ok()?;
    (info.shape == shape && info.storage == Some(Storage::Bf16)).then_some(file)
}

/// Removes files of other keys, which nothing will read again.
fn remove_others(folder: &Path, key: &str) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let is_other = |path: &PathBuf| {
        path.file_name()
            .and_then(|n| n.to_str())
            .is_some_and(|n| n.ends_with(".safetensors") && !n.starts_with(key))
    };
    for path in entries.flatten().map(|e| e.path()).filter(is_other) {
        // One that stays only takes room.
        let _ = std::fs::remove_file(path);
    }
}
