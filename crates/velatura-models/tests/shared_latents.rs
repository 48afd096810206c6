//! Latents that are looked at with several texts: what comes before the first text is computed once.

use std::collections::HashMap;

use velatura_graph::reference::{Array, evaluate};
use velatura_graph::{Builder, DType, Graph, Op};
use velatura_models::{UNetConfig, UNetInputs};

/// A small U-Net of the kind of a published one, for `latents` latents and `texts` texts.
fn graph(config: &UNetConfig, latents: usize, texts: usize) -> Graph {
    let b = Builder::new();
    let float = |name: &str, shape: &[usize]| b.input(name, shape, DType::F32);
    let inputs = UNetInputs {
        context: Some(float("context", &[texts, 3, 16])),
        pooled: config.reads_pooled().then(|| float("pooled", &[texts, 8])),
        time_ids: config.reads_pooled().then(|| float("time_ids", &[texts, 2])),
        ..UNetInputs::new(float("sample", &[latents, 4, 6, 4]), float("timestep", &[latents]))
    };
    b.output("prediction", config.build(&b.params(), inputs));
    b.finish().unwrap()
}

fn small(json: &str) -> UNetConfig {
    UNetConfig::from_json(json).unwrap()
}

const PLAIN: &str = r#"{"_class_name": "UNet2DConditionModel", "block_out_channels": [8, 16],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 2, "cross_attention_dim": 16,
    "in_channels": 4, "out_channels": 4, "sample_size": 8}"#;

const XL: &str = r#"{"_class_name": "UNet2DConditionModel", "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 2, "cross_attention_dim": 16,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 16,
    "use_linear_projection": true, "in_channels": 4, "out_channels": 4, "sample_size": 8}"#;

fn numbers(count: usize, seed: f64) -> Vec<f64> {
    (0..count).map(|i| ((i as f64 + 1.0) * seed).sin()).collect()
}

/// Everything that the graph reads, of a batch of six: of the latents only as many as it takes.
fn given(graph: &Graph) -> HashMap<String, Array> {
    let sources = graph.nodes().iter().filter_map(|node| {
        let name = match &node.op {
            Op::Input(input) => &input.name,
            Op::Parameter(parameter) => &parameter.name,
            _ => return None,
        };
        let shape = graph.ty(node.outputs[0]).shape.clone();
        let seed = 0.3 + name.bytes().map(f64::from).sum::<f64>() / 1e3;
        // Latent i of any batch is one of two.
        let data = match name.as_str() {
            "sample" | "timestep" => {
                let each = shape[1..].iter().product::<usize>();
                let two = numbers(2 * each, seed);
                (0..shape[0] * each).map(|i| two[i % two.len()]).collect()
            }
            _ => numbers(shape.iter().product(), seed),
        };
        Some((name.clone(), Array { shape, data }))
    });
    sources.collect()
}

#[test]
fn the_prediction_is_that_of_repeated_latents() {
    for json in [PLAIN, XL] {
        let config = small(json);
        let answer = |latents| {
            let graph = graph(&config, latents, 6);
            evaluate(&graph, &given(&graph)).remove("prediction").unwrap()
        };
        let (shared, repeated) = (answer(2), answer(6));
        assert_eq!(shared.shape, [6, 4, 6, 4]);
        assert_eq!(shared.data, repeated.data);
        assert!(shared.data[..96] != shared.data[192..288], "texts make no difference");
    }
}

#[test]
fn what_comes_before_the_first_text_is_computed_once() {
    let config = small(PLAIN);
    let flops = |latents| {
        let graph = graph(&config, latents, 6);
        graph.nodes().iter().map(|node| graph.flops(node)).sum::<f64>()
    };
    let saved = flops(6) - flops(2);
    // Two thirds of the first residual block and of the first self-attention.
    assert!(saved > 0.03 * flops(6), "{saved}");
}

#[test]
fn conditions_that_are_no_multiple_of_the_latents_are_refused() {
    let b = Builder::new();
    let float = |name: &str, shape: &[usize]| b.input(name, shape, DType::F32);
    let inputs = UNetInputs {
        context: Some(float("context", &[3, 3, 16])),
        ..UNetInputs::new(float("sample", &[2, 4, 6, 4]), float("timestep", &[2]))
    };
    small(PLAIN).build(&b.params(), inputs);
    let message = b.finish().unwrap_err().to_string();
    assert!(message.contains("context") && message.contains("2 latents"), "{message}");
}
