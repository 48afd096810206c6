//! Runs that read pictures, and distilled models, against diffusers: the final latents.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::parity::error;
use crate::pipelines::{Expected, weights_file};
use velatura::picture::encode;
use velatura::preview::Previewer;
use velatura::{
    CancelToken, Engine, EngineOptions, GenerateRequest, PictureInfo, Precision, Progress, Tiling,
};
use velatura_weights::{
    Checkpoint, OpenOptions, SafetensorsFile, SaveOptions, Storage, TensorToWrite, write_safetensors,
};

/// A run of diffusers.
#[derive(Clone, Deserialize)]
pub struct Run {
    case: String,
    /// Its latents.
    pub key: String,
    /// The size of the picture that it begins from.
    pub init: Option<(usize, usize)>,
    /// Whether it has a mask.
    pub mask: bool,
    /// The request, but for pictures.
    pub request: Value,
}

pub struct Fixture {
    expected: Expected,
    temporary: tempfile::TempDir,
}

impl Fixture {
    fn open() -> Self {
        Self::of(Expected::pictures())
    }

    pub fn of(expected: Expected) -> Self {
        Fixture { expected, temporary: tempfile::tempdir().unwrap() }
    }

    fn folder(&self, name: &str) -> PathBuf {
        let folder = self.temporary.path().join(name);
        if !folder.exists() {
            self.expected.case(name).write_folder(&folder);
        }
        folder
    }

    pub fn engine(&self, name: &str) -> Engine {
        Engine::open(self.folder(name), EngineOptions { threads: Some(2), ..EngineOptions::default() })
            .unwrap()
    }

    pub fn runs(&self, name: &str) -> Vec<Run> {
        let runs: Vec<Run> = serde_json::from_value(self.expected.json("runs")).unwrap();
        runs.into_iter().filter(|run| run.case == name).collect()
    }

    pub fn request(&self, run: &Run) -> GenerateRequest {
        let request = GenerateRequest::from_json(&run.request.to_string()).unwrap();
        let file = |kind: &str, (width, height): (usize, usize), rgb: Vec<u8>| {
            let path = self.temporary.path().join(format!("{kind}-{width}x{height}.png"));
            std::fs::write(&path, encode(width, height, &rgb, &[]).unwrap()).unwrap();
            path.to_str().unwrap().to_string()
        };
        GenerateRequest {
            precision: Some(Precision::F32),
            init: run.init.map(|size| file("picture", size, picture(size))),
            mask: run.init.filter(|_| run.mask).map(|size| file("mask", size, mask(size))),
            ..request
        }
    }

    pub fn latents(&self, engine: &Engine, request: &GenerateRequest) -> Vec<Vec<f32>> {
        engine.latents(request, &mut |_| (), &CancelToken::default()).unwrap()
    }

    /// Holds the runs of a case that `of` picks against diffusers.
    pub fn check(&self, name: &str, bound: f32, of: impl Fn(&Run) -> bool) {
        let engine = self.engine(name);
        let runs: Vec<Run> = self.runs(name).into_iter().filter(of).collect();
        assert!(!runs.is_empty());
        for run in runs {
            let latents = self.latents(&engine, &self.request(&run));
            let difference = error(&latents[0], &self.expected.numbers(&run.key));
            println!("{} {}: {difference:.1e}", run.key, run.request["sampler"]);
            assert!(difference < bound, "{} {}: {difference}", run.key, run.request);
        }
    }
}

/// As the script makes it.
fn picture((width, height): (usize, usize)) -> Vec<u8> {
    let pixel = |x: usize, y: usize| {
        [x * 255 / (width - 1), y * 255 / (height - 1), (x / 8 + y / 8) % 2 * 200].map(|v| v as u8)
    };
    (0..height).flat_map(|y| (0..width).flat_map(move |x| pixel(x, y))).collect()
}

/// As the script makes it: a rectangle of white, and stripes of grey below and above a half.
fn mask((width, height): (usize, usize)) -> Vec<u8> {
    let grey = |y: usize| match y {
        y if y < height / 8 => 100,
        y if y >= height - height / 8 => 150,
        _ => 0,
    };
    let pixel = |x: usize, y: usize| {
        let white = (12..44).contains(&x) && (20..70).contains(&y);
        [if white { 255 } else { grey(y) }; 3]
    };
    (0..height).flat_map(|y| (0..width).flat_map(move |x| pixel(x, y))).collect()
}

