#![no_main]

#[path = "../checks/text.rs"]
#[allow(dead_code)]
mod text;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| text::prompt(bytes));
