//! What a file claims about its length takes no memory. Alone in its process, because the most memory that one
//! ever asked for counts what other tests do beside it.
#![cfg(target_os = "linux")]

use velatura::PictureInfo;

/// Most memory that the process had ever asked for, in bytes.
fn most_asked_for() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Found by libFuzzer: a small file whose EXIF claims two gigabytes.
#[test]
fn exif_that_is_longer_than_its_file_takes_no_memory() {
    let mut bytes =
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/exif/a1111.webp")).unwrap();
    let at = bytes.windows(4).position(|name| name == b"EXIF").unwrap();
    for claimed in [0x8080_8080u32, u32::MAX, 0x0200_0000] {
        bytes[at + 4..at + 8].copy_from_slice(&claimed.to_le_bytes());
        let before = most_asked_for();
        let texts = PictureInfo::from_bytes("claims.webp", &bytes).map(|info| info.texts);
        assert!(texts.is_ok_and(|texts| texts.is_empty()));
        assert!(most_asked_for() - before < 16 << 20, "{claimed}");
    }
}
