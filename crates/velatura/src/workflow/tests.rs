//! Graphs as ComfyUI writes them.

use proptest::prelude::*;
use serde_json::json;

use serde_json::{Map, Value};
use velatura_models::unet::FreeU;
use velatura_samplers::Prediction;
use velatura_text::prompt::Dialect;

use super::*;
use crate::request::{GenerateRequest, PerturbedAttention, SelfAttentionGuidance};

/// ComfyUI's own first workflow.
fn default_workflow() -> Value {
    json!({
        "3": {"class_type": "KSampler", "inputs": {"cfg": 8, "denoise": 1, "latent_image": ["5", 0],
            "model": ["4", 0], "negative": ["7", 0], "positive": ["6", 0], "sampler_name": "euler",
            "scheduler": "normal", "seed": 156680208700286u64, "steps": 20}},
        "4": {"class_type": "CheckpointLoaderSimple",
            "inputs": {"ckpt_name": "v1-5-pruned-emaonly.safetensors"}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"batch_size": 1, "height": 512, "width": 768}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["4", 1],
            "text": "beautiful scenery nature glass bottle landscape"}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["4", 1], "text": "text, watermark"}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]}}
    })
}

fn read(graph: &Value) -> FromWorkflow {
    parse(&graph.to_string()).unwrap()
}

#[test]
fn the_default_workflow_is_a_request() {
    let read = read(&default_workflow());
    let expected = GenerateRequest {
        prompt: "beautiful scenery nature glass bottle landscape".into(),
        negative: "text, watermark".into(),
        seed: Some(156_680_208_700_286),
        steps: Some(20),
        guidance: Some(8.0),
        width: Some(768),
        height: Some(512),
        sampler: Some("euler".into()),
        schedule: Some("normal".into()),
        prompt_dialect: Dialect::ComfyUi,
        ..GenerateRequest::default()
    };
    assert_eq!(read.request, expected);
    assert_eq!(read.model.as_deref(), Some("v1-5-pruned-emaonly.safetensors"));
    assert_eq!(read.left_out, [""; 0]);
}

#[test]
fn what_a_request_cannot_say_is_told() {
    let mut graph = default_workflow();
    graph["10"] = json!({"class_type": "LoraLoader", "inputs": {"lora_name": "ink.safetensors",
        "strength_model": 0.8, "model": ["4", 0], "clip": ["4", 1]}});
    graph["11"] = json!({"class_type": "CLIPSetLastLayer",
        "inputs": {"stop_at_clip_layer": -2, "clip": ["10", 1]}});
    graph["12"] =
        json!({"class_type": "ControlNetApply", "inputs": {"conditioning": ["6", 0], "strength": 1}});
    graph["13"] = json!({"class_type": "PrimitiveInt", "inputs": {"value": 77}, "is_changed": [null]});
    graph["3"]["inputs"]["model"] = json!(["10", 0]);
    graph["3"]["inputs"]["positive"] = json!(["12", 0]);
    graph["3"]["inputs"]["seed"] = json!(["13", 0]);
    graph["3"]["inputs"]["denoise"] = json!(0.5);
    graph["5"]["inputs"]["batch_size"] = json!(4);
    graph["6"]["inputs"] = json!({"clip": ["11", 0], "text": "a (red:1.2) fox"});
    let text = graph.to_string().replace("[null]", "[NaN]");
    let read = parse(&text).unwrap();
    assert_eq!((read.request.seed, read.request.clip_skip), (Some(77), Some(2)));
    assert_eq!(read.request.prompt, "a (red:1.2) fox");
    for says in ["ink.safetensors", "ControlNetApply", "denoise of 0.5", "batch"] {
        assert!(read.left_out.iter().any(|left| left.contains(says)), "{says}: {:?}", read.left_out);
    }
    assert_eq!(read.left_out.len(), 4);
}

