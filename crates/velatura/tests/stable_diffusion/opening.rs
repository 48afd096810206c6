//! What is opened and how: prompts, metadata, and refusals in one sentence that names file and remedy.

use std::path::Path;

use crate::pipelines::{Case, Expected, weights_file};
use velatura::{
    CancelToken, Engine, EngineOptions, GenerateRequest, PictureInfo, Prediction, SizeConditions, Warning,
};
use velatura_weights::{
    Checkpoint, OpenOptions, SafetensorsFile, SaveOptions, Storage, TensorToWrite, write_safetensors,
};

fn sd15() -> Case {
    Expected::sd().case("sd15")
}

/// What opening says.
fn refusal(path: &Path) -> String {
    let error = Engine::open(path, EngineOptions::default()).err().unwrap().to_string();
    assert!(!error.contains('\n') && error.contains(path.file_name().unwrap().to_str().unwrap()), "{error}");
    error
}

/// Writes a part's file again, its tensors changed.
fn change(folder: &Path, part: &str, change: impl Fn(&str, Vec<usize>) -> Option<Vec<usize>>) {
    let path = weights_file(folder, part);
    let file = SafetensorsFile::open(&path).unwrap();
    let kept: Vec<(String, Vec<usize>)> = file
        .names()
        .into_iter()
        .filter_map(|name| {
            let shape = change(&name, file.info(&name).unwrap().shape)?;
            Some((name, shape))
        })
        .collect();
    let zeros = vec![0.0; kept.iter().map(|(_, shape)| shape.iter().product()).max().unwrap()];
    let tensors: Vec<TensorToWrite<'_>> = kept
        .iter()
        .map(|(name, shape)| {
            let values = &zeros[..shape.iter().product()];
            TensorToWrite::new(name.clone(), shape, Storage::F16, values)
        })
        .collect();
    drop(file);
    write_safetensors(&path, &tensors, &Default::default()).unwrap();
}

fn folder() -> (tempfile::TempDir, std::path::PathBuf) {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("tiny-sd");
    sd15().write_folder(&folder);
    (temporary, folder)
}

fn edit_config(file: &Path, edit: impl FnOnce(&mut serde_json::Value)) {
    let mut config = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    edit(&mut config);
    std::fs::write(file, config.to_string()).unwrap();
}

#[test]
fn models_of_other_tasks_are_refused() {
    let (_temporary, folder) = folder();
    for (channels, says) in [(5, "denoiser reads 5 channels"), (16, "denoiser reads 16 channels")] {
        change(&folder, "unet", |name, mut shape| {
            if name == "conv_in.weight" {
                shape[1] = channels;
            }
            Some(shape)
        });
        edit_config(&folder.join("unet/config.json"), |config| config["in_channels"] = channels.into());
        let error = refusal(&folder);
        assert!(error.contains(says) && error.contains("choose one of those"), "{error}");
    }
}

#[test]
fn missing_parts_and_tensors_are_named() {
    let (temporary, folder) = folder();
    change(&folder, "vae", |name, shape| (name != "decoder.conv_out.bias").then_some(shape));
    let error = Engine::open(&folder, EngineOptions::default()).err().unwrap().to_string();
    assert!(error.contains("its vae lacks the tensor decoder.conv_out.bias"), "{error}");
    std::fs::remove_dir_all(folder.join("text_encoder")).unwrap();
    let error = refusal(&folder);
    assert!(error.contains("it lacks text_encoder"), "{error}");
    // One part alone, and nothing that is a model.
    let part = temporary.path().join("unet.safetensors");
    std::fs::copy(weights_file(&folder, "unet"), &part).unwrap();
    assert!(refusal(&part).contains("lacks vae and text_encoder"));
    let empty = temporary.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    assert!(refusal(&empty).contains("is a folder"));
}

