//! The autoencoder at work: tiles without seams, and overflow in half precision survived.

use std::sync::Arc;

use velatura::source::MemoryWeights;
use velatura::{
    CancelToken, Engine, EngineOptions, Error, GenerateRequest, Precision, Progress, Tiling, Warning,
};

const OPTIONS: EngineOptions = EngineOptions { threads: Some(2), memory: None, one_run: false };

/// The largest jump and the largest kink between neighbours, along rows and columns of `[height, width, 3]`.
fn roughest(picture: &[f32], width: usize) -> (f32, f32) {
    let (mut jump, mut kink) = (0.0f32, 0.0f32);
    for step in [3, width * 3] {
        for (i, &c) in picture.iter().enumerate().skip(2 * step) {
            if step == 3 && i % (width * 3) < 6 {
                continue;
            }
            let (a, b) = (picture[i - 2 * step], picture[i - step]);
            jump = jump.max((c - b).abs());
            kink = kink.max((c - 2.0 * b + a).abs());
        }
    }
    (jump, kink)
}

#[test]
fn tiles_leave_no_seam() {
    let engine = Engine::shipped(OPTIONS).unwrap();
    let factor = engine.manifest().latent_factor() as usize;
    let [height, width] = [528 / factor, 896 / factor];
    let (down, across) = (height * factor, width * factor);
    let sky: Vec<f32> = (0..down * across)
        .flat_map(|i| {
            let (y, x) = ((i / across) as f32 / down as f32, (i % across) as f32 / across as f32);
            [0.8 * y - 0.5 + 0.2 * (3.0 * x).sin(), 0.5 * y - 0.1 + 0.2 * x, 0.9 - 0.6 * y * x]
        })
        .collect();
    let (latent, _) = engine.encode(&sky, [height, width], Tiling::Off, Precision::F32).unwrap();
    let decode = |tiling| engine.decode(&latent, [height, width], tiling, Precision::F32).unwrap();
    let (whole, tiled) = (decode(Tiling::Off), decode(Tiling::On));
    let (of_whole, of_tiled) = (roughest(&whole, across), roughest(&tiled, across));
    let apart = whole.iter().zip(&tiled).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("whole {of_whole:?}, tiled {of_tiled:?}, {apart} apart");
    // A level of 8 bits is 2/255: no neighbours may differ by a level more than without tiles.
    assert!(of_tiled.0 < of_whole.0 + 2.0 / 255.0 && of_tiled.1 < of_whole.1 + 2.0 / 255.0);
    assert!(apart > 0.0 && apart < 0.1);
    // The way in, too.
    let (in_tiles, _) = engine.encode(&sky, [height, width], Tiling::On, Precision::F32).unwrap();
    let square = |v: &[f32]| v.iter().map(|v| v * v).sum::<f32>();
    let difference: Vec<f32> = in_tiles.iter().zip(&latent).map(|(a, b)| a - b).collect();
    let error = (square(&difference) / square(&latent)).sqrt();
    println!("latent {error}");
    assert!(error > 0.0 && error < 0.1);
}

/// The tiny model with some weights of its decoder set to a value, for odd and for even places.
fn with_weights(values: &[(&str, [f32; 2])]) -> Engine {
    let manifest = velatura::tiny::manifest().unwrap();
    let mut weights: MemoryWeights = manifest.random_weights(3).unwrap();
    for (name, value) in values {
        let (_, all) = weights.get_mut(&format!("vae.decoder.{name}")).unwrap();
        all.iter_mut().enumerate().for_each(|(i, v)| *v = value[i % 2]);
    }
    Engine::from_weights(manifest, Arc::new(weights), OPTIONS).unwrap()
}

fn request(precision: Precision) -> GenerateRequest {
    GenerateRequest {
        seed: Some(1),
        steps: Some(1),
        batch: 2,
        precision: Some(precision),
        ..GenerateRequest::new("a cat")
    }
}

#[test]
fn a_decode_that_overflows_in_half_precision_is_done_again_in_single_precision() {
    // Within f32, and rounded to bf16 infinite; the norm before makes the products small.
    let near_the_edge = 3.4e38;
    let engine = with_weights(&[
        ("conv_norm_out.weight", [1e-35; 2]),
        ("conv_norm_out.bias", [0.0; 2]),
        ("conv_out.weight", [near_the_edge, -near_the_edge]),
    ]);
    let mut seen = Vec::new();
    let mut observe = |progress: Progress<'_>| {
        if let Progress::Warning(warning) = progress {
            seen.push(warning.clone());
        }
    };
    let low = engine.generate(&request(Precision::Bf16), &mut observe, &CancelToken::default()).unwrap();
    let warning = Warning::Overflow { precision: Precision::Bf16 };
    assert_eq!((seen.as_slice(), low.warnings.as_slice()), (&[warning.clone()][..], &[warning.clone()][..]));
    let text = warning.to_string();
    assert!(text.contains("overflowed in bf16") && text.contains("again in f32"), "{text}");
    // The picture is what the decoder makes in single precision of the same latent.
    let made = engine.latents(&request(Precision::Bf16), &mut |_| (), &CancelToken::default()).unwrap();
    let pixels = engine.decode(&made[0], [8, 8], Tiling::Off, Precision::F32).unwrap();
    let bytes: Vec<u8> =
        pixels.iter().map(|v| ((v * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round() as u8).collect();
    assert!(low.pictures[0].rgb == bytes);
    let plain = engine.generate(&request(Precision::F32), &mut |_| (), &CancelToken::default()).unwrap();
    assert!(plain.warnings.is_empty());
}

#[test]
fn an_autoencoder_that_is_broken_is_named() {
    let engine = with_weights(&[("conv_out.bias", [f32::NAN, 0.0])]);
    for precision in [Precision::Bf16, Precision::F32] {
        let error = engine.generate(&request(precision), &mut |_| (), &CancelToken::default()).unwrap_err();
        assert!(matches!(error, Error::VaeNotFinite), "{error}");
        let error = error.to_string();
        assert!(error.contains("--vae") && !error.contains('\n'), "{error}");
    }
}
