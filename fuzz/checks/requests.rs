//! What holds for any bytes that are given as a picture whose request is wanted, and for any text that is given as a request.

use std::sync::OnceLock;

use velatura::picture::PictureInfo;
use velatura::{GenerateRequest, ModelManifest, Precision, infotext, workflow};

fn manifest() -> &'static ModelManifest {
    static MANIFEST: OnceLock<ModelManifest> = OnceLock::new();
    MANIFEST.get_or_init(|| velatura::tiny::manifest().expect("the tiny model has a manifest"))
}

/// A picture's texts, whatever its format, and the request in them.
pub fn picture(bytes: &[u8]) {
    match PictureInfo::from_bytes("fuzz", bytes) {
        Ok(info) => {
            let _ = (info.origin(), info.taken_over());
            match info.request("fuzz") {
                Ok(request) => decided(&request),
                Err(error) => assert!(error.to_string().contains("fuzz"), "{error}"),
            }
        }
        Err(error) => {
            assert!(error.to_string().contains("fuzz"), "the message does not name the file: {error}")
        }
    }
}

/// A request as JSON, as A1111's text, and as ComfyUI's graph.
pub fn request(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(request) = GenerateRequest::from_json(&text) {
        decided(&request);
    }
    decided(&infotext::parse(&text));
    if let Some(found) = workflow::parse(&text) {
        decided(&found.request);
    }
}

/// A request is refused, or decided once and for all, and its JSON says all of it.
fn decided(request: &GenerateRequest) {
    let Ok(decided) = request.resolve(manifest(), Precision::F32) else { return };
    let again = decided.resolve(manifest(), Precision::F32).expect("what was decided can be decided");
    assert_eq!(again, decided);
    if let Ok(levels) = decided.noise_levels(manifest()) {
        assert!(levels.windows(2).all(|pair| pair[0] >= pair[1]), "{levels:?}");
    }
    let json = serde_json::to_string(&decided).expect("a request can be stored");
    assert_eq!(GenerateRequest::from_json(&json).expect("what was stored can be read"), decided);
}
