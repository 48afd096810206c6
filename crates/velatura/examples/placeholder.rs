//! Writes a tiny untrained model, which makes noise but goes through every part of the program:
//! `cargo run -p velatura --example placeholder -- FILE`

use velatura_weights::Storage;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("the file to write is missing")?;
    let manifest = velatura::tiny::manifest()?;
    let weights = manifest.random_weights(1)?;
    velatura::write_model(path, &manifest, &weights, Storage::F16, &Default::default())?;
    Ok(())
}
