//! The engine against a server that misbehaves on purpose: what is tried again, what is refused, what fences a
//! replica off. The real server is in `vllm_server.rs`.

// clippy knows functions marked as tests only, not their helpers.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::error::Error;
use std::time::{Duration, Instant};

use orchestrator::config::InferenceConfig;
use orchestrator::error::{FailureClass, Hint};
use orchestrator::inference::vllm::VllmEngine;
use orchestrator::inference::{Engine, EngineError, ReloadPhase};
use orchestrator::types::{FinishReason, GenerateRequest, Sampling, WeightVersion};
use serde_json::{Value, json};
use support::engine::{
    COMPLETIONS, attempts, config, connect_with, failure, manifest, setup, short_request, try_connect,
};
use support::requests::NEUTRAL;
use support::scripted::{Reply, Scripted, until};

async fn connect(servers: &[&Scripted]) -> VllmEngine {
    connect_with(&config(servers)).await
}

fn request(n: u32) -> GenerateRequest {
    short_request(1, n)
}

fn choices(change: impl FnOnce(&mut Value)) -> Reply {
    let mut value = json!({"choices": [{"index": 0, "token_ids": [3, 4], "finish_reason": "stop", "stop_reason": 4,
        "logprobs": {"token_logprobs": [-0.5, -0.25]}}]});
    change(&mut value["choices"][0]);
    Reply::Json(200, value)
}

#[tokio::test]
async fn a_healthy_answer_carries_tokens_logprobs_and_version() {
    let server = Scripted::start().await;
    let engine = connect(&[&server]).await;
    let got = engine.generate(request(2)).await.expect("healthy");
    assert_eq!(got.len(), 2);
    for continuation in &got {
        assert_eq!(continuation.tokens, [3, 4, 5]);
        assert_eq!(continuation.logprobs, [-0.5, -0.25, -0.125]);
        assert_eq!((continuation.finish, continuation.weight_version), (FinishReason::Length, WeightVersion(0)));
    }
    let sent = server.seen(COMPLETIONS).pop().expect("a request");
    assert_eq!(
        sent,
        json!({"model": "policy", "prompt": [1, 2, 3], "n": 2, "max_tokens": 3, "temperature": 1.0, "top_p": 1.0,
            "top_k": 0, "seed": 7, "logprobs": 0, "return_token_ids": true, "return_tokens_as_token_ids": false,
            "cache_salt": "run:0:initial"})
    );
    let can = engine.capabilities();
    assert_eq!((can.max_model_tokens, can.max_sequences, can.engine.as_str()), (512, 8, "vllm 0.26.0"));
}

#[tokio::test]
async fn what_can_pass_is_tried_again() {
    let cases = [
        ("429", failure(429, "slow down")),
        ("500", failure(500, "oops")),
        ("503", failure(503, "oops")),
        ("closed", Reply::Close),
        ("cut body", Reply::CutBody),
        ("abort", choices(|choice| choice["finish_reason"] = json!("abort"))),
    ];
    for (name, reply) in cases {
        let server = Scripted::start().await;
        let engine = connect(&[&server]).await;
        server.script(COMPLETIONS, [reply.clone(), reply]);
        engine.generate(request(1)).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(attempts(&server) >= 3, "{name}: {} attempts", attempts(&server));
    }
}

#[tokio::test]
async fn a_server_that_asks_to_be_left_alone_is() {
    let server = Scripted::start().await;
    let engine = connect(&[&server]).await;
    server.script(COMPLETIONS, [Reply::RetryAfter(1)]);
    let start = Instant::now();
    engine.generate(request(1)).await.expect("answered after the pause");
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    server.script(COMPLETIONS, [Reply::RetryAfter(3600)]);
    let start = Instant::now();
    let error = engine.generate(request(1)).await.expect_err("longer than the window of 5 s");
    assert!(matches!(error, EngineError::ServerFailed { status: 429, .. }), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(1), "said at once: {:?}", start.elapsed());
}

