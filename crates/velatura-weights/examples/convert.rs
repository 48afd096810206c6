//! Opens a model, says what it is, and writes it in another layout:
//! `cargo run --release -p velatura-weights --example convert -- FROM [TO] [q8_0]`, where TO ends with `.safetensors`
//! (one file in the original naming), `.gguf`, or names a folder (diffusers).

use velatura_weights::{Checkpoint, GgufType, OpenOptions, SaveOptions, TensorSource};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let from = arguments.first().ok_or("which model?")?;
    let model = Checkpoint::open(from, &OpenOptions::default())?;
    let family = model.family().map_or("parts", |f| f.name());
    println!("{family}: {:?}, predicts {:?}", model.task(), model.prediction());
    for part in model.parts() {
        let elements: usize = part.tensors.tensors().values().map(|e| e.elements()).sum();
        println!("{}: {}, {:.2} M parameters", part.kind, part.class_name(), elements as f64 / 1e6);
        part.missing.iter().for_each(|name| println!("  lacks {name}"));
    }
    model.unmatched().iter().for_each(|name| println!("unknown: {name}"));
    println!("{} tensors are not used", model.unused().len());
    match arguments.get(1) {
        None => {}
        Some(to) if to.ends_with(".safetensors") => model.write_single_file(to, &SaveOptions::default())?,
        Some(to) if to.ends_with(".gguf") => {
            let quantize = arguments.get(2).is_some_and(|a| a == "q8_0");
            model.write_gguf(to, if quantize { GgufType::Q8_0 } else { GgufType::F16 })?;
        }
        Some(to) => model.write_diffusers(to, &SaveOptions::default())?,
    }
    Ok(())
}
