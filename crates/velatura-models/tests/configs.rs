//! Published configurations, and configurations that are wrong.

use velatura_graph::{Builder, DType, GraphError, Init, Params, Var};
use velatura_models::unet::{ClassEmbedding, DownBlock, UpBlock};
use velatura_models::{
    AutoencoderConfig, ConfigError, OneOrMany, TextConfig, TextInputs, UNetConfig, UNetInputs,
};

/// The number of weights of a network, or why it cannot be built.
fn count(build: impl for<'g> FnOnce(&'g Builder, &Params<'g>)) -> Result<usize, GraphError> {
    let b = Builder::new();
    build(&b, &b.params());
    b.finish().map(|graph| graph.parameter_elements())
}

fn unet<'g>(b: &'g Builder, p: &Params<'g>, config: &UNetConfig) -> Var<'g> {
    let float = |name: &str, shape: &[usize]| b.input(name, shape, DType::F32);
    let width = config.cross_attention_dim.as_ref().and_then(|d| d.get(0)).copied().unwrap_or(1);
    let inputs = UNetInputs {
        context: Some(float("context", &[1, 7, width])),
        pooled: Some(float("pooled", &[1, 1280])),
        time_ids: Some(float("time_ids", &[1, 6])),
        class_labels: Some(b.input("class_labels", &[1], DType::I32)),
        ..UNetInputs::new(float("sample", &[1, 16, 16, config.in_channels]), float("timestep", &[1]))
    };
    config.build(p, inputs)
}

fn unet_weights(config: &UNetConfig) -> Result<usize, GraphError> {
    count(|b, p| {
        unet(b, p, config);
    })
}

/// The sizes that diffusers and transformers report for the published models.
#[test]
fn published_networks_have_their_number_of_weights() {
    assert_eq!(unet_weights(&UNetConfig::sd15()), Ok(859_520_964));
    assert_eq!(unet_weights(&UNetConfig::sd15().inpainting()), Ok(859_535_364));
    assert_eq!(unet_weights(&UNetConfig::sd21()), Ok(865_910_724));
    assert_eq!(unet_weights(&UNetConfig::sdxl()), Ok(2_567_463_684));
    let text = |config: TextConfig| {
        count(|b, p| {
            config.build(p, TextInputs::new(b.input("ids", &[1, 77], DType::I32)));
        })
    };
    assert_eq!(text(TextConfig::clip_l()), Ok(123_060_480));
    assert_eq!(text(TextConfig::openclip_h()), Ok(340_387_840));
    assert_eq!(text(TextConfig::openclip_g()), Ok(694_659_840));
    let autoencoder = |config: AutoencoderConfig| {
        count(|b, p| {
            let moments = config.encode(p, b.input("picture", &[1, 64, 64, 3], DType::F32));
            config.decode(p, moments.mean);
        })
    };
    assert_eq!(autoencoder(AutoencoderConfig::sd()), Ok(83_653_863));
    assert_eq!(AutoencoderConfig::sd().downsampling(), 8);
    assert_eq!(AutoencoderConfig::f4().downsampling(), 4);
    assert_eq!(AutoencoderConfig::f16().downsampling(), 16);
}

/// As published beside Stable Diffusion 1.5, with a field of a version to come.
const SD15_JSON: &str = r#"{
    "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.6.0", "act_fn": "silu", "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": false, "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1, "flip_sin_to_cos": true, "freq_shift": 0, "in_channels": 4, "layers_per_block": 2,
    "mid_block_scale_factor": 1, "norm_eps": 1e-05, "norm_num_groups": 32, "out_channels": 4, "sample_size": 64,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "not_invented_yet": {"x": [1]}
}"#;

#[test]
fn published_files_are_read() {
    assert_eq!(UNetConfig::from_json(SD15_JSON), Ok(UNetConfig::sd15()));
    let text = r#"{"architectures": ["CLIPTextModel"], "hidden_size": 768, "intermediate_size": 3072, "eos_token_id": 2,
        "num_attention_heads": 12, "num_hidden_layers": 12, "hidden_act": "quick_gelu", "projection_dim": 768}"#;
    let expected = TextConfig { eos_token_id: 2, ..TextConfig::clip_l() };
    assert_eq!(TextConfig::from_json(text), Ok(expected));
    let with_projection = text.replace("CLIPTextModel", "CLIPTextModelWithProjection");
    assert_eq!(TextConfig::from_json(&with_projection).unwrap().projection_dim, Some(768));
}