fn without_mask(run: &Run) -> bool {
    !run.mask
}

#[test]
fn image_to_image_is_as_in_diffusers() {
    let fixture = Fixture::open();
    // One of them begins from 70x45, which becomes 64x40.
    fixture.check("sd15", 1e-3, without_mask);
    fixture.check("sd21-v", 1e-3, without_mask);
}

#[test]
fn pictures_of_pictures_make_themselves_again_alone_and_in_a_batch() {
    let fixture = Fixture::open();
    let folder = fixture.folder("sd15");
    let run = &fixture.runs("sd15")[2];
    let asked = GenerateRequest {
        batch: 3,
        steps: Some(4),
        precision: None,
        model: Some(folder.to_str().unwrap().to_string()),
        ..fixture.request(run)
    };
    let engine =
        Engine::named(asked.model.as_deref(), EngineOptions { threads: Some(2), ..EngineOptions::default() })
            .unwrap();
    let made = engine.generate(&asked, &mut |_| (), &CancelToken::default()).unwrap();
    assert_eq!((made.pictures[0].width, made.pictures[0].height), (64, 96));
    assert!(made.pictures[0].rgb != made.pictures[1].rgb);
    let path = fixture.temporary.path().join("made.png");
    made.pictures[2].save(&path).unwrap();
    let info = PictureInfo::open(&path).unwrap();
    let request = info.request("made.png").unwrap();
    assert_eq!((request.init.as_ref(), request.strength), (asked.init.as_ref(), Some(0.7)));
    assert_eq!((request.width, request.vae_tiling), (Some(64), Tiling::Off));
    let sources = info.origin().unwrap().sources;
    assert_eq!((sources[0].file.as_str(), sources[0].hash.len()), (asked.init.as_deref().unwrap(), 10));
    assert!(info.text("parameters").unwrap().contains("Denoising strength: 0.7"));
    let again = engine.generate(&request, &mut |_| (), &CancelToken::default()).unwrap();
    assert!(again.pictures[0].rgb == made.pictures[2].rgb);
}

#[test]
fn the_size_follows_the_picture() {
    let fixture = Fixture::open();
    let engine = fixture.engine("sd15");
    let size = |width: Option<u32>, height: Option<u32>| {
        let run = Run { init: Some((203, 101)), ..fixture.runs("sd15")[0].clone() };
        let request = engine.resolve(&GenerateRequest { width, height, ..fixture.request(&run) }).unwrap();
        (request.width.unwrap(), request.height.unwrap())
    };
    assert_eq!(size(None, None), (200, 96));
    assert_eq!(size(Some(64), None), (64, 32));
    assert_eq!(size(None, Some(64)), (128, 64));
    assert_eq!(size(Some(64), Some(64)), (64, 64));
}

#[test]
fn bad_pictures_and_strengths_are_refused_in_a_sentence() {
    let fixture = Fixture::open();
    let engine = fixture.engine("sd15");
    let good = fixture.request(&fixture.runs("sd15")[0]);
    let refusal = |request: GenerateRequest| {
        let error = engine.generate(&request, &mut |_| (), &CancelToken::default()).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    };
    for strength in [0.0, -1.0, 1.01, f64::NAN, f64::INFINITY] {
        let error = refusal(GenerateRequest { strength: Some(strength), ..good.clone() });
        assert!(error.contains("strength is") && error.contains("above 0 and at most 1"), "{error}");
    }
    let error = refusal(GenerateRequest { strength: Some(0.05), ..good.clone() });
    assert!(error.contains("leaves none"), "{error}");
    let error = refusal(GenerateRequest { init: None, ..good.clone() });
    assert!(error.contains("strength is for a picture to begin from"), "{error}");
    let page = fixture.temporary.path().join("page.png");
    std::fs::write(&page, "<html></html>").unwrap();
    let with = |path: &Path| GenerateRequest { init: Some(path.to_str().unwrap().into()), ..good.clone() };
    assert!(refusal(with(&page)).contains("cannot be read as a picture"));
    assert!(refusal(with(Path::new("no/such.png"))).contains("no/such.png"));
}

