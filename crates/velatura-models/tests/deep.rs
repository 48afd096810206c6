//! A network divided at each of its skip connections: what the deep part gave, handed to the shallow one, makes the whole.

use std::collections::HashMap;

use velatura_graph::reference::{Array, evaluate};
use velatura_graph::{Builder, DType, Graph, Op};
use velatura_models::unet::UNetChanges;
use velatura_models::{UNetConfig, UNetInputs};

const SIZE: [usize; 2] = [5, 6];

/// A small U-Net for `latents` latents and six texts, divided or not, whole or the shallow part alone.
fn graph(config: &UNetConfig, latents: usize, branch: Option<usize>, given: bool) -> Graph {
    let b = Builder::new();
    let float = |name: &str, shape: &[usize]| b.input(name, shape, DType::F32);
    let [height, width] = SIZE;
    let deep = branch.filter(|_| given).and_then(|branch| config.deep_shape(branch, [6, height, width]));
    let inputs = UNetInputs {
        context: Some(float("context", &[6, 3, 16])),
        pooled: config.reads_pooled().then(|| float("pooled", &[6, 8])),
        time_ids: config.reads_pooled().then(|| float("time_ids", &[6, 2])),
        deep: deep.map(|shape| float("deep", &shape)),
        ..UNetInputs::new(float("sample", &[latents, height, width, 4]), float("timestep", &[latents]))
    };
    let output = config.build_changed(&b.params(), inputs, &UNetChanges { branch, ..UNetChanges::default() });
    b.output("prediction", output.prediction);
    assert_eq!(output.deep.is_some(), branch.is_some() && !given);
    if let Some(deep) = output.deep {
        b.output("deep", deep);
    }
    b.finish().unwrap()
}

const PLAIN: &str = r#"{"_class_name": "UNet2DConditionModel", "block_out_channels": [8, 16],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 2, "norm_num_groups": 4, "attention_head_dim": 2, "cross_attention_dim": 16,
    "in_channels": 4, "out_channels": 4, "sample_size": 8}"#;

const XL: &str = r#"{"_class_name": "UNet2DConditionModel", "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 2, "cross_attention_dim": 16,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 16,
    "use_linear_projection": true, "in_channels": 4, "out_channels": 4, "sample_size": 8}"#;

/// Everything that the graph reads but what the deep part gave.
fn given(graph: &Graph) -> HashMap<String, Array> {
    let sources = graph.nodes().iter().filter_map(|node| {
        let name = match &node.op {
            Op::Input(input) => &input.name,
            Op::Parameter(parameter) => &parameter.name,
            _ => return None,
        };
        let shape = graph.ty(node.outputs[0]).shape.clone();
        let seed = 0.3 + name.bytes().map(f64::from).sum::<f64>() / 1e3;
        let count = shape.iter().product::<usize>();
        let data = (0..count).map(|i| ((i as f64 + 1.0) * seed).sin()).collect();
        Some((name.clone(), Array { shape, data }))
    });
    sources.collect()
}

fn flops(graph: &Graph) -> f64 {
    graph.nodes().iter().map(|node| graph.flops(node)).sum()
}

#[test]
fn both_parts_make_the_whole_at_every_skip_connection() {
    for (json, latents) in [(PLAIN, 6), (PLAIN, 2), (XL, 3)] {
        let config = UNetConfig::from_json(json).unwrap();
        let whole = graph(&config, latents, None, false);
        let wanted = evaluate(&whole, &given(&whole)).remove("prediction").unwrap();
        let mut least = 0.0;
        for branch in 0..config.branches() {
            let full = graph(&config, latents, Some(branch), false);
            let mut found = evaluate(&full, &given(&full));
            assert_eq!(found["prediction"].data, wanted.data, "{branch}");
            let shallow = graph(&config, latents, Some(branch), true);
            let mut inputs = given(&shallow);
            inputs.insert("deep".into(), found.remove("deep").unwrap());
            let answer = evaluate(&shallow, &inputs).remove("prediction").unwrap();
            assert_eq!(answer.data, wanted.data, "{branch}");
            // Each further skip connection leaves more to be computed.
            assert!(flops(&shallow) > least && flops(&shallow) < flops(&whole), "{branch}");
            least = flops(&shallow);
        }
    }
}

#[test]
fn a_branch_that_is_none_and_a_deep_part_that_does_not_fit_are_refused() {
    let config = UNetConfig::from_json(PLAIN).unwrap();
    let message = |branch: Option<usize>, deep: Option<&[usize]>| {
        let b = Builder::new();
        let float = |name: &str, shape: &[usize]| b.input(name, shape, DType::F32);
        let inputs = UNetInputs {
            context: Some(float("context", &[2, 3, 16])),
            deep: deep.map(|shape| float("deep", shape)),
            ..UNetInputs::new(float("sample", &[2, 4, 6, 4]), float("timestep", &[2]))
        };
        config.build_changed(&b.params(), inputs, &UNetChanges { branch, ..UNetChanges::default() });
        b.finish().unwrap_err().to_string()
    };
    assert!(message(Some(6), None).contains("6 skip connections"));
    assert!(message(None, Some(&[2, 4, 6, 8])).contains("no branch"));
    assert!(message(Some(0), Some(&[2, 4, 6, 16])).contains("[2, 4, 6, 8]"));
    assert!(message(Some(0), Some(&[3, 4, 6, 8])).contains("2 latents"));
}
