//! Names and configurations against diffusers' own conversion of the same tensors. The fixture is made by
//! `scripts/fixtures/layouts.py`.

mod common;

use std::sync::Arc;

use common::{Named, layouts, shapes};
use serde_json::Value;
use velatura_weights::{Checkpoint, Family, PartKind, Prediction, Task, TensorSource};

fn crc32(values: &[f32]) -> u64 {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes());
    let step = |c: u32| if c & 1 == 1 { c >> 1 ^ 0xEDB88320 } else { c >> 1 };
    let crc = bytes.fold(u32::MAX, |c, b| (0..8).fold(c ^ u32::from(b), |c, _| step(c)));
    u64::from(!crc)
}

fn parts_of(case: &Value) -> impl Iterator<Item = (PartKind, &Value)> {
    case["parts"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, tensors)| (*PartKind::ALL.iter().find(|k| k.name() == name).unwrap(), tensors))
}

/// A number for all levels and a list of it mean the same.
fn spread(v: &Value) -> Value {
    let Value::Array(list) = v else { return v.clone() };
    let list: Vec<Value> = list.iter().map(spread).collect();
    if !list.is_empty() && list.iter().all(|v| v == &list[0]) { list[0].clone() } else { Value::Array(list) }
}

/// What a configuration says of the network's shape and use must be what diffusers' says.
fn same_config(what: &str, found: &Value, expected: &Value) {
    for (key, value) in expected.as_object().unwrap() {
        // Tiny networks have other groups, heads and sizes than follow from their tensors.
        if ["norm_num_groups", "attention_head_dim", "sample_size", "addition_time_embed_dim"]
            .contains(&key.as_str())
            || !found.as_object().unwrap().contains_key(key)
        {
            continue;
        }
        let (a, b) = (spread(&found[key]), spread(value));
        if key == "only_cross_attention" && b.is_array() {
            // A level without attention has no first attention to tell by.
            assert_eq!(a.as_array().unwrap()[1..], b.as_array().unwrap()[1..], "{what}");
            continue;
        }
        assert_eq!(a, b, "{what}: {key}");
    }
}

#[test]
fn single_files_become_what_diffusers_makes_of_them() {
    let families = [
        ("sd1", Family::Sd1, Task::TextToImage),
        ("inpainting", Family::Sd1, Task::Inpainting),
        ("sd2", Family::Sd2, Task::TextToImage),
        ("sdxl", Family::Sdxl, Task::TextToImage),
        ("refiner", Family::SdxlRefiner, Task::TextToImage),
        ("upscaler", Family::X4Upscaler, Task::Upscaling),
    ];
    let fixture = layouts();
    for (case, (name, family, task)) in fixture["cases"].as_array().unwrap().iter().zip(families) {
        assert_eq!(case["name"], name);
        let source = Arc::new(Named::new(shapes(&case["stored"])));
        let model = Checkpoint::of_source(source).unwrap();
        assert_eq!((model.family(), model.task()), (Some(family), Some(task)), "{name}");
        assert!(model.unmatched().is_empty() && model.unused().is_empty(), "{name}: {:?}", model.unmatched());
        let all = model.tensors();
        for (kind, expected) in parts_of(case) {
            let part = model.part(kind).unwrap_or_else(|| panic!("{name} lacks {kind}"));
            assert!(part.missing.is_empty(), "{name} {kind}: {:?}", part.missing);
            let expected = expected.as_object().unwrap();
            assert!(part.tensors.tensors().keys().eq(expected.keys()), "{name} {kind}");
            for (tensor, digest) in expected {
                let shape: Vec<usize> = serde_json::from_value(digest[0].clone()).unwrap();
                assert_eq!(part.tensors.tensor(tensor).unwrap().shape, shape, "{name} {kind} {tensor}");
                let values = part.tensors.tensor_f32(tensor).unwrap();
                assert_eq!(crc32(&values), digest[1].as_u64().unwrap(), "{name} {kind} {tensor}");
                assert_eq!(all.tensor(&format!("{kind}.{tensor}")).unwrap().shape, shape);
            }
        }
        same_config(name, &model.part(PartKind::Unet).unwrap().config, &case["unet_config"]);
        let complete = model.check_complete();
        match case["parts"].get("vae") {
            Some(_) => complete.unwrap(),
            None => {
                let says = complete.unwrap_err().to_string();
                assert!(says.contains("lacks vae") && says.contains("named.safetensors"), "{says}");
            }
        }
    }
}

