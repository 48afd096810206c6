//! Stable Diffusion XL from pictures, with masks, and with guidance beyond its scale, against diffusers: the final latents.

use crate::parity::error;
use crate::pictures::{Fixture, Run};
use crate::pipelines::Expected;
use velatura::GenerateRequest;

fn begins(run: &Run) -> bool {
    run.init.is_some() && !run.mask
}

fn masked(run: &Run) -> bool {
    run.mask
}

fn guided(run: &Run) -> bool {
    run.init.is_none()
}

#[test]
fn image_to_image_is_as_in_diffusers() {
    Fixture::of(Expected::xl_pictures()).check("sdxl", 1e-3, begins);
}

#[test]
fn ordinary_models_repaint_as_in_diffusers() {
    Fixture::of(Expected::xl_pictures()).check("sdxl", 1e-3, masked);
}

#[test]
fn inpainting_models_are_as_in_diffusers() {
    Fixture::of(Expected::xl_pictures()).check("sdxl-inpainting", 1e-3, masked);
}

#[test]
fn guidance_is_as_in_diffusers() {
    let fixture = Fixture::of(Expected::xl_pictures());
    fixture.check("sdxl", 1e-3, guided);
    // What rescaling, FreeU and perturbed attention do is not small.
    let engine = fixture.engine("sdxl");
    let runs: Vec<Run> = fixture.runs("sdxl").into_iter().filter(guided).collect();
    let changed =
        |run: &&Run| run.request["guidance_options"].is_object() || run.request["freeu"].is_object();
    let (with, plain): (Vec<&Run>, Vec<&Run>) = runs.iter().partition(changed);
    assert_eq!((with.len(), plain.len()), (4, 1));
    let of = |run: &Run| fixture.latents(&engine, &fixture.request(run)).remove(0);
    let plain = of(plain[0]);
    with.iter().for_each(|run| assert!(error(&of(run), &plain) > 0.05, "{}", run.request));
}

#[test]
fn strength_without_a_mask_is_diffusers_default() {
    let fixture = Fixture::of(Expected::xl_pictures());
    let engine = fixture.engine("sdxl");
    let of = |pick: fn(&Run) -> bool| {
        let run = fixture.runs("sdxl").into_iter().find(pick).unwrap();
        let request = GenerateRequest { strength: None, ..fixture.request(&run) };
        engine.resolve(&request).unwrap().strength
    };
    // Those of `StableDiffusionXLImg2ImgPipeline` and `StableDiffusionXLInpaintPipeline`.
    assert_eq!((of(begins), of(masked)), (Some(0.3), Some(0.9999)));
}