#[test]
fn what_is_written_is_read_back() {
    let shipped = UNetConfig {
        num_class_embeds: Some(3),
        class_embed_type: Some(ClassEmbedding::Embedding),
        pooled_projection_dim: Some(16),
        mid_block_type: None,
        cross_attention_dim: None,
        transformer_layers_per_block: OneOrMany::Many(vec![
            OneOrMany::One(1),
            OneOrMany::Many(vec![1, 2]),
            OneOrMany::One(0),
            OneOrMany::One(1),
        ]),
        zero_init: true,
        ..UNetConfig::default()
    };
    for config in [shipped, UNetConfig::sd15(), UNetConfig::sd21(), UNetConfig::sdxl()] {
        assert_eq!(UNetConfig::from_json(&serde_json::to_string(&config).unwrap()), Ok(config));
    }
    for config in [AutoencoderConfig::sd(), AutoencoderConfig { patch_size: 2, ..AutoencoderConfig::f4() }] {
        assert_eq!(AutoencoderConfig::from_json(&serde_json::to_string(&config).unwrap()), Ok(config));
    }
    let text = TextConfig { causal: false, ..TextConfig::openclip_g() };
    assert_eq!(TextConfig::from_json(&serde_json::to_string(&text).unwrap()), Ok(text));
}