#[test]
fn networks_in_diffusers_naming_are_recognised() {
    let fixture = layouts();
    for (name, case) in fixture["own"].as_object().unwrap() {
        let model = Checkpoint::of_source(Arc::new(Named::new(shapes(&case["shapes"])))).unwrap();
        let part = &model.parts()[0];
        assert!(part.missing.is_empty() && model.unmatched().is_empty(), "{name}: {:?}", part.missing);
        assert_eq!(part.tensors.tensors().len(), case["shapes"].as_object().unwrap().len());
        assert_eq!(part.class_name(), case["config"]["_class_name"].as_str().unwrap());
        same_config(name, &part.config, &case["config"]);
        assert_eq!(model.has_guidance_embedding(), name == "lcm");
        let distilled = ["distilled", "thinned"].contains(&name.as_str()) || name == "lcm";
        assert_eq!(model.is_distilled(), name != "tiny" && distilled, "{name}");
    }
}

#[test]
fn names_of_other_times_and_tools_are_known() {
    let fixture = layouts();
    let case = &fixture["cases"][0];
    let of = |prefix: &str| {
        let all = shapes(&case["stored"]).into_iter();
        all.filter_map(|(n, s)| n.strip_prefix(prefix).map(|n| (n.to_string(), s))).collect::<Vec<_>>()
    };
    let parts = |named: Named| {
        let model = Checkpoint::of_source(Arc::new(named)).unwrap();
        assert!(model.unmatched().is_empty(), "{:?}", model.unmatched());
        model.parts().iter().for_each(|p| assert!(p.missing.is_empty(), "{:?}", p.missing));
        model.parts().iter().map(|p| p.kind).collect::<Vec<_>>()
    };
    // Parts on their own, without a prefix.
    assert_eq!(parts(Named::new(of("model.diffusion_model."))), [PartKind::Unet]);
    assert_eq!(parts(Named::new(of("first_stage_model."))), [PartKind::Vae]);
    assert_eq!(parts(Named::new(of("cond_stage_model.transformer."))), [PartKind::TextEncoder]);
    // The text encoder without its outer module.
    let short = of("cond_stage_model.transformer.").into_iter();
    let short = short.map(|(n, s)| (n.replace("text_model.", ""), s)).collect::<Vec<_>>();
    assert_eq!(parts(Named::new(short.clone())), [PartKind::TextEncoder]);
    assert_eq!(parts(Named::under("cond_stage_model.transformer.", short)), [PartKind::TextEncoder]);
    // An autoencoder of an older diffusers.
    let vae = case["parts"]["vae"].as_object().unwrap();
    let older = vae.iter().map(|(n, d)| {
        let n = n
            .replace("to_q", "query")
            .replace("to_k", "key")
            .replace("to_v", "value")
            .replace("to_out.0", "proj_attn");
        (n, serde_json::from_value(d[0].clone()).unwrap())
    });
    assert_eq!(parts(Named::new(older)), [PartKind::Vae]);
    // The tiny autoencoder's halves in their original files, by bare numbers, and as one.
    let tiny = shapes(&fixture["own"]["tiny"]["shapes"]);
    let half = |side: &str, shift: usize| {
        let renamed = tiny.iter().filter_map(|(n, s)| {
            let (number, rest) = n.strip_prefix(&format!("{side}.layers."))?.split_once('.')?;
            Some((format!("{}.{rest}", number.parse::<usize>().unwrap() + shift), s.clone()))
        });
        Named::new(renamed.collect::<Vec<_>>())
    };
    assert_eq!(parts(half("decoder", 1)), [PartKind::Vae]);
    assert_eq!(parts(half("encoder", 0)), [PartKind::Vae]);
    let mut whole = Checkpoint::of_source(Arc::new(half("decoder", 1))).unwrap();
    whole.take_parts(Checkpoint::of_source(Arc::new(half("encoder", 0))).unwrap());
    let part = whole.part(PartKind::Vae).unwrap();
    assert!(part.tensors.tensors().keys().eq(tiny.iter().map(|(n, _)| n)));
    assert_eq!(*part.tensors.tensor_f32("decoder.layers.0.bias").unwrap(), common::numbers("1.bias", 4));
}

