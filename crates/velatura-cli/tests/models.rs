//! The command and other tools' model files: what `inspect` says of them and what `convert` makes of them. The names and
//! shapes are those of tiny models of the true layouts, made by `scripts/fixtures/layouts.py`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use velatura_weights::{SafetensorsFile, Storage, TensorSource, TensorToWrite, write_safetensors};

fn run(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_velatura"));
    command.args(args).current_dir(folder).env_remove("VELATURA_LOG").stdin(Stdio::null());
    command.env("VELATURA_MODELS", folder.join("models")).env("HF_HUB_CACHE", folder.join("cache"));
    command.env("HF_HUB_OFFLINE", "1").output().unwrap()
}

fn shown(folder: &Path, args: &[&str]) -> String {
    let output = run(folder, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(folder: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&shown(folder, args)).unwrap()
}

fn refused(folder: &Path, args: &[&str], code: i32) -> String {
    let output = run(folder, args);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {errors}");
    errors
}

fn weights_fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../velatura-weights/tests/fixtures").join(name)
}

/// Names and shapes of a tiny model's single file.
fn layout(name: &str) -> BTreeMap<String, Vec<usize>> {
    let all: Value =
        serde_json::from_slice(&std::fs::read(weights_fixture("layouts.json")).unwrap()).unwrap();
    let case = all["cases"].as_array().unwrap().iter().find(|c| c["name"] == name).unwrap();
    serde_json::from_value(case["stored"].clone()).unwrap()
}

/// A file of such tensors. Their numbers are small and different.
fn write(path: &Path, tensors: &BTreeMap<String, Vec<usize>>, storage: Storage) {
    let data: Vec<(&String, &Vec<usize>, Vec<f32>)> = tensors
        .iter()
        .enumerate()
        .map(|(k, (name, shape))| {
            let n: usize = shape.iter().product();
            (name, shape, (0..n).map(|i| ((i * 7 + k * 3) % 251) as f32 / 256.0 - 0.5).collect())
        })
        .collect();
    let tensors: Vec<_> =
        data.iter().map(|(n, s, d)| TensorToWrite::new(n.as_str(), s, storage, d)).collect();
    write_safetensors(path, &tensors, &BTreeMap::from([("author".into(), "somebody".into())])).unwrap();
}