/// Inputs and defaults of ComfyUI's nodes: `nodes_freelunch.py`, `nodes_model_advanced.py`, `nodes_pag.py`, `nodes_sag.py`.
#[test]
fn what_is_done_to_the_model_is_taken_over() {
    let mut graph = default_workflow();
    let chain = [
        (
            "30",
            json!({"class_type": "ModelSamplingDiscrete", "inputs": {"sampling": "v_prediction", "zsnr": true}}),
        ),
        ("31", json!({"class_type": "FreeU_V2", "inputs": {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2}})),
        ("32", json!({"class_type": "RescaleCFG", "inputs": {"multiplier": 0.65}})),
        ("33", json!({"class_type": "PerturbedAttentionGuidance", "inputs": {"scale": 2.5}})),
        ("34", json!({"class_type": "SelfAttentionGuidance", "inputs": {"scale": 0.5, "blur_sigma": 2.0}})),
        ("35", json!({"class_type": "Reroute", "inputs": {}})),
        ("36", json!({"class_type": "HyperTile", "inputs": {"tile_size": 256}})),
        (
            "37",
            json!({"class_type": "LoraLoaderModelOnly", "inputs": {"lora_name": "ink.safetensors",
            "strength_model": 0.8}}),
        ),
    ];
    let mut before = "4";
    for (id, mut node) in chain {
        let key = if node["class_type"] == "Reroute" { "" } else { "model" };
        node["inputs"][key] = json!([before, 0]);
        graph[id] = node;
        before = id;
    }
    graph["3"]["inputs"]["model"] = json!([before, 0]);
    graph["40"] = json!({"class_type": "VAELoader", "inputs": {"vae_name": "mse.safetensors"}});
    graph["8"]["inputs"]["vae"] = json!(["40", 0]);
    graph["41"] = json!({"class_type": "ImageUpscaleWithModel", "inputs": {"image": ["8", 0]}});
    graph["9"]["inputs"]["images"] = json!(["41", 0]);
    let read = read(&graph);
    let (request, options) = (&read.request, &read.request.guidance_options);
    assert_eq!(request.prediction, Some(Prediction::VPrediction));
    assert_eq!(request.zero_snr, Some(true));
    assert_eq!(request.freeu, Some(FreeU { s1: 0.9, s2: 0.2, b1: 1.3, b2: 1.4 }));
    assert_eq!(options.rescale, Some(0.65));
    let perturbed = PerturbedAttention { scale: 2.5, ..PerturbedAttention::default() };
    assert_eq!(options.perturbed_attention, Some(perturbed));
    assert_eq!(options.self_attention, Some(SelfAttentionGuidance { scale: 0.5, blur: 2.0 }));
    assert_eq!(read.model.as_deref(), Some("v1-5-pruned-emaonly.safetensors"));
    let mut left_out = read.left_out.clone();
    left_out.sort();
    assert_eq!(
        left_out,
        [
            "how FreeU_V2 follows the features (here the factors are those of the first FreeU)",
            "the LoRA ink.safetensors at 0.8",
            "the VAE mse.safetensors (--vae takes one)",
            "the node HyperTile",
            "the node ImageUpscaleWithModel, behind the sampler",
        ]
    );
}

#[test]
fn of_two_passes_the_first_is_taken() {
    let mut graph = default_workflow();
    let mut second = graph["3"].clone();
    second["inputs"]["latent_image"] = json!(["21", 0]);
    second["inputs"]["denoise"] = json!(0.4);
    second["inputs"]["seed"] = json!(1);
    graph["20"] = second;
    graph["21"] = json!({"class_type": "LatentUpscale", "inputs": {"samples": ["3", 0], "width": 1536}});
    graph["8"]["inputs"]["samples"] = json!(["20", 0]);
    let read = read(&graph);
    assert_eq!((read.request.seed, read.request.width), (Some(156_680_208_700_286), Some(768)));
    assert_eq!(read.left_out, ["1 more sampling passes"]);
}

#[test]
fn odd_graphs_come_to_an_end() {
    assert_eq!(parse("{}"), None);
    assert_eq!(parse("[1, 2]"), None);
    assert_eq!(parse("\"NaN\""), None);
    // A circle of conditionings, of models, and of samplers.
    let graph = json!({
        "1": {"class_type": "KSampler", "inputs": {"positive": ["2", 0], "negative": ["2", 0], "model": ["3", 0],
            "latent_image": ["1", 0], "seed": ["4", 0], "steps": -5, "cfg": "high"}},
        "2": {"class_type": "ConditioningCombine", "inputs": {"conditioning_1": ["2", 0]}},
        "3": {"class_type": "FreeU", "inputs": {"model": ["3", 0]}},
        "4": {"class_type": "Seed", "inputs": {"seed": ["4", 0]}}
    });
    let read = read(&graph);
    assert_eq!((read.request.steps, read.request.seed, read.model), (None, None, None));
    assert!(read.left_out.iter().any(|left| left.contains("seed")), "{:?}", read.left_out);
    // A long chain.
    let mut nodes = Map::new();
    for i in 0..20_000 {
        let next = json!([(i + 1).to_string(), 0]);
        nodes.insert(
            i.to_string(),
            json!({"class_type": "Reroute", "inputs": {"model": next, "samples": next}}),
        );
    }
    nodes.insert(
        "x".into(),
        json!({"class_type": "KSampler", "inputs": {"model": ["0", 0], "latent_image": ["0", 0]}}),
    );
    assert!(parse(&Value::Object(nodes).to_string()).is_some());
}

proptest! {
    #[test]
    fn any_text_is_read_or_not(text in "[\\[\\]{}\":,0-9a-zN \\\\\u{e9}-]{0,200}") {
        parse(&text);
    }
}
