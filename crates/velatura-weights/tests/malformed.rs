//! Malformed PyTorch and GGUF files: each gives a typed error that names the file, the place and what is wrong, and
//! none costs more than the file itself.

mod common;

use common::fixture;
use proptest::prelude::*;
use velatura_weights::{GgufFile, TensorSource, TorchFile, WeightsError};

/// A zip archive as PyTorch writes it: stored entries, sizes in both headers, and what a test wants to be wrong.
struct Zip {
    entries: Vec<(String, Vec<u8>)>,
    method: u16,
    flags: u16,
    /// Added to the sizes in the directory.
    lie: u32,
    /// All entries at the first one's place.
    overlap: bool,
}

impl Zip {
    fn new(pickle: &[u8]) -> Self {
        let entry = |name: &str, data: &[u8]| (name.to_string(), data.to_vec());
        let entries = vec![entry("archive/data.pkl", pickle), entry("archive/data/0", &[0; 16])];
        Zip { entries, method: 0, flags: 0, lie: 0, overlap: false }
    }

    fn with(mut self, name: &str, data: &[u8]) -> Self {
        self.entries.push((name.into(), data.to_vec()));
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let (mut out, mut directory) = (Vec::new(), Vec::new());
        for (name, data) in &self.entries {
            let at = if self.overlap { 0 } else { out.len() as u32 };
            let size = data.len() as u32;
            let common = |out: &mut Vec<u8>, size: u32| {
                for word in [20, self.flags, self.method, 0, 0] {
                    out.extend(word.to_le_bytes());
                }
                for long in [0xdead_beef_u32, size, size] {
                    out.extend(long.to_le_bytes());
                }
                out.extend((name.len() as u16).to_le_bytes());
                out.extend(0u16.to_le_bytes());
            };
            out.extend(b"PK\x03\x04");
            common(&mut out, size);
            out.extend(name.as_bytes());
            out.extend(data);
            directory.extend(b"PK\x01\x02\x14\x00");
            common(&mut directory, size.wrapping_add(self.lie));
            directory.extend([0; 10]);
            directory.extend(at.to_le_bytes());
            directory.extend(name.as_bytes());
        }
        let (start, length, count) = (out.len() as u32, directory.len() as u32, self.entries.len() as u16);
        out.extend(directory);
        out.extend(b"PK\x05\x06\0\0\0\0");
        out.extend(count.to_le_bytes());
        out.extend(count.to_le_bytes());
        out.extend(length.to_le_bytes());
        out.extend(start.to_le_bytes());
        out.extend([0; 2]);
        out
    }
}

/// `{"w": _rebuild_tensor_v2(storage, offset, shape, stride, False, OrderedDict())}`, protocol 2.
fn tensor(elements: i64, offset: i64, shape: &[i64], stride: &[i64]) -> Vec<u8> {
    let mut out = b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storage".to_vec();
    let int = |out: &mut Vec<u8>, n: i64| {
        out.extend(b"\x8a\x08");
        out.extend(n.to_le_bytes());
    };
    out.extend(b"ctorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu");
    int(&mut out, elements);
    out.extend(b"tQ");
    int(&mut out, offset);
    for list in [shape, stride] {
        out.push(b'(');
        list.iter().for_each(|&n| int(&mut out, n));
        out.push(b't');
    }
    out.extend(b"\x89ccollections\nOrderedDict\n)RtRs.");
    out
}

fn torch(bytes: Vec<u8>) -> Result<TorchFile, WeightsError> {
    TorchFile::from_bytes("some.ckpt", bytes)
}

fn pickle(body: &[u8]) -> Vec<u8> {
    [b"\x80\x02", body].concat()
}

#[test]
fn the_builder_builds_what_is_read() {
    let file = torch(Zip::new(&tensor(4, 0, &[2, 2], &[1, 2])).bytes()).unwrap();
    assert_eq!(*file.tensor_f32("w").unwrap(), [0.0; 4]);
    // PyTorch may be told to leave checksums out, so they are looked at only when asked for.
    let says = file.verify_checksums().unwrap_err().to_string();
    assert!(says.contains("checksum") && says.contains("archive/data"), "{says}");
}

