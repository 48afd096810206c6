//! Graphs as ComfyUI writes them.

use proptest::prelude::*;
use serde_json::json;

use serde_json::{Map, Value};
use velatura_models::unet::FreeU;
use velatura_samplers::Prediction;
use velatura_text::prompt::Dialect;

use super::*;
use velatura_samplers::noise::{RngKind, StepNoise};

use crate::request::{GenerateRequest, PerturbedAttention, SamplingOptions, SelfAttentionGuidance};

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

fn read(graph: &Value) -> TakenOver {
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
        sampling: SamplingOptions { unit_start: true, ..SamplingOptions::default() },
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

/// `SamplerCustomAdvanced` in place of the default workflow's sampler; inputs and defaults of `nodes_custom_sampler.py`.
fn custom_workflow() -> Value {
    let mut graph = default_workflow();
    graph["3"] = json!({"class_type": "SamplerCustomAdvanced", "inputs": {"noise": ["50", 0], "guider": ["51", 0],
        "sampler": ["52", 0], "sigmas": ["53", 0], "latent_image": ["5", 0]}});
    graph["50"] = json!({"class_type": "RandomNoise", "inputs": {"noise_seed": 99}});
    graph["51"] = json!({"class_type": "CFGGuider", "inputs": {"model": ["4", 0], "positive": ["6", 0],
        "negative": ["7", 0], "cfg": 6.5}});
    graph["52"] = json!({"class_type": "KSamplerSelect", "inputs": {"sampler_name": "dpmpp_2m"}});
    graph["53"] = json!({"class_type": "BasicScheduler", "inputs": {"model": ["4", 0], "scheduler": "sgm_uniform",
        "steps": 24, "denoise": 1}});
    graph
}

#[test]
fn custom_samplers_are_read() {
    let expected = GenerateRequest {
        seed: Some(99),
        steps: Some(24),
        guidance: Some(6.5),
        sampler: Some("dpmpp_2m".into()),
        schedule: Some("sgm_uniform".into()),
        ..read(&default_workflow()).request
    };
    let advanced = read(&custom_workflow());
    assert_eq!((advanced.request, advanced.left_out), (expected.clone(), vec![]));
    assert_eq!(advanced.model.as_deref(), Some("v1-5-pruned-emaonly.safetensors"));
    let mut simple = custom_workflow();
    simple["3"] = json!({"class_type": "SamplerCustom", "inputs": {"add_noise": true, "noise_seed": 99, "cfg": 6.5,
        "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "sampler": ["52", 0], "sigmas": ["53", 0],
        "latent_image": ["5", 0]}});
    let simple = read(&simple);
    assert_eq!((simple.request, simple.left_out), (expected, vec![]));
}

#[test]
fn what_nodes_tell_a_sampler_is_taken_over() {
    let mut graph = custom_workflow();
    graph["52"] = json!({"class_type": "SamplerEulerAncestral", "inputs": {"eta": 0.7, "s_noise": 1.05}});
    graph["51"] =
        json!({"class_type": "BasicGuider", "inputs": {"model": ["4", 0], "conditioning": ["6", 0]}});
    graph["53"] = json!({"class_type": "KarrasScheduler", "inputs": {"steps": 5, "sigma_max": 14.614642,
        "sigma_min": 0.0291675, "rho": 6.0}});
    let taken = read(&graph);
    let request = &taken.request;
    assert_eq!((request.sampler.as_deref(), request.guidance), (Some("euler_ancestral"), Some(1.0)));
    assert_eq!((request.schedule.as_deref(), request.steps), (Some("karras"), Some(5)));
    let gpu = StepNoise::Anew { kind: RngKind::Cuda, delta: 0 };
    let sampling = SamplingOptions { unit_start: true, step_noise: gpu, ..SamplingOptions::default() };
    let eta = SamplingOptions { eta: Some(0.7), s_noise: Some(1.05), rho: Some(6.0), ..sampling.clone() };
    assert_eq!(request.sampling, eta);
    assert_eq!((request.negative.as_str(), taken.left_out), ("", vec![]));

    // Bounds of one's own are sigmas; these are of k-diffusion's `get_sigmas_karras(5, 0.1, 10.0, 7.0)`.
    graph["53"]["inputs"] = json!({"steps": 5, "sigma_max": 10.0, "sigma_min": 0.1, "rho": 7.0});
    graph["52"] = json!({"class_type": "SamplerDPMPP_2M_SDE",
        "inputs": {"solver_type": "heun", "eta": 1.0, "s_noise": 1.0, "noise_device": "cpu"}});
    let taken = read(&graph);
    let wanted = [10.0, 4.070_104_1, 1.450_732_1, 0.432_452_8, 0.1];
    let sigmas = &taken.request.sampling.sigmas;
    assert!(
        sigmas.len() == 5 && sigmas.iter().zip(wanted).all(|(a, b)| (a / b - 1.0).abs() < 1e-6),
        "{sigmas:?}"
    );
    assert_eq!((taken.request.steps, taken.request.schedule), (None, None));
    assert_eq!(taken.request.sampler.as_deref(), Some("dpmpp_2m_sde_heun"));
    let cpu = StepNoise::Anew { kind: RngKind::Cpu, delta: 0 };
    assert_eq!((taken.request.sampling.step_noise, taken.left_out), (cpu, vec![]));

    graph["53"] = json!({"class_type": "ManualSigmas", "inputs": {"sigmas": "14.6, 6.5,2  0.7 0"}});
    graph["52"] =
        json!({"class_type": "SamplerDPMAdaptative", "inputs": {"order": 2, "rtol": 0.05, "eta": 0.0}});
    let taken = read(&graph);
    assert_eq!(taken.request.sampling.sigmas, [14.6, 6.5, 2.0, 0.7, 0.0]);
    assert_eq!(taken.left_out, ["order 2 of the node SamplerDPMAdaptative"]);
}

#[test]
fn what_is_done_to_sigmas_and_prompts_on_the_way_is_told() {
    let mut graph = custom_workflow();
    graph["54"] = json!({"class_type": "SplitSigmas", "inputs": {"sigmas": ["53", 0], "step": 3}});
    graph["53"]["inputs"]["denoise"] = json!(0.6);
    graph["3"]["inputs"]["sigmas"] = json!(["54", 0]);
    graph["50"]["class_type"] = json!("DisableNoise");
    graph["51"] = json!({"class_type": "DualCFGGuider", "inputs": {"model": ["4", 0], "cond1": ["6", 0],
        "cond2": ["7", 0], "negative": ["7", 0], "cfg_conds": 5.0, "cfg_cond2_negative": 2.0}});
    let taken = read(&graph);
    assert_eq!((taken.request.steps, taken.request.guidance), (Some(24), Some(5.0)));
    for says in ["SplitSigmas", "denoise of 0.6", "adds no noise", "second prompt"] {
        assert!(taken.left_out.iter().any(|left| left.contains(says)), "{says}: {:?}", taken.left_out);
    }
    // Circles and what is no node.
    graph["54"]["inputs"]["sigmas"] = json!(["54", 0]);
    graph["3"]["inputs"]["sampler"] = json!(["3", 0]);
    graph["3"]["inputs"]["guider"] = json!(["nowhere", 0]);
    assert_eq!(read(&graph).request.sampler, None);
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
