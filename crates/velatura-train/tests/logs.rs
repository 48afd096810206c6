//! TensorBoard's event file of a run, read back by an own reader.

mod common;

use common::{Kind, Place, Watch, options, train};

/// CRC-32C (Castagnoli), bit by bit.
fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| if c & 1 == 1 { (c >> 1) ^ 0x82f6_3b78 } else { c >> 1 })
    })
}

fn masked(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn varint(data: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = data[0];
        *data = &data[1..];
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return value;
        }
    }
}

/// Fields of a protocol buffer: number, and its bytes (numbers little-endian).
fn fields(mut data: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut all = Vec::new();
    while !data.is_empty() {
        let key = varint(&mut data);
        let bytes = match key & 7 {
            0 => varint(&mut data).to_le_bytes().to_vec(),
            kind => {
                let length = match kind {
                    1 => 8,
                    5 => 4,
                    2 => varint(&mut data) as usize,
                    other => panic!("wire type {other}"),
                };
                let (bytes, rest) = data.split_at(length);
                data = rest;
                bytes.to_vec()
            }
        };
        all.push((key >> 3, bytes));
    }
    all
}

fn field(all: &[(u64, Vec<u8>)], number: u64) -> &[u8] {
    &all.iter().find(|(n, _)| *n == number).unwrap().1
}

#[test]
fn event_files_can_be_read() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    let place = Place::new();
    let recipe = place.autoencoder("a.toml", "steps = 3\nbatch = 2\nlr = 1e-3");
    let (output, mut watch) = (place.path("run"), Watch::default());
    train(Kind::Autoencoder, &recipe, &options(&output, false, 1), &mut watch).unwrap();

    let mut files = std::fs::read_dir(output.join("tensorboard")).unwrap();
    let data = std::fs::read(files.next().unwrap().unwrap().path()).unwrap();
    let (mut rest, mut events) = (data.as_slice(), Vec::new());
    while !rest.is_empty() {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        assert_eq!(u32::from_le_bytes(rest[8..12].try_into().unwrap()), masked(&rest[..8]));
        let body = &rest[12..12 + length];
        assert_eq!(u32::from_le_bytes(rest[12 + length..16 + length].try_into().unwrap()), masked(body));
        events.push(fields(body));
        rest = &rest[16 + length..];
    }
    assert_eq!(field(&events[0], 3), b"brain.Event:2");
    let scalars: Vec<(u64, String, f32)> = events[1..]
        .iter()
        .map(|event| {
            let value = fields(field(&fields(field(event, 5)), 1));
            let step = u64::from_le_bytes(field(event, 2).try_into().unwrap());
            let number = f32::from_le_bytes(field(&value, 2).try_into().unwrap());
            (step, String::from_utf8(field(&value, 1).to_vec()).unwrap(), number)
        })
        .collect();
    for report in &watch.reports {
        let loss = (report.step, "loss".to_string(), report.loss as f32);
        assert!(scalars.contains(&loss), "{loss:?} {scalars:?}");
        let rate = (report.step, "learning_rate".to_string(), report.learning_rate as f32);
        assert!(scalars.contains(&rate), "{rate:?}");
    }
    assert!(output.join("loss.png").is_file() && output.join("log.csv").is_file());
}
