//! Timing a step needs a recipe and nothing else.

mod common;

use common::Place;
use velatura_train::CancelToken;
use velatura_train::bench::{StepOptions, diffusion_step};

#[test]
fn a_step_is_timed_without_font_or_autoencoder() {
    let place = Place::new();
    let recipe = place.diffusion("a.toml", "batch = 2\nlr = 1e-3");
    let text = std::fs::read_to_string(&recipe).unwrap().replace("emoji-subset.ttf", "absent.ttf");
    std::fs::write(&recipe, text).unwrap();
    let options = StepOptions { batch: Some(3), side: 8, threads: Some(1), runs: 2, by_layer: true };
    let times = diffusion_step(&recipe, &options, &CancelToken::default()).unwrap();
    assert_eq!((times.batch, times.threads, times.seconds.len()), (3, 1, 2));
    assert!(times.median_s() > 0.0 && times.losses.iter().all(|loss| loss.is_finite()));
    assert!(times.parameters > 1000 && times.arena_bytes > 1000);
    let spent: f64 = times.profile.unwrap().lines().iter().map(|line| line.seconds).sum();
    let gradients = 2.0 * times.parts[1].1;
    assert!(spent > 0.0 && spent < gradients, "{spent} of {gradients}");
    assert!(times.parts.iter().map(|(_, s)| s).sum::<f64>() <= times.seconds.iter().sum());
    assert!(!place.path("diffusion").exists());

    let stopped = CancelToken::default();
    stopped.cancel();
    assert!(diffusion_step(&recipe, &options, &stopped).unwrap_err().is_cancelled());
}
