//! The fuzz targets' checks over their corpus (`fuzz/README.md`), and over each of its files cut off and changed.

#[path = "../../../fuzz/checks/requests.rs"]
mod checks;

use std::path::Path;

fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 20, "{target} has only {} files", files.len());
    for file in files {
        println!("{}", file.display());
        let bytes = std::fs::read(file).unwrap();
        check(&bytes);
        // Lengths, counts and offsets are where damage matters: each byte in turn, and each length, of what is short.
        for at in (0..bytes.len()).step_by(bytes.len() / 400 + 1) {
            check(&bytes[..at]);
            let mut changed = bytes.clone();
            for value in [0, 0x7f, 0xff, bytes[at] ^ 1] {
                changed[at] = value;
                check(&changed);
            }
        }
    }
}

#[test]
fn pictures_and_their_requests_are_read_or_refused() {
    replay("picture", checks::picture);
}

#[test]
fn requests_are_refused_or_decided_once() {
    replay("request", checks::request);
}
