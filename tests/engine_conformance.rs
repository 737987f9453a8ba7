//! One set of checks, two engines: the embedded one and a real vLLM server, both started as a run starts them, with
//! a tiny random model.
//!
//! One engine of each kind serves all tests of this file; they take turns and leave the weights of its start behind.
// clippy knows functions marked as tests only, not their helpers.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[path = "support/conformance.rs"]
mod conformance;
mod support;
mod trainer_support;

use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Instant;

use conformance::{CONTEXT_TOKENS, Subject};
use orchestrator::config::{Config, EngineKind, ExportDtype, InferenceConfig, ServerDevice, TrainConfig};
use orchestrator::data::ModelTokenizer;
use orchestrator::run::engine::Parts;
use orchestrator::trainer::Family;
use orchestrator::types::RunId;
use support::vllm::{python, tiny_model};

/// An engine for the time of the test process.
struct Live {
    // Connections belong to the runtime that opened them, so all tests share one.
    runtime: tokio::runtime::Runtime,
    subject: Subject,
    turn: Mutex<()>,
    /// A launched server is ended by its watcher when the process ends, since statics are not dropped.
    _parts: Parts,
    _dir: tempfile::TempDir,
}

static EMBEDDED: LazyLock<Live> = LazyLock::new(|| Live::start(EngineKind::Embedded));
static VLLM: LazyLock<Live> = LazyLock::new(|| Live::start(EngineKind::Vllm));

impl Live {
    fn start(engine: EngineKind) -> Live {
        let runtime = tokio::runtime::Runtime::new().expect("runtime");
        let dir = tempfile::tempdir().expect("folder");
        let model = dir.path().join("model");
        // Biases that are not 0.
        tiny_model(&model, Family::Qwen2, 3);
        let mut config = Config {
            inference: InferenceConfig {
                engine,
                launch: true,
                command: if engine == EngineKind::Vllm { vec![python().display().to_string()] } else { Vec::new() },
                device: ServerDevice::Cpu,
                dtype: "float32".into(),
                max_model_tokens: CONTEXT_TOKENS,
                cpu_kv_cache_gib: 1,
                ..InferenceConfig::default()
            },
            train: TrainConfig { export_dtype: ExportDtype::Float32, learning_rate: 0.05, ..trainer_support::config() },
            ..Config::default()
        };
        config.run.model = model.clone();
        let tokenizer = Arc::new(ModelTokenizer::load(&model).expect("tokenizer"));
        let begin = Instant::now();
        let (parts, subject) = runtime.block_on(async {
            let parts = Parts::start(&config, &tokenizer, RunId(1), dir.path()).await;
            let parts = parts.unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)));
            let (engine, trainer) = (parts.engine.clone(), parts.trainer.clone());
            let subject = Subject::new(engine, trainer, tokenizer, dir.path().to_path_buf()).await;
            (parts, subject)
        });
        println!("{} was ready after {:.1} s", parts.engine.capabilities().engine, begin.elapsed().as_secs_f64());
        Live { runtime, subject, turn: Mutex::new(()), _parts: parts, _dir: dir }
    }

    /// Runs `check`, alone.
    fn run<F: Future<Output = ()>>(&'static self, check: impl FnOnce(&'static Subject) -> F) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.runtime.block_on(check(&self.subject));
    }
}

/// Each check as a test of either engine.
macro_rules! on_both {
    ($($check:ident),* $(,)?) => {
        mod embedded {
            $(#[test] fn $check() { super::EMBEDDED.run(super::conformance::$check); })*
        }
        mod vllm {
            $(#[test] fn $check() { super::VLLM.run(super::conformance::$check); })*
        }
    };
}

on_both!(
    capabilities_are_the_models,
    continuations_are_sound_and_in_order,
    the_smallest_request_is_answered,
    the_seed_decides_what_is_sampled,
    greedy_is_repeatable_and_needs_no_seed,
    the_models_own_end_of_text_ends,
    a_stop_token_ends_and_is_kept,
    a_stop_text_ends_and_the_token_that_completes_it_is_kept,
    many_trees_at_once_get_each_its_own_answer,
    a_finished_tree_can_be_asked_again,
    a_cancelled_request_leaves_no_work_behind,
    a_request_that_cannot_be_met_is_an_error_of_the_caller,
    sampled_logprobs_are_the_trainers,
    scores_are_the_trainers,
    loaded_weights_are_sampled_from_and_named,
    requests_in_flight_are_sampled_again_under_new_weights,
);

#[test]
fn only_the_embedded_engine_promises_the_same_bits() {
    assert!(EMBEDDED.subject.engine.capabilities().is_reproducible);
}
