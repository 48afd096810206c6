//! Small U-Nets of the kinds of the published ones, and numbers for all that they read.

use std::collections::HashMap;

use velatura_graph::reference::Array;
use velatura_graph::{Graph, Op};
use velatura_models::UNetConfig;

/// Of the kind of Stable Diffusion 1.5.
pub fn plain(layers_per_block: usize) -> UNetConfig {
    let json = r#"{"_class_name": "UNet2DConditionModel", "block_out_channels": [8, 16],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "norm_num_groups": 4, "attention_head_dim": 2, "cross_attention_dim": 16,
        "in_channels": 4, "out_channels": 4, "sample_size": 8}"#;
    UNetConfig { layers_per_block: layers_per_block.into(), ..UNetConfig::from_json(json).unwrap() }
}

/// Of the kind of SDXL, with one layer in a block.
pub fn xl() -> UNetConfig {
    let json = r#"{"_class_name": "UNet2DConditionModel", "block_out_channels": [8, 16],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 2, "cross_attention_dim": 16,
        "addition_embed_type": "text_time", "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 16,
        "use_linear_projection": true, "in_channels": 4, "out_channels": 4, "sample_size": 8}"#;
    UNetConfig::from_json(json).unwrap()
}

/// Everything that the graph reads. Latent i of any batch is one of two, and so is its timestep.
pub fn given(graph: &Graph) -> HashMap<String, Array> {
    let sources = graph.nodes().iter().filter_map(|node| {
        let name = match &node.op {
            Op::Input(input) => &input.name,
            Op::Parameter(parameter) => &parameter.name,
            _ => return None,
        };
        let shape = graph.ty(node.outputs[0]).shape.clone();
        let seed = 0.3 + name.bytes().map(f64::from).sum::<f64>() / 1e3;
        let count = shape.iter().product::<usize>();
        let different = match name.as_str() {
            "sample" | "timestep" => 2 * count / shape[0],
            _ => count,
        };
        let data = (0..count).map(|i| ((i % different) as f64 + 1.0) * seed).map(f64::sin).collect();
        Some((name.clone(), Array { shape, data }))
    });
    sources.collect()
}

pub fn flops(graph: &Graph) -> f64 {
    graph.nodes().iter().map(|node| graph.flops(node)).sum()
}