#[tokio::test]
async fn a_refusal_is_shown_and_not_tried_again() {
    let server = Scripted::start().await;
    let engine = connect(&[&server]).await;
    server.script(COMPLETIONS, [failure(400, "maximum context length is 512 tokens")]);
    let error = engine.generate(request(1)).await.expect_err("refused");
    assert_eq!(
        error.to_string(),
        format!("the server at `{}` refused `/v1/completions` (400): maximum context length is 512 tokens", server.url)
    );
    assert_eq!(error.class(), FailureClass::User);
    assert_eq!(attempts(&server), 1);
    engine.generate(request(1)).await.expect("a bad request does not harm the next");
}

#[tokio::test]
async fn unusable_answers_are_named_and_not_tried_again() {
    let two = json!({"choices": [{"index": 0}, {"index": 1}]});
    let cases = [
        ("wrong JSON", Reply::Text("<html>".into()), "expected value"),
        ("no choices", Reply::Json(200, json!({})), "missing field `choices`"),
        ("two choices", Reply::Json(200, two), "2 choices, asked for 1"),
        ("token outside", choices(|c| c["token_ids"] = json!([3, 64])), "outside the vocabulary of 64"),
        ("no ids", choices(|c| c["token_ids"] = Value::Null), "no token_ids"),
        ("no tokens", choices(|c| c["token_ids"] = json!([])), "no tokens"),
        ("fewer logprobs", choices(|c| c["token_ids"] = json!([3])), "1 tokens and 2 logprobs"),
        ("positive", choices(|c| c["logprobs"]["token_logprobs"][0] = json!(0.5)), "is positive"),
        ("unknown end", choices(|c| c["finish_reason"] = json!("error")), "finish_reason of choice 0"),
    ];
    let server = Scripted::start().await;
    let engine = connect(&[&server]).await;
    for (i, (name, reply, expected)) in cases.into_iter().enumerate() {
        server.script(COMPLETIONS, [reply]);
        let error = engine.generate(request(1)).await.expect_err(name);
        assert!(matches!(error, EngineError::BadAnswer { .. }), "{name}: {error:?}");
        assert!(error.to_string().contains(expected), "{name}: {error}");
        assert_eq!(attempts(&server), i + 1, "{name}");
    }
}

#[tokio::test]
async fn missing_logprobs_become_nan() {
    let server = Scripted::start().await;
    let engine = connect(&[&server]).await;
    let python = r#"{"choices":[{"index":0,"token_ids":[3,4,5,6],"finish_reason":"stop","stop_reason":".",
        "logprobs":{"token_logprobs":[NaN,-9999.0,null,-0.5]}}]}"#;
    server.script(COMPLETIONS, [Reply::Text(python.into()), choices(|choice| choice["logprobs"] = Value::Null)]);
    let got = engine.generate(request(1)).await.expect("usable");
    assert!(got[0].logprobs[..3].iter().all(|logprob| logprob.is_nan()));
    assert_eq!(got[0].logprobs[3], -0.5);
    let got = engine.generate(request(1)).await.expect("usable");
    assert_eq!(got[0].logprobs.len(), 2);
    assert!(got[0].logprobs.iter().all(|logprob| logprob.is_nan()));
}

#[tokio::test]
async fn a_slow_answer_ends_at_the_deadline_and_frees_the_server() {
    let server = Scripted::start().await;
    let engine = connect(&[&server]).await;
    server.script(COMPLETIONS, [Reply::Hang]);
    let start = Instant::now();
    let request = GenerateRequest { deadline: Duration::from_millis(300), ..request(1) };
    let error = engine.generate(request).await.expect_err("too slow");
    assert!(matches!(error, EngineError::Deadline { .. }), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(3));
    until("the connection to be closed", || server.dropped() == 1).await;
}

#[tokio::test]
async fn a_dropped_future_cancels_its_request() {
    let server = Scripted::start().await;
    let engine = connect(&[&server]).await;
    server.script(COMPLETIONS, [Reply::Hang]);
    {
        let mut work = engine.generate(request(8));
        tokio::select! {
            result = &mut work => panic!("answered by a server that hangs: {result:?}"),
            () = until("the request to arrive", || server.in_flight() == 8) => {}
        }
    }
    until("the connection to be closed", || server.dropped() == 1).await;
    engine.generate(request(8)).await.expect("all seats are free again");
}

