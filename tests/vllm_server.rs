//! The real vLLM server with a tiny random model: sampling, hot reload, refused weights.
//!
//! One server serves all tests of this file; they take turns and leave the weights of its start behind.
// clippy knows functions marked as tests only, not their helpers.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::path::Path;
use std::sync::{Arc, LazyLock, PoisonError};
use std::time::{Duration, Instant};

use orchestrator::config::{InferenceConfig, LogprobsMode, ServerDevice};
use orchestrator::inference::vllm::{VllmEngine, VllmSetup};
use orchestrator::inference::{Engine, EngineError, LoadReport, ReloadPhase};
use orchestrator::trainer::Family;
use orchestrator::types::{Continuation, GenerateRequest, Sampling, TokenId, WeightManifest, WeightVersion};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use support::vllm::{manifest, metric, processes, python, raw_score, raw_state, tiny_model};

const NEUTRAL: Sampling = Sampling { temperature: 1.0, top_p: 1.0, top_k: 0 };
const GREEDY: Sampling = Sampling { temperature: 0.0, ..NEUTRAL };
const FILE: &str = "model.safetensors";
const VOCAB: u32 = 512;
/// Two ways to the same number in fp32; the order of summation differs.
const FP32_NATS: f32 = 1e-4;

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
    let setup = VllmSetup { config: &config, sampling: NEUTRAL, model, run_dir, salt: "test" };
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

fn request(tokens: &[TokenId], n: u32, seed: u64, sampling: Sampling) -> GenerateRequest {
    GenerateRequest {
        affinity: 1,
        tokens: tokens.to_vec(),
        n,
        max_tokens: 24,
        sampling,
        stop: Arc::new([]),
        stop_token_ids: Arc::new([]),
        seed,
        deadline: Duration::from_secs(120),
    }
}

/// A prompt of `count` tokens, another for each `salt`.
fn prompt(count: u32, salt: u32) -> Vec<TokenId> {
    (0..count).map(|i| 3 + (i * 37 + salt * 101) % (VOCAB - 3)).collect()
}

fn assert_near(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() < FP32_NATS, "{what}: {found:?} and {expected:?}");
    }
}

#[test]
fn samples_are_in_range_repeat_by_seed_and_their_logprobs_are_the_models_own() {
    on_server(|live| async move {
        let prompt = prompt(20, 1);
        let first = live.sample(&prompt, 4, 1000, NEUTRAL).await;
        assert_eq!(first.len(), 4);
        for continuation in &first {
            assert!((1..=24).contains(&continuation.tokens.len()));
            assert!(continuation.tokens.iter().all(|&token| token < VOCAB));
            assert!(continuation.logprobs.iter().all(|&logprob| logprob <= 0.0));
        }
        assert!(first.iter().any(|other| other.tokens != first[0].tokens), "four samples are not one");
        assert_eq!(live.sample(&prompt, 4, 1000, NEUTRAL).await, first, "same seed");
        assert_ne!(live.sample(&prompt, 4, 2000, NEUTRAL).await, first, "another seed");
        for continuation in &first {
            let whole: Vec<TokenId> = prompt.iter().chain(&continuation.tokens).copied().collect();
            let scored = live.score(&whole).await;
            assert_near(&continuation.logprobs, &scored[prompt.len() - 1..], "sampled and scored");
        }
    });
}

#[test]
fn stop_tokens_and_stop_texts_end_a_continuation_and_are_kept() {
    on_server(|live| async move {
        let prompt = prompt(20, 2);
        let free = live.sample(&prompt, 1, 5, NEUTRAL).await.remove(0);
        let stop = free.tokens[3];
        let cut = GenerateRequest { stop_token_ids: Arc::new([stop]), ..request(&prompt, 1, 5, NEUTRAL) };
        let got = live.engine.generate(cut).await.expect("stops").remove(0);
        let end = free.tokens.iter().position(|&token| token == stop).expect("it was drawn");
        assert_eq!(got.tokens, free.tokens[..=end]);
        assert_eq!(got.finish, orchestrator::types::FinishReason::Stop);
    });
}

#[test]
fn a_reload_changes_the_output_and_the_old_weights_bring_it_back_bit_for_bit() {
    on_server(|live| async move {
        live.load("a", 10).await;
        let prompt = prompt(30, 3);
        let (greedy, scored) = (live.sample(&prompt, 1, 0, GREEDY).await, live.score(&prompt).await);
        let report = live.load("b", 11).await;
        println!("reload: {report:?}");
        assert_eq!(report.phases.len(), 5);
        let held = report.held;
        assert_eq!((held.bitwise_tensors + held.probed_tensors, held.unchecked_tensors), (20, 0), "{held:?}");
        let new = live.sample(&prompt, 1, 0, GREEDY).await;
        assert_eq!(new[0].weight_version, WeightVersion(11));
        assert_ne!(new[0].tokens, greedy[0].tokens);
        assert_ne!(live.score(&prompt).await, scored);
        live.load("a", 12).await;
        let back = live.sample(&prompt, 1, 0, GREEDY).await;
        assert_eq!((&back[0].tokens, &back[0].logprobs), (&greedy[0].tokens, &greedy[0].logprobs));
        assert_eq!(live.score(&prompt).await, scored);
    });
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
        live.load("b", 21).await;
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
        let setup = VllmSetup { config: &config, sampling: warm, model: nowhere, run_dir: nowhere, salt: "other" };
        let engine = VllmEngine::start(setup).await.expect("processed logprobs fit");
        assert_eq!((engine.capabilities().vocab_tokens, engine.capabilities().max_model_tokens), (512, 1024));
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
        let setup =
            VllmSetup { config: &config, sampling: warm, model: dir.path(), run_dir: dir.path(), salt: "other" };
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
