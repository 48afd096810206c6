//! Tiny Stable Diffusion pipelines against diffusers: vectors of prompts, an answer of the denoiser, final latents and
//! pictures, from a folder and from a single file.

use std::path::Path;

use crate::pipelines::{Case, Expected, numbers};
use velatura::{
    CancelToken, Engine, EngineOptions, GenerateRequest, Picture, Precision, SizeConditions, Tiling,
};
use velatura_weights::{Checkpoint, OpenOptions, SaveOptions};

/// The largest difference over the root mean square of what is expected.
pub fn error(found: &[f32], expected: &[f32]) -> f32 {
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
    Engine::open(path, EngineOptions { threads: Some(2), ..EngineOptions::default() }).unwrap()
}

fn make(engine: &Engine, request: &GenerateRequest) -> Vec<Picture> {
    engine.generate(request, &mut |_| (), &CancelToken::default()).unwrap().pictures
}

fn single_file(folder: &Path, path: &Path) {
    let checkpoint = Checkpoint::open(folder, &OpenOptions::default()).unwrap();
    checkpoint.write_single_file(path, &SaveOptions::default()).unwrap();
}

/// A pipeline as a folder and as a single file: the networks one by one, whole runs, and the same bits from both.
fn check(expected: &Expected, name: &str) {
    let case = expected.case(name);
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join(name);
    case.write_folder(&folder);
    let engine = open(&folder);
    assert_eq!(engine.remarks(), [""; 0]);
    networks(&engine, &case, expected);
    for run in case.runs.keys() {
        let request = case.request(run);
        if request.refiner.is_none() {
            whole(&engine, &request, expected, &format!("{name}/{run}"));
        }
    }

    let file = temporary.path().join("single.safetensors");
    single_file(&folder, &file);
    let single = open(&file);
    assert_eq!(single.remarks(), [""; 0]);
    let (ours, theirs) = (single.manifest(), engine.manifest());
    assert_eq!((&ours.schedule, &ours.defaults), (&theirs.schedule, &theirs.defaults));
    assert_eq!(ours.zeros_for_empty_prompt, theirs.zeros_for_empty_prompt);
    let request = GenerateRequest {
        batch: 3,
        steps: Some(2),
        width: Some(40),
        height: Some(32),
        prompt: "a (red:1.3) fox, [day:night:0.5] BREAK in the snow AND snow:0.5".into(),
        ..case.request("euler")
    };
    let together = make(&engine, &request);
    let ours = make(&single, &request);
    for (i, (a, b)) in together.iter().zip(&ours).enumerate() {
        assert!(a.rgb == b.rgb, "{name}: folder and file differ in picture {i}");
        let alone = make(&engine, &a.origin.request);
        assert!(alone[0].rgb == a.rgb, "{name}: picture {i} alone");
    }
    assert_ne!(together[0].rgb, together[1].rgb);
    let low = GenerateRequest { precision: Some(Precision::Bf16), batch: 1, ..request };
    assert_eq!(make(&engine, &low)[0].rgb.len(), 40 * 32 * 3);
}

