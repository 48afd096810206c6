//! What cannot work is refused with one sentence that names the key, the step or the file.

mod common;

use std::path::Path;

use common::{Kind, Place, Watch, checkpoint, options, tensors, train};
use velatura_train::TrainError;

const TRAINING: &str = "steps = 4\nbatch = 2\nlr = 1e-3";

fn error(recipe: &Path, output: &Path, resume: bool) -> TrainError {
    train(Kind::Autoencoder, recipe, &options(output, resume, 1), &mut Watch::default()).unwrap_err()
}

#[test]
fn recipes_are_checked_before_anything_is_written() {
    let place = Place::new();
    let output = place.path("run");
    for (training, said) in [
        ("stepz = 4", "unknown key \"training.stepz\"; did you mean \"steps\"?"),
        ("steps = 0", "\"training.steps\": it must be at least 1"),
        ("lr = nan", "\"training.lr\": it must be a number above 0"),
        ("batch = \"many\"", "\"training.batch\""),
        ("steps = = 4", "is not valid TOML: line"),
        ("steps = 4\n[extra]\nx = 1", "unknown key \"extra\""),
    ] {
        let recipe = place.autoencoder("wrong.toml", training);
        let said_really = error(&recipe, &output, false).to_string();
        assert!(said_really.contains(said), "{training}: {said_really}");
        assert!(said_really.contains("wrong.toml") && !said_really.contains('\n'), "{said_really}");
    }
    let recipe = place.autoencoder("right.toml", TRAINING);
    let wrong_kind = train(Kind::Diffusion, &recipe, &options(&output, false, 1), &mut Watch::default());
    assert!(wrong_kind.unwrap_err().to_string().contains("\"kind\""));
    let text = std::fs::read_to_string(&recipe).unwrap().replace("emoji-subset.ttf", "absent.ttf");
    std::fs::write(place.path("no-font.toml"), text).unwrap();
    assert!(error(&place.path("no-font.toml"), &output, false).to_string().contains("absent.ttf"));
    assert!(error(&place.path("absent.toml"), &output, false).to_string().contains("absent.toml"));
    assert!(!output.exists());
}

#[test]
fn runs_are_not_mixed_up() {
    let place = Place::new();
    let (recipe, output) = (place.autoencoder("a.toml", TRAINING), place.path("run"));
    assert!(matches!(error(&recipe, &output, true), TrainError::NoCheckpoint { .. }));
    train(Kind::Autoencoder, &recipe, &options(&output, false, 1), &mut Watch::stopping_after(1)).unwrap();
    assert!(matches!(error(&recipe, &output, false), TrainError::AlreadyThere { step: 1, .. }));
    let before = tensors(&checkpoint(&output, 1));
    for (training, key) in [
        (TRAINING.replace("1e-3", "2e-3"), "training.lr"),
        (TRAINING.replace("batch = 2", "batch = 4"), "training.batch"),
    ] {
        let changed = place.autoencoder("b.toml", &training);
        let error = error(&changed, &output, true);
        assert!(matches!(&error, TrainError::RecipeChanged { key: named, .. } if named == key), "{error}");
    }
    assert_eq!(before, tensors(&checkpoint(&output, 1)));
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_state() {
    let place = Place::new();
    // Weights as large as that are numbers still, but no loss is.
    let recipe = place.autoencoder("a.toml", "steps = 9\nbatch = 2\nlr = 1e30");
    let output = place.path("run");
    let TrainError::NotFinite { step, kept, .. } = error(&recipe, &output, false) else { panic!() };
    assert!((2..=4).contains(&step), "{step}");
    let message = error(&recipe, &output, true).to_string();
    assert!(message.contains(&format!("at step {step}")) && message.contains("checkpoint-"), "{message}");
    for (name, bytes) in tensors(&kept.unwrap()) {
        let finite = |b: &[u8]| f32::from_le_bytes(b.try_into().unwrap()).is_finite();
        assert!(bytes.chunks_exact(4).all(finite), "{name}");
    }
}

#[test]
fn accumulated_batches_are_one_larger_batch() {
    let place = Place::new();
    let reports = |training: &str, output: &str| {
        let recipe = place.autoencoder("a.toml", training);
        let mut watch = Watch::default();
        train(Kind::Autoencoder, &recipe, &options(&place.path(output), false, 1), &mut watch).unwrap();
        watch.reports
    };
    let whole = reports("steps = 3\nlr = 1e-3\nbatch = 6", "whole");
    let parts = reports("steps = 3\nlr = 1e-3\nbatch = 2\naccumulation = 3", "parts");
    let close = |a: f64, b: f64| (a - b).abs() <= 1e-4 * a.abs();
    for (a, b) in whole.iter().zip(&parts) {
        assert!(close(a.loss, b.loss) && close(a.gradient_norm, b.gradient_norm), "{a:?} {b:?}");
        assert_eq!(a.learning_rate, b.learning_rate);
    }
}
