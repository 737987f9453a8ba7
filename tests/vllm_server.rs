//! What only a server has, on the real vLLM with a tiny random model: its prefix cache, refused weights, the modes of its
//! logprobs, its death. What every engine must do is in `engine_conformance.rs`.
//!
//! One server serves all tests of this file; they take turns and leave the weights of its start behind.
// clippy knows functions marked as tests only, not their helpers.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::path::Path;
use std::sync::{LazyLock, PoisonError};
use std::time::{Duration, Instant};

use orchestrator::config::{InferenceConfig, LogprobsMode, ServerDevice};
use orchestrator::inference::vllm::{VllmEngine, VllmSetup};
use orchestrator::inference::{Engine, EngineError, LoadReport, ReloadPhase};
use orchestrator::trainer::Family;
use orchestrator::types::{Continuation, GenerateRequest, Sampling, TokenId, WeightManifest};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use support::requests::{NEUTRAL, assert_near, prompt, request};
use support::vllm::{manifest, metric, processes, python, raw_score, raw_state, tiny_model};

const FILE: &str = "model.safetensors";

struct Live {
    runtime: tokio::runtime::Runtime,
    engine: VllmEngine,
    url: String,
    dir: tempfile::TempDir,
}

/// Ended by its watcher when the test process ends, since statics are not dropped.
static LIVE: LazyLock<Live> = LazyLock::new(|| {
    // Connections belong to the runtime that opened them, so all tests share one.
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let dir = tempfile::tempdir().expect("folder");
    tiny_model(&dir.path().join("a"), Family::Llama, 0);
    tiny_model(&dir.path().join("b"), Family::Llama, 1);
    let start = Instant::now();
    let engine = runtime.block_on(start_engine(dir.path(), LogprobsMode::Processed));
    println!("vLLM was ready after {:.1} s", start.elapsed().as_secs_f64());
    let url = engine.urls().pop().expect("one replica");
    Live { runtime, engine, url, dir }
});
static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());

async fn start_engine(dir: &Path, logprobs_mode: LogprobsMode) -> VllmEngine {
    let config = InferenceConfig {
        launch: true,
        command: vec![python().display().to_string()],
        device: ServerDevice::Cpu,
        dtype: "float32".into(),
        max_model_tokens: 1024,
        cpu_kv_cache_gib: 1,
        logprobs_mode,
        ..InferenceConfig::default()
    };
    let (model, run_dir) = (&dir.join("a"), &dir.join(format!("run_{logprobs_mode:?}")));
    let setup = VllmSetup {
        config: &config,
        sampling: NEUTRAL,
        model,
        run_dir,
        salt: "test",
        adapter_rank: None,
        weights_root: None,
    };
    VllmEngine::start(setup).await.unwrap_or_else(|error| panic!("{error}"))
}

/// Runs `test` on the shared server, alone.
fn on_server<F: Future<Output = ()>>(test: impl FnOnce(&'static Live) -> F) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let live = &*LIVE;
    live.runtime.block_on(test(live));
}

impl Live {
    fn weights(&self, model: &str, version: u64) -> WeightManifest {
        manifest(&self.dir.path().join(model), FILE, version)
    }

    async fn load(&self, model: &str, version: u64) -> LoadReport {
        let report = self.engine.load_weights(&self.weights(model, version)).await;
        report.unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)))
    }

    async fn sample(&self, tokens: &[TokenId], n: u32, seed: u64, sampling: Sampling) -> Vec<Continuation> {
        self.engine.generate(request(tokens, n, seed, sampling)).await.unwrap_or_else(|error| panic!("{error}"))
    }

    async fn score(&self, tokens: &[TokenId]) -> Vec<f32> {
        self.engine.score(tokens).await.expect("scores").pop().expect("one replica")
    }
}