#[test]
fn wrong_files_are_refused_by_the_fields_name() {
    let with = |from: &str, to: &str| {
        assert!(SD15_JSON.contains(from), "{from}");
        UNetConfig::from_json(&SD15_JSON.replace(from, to)).unwrap_err().to_string()
    };
    for (from, to, named) in [
        (r#""cross_attention_dim": 768"#, r#""cross_attention_dim": "wide""#, "cross_attention_dim"),
        (r#""block_out_channels": [320"#, r#""block_out_channels": [3.5"#, "block_out_channels[0]"),
        (r#""DownBlock2D""#, r#""SimpleCrossAttnDownBlock2D""#, "down_block_types[3]"),
        (r#""in_channels": 4"#, r#""in_channels": -4"#, "in_channels"),
        (r#""in_channels": 4"#, r#""in_channels": 0"#, "in_channels"),
        (
            r#""in_channels": 4"#,
            r#""in_channels": 4, "time_embedding_type": "fourier""#,
            "time_embedding_type",
        ),
        (r#""in_channels": 4"#, r#""in_channels": 4, "addition_embed_type": "image""#, "addition_embed_type"),
        (r#""in_channels": 4"#, r#""in_channels": 4, "class_embed_type": "projection""#, "projection_class"),
        (r#""norm_num_groups": 32"#, r#""norm_num_groups": 33"#, "norm_num_groups (33)"),
        (r#""norm_num_groups": 32"#, r#""norm_num_groups": null"#, "norm_num_groups"),
        (r#""attention_head_dim": 8"#, r#""attention_head_dim": 7"#, "attention_head_dim"),
        (r#""attention_head_dim": 8"#, r#""attention_head_dim": [8, 8]"#, "attention_head_dim"),
        (r#""layers_per_block": 2"#, r#""layers_per_block": 2000000000"#, "layers_per_block"),
        (r#""act_fn": "silu""#, r#""act_fn": "sigmoidal""#, "act_fn"),
        (r#""freq_shift": 0"#, r#""freq_shift": 160"#, "freq_shift"),
    ] {
        let message = with(from, to);
        assert!(message.contains(named) && message.contains("U-Net"), "{to}: {message}");
    }
    assert!(matches!(UNetConfig::from_json("{"), Err(ConfigError::Field { .. })));
    assert!(matches!(UNetConfig::from_json("[1]"), Err(ConfigError::Field { .. })));
    let tiny = r#"{"down_block_types": ["AttnDownEncoderBlock2D"], "block_out_channels": [64]}"#;
    assert!(matches!(AutoencoderConfig::from_json(tiny), Err(ConfigError::Unsupported { .. })));
    let zero = r#"{"scaling_factor": 0}"#;
    assert!(AutoencoderConfig::from_json(zero).unwrap_err().to_string().contains("scaling_factor"));
    let heads = r#"{"num_attention_heads": 7}"#;
    assert!(TextConfig::from_json(heads).unwrap_err().to_string().contains("num_attention_heads (7)"));
}

/// Configurations that were put together by hand reach `build` unchecked.
#[test]
fn what_cannot_be_built_is_an_error_and_no_panic() {
    let base = || UNetConfig { block_out_channels: vec![32, 64, 64, 64], ..UNetConfig::sd15() };
    assert!(unet_weights(&base()).is_ok());
    for (config, named) in [
        (UNetConfig { block_out_channels: vec![], ..base() }, "block_out_channels"),
        (UNetConfig { block_out_channels: vec![32, 64, 64, 65], ..base() }, "65"),
        (UNetConfig { block_out_channels: vec![usize::MAX; 4], ..base() }, "block_out_channels"),
        (UNetConfig { attention_head_dim: OneOrMany::Many(vec![]), ..base() }, "attention_head_dim"),
        (UNetConfig { num_attention_heads: Some(OneOrMany::One(5)), ..base() }, "heads"),
        (UNetConfig { layers_per_block: OneOrMany::One(0), ..base() }, "layers_per_block"),
        (UNetConfig { norm_num_groups: 0, ..base() }, "norm_num_groups"),
        (UNetConfig { conv_in_kernel: 4, ..base() }, "conv_in_kernel"),
        (UNetConfig { down_block_types: vec![DownBlock::DownBlock2D], ..base() }, "down_block_types"),
        (UNetConfig { up_block_types: vec![UpBlock::UpBlock2D; 5], ..base() }, "up_block_types"),
        (UNetConfig { pooled_projection_dim: Some(12), ..base() }, "input pooled"),
        (UNetConfig { class_embeddings_concat: true, ..base() }, "class labels"),
        (UNetConfig { norm_eps: f32::NAN, ..base() }, "norm_eps"),
    ] {
        let message = unet_weights(&config).unwrap_err().to_string();
        assert!(message.contains(named), "{named}: {message}");
    }

    let without_context = count(|b, p| {
        let sample = b.input("sample", &[1, 8, 8, 4], DType::F32);
        base().build(p, UNetInputs::new(sample, b.input("timestep", &[1], DType::F32)));
    });
    assert!(without_context.unwrap_err().to_string().contains("the input context"));
    let of_three_axes = count(|b, p| {
        let sample = b.input("sample", &[8, 8, 4], DType::F32);
        base().build(p, UNetInputs::new(sample, b.input("timestep", &[1], DType::F32)));
    });
    assert!(of_three_axes.unwrap_err().to_string().contains("the input sample"));

    let patches = AutoencoderConfig { patch_size: 2, ..AutoencoderConfig::f4() };
    let picture = |h, w, config: &AutoencoderConfig| {
        count(|b, p| {
            config.encode(p, b.input("picture", &[1, h, w, 3], DType::F32));
        })
    };
    assert!(picture(12, 16, &patches).is_ok());
    assert!(picture(12, 15, &patches).unwrap_err().to_string().contains("12x15"));
    assert!(picture(2, 2, &AutoencoderConfig::f16()).is_err());
    let groups = AutoencoderConfig { norm_num_groups: 7, ..AutoencoderConfig::sd() };
    assert!(picture(64, 64, &groups).unwrap_err().to_string().contains("norm_num_groups (7)"));

    let text = |shape: &[usize]| {
        count(|b, p| {
            TextConfig::clip_l().build(p, TextInputs::new(b.input("ids", shape, DType::I32)));
        })
    };
    assert!(text(&[1, 78]).unwrap_err().to_string().contains("78 tokens"));
    assert!(text(&[77]).is_err());
}

#[test]
fn the_end_of_a_text_is_found_as_transformers_finds_it() {
    let config = TextConfig { eos_token_id: 9, ..TextConfig::default() };
    let ids = [8, 3, 9, 9, 8, 9, 0, 0, 8, 1, 2, 3];
    assert_eq!(config.end_rows(&ids, 4), [2, 5, 11]);
    // Early files: the highest id.
    let early = TextConfig { eos_token_id: 2, ..config };
    assert_eq!(early.end_rows(&ids, 4), [2, 5, 8]);
    assert!(early.end_rows(&[], 0).is_empty());
}

#[test]
fn zero_init_makes_residual_branches_the_identity_at_first() {
    let config = UNetConfig { zero_init: true, ..UNetConfig::sd15() };
    let b = Builder::new();
    unet(&b, &b.params(), &config);
    let graph = b.finish().unwrap();
    for parameter in graph.parameters().iter().filter(|p| !p.name.contains("norm")) {
        let zero = ["conv2", "proj_out", "conv_out"].iter().any(|part| parameter.name.contains(part));
        assert_eq!(parameter.init == Init::Zeros, zero, "{}", parameter.name);
    }
    let weight = graph.parameter("down_blocks.0.resnets.0.conv1.weight").unwrap();
    assert_eq!(weight.init, Init::fan_in(320 * 9));
}
