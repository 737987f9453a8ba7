//! Arbitrary bytes as an answer and a reference, the first line break between.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let (answer, reference) = text.split_once('\n').unwrap_or((&text, &text));
    orchestrator_fuzz::compare(answer, reference);
});