#[test]
fn no_prefix_cache_outlives_its_weights() {
    on_server(|live| async move {
        live.load("a", 20).await;
        // Two full blocks of 128 tokens and some.
        let prompt = prompt(300, 4);
        let before = live.sample(&prompt, 1, 9, NEUTRAL).await;
        let hits = metric(&live.url, "vllm:prefix_cache_hits_total").await;
        assert_eq!(live.sample(&prompt, 1, 9, NEUTRAL).await[0].tokens, before[0].tokens);
        assert_eq!(metric(&live.url, "vllm:prefix_cache_hits_total").await - hits, 256.0, "the cache is in use");
        let report = live.load("b", 21).await;
        println!("reload: {report:?}");
        assert_eq!(report.phases.len(), 5);
        let held = report.held;
        assert_eq!((held.bitwise_tensors + held.probed_tensors, held.unchecked_tensors), (20, 0), "{held:?}");
        let hits = metric(&live.url, "vllm:prefix_cache_hits_total").await;
        let after = live.sample(&prompt, 1, 9, NEUTRAL).await.remove(0);
        assert_eq!(metric(&live.url, "vllm:prefix_cache_hits_total").await - hits, 0.0, "nothing old is hit");
        let whole: Vec<TokenId> = prompt.iter().chain(&after.tokens).copied().collect();
        assert_near(&after.logprobs, &live.score(&whole).await[prompt.len() - 1..], "first use after a reload");
        live.load("a", 22).await;
    });
}

/// A copy of model `a` in which `change` edited the tensors (name, shape, little-endian fp32 bytes).
fn edited(live: &Live, name: &str, change: impl FnOnce(&mut Vec<(String, Vec<usize>, Vec<u8>)>)) -> WeightManifest {
    let bytes = std::fs::read(live.dir.path().join("a").join(FILE)).expect("weights");
    let parsed = SafeTensors::deserialize(&bytes).expect("safetensors");
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> =
        parsed.iter().map(|(name, view)| (name.to_owned(), view.shape().to_vec(), view.data().to_vec())).collect();
    tensors.sort();
    change(&mut tensors);
    let views = tensors.iter().map(|(name, shape, data)| {
        (name, TensorView::new(safetensors::Dtype::F32, shape.clone(), data).expect("view"))
    });
    let dir = live.dir.path().join(name);
    std::fs::create_dir_all(&dir).expect("folder");
    std::fs::write(dir.join(FILE), safetensors::serialize(views, None).expect("serializes")).expect("writes");
    manifest(&dir, FILE, 99)
}

#[test]
fn bad_weights_are_refused_and_the_old_ones_go_on() {
    on_server(|live| async move {
        live.load("a", 30).await;
        let prompt = prompt(30, 5);
        let old = raw_score(&live.url, &prompt).await;
        let copy = |name: &str| edited(live, name, |_| {});
        let corrupted = copy("corrupted");
        let path = corrupted.dir.join(FILE);
        let mut bytes = std::fs::read(&path).expect("reads");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, &bytes).expect("writes");
        let truncated = copy("truncated");
        std::fs::write(truncated.dir.join(FILE), &bytes[..bytes.len() - 100]).expect("writes");
        let missing_file = copy("missing_file");
        std::fs::remove_file(missing_file.dir.join(FILE)).expect("removes");
        let nan = |tensors: &mut Vec<(String, Vec<usize>, Vec<u8>)>| {
            let last = tensors.len() - 1;
            tensors[last].2[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
        };
        let cases = [
            (corrupted, "checksum of `"),
            (truncated, "SafetensorError"),
            (missing_file, "No such file"),
            (edited(live, "renamed", |t| t[3].0.push('x')), "tensor names differ from the model"),
            (edited(live, "fewer", |t| t.truncate(19)), "tensor names differ from the model"),
            (edited(live, "shape", |t| t[0].1.reverse()), "the model has [512, 64]"),
            (edited(live, "nan", nan), "holds NaN or infinite values"),
        ];
        for (manifest, expected) in cases {
            let error = live.engine.load_weights(&manifest).await.expect_err(expected);
            let EngineError::Reload { phase, source, .. } = &error else { panic!("{error:?}") };
            assert_eq!(*phase, ReloadPhase::Load, "{expected}");
            assert!(matches!(**source, EngineError::WeightsRefused { .. }), "{source}");
            assert!(source.to_string().contains(expected), "{source}");
            let fenced = live.engine.generate(request(&prompt, 1, 0, NEUTRAL)).await.expect_err("fenced");
            assert!(fenced.to_string().contains("still holds the version before"), "{fenced}");
            assert_eq!(raw_state(&live.url).await["version"], 30, "{expected}");
            assert_eq!(raw_score(&live.url, &prompt).await, old, "{expected}");
        }
        live.load("a", 31).await;
        live.sample(&prompt, 1, 0, NEUTRAL).await;
    });
}

