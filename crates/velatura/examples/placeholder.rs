//! Writes an untrained model, which makes noise but goes through every part of the program:
//! `cargo run -p velatura --example placeholder -- FILE [MANIFEST.json]`
//!
//! Without a manifest it is a tiny one; a manifest of another model (`velatura inspect --json MODEL` shows it) gives one
//! of that size, to measure speed and memory before anything is trained.

use velatura::ModelManifest;
use velatura_weights::Storage;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("the file to write is missing")?;
    let manifest: ModelManifest = match args.next() {
        Some(json) => ModelManifest::from_json(&std::fs::read_to_string(json)?)?,
        None => velatura::tiny::manifest()?,
    };
    let weights = manifest.random_weights(1)?;
    velatura::write_model(path, &manifest, &weights, Storage::F16, &Default::default())?;
    Ok(())
}
