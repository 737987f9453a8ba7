//! A real vLLM server that is killed and started again on its port, under an engine that goes on; its metrics, its key, and
//! the folder that it loads weights from. Scripted servers do the rest in `engine_fleet.rs`.
// clippy knows functions marked as tests only, not their helpers.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use orchestrator::config::{InferenceConfig, ServerDevice};
use orchestrator::inference::vllm::{VllmEngine, VllmSetup};
use orchestrator::inference::{Engine, EngineError};
use orchestrator::trainer::Family;
use orchestrator::types::WeightVersion;
use support::requests::{NEUTRAL, assert_near, prompt, request};
use support::vllm::{manifest, processes, python, tiny_model};

const FILE: &str = "model.safetensors";
/// Cargo sets it for every test.
const KEY_ENV: &str = "CARGO_PKG_NAME";

/// Starts a server on a free port that loads weights from `dir` only.
async fn launch(dir: &Path) -> VllmEngine {
    let config = InferenceConfig {
        launch: true,
        command: vec![python().display().to_string()],
        device: ServerDevice::Cpu,
        dtype: "float32".into(),
        max_model_tokens: 1024,
        cpu_kv_cache_gib: 1,
        api_key_env: KEY_ENV.into(),
        ..InferenceConfig::default()
    };
    let start = Instant::now();
    let engine = VllmEngine::start(VllmSetup {
        config: &config,
        sampling: NEUTRAL,
        model: &dir.join("start"),
        run_dir: &dir.join("run"),
        salt: "launcher",
        adapter_rank: None,
        weights_root: Some(dir),
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
    println!("vLLM was ready after {:.1} s", start.elapsed().as_secs_f64());
    engine
}

/// A server as somebody else starts it, ended with all it started when dropped.
struct Foreign(Child);

impl Foreign {
    fn start(dir: &Path, port: &str) -> Foreign {
        let log = std::fs::File::create(dir.join("foreign.log")).expect("a log");
        let extension = Path::new(env!("CARGO_MANIFEST_DIR")).join("inference");
        let child = Command::new(python())
            .args(["-m", "vllm.entrypoints.openai.api_server", "--served-model-name", "policy", "--dtype", "float32"])
            .args(["--max-model-len", "1024", "--generation-config", "vllm", "--logprobs-mode", "processed_logprobs"])
            .args(["--enforce-eager", "--no-enable-chunked-prefill", "--host", "127.0.0.1", "--port", port])
            .args(["--worker-extension-cls", "worker.DeepSearchWorker", "--model"])
            .arg(dir.join("start"))
            .envs([("TORCHDYNAMO_DISABLE", "1"), ("VLLM_SERVER_DEV_MODE", "1"), ("VLLM_CPU_KVCACHE_SPACE", "1")])
            .envs([("HF_HUB_OFFLINE", "1"), ("VLLM_NO_USAGE_STATS", "1")])
            .env("VLLM_API_KEY", std::env::var(KEY_ENV).expect("cargo runs the tests"))
            .env("DEEPSEARCH_WEIGHTS_ROOT", dir)
            .env("PYTHONPATH", extension)
            .env_remove("PYTHONDONTWRITEBYTECODE")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("starts");
        Foreign(child)
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// Kills the server on the port and all it started, but not their watcher.
fn kill_server(port: &str) {
    let flag = format!("--port {port} ");
    let all = processes();
    let (_, group, _) = all.iter().find(|(_, _, words)| words.contains(&flag)).expect("the server runs");
    for (pid, its, _) in &all {
        if its == group && pid != group {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
    }
}

#[tokio::test]
async fn a_server_killed_and_started_again_is_brought_to_the_current_weights() {
    let (dir, elsewhere) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
    for (name, seed) in [("start", 0), ("trained", 1)] {
        tiny_model(&dir.path().join(name), Family::Llama, seed);
    }
    tiny_model(elsewhere.path(), Family::Llama, 2);
    let first = launch(dir.path()).await;
    let url = first.urls().pop().expect("one server");
    let port = url.rsplit(':').next().expect("a port").to_owned();
    let unlocked = reqwest::Client::builder().no_proxy().build().expect("client");
    let status = unlocked.get(format!("{url}/v1/models")).send().await.expect("an answer").status();
    assert_eq!(status, 401, "the launched server has the key");

    let config = InferenceConfig {
        urls: vec![url.clone()],
        retry_timeout_s: 400,
        health_check_s: 2,
        api_key_env: KEY_ENV.into(),
        ..InferenceConfig::default()
    };
    let nowhere = Path::new("/nonexistent");
    let engine = VllmEngine::start(VllmSetup {
        config: &config,
        sampling: NEUTRAL,
        model: nowhere,
        run_dir: nowhere,
        salt: "test",
        adapter_rank: None,
        weights_root: None,
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
    engine.load_weights(&manifest(&dir.path().join("trained"), FILE, 1)).await.expect("loads");
    let prompt = prompt(300, 1);
    let before = engine.score(&prompt).await.expect("scores");
    engine.generate(request(&prompt, 2, 5, NEUTRAL)).await.expect("samples");
    engine.generate(request(&prompt, 2, 6, NEUTRAL)).await.expect("samples");
    let counts: BTreeMap<_, _> = engine.take_counts().await.expect("counts").into_iter().collect();
    println!("{counts:?}");
    assert!(counts["server_token_limit"] >= 1024.0, "{counts:?}");
    assert!(counts["server_prefix_hit_frac"] > 0.0, "{counts:?}");

    kill_server(&port);
    let start = Instant::now();
    let second = Foreign::start(dir.path(), &port);
    let answer = engine.generate(request(&prompt, 1, 7, NEUTRAL)).await;
    let log = std::fs::read_to_string(dir.path().join("foreign.log")).unwrap_or_default();
    let answer = answer.unwrap_or_else(|error| panic!("{error}: {log}"));
    println!("killed, started again, loaded and answered after {:.1} s", start.elapsed().as_secs_f64());
    assert_eq!(answer[0].weight_version, WeightVersion(1));
    let after = engine.score(&prompt).await.expect("scores");
    assert_near(&after[0], &before[0], "logprobs of the weights that were loaded before");
    let counts: BTreeMap<_, _> = engine.take_counts().await.expect("counts").into_iter().collect();
    assert!(counts["server_returns"] >= 1.0, "{counts:?}");

    let error = engine.load_weights(&manifest(elsewhere.path(), FILE, 2)).await.expect_err("another folder");
    let EngineError::Reload { source, .. } = &error else { panic!("{error:?}") };
    assert!(source.to_string().contains("outside of the folder"), "{source}");
    drop(second);
    let start = Instant::now();
    first.stop().await;
    assert!(start.elapsed() < Duration::from_secs(20), "nothing is left of the one that was killed");
}