#[tokio::test]
async fn no_server_is_an_error_after_the_window() {
    let server = Scripted::start().await;
    let mut config = config(&[&server]);
    config.retry_timeout_s = 1;
    drop(server);
    let error = try_connect(&config, NEUTRAL).await.expect_err("nobody listens");
    assert!(matches!(error, EngineError::Unreachable { .. }), "{error:?}");
    assert!(error.source().is_some() && error.hint().is_some());
    let error = try_connect(&InferenceConfig::default(), NEUTRAL).await.expect_err("no URL");
    assert!(matches!(error, EngineError::NoServer));
}

#[tokio::test]
async fn sequences_in_flight_are_bounded_and_first_come_is_first_served() {
    let server = Scripted::start().await;
    let engine = connect(&[&server]).await;
    let before = attempts(&server);
    server.script(COMPLETIONS, vec![Reply::Held; 8]);
    let works = (0..8).map(|i| engine.generate(GenerateRequest { seed: i, ..request(3) }));
    let all = futures_util::future::join_all(works);
    let release = async {
        // 8 seats: two requests of 3 at once.
        for done in 1..=8 {
            let expected = (done + 1).min(8);
            until("the next request", || attempts(&server) - before >= expected).await;
            assert_eq!(attempts(&server) - before, expected);
            server.release();
        }
    };
    let (results, ()) = tokio::join!(all, release);
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(server.most_in_flight(), 6);
    let seeds: Vec<u64> =
        server.seen(COMPLETIONS)[6..].iter().map(|body| body["seed"].as_u64().expect("seed")).collect();
    // The two that are in flight together may overtake one another on the wire.
    assert!(seeds.iter().enumerate().all(|(i, &seed)| seed.abs_diff(i as u64) <= 1), "{seeds:?}");
}

#[tokio::test]
async fn a_request_larger_than_all_seats_is_served_alone() {
    let server = Scripted::start().await;
    let engine = connect(&[&server]).await;
    assert_eq!(engine.generate(request(20)).await.expect("served").len(), 20);
}

#[tokio::test]
async fn an_answer_from_before_a_reload_is_discarded_and_sampled_again() {
    let server = Scripted::start().await;
    let engine = connect(&[&server]).await;
    server.script(COMPLETIONS, [Reply::Held]);
    let work = engine.generate(request(1));
    let reload = async {
        until("the request to arrive", || server.in_flight() == 1).await;
        engine.load_weights(&manifest(1)).await.expect("loads");
        server.release();
    };
    let (result, ()) = tokio::join!(work, reload);
    assert_eq!(result.expect("sampled again")[0].weight_version, WeightVersion(1));
    let salts: Vec<Value> =
        server.seen(COMPLETIONS).into_iter().map(|body| body["cache_salt"].clone()).filter(|s| s != "probe").collect();
    assert_eq!(salts, ["run:0:initial", "run:1:digest-1"]);
}

#[tokio::test]
async fn work_waits_while_weights_are_loaded() {
    let server = Scripted::start().await;
    let engine = connect(&[&server]).await;
    server.script("rpc:ds_load", [Reply::Held]);
    let new = manifest(4);
    let load = engine.load_weights(&new);
    let work = async {
        until("the load to begin", || !server.seen("rpc:ds_load").is_empty()).await;
        let answer = engine.generate(request(1));
        let release = async {
            assert!(server.is_paused());
            server.release();
        };
        tokio::join!(answer, release).0
    };
    let (report, answer) = tokio::join!(load, work);
    assert_eq!(answer.expect("answered after the load")[0].weight_version, WeightVersion(4));
    let report = report.expect("loads");
    let phases: Vec<&str> = report.phases.iter().map(|(phase, _)| phase.as_str()).collect();
    assert_eq!(phases, ["pause", "load", "verify", "reset_cache", "resume"]);
    assert_eq!((report.version, report.held.bitwise_tensors), (WeightVersion(4), 1));
}

