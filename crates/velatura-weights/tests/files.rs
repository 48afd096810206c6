//! Model files against the reference crate, damaged and foreign files, and writes that fail half-way.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::Path;

use half::{bf16, f16};
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView, serialize};
use velatura_weights::{
    SafetensorsFile, Storage, TensorData, TensorToWrite, WeightsError, atomic_write, check_writable,
    write_safetensors, write_safetensors_to,
};

fn small() -> (Vec<f32>, BTreeMap<String, String>) {
    let values = vec![0.0, -1.5, f32::MIN_POSITIVE, 65504.0, 1.0 / 3.0, f32::NAN];
    (values, BTreeMap::from([("velatura".into(), "{\"a\":1}".into()), ("licence".into(), "OFL ü".into())]))
}

#[test]
fn what_is_written_is_read_in_every_type() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let (values, metadata) = small();
    let tensors: Vec<TensorToWrite> = [Storage::F32, Storage::F16, Storage::Bf16, Storage::F64]
        .into_iter()
        .map(|s| TensorToWrite::new(format!("w.{s}"), &[2, 3], s, &values))
        .chain([TensorToWrite::new("scalar", &[], Storage::F32, &values[..1])])
        .collect();
    write_safetensors(&path, &tensors, &metadata).unwrap();
    let file = SafetensorsFile::open(&path).unwrap();
    assert_eq!(file.names(), ["scalar", "w.BF16", "w.F16", "w.F32", "w.F64"]);
    assert_eq!(file.metadata().get("licence").unwrap(), "OFL ü");
    assert_eq!(file.info("w.F16").unwrap().shape, [2, 3]);
    let same = |a: &[f32], b: &[f32]| {
        a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan())
    };
    assert!(same(&file.f32("w.F32").unwrap(), &values));
    assert!(same(&file.f32("w.F64").unwrap(), &values));
    let halves: Vec<f32> = values.iter().map(|v| f16::from_f32(*v).to_f32()).collect();
    assert!(same(&file.f32("w.F16").unwrap(), &halves));
    let brains: Vec<f32> = values.iter().map(|v| bf16::from_f32(*v).to_f32()).collect();
    assert!(same(&file.f32("w.BF16").unwrap(), &brains));
    assert!(matches!(file.f32("w.F32").unwrap(), std::borrow::Cow::Borrowed(_)));
    assert_eq!(file.f32("scalar").unwrap().len(), 1);

    // The reference crate reads the same file.
    let bytes = std::fs::read(&path).unwrap();
    let reference = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(reference.tensor("w.F32").unwrap().data(), file.bytes("w.F32").unwrap());
    assert_eq!(reference.len(), 5);
}

#[test]
fn the_same_content_gives_the_same_bytes() {
    let (values, metadata) = small();
    let a = TensorToWrite::new("a", &[6], Storage::F32, &values);
    let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let b = TensorToWrite {
        name: "b".into(),
        shape: vec![3, 2],
        storage: Storage::F32,
        data: TensorData::Raw(&raw),
    };
    let write = |tensors: &[TensorToWrite]| {
        let mut bytes = Vec::new();
        write_safetensors_to("memory", &mut bytes, tensors, &metadata).unwrap();
        bytes
    };
    assert_eq!(write(&[a.clone(), b.clone()]), write(&[b, a]));
}

#[test]
fn files_of_the_reference_crate_are_read() {
    let values = [1.0f32, 2.0, 3.0];
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let odd = [7u8; 4];
    let tensors = [
        ("x", TensorView::new(Dtype::F32, vec![3], &bytes).unwrap()),
        ("odd", TensorView::new(Dtype::U16, vec![2], &odd).unwrap()),
        ("none", TensorView::new(Dtype::F32, vec![0, 4], &[]).unwrap()),
    ];
    let metadata = Some(HashMap::from([("k".to_string(), "v".to_string())]));
    let file = SafetensorsFile::from_bytes("m", serialize(tensors, metadata).unwrap()).unwrap();
    assert_eq!(*file.f32("x").unwrap(), values);
    assert_eq!(file.f32("none").unwrap().len(), 0);
    assert!(matches!(file.f32("odd"), Err(WeightsError::UnsupportedType { .. })));
    match file.f32("unet.x") {
        Err(WeightsError::MissingTensor { nearest, .. }) => assert_eq!(nearest.as_deref(), Some("x")),
        other => panic!("{other:?}"),
    }
    let error = file.f32_of_shape("x", &[1, 3]).unwrap_err().to_string();
    assert!(error.contains("[3]") && error.contains("[1, 3]"), "{error}");
}

fn header(json: &str, data: usize) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

