//! Exports and the models that the trainer makes, as transformers sees them.

// Helpers of tests are tests too; clippy.toml allows these in `#[test]` functions only.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod trainer_support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use orchestrator::config::{ComputeDtype, ExportDtype};
use orchestrator::trainer::{Family, ModelSpec, export};
use orchestrator::types::WeightVersion;
use serde_json::{Value, json};
use trainer_support::*;

/// Exports version 0 of a model; the job has transformers compare it with the original.
fn export_zero(dir: &Path, target: &Path) -> Value {
    let learner = learner(dir, config());
    export::export(&learner.parameters, dir, ExportDtype::Source, target, WeightVersion::INITIAL).unwrap();
    json!({ "kind": "compare", "export": target, "original": dir })
}

/// bf16 to fp32 masters and back is exact, so version 0 is the original bit for bit.
#[test]
fn transformers_loads_what_the_trainer_makes_and_exports() {
    let out = tempfile::tempdir().unwrap();
    let models = [Family::Llama, Family::Qwen2, Family::Qwen3].map(|family| {
        tiny(family, |spec| {
            (spec.dtype, spec.std) = (ComputeDtype::Bfloat16, ModelSpec::default().std);
            spec.is_tied = family == Family::Qwen2;
        })
    });
    let mut dirs: Vec<PathBuf> = models.iter().map(|dir| dir.path().to_path_buf()).collect();
    match real_model() {
        Some(dir) => dirs.push(dir),
        None => println!("`models/smollm2-135m-instruct` is not here (`make setup` brings it): small models only"),
    }
    let jobs: Vec<Value> = (0..).zip(&dirs).map(|(i, dir)| export_zero(dir, &out.path().join(i.to_string()))).collect();
    let answers = python(&json!(jobs));
    for (index, (dir, answer)) in dirs.iter().zip(answers.as_array().unwrap()).enumerate() {
        let name = dir.display();
        assert_eq!(answer["different"], json!([]), "{name}: tensors that are not bit-equal");
        assert_eq!(answer["missing"], json!([]), "{name}: names in one file only");
        assert_eq!(answer["round_trip"], json!(true), "{name}: text to tokens and back");
        let generated: Vec<u32> = serde_json::from_value(answer["generated"].clone()).unwrap();
        assert_eq!(generated.len(), 8, "{name}");
        assert!(generated.iter().collect::<BTreeSet<_>>().len() > 2, "{name}: one token over and over: {generated:?}");
        if index < models.len() {
            assert_eq!(answer["eos"], json!(2));
            assert!(answer["largest_id"].as_u64().unwrap() < 259, "bytes are the only ordinary tokens");
            assert_eq!(answer["chat"], json!("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"));
        }
    }
}
