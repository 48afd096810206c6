//! A decoder that is trained on by itself, and the models that it serves.

mod common;

use std::path::Path;

use common::{Kind, Place, Watch, options, tensors, train};
use velatura_train::{TrainError, TrainOptions, export_checkpoint};

const TRAINING: &str = "steps = 4\nbatch = 3\nlr = 2e-3";

/// The tensors of a file that belong to a part of the network.
fn part(file: &Path, part: &str) -> Vec<(String, Vec<u8>)> {
    let found: Vec<_> = tensors(file).into_iter().filter(|(name, _)| name.starts_with(part)).collect();
    assert!(found.len() > 10);
    found
}

#[test]
fn the_encoder_stays_and_the_denoiser_fits() {
    let place = Place::new();
    let quietly = |kind, recipe: &Path, output: &Path| {
        train(kind, recipe, &options(output, false, 2), &mut Watch::default()).map(|finished| finished.file)
    };
    let first = place.autoencoder("first.toml", TRAINING);
    let first = quietly(Kind::Autoencoder, &first, &place.path("autoencoder")).unwrap();
    let start = format!("{TRAINING}\n[start]\nautoencoder = {first:?}\ndecoder_only = true");
    let decoder = place.autoencoder("decoder.toml", &start);
    let second = quietly(Kind::Autoencoder, &decoder, &place.path("decoder")).unwrap();
    assert_eq!(part(&first, "vae.encoder."), part(&second, "vae.encoder."));
    let changed = part(&first, "vae.decoder.").into_iter().zip(part(&second, "vae.decoder."));
    assert!(changed.clone().all(|(a, b)| a.0 == b.0) && changed.filter(|(a, b)| a.1 != b.1).count() > 10);

    let diffusion = place.diffusion("diffusion.toml", TRAINING);
    let run = place.path("run");
    let model = quietly(Kind::Diffusion, &diffusion, &run).unwrap();
    let run = TrainOptions { output: Some(run), ..TrainOptions::default() };
    let better =
        export_checkpoint(&diffusion, &run, Some(&second), &place.path("better.safetensors")).unwrap();
    assert_eq!(part(&model, "unet."), part(&better, "unet."));
    assert_eq!(part(&model, "vae.encoder."), part(&better, "vae.encoder."));
    assert_ne!(part(&model, "vae.decoder."), part(&better, "vae.decoder."));

    // With every weight trained on, the encoder is another one.
    let whole = place.autoencoder("whole.toml", &start.replace("decoder_only = true", ""));
    let whole = quietly(Kind::Autoencoder, &whole, &place.path("whole")).unwrap();
    assert_ne!(part(&first, "vae.encoder."), part(&whole, "vae.encoder."));
    let error = export_checkpoint(&diffusion, &run, Some(&whole), &place.path("no.safetensors")).unwrap_err();
    assert!(error.to_string().contains("decoder_only"), "{error}");
    assert!(!place.path("no.safetensors").exists());
}

#[test]
fn a_start_that_does_not_fit_is_named() {
    let place = Place::new();
    let first = place.autoencoder("first.toml", TRAINING);
    let output = place.path("autoencoder");
    train(Kind::Autoencoder, &first, &options(&output, false, 1), &mut Watch::default()).unwrap();
    let start = |file: &str| format!("{TRAINING}\n[start]\nautoencoder = {:?}", output.join(file));
    let fails = |recipe: &Path| {
        let result =
            train(Kind::Autoencoder, recipe, &options(&place.path("run"), false, 1), &mut Watch::default());
        result.unwrap_err()
    };
    let absent = place.autoencoder("absent.toml", &start("absent.safetensors"));
    assert!(matches!(fails(&absent), TrainError::Weights(_)));
    let other = place.autoencoder("other.toml", &start("autoencoder.safetensors"));
    let text = std::fs::read_to_string(&other).unwrap().replace("[8, 16]", "[8, 24]");
    std::fs::write(&other, text).unwrap();
    let error = fails(&other).to_string();
    assert!(error.contains("autoencoder.safetensors") && error.contains("of shape"), "{error}");
}