#[test]
fn ordinary_models_repaint_as_in_diffusers() {
    Fixture::open().check("sd15", 1e-3, |run| run.mask);
}

#[test]
fn inpainting_models_are_as_in_diffusers() {
    let fixture = Fixture::open();
    fixture.check("inpainting", 1e-3, |_| true);
    // Without a mask all is made anew, with or without a picture to begin from.
    let engine = fixture.engine("inpainting");
    let masked = fixture.request(&fixture.runs("inpainting")[1]);
    let begun = GenerateRequest { mask: None, ..masked.clone() };
    let free = GenerateRequest { init: None, strength: None, ..begun.clone() };
    let all = [masked, begun, free].map(|request| fixture.latents(&engine, &request).remove(0));
    assert!(all[0] != all[1] && all[1] != all[2]);
}

#[test]
fn instruct_pix2pix_is_as_in_diffusers() {
    let fixture = Fixture::open();
    fixture.check("pix2pix", 1e-3, |_| true);
    // Without guidance by the picture each image is asked about twice, not three times, to the same end.
    let engine = fixture.engine("pix2pix");
    let request = fixture.request(&fixture.runs("pix2pix")[0]);
    let with = |scale: f32| {
        let request = GenerateRequest { image_guidance: Some(scale), steps: Some(2), ..request.clone() };
        fixture.latents(&engine, &request).remove(0)
    };
    assert!(error(&with(1.0), &with(1.0 + f32::EPSILON)) < 1e-4);
    assert!(error(&with(1.0), &with(1.5)) > 1e-3);
}

#[test]
fn the_upscaler_is_as_in_diffusers() {
    let fixture = Fixture::open();
    fixture.check("upscaler", 1e-3, |_| true);
    let request = fixture.request(&fixture.runs("upscaler")[0]);
    let resolved = fixture.engine("upscaler").resolve(&request).unwrap();
    assert_eq!((resolved.width, resolved.height), (Some(80), Some(48)));
}

#[test]
fn the_upscaler_in_a_single_file_is_as_in_diffusers() {
    let fixture = Fixture::open();
    let folder = fixture.folder("upscaler");
    let open = |path: &Path| {
        Engine::open(path, EngineOptions { threads: Some(2), ..EngineOptions::default() }).unwrap()
    };
    let checkpoint = Checkpoint::open(&folder, &OpenOptions::default()).unwrap();
    let file = fixture.temporary.path().join("x4.safetensors");
    checkpoint.write_single_file(&file, &SaveOptions::default()).unwrap();
    // The file says nothing of v, of either noise schedule, or of the most noise.
    let (single, whole) = (open(&file), open(&folder));
    let said = |engine: &Engine| {
        let low = engine.manifest().low_res_schedule.clone().unwrap();
        let low = (low.kind, low.train_timesteps, low.beta_start, low.beta_end);
        (engine.manifest().schedule.clone(), low)
    };
    assert_eq!(said(&single), said(&whole));
    assert_eq!(single.manifest().defaults.guidance, 9.0);
    let runs = fixture.runs("upscaler");
    for run in &runs {
        let latents = fixture.latents(&single, &fixture.request(run)).remove(0);
        let difference = error(&latents, &fixture.expected.numbers(&run.key));
        assert!(difference < 1e-3, "{}: {difference}", run.request);
    }
    let refused = |engine: &Engine, level: u32| {
        let request = GenerateRequest { noise_level: Some(level), ..fixture.request(&runs[0]) };
        engine.resolve(&request).err().map(|e| e.to_string())
    };
    assert_eq!(refused(&single, 350), None);
    assert!(refused(&single, 351).unwrap().contains("from 0 to 350"));
    // Taken apart again it is a folder that diffusers reads: both schedules, and its own bound of the noise.
    let again = fixture.temporary.path().join("again");
    let single_file = Checkpoint::open(&file, &OpenOptions::default()).unwrap();
    single_file.write_diffusers(&again, &SaveOptions::default()).unwrap();
    assert_eq!(said(&open(&again)), said(&whole));
    let index = again.join("model_index.json");
    let mut value: Value = serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
    value["max_noise_level"] = 100.into();
    std::fs::write(&index, value.to_string()).unwrap();
    let error = refused(&open(&again), 101).unwrap();
    assert!(error.contains("from 0 to 100"), "{error}");
}