#[tokio::test]
async fn each_phase_that_fails_fences_the_replica_and_is_named() {
    let refused = json!({"results": [{"ok": false, "intact": true, "error": "ValueError: `w` holds NaN"}]});
    let broken = json!({"results": [{"ok": false, "intact": false, "error": "RuntimeError: half"}]});
    let state = |change: &dyn Fn(&mut Value)| {
        let mut state = json!({"protocol": 1, "version": 1, "digest": "digest-1", "intact": true, "max_num_seqs": 8,
            "vocab_size": 64, "held": {"different": [], "bitwise_tensors": 1, "bitwise_bytes": 4, "probed_tensors": 0,
            "probed_bytes": 0, "unchecked_tensors": 0, "unchecked_bytes": 0}});
        change(&mut state);
        Reply::Json(200, json!({ "results": [state] }))
    };
    use ReloadPhase::{Load, Pause, ResetCache, Resume, Verify};
    let cases = [
        (Pause, "/pause", failure(500, "Failed to pause generation"), "(500): Failed to pause generation"),
        (Pause, "/pause", Reply::Hang, "within 2 s"),
        (Load, "rpc:ds_load", failure(500, "Call to collective_rpc method failed: x"), "method failed: x"),
        (Load, "rpc:ds_load", Reply::Json(200, refused), "the old ones kept: ValueError: `w` holds NaN"),
        (Load, "rpc:ds_load", Reply::Json(200, broken), "half way and the model is unusable: RuntimeError: half"),
        (Load, "rpc:ds_load", Reply::CutBody, "no answer from the server"),
        (Load, "rpc:ds_load", Reply::Json(200, json!({"results": []})), "no worker answered"),
        (
            Verify,
            "rpc:ds_state",
            state(&|s| s["version"] = json!(0)),
            "weight version differs: trainer `1`, server `0`",
        ),
        (Verify, "rpc:ds_state", state(&|s| s["digest"] = json!("ff")), "trainer `digest-1`, server `ff`"),
        (Verify, "rpc:ds_state", state(&|s| s["intact"] = json!(false)), "state of the model differs"),
        (Verify, "rpc:ds_state", state(&|s| s["held"] = Value::Null), "state of the model differs"),
        (Verify, "rpc:ds_state", state(&|s| s["held"]["different"] = json!(["lm_head.weight"])), "lm_head.weight"),
        (ResetCache, "/reset_prefix_cache", Reply::Close, "no answer from the server"),
        (Resume, "/resume", failure(500, "Failed to resume generation"), "Failed to resume generation"),
    ];
    for (phase, path, reply, expected) in cases {
        let server = Scripted::start().await;
        // What is gone for a moment would be loaded again at once.
        let config = InferenceConfig { retry_timeout_s: 0, ..config(&[&server]) };
        let engine = try_connect(&config, NEUTRAL).await.expect("healthy");
        server.script(path, [reply.clone()]);
        let error = engine.load_weights(&manifest(1)).await.expect_err(expected);
        assert!(error.to_string().ends_with(&format!("in phase `{phase}`")), "{error}");
        let cause = error.source().expect("a cause").to_string();
        assert!(cause.contains(expected), "{phase}: {cause}");
        let fenced = engine.generate(request(1)).await.expect_err("fenced");
        assert!(matches!(&fenced, EngineError::Fenced { reason, .. } if reason.contains(phase.as_str())), "{fenced}");
        assert_eq!(attempts(&server), 0, "a fenced replica takes no work");
        // Only weights that were refused untouched leave a server that may go on.
        let is_refusal = cause.contains("the old ones kept");
        assert_eq!(server.is_paused(), !is_refusal && phase != Pause, "{phase}: {cause}");
        engine.load_weights(&manifest(2)).await.expect("a confirmed load puts it right");
        assert_eq!(engine.generate(request(1)).await.expect("open")[0].weight_version, WeightVersion(2));
    }
}

#[tokio::test]
async fn a_cache_that_is_not_dropped_at_once_is_asked_again() {
    let server = Scripted::start().await;
    let engine = connect(&[&server]).await;
    let busy = Reply::Json(200, json!({"success": false}));
    server.script("/reset_prefix_cache", [busy.clone(), busy.clone()]);
    engine.load_weights(&manifest(1)).await.expect("the third answer is yes");
    assert_eq!(server.seen("/reset_prefix_cache").len(), 3);
    server.script("/reset_prefix_cache", vec![busy; 100]);
    let error = engine.load_weights(&manifest(2)).await.expect_err("never dropped");
    assert!(error.source().expect("cause").to_string().contains("blocks are still held"), "{error}");
}

