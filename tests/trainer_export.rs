//! Exports and the models that the trainer makes, as transformers sees them.

mod trainer_support;

use std::path::Path;

use orchestrator::config::ComputeDtype;
use orchestrator::trainer::{Family, export};
use orchestrator::types::WeightVersion;
use serde_json::{Value, json};
use trainer_support::*;

/// Exports version 0 and has transformers compare it with the original.
fn round_trip(dir: &Path) -> Value {
    let learner = learner(dir, config());
    let out = tempfile::tempdir().unwrap();
    let target = out.path().join("0");
    export::export(&learner.parameters, dir, &target, WeightVersion::INITIAL).unwrap();
    let answer = python(&json!({ "kind": "compare", "export": target, "original": dir }));
    assert_eq!(answer["different"], json!([]), "tensors that are not bit-equal");
    assert_eq!(answer["missing"], json!([]), "names in one file only");
    assert_eq!(answer["round_trip"], json!(true), "text to tokens and back");
    assert_eq!(answer["generated"].as_array().unwrap().len(), 8);
    answer
}

#[test]
fn transformers_loads_what_the_trainer_makes_and_exports() {
    for family in [Family::Llama, Family::Qwen2, Family::Qwen3] {
        let dir = tiny(family, |spec| {
            spec.dtype = ComputeDtype::Bfloat16;
            spec.is_tied = family == Family::Qwen2;
        });
        let answer = round_trip(dir.path());
        assert_eq!(answer["eos"], json!(2));
        assert!(answer["largest_id"].as_u64().unwrap() < 259, "bytes are the only ordinary tokens");
        assert_eq!(answer["chat"], json!("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"));
    }
}

#[test]
fn the_real_model_survives_the_way_through_fp32() {
    let Some(dir) = real_model() else {
        println!("`models/smollm2-135m-instruct` is not here (`make setup` brings it): only the small models were run");
        return;
    };
    round_trip(&dir);
}
