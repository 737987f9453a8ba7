//! What fuzzing holds true of the verifier, on the seeds of the fuzz targets (`make fuzz` goes on from them).
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::PathBuf;

use orchestrator::{config, types, verify};

#[path = "support/claims.rs"]
mod claims;

fn seeds(target: &str) -> Vec<String> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(target);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    paths.iter().map(|path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned()).collect()
}

/// Every seed and every beginning of it: texts that were cut off.
#[test]
fn extraction_holds_on_the_seeds() {
    for seed in seeds("extract").into_iter().chain(seeds("compare")) {
        for (end, _) in seed.char_indices().chain([(seed.len(), ' ')]) {
            claims::extract(&seed[..end]);
        }
    }
}

/// Every pair, every beginning of both, and every answer against the reference of every other.
#[test]
fn comparison_holds_on_the_seeds() {
    let seeds = seeds("compare");
    let pairs: Vec<(&str, &str)> = seeds.iter().map(|seed| seed.split_once('\n').unwrap()).collect();
    for (answer, reference) in &pairs {
        for (_, other) in &pairs {
            claims::compare(answer, other);
        }
        for (end, _) in answer.char_indices() {
            claims::compare(&answer[..end], reference);
        }
    }
}
