//! Every format against what its own tool reads: PyTorch's two forms, GGUF's block types, 8-bit floats. The files are
//! made by `scripts/fixtures/weights.py`.

use std::path::PathBuf;

use velatura_weights::{DType, SafetensorsFile, TorchFile, decode_f32, open_tensors};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn same(name: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{name}");
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!(a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(), "{name}[{i}]: {a} is not {b}");
    }
}

#[test]
fn both_forms_of_torch_save_give_what_torch_loads() {
    let expected = SafetensorsFile::open(fixture("state.safetensors")).unwrap();
    for form in ["state.zip.pt", "state.legacy.pt"] {
        let file = open_tensors(fixture(form)).unwrap();
        let names: Vec<&String> = file.tensors().keys().collect();
        assert_eq!(names, expected.names().iter().collect::<Vec<_>>(), "{form}");
        for name in expected.names() {
            assert_eq!(
                file.tensor(&name).unwrap().shape,
                expected.info(&name).unwrap().shape,
                "{form} {name}"
            );
            same(&name, &file.tensor_f32(&name).unwrap(), &expected.f32(&name).unwrap());
        }
        assert_eq!(file.metadata()["global_step"], "875000");
        assert_eq!(file.metadata()["pytorch-lightning_version"], "1.4.2");
        assert_eq!(file.tensor("half").unwrap().dtype, DType::F16);
        assert_eq!(file.tensor("integers").unwrap().dtype, DType::I64);
        // A contiguous tensor is borrowed from the file, whose archive aligns it.
        let borrowed = matches!(file.tensor_bytes("rows").unwrap(), std::borrow::Cow::Borrowed(_));
        assert!(borrowed, "{form}");
    }
    TorchFile::open(fixture("state.zip.pt")).unwrap().verify_checksums().unwrap();
}

#[test]
fn eight_bit_floats_are_torchs() {
    let file = SafetensorsFile::open(fixture("eight.safetensors")).unwrap();
    let typed = open_tensors(fixture("typed.pt")).unwrap();
    for name in ["float8_e4m3fn", "float8_e5m2"] {
        let expected = file.f32(&format!("{name}.f32")).unwrap();
        same(name, &file.f32(name).unwrap(), &expected);
        same(name, &typed.tensor_f32(&format!("emphasis.{name}")).unwrap(), &expected);
    }
}

#[test]
fn block_types_are_ggufs() {
    let file = open_tensors(fixture("blocks.gguf")).unwrap();
    let expected = SafetensorsFile::open(fixture("blocks.safetensors")).unwrap();
    assert_eq!(file.tensors().len(), 15);
    assert_eq!(file.metadata()["velatura.number"], "7");
    assert_eq!(file.metadata()["general.architecture"], "velatura-test");
    for name in expected.names() {
        let entry = file.tensor(&name).unwrap();
        assert_eq!(entry.shape, expected.info(&name).unwrap().shape, "{name}");
        assert_eq!(entry.dtype.name(), name);
        let expected = expected.f32(&name).unwrap();
        same(&name, &file.tensor_f32(&name).unwrap(), &expected);
        // The second half by itself, as a thread of several would read it.
        let bytes = file.tensor_bytes(&name).unwrap();
        let (block, bits) = entry.dtype.block();
        let start = entry.elements() / block / 2 * block;
        let mut half = vec![0.0; entry.elements() - start];
        assert!(decode_f32(&bytes[start / block * bits / 8..], entry.dtype, &mut half));
        same(&name, &half, &expected[start..]);
        assert!(!decode_f32(&bytes[1..], entry.dtype, &mut half));
    }
}
