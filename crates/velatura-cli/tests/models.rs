//! The command and other tools' model files: what `inspect` says of them and what `convert` makes of them. The names and
//! shapes are those of tiny models of the true layouts, made by `scripts/fixtures/layouts.py`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use velatura_weights::{Storage, TensorToWrite, write_safetensors};

fn run(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_velatura"));
    command.args(args).current_dir(folder).env_remove("VELATURA_LOG").stdin(Stdio::null()).output().unwrap()
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
