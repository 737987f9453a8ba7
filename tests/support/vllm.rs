//! The real server in tests: tiny models, weight files good and bad, and what a server says without the engine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use orchestrator::config::ComputeDtype;
use orchestrator::trainer::{Family, ModelSpec, init_model};
use orchestrator::types::{TokenId, WeightManifest, WeightTensor, WeightVersion};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Python of the environment that has vLLM.
///
/// # Panics
/// Without it: a skipped test would look like a passed one.
pub fn python() -> PathBuf {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    assert!(
        python.exists(),
        "this test needs a vLLM environment at `{}`: run `make setup ENGINE=vllm`",
        python.display()
    );
    python
}

/// Writes a tiny random fp32 model into `dir`; another seed gives other weights of the same shapes.
pub fn tiny_model(dir: &Path, family: Family, seed: u64) {
    let spec = ModelSpec { family, seed, dtype: ComputeDtype::Float32, ..ModelSpec::default() };
    init_model(&spec, dir).expect("a tiny model");
}

/// What a trainer would say of the weights in `dir/file`.
pub fn manifest(dir: &Path, file: &str, version: u64) -> WeightManifest {
    let bytes = std::fs::read(dir.join(file)).expect("weights");
    let parsed = SafeTensors::deserialize(&bytes).expect("safetensors");
    let tensors: BTreeMap<String, WeightTensor> = parsed
        .iter()
        .map(|(name, view)| {
            let shape = view.shape().iter().map(|&size| size as u64).collect();
            let crc32 = crc32fast::hash(view.data());
            (name.to_owned(), WeightTensor { dtype: format!("{:?}", view.dtype()), shape, crc32 })
        })
        .collect();
    let mut digest = Sha256::new();
    for (name, tensor) in &tensors {
        digest.update(format!("{name}\0{:08x}\n", tensor.crc32));
    }
    let digest = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    WeightManifest {
        version: WeightVersion(version),
        dir: dir.to_owned(),
        file: file.into(),
        bytes: bytes.len() as u64,
        tensors,
        digest,
        base_digest: None,
    }
}

/// `prompt_logprobs` of a server asked directly, past the engine and its fence, without any cache.
pub async fn raw_score(url: &str, tokens: &[TokenId]) -> Vec<f64> {
    let body = json!({"model": "policy", "prompt": tokens, "max_tokens": 1, "prompt_logprobs": 0});
    let answer = post(url, "/v1/completions", &body).await;
    let positions = answer["choices"][0]["prompt_logprobs"].as_array().expect("prompt_logprobs").clone();
    let pairs = positions.iter().zip(tokens).skip(1);
    pairs.map(|(position, token)| position[token.to_string()]["logprob"].as_f64().expect("logprob")).collect()
}

/// What the first worker says it holds.
pub async fn raw_state(url: &str) -> Value {
    post(url, "/collective_rpc", &json!({"method": "ds_state"})).await["results"][0].clone()
}

/// Sum of a counter in the server's metrics.
pub async fn metric(url: &str, name: &str) -> f64 {
    let text = client().get(format!("{url}/metrics")).send().await.expect("metrics").text().await.expect("text");
    text.lines()
        .filter(|line| line.starts_with(&format!("{name}{{")))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

async fn post(url: &str, path: &str, body: &Value) -> Value {
    let response = client().post(format!("{url}{path}")).json(body).send().await.expect("an answer");
    assert!(response.status().is_success(), "{path}: {}", response.status());
    response.json().await.expect("JSON")
}

fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().expect("client")
}

/// Process group and command line of every live process (zombies are not).
pub fn processes() -> Vec<(i32, i32, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        // pid (name, which may hold spaces) state ppid pgrp ...
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        let fields: Vec<&str> = rest.split(' ').collect();
        let Some(group) = fields.get(2).and_then(|group| group.parse().ok()).filter(|_| fields[0] != "Z") else {
            continue;
        };
        let words = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default().replace('\0', " ");
        found.push((pid, group, words));
    }
    found
}