#[test]
fn configurations_that_do_not_fit_are_named() {
    let (_temporary, folder) = folder();
    let file = folder.join("scheduler/scheduler_config.json");
    edit_config(&file, |config| config["beta_schedule"] = "wavy".into());
    let error = Engine::open(&folder, EngineOptions::default()).err().unwrap().to_string();
    assert!(error.contains("scheduler_config.json") && error.contains("wavy"), "{error}");
    edit_config(&file, |config| config["beta_schedule"] = "scaled_linear".into());
    std::fs::create_dir(folder.join("tokenizer")).unwrap();
    let error = Engine::open(&folder, EngineOptions::default()).err().unwrap().to_string();
    assert!(error.contains("tokenizer") && error.contains("vocab.json"), "{error}");
    std::fs::remove_dir(folder.join("tokenizer")).unwrap();
    edit_config(&folder.join("text_encoder/config.json"), |config| config["hidden_act"] = "tanh".into());
    let error = Engine::open(&folder, EngineOptions::default()).err().unwrap().to_string();
    assert!(error.contains("text_encoder") && error.contains("hidden_act"), "{error}");
}

#[test]
fn a_picture_of_a_checkpoint_makes_itself_again() {
    let (temporary, folder) = folder();
    let asked = GenerateRequest {
        negative: "blurry".into(),
        steps: Some(2),
        width: Some(40),
        height: Some(48),
        clip_skip: Some(2),
        model: Some(folder.to_str().unwrap().to_string()),
        ..GenerateRequest::new("a (red:1.2) fox <lora:fur:0.5>")
    };
    let engine = Engine::named(asked.model.as_deref(), EngineOptions::default()).unwrap();
    let made = engine.generate(&asked, &mut |_| (), &CancelToken::default()).unwrap();
    assert!(matches!(&made.warnings[..], [Warning::Prompt(text)] if text.contains("<lora:fur>")));
    let picture = &made.pictures[0];
    assert_eq!((picture.origin.model.name.as_str(), picture.origin.model.hash.len()), ("tiny-sd", 10));
    assert_eq!(picture.origin.request.sampler.as_deref(), Some("dpmpp_2m"));
    let path = temporary.path().join("fox.png");
    picture.save(&path).unwrap();
    let request = PictureInfo::open(&path).unwrap().request("fox.png").unwrap();
    let engine = Engine::named(request.model.as_deref(), EngineOptions::default()).unwrap();
    let again = engine.generate(&request, &mut |_| (), &CancelToken::default()).unwrap();
    assert!(again.pictures[0].rgb == picture.rgb);
    let plain = GenerateRequest { clip_skip: None, ..request };
    assert!(
        engine.generate(&plain, &mut |_| (), &CancelToken::default()).unwrap().pictures[0].rgb != picture.rgb
    );
}

#[test]
fn another_autoencoder_takes_the_place_of_the_models() {
    let (temporary, folder) = folder();
    // Another model's, as a folder and as a file, both without what it is multiplied by.
    let other = temporary.path().join("other");
    sd15().write_folder(&other);
    change(&other, "vae", |_, shape| Some(shape));
    let file = temporary.path().join("vae.safetensors");
    std::fs::copy(weights_file(&other, "vae"), &file).unwrap();
    let make = |vae: Option<&Path>| {
        let request = GenerateRequest {
            model: Some(folder.to_str().unwrap().to_string()),
            vae: vae.map(|path| path.to_str().unwrap().to_string()),
            seed: Some(1),
            steps: Some(2),
            width: Some(32),
            height: Some(32),
            ..GenerateRequest::new("a fox")
        };
        let engine = Engine::for_request(&request, EngineOptions::default())?;
        let made = engine.generate(&request, &mut |_| (), &CancelToken::default())?;
        Ok::<_, velatura::Error>(made.pictures[0].clone())
    };
    let own = make(None).unwrap();
    let replaced = make(Some(&file)).unwrap();
    // Weights of zero make a picture of one colour.
    assert!(replaced.rgb.iter().all(|&v| v == replaced.rgb[0]) && own.rgb != replaced.rgb);
    assert!(make(Some(&other.join("vae"))).unwrap().rgb == replaced.rgb);
    assert!(make(Some(&folder.join("vae"))).unwrap().rgb == own.rgb);
    assert_eq!(replaced.origin.request.vae.as_deref(), file.to_str());
    let error = make(Some(&folder)).unwrap_err().to_string();
    assert!(error.contains("it holds unet, vae, text_encoder"), "{error}");
    let error = make(Some(&weights_file(&folder, "unet"))).unwrap_err().to_string();
    assert!(error.contains("cannot be used as the VAE"), "{error}");
}

