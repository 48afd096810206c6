//! Guidance beyond its scale, and variations of seeds, against diffusers.

use velatura::{
    DynamicThreshold, GenerateRequest, GuidanceOptions, PerturbedAttention, Precision, RequestError,
    SelfAttentionGuidance,
};

use crate::parity::error;
use crate::pipelines::Expected;
use crate::runs::{Fixture, latents};

#[test]
fn every_kind_of_guidance_and_of_noise_is_as_in_diffusers() {
    Fixture::open(Expected::guidance()).check(0.05);
}

#[test]
fn outside_the_interval_the_network_is_asked_half_as_often() {
    let Fixture { expected, engine, _temporary } = Fixture::open(Expected::guidance());
    let request = |interval| GenerateRequest {
        precision: Some(Precision::F32),
        guidance_options: GuidanceOptions { interval, ..GuidanceOptions::default() },
        ..expected.case("sd15").request("plain")
    };
    let alone = GenerateRequest { guidance: Some(1.0), ..request(None) };
    // An interval too short for any of the eight steps is no guidance at all, to the bit.
    assert_eq!(latents(&engine, &request(Some([0.01, 0.02]))), latents(&engine, &alone));
    assert_eq!(latents(&engine, &request(Some([0.0, 1.0]))), latents(&engine, &request(None)));
}

#[test]
fn a_threshold_that_mimics_its_own_scale_changes_nothing() {
    let Fixture { expected, engine, _temporary } = Fixture::open(Expected::guidance());
    let plain = expected.case("sd15").request("plain");
    let request = |mimic_scale| GenerateRequest {
        guidance_options: GuidanceOptions {
            threshold: Some(DynamicThreshold { mimic_scale, ..DynamicThreshold::default() }),
            ..GuidanceOptions::default()
        },
        ..plain.clone()
    };
    let wanted = expected.numbers("sd15/plain");
    assert!(error(&latents(&engine, &request(7.5)), &wanted) < 1e-3);
    assert!(error(&latents(&engine, &request(2.0)), &wanted) > 0.05);
}

#[test]
fn self_attention_guidance_changes_pictures_and_needs_room() {
    let Fixture { expected, engine, _temporary } = Fixture::open(Expected::guidance());
    let sag = expected.case("sd15").request("sag");
    let plain =
        GenerateRequest { guidance_options: GuidanceOptions::default(), seed: sag.seed, ..sag.clone() };
    let wanted = expected.numbers("sd15/sag");
    assert!(error(&latents(&engine, &plain), &wanted) > 0.05);
    // Several pictures at once are each as alone.
    let both = GenerateRequest { batch: 2, ..sag.clone() };
    let alone = latents(&engine, &sag);
    assert_eq!(latents(&engine, &both)[..alone.len()], alone);
    let small = GenerateRequest { width: Some(72), height: Some(32), ..sag.clone() };
    let refused = engine.resolve(&small).unwrap_err();
    assert_eq!(refused.to_string(), RequestError::SelfAttentionSize { given: 4, least: 5 }.to_string());
    for (scale, blur) in [(-1.0, 1.0), (f32::NAN, 1.0), (0.75, 0.0), (0.75, f64::INFINITY)] {
        let own = SelfAttentionGuidance { scale, blur };
        let options = GuidanceOptions { self_attention: Some(own), ..GuidanceOptions::default() };
        assert!(engine.resolve(&GenerateRequest { guidance_options: options, ..sag.clone() }).is_err());
    }
}

#[test]
fn layers_that_are_none_are_refused() {
    let Fixture { expected, engine, _temporary } = Fixture::open(Expected::guidance());
    for layer in ["", "middle", "down_blocks.2", "up_blocks.1.attentions.7"] {
        let perturbed = PerturbedAttention { layers: vec![layer.into()], ..PerturbedAttention::default() };
        let request = GenerateRequest {
            guidance_options: GuidanceOptions {
                perturbed_attention: Some(perturbed),
                ..GuidanceOptions::default()
            },
            ..expected.case("sd15").request("plain")
        };
        let refused = engine.resolve(&request).unwrap_err();
        let wanted = RequestError::PerturbedLayer { layer: layer.into() };
        assert_eq!(refused.to_string(), wanted.to_string());
    }
}
