//! Tiny Stable Diffusion pipelines against diffusers: vectors of prompts, an answer of the denoiser, final latents and
//! pictures, from a folder and from a single file.

use std::path::Path;

use crate::pipelines::{Case, Expected, cases, request};
use velatura::{CancelToken, Engine, EngineOptions, GenerateRequest, Picture, Precision};
use velatura_weights::{Checkpoint, OpenOptions, SaveOptions};

/// The largest difference over the root mean square of what is expected.
fn error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let square: f32 = expected.iter().map(|v| v * v).sum();
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    worst / (square / expected.len() as f32).sqrt()
}

/// Peak signal to noise ratio of 8-bit pictures, in dB.
fn psnr(found: &[u8], expected: &[u8]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square: f64 = found.iter().zip(expected).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
    10.0 * (255.0 * 255.0 * expected.len() as f64 / square.max(1e-9)).log10()
}

fn open(path: &Path) -> Engine {
    Engine::open(path, EngineOptions { threads: Some(2) }).unwrap()
}

fn make(engine: &Engine, request: &GenerateRequest) -> Vec<Picture> {
    engine.generate(request, &mut |_| (), &CancelToken::default()).unwrap().pictures
}

fn single_file(folder: &Path, path: &Path) {
    let checkpoint = Checkpoint::open(folder, &OpenOptions::default()).unwrap();
    checkpoint.write_single_file(path, &SaveOptions::default()).unwrap();
}

fn check(name: &str) {
    let expected = Expected::open();
    let case = cases(&expected).into_iter().find(|case| case.name == name).unwrap();
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join(name);
    case.write_folder(&folder);
    let engine = open(&folder);
    assert_eq!(engine.remarks(), [""; 0]);
    against_diffusers(&engine, &case, &expected);

    let file = temporary.path().join("single.safetensors");
    single_file(&folder, &file);
    let single = open(&file);
    assert_eq!(single.manifest().schedule, engine.manifest().schedule);
    assert_eq!(single.manifest().unet, engine.manifest().unet);
    let request = GenerateRequest {
        batch: 3,
        steps: Some(2),
        width: Some(40),
        height: Some(32),
        prompt: "a (red:1.3) fox, [day:night:0.5] AND snow:0.5".into(),
        ..request(&expected)
    };
    let together = make(&engine, &request);
    let ours = make(&single, &request);
    for (i, (a, b)) in together.iter().zip(&ours).enumerate() {
        assert!(a.rgb == b.rgb, "{name}: folder and file differ in picture {i}");
        let alone = make(&engine, &a.origin.request);
        assert!(alone[0].rgb == a.rgb, "{name}: picture {i} alone");
    }
    assert_ne!(together[0].rgb, together[1].rgb);
}

fn against_diffusers(engine: &Engine, case: &Case, expected: &Expected) {
    let of = |key: &str| expected.numbers(&format!("{}/{key}", case.name));
    let base = request(expected);
    let vectors = engine.text_vectors(&base.prompt, None).unwrap();
    let negative = engine.text_vectors(&base.negative, None).unwrap();
    let skipped = engine.text_vectors(&base.prompt, Some(2)).unwrap();
    for (found, key) in [(&vectors, "prompt"), (&negative, "negative"), (&skipped, "clip_skip_2")] {
        let error = error(found.values(), &of(key));
        println!("{} {key}: {error:.1e}", case.name);
        assert!(error < 1e-4, "{key}: {error}");
    }
    let size = [base.height.unwrap() as usize / 8, base.width.unwrap() as usize / 8];
    let answer = engine.predict(&of("latent"), size, 501.0, &vectors, Precision::F32).unwrap();
    let difference = error(&answer, &of("answer"));
    println!("{} answer: {difference:.1e}", case.name);
    assert!(difference < 1e-4, "answer: {difference}");
    for (sampler, schedule) in [("ddim", "leading"), ("euler", "linspace")] {
        let request = GenerateRequest {
            sampler: Some(sampler.into()),
            schedule: Some(schedule.into()),
            ..base.clone()
        };
        let latents = engine.latents(&request, &mut |_| (), &CancelToken::default()).unwrap();
        let difference = error(&latents[0], &of(&format!("{sampler}/latents")));
        let picture = &make(engine, &request)[0];
        let decibels = psnr(&picture.rgb, &expected.bytes(&format!("{}/{sampler}/picture", case.name)));
        println!("{} {sampler}: latents {difference:.1e}, picture {decibels:.1} dB", case.name);
        assert!(difference < 1e-3, "{sampler}: {difference}");
        assert!(decibels > 45.0, "{sampler}: {decibels} dB");
    }
    let low = GenerateRequest { precision: Some(Precision::Bf16), steps: Some(2), ..base };
    assert_eq!(make(engine, &low)[0].rgb.len(), 64 * 96 * 3);
}

#[test]
fn sd15_is_as_in_diffusers() {
    check("sd15");
}

#[test]
fn sd21_is_as_in_diffusers() {
    check("sd21");
}
