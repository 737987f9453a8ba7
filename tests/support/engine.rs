//! The engine on scripted servers: what the tests of faults and of fleets begin with.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use orchestrator::config::InferenceConfig;
use orchestrator::inference::EngineError;
use orchestrator::inference::vllm::{VllmEngine, VllmSetup};
use orchestrator::types::{GenerateRequest, Sampling, WeightManifest, WeightVersion};
use serde_json::{Value, json};

use super::requests::NEUTRAL;
use super::scripted::{Reply, Scripted};

/// Where generation is asked for.
pub const COMPLETIONS: &str = "/v1/completions";

/// These servers, and short bounds.
pub fn config(servers: &[&Scripted]) -> InferenceConfig {
    InferenceConfig {
        urls: servers.iter().map(|server| server.url.clone()).collect(),
        reload_timeout_s: 2,
        retry_timeout_s: 5,
        ..InferenceConfig::default()
    }
}

/// Nothing of the files matters to a scripted server.
pub fn setup(config: &InferenceConfig, sampling: Sampling) -> VllmSetup<'_> {
    let nowhere = Path::new("/nonexistent");
    VllmSetup {
        config,
        sampling,
        model: nowhere,
        run_dir: nowhere,
        salt: "run",
        adapter_rank: None,
        weights_root: None,
    }
}

/// The engine, or why it does not start.
pub async fn try_connect(config: &InferenceConfig, sampling: Sampling) -> Result<VllmEngine, EngineError> {
    VllmEngine::start(setup(config, sampling)).await
}

/// The engine on servers that are well.
pub async fn connect_with(config: &InferenceConfig) -> VllmEngine {
    try_connect(config, NEUTRAL).await.expect("the scripted servers are healthy")
}

/// `n` continuations of three tokens for the tree `affinity`.
pub fn short_request(affinity: u64, n: u32) -> GenerateRequest {
    GenerateRequest {
        affinity,
        tokens: vec![1, 2, 3],
        n,
        max_tokens: 3,
        sampling: NEUTRAL,
        stop: Arc::new([]),
        stop_token_ids: Arc::new([]),
        seed: 7,
        retain: true,
        deadline: Duration::from_secs(20),
    }
}

/// Weights that scripted servers take on trust.
pub fn manifest(version: u64) -> WeightManifest {
    WeightManifest {
        version: WeightVersion(version),
        dir: "/weights".into(),
        file: "model.safetensors".into(),
        bytes: 4,
        tensors: BTreeMap::new(),
        digest: format!("digest-{version}"),
        base_digest: None,
    }
}

/// An error as vLLM writes it.
pub fn failure(status: u16, message: &str) -> Reply {
    Reply::Json(status, json!({"error": {"message": message, "type": "T", "param": null, "code": status}}))
}

/// Number of generation requests beside those of the probe at start and of canaries.
pub fn attempts(server: &Scripted) -> usize {
    let is_work = |body: &&Value| body["cache_salt"] != "probe" && body["prompt_logprobs"].is_null();
    server.seen(COMPLETIONS).iter().filter(is_work).count()
}

/// The version under which a tree was answered.
pub async fn version_of(engine: &VllmEngine, affinity: u64) -> u64 {
    use orchestrator::inference::Engine;
    let got = engine.generate(short_request(affinity, 1)).await;
    got.unwrap_or_else(|error| panic!("tree {affinity}: {error}"))[0].weight_version.0
}

/// A count of the engine's since it was last asked.
pub async fn count(engine: &VllmEngine, name: &str) -> Option<f64> {
    use orchestrator::inference::Engine;
    let counts = engine.take_counts().await.expect("counts");
    counts.into_iter().find(|(its, _)| *its == name).map(|(_, value)| value)
}
