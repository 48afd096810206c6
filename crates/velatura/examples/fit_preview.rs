//! Fits the linear preview of the model that ships, or of a file of Velatura's own: the least squares of colours over
//! latents, as `LatentRgb` takes them.
//!
//! ```text
//! cargo run --release -p velatura --example fit_preview [MODEL] > crates/velatura/src/preview/shipped.rs
//! ```

use velatura::preview::LatentRgb;
use velatura::{CancelToken, Engine, EngineOptions, GenerateRequest, Tiling};

/// Scenes of every kind that the model draws.
const PROMPTS: [&str; 8] = [
    "two red apples above a cat on a sky blue background",
    "a panda on a green background",
    "three lemons left of a dog on a pink background",
    "a blue car on a white background",
    "a rose above two fish on a black background",
    "a pizza right of a cactus on an orange background",
    "four stars on a purple background",
    "a frog below a cloud on a yellow background",
];
/// Pictures of each prompt.
const EACH: u32 = 8;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = std::env::args().nth(1);
    let engine = Engine::named(model.as_deref(), EngineOptions::default())?;
    let channels = engine.manifest().latent_channels();
    let factor = engine.manifest().latent_factor() as usize;
    let (mut latents, mut colors) = (Vec::new(), Vec::new());
    for (i, prompt) in PROMPTS.iter().enumerate() {
        let request =
            GenerateRequest { seed: Some(1000 * i as u64), batch: EACH, ..GenerateRequest::new(*prompt) };
        let request = engine.resolve(&request)?;
        let size = [request.height, request.width].map(|side| side.unwrap_or_default() as usize / factor);
        let precision = engine.default_precision();
        for latent in engine.latents(&request, &mut |_| (), &CancelToken::default())? {
            let pixels = engine.decode(&latent, size, Tiling::Off, precision)?;
            colors.extend(means(&pixels, size, factor));
            latents.extend(latent);
        }
    }
    let fitted =
        LatentRgb::fit(&latents, &colors, channels).ok_or("the pictures do not decide the factors")?;
    let error =
        fitted.project(&latents).iter().zip(&colors).map(|(a, b)| f64::from((a - b).powi(2))).sum::<f64>();
    let variance = {
        let mean = colors.iter().map(|&v| f64::from(v)).sum::<f64>() / colors.len() as f64;
        colors.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>()
    };
    eprintln!(
        "{:.1}% of the variance of {} pixels is explained",
        100.0 * (1.0 - error / variance),
        colors.len() / 3
    );
    println!("//! The linear preview of the model that ships. Made by `examples/fit_preview.rs`.\n");
    println!("pub(super) const SHIPPED_FACTORS: [[f32; 3]; {channels}] = [");
    for [r, g, b] in &fitted.factors {
        println!("    [{r:.4}, {g:.4}, {b:.4}],");
    }
    println!("];");
    let [r, g, b] = fitted.bias;
    println!("pub(super) const SHIPPED_BIAS: [f32; 3] = [{r:.4}, {g:.4}, {b:.4}];");
    Ok(())
}

/// The mean colour of the picture's pixels that each pixel of the latent stands for.
fn means(pixels: &[f32], [height, width]: [usize; 2], factor: usize) -> Vec<f32> {
    let mut sums = vec![0.0; height * width * 3];
    let line = width * factor;
    for (i, rgb) in pixels.chunks_exact(3).enumerate() {
        let at = (i / line / factor * width + i % line / factor) * 3;
        for (sum, value) in sums[at..at + 3].iter_mut().zip(rgb) {
            *sum += value.clamp(-1.0, 1.0) / (factor * factor) as f32;
        }
    }
    sums
}