#[test]
fn parts_of_separate_files_make_a_model() {
    let fixture = layouts();
    let case = &fixture["cases"][0];
    let part = |prefix: &str| {
        let all = shapes(&case["stored"]).into_iter();
        let own = all.filter_map(|(n, s)| n.strip_prefix(prefix).map(|n| (n.to_string(), s)));
        Checkpoint::of_source(Arc::new(Named::new(own.collect::<Vec<_>>()))).unwrap()
    };
    let mut model = part("first_stage_model.");
    assert_eq!((model.family(), model.task()), (None, None));
    assert!(model.check_complete().unwrap_err().to_string().contains("unet"));
    model.take_parts(part("model.diffusion_model."));
    assert_eq!(model.missing_parts(), [PartKind::TextEncoder]);
    model.take_parts(part("cond_stage_model.transformer."));
    model.check_complete().unwrap();
    assert_eq!(model.family(), Some(Family::Sd1));
    // A second autoencoder takes the first one's place.
    model.take_parts(part("first_stage_model."));
    assert_eq!(model.parts().len(), 3);
}

#[test]
fn what_is_predicted_follows_from_marks() {
    let fixture = layouts();
    let named = |case: usize| Named::new(shapes(&fixture["cases"][case]["stored"]));
    let prediction = |named: Named| Checkpoint::of_source(Arc::new(named)).unwrap().prediction();
    assert_eq!(prediction(named(0)), Some(Prediction::Epsilon));
    // The tiny 2.x has no level where the mark would be.
    assert_eq!(prediction(named(2)), None);
    for (says, is) in [("v", Prediction::V), ("epsilon", Prediction::Epsilon)] {
        let mut marked = named(2);
        marked.metadata.insert("modelspec.prediction_type".into(), says.into());
        assert_eq!(prediction(marked), Some(is));
    }
    let mut marked = named(3);
    marked.tensors.extend(Named::new([("v_pred".to_string(), vec![0])]).tensors);
    assert_eq!(prediction(marked), Some(Prediction::V));
    assert_eq!(prediction(named(5)), Some(Prediction::V));
}

#[test]
fn what_lacks_and_what_is_too_much_is_named() {
    let fixture = layouts();
    let mut stored = shapes(&fixture["cases"][0]["stored"]);
    stored.retain(|(n, _)| n != "model.diffusion_model.middle_block.1.norm.bias");
    for name in
        ["betas", "model_ema.decay", "cond_stage_model.transformer.text_model.embeddings.position_ids"]
    {
        stored.push((name.into(), vec![1]));
    }
    stored.push(("control.weight".into(), vec![1]));
    let model = Checkpoint::of_source(Arc::new(Named::new(stored.clone()))).unwrap();
    assert_eq!(model.unmatched(), ["control.weight"]);
    assert_eq!(model.unused().len(), 3);
    let says = model.check_complete().unwrap_err().to_string();
    assert!(says.contains("unet lacks the tensor mid_block.attentions.0.norm.bias"), "{says}");

    let shape = stored.iter_mut().find(|(n, _)| n.ends_with("input_blocks.1.0.in_layers.2.bias")).unwrap();
    shape.1 = vec![3];
    let says = Checkpoint::of_source(Arc::new(Named::new(stored))).unwrap_err().to_string();
    assert!(says.contains("input_blocks.1.0.in_layers.2.bias") && says.contains("[3]"), "{says}");

    let foreign = Named::new([("bert.embeddings.weight".to_string(), vec![2, 2])]);
    let says = Checkpoint::of_source(Arc::new(foreign)).unwrap_err().to_string();
    assert!(says.contains("no part of a known model") && says.contains("bert.embeddings"), "{says}");
}
