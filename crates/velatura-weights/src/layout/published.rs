//! The published models at full size: from their `config.json` to names and shapes, and from these alone back to the
//! family, the configuration and nothing unmatched, in both layouts.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::autoencoder::Autoencoder;
use super::clip::Clip;
use super::unet::Unet;
use super::{Entry, Form, Table};
use crate::{Checkpoint, DType, Family, PartKind, Task, TensorEntry, TensorSource, WeightsError};

/// Names and shapes; all numbers are plus and minus this in turn.
#[derive(Default)]
struct Shapes(BTreeMap<String, TensorEntry>, f32);

impl Shapes {
    fn add(&mut self, prefix: &str, table: Table, original: bool) {
        for entry in table.0 {
            let (name, shape) = if original {
                (&entry.original, entry.original_shape())
            } else {
                (&entry.name, entry.shape.clone())
            };
            self.0.insert(format!("{prefix}{name}"), TensorEntry { shape, dtype: DType::F16 });
        }
    }
}

impl TensorSource for Shapes {
    fn path(&self) -> &Path {
        Path::new("shapes")
    }
    fn tensors(&self) -> &BTreeMap<String, TensorEntry> {
        &self.0
    }
    fn metadata(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        &NONE
    }
    fn tensor_bytes(&self, name: &str) -> Result<Cow<'_, [u8]>, WeightsError> {
        let value = |i| if i % 2 == 0 { self.1 } else { -self.1 };
        let values: Vec<f32> = (0..self.tensor(name)?.elements()).map(value).collect();
        Ok(Cow::Owned(crate::f32_to_bytes(&values, crate::Storage::F16)))
    }
}

fn types(attends: &[bool], way: &str) -> Vec<String> {
    attends.iter().map(|&a| format!("{}{way}Block2D", if a { "CrossAttn" } else { "" })).collect()
}