#[test]
fn damaged_archives_are_named() {
    let good = tensor(4, 0, &[4], &[1]);
    let zip = || Zip::new(&good);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("cut off", zip().bytes()[..60].to_vec(), "no directory"),
        ("deflated", Zip { method: 8, ..zip() }.bytes(), "compressed"),
        ("encrypted", Zip { flags: 1, ..zip() }.bytes(), "encrypted"),
        ("overlapping", Zip { overlap: true, ..zip() }.bytes(), "zip entr"),
        ("lying sizes", Zip { lie: 1 << 30, ..zip() }.bytes(), "zip entry"),
        ("zip64 sizes without zip64", Zip { lie: u32::MAX - 16, ..zip() }.bytes(), "zip"),
        ("two pickles", zip().with("archive/data.pkl", &good).bytes(), "two zip entries"),
        ("two roots", zip().with("other/data.pkl", &good).bytes(), "two pickles"),
        ("outside", zip().with("../evil", b"x").bytes(), "points out"),
        ("absolute", zip().with("/etc/passwd", b"x").bytes(), "points out"),
        ("backslash", zip().with("a\\..\\b", b"x").bytes(), "points out"),
        ("big-endian", zip().with("archive/byteorder", b"big").bytes(), "big-endian"),
        ("a program", zip().with("archive/constants.pkl", b"x").bytes(), "TorchScript"),
        (
            "no pickle",
            Zip { entries: vec![("a/b.txt".into(), vec![1])], ..zip() }.bytes(),
            "without the data.pkl",
        ),
        ("no numbers", Zip { entries: zip().entries[..1].to_vec(), ..zip() }.bytes(), "lacks its numbers"),
        ("few numbers", Zip::new(&tensor(5, 0, &[5], &[1])).bytes(), "has 16 bytes"),
        ("beyond the storage", Zip::new(&tensor(4, 1, &[4], &[1])).bytes(), "beyond its storage"),
        ("a long stride", Zip::new(&tensor(4, 0, &[2], &[4])).bytes(), "beyond its storage"),
        ("a huge stride", Zip::new(&tensor(4, 0, &[2, 2], &[i64::MAX, 1])).bytes(), "beyond its storage"),
        ("a negative stride", Zip::new(&tensor(4, 3, &[4], &[-1])).bytes(), "stride is negative"),
        ("a negative offset", Zip::new(&tensor(4, -1, &[4], &[1])).bytes(), "offset is negative"),
        ("a negative size", Zip::new(&tensor(4, 0, &[-4], &[1])).bytes(), "dimension is negative"),
        ("a huge offset", Zip::new(&tensor(4, i64::MAX, &[1], &[1])).bytes(), "beyond its storage"),
        ("no end", Zip::new(&tensor(4, 0, &[1 << 40], &[0])).bytes(), "more elements than its storage"),
        ("overflow", Zip::new(&tensor(4, 0, &[1 << 40, 1 << 40], &[0, 0])).bytes(), "size overflows"),
        ("nothing, huge", Zip::new(&tensor(4, 5, &[0, 1 << 62, 1 << 62], &[0, 0, 0])).bytes(), "beyond"),
        ("a huge storage", Zip::new(&tensor(i64::MAX, 0, &[1], &[1])).bytes(), "fewer than its storage"),
        ("many dimensions", Zip::new(&tensor(4, 0, &[1; 17], &[1; 17])).bytes(), "17 dimensions"),
        ("other strides", Zip::new(&tensor(4, 0, &[2, 2], &[1])).bytes(), "2 dimensions and 1 strides"),
    ];
    for (what, bytes, says) in cases {
        refused(what, torch(bytes).err(), says, "some.ckpt");
    }
}

