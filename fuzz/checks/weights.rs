//! What holds for any bytes that are given as a file of weights: they are read or refused, in bounded time and memory.

use std::sync::Arc;

use velatura_weights::{Checkpoint, GgufFile, SafetensorsFile, TensorSource, TorchFile};

/// Larger tensors are not converted: a few bytes of a header may describe many.
const MOST_ELEMENTS: usize = 1 << 16;
/// Data that a header may describe.
const MOST_DATA: u64 = 1 << 16;

/// A safetensors file: the bytes as they are, and as a header with the length and the data that it asks for.
pub fn safetensors(bytes: &[u8]) {
    read(SafetensorsFile::from_bytes("fuzz", bytes.to_vec()));
    let mut file = (bytes.len() as u64).to_le_bytes().to_vec();
    file.extend(bytes);
    let data = described(bytes).min(MOST_DATA) as usize;
    file.resize(file.len() + data, 0x3c);
    read(SafetensorsFile::from_bytes("fuzz", file));
}

/// Where the data ends that a header describes.
fn described(header: &[u8]) -> u64 {
    let parsed: serde_json::Value = serde_json::from_slice(header).unwrap_or_default();
    let ends = parsed
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(_, tensor)| tensor.get("data_offsets")?.get(1)?.as_u64());
    ends.max().unwrap_or(0)
}

/// The pickles of PyTorch's old form, from the object on.
pub fn pickle(bytes: &[u8]) {
    // Protocol 2: the magic number, version 1001, a system without sizes.
    let mut file = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e".to_vec();
    file.extend(b"\x80\x02\x4d\xe9\x03\x2e\x80\x02\x7d\x2e");
    file.extend(bytes);
    read(TorchFile::from_bytes("fuzz", file));
}

/// PyTorch's zip archive.
pub fn zip(bytes: &[u8]) {
    let mut file = bytes.to_vec();
    // Everything else is taken for another format.
    file.splice(..file.len().min(4), *b"PK\x03\x04");
    if let Ok(file) = TorchFile::from_bytes("fuzz", file) {
        // Both answers are right; it must only come back.
        let _ = file.verify_checksums();
        read(Ok(file));
    }
}

/// A GGUF file.
pub fn gguf(bytes: &[u8]) {
    let mut file = bytes.to_vec();
    file.splice(..file.len().min(4), *b"GGUF");
    read(GgufFile::from_bytes("fuzz", file));
}

/// Reads all small tensors of a file that was opened, and looks what model it is.
fn read<T: TensorSource + 'static>(file: Result<T, velatura_weights::WeightsError>) {
    let file: Arc<dyn TensorSource> = match file {
        Ok(file) => Arc::new(file),
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains("fuzz"), "the message does not name the file: {text}");
            return;
        }
    };
    for (name, entry) in file.tensors() {
        let elements = entry.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let elements = elements.expect("a tensor was accepted whose number of elements overflows");
        if elements > MOST_ELEMENTS {
            continue;
        }
        let bytes = file.tensor_bytes(name).expect("a tensor was accepted that cannot be read");
        assert_eq!(Some(bytes.len()), entry.dtype.bytes_for(elements), "{name}");
        if let Ok(values) = file.tensor_f32(name) {
            assert_eq!(values.len(), elements, "{name}");
        }
    }
    if let Ok(model) = Checkpoint::of_source(file) {
        // Either answer is right.
        let _ = model.check_complete();
        model.parts().iter().for_each(|part| assert!(part.config.is_object()));
    }
}