#[test]
fn processed_logprobs_are_recognised_at_another_temperature() {
    on_server(|live| async move {
        let config = InferenceConfig { urls: vec![live.url.clone()], ..InferenceConfig::default() };
        let warm = Sampling { temperature: 0.7, ..NEUTRAL };
        let nowhere = Path::new("/nonexistent");
        let setup = VllmSetup {
            config: &config,
            sampling: warm,
            model: nowhere,
            run_dir: nowhere,
            salt: "other",
            adapter_rank: None,
            weights_root: None,
        };
        let engine = VllmEngine::start(setup).await.expect("processed logprobs fit");
        assert_eq!((engine.capabilities().vocab_tokens, engine.capabilities().max_model_tokens), (512, 1024));
    });
}

/// A benchmark asks what is there: loaded weights are no reason to refuse, and nothing is loaded by it.
#[test]
fn a_server_is_sampled_with_what_it_holds() {
    on_server(|live| async move {
        live.load("b", 40).await;
        let config = InferenceConfig { urls: vec![live.url.clone()], ..InferenceConfig::default() };
        let nowhere = Path::new("/nonexistent");
        let setup = VllmSetup {
            config: &config,
            sampling: NEUTRAL,
            model: nowhere,
            run_dir: nowhere,
            salt: "eval",
            adapter_rank: None,
            weights_root: None,
        };
        let engine = VllmEngine::start_as_it_is(setup, Some("policy")).await.expect("it serves `policy`");
        assert_eq!(engine.weights_digest().await.expect("it answers"), Some(live.weights("b", 40).digest));
        let prompt = prompt(30, 8);
        let found = engine.generate(request(&prompt, 1, 3, NEUTRAL)).await.expect("not fenced off");
        assert_eq!(found[0].tokens, live.sample(&prompt, 1, 3, NEUTRAL).await[0].tokens);
        let error = VllmEngine::start_as_it_is(setup, Some("other")).await.expect_err("another name");
        assert_eq!(
            error.to_string(),
            format!("the server at `{}` cannot be used: it does not serve `other`", live.url)
        );
        live.load("a", 41).await;
    });
}

/// A server of its own, with raw logprobs, which is killed in the middle of a request.
#[test]
fn a_killed_server_is_a_clear_error_and_leaves_no_process() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().expect("folder");
    tiny_model(&dir.path().join("a"), Family::Qwen2, 0);
    tiny_model(&dir.path().join("b"), Family::Qwen2, 1);
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(async {
        let engine = start_engine(dir.path(), LogprobsMode::Raw).await;
        let url = engine.urls().pop().expect("one replica");

        let config = InferenceConfig { urls: vec![url.clone()], ..InferenceConfig::default() };
        let warm = Sampling { temperature: 0.7, ..NEUTRAL };
        let setup = VllmSetup {
            config: &config,
            sampling: warm,
            model: dir.path(),
            run_dir: dir.path(),
            salt: "other",
            adapter_rank: None,
            weights_root: None,
        };
        let error = VllmEngine::start(setup).await.expect_err("raw logprobs at temperature 0.7");
        assert!(matches!(error, EngineError::Biased { .. }), "{error:?}");

        let held = engine.load_weights(&manifest(&dir.path().join("b"), FILE, 1)).await.expect("loads").held;
        assert_eq!((held.unchecked_tensors, held.bitwise_tensors + held.probed_tensors), (0, 26), "{held:?}");

        let port = format!("--port {}", url.rsplit(':').next().expect("port"));
        let group = processes().into_iter().find(|(_, _, words)| words.contains(&port)).expect("the server runs").1;
        let members = || processes().into_iter().filter(|(_, its, _)| *its == group).collect::<Vec<_>>();
        assert!(members().len() >= 3, "watcher, server and engine: {:?}", members());
        let long = GenerateRequest { max_tokens: 900, ..request(&prompt(20, 6), 16, 1, NEUTRAL) };
        let work = engine.generate(long);
        let kill = async {
            while metric(&url, "vllm:num_requests_running").await == 0.0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            for (pid, _, _) in members().into_iter().filter(|(pid, _, _)| *pid != group) {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            }
            Instant::now()
        };
        let (result, killed) = tokio::join!(work, kill);
        assert!(killed.elapsed() < Duration::from_secs(10), "no retry against a dead server");
        let error = result.expect_err("killed");
        let EngineError::ServerExited { status, tail, .. } = &error else { panic!("{error:?}") };
        assert!(status.contains("SIGKILL"), "{status}");
        assert!(tail.contains("APIServer"), "its last log lines: {tail}");
        engine.stop().await;
        assert!(members().is_empty(), "left behind: {:?}", members());
    });
}
