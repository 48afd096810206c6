#![no_main]

#[path = "../checks/requests.rs"]
#[allow(dead_code)]
mod requests;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| requests::request(bytes));