#[test]
fn damaged_and_foreign_files_are_named() {
    let good = header(r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#, 16);
    assert!(SafetensorsFile::from_bytes("good", good.clone()).is_ok());
    let cut = |n: usize| good[..n].to_vec();
    let length = |n: u64| [&n.to_le_bytes()[..], &good[8..]].concat();
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("cut in the numbers", cut(good.len() - 1), "is truncated"),
        ("cut in the header", cut(30), "is truncated"),
        ("cut in the length", cut(5), "only 5 bytes"),
        ("longer than described", [&good[..], &[0]].concat(), "more bytes than"),
        ("length 0", length(0), "header cannot be read"),
        ("length 2^64-1", length(u64::MAX), "not a safetensors file"),
        ("length 200 MB", length(200_000_000), "not a safetensors file"),
        ("a picture", b"\x89PNG\r\n\x1a\n and so on and on".to_vec(), "PNG picture"),
        ("a checkpoint", b"PK\x03\x04 archive of pickles, to be sure".to_vec(), "zip archive"),
        ("a page", b"<html><body>404 not found</body></html>".to_vec(), "web page"),
        (
            "overlap",
            header(
                r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#,
                6,
            ),
            "overlaps",
        ),
        (
            "one name twice",
            header(
                r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#,
                4,
            ),
            "two tensors are named a",
        ),
        (
            "negative size",
            header(r#"{"a":{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}}"#, 16),
            "header cannot be read",
        ),
        (
            "reversed offsets",
            header(r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[16,0]}}"#, 16),
            "is damaged",
        ),
        (
            "hole",
            header(
                r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[6,10]}}"#,
                10,
            ),
            "hole",
        ),
        (
            "wrong size",
            header(r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,12]}}"#, 12),
            "size of a tensor",
        ),
        (
            "overflow",
            header(r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,16]}}"#, 16),
            "overflows",
        ),
        (
            "unknown type",
            header(r#"{"a":{"dtype":"F17","shape":[4],"data_offsets":[0,16]}}"#, 16),
            "header cannot be read",
        ),
        (
            "wrong JSON types",
            header(r#"{"a":{"dtype":"F32","shape":"4","data_offsets":[0,16]}}"#, 16),
            "header cannot be read",
        ),
        (
            "not text",
            {
                let mut b = good.clone();
                b[20] = 0xff;
                b
            },
            "not a safetensors file",
        ),
        ("deep", header(&deep, 0), "header cannot be read"),
    ];
    for (what, bytes, says) in cases {
        let error = SafetensorsFile::from_bytes("some.safetensors", bytes).unwrap_err().to_string();
        assert!(error.contains(says) && error.contains("some.safetensors"), "{what}: {error}");
        assert!(!error.contains('\n'), "{what}: {error}");
    }
}

#[test]
fn nothing_in_a_dimension_is_a_tensor_without_numbers() {
    let none = header(r#"{"a":{"dtype":"F32","shape":[0,4],"data_offsets":[0,0]}}"#, 0);
    let file = SafetensorsFile::from_bytes("none", none).unwrap();
    assert_eq!((file.info("a").unwrap().shape, file.f32("a").unwrap().len()), (vec![0, 4], 0));
    // Other dimensions cannot make up for it.
    let huge = header(r#"{"a":{"dtype":"F32","shape":[0,18446744073709551615,2],"data_offsets":[0,0]}}"#, 0);
    if let Ok(file) = SafetensorsFile::from_bytes("huge", huge) {
        assert_eq!(file.f32("a").unwrap().len(), 0);
    }
}

#[test]
fn paths_that_are_no_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("unet.safetensors"), "x").unwrap();
    let error = SafetensorsFile::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("folder") && error.contains("unet.safetensors"), "{error}");
    let error = SafetensorsFile::open(folder.path().join("no")).unwrap_err().to_string();
    assert!(error.contains("cannot read") && error.contains("check the path"), "{error}");
    std::fs::write(folder.path().join("empty"), "").unwrap();
    let error = SafetensorsFile::open(folder.path().join("empty")).unwrap_err().to_string();
    assert!(error.contains("empty"), "{error}");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..90, flip in 0usize..90) {
        let _ = SafetensorsFile::from_bytes("any", bytes);
        let mut near = header(r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#, 16);
        near[flip % 79] ^= 1 << (cut % 8);
        near.truncate(near.len() - cut % 79);
        if let Ok(file) = SafetensorsFile::from_bytes("near", near) {
            for name in file.names() {
                let _ = file.f32(&name);
            }
        }
    }
}

fn listing(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_write_that_fails_leaves_the_old_file_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    atomic_write(&path, |out| out.write_all(b"old")).unwrap();
    let full = |out: &mut dyn Write| {
        out.write_all(&[1; 3 << 20])?;
        Err(std::io::Error::from(std::io::ErrorKind::StorageFull))
    };
    let error = atomic_write(&path, full).unwrap_err().to_string();
    assert!(error.contains("free some space"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(listing(folder.path()), ["state"]);
    atomic_write(&path, |out| out.write_all(b"new")).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"new");

    let missing = folder.path().join("no").join("file");
    let error = atomic_write(&missing, |_| Ok(())).unwrap_err().to_string();
    assert!(error.contains("create its folder"), "{error}");
    assert!(check_writable(&missing).is_err() && check_writable(&path).is_ok());
    assert!(check_writable(folder.path()).is_err());
    assert_eq!(listing(folder.path()), ["state"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_device_is_an_error() {
    let error = atomic_write("/dev/full", |out| out.write_all(&[0; 100_000])).unwrap_err().to_string();
    assert!(error.contains("/dev/full") && error.contains("free some space"), "{error}");
}

#[cfg(unix)]
#[test]
fn links_and_permissions_survive() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = tempfile::tempdir().unwrap();
    let (real, link) = (folder.path().join("real"), folder.path().join("link"));
    std::fs::write(&real, "old").unwrap();
    std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o640)).unwrap();
    symlink("real", &link).unwrap();
    atomic_write(&link, |out| out.write_all(b"new")).unwrap();
    assert!(link.is_symlink());
    assert_eq!(std::fs::read(&real).unwrap(), b"new");
    assert_eq!(std::fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
    // A new file is not private.
    atomic_write(folder.path().join("fresh"), |out| out.write_all(b"x")).unwrap();
    let mode = std::fs::metadata(folder.path().join("fresh")).unwrap().permissions().mode();
    assert_eq!(mode & 0o400, 0o400);
}