#[tokio::test]
async fn a_restarted_server_is_brought_to_the_current_weights_before_it_gets_work() {
    let server = Scripted::start().await;
    let engine = connect(&[&server]).await;
    engine.load_weights(&manifest(3)).await.expect("loads");
    server.hold(0, None);
    server.script(COMPLETIONS, [Reply::Close]);
    let got = engine.generate(request(1)).await.expect("it is loaded again");
    assert_eq!((got[0].weight_version, server.version()), (WeightVersion(3), 3));
    assert_eq!(server.seen("rpc:ds_load").len(), 2);
    let order = server.order();
    let last = |path: &str| order.iter().rposition(|its| its == path).expect("asked");
    assert!(last("/resume") < last(COMPLETIONS), "nothing was sampled from the wrong weights: {order:?}");
    engine.confirm_weights(&manifest(3)).await.expect("they are held");
}

#[tokio::test]
async fn a_restart_that_is_found_at_the_end_of_a_step_does_not_end_the_run() {
    let server = Scripted::start().await;
    let engine = connect(&[&server]).await;
    engine.load_weights(&manifest(3)).await.expect("loads");
    server.hold(0, None);
    engine.confirm_weights(&manifest(3)).await.expect("it was brought back meanwhile");
    assert_eq!(server.version(), 3);
    server.hold(9, Some("digest-9"));
    let error = engine.confirm_weights(&manifest(3)).await.expect_err("another program loads weights into it");
    assert!(matches!(error, EngineError::WeightsDiffer { .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_with_weights_of_an_earlier_run_must_be_loaded_first() {
    let server = Scripted::start().await;
    server.hold(5, Some("digest-5"));
    let engine = connect(&[&server]).await;
    let error = engine.generate(request(1)).await.expect_err("whose weights?");
    assert!(error.to_string().contains("version 5 of an earlier run"), "{error}");
    engine.load_weights(&manifest(6)).await.expect("loads");
    engine.generate(request(1)).await.expect("known weights");
}

#[tokio::test]
async fn a_replica_that_fails_hands_its_trees_to_another() {
    let (one, two) = (Scripted::start().await, Scripted::start().await);
    let engine = connect(&[&one, &two]).await;
    for affinity in 0..32 {
        engine.generate(GenerateRequest { affinity, ..request(1) }).await.expect("healthy");
    }
    let share = attempts(&one);
    assert!((4..=28).contains(&share), "{share} of 32 trees");
    one.script(COMPLETIONS, vec![Reply::Close; 64]);
    let (before_one, before_two) = (attempts(&one), attempts(&two));
    for affinity in 0..32 {
        engine.generate(GenerateRequest { affinity, ..request(1) }).await.expect("the other one serves");
    }
    // reqwest may send a request again by itself when a kept connection closes without an answer.
    assert!(attempts(&one) - before_one <= 2, "a replica that is down is left alone");
    assert_eq!(attempts(&two) - before_two, 32);
}

#[tokio::test]
async fn scores_are_one_row_per_replica() {
    let (one, two) = (Scripted::start().await, Scripted::start().await);
    let engine = connect(&[&one, &two]).await;
    let rows = engine.score(&[9, 8, 7]).await.expect("scores");
    assert_eq!(rows, [[-1.0, -2.0], [-1.0, -2.0]]);
    one.script(COMPLETIONS, [choices(|choice| choice["prompt_logprobs"] = json!([null, {"1": {"logprob": -1.0}}]))]);
    let error = engine.score(&[9, 8]).await.expect_err("another token's logprob");
    assert!(error.to_string().contains("no logprob for token 8 at position 1"), "{error}");
}

#[tokio::test]
async fn settings_that_bias_the_ratio_are_refused() {
    let warm = Sampling { temperature: 0.7, ..NEUTRAL };
    let server = Scripted::start().await;
    try_connect(&config(&[&server]), warm).await.expect("processed logprobs fit any temperature");
    server.raw_logprobs();
    try_connect(&config(&[&server]), NEUTRAL).await.expect("raw and processed are one at temperature 1");
    let error = try_connect(&config(&[&server]), warm).await.expect_err("raw at 0.7");
    assert!(error.to_string().contains("returns raw logprobs, but `search.temperature` is 0.7"), "{error}");
    assert!(error.hint().expect("hint").contains("processed_logprobs"));
    for (sampling, word) in [
        (Sampling { top_p: 0.95, ..NEUTRAL }, "truncated"),
        (Sampling { top_k: 20, ..NEUTRAL }, "truncated"),
        (Sampling { temperature: 0.0, ..NEUTRAL }, "greedy"),
        (Sampling { temperature: f64::NAN, ..NEUTRAL }, "greedy"),
    ] {
        let error = try_connect(&config(&[&server]), sampling).await.expect_err(word);
        assert!(matches!(error, EngineError::Biased { .. }) && error.to_string().contains(word), "{error}");
        assert_eq!(error.class(), FailureClass::User);
    }
}

#[tokio::test]
async fn a_server_without_what_is_needed_is_told_how_to_start() {
    let not_found = Reply::Json(404, json!({"detail": "Not Found"}));
    let missing = failure(500, "Call to collective_rpc method failed: 'Worker' object has no attribute 'ds_state'");
    for (path, reply, expected) in [
        ("/version", not_found.clone(), "does not say which vLLM it is"),
        ("rpc:ds_state", not_found, "development endpoints are off"),
        ("rpc:ds_state", missing, "without the worker extension"),
    ] {
        let server = Scripted::start().await;
        server.script(path, [reply]);
        let error = try_connect(&config(&[&server]), NEUTRAL).await.expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}");
        assert!(error.hint().is_some());
    }
}

#[tokio::test]
async fn a_server_left_paused_is_woken() {
    let server = Scripted::start().await;
    server.script("/is_paused", [Reply::Json(200, json!({"is_paused": true}))]);
    connect(&[&server]).await;
    let order = server.order();
    let resumed = order.iter().position(|path| path == "/resume").expect("resumed");
    let probed = order.iter().position(|path| path == COMPLETIONS).expect("probed");
    assert!(resumed < probed, "{order:?}");
}

/// One GPU in turns: the server gives its memory up for an update, and is asked for nothing in between.
#[tokio::test]
async fn a_server_sleeps_during_an_update_and_one_left_asleep_is_woken() {
    let server = Scripted::start().await;
    let engine = connect(&[&server]).await;
    let begin = server.order().len();
    engine.rest().await.expect("asleep");
    engine.wake().await.expect("awake");
    engine.generate(request(1)).await.expect("sampled");
    let mut order = server.order().split_off(begin);
    order.retain(|path| path != "/metrics");
    assert_eq!(order, ["/sleep", "/wake_up", "/reset_prefix_cache", COMPLETIONS]);
    server.script("/sleep", [failure(500, "no memory on the host")]);
    let error = engine.rest().await.expect_err("it said so");
    assert!(error.to_string().contains("no memory on the host"), "{error}");

    let left = Scripted::start().await;
    left.script("/is_sleeping", [Reply::Json(200, json!({"is_sleeping": true}))]);
    connect(&[&left]).await;
    let order = left.order();
    let place = |name: &str| order.iter().position(|path| path == name).expect(name);
    assert!(place("/wake_up") < place(COMPLETIONS), "{order:?}");
}

/// A server without the worker extension can be measured, though nothing can be loaded into it, and is never asked what it
/// holds, also after a silence.
#[tokio::test]
async fn a_plain_server_is_sampled_as_it_is() {
    let server = Scripted::start().await;
    let missing = || Reply::Json(404, json!({"detail": "Not Found"}));
    server.script("rpc:ds_state", [missing(), missing()]);
    let config = config(&[&server]);
    let error = try_connect(&config, NEUTRAL).await.expect_err("nothing can be loaded into it");
    assert!(matches!(error, EngineError::Unsupported { .. }), "{error:?}");
    let engine = VllmEngine::start_as_it_is(setup(&config, NEUTRAL), None).await.expect("it need not take weights");
    assert_eq!(engine.weights_digest().await.expect("it is not asked"), None);
    let asked = server.seen("rpc:ds_state").len();
    server.script(COMPLETIONS, [Reply::Json(503, json!({"error": {"message": "busy"}}))]);
    assert_eq!(engine.generate(request(2)).await.expect("after another try").len(), 2);
    assert_eq!(server.seen("rpc:ds_state").len(), asked);
    assert!(!server.order().iter().any(|path| path.contains("resume")), "a pause is another program's");
}