#[test]
fn latent_consistency_models_are_told_the_guidance_as_in_diffusers() {
    Fixture::open().check("lcm", 1e-3, |_| true);
}

#[test]
fn distilled_models_are_as_in_diffusers() {
    Fixture::open().check("distilled", 1e-3, |_| true);
}

#[test]
fn repainted_pictures_make_themselves_again_and_keep_what_is_black() {
    let fixture = Fixture::open();
    let run = fixture.runs("sd15").into_iter().find(|run| run.mask).unwrap();
    let asked = GenerateRequest { batch: 2, steps: Some(4), ..fixture.request(&run) };
    let engine = fixture.engine("sd15");
    let made = engine.generate(&asked, &mut |_| (), &CancelToken::default()).unwrap();
    let path = fixture.temporary.path().join("made.png");
    made.pictures[1].save(&path).unwrap();
    let info = PictureInfo::open(&path).unwrap();
    assert_eq!(info.origin().unwrap().sources.len(), 2);
    let again =
        engine.generate(&info.request("made.png").unwrap(), &mut |_| (), &CancelToken::default()).unwrap();
    assert!(again.pictures[0].rgb == made.pictures[1].rgb);
    // What is black has the latent of the picture, whatever the prompt says; what is white has not.
    let latents = |prompt: &str| {
        let request = GenerateRequest { batch: 1, prompt: prompt.into(), ..asked.clone() };
        fixture.latents(&engine, &request).remove(0)
    };
    let (fox, hen) = (latents("a fox"), latents("a hen"));
    let at = |x: usize, y: usize| (y * 8 + x) * 4..(y * 8 + x) * 4 + 4;
    assert_eq!(fox[at(1, 5)], hen[at(1, 5)]);
    assert_eq!(fox[at(3, 0)], hen[at(3, 0)]);
    assert_ne!(fox[at(3, 5)], hen[at(3, 5)]);
    assert_ne!(fox[at(3, 11)], hen[at(3, 11)]);
}

#[test]
fn what_a_model_does_not_take_is_refused_in_a_sentence() {
    let fixture = Fixture::open();
    let refusal = |name: &str, change: &dyn Fn(&mut GenerateRequest)| {
        let mut request = fixture.request(&fixture.runs(name)[0]);
        change(&mut request);
        let engine = fixture.engine(name);
        let error = engine.generate(&request, &mut |_| (), &CancelToken::default()).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    };
    let says = |error: String, parts: &[&str]| {
        parts.iter().for_each(|part| assert!(error.contains(part), "{error} lacks {part}"));
    };
    let other = Run { init: Some((32, 32)), mask: true, ..fixture.runs("sd15")[0].clone() };
    let other = fixture.request(&other).mask;
    says(refusal("sd15", &|r| r.mask.clone_from(&other)), &["mask is 32x32", "picture 64x96"]);
    says(refusal("sd15", &|r| r.mask = Some("no/mask.png".into())), &["no/mask.png"]);
    says(
        refusal("sd15", &|r| (r.init, r.strength, r.mask) = (None, None, other.clone())),
        &["mask is for a picture to begin from"],
    );
    says(
        refusal("sd15", &|r| r.image_guidance = Some(1.5)),
        &["image guidance means nothing", "makes pictures"],
    );
    says(refusal("sd15", &|r| r.noise_level = Some(5)), &["noise level means nothing"]);
    says(refusal("sd15", &|r| r.image_guidance = Some(f32::NAN)), &["image guidance is NaN"]);
    says(refusal("pix2pix", &|r| r.mask.clone_from(&other)), &["mask means nothing", "edits a picture"]);
    says(refusal("pix2pix", &|r| r.strength = Some(0.5)), &["strength means nothing"]);
    says(
        refusal("pix2pix", &|r| (r.init, r.image_guidance) = (None, None)),
        &["edits a picture", "name that picture (--init)"],
    );
    says(refusal("upscaler", &|r| (r.init, r.noise_level) = (None, None)), &["enlarges a picture"]);
    says(refusal("upscaler", &|r| r.noise_level = Some(351)), &["noise level is 351", "from 0 to 350"]);
}

