//! Runs a model's networks one by one, and one request, on the inputs of a file, and writes what they make:
//! `cargo run --release -p velatura --example networks -- MODEL REFERENCE OUTPUT [THREADS]`
//!
//! REFERENCE is a safetensors file with the metadata entry `request` and the tensors `sample` (what the denoiser reads,
//! `[h, w, channels]`), `latent` `[h, w, C]` and `picture` `[H, W, 3]` from -1 to 1. For `scripts/parity/full_size.py`, which
//! compares OUTPUT with what diffusers makes.

use velatura::{CancelToken, Engine, EngineOptions, GenerateRequest, Precision, Tiling};
use velatura_weights::{SafetensorsFile, Storage, TensorToWrite, write_safetensors};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, reference, output, threads @ ..] = args.as_slice() else {
        return Err("MODEL REFERENCE OUTPUT [THREADS] are expected".into());
    };
    let threads = threads.first().map(|n| n.parse()).transpose()?;
    let reference = SafetensorsFile::open(reference)?;
    let request = reference.metadata().get("request").ok_or("the reference has no request")?;
    let request = GenerateRequest::from_json(request)?;
    let precision = request.precision.unwrap_or(Precision::F32);
    let (sample, latent, picture) =
        (reference.f32("sample")?, reference.f32("latent")?, reference.f32("picture")?);
    let shape = reference.info("latent")?.shape;
    let &[height, width, _] = shape.as_slice() else { return Err("a latent [h, w, C] is expected".into()) };
    let size = [height, width];

    let engine = Engine::open(model, EngineOptions { threads, ..EngineOptions::default() })?;
    let prompt = engine.text_vectors(&request, false)?;
    let negative = engine.text_vectors(&request, true)?;
    let answer = engine.predict(&sample, size, 501.0, &prompt, precision)?;
    let (encoded, deviation) = engine.encode(&picture, size, Tiling::Off, precision)?;
    let decoded = engine.decode(&latent, size, Tiling::Off, precision)?;
    let cancel = CancelToken::default();
    let latents = engine.latents(&request, &mut |_| (), &cancel)?.concat();
    let made = engine.generate(&request, &mut |_| (), &cancel)?.pictures;
    let made: Vec<f32> = made.iter().flat_map(|picture| &picture.rgb).map(|&v| f32::from(v)).collect();

    let results = [
        ("prompt", prompt.values()),
        ("negative", negative.values()),
        ("pooled", prompt.pooled()),
        ("answer", &answer),
        ("encoded", &encoded),
        ("deviation", &deviation),
        ("decoded", &decoded),
        ("latents", &latents),
        ("made", &made),
    ];
    let shapes = results.map(|(_, values)| [values.len()]);
    let tensors: Vec<TensorToWrite<'_>> = results
        .iter()
        .zip(&shapes)
        .map(|((name, values), shape)| TensorToWrite::new(name.to_string(), shape, Storage::F32, values))
        .collect();
    Ok(write_safetensors(output, &tensors, &Default::default())?)
}