#[test]
fn pickles_are_never_run() {
    let deep = |n: usize| [vec![b']'; n], vec![b'a'; n - 1], vec![b'.']].concat();
    let mut wide = b"}".to_vec();
    // Dicts that hold the one before twice: 2^60 paths.
    for i in 0..60u8 {
        let previous = if i == 0 { vec![b'}'] } else { vec![b'h', i - 1] };
        wide.extend(b"}(X\x01\0\0\0a");
        wide.extend(&previous);
        wide.extend(b"X\x01\0\0\0b");
        wide.extend(&previous);
        wide.extend([b'u', b'q', i]);
    }
    wide.push(b'.');
    // One dict of a thousand pairs, from which a dict is made again and again.
    let mut copies = b"}q\0(".to_vec();
    (0..1000).for_each(|_| copies.extend(b"NN"));
    copies.extend(b"u0");
    (0..100_000).for_each(|_| copies.extend(b"ccollections\nOrderedDict\nh\0\x85R0"));
    copies.extend(b"}.");
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("os.system", pickle(b"cos\nsystem\n(X\x04\0\0\0ruintR."), "os.system"),
        ("posix.system", pickle(b"cposix\nsystem\n."), "posix.system"),
        ("eval", pickle(b"c__builtin__\neval\n(X\x01\0\0\x001tR."), "__builtin__.eval"),
        ("getattr", pickle(b"cbuiltins\ngetattr\n."), "builtins.getattr"),
        ("by the stack", pickle(b"\x8c\x02os\x8c\x06system\x93."), "os.system"),
        ("by an instance", pickle(b"(ios\nsystem\n."), "os.system"),
        ("torch's loader", pickle(b"ctorch\nload\n."), "torch.load"),
        ("a model's class", pickle(b"ctorch.nn.modules.conv\nConv2d\n."), "Conv2d"),
        ("a likely name", pickle(b"cpytorch_lightning_evil\nx\n."), "pytorch_lightning_evil"),
        ("extension", pickle(b"\x82\x01."), "0x82"),
        ("persistent by name", pickle(b"Pos\n."), "0x50"),
        ("short arguments", pickle(b"ctorch._utils\n_rebuild_tensor_v2\n)R."), "too few parts"),
        ("arguments that are none", pickle(b"ctorch._utils\n_rebuild_tensor_v2\nK\x01R."), "no tuple"),
        ("calling a number", pickle(b"K\x01)R."), "no class"),
        ("a storage of one part", pickle(b"X\x01\0\0\0a\x85Q."), "too few parts"),
        ("4 GiB text", pickle(b"X\xff\xff\xff\xffabc"), "4294967295 bytes"),
        ("2^63 text", pickle(b"\x8d\0\0\0\0\0\0\0\x80abc"), "9223372036854775808 bytes"),
        ("no end", pickle(b"}"), "STOP"),
        ("nothing", pickle(b"."), "empty stack"),
        ("behind a mark", pickle(b"}(0."), "damaged"),
        ("beyond a mark", pickle(b"}(s."), "behind a mark"),
        ("no mark", pickle(b"}t."), "lacks a mark"),
        ("an unknown memo", pickle(b"h\x07."), "memo 7"),
        ("an odd dict", pickle(b"}(K\x01u."), "lacks its value"),
        ("appending to a number", pickle(b"K\x01K\x02a."), "no list"),
        ("protocol 9", [b"\x80\x09".to_vec(), b"}.".to_vec()].concat(), "protocol 9"),
        ("a list", pickle(b"]."), "no dict of tensors"),
        ("no tensors", pickle(b"}."), "no tensors"),
        ("deep", pickle(&deep(1_000_000)), "no dict of tensors"),
        ("a cycle", pickle(b"}q\0X\x01\0\0\0ah\0s."), "no tensors"),
        ("multiplying", pickle(&wide), "damaged"),
        ("a list in itself", pickle(b"]q\0h\0a."), "no dict"),
        ("copies of a dict", pickle(&copies), "copied too often"),
        ("many instructions", pickle(&[b'N'; 9 << 20]), "instructions"),
    ];
    for (what, body, says) in cases {
        refused(what, torch(Zip::new(&body).bytes()).err(), says, "some.ckpt");
    }
    let attack = torch(Zip::new(&pickle(b"cos\nsystem\n.")).bytes()).unwrap_err();
    assert!(
        matches!(attack, WeightsError::ForbiddenPickle { .. }) && attack.to_string().contains("safetensors")
    );
}