#[test]
fn distilled_models_have_their_own_defaults() {
    let fixture = Fixture::open();
    let defaults = |engine: &Engine| {
        let d = engine.manifest().defaults.clone();
        (d.steps, d.guidance, d.sampler, d.schedule)
    };
    let usual = |steps, guidance, sampler: &str, schedule: &str| {
        (steps, guidance, sampler.to_string(), schedule.to_string())
    };
    assert_eq!(defaults(&fixture.engine("sd15")), usual(25, 7.5, "dpmpp_2m", "karras"));
    assert_eq!(defaults(&fixture.engine("lcm")), usual(4, 8.5, "lcm", "lcm"));
    assert_eq!(defaults(&fixture.engine("upscaler")).1, 9.0);
    let folder = fixture.folder("sd15");
    let scheduler = folder.join("scheduler/scheduler_config.json");
    let with = |class: &str, spacing: &str| {
        let mut config = fixture.expected.case("sd15").scheduler;
        config["_class_name"] = class.into();
        config["timestep_spacing"] = spacing.into();
        std::fs::write(&scheduler, config.to_string()).unwrap();
        defaults(&fixture.engine("sd15"))
    };
    assert_eq!(with("EulerDiscreteScheduler", "trailing"), usual(4, 1.0, "euler", "trailing"));
    assert_eq!(with("EulerAncestralDiscreteScheduler", "trailing").2, "euler_ancestral");
    assert_eq!(with("EulerDiscreteScheduler", "leading"), usual(25, 7.5, "dpmpp_2m", "karras"));
    assert_eq!(with("LCMScheduler", "leading"), usual(4, 1.0, "lcm", "lcm"));
    // A file says nothing of its scheduler, but for its name.
    let file = fixture.temporary.path().join("tiny_Turbo.safetensors");
    let checkpoint = Checkpoint::open(&folder, &OpenOptions::default()).unwrap();
    checkpoint.write_single_file(&file, &SaveOptions::default()).unwrap();
    let engine = Engine::open(&file, EngineOptions { threads: Some(2), ..EngineOptions::default() }).unwrap();
    assert_eq!(defaults(&engine), usual(4, 1.0, "euler", "trailing"));
}

/// Writes a half of the tiny autoencoder under the names of its original files.
fn original_half(fixture: &Fixture, half: &str) -> PathBuf {
    let source = SafetensorsFile::open(weights_file(&fixture.folder("taesd"), "vae")).unwrap();
    let prefix = format!("{half}.layers.");
    // The original's decoder begins with a layer that diffusers has outside of the list.
    let offset = usize::from(half == "decoder");
    let named = source.names().into_iter().filter_map(|name| {
        let (at, rest) = name.strip_prefix(&prefix)?.split_once('.')?;
        let original = format!("{}.{rest}", at.parse::<usize>().unwrap() + offset);
        Some((original, source.info(&name).unwrap().shape, source.f32(&name).unwrap().into_owned()))
    });
    let all: Vec<(String, Vec<usize>, Vec<f32>)> = named.collect();
    let tensors: Vec<TensorToWrite<'_>> =
        all.iter().map(|(name, shape, v)| TensorToWrite::new(name.clone(), shape, Storage::F32, v)).collect();
    let path = fixture.temporary.path().join(format!("taesd_{half}.safetensors"));
    write_safetensors(&path, &tensors, &Default::default()).unwrap();
    path
}