#[test]
fn long_prompts_reach_the_picture_to_their_end() {
    let (_temporary, folder) = folder();
    let engine = Engine::open(&folder, EngineOptions::default()).unwrap();
    let text = "a mountain lake, ".repeat(25);
    let vectors = engine.text_vectors(&GenerateRequest::new(text.as_str()), false).unwrap();
    assert_eq!(vectors.tokens(), 2 * 77);
    let make = |text: String| {
        let request = GenerateRequest {
            seed: Some(1),
            steps: Some(2),
            width: Some(32),
            height: Some(32),
            ..GenerateRequest::new(text)
        };
        engine.generate(&request, &mut |_| (), &CancelToken::default()).unwrap().pictures.remove(0).rgb
    };
    assert!(make(text.clone() + "red") != make(text + "blue"));
}

#[test]
fn tensors_of_no_part_are_mentioned() {
    let (_temporary, folder) = folder();
    change(&folder, "unet", |_, shape| Some(shape));
    let path = weights_file(&folder, "unet");
    let file = SafetensorsFile::open(&path).unwrap();
    let stray = [1.0];
    let all: Vec<(String, Vec<usize>, Vec<f32>)> = file
        .names()
        .into_iter()
        .map(|n| (n.clone(), file.info(&n).unwrap().shape, file.f32(&n).unwrap().into_owned()))
        .collect();
    let mut tensors: Vec<TensorToWrite<'_>> = all
        .iter()
        .map(|(name, shape, values)| TensorToWrite::new(name.clone(), shape, Storage::F16, values))
        .collect();
    tensors.push(TensorToWrite::new("stray.weight", &[1], Storage::F16, &stray));
    write_safetensors(&path, &tensors, &Default::default()).unwrap();
    let engine = Engine::open(&folder, EngineOptions::default()).unwrap();
    assert!(engine.remarks()[0].contains("stray.weight"), "{:?}", engine.remarks());
}

#[test]
fn scales_beside_weights_reach_the_picture() {
    let (_temporary, folder) = folder();
    let make = || {
        let request = GenerateRequest {
            seed: Some(1),
            steps: Some(2),
            width: Some(32),
            height: Some(32),
            ..GenerateRequest::new("a fox")
        };
        let engine = Engine::open(&folder, EngineOptions::default()).unwrap();
        engine.generate(&request, &mut |_| (), &CancelToken::default()).unwrap().pictures.remove(0).rgb
    };
    let own = make();
    // A quarter of every matrix, as ComfyUI scales them: exact, whatever the type.
    let path = weights_file(&folder, "unet");
    let rewrite = |scale: f32| {
        let file = SafetensorsFile::open(&path).unwrap();
        let mut all: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
        for name in file.names() {
            let shape = file.info(&name).unwrap().shape;
            let mut values = file.f32(&name).unwrap().into_owned();
            if let (Some(layer), [_, _]) = (name.strip_suffix(".weight"), &shape[..]) {
                values.iter_mut().for_each(|v| *v *= 0.25);
                all.push((format!("{layer}.scale_weight"), vec![], vec![scale]));
            }
            all.push((name, shape, values));
        }
        let tensors: Vec<TensorToWrite<'_>> = all
            .iter()
            .map(|(name, shape, v)| TensorToWrite::new(name.clone(), shape, Storage::F32, v))
            .collect();
        drop(file);
        write_safetensors(&path, &tensors, &Default::default()).unwrap();
    };
    let before = std::fs::read(&path).unwrap();
    rewrite(4.0);
    assert!(make() == own);
    std::fs::write(&path, before).unwrap();
    rewrite(3.0);
    assert!(make() != own);
}

