//! Adapters of the trainer in a real vLLM: loaded while it runs, sampled from, replaced, and let go.
// clippy knows functions marked as tests only, not their helpers.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;
#[allow(clippy::unwrap_used)]
mod trainer_support;

use std::time::Instant;

use orchestrator::config::{InferenceConfig, LoraConfig, ServerDevice, TrainConfig};
use orchestrator::inference::vllm::{VllmEngine, VllmSetup};
use orchestrator::inference::{Engine, EngineError};
use orchestrator::trainer::{Family, Trainer, TrainerSpec};
use orchestrator::types::{TokenId, WeightVersion};
use support::requests::{NEUTRAL, assert_near, largest_difference, prompt, request};
use support::vllm::{manifest, metric, python, raw_score};

/// One server, so one test.
#[tokio::test]
async fn a_server_samples_from_the_adapters_that_were_loaded_last() {
    let dir = tempfile::tempdir().expect("folder");
    let model = dir.path().join("model");
    support::vllm::tiny_model(&model, Family::Qwen2, 0);
    let rank = 4;
    let lora = LoraConfig { rank, alpha: 6.0, ..LoraConfig::default() };
    let config = TrainConfig { lora, learning_rate: 1e-2, ..trainer_support::config() };
    let spec = TrainerSpec { temperature: 1.0, ..trainer_support::spec(&model, config) };
    let trainer = Trainer::spawn(spec).await.expect("trainer");
    let inference = InferenceConfig {
        launch: true,
        command: vec![python().display().to_string()],
        device: ServerDevice::Cpu,
        dtype: "float32".into(),
        max_model_tokens: 1024,
        cpu_kv_cache_gib: 1,
        ..InferenceConfig::default()
    };
    let run_dir = &dir.path().join("run");
    let setup = VllmSetup {
        config: &inference,
        sampling: NEUTRAL,
        model: &model,
        run_dir,
        salt: "lora",
        adapter_rank: Some(rank),
        weights_root: Some(dir.path()),
    };
    let start = Instant::now();
    let engine = VllmEngine::start(setup).await.unwrap_or_else(|error| panic!("{error}"));
    println!("vLLM was ready after {:.1} s", start.elapsed().as_secs_f64());
    let url = engine.urls().pop().expect("one replica");
    // Two full blocks of 128 tokens and some.
    let prompt = prompt(300, 4);
    let base = raw_score(&url, &prompt).await;
    let mut manifests = Vec::new();
    let mut scores: Vec<Vec<f32>> = Vec::new();
    for version in 0..3 {
        if version > 0 {
            trainer
                .update((0..2).map(|seed| trainer_support::random_group(seed, 512, 9, (3, 8))).collect())
                .await
                .expect("updates");
        }
        let target = dir.path().join(format!("v{version}"));
        let exported = trainer.export(&target, WeightVersion(version)).await.expect("exports");
        let report = engine.load_weights(&exported).await;
        let report = report.unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)));
        println!("version {version}: {report:?}");
        assert_eq!((report.held.unchecked_tensors, report.held.bitwise_tensors), (28, 0));
        // Sampled first: nothing that the version before left in the prefix cache is met.
        let hits = metric(&url, "vllm:prefix_cache_hits_total").await;
        let first = engine.generate(request(&prompt, 1, 9, NEUTRAL)).await.expect("samples").remove(0);
        assert_eq!(metric(&url, "vllm:prefix_cache_hits_total").await - hits, 0.0, "nothing old is hit");
        assert_eq!(first.weight_version, WeightVersion(version));
        let whole: Vec<TokenId> = prompt.iter().chain(&first.tokens).copied().collect();
        let scored = trainer.score(whole, 1.0).await.expect("scores");
        assert_near(&first.logprobs, &scored[prompt.len() - 1..], "sampled logprobs");
        engine.generate(request(&prompt, 1, 9, NEUTRAL)).await.expect("samples");
        assert_eq!(metric(&url, "vllm:prefix_cache_hits_total").await - hits, 256.0, "the cache is in use");
        let server = engine.score(&prompt).await.expect("scores").remove(0);
        let ours = trainer.score(prompt.clone(), 1.0).await.expect("scores");
        assert_near(&server, &ours, "the canary");
        if let Some(last) = scores.last() {
            assert!(largest_difference(&server, last) > 0.05, "version {version} changed nothing");
        }
        engine.confirm_weights(&exported).await.expect("it holds them");
        scores.push(server);
        manifests.push(exported);
    }
    // The one before was let go, and the weights of the model were never touched.
    let gone = engine.confirm_weights(&manifests[1]).await.expect_err("let go");
    assert!(matches!(gone, EngineError::WeightsDiffer { .. }), "{gone:?}");
    assert_eq!(raw_score(&url, &prompt).await, base);
    // Going back is a load like any other.
    engine.load_weights(&manifests[1]).await.expect("loads");
    let again = engine.score(&prompt).await.expect("scores").remove(0);
    assert_near(&again, &scores[1], "version 1 again");
    // Whole weights would break the model, so they are refused before it is touched.
    let whole = engine.load_weights(&manifest(&model, "model.safetensors", 9)).await.expect_err("whole weights");
    let source = std::error::Error::source(&whole).map(ToString::to_string).unwrap_or_default();
    assert!(source.contains("takes adapters only"), "{source}");
    // Adapters that are not there are refused as well, and those before go on.
    let mut missing = manifests[2].clone();
    (missing.dir, missing.digest) = (dir.path().join("nowhere"), "0123".repeat(16));
    let refused = engine.load_weights(&missing).await.expect_err("no such folder");
    println!("refused: {}", std::error::Error::source(&refused).map(ToString::to_string).unwrap_or_default());
    engine.load_weights(&manifests[2]).await.expect("loads");
    assert_near(&engine.score(&prompt).await.expect("scores").remove(0), &scores[2], "version 2 again");
    // Adapters of another folder are not even looked at, by whatever name they are asked for.
    let elsewhere = tempfile::tempdir().expect("folder");
    for entry in std::fs::read_dir(&manifests[1].dir).expect("a folder") {
        let file = entry.expect("a file").path();
        std::fs::copy(&file, elsewhere.path().join(file.file_name().expect("a name"))).expect("copies");
    }
    let mut foreign = manifests[1].clone();
    (foreign.dir, foreign.digest) = (elsewhere.path().to_owned(), "4567".repeat(16));
    let refused = engine.load_weights(&foreign).await.expect_err("outside of the folder");
    let source = std::error::Error::source(&refused).map(ToString::to_string).unwrap_or_default();
    assert!(source.contains("outside of the folder"), "{source}");
    let http = reqwest::Client::builder().no_proxy().build().expect("client");
    let adapters = serde_json::json!({"name": "x", "src": elsewhere.path()});
    let answer = http.post(format!("{url}/adapters")).json(&adapters).send().await.expect("an answer");
    assert_eq!(answer.status(), 400, "another name of the same route");
    let dump = serde_json::json!({"method": "save_sharded_state", "kwargs": {"path": elsewhere.path().join("dump")}});
    let answer = http.post(format!("{url}/collective_rpc")).json(&dump).send().await.expect("an answer");
    assert_eq!(answer.status(), 400, "methods of our extension only");
    engine.load_weights(&manifests[2]).await.expect("loads");
    assert_near(&engine.score(&prompt).await.expect("scores").remove(0), &scores[2], "version 2 after that");
    engine.stop().await;
}
