#![no_main]

#[path = "../checks/weights.rs"]
#[allow(dead_code)]
mod weights;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weights::zip(bytes));