#[test]
fn the_tiny_autoencoder_is_as_in_diffusers() {
    let fixture = Fixture::open();
    fixture.check("taesd", 1e-3, |_| true);
    let engine = fixture.engine("taesd");
    let latent = fixture.expected.numbers("taesd/latent");
    let decode = |engine: &Engine| engine.decode(&latent, [12, 8], Tiling::Off, Precision::F32).unwrap();
    let expected = fixture.expected.numbers("taesd/picture");
    assert!(error(&decode(&engine), &expected) < 1e-4);
    // In place of another model's: as a folder, and as the original's two files, of which either finds the other.
    let run = &fixture.runs("taesd")[0];
    let with = |vae: &Path| {
        let request = GenerateRequest {
            model: Some(fixture.folder("sd15").to_str().unwrap().into()),
            vae: Some(vae.to_str().unwrap().into()),
            ..fixture.request(run)
        };
        let engine =
            Engine::for_request(&request, EngineOptions { threads: Some(2), ..EngineOptions::default() })?;
        let latents = engine.latents(&request, &mut |_| (), &CancelToken::default())?;
        Ok::<_, velatura::Error>((engine, latents[0].clone()))
    };
    let own = fixture.latents(&engine, &fixture.request(run)).remove(0);
    assert!(with(&fixture.folder("taesd").join("vae")).unwrap().1 == own);
    let decoder = original_half(&fixture, "decoder");
    let error_of = |vae: &Path| with(vae).err().unwrap().to_string();
    let lacking = error_of(&decoder);
    assert!(lacking.contains("this VAE has no encoder") && !lacking.contains('\n'), "{lacking}");
    let encoder = original_half(&fixture, "encoder");
    for half in [&decoder, &encoder] {
        let (engine, latents) = with(half).unwrap();
        assert!(latents == own);
        assert!(error(&decode(&engine), &expected) < 1e-4);
    }
    std::fs::remove_file(&decoder).unwrap();
    assert!(error_of(&encoder).contains("the encoder of a tiny autoencoder alone"));
}

#[test]
fn a_tiny_decoder_alone_makes_pictures_from_noise() {
    let fixture = Fixture::open();
    let request = GenerateRequest {
        model: Some(fixture.folder("sd15").to_str().unwrap().into()),
        vae: Some(original_half(&fixture, "decoder").to_str().unwrap().into()),
        init: None,
        strength: None,
        steps: Some(1),
        width: Some(32),
        height: Some(32),
        ..fixture.request(&fixture.runs("sd15")[0])
    };
    let engine =
        Engine::for_request(&request, EngineOptions { threads: Some(2), ..EngineOptions::default() })
            .unwrap();
    let made = engine.generate(&request, &mut |_| (), &CancelToken::default()).unwrap();
    assert!(made.pictures[0].rgb.iter().any(|&v| v != made.pictures[0].rgb[0]));
}

#[test]
fn a_tiny_autoencoder_shows_what_becomes_of_a_picture() {
    let fixture = Fixture::open();
    let decoder = original_half(&fixture, "decoder");
    let request = GenerateRequest {
        model: Some(fixture.folder("sd15").to_str().unwrap().into()),
        init: None,
        strength: None,
        steps: Some(2),
        width: Some(32),
        height: Some(48),
        sampler: Some("euler".into()),
        ..fixture.request(&fixture.runs("sd15")[0])
    };
    let options = EngineOptions { threads: Some(2), ..EngineOptions::default() };
    let engine = Engine::for_request(&request, options).unwrap();
    let previewer = Previewer::tiny(&engine, &decoder).unwrap();
    let without = engine.plan_run(&request).unwrap().peak;
    let engine = engine.with_previewer(&previewer);
    let more = engine.plan_run(&request).unwrap().peak - without;
    let mut last = None;
    let mut observe = |progress: Progress<'_>| {
        if let Progress::Step { clean, .. } = progress {
            assert_eq!((clean.images, clean.first, clean.size), (1, 0, [6, 4]));
            assert!(previewer.picture(&clean, 1).unwrap().is_none());
            last = previewer.picture(&clean, 0).unwrap();
        }
    };
    engine.generate(&request, &mut observe, &CancelToken::default()).unwrap();
    // What the previews took was in the plan.
    let Previewer::Tiny(by) = &previewer else { panic!("by a tiny autoencoder") };
    let (weights, activations) = by.memory();
    assert!(weights > 0 && activations > 0 && more >= (weights + activations) as u64, "{more}");
    // After the last step the clean latent is the picture's own.
    let with = GenerateRequest { vae: Some(decoder.to_str().unwrap().into()), ..request };
    let made = Engine::for_request(&with, options).unwrap();
    let picture = made.generate(&with, &mut |_| (), &CancelToken::default()).unwrap().pictures.remove(0);
    let last = last.unwrap();
    assert_eq!((last.width, last.height), (picture.width, picture.height));
    let pairs = last.rgb.iter().zip(&picture.rgb);
    let most = pairs.map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(most <= 8, "{most}");
    // No other autoencoder has the latents of a model of Velatura's own.
    let shipped = Engine::shipped(options).unwrap();
    assert!(Previewer::tiny(&shipped, &decoder).is_err());
}
