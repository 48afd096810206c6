//! Timing a step needs a recipe and nothing else.

mod common;

use common::Place;
use velatura_models::{OneOrMany, UNetConfig};
use velatura_train::CancelToken;
use velatura_train::bench::{StepOptions, StepTimes, UNetStep, diffusion_step, unet_step};
use velatura_train::recipe::PrecisionName;

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

/// A U-Net of two small levels.
fn small() -> UNetConfig {
    use velatura_models::unet::{DownBlock, UpBlock};
    UNetConfig {
        down_block_types: vec![DownBlock::DownBlock2D, DownBlock::CrossAttnDownBlock2D],
        up_block_types: vec![UpBlock::CrossAttnUpBlock2D, UpBlock::UpBlock2D],
        block_out_channels: vec![16, 32],
        norm_num_groups: 8,
        layers_per_block: OneOrMany::One(1),
        cross_attention_dim: Some(OneOrMany::One(24)),
        attention_head_dim: OneOrMany::One(2),
        ..UNetConfig::default()
    }
}

fn of_unet(lora: Option<usize>, gradient_checkpointing: bool) -> StepTimes {
    let options = UNetStep {
        config: UNetConfig { gradient_checkpointing, ..small() },
        side: Some(16),
        batch: 1,
        lora,
        precision: PrecisionName::Bf16,
        threads: Some(1),
        runs: 2,
        by_layer: true,
    };
    unet_step(&options, &CancelToken::default()).unwrap()
}

#[test]
fn the_step_of_a_published_network_is_timed_whole_and_of_adapters_alone() {
    let [whole, checkpointed] = [false, true].map(|checkpointing| of_unet(None, checkpointing));
    let adapters = of_unet(Some(4), false);
    // The network begins the same, and recomputing changes no bit.
    assert_eq!(whole.losses, checkpointed.losses);
    assert_eq!(whole.losses[0].to_bits(), whole.losses[1].to_bits());
    assert!((adapters.losses[0] / whole.losses[0] - 1.0).abs() < 1e-3);
    assert!(checkpointed.arena_bytes < whole.arena_bytes);

    // Four transformers (down, middle, twice up) of eight projections from 32 features, two of them from the context.
    let per_transformer = 6 * 4 * (32 + 32) + 2 * 4 * (24 + 32);
    assert_eq!(adapters.parameters, 4 * per_transformer);
    let operations = |times: &StepTimes, name: &str| {
        let lines = times.profile.as_ref().unwrap().lines();
        lines.iter().filter(|line| line.operation == name).map(|line| line.count / 2).sum::<usize>()
    };
    assert_eq!(operations(&adapters, "linear weight gradient"), 4 * 8 * 2);
    assert_eq!(operations(&adapters, "conv2d weight gradient"), 0);
    assert!(operations(&whole, "conv2d weight gradient") > 10);
}