/// A single file of a case, with more tensors of these names.
fn single_file_with(case: &Case, folder: &Path, names: &[&str]) -> std::path::PathBuf {
    case.write_folder(&folder.join("model"));
    let file = folder.join("single.safetensors");
    let checkpoint = Checkpoint::open(folder.join("model"), &OpenOptions::default()).unwrap();
    checkpoint.write_single_file(&file, &SaveOptions::default()).unwrap();
    let source = SafetensorsFile::open(&file).unwrap();
    let mut all: Vec<(String, Vec<usize>, Vec<f32>)> = source
        .names()
        .into_iter()
        .map(|n| (n.clone(), source.info(&n).unwrap().shape, source.f32(&n).unwrap().into_owned()))
        .collect();
    all.extend(names.iter().map(|name| (name.to_string(), vec![1], vec![0.0])));
    let tensors: Vec<TensorToWrite<'_>> =
        all.iter().map(|(name, shape, v)| TensorToWrite::new(name.clone(), shape, Storage::F16, v)).collect();
    let marked = folder.join("marked.safetensors");
    write_safetensors(&marked, &tensors, &Default::default()).unwrap();
    marked
}

#[test]
fn marks_of_xl_files_say_what_is_predicted() {
    let temporary = tempfile::tempdir().unwrap();
    let case = Expected::xl().case("sdxl");
    let open = |names: &[&str]| {
        Engine::open(single_file_with(&case, temporary.path(), names), EngineOptions::default())
    };
    let engine = open(&[]).unwrap();
    let schedule = &engine.manifest().schedule;
    assert_eq!((schedule.prediction, schedule.zero_snr), (Prediction::Epsilon, false));
    let d = &engine.manifest().defaults;
    assert_eq!((d.width, d.height, d.guidance), (1024, 1024, 5.0));
    let engine = open(&["v_pred", "ztsnr"]).unwrap();
    let schedule = &engine.manifest().schedule;
    assert_eq!((schedule.prediction, schedule.zero_snr), (Prediction::VPrediction, true));
    let error = open(&["edm_mean", "edm_std"]).err().unwrap().to_string();
    assert!(error.contains("marked.safetensors") && error.contains("EDM"), "{error}");
}

#[test]
fn a_request_may_say_what_is_predicted_and_what_xl_is_told() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("sdxl");
    Expected::xl().case("sdxl").write_folder(&folder);
    let engine = Engine::open(&folder, EngineOptions::default()).unwrap();
    let base = GenerateRequest {
        seed: Some(1),
        steps: Some(2),
        width: Some(40),
        height: Some(32),
        sampler: Some("euler".into()),
        schedule: Some("linspace".into()),
        ..GenerateRequest::new("a lake")
    };
    let make = |request: &GenerateRequest| {
        let made = engine.generate(request, &mut |_| (), &CancelToken::default()).unwrap();
        made.pictures.into_iter().next().unwrap().rgb
    };
    let own = make(&base);
    let predicts = |prediction| make(&GenerateRequest { prediction: Some(prediction), ..base.clone() });
    assert!(predicts(Prediction::Epsilon) == own);
    let others = [Prediction::VPrediction, Prediction::Sample, Prediction::Flow].map(predicts);
    assert!(others.iter().all(|picture| *picture != own) && others[0] != others[2]);
    let sizes = |sizes| make(&GenerateRequest { sizes, ..base.clone() });
    let (original_size, target_size) = (Some([40, 32]), Some([40, 32]));
    let same = SizeConditions { original_size, target_size, crop: Some([0, 0]), ..Default::default() };
    assert!(sizes(same) == own);
    assert!(sizes(SizeConditions { crop: Some([0, 8]), ..same }) != own);
    // Scores are for the refiner.
    assert!(sizes(SizeConditions { aesthetic_score: Some(9.0), ..same }) == own);
}
