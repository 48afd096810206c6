//! Pictures of other tools, as they wrote them: `scripts/fixtures/exif.py`.

use std::path::{Path, PathBuf};

use velatura::{Error, Format, GenerateRequest, PictureInfo, RngKind};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/exif").join(name)
}

#[test]
fn pictures_of_a1111_are_read_from_exif() {
    for (name, format) in [("a1111.jpg", Format::Jpeg), ("a1111.webp", Format::WebP)] {
        let info = PictureInfo::open(fixture(name)).unwrap();
        assert_eq!((info.format, info.width, info.height), (format, 16, 24));
        let expected = GenerateRequest {
            prompt: "a (red:1.2) fox in the snow, 狐, 🦊".into(),
            negative: "blurry, text: bad".into(),
            steps: Some(24),
            sampler: Some("DPM++ 2M".into()),
            schedule: Some("Karras".into()),
            guidance: Some(6.5),
            seed: Some(4_046_451_767),
            width: Some(512),
            height: Some(768),
            clip_skip: Some(2),
            rng: RngKind::Cuda,
            ..GenerateRequest::default()
        };
        assert_eq!(info.request(name).unwrap(), expected, "{name}");
        assert!(info.origin().is_none());
        assert_eq!(info.taken_over().unwrap().left_out, [""; 0]);
    }
}

#[test]
fn graphs_of_comfyui_are_read_from_exif() {
    let info = PictureInfo::open(fixture("comfyui.webp")).unwrap();
    let workflow = info.taken_over().unwrap();
    assert_eq!((workflow.request.prompt.as_str(), workflow.request.seed), ("a fox: red", Some(42)));
    assert_eq!(workflow.model.as_deref(), Some("v1-5-pruned-emaonly.safetensors"));
    assert_eq!(info.text("workflow"), Some("{\"nodes\": []}"));
}

#[test]
fn what_says_nothing_is_told() {
    let info = PictureInfo::open(fixture("plain.jpg")).unwrap();
    assert_eq!(info.texts, []);
    assert!(matches!(info.request("plain.jpg"), Err(Error::NoMetadata { .. })));
}

#[test]
fn damaged_files_are_refused_or_read() {
    for name in ["a1111.jpg", "a1111.webp", "comfyui.webp", "plain.jpg"] {
        let good = std::fs::read(fixture(name)).unwrap();
        for length in 0..good.len() {
            let _ = PictureInfo::from_bytes(name, &good[..length]);
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0xFF;
            let _ = PictureInfo::from_bytes(name, &bad).map(|info| info.request(name));
        }
    }
    let refused = PictureInfo::from_bytes("x.jpg", b"\xFF\xD8\xFF\xE0no more").unwrap_err();
    assert!(refused.to_string().contains("x.jpg"), "{refused}");
}