#[test]
fn a_whole_model_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut stored = layout("sd1");
    write(&folder.path().join("whole.safetensors"), &stored, Storage::F16);
    let text = shown(folder.path(), &["inspect", "whole.safetensors"]);
    for says in [
        "safetensors, ",
        "Stable Diffusion 1.x, distilled (fewer blocks)\n",
        "predicts epsilon, as its family does",
        "unet (UNet2DConditionModel)",
        "vae (AutoencoderKL)",
        "text_encoder (CLIPTextModel)",
        "F16\n",
        "author: somebody",
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
    for never in ["lacks", "missing", "no known part", "left aside"] {
        assert!(!text.contains(never), "{never}: {text}");
    }
    // The sums are those of the file.
    let value = json(folder.path(), &["inspect", "whole.safetensors", "--json"]);
    let elements: usize = stored.values().map(|s| s.iter().product::<usize>()).sum();
    let sum =
        |key: &str| value["parts"].as_array().unwrap().iter().map(|p| p[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!(sum("parameters"), elements as u64);
    assert_eq!(value["bytes"], 2 * elements);
    assert_eq!((&value["problem"], &value["prediction"]), (&Value::Null, &"epsilon".into()));
    assert_eq!(value["parts"][0]["types"]["F16"], value["parts"][0]["tensors"]);

    stored.remove("model.diffusion_model.out.2.bias");
    stored.retain(|name, _| !name.starts_with("first_stage_model."));
    stored.insert("mystery.weight".into(), vec![3]);
    stored.insert("model_ema.decay".into(), vec![1]);
    write(&folder.path().join("parts.safetensors"), &stored, Storage::F32);
    let text = shown(folder.path(), &["inspect", "parts.safetensors"]);
    for says in [
        "unet lacks (1):\n  conv_out.bias",
        "missing parts: vae",
        "belongs to no known part (1):\n  mystery.weight",
        "1 tensor: the running average",
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
    let value = json(folder.path(), &["inspect", "parts.safetensors", "--json"]);
    assert_eq!(value["missing_parts"][0], "vae");
    assert_eq!(value["unmatched"][0], "mystery.weight");
    assert!(value["problem"].as_str().unwrap().contains("vae"), "{value}");
}

#[test]
fn weights_with_scales_beside_them_are_told() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(weights_fixture("scaled_fp8.safetensors"), folder.path().join("text.safetensors")).unwrap();
    let text = shown(folder.path(), &["inspect", "text.safetensors"]);
    let says = "12 weights have a scale beside them (scaled fp8) and are read as F32";
    assert!(text.contains(says) && text.contains("a mark of weights in fp8"), "{text}");
    assert_eq!(json(folder.path(), &["inspect", "text.safetensors", "--json"])["scaled"], 12);
}

#[test]
fn families_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.safetensors");
    for (name, says) in [
        ("inpainting", "Stable Diffusion 1.x, inpainting"),
        ("sd2", "Stable Diffusion 2.x"),
        ("sdxl", "Stable Diffusion XL"),
        ("refiner", "Stable Diffusion XL refiner"),
        ("upscaler", "Stable Diffusion x4 upscaler"),
    ] {
        write(&file, &layout(name), Storage::F16);
        let text = shown(folder.path(), &["inspect", "m.safetensors"]);
        assert!(text.contains(&format!("\n{says}")), "{name}: {text}");
    }
    let text = shown(folder.path(), &["inspect", "m.safetensors"]);
    assert!(text.contains("predicts v_prediction, as its family does"), "{text}");
    let mut marked = layout("sdxl");
    marked.insert("v_pred".into(), vec![0]);
    write(&file, &marked, Storage::F16);
    let text = shown(folder.path(), &["inspect", "m.safetensors"]);
    assert!(text.contains("predicts v_prediction, by the tensor v_pred"), "{text}");
}

#[test]
fn what_is_no_model_is_named() {
    let folder = tempfile::tempdir().unwrap();
    type Shapes<'a> = &'a [(&'a str, &'a [usize])];
    let cases: [(Shapes<'_>, &str); 10] = [
        (
            &[
                (
                    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight",
                    &[16, 768],
                ),
                (
                    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_up.weight",
                    &[320, 16],
                ),
                ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.alpha", &[]),
            ],
            "LoRA, rank 16, 1 updates, for Stable Diffusion 1.x",
        ),
        (
            &[
                ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v.lora_A.weight", &[4, 2048]),
                ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v.lora_B.weight", &[640, 4]),
                ("unet.down_blocks.1.attentions.0.proj_in.lora_A.weight", &[8, 640]),
                ("unet.down_blocks.2.attentions.0.proj_in.lora_A.weight", &[8, 640]),
            ],
            "LoRA, mostly rank 8, 3 updates, for Stable Diffusion XL",
        ),
        (&[("lora_unet_x.hada_w1_a", &[320, 8]), ("lora_unet_x.hada_w1_b", &[8, 320])], "LoHa, rank 8"),
        (&[("control_model.input_hint_block.0.weight", &[16, 3, 3, 3])], "ControlNet"),
        (&[("emb_params", &[4, 768])], "textual inversion embedding of 4 vectors, for Stable Diffusion 1.x"),
        (&[("<cat-toy>", &[1024])], "textual inversion embedding of 1 vector, for Stable Diffusion 2.x"),
        (&[("clip_g", &[2, 1280]), ("clip_l", &[2, 768])], "embedding of 2 vectors, for Stable Diffusion XL"),
        (&[("model.diffusion_model.double_blocks.0.img_attn.qkv.weight", &[9, 3])], "FLUX"),
        (&[("body.0.rdb1.conv1.weight", &[4, 4, 3, 3])], "ESRGAN"),
        (&[("layers.0.weight", &[768]), ("layers.0.bias", &[768])], "unknown"),
    ];
    for (tensors, says) in cases {
        let tensors = tensors.iter().map(|(n, s)| (n.to_string(), s.to_vec())).collect();
        write(&folder.path().join("m.safetensors"), &tensors, Storage::F32);
        let text = shown(folder.path(), &["inspect", "m.safetensors"]);
        assert!(text.contains(says), "{says}: {text}");
        let value = json(folder.path(), &["inspect", "m.safetensors", "--json", "--tensors"]);
        assert_eq!(value["kind"], "other");
        assert_eq!(value["tensors"].as_array().unwrap().len(), tensors.len());
    }
    for (file, says) in
        [("state.zip.pt", "PyTorch zip archive"), ("typed.pt", "PyTorch"), ("blocks.gguf", "GGUF")]
    {
        let text = shown(folder.path(), &["inspect", weights_fixture(file).to_str().unwrap()]);
        assert!(text.contains(says) && text.contains("\nunknown\n"), "{file}: {text}");
    }
    let says = refused(folder.path(), &["inspect", "."], 1);
    assert!(says.contains("m.safetensors"), "{says}");
}

fn tensors(path: &Path) -> BTreeMap<String, (String, Vec<usize>, Vec<u8>)> {
    let file = SafetensorsFile::open(path).unwrap();
    let tensors = file.tensors().iter().map(|(name, entry)| {
        let bytes = file.tensor_bytes(name).unwrap().into_owned();
        (name.clone(), (entry.dtype.to_string(), entry.shape.clone(), bytes))
    });
    tensors.collect()
}

fn listing(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

#[test]
fn every_layout_becomes_every_other() {
    let folder = tempfile::tempdir().unwrap();
    let work = folder.path();
    for name in ["sd1", "sd2", "sdxl", "refiner", "upscaler", "inpainting"] {
        let first = work.join("first.safetensors");
        write(&first, &layout(name), Storage::F16);
        shown(work, &["convert", "first.safetensors", "hub/"]);
        let told = json(work, &["inspect", "hub", "--json"]);
        assert_eq!(told["format"], "diffusers folder");
        let first_told = json(work, &["inspect", "first.safetensors", "--json"]);
        assert_eq!(
            (&told["family"], &told["missing_parts"]),
            (&first_told["family"], &first_told["missing_parts"])
        );
        let has_first = name != "refiner";
        assert_eq!(work.join("hub/tokenizer/vocab.json").is_file(), has_first, "{name}");
        assert_eq!(work.join("hub/tokenizer_2/merges.txt").is_file(), ["sdxl", "refiner"].contains(&name));
        shown(work, &["convert", "hub", "second.safetensors"]);
        assert_eq!(tensors(&work.join("second.safetensors")), tensors(&first), "{name}");
        shown(work, &["convert", "hub", "m.gguf"]);
        let from_gguf = json(work, &["inspect", "m.gguf", "--json"]);
        for key in ["family", "task", "missing_parts", "unmatched"] {
            assert_eq!(from_gguf[key], told[key], "{name} {key}");
        }
        shown(work, &["convert", "m.gguf", "third.safetensors", "--storage", "f16"]);
        assert_eq!(tensors(&work.join("third.safetensors")), tensors(&first), "{name}");
        for file in ["second.safetensors", "m.gguf", "third.safetensors"] {
            std::fs::remove_file(work.join(file)).unwrap();
        }
        std::fs::remove_dir_all(work.join("hub")).unwrap();
    }
}

#[test]
fn storage_and_parts_are_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let work = folder.path();
    write(&work.join("m.safetensors"), &layout("sd1"), Storage::F32);
    shown(work, &["convert", "m.safetensors", "half.safetensors", "--storage", "bf16"]);
    assert!(tensors(&work.join("half.safetensors")).values().all(|(dtype, ..)| dtype == "BF16"));
    shown(work, &["convert", "m.safetensors", "vae.safetensors", "--parts", "vae"]);
    assert!(tensors(&work.join("vae.safetensors")).keys().all(|name| name.starts_with("first_stage_model.")));
    shown(
        work,
        &["convert", "m.safetensors", "some", "--parts", "vae,text_encoder", "--format", "diffusers"],
    );
    assert_eq!(listing(&work.join("some")), ["text_encoder", "tokenizer", "vae"]);
    let says = refused(work, &["convert", "m.safetensors", "m.gguf"], 2);
    assert!(says.contains("--storage q8_0"), "{says}");
    shown(work, &["convert", "m.safetensors", "m.gguf", "--storage", "q8_0"]);
    let told = json(work, &["inspect", "m.gguf", "--json"]);
    assert!(told["parts"][0]["types"]["Q8_0"].as_u64().unwrap() > 0, "{told}");
    assert_eq!(told["prediction"], "epsilon");
    // A variant of a folder.
    shown(work, &["convert", "m.safetensors", "hub"]);
    for part in ["unet", "vae"] {
        let plain = work.join("hub").join(part).join("diffusion_pytorch_model.safetensors");
        std::fs::rename(&plain, plain.with_file_name("diffusion_pytorch_model.fp16.safetensors")).unwrap();
    }
    shown(work, &["convert", "hub", "again.safetensors", "--variant", "fp16"]);
    assert_eq!(tensors(&work.join("again.safetensors")), tensors(&work.join("m.safetensors")));
}

#[test]
fn nothing_is_lost_in_silence() {
    let folder = tempfile::tempdir().unwrap();
    let work = folder.path();
    let mut stored = layout("sd1");
    write(&work.join("m.safetensors"), &stored, Storage::F16);
    stored.insert("mystery.weight".into(), vec![3]);
    write(&work.join("more.safetensors"), &stored, Storage::F16);
    shown(work, &["convert", "m.safetensors", "hub"]);
    let before = listing(work);

    let check = |from: &str, to: &str, code: i32, words: &str| {
        let says = refused(work, &["convert", from, to], code);
        assert!(says.contains(words), "{from} to {to}: {says}");
        assert_eq!(listing(work), before, "{from} to {to}");
    };
    check("more.safetensors", "to.safetensors", 1, "mystery.weight");
    check("m.safetensors", "hub", 1, "exists already");
    check("m.safetensors", "more.safetensors", 2, "--force");
    check("m.safetensors", "m.safetensors", 2, "--force");
    check("m.safetensors", "m.ckpt", 2, ".safetensors");
    check("hub", "hub/inside", 2, "are the same");
    check("m.safetensors", "no/folder/m.gguf", 1, "create its folder");

    let vae = work.join("hub/vae/config.json");
    edit(&vae, |config| config["scaling_factor"] = 0.5.into());
    check("hub", "to.safetensors", 1, "the vae's scaling_factor, 0.5 instead of 0.18215");
    edit(&vae, |config| config["scaling_factor"] = 0.18215.into());
    let scheduler = work.join("hub/scheduler/scheduler_config.json");
    edit(&scheduler, |config| config["beta_start"] = 0.01.into());
    check("hub", "to.gguf", 1, "beta_start, 0.01");
    edit(&scheduler, |config| config["beta_start"] = 0.00085.into());
    edit(&scheduler, |config| config["rescale_betas_zero_snr"] = true.into());
    check("hub", "to.safetensors", 1, "rescale_betas_zero_snr");
    edit(&scheduler, |config| config["rescale_betas_zero_snr"] = false.into());
    edit(&work.join("hub/tokenizer/tokenizer_config.json"), |config| config["pad_token"] = "!".into());
    edit(&work.join("hub/tokenizer/special_tokens_map.json"), |config| config["pad_token"] = "!".into());
    check("hub", "to.safetensors", 1, "tokenizer, which is not OpenAI's");
    let output = run(work, &["convert", "hub", "to.safetensors", "--lossy"]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("warning: left out: tokenizer"));
    assert_eq!(tensors(&work.join("to.safetensors")), tensors(&work.join("m.safetensors")));
    std::fs::remove_file(work.join("to.safetensors")).unwrap();

    // A number beyond f16's range, in a tensor far back in the file.
    let data = [70000.0; 16];
    let all: Vec<_> = layout("sd1").into_iter().collect();
    let zeros = vec![0.0; all.iter().map(|(_, s)| s.iter().product::<usize>()).max().unwrap()];
    let tensors: Vec<_> = all
        .iter()
        .map(|(name, shape)| {
            let n: usize = shape.iter().product();
            let big = name == "model.diffusion_model.out.0.bias" && n <= data.len();
            TensorToWrite::new(name.as_str(), shape, Storage::F32, if big { &data[..n] } else { &zeros[..n] })
        })
        .collect();
    write_safetensors(work.join("m.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    let says = refused(work, &["convert", "m.safetensors", "to.safetensors", "--storage", "f16"], 1);
    assert!(says.contains("model.diffusion_model.out.0.bias") && says.contains("70000"), "{says}");
    assert_eq!(listing(work), before);
}

#[test]
fn marks_survive() {
    let folder = tempfile::tempdir().unwrap();
    let work = folder.path();
    let mut stored = layout("sdxl");
    stored.insert("v_pred".into(), vec![0]);
    stored.insert("ztsnr".into(), vec![0]);
    write(&work.join("m.safetensors"), &stored, Storage::F16);
    let output = run(work, &["convert", "m.safetensors", "hub"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let scheduler = std::fs::read(work.join("hub/scheduler/scheduler_config.json")).unwrap();
    let scheduler: Value = serde_json::from_slice(&scheduler).unwrap();
    assert_eq!(scheduler["prediction_type"], "v_prediction");
    assert_eq!(scheduler["rescale_betas_zero_snr"], true);
    shown(work, &["convert", "hub", "back.safetensors"]);
    let back = tensors(&work.join("back.safetensors"));
    assert!(back.keys().eq(stored.keys()));
    assert!(refused(work, &["convert", "hub", "m.gguf"], 1).contains("ztsnr"));
}

#[test]
fn models_are_listed_and_found_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let work = folder.path();
    let models = work.join("models");
    let snapshot = work.join("cache/models--owner--dream/snapshots/c0ffee");
    let refs = work.join("cache/models--owner--dream/refs");
    for path in [&models, &snapshot, &refs] {
        std::fs::create_dir_all(path).unwrap();
    }
    std::fs::write(refs.join("main"), "c0ffee").unwrap();
    write(&models.join("Tiny_SD.safetensors"), &layout("sd1"), Storage::F16);
    std::fs::write(models.join("broken.safetensors"), "<html>").unwrap();
    write(&snapshot.join("xl.safetensors"), &layout("sdxl"), Storage::F16);

    let text = shown(work, &["models"]);
    for says in
        ["shipped", "Tiny_SD", "Stable Diffusion 1.x", "owner/dream", "Stable Diffusion XL", "cannot be read"]
    {
        assert!(text.contains(says), "{says}: {text}");
    }
    let value = json(work, &["models", "--json"]);
    let names: Vec<&str> =
        value["models"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["shipped", "Tiny_SD", "broken", "owner/dream"]);

    assert!(shown(work, &["inspect", "tiny_sd"]).contains("Stable Diffusion 1.x"));
    assert!(shown(work, &["inspect", "owner/dream"]).contains("Stable Diffusion XL"));
    shown(work, &["convert", "tiny_sd", "half.safetensors"]);
    let says = refused(work, &["generate", "a cat", "--model", "tinysd"], 1);
    assert!(says.contains("near it are Tiny_SD"), "{says}");
    let says = refused(work, &["inspect", "owner/other"], 1);
    assert!(says.contains("owner/other is not in") && says.contains("HF_HUB_OFFLINE"), "{says}");
}
