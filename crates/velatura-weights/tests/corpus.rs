//! The fuzz targets' checks over the corpus that fuzzing found (`fuzz/README.md`).

#[path = "../../../fuzz/checks/weights.rs"]
mod checks;

use std::path::Path;

fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() > 20, "{target} has only {} files", files.len());
    for file in files {
        println!("{}", file.display());
        check(&std::fs::read(file).unwrap());
    }
}

#[test]
fn files_of_weights_are_read_or_refused() {
    replay("safetensors", checks::safetensors);
    replay("pickle", checks::pickle);
    replay("zip", checks::zip);
    replay("gguf", checks::gguf);
}
