//! Models written in every layout and read again.

mod common;

use std::sync::Arc;

use common::{Named, fixture, layouts, numbers, shapes};
use velatura_weights::{
    Checkpoint, GgufType, OpenOptions, Prediction, SafetensorsFile, SaveOptions, SaveProgress, Storage,
    TensorSource, open_tensors,
};

fn plain() -> OpenOptions {
    OpenOptions::default()
}

#[test]
fn a_single_file_through_diffusers_and_back_is_the_same() {
    let fixture = layouts();
    for case in fixture["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let stored = shapes(&case["stored"]);
        let model = Checkpoint::of_source(Arc::new(Named::new(stored.clone()))).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (hub, file) = (folder.path().join("hub"), folder.path().join("model.safetensors"));
        model.write_diffusers(&hub, &SaveOptions::default()).unwrap();
        let read = Checkpoint::open(&hub, &plain()).unwrap();
        assert_eq!((read.family(), read.task()), (model.family(), model.task()), "{name}");
        assert_eq!(read.prediction(), Some(model.prediction().unwrap_or(Prediction::Epsilon)));
        for (part, again) in model.parts().iter().zip(read.parts()) {
            assert!(again.config_is_given && again.missing.is_empty(), "{name} {}", part.kind);
            assert_eq!(part.config, again.config);
        }
        assert!(hub.join("model_index.json").exists());
        read.write_single_file(&file, &SaveOptions::default()).unwrap();
        let last = SafetensorsFile::open(&file).unwrap();
        assert_eq!(last.tensors().len(), stored.len(), "{name}");
        for (tensor, shape) in &stored {
            let found = last.f32_of_shape(tensor, shape).unwrap();
            assert_eq!(*found, numbers(tensor, found.len()), "{name} {tensor}");
        }
        let says = model.write_diffusers(&hub, &SaveOptions::default()).unwrap_err().to_string();
        assert!(says.contains("exists already"), "{says}");
    }
}