#[test]
fn damaged_streams_are_named() {
    let good = std::fs::read(fixture("state.legacy.pt")).unwrap();
    let cut = good[..good.len() - 3].to_vec();
    let mut version = good.clone();
    version[2 + 13 + 3] ^= 1;
    let mut tar = vec![0; 600];
    tar[257..262].copy_from_slice(b"ustar");
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("cut in the numbers", cut, "truncated"),
        ("cut in the pickle", good[..300].to_vec(), "its pickle at byte"),
        ("another version", version, "version"),
        ("a bare pickle", pickle(b"}."), "torch.save did not write"),
        ("a bare attack", pickle(b"cos\nsystem\n."), "os.system"),
        ("tar", tar, "tar archive"),
        ("a picture", b"\x89PNG\r\n\x1a\n".to_vec(), "PNG"),
        ("text", b"hello".to_vec(), "neither"),
    ];
    for (what, bytes, says) in cases {
        refused(what, torch(bytes).err(), says, "some.ckpt");
    }
}

/// A GGUF header and 64 bytes of numbers.
struct Gguf {
    version: u32,
    tensors: u64,
    keys: Vec<u8>,
    key_count: u64,
    dimensions: Vec<u64>,
    kind: u32,
    offset: u64,
    numbers: usize,
}

impl Gguf {
    fn new() -> Self {
        Gguf {
            version: 3,
            tensors: 1,
            keys: Vec::new(),
            key_count: 0,
            dimensions: vec![4, 2],
            kind: 0,
            offset: 0,
            numbers: 64,
        }
    }

    fn key(mut self, name: &str, value: &[u8]) -> Self {
        self.keys.extend((name.len() as u64).to_le_bytes());
        self.keys.extend(name.as_bytes());
        self.keys.extend(value);
        self.key_count += 1;
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensors.to_le_bytes());
        out.extend(self.key_count.to_le_bytes());
        out.extend(&self.keys);
        for _ in 0..self.tensors.min(2) {
            out.extend(1u64.to_le_bytes());
            out.push(b'w');
            out.extend((self.dimensions.len() as u32).to_le_bytes());
            self.dimensions.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(self.kind.to_le_bytes());
            out.extend(self.offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(32) + self.numbers, 0);
        out
    }
}

