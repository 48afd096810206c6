//! Weights in fp8 with a scale beside each: what ComfyUI reads from them, and what fits nowhere.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use velatura_weights::{
    Checkpoint, DType, OpenOptions, PartKind, SafetensorsFile, Storage, TensorSource, TensorToWrite,
    write_safetensors,
};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/{name}.safetensors"))
}

#[test]
fn weights_are_their_numbers_times_their_scales() {
    let expected = SafetensorsFile::open(fixture("scaled_fp8_read")).unwrap();
    for (name, prefix, marks) in [("scaled_fp8", "old", 13), ("scaled_fp8_new", "new", 24)] {
        let model = Checkpoint::open(fixture(name), &OpenOptions::default()).unwrap();
        let text = model.part(PartKind::TextEncoder).unwrap();
        assert!(text.missing.is_empty() && model.unmatched().is_empty(), "{:?}", model.unmatched());
        // Two layers of six matrices; the marks and the scales of what layers read are known and left aside.
        assert_eq!((model.scaled(), model.unused().len()), (12, marks), "{:?}", model.unused());
        let mut eights = 0;
        for (tensor, entry) in text.tensors.tensors() {
            let found = text.tensors.tensor_f32(tensor).unwrap();
            let wanted = expected.f32(&format!("{prefix}.{tensor}")).unwrap();
            assert_eq!(found, wanted, "{name} {tensor}");
            eights += usize::from(entry.dtype == DType::F32);
        }
        assert_eq!(eights, 12);
    }
}

#[test]
fn a_part_of_a_folder_may_be_scaled() {
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("text_encoder");
    std::fs::create_dir(&part).unwrap();
    std::fs::copy(fixture("scaled_fp8"), part.join("model.safetensors")).unwrap();
    let model = Checkpoint::open(folder.path(), &OpenOptions::default()).unwrap();
    assert_eq!(model.scaled(), 12);
}

#[test]
fn a_file_without_scales_stays_as_it_is() {
    let model = Checkpoint::open(fixture("scaled_fp8_read"), &OpenOptions::default());
    assert!(model.is_err(), "its names have prefixes of their own");
    let plain = SafetensorsFile::open(fixture("eight")).unwrap();
    let before = plain.tensors().clone();
    assert!(Checkpoint::of_source(Arc::new(plain)).is_err());
    assert!(before.values().any(|entry| entry.dtype == DType::F8E4M3));
}

#[test]
fn scales_that_do_not_fit_are_named() {
    const LAYER: &str = "text_model.encoder.layers.0.mlp.fc1";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd.safetensors");
    let refusal = |shape: &[usize], scale: &str| {
        let values = vec![0.5; shape.iter().product()];
        let tensors = [
            TensorToWrite::new(format!("{LAYER}.weight"), &[20, 12], Storage::F16, &[1.0; 240]),
            TensorToWrite::new(format!("{LAYER}.{scale}"), shape, Storage::F32, &values),
        ];
        write_safetensors(&path, &tensors, &Default::default()).unwrap();
        Checkpoint::open(&path, &OpenOptions::default()).unwrap_err().to_string()
    };
    for shape in [&[3][..], &[0], &[20, 12]] {
        let error = refusal(shape, "scale_weight");
        assert!(error.contains("odd.safetensors") && error.contains("fc1.scale_weight"), "{error}");
    }
    // One for each row, and one for all, are right; the file is then no model for another reason.
    for shape in [&[20][..], &[20, 1], &[1], &[]] {
        assert!(refusal(shape, "weight_scale").contains("no part of a known model"));
    }
    // Whole numbers with scales are another format.
    let mut bytes = Vec::new();
    let header = format!(
        r#"{{"{LAYER}.weight":{{"dtype":"I8","shape":[2],"data_offsets":[0,2]}},"{LAYER}.weight_scale":{{"dtype":"F32","shape":[],"data_offsets":[2,6]}}}}"#
    );
    bytes.extend((header.len() as u64).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend([0; 6]);
    let file = SafetensorsFile::from_bytes("whole", bytes).unwrap();
    let error = Checkpoint::of_source(Arc::new(file)).unwrap_err().to_string();
    assert!(error.contains("whole") && error.contains("I8 with a scale"), "{error}");
}