#[test]
fn what_fails_half_way_leaves_nothing() {
    let fixture = layouts();
    // A source that cannot be read beyond its first tensors.
    struct Broken(Named);
    impl TensorSource for Broken {
        fn path(&self) -> &std::path::Path {
            self.0.path()
        }
        fn tensors(&self) -> &std::collections::BTreeMap<String, velatura_weights::TensorEntry> {
            self.0.tensors()
        }
        fn metadata(&self) -> &std::collections::BTreeMap<String, String> {
            self.0.metadata()
        }
        fn tensor_bytes(
            &self,
            name: &str,
        ) -> Result<std::borrow::Cow<'_, [u8]>, velatura_weights::WeightsError> {
            if name.contains("output_blocks") {
                self.tensor("nowhere")?;
            }
            self.0.tensor_bytes(name)
        }
    }
    let source = Broken(Named::new(shapes(&fixture["cases"][0]["stored"])));
    let model = Checkpoint::of_source(Arc::new(source)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let says = [
        model.write_diffusers(folder.path().join("hub"), &SaveOptions::default()).unwrap_err(),
        model.write_single_file(folder.path().join("a.safetensors"), &SaveOptions::default()).unwrap_err(),
        model.write_gguf(folder.path().join("a.gguf"), GgufType::F16, &SaveProgress::default()).unwrap_err(),
    ];
    says.iter().for_each(|e| assert!(e.to_string().contains("nowhere"), "{e}"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    // Nor is anything written of a model of which tensors lack.
    let mut stored = shapes(&fixture["cases"][0]["stored"]);
    stored.retain(|(n, _)| !n.ends_with("out.2.bias"));
    let model = Checkpoint::of_source(Arc::new(Named::new(stored))).unwrap();
    let says =
        model.write_single_file(folder.path().join("a"), &SaveOptions::default()).unwrap_err().to_string();
    assert!(says.contains("conv_out.bias") && says.contains("incomplete"), "{says}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn writing_can_be_watched_and_stopped() {
    let fixture = layouts();
    let model = Checkpoint::of_source(Arc::new(Named::new(shapes(&fixture["cases"][0]["stored"])))).unwrap();
    let all: u64 = model.tensors().tensors().values().map(|e| e.elements() as u64).sum();
    let folder = tempfile::tempdir().unwrap();
    for stop_at in [u64::MAX, all / 2] {
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let watch = || {
            let seen = seen.clone();
            SaveProgress::new(move |done| {
                seen.lock().unwrap().push(done);
                done < stop_at
            })
        };
        let with = |progress| SaveOptions { progress, ..SaveOptions::default() };
        let results = [
            model.write_diffusers(folder.path().join("hub"), &with(watch())),
            model.write_single_file(folder.path().join("a.safetensors"), &with(watch())),
            model.write_gguf(folder.path().join("a.gguf"), GgufType::F16, &watch()),
        ];
        let seen = seen.lock().unwrap();
        if stop_at == u64::MAX {
            assert!(results.iter().all(|r| r.is_ok()));
            assert_eq!(seen.iter().filter(|&&n| n == all).count(), 3);
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
            std::fs::remove_dir_all(folder.path().join("hub")).unwrap();
            std::fs::remove_file(folder.path().join("a.safetensors")).unwrap();
            std::fs::remove_file(folder.path().join("a.gguf")).unwrap();
        } else {
            assert!(results.iter().all(|r| r.is_err()) && seen.iter().all(|&n| n < all));
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }
}

#[test]
fn gguf_holds_what_was_written() {
    let fixture = layouts();
    let case = &fixture["cases"][0];
    let model = Checkpoint::of_source(Arc::new(Named::new(shapes(&case["stored"])))).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (kind, tolerance) in [(GgufType::F16, 1e-3), (GgufType::Q8_0, 1.0 / 254.0 + 1e-3)] {
        let path = folder.path().join("model.gguf");
        model.write_gguf(&path, kind, &SaveProgress::default()).unwrap();
        let file = open_tensors(&path).unwrap();
        for (name, shape) in shapes(&case["stored"]) {
            assert_eq!(file.tensor(&name).unwrap().shape, shape);
            let (found, expected) = (file.tensor_f32(&name).unwrap(), numbers(&name, shape.iter().product()));
            let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= tolerance, "{name}: {worst}");
        }
        let quantized = file.tensors().values().filter(|e| e.dtype.name() == "Q8_0").count();
        assert_eq!(quantized > 10, kind == GgufType::Q8_0, "{quantized}");
        Checkpoint::open(&path, &plain()).unwrap().check_complete().unwrap();
    }
}

#[test]
fn blocks_are_quantized_as_gguf_does() {
    let expected = SafetensorsFile::open(fixture("q8_0.safetensors")).unwrap();
    let values = expected.f32("values").unwrap().into_owned();
    // The way there is a model whose one matrix of that size is known.
    struct One(Vec<f32>, Named);
    impl TensorSource for One {
        fn path(&self) -> &std::path::Path {
            self.1.path()
        }
        fn tensors(&self) -> &std::collections::BTreeMap<String, velatura_weights::TensorEntry> {
            self.1.tensors()
        }
        fn metadata(&self) -> &std::collections::BTreeMap<String, String> {
            self.1.metadata()
        }
        fn tensor_bytes(
            &self,
            name: &str,
        ) -> Result<std::borrow::Cow<'_, [u8]>, velatura_weights::WeightsError> {
            if !name.ends_with("token_embedding.weight") {
                return self.1.tensor_bytes(name);
            }
            Ok(self.0.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>().into())
        }
    }
    let text = |name: &str, shape: &[usize]| (format!("text_model.{name}"), shape.to_vec());
    let mut stored = vec![
        text("embeddings.token_embedding.weight", &[4, 64]),
        text("embeddings.position_embedding.weight", &[3, 64]),
        text("final_layer_norm.weight", &[64]),
        text("final_layer_norm.bias", &[64]),
    ];
    for (name, shape) in [("layer_norm1", vec![64]), ("layer_norm2", vec![64])].into_iter().chain(
        [
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.out_proj",
            "mlp.fc1",
            "mlp.fc2",
        ]
        .map(|n| (n, vec![64, 64])),
    ) {
        stored.push(text(&format!("encoder.layers.0.{name}.bias"), &[64]));
        stored.push(text(&format!("encoder.layers.0.{name}.weight"), &shape));
    }
    let model = Checkpoint::of_source(Arc::new(One(values, Named::new(stored)))).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text.gguf");
    model.write_gguf(&path, GgufType::Q8_0, &SaveProgress::default()).unwrap();
    let file = open_tensors(&path).unwrap();
    let name = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight";
    assert_eq!(file.tensor_bytes(name).unwrap(), expected.bytes("blocks").unwrap());
}

#[test]
fn folders_with_shards_and_variants_are_read() {
    let fixture = layouts();
    let case = &fixture["own"]["lcm"];
    let model = Checkpoint::of_source(Arc::new(Named::new(shapes(&case["shapes"])))).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let hub = folder.path().join("hub");
    let options = SaveOptions { storage: Some(Storage::F16), ..SaveOptions::default() };
    model.write_diffusers(&hub, &options).unwrap();
    let unet = hub.join("unet");
    let whole = unet.join("diffusion_pytorch_model.safetensors");
    // As the only file there is, a variant is taken without being asked for.
    let variant = unet.join("diffusion_pytorch_model.fp16.safetensors");
    std::fs::rename(&whole, &variant).unwrap();
    Checkpoint::open(&hub, &plain()).unwrap().parts()[0].check_complete(&hub).unwrap();
    let asked = OpenOptions { variant: Some("fp16".into()) };
    Checkpoint::open(&hub, &asked).unwrap();
    let says = Checkpoint::open(&hub, &OpenOptions { variant: Some("ema".into()) }).unwrap_err().to_string();
    assert!(says.contains("fp16"), "{says}");
    // The folder of one part, by itself.
    let part = Checkpoint::open(&unet, &plain()).unwrap();
    assert!(part.has_guidance_embedding() && part.parts()[0].missing.is_empty());

    // Two shards and their index.
    let file = SafetensorsFile::open(&variant).unwrap();
    let names = file.names();
    let mut map = serde_json::Map::new();
    for (shard, names) in ["a.safetensors", "b.safetensors"].iter().zip(names.chunks(names.len() / 2 + 1)) {
        let values: Vec<_> = names.iter().map(|n| file.f32(n).unwrap()).collect();
        let tensors: Vec<_> = names
            .iter()
            .zip(&values)
            .map(|(n, v)| {
                velatura_weights::TensorToWrite::new(n, &file.info(n).unwrap().shape, Storage::F16, v)
            })
            .collect();
        velatura_weights::write_safetensors(unet.join(shard), &tensors, &Default::default()).unwrap();
        names.iter().for_each(|n| drop(map.insert(n.clone(), (*shard).into())));
    }
    std::fs::remove_file(&variant).unwrap();
    let index = unet.join("diffusion_pytorch_model.safetensors.index.json");
    let write = |map: &serde_json::Map<String, serde_json::Value>| {
        std::fs::write(
            &index,
            serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string(),
        )
        .unwrap();
    };
    write(&map);
    let sharded = Checkpoint::open(&hub, &plain()).unwrap();
    sharded.parts()[0].check_complete(&hub).unwrap();
    let name = "conv_in.weight";
    assert_eq!(sharded.parts()[0].tensors.tensor_f32(name).unwrap(), file.f32(name).unwrap());

    for bad in
        ["../a.safetensors", "/etc/passwd", "x/../a.safetensors", "..", "C:\\a", "", "sub/a.safetensors"]
    {
        map.insert(name.into(), bad.into());
        write(&map);
        let says = Checkpoint::open(&hub, &plain()).unwrap_err().to_string();
        assert!(says.contains("not a plain file name") && says.contains("index.json"), "{bad}: {says}");
    }
    map.insert(name.into(), "c.safetensors".into());
    write(&map);
    let says = Checkpoint::open(&hub, &plain()).unwrap_err().to_string();
    assert!(says.contains("c.safetensors") && says.contains("check the path"), "{says}");
    map.insert(name.into(), "a.safetensors".into());
    map.insert("nowhere".into(), "b.safetensors".into());
    write(&map);
    let says = Checkpoint::open(&hub, &plain()).unwrap_err().to_string();
    assert!(says.contains("nowhere"), "{says}");
    std::fs::write(&index, "{\"weight_map\": [").unwrap();
    let says = Checkpoint::open(&hub, &plain()).unwrap_err().to_string();
    assert!(says.contains("index.json"), "{says}");
}