fn unet(channels: &[usize], attends: &[bool], more: Value) -> Value {
    let back: Vec<bool> = attends.iter().rev().copied().collect();
    let mut config = json!({
        "block_out_channels": channels,
        "down_block_types": types(attends, "Down"),
        "up_block_types": types(&back, "Up"),
        "in_channels": 4,
        "out_channels": 4,
        "layers_per_block": 2,
    });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

/// The published denoisers: name, family, task, whether distilled, configuration.
fn published() -> Vec<(&'static str, Family, Task, bool, Value)> {
    let (first, one) = ([320, 640, 1280, 1280], [true, true, true, false]);
    let sd1 = |more: Value| {
        let mut config = unet(&first, &one, json!({"cross_attention_dim": 768, "attention_head_dim": 8}));
        more.as_object().unwrap().iter().for_each(|(k, v)| config[k] = v.clone());
        config
    };
    let sd2 = json!({"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": true});
    let xl = json!({
        "cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20], "use_linear_projection": true,
        "transformer_layers_per_block": [1, 2, 10], "addition_embed_type": "text_time",
        "projection_class_embeddings_input_dim": 2816,
    });
    let refiner = json!({
        "cross_attention_dim": 1280, "attention_head_dim": [6, 12, 24, 24], "use_linear_projection": true,
        "transformer_layers_per_block": 4, "addition_embed_type": "text_time",
        "projection_class_embeddings_input_dim": 2560,
    });
    let upscaler = json!({
        "cross_attention_dim": 1024, "attention_head_dim": 8, "use_linear_projection": true, "in_channels": 7,
        "num_class_embeds": 1000, "only_cross_attention": [true, true, true, false],
    });
    let variation = json!({
        "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": true,
        "class_embed_type": "projection", "projection_class_embeddings_input_dim": 2048,
    });
    use Family::*;
    use Task::*;
    vec![
        ("stable-diffusion-v1-5", Sd1, TextToImage, false, sd1(json!({}))),
        ("stable-diffusion-inpainting", Sd1, Inpainting, false, sd1(json!({"in_channels": 9}))),
        ("instruct-pix2pix", Sd1, InstructPix2Pix, false, sd1(json!({"in_channels": 8}))),
        ("LCM_Dreamshaper_v7", Sd1, TextToImage, false, sd1(json!({"time_cond_proj_dim": 256}))),
        ("bk-sdm-base", Sd1, TextToImage, true, sd1(json!({"layers_per_block": 1}))),
        ("bk-sdm-small", Sd1, TextToImage, true, sd1(json!({"layers_per_block": 1, "mid_block_type": null}))),
        ("bk-sdm-tiny", Sd1, TextToImage, true, {
            let more = json!({"cross_attention_dim": 768, "attention_head_dim": 8, "layers_per_block": 1,
                "mid_block_type": null});
            unet(&[320, 640, 1280], &[true, true, true], more)
        }),
        ("stable-diffusion-2-1", Sd2, TextToImage, false, unet(&first, &one, sd2)),
        ("stable-diffusion-2-1-unclip", Sd2, Variation, false, unet(&first, &one, variation)),
        (
            "stable-diffusion-xl-base-1.0",
            Sdxl,
            TextToImage,
            false,
            unet(&[320, 640, 1280], &[false, true, true], xl),
        ),
        (
            "stable-diffusion-xl-refiner-1.0",
            SdxlRefiner,
            TextToImage,
            false,
            unet(&[384, 768, 1536, 1536], &[false, true, true, false], refiner),
        ),
        (
            "stable-diffusion-x4-upscaler",
            X4Upscaler,
            Upscaling,
            false,
            unet(&[256, 512, 512, 1024], &[false, true, true, true], upscaler),
        ),
    ]
}

#[test]
fn published_denoisers_are_told_from_names_and_shapes() {
    for (name, family, task, distilled, config) in published() {
        let dimensions = Unet::from_config(&config).unwrap();
        for (prefix, original) in
            [("model.diffusion_model.", true), ("", true), ("unet.", false), ("", false)]
        {
            let mut shapes = Shapes::default();
            shapes.add(prefix, dimensions.table(), original);
            let model = Checkpoint::of_source(Arc::new(shapes)).unwrap();
            assert_eq!((model.family(), model.task()), (Some(family), Some(task)), "{name}");
            assert_eq!(model.is_distilled(), distilled, "{name}");
            assert_eq!(model.has_guidance_embedding(), config.get("time_cond_proj_dim").is_some(), "{name}");
            assert!(model.unmatched().is_empty(), "{name}: {:?}", model.unmatched());
            let part = model.part(PartKind::Unet).unwrap();
            assert!(part.missing.is_empty(), "{name}: {:?}", part.missing);
            // What is inferred means the same to a reader of configurations.
            assert_eq!(Unet::from_config(&part.config).unwrap(), dimensions, "{name}");
            assert_eq!(part.config["attention_head_dim"], config["attention_head_dim"], "{name}");
            assert_eq!(part.config["norm_num_groups"], 32);
        }
    }
}

#[test]
fn counts_of_parameters_are_the_published_ones() {
    // The figures of the model cards and papers: 859.52 M, 865.91 M, 2.5675 B and 83.65 M, 123.06 M, 340.39 M, 694.66 M.
    let count = |table: Table| table.0.iter().map(|e| e.shape.iter().product::<usize>()).sum::<usize>();
    let of = |name: &str| {
        let found = published().into_iter().find(|p| p.0 == name).unwrap();
        count(Unet::from_config(&found.4).unwrap().table())
    };
    assert_eq!(of("stable-diffusion-v1-5"), 859_520_964);
    assert_eq!(of("stable-diffusion-2-1"), 865_910_724);
    assert_eq!(of("stable-diffusion-xl-base-1.0"), 2_567_463_684);
    assert_eq!(count(autoencoder().table()), 83_653_863);
    assert_eq!(count(clip(768, 12, None).table()), 123_060_480);
    assert_eq!(count(clip(1024, 23, None).table()), 340_387_840);
    assert_eq!(count(clip(1280, 32, Some(1280)).table()), 694_659_840);
}

fn autoencoder() -> Autoencoder {
    Autoencoder {
        colours: 3,
        latent: 4,
        channels: vec![128, 256, 512, 512],
        layers: 2,
        quant: true,
        post_quant: true,
    }
}

fn clip(hidden: usize, layers: usize, projection: Option<usize>) -> Clip {
    Clip { vocabulary: 49408, positions: 77, hidden, layers, intermediate: hidden * 4, projection }
}

#[test]
fn second_generation_models_show_what_they_predict() {
    for (spread, is) in [(0.05, crate::Prediction::Epsilon), (0.2, crate::Prediction::V)] {
        let found = published().into_iter().find(|p| p.0 == "stable-diffusion-2-1").unwrap();
        let mut file = Shapes(BTreeMap::new(), spread);
        file.add("model.diffusion_model.", Unet::from_config(&found.4).unwrap().table(), true);
        let model = Checkpoint::of_source(Arc::new(file)).unwrap();
        assert_eq!(model.prediction(), Some(is));
        let side = if is == crate::Prediction::V { 96 } else { 64 };
        assert_eq!(model.part(PartKind::Unet).unwrap().config["sample_size"], side);
    }
}

#[test]
fn whole_files_of_the_published_size_are_complete() {
    let denoiser = |name: &str| {
        let found = published().into_iter().find(|p| p.0 == name).unwrap();
        Unet::from_config(&found.4).unwrap().table()
    };
    let mut file = Shapes::default();
    file.add("model.diffusion_model.", denoiser("stable-diffusion-2-1"), true);
    file.add("first_stage_model.", autoencoder().table(), true);
    // The file has OpenCLIP's 24 layers and its projection, of which diffusers takes 23 and none.
    file.add("cond_stage_model.model.", clip(1024, 24, Some(1024)).table(), true);
    let model = Checkpoint::of_source(Arc::new(file)).unwrap();
    model.check_complete().unwrap();
    let text = model.part(PartKind::TextEncoder).unwrap();
    assert_eq!((&text.config["num_hidden_layers"], &text.config["hidden_act"]), (&json!(23), &json!("gelu")));
    assert_eq!(text.config["num_attention_heads"], 16);
    assert_eq!((model.unmatched().len(), model.unused().len()), (0, 13));

    let mut file = Shapes::default();
    file.add("model.diffusion_model.", denoiser("stable-diffusion-xl-base-1.0"), true);
    file.add("first_stage_model.", autoencoder().table(), true);
    file.add("conditioner.embedders.0.transformer.", clip(768, 12, None).table(), false);
    file.add("conditioner.embedders.1.model.", clip(1280, 32, Some(1280)).table(), true);
    file.0.insert(
        "conditioner.embedders.1.model.logit_scale".into(),
        TensorEntry { shape: vec![], dtype: DType::F32 },
    );
    file.0.insert("v_pred".into(), TensorEntry { shape: vec![0], dtype: DType::F32 });
    let model = Checkpoint::of_source(Arc::new(file)).unwrap();
    model.check_complete().unwrap();
    assert_eq!(model.prediction(), Some(crate::Prediction::V));
    assert!(model.unmatched().is_empty());
    let vae = model.part(PartKind::Vae).unwrap();
    assert_eq!((&vae.config["scaling_factor"], &vae.config["sample_size"]), (&json!(0.13025), &json!(1024)));
    let second = model.part(PartKind::TextEncoder2).unwrap();
    assert_eq!(
        (&second.config["projection_dim"], second.class_name()),
        (&json!(1280), "CLIPTextModelWithProjection")
    );
    let first = model.part(PartKind::TextEncoder).unwrap();
    assert_eq!(
        (&first.config["hidden_act"], &first.config["num_attention_heads"]),
        (&json!("quick_gelu"), &json!(12))
    );
}

#[test]
fn absurd_configurations_are_none() {
    let good = &published()[0].4;
    for (key, value) in [
        ("layers_per_block", json!(1 << 19)),
        ("layers_per_block", json!(0)),
        ("transformer_layers_per_block", json!(1u64 << 40)),
        ("transformer_layers_per_block", json!([1, 2])),
        ("block_out_channels", json!(vec![4; 100])),
        ("block_out_channels", json!([-1, 2, 3, 4])),
        ("down_block_types", json!(["a"])),
        ("up_block_types", json!(7)),
    ] {
        let mut config = good.clone();
        config[key] = value.clone();
        assert_eq!(Unet::from_config(&config), None, "{key} {value}");
    }
    let huge =
        Entry { name: "x".into(), original: "x".into(), form: Form::Whole, shape: vec![1 << 40, 0, 3, 3] };
    let mut shapes = Shapes::default();
    shapes.add("", Unet::from_config(good).unwrap().table(), true);
    shapes.add(
        "",
        Table(vec![Entry { original: "input_blocks.1.0.in_layers.2.weight".into(), ..huge }]),
        true,
    );
    assert!(Checkpoint::of_source(Arc::new(shapes)).is_err());
}