#[test]
fn damaged_gguf_files_are_named() {
    let gguf = Gguf::new;
    let u32_of = |n: u32| [&4u32.to_le_bytes()[..], &n.to_le_bytes()].concat();
    let array = |kind: u32, n: u64| [&9u32.to_le_bytes()[..], &kind.to_le_bytes(), &n.to_le_bytes()].concat();
    assert_eq!(GgufFile::from_bytes("good", gguf().bytes()).unwrap().tensor("w").unwrap().shape, [2, 4]);
    let shape = [array(5, 2), vec![8, 0, 0, 0, 1, 0, 0, 0]].concat();
    let reshaped = gguf().key("comfy.gguf.orig_shape.w", &shape);
    assert_eq!(GgufFile::from_bytes("good", reshaped.bytes()).unwrap().tensor("w").unwrap().shape, [8, 1]);
    let other = [array(5, 1), vec![9, 0, 0, 0]].concat();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("foreign", b"GGML....".to_vec(), "GGUF"),
        ("cut", gguf().bytes()[..20].to_vec(), "are left"),
        ("version 1", Gguf { version: 1, ..gguf() }.bytes(), "version 1"),
        ("big-endian", Gguf { version: 3u32.swap_bytes(), ..gguf() }.bytes(), "big-endian"),
        ("2^63 tensors", Gguf { tensors: 1 << 63, ..gguf() }.bytes(), "two tensors"),
        ("2^64-1 keys", Gguf { key_count: u64::MAX, ..gguf() }.bytes(), "damaged"),
        ("two of a name", Gguf { tensors: 2, ..gguf() }.bytes(), "two tensors"),
        ("five dimensions", Gguf { dimensions: vec![1; 5], ..gguf() }.bytes(), "5 dimensions"),
        ("no size", Gguf { dimensions: vec![4, 0], ..gguf() }.bytes(), "zero"),
        ("huge size", Gguf { dimensions: vec![1 << 63], ..gguf() }.bytes(), "beyond any size"),
        ("overflow", Gguf { dimensions: vec![1 << 32, 1 << 32], ..gguf() }.bytes(), "overflows"),
        ("wrapping blocks", Gguf { dimensions: vec![32, 1 << 58], kind: 8, ..gguf() }.bytes(), "tensor w"),
        ("no whole blocks", Gguf { dimensions: vec![33], kind: 8, ..gguf() }.bytes(), "whole blocks"),
        ("unknown type", Gguf { kind: 99, ..gguf() }.bytes(), "ggml type 99"),
        ("unaligned", Gguf { offset: 4, ..gguf() }.bytes(), "not aligned"),
        ("beyond the end", Gguf { offset: 64, ..gguf() }.bytes(), "truncated"),
        ("offset overflow", Gguf { offset: u64::MAX - 31, ..gguf() }.bytes(), "overflows"),
        ("alignment 0", gguf().key("general.alignment", &u32_of(0)).bytes(), "alignment is 0"),
        (
            "alignment 2^31",
            gguf().key("general.alignment", &u32_of(1 << 31)).bytes(),
            "alignment is 2147483648",
        ),
        ("alignment 24", gguf().key("general.alignment", &u32_of(24)).bytes(), "alignment is 24"),
        ("unknown value", gguf().key("k", &77u32.to_le_bytes()).bytes(), "unknown type 77"),
        ("nested arrays", gguf().key("k", &array(9, 1)).bytes(), "array of arrays"),
        ("long array", gguf().key("k", &array(10, 1 << 61)).bytes(), "array"),
        ("long texts", gguf().key("k", &array(8, u64::MAX)).bytes(), "damaged"),
        ("a long name", gguf().key(&"k".repeat(70_000), &u32_of(1)).bytes(), "a name has 70000 bytes"),
        ("another size", gguf().key("comfy.gguf.orig_shape.w", &other).bytes(), "another size"),
    ];
    for (what, bytes, says) in cases {
        refused(what, GgufFile::from_bytes("some.gguf", bytes).err(), says, "some.gguf");
    }
}

fn refused(what: &str, error: Option<WeightsError>, says: &str, file: &str) {
    let error = error.unwrap_or_else(|| panic!("{what} was read")).to_string();
    assert!(error.contains(says) && error.contains(file) && !error.contains('\n'), "{what}: {error}");
    assert!(error.len() < 500, "{what}: {error}");
}

proptest! {
    /// A few changed bytes of good files: read whole or refused.
    #[test]
    fn changed_files_are_read_or_refused(
        which in 0usize..4,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let names = ["state.zip.pt", "state.legacy.pt", "typed.pt", "blocks.gguf"];
        let mut bytes = std::fs::read(fixture(names[which])).unwrap();
        // Headers are where damage matters; they are in the first and the last part.
        let head = bytes.len().min(2500);
        for (at, value) in changes {
            let at = at.index(head + 800);
            let at = if at < head { at } else { bytes.len() - 1 - (at - head).min(bytes.len() - 1) };
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let file: Result<Box<dyn TensorSource>, _> = if which == 3 {
            GgufFile::from_bytes("any", bytes).map(|f| Box::new(f) as _)
        } else {
            TorchFile::from_bytes("any", bytes).map(|f| Box::new(f) as _)
        };
        if let Ok(file) = file {
            for name in file.tensors().keys() {
                let _ = file.tensor_f32(name);
            }
        }
    }

    #[test]
    fn any_pickle_is_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = torch(Zip::new(&pickle(&body)).bytes());
        let _ = torch(pickle(&body));
        let _ = torch([&b"PK\x03\x04"[..], &body].concat());
        let _ = GgufFile::from_bytes("any", [&b"GGUF\x03\0\0\0"[..], &body].concat());
    }
}