fn networks(engine: &Engine, case: &Case, expected: &Expected) {
    let of = |key: &str| expected.numbers(&format!("{}/{key}", case.name));
    let close = |found: &[f32], key: &str| {
        let error = error(found, &of(key));
        println!("{} {key}: {error:.1e}", case.name);
        assert!(error < 1e-4, "{} {key}: {error}", case.name);
    };
    let negative = "blurry, low quality".to_string();
    let base = GenerateRequest { negative, sizes: SizeConditions::default(), ..case.request("euler") };
    let vectors = engine.text_vectors(&base, false).unwrap();
    close(vectors.values(), "prompt");
    close(engine.text_vectors(&base, true).unwrap().values(), "negative");
    let xl = case.name.starts_with("sdxl");
    if xl {
        close(vectors.pooled(), "pooled");
    }
    // XL begins to count where it reads anyway.
    let skip = GenerateRequest { clip_skip: Some(if xl { 3 } else { 2 }), ..base.clone() };
    let skipped = engine.text_vectors(&skip, false).unwrap();
    close(skipped.values(), "skipped");
    if xl {
        assert_eq!(skipped.pooled(), vectors.pooled());
        let skip = GenerateRequest { clip_skip: Some(2), ..base.clone() };
        assert_eq!(engine.text_vectors(&skip, false).unwrap(), vectors);
    }
    if case.name == "sdxl" {
        let prompt = "a (red:1.3) lake BREAK at [dawn]".into();
        let weighted = engine.text_vectors(&GenerateRequest { prompt, ..base.clone() }, false).unwrap();
        close(weighted.values(), "weighted");
        close(weighted.pooled(), "weighted_pooled");
        let empty = GenerateRequest { negative: String::new(), ..base.clone() };
        let zeros = engine.text_vectors(&empty, true).unwrap();
        assert!(zeros.values().iter().chain(zeros.pooled()).all(|&v| v == 0.0));
    }
    let size = [base.height.unwrap() as usize / 8, base.width.unwrap() as usize / 8];
    let latent: Vec<f32> = numbers("latent", size[0] * size[1] * 4).collect();
    close(&engine.predict(&latent, size, 501.0, &vectors, Precision::F32).unwrap(), "answer");
    let picture: Vec<f32> = numbers("picture", size[0] * size[1] * 64 * 3).collect();
    let (mean, deviation) = engine.encode(&picture, size, Tiling::Off, Precision::F32).unwrap();
    close(&mean, "encoded");
    close(&deviation, "deviation");
    let small: Vec<f32> = numbers("small", 3 * 5 * 4).collect();
    close(&engine.decode(&small, [3, 5], Tiling::Off, Precision::F32).unwrap(), "decoded");
}

/// A run's final latents and pictures, one after another.
fn whole(engine: &Engine, request: &GenerateRequest, expected: &Expected, name: &str) {
    let latents = engine.latents(request, &mut |_| (), &CancelToken::default()).unwrap().concat();
    let difference = error(&latents, &expected.numbers(&format!("{name}/latents")));
    let pictures: Vec<u8> = make(engine, request).into_iter().flat_map(|picture| picture.rgb).collect();
    let decibels = psnr(&pictures, &expected.bytes(&format!("{name}/pictures")));
    println!("{name}: latents {difference:.1e}, pictures {decibels:.1} dB");
    assert!(difference < 1e-3, "{name}: {difference}");
    assert!(decibels > 45.0, "{name}: {decibels} dB");
}

#[test]
fn sd15_is_as_in_diffusers() {
    check(&Expected::sd(), "sd15");
}

#[test]
fn sd21_is_as_in_diffusers() {
    check(&Expected::sd(), "sd21");
}

#[test]
fn sdxl_is_as_in_diffusers() {
    check(&Expected::xl(), "sdxl");
}

#[test]
fn the_refiner_of_sdxl_is_as_in_diffusers() {
    check(&Expected::xl(), "sdxl_refiner");
}

#[test]
fn the_refiner_takes_over_as_in_diffusers() {
    let expected = Expected::xl();
    let temporary = tempfile::tempdir().unwrap();
    for name in ["sdxl", "sdxl_refiner"] {
        expected.case(name).write_folder(&temporary.path().join(name));
    }
    let path = |name: &str| Some(temporary.path().join(name).to_str().unwrap().to_string());
    let asked = expected.case("sdxl_refiner").request("after_base");
    let request = GenerateRequest { model: path("sdxl"), refiner: path("sdxl_refiner"), ..asked };
    let engine =
        Engine::for_request(&request, EngineOptions { threads: Some(2), ..EngineOptions::default() })
            .unwrap();
    whole(&engine, &request, &expected, "sdxl_refiner/after_base");
    let alone = open(&temporary.path().join("sdxl"));
    assert_ne!(make(&alone, &request)[0].rgb, make(&engine, &request)[0].rgb);
    // A model with other latents cannot take over.
    let sd15 = temporary.path().join("sd15");
    Expected::sd().case("sd15").write_folder(&sd15);
    let error = alone.with_refiner(open(&sd15)).err().unwrap().to_string();
    assert!(error.contains("sd15") && error.contains("latents"), "{error}");
}
