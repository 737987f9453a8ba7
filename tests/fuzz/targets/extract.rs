//! Arbitrary bytes as a response.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    orchestrator_fuzz::extract(&String::from_utf8_lossy(bytes));
});
