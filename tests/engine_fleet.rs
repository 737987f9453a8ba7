//! Several servers, of which some are lost, silent, slow or of another opinion, and come back: who gets the trees, who
//! holds which weights, how much is in flight, and who may be talked to. One server's faults are in `engine_faults.rs`.

// clippy knows functions marked as tests only, not their helpers.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::collections::BTreeMap;
use std::error::Error;
use std::time::{Duration, Instant};

use orchestrator::config::InferenceConfig;
use orchestrator::error::{FailureClass, Hint};
use orchestrator::inference::vllm::VllmEngine;
use orchestrator::inference::{Engine, EngineError};
use orchestrator::types::{GenerateRequest, WeightManifest, WeightVersion};
use serde_json::json;
use support::engine::{
    COMPLETIONS, attempts, connect_with, count, failure, manifest, setup, short_request, try_connect, version_of,
};
use support::requests::NEUTRAL;
use support::scripted::{Metrics, Model, Reply, Scripted, until};

/// A fleet is looked after every second.
fn config(servers: &[&Scripted]) -> InferenceConfig {
    InferenceConfig { retry_timeout_s: 8, health_check_s: 1, ..support::engine::config(servers) }
}

async fn connect(servers: &[&Scripted]) -> VllmEngine {
    connect_with(&config(servers)).await
}

fn request(affinity: u64) -> GenerateRequest {
    short_request(affinity, 1)
}

fn refused() -> Reply {
    Reply::Json(200, json!({"results": [{"ok": false, "intact": true, "error": "ValueError: `w` holds NaN"}]}))
}

#[tokio::test]
async fn trees_are_shared_out_by_size_and_stay() {
    let large = Scripted::start().await;
    let small = Scripted::with(Model { max_num_seqs: 4, ..Model::default() }).await;
    let engine = connect(&[&large, &small]).await;
    assert_eq!(engine.capabilities().max_sequences, 12);
    for tree in 0..24 {
        version_of(&engine, tree).await;
    }
    assert_eq!((attempts(&large), attempts(&small)), (16, 8));
    // Every tree goes on where it began: twice as many at each.
    for tree in 0..24 {
        version_of(&engine, tree).await;
    }
    assert_eq!((attempts(&large), attempts(&small)), (32, 16));
    for tree in 0..24 {
        engine.release(tree).await.expect("released");
    }
    for tree in 100..112 {
        version_of(&engine, tree).await;
    }
    assert_eq!((attempts(&large), attempts(&small)), (40, 20));
}

#[tokio::test]
async fn a_slow_server_does_not_stall_the_others() {
    let (slow, quick) = (Scripted::start().await, Scripted::start().await);
    let engine = connect(&[&slow, &quick]).await;
    slow.script(COMPLETIONS, [Reply::Held]);
    let first = engine.generate(GenerateRequest { n: 4, ..request(0) });
    let others = async {
        until("the slow one has work", || slow.in_flight() == 4).await;
        for tree in 1..20 {
            version_of(&engine, tree).await;
        }
        assert_eq!((attempts(&slow), attempts(&quick)), (1, 19));
        slow.release();
    };
    let (first, ()) = tokio::join!(first, others);
    first.expect("answered late");
}

#[tokio::test]
async fn trees_of_a_killed_server_go_on_and_it_is_loaded_before_it_gets_work() {
    let (mut one, two) = (Scripted::start().await, Scripted::start().await);
    let engine = connect(&[&one, &two]).await;
    let report = engine.load_weights(&manifest(1)).await.expect("loads");
    assert_eq!((report.replicas, report.missing.len()), (2, 0));
    for tree in 0..6 {
        assert_eq!(version_of(&engine, tree).await, 1);
    }
    assert_eq!((attempts(&one), attempts(&two)), (3, 3));
    // In the middle of a request.
    one.script(COMPLETIONS, [Reply::Hang]);
    let cut = engine.generate(request(0));
    let kill = async {
        until("the request to arrive", || one.in_flight() == 1).await;
        one.kill().await;
    };
    let (cut, ()) = tokio::join!(cut, kill);
    assert_eq!(cut.expect("the other one answers")[0].weight_version, WeightVersion(1));
    for tree in 0..6 {
        assert_eq!(version_of(&engine, tree).await, 1);
    }
    assert_eq!(attempts(&two), 10, "all trees are there now");
    let report = engine.load_weights(&manifest(2)).await.expect("one is enough");
    assert_eq!((report.replicas, report.missing.len()), (1, 1));
    assert_eq!(report.missing[0].url, one.url);
    assert!(report.missing[0].reason.contains("cannot be reached"), "{:?}", report.missing);

    let (before, asked) = (attempts(&one), one.order().len());
    one.restart().await;
    until("the current weights", || one.version() == 2).await;
    until("it has woken", || one.order().last().is_some_and(|path| path == "/resume")).await;
    assert_eq!(attempts(&one), before, "no work before it has them");
    assert!(one.order()[asked..].iter().any(|path| path == "rpc:ds_load"));
    let start = Instant::now();
    let mut tree = 1000;
    while attempts(&one) == before {
        assert!(start.elapsed() < Duration::from_secs(60), "new trees go there again");
        assert_eq!(version_of(&engine, tree).await, 2);
        tree += 1;
    }
    let counts: BTreeMap<_, _> = engine.take_counts().await.expect("counts").into_iter().collect();
    assert_eq!(counts["server_replicas"], 2.0);
    assert!(counts["server_outages"] >= 1.0 && counts["server_returns"] >= 1.0, "{counts:?}");
    assert_eq!(counts["server_moved_trees"], 3.0);
}

#[tokio::test]
async fn killed_or_hung_in_a_reload_is_out_of_service_and_comes_back() {
    for fault in ["killed", "hung", "failed"] {
        let (mut one, two) = (Scripted::start().await, Scripted::start().await);
        let engine = connect(&[&one, &two]).await;
        engine.load_weights(&manifest(1)).await.expect("loads");
        let reply = match fault {
            "failed" => failure(500, "Call to collective_rpc method failed: disk"),
            _ => Reply::Hang,
        };
        one.script("rpc:ds_load", [reply]);
        let next = manifest(2);
        let load = engine.load_weights(&next);
        let kill = async {
            until("the load to begin", || one.seen("rpc:ds_load").len() >= 2).await;
            if fault == "killed" {
                one.kill().await;
            }
        };
        let (report, ()) = tokio::join!(load, kill);
        let report = report.unwrap_or_else(|error| panic!("{fault}: {error}"));
        assert_eq!((report.version, report.replicas), (WeightVersion(2), 1), "{fault}");
        let reason = &report.missing[0].reason;
        assert!(reason.contains("loading version 2 failed in phase `load`"), "{fault}: {reason}");
        for tree in 0..8 {
            assert_eq!(version_of(&engine, tree).await, 2, "{fault}");
        }
        if fault == "killed" {
            assert_eq!(attempts(&one), 0, "a server in doubt takes no work");
            one.restart().await;
        }
        until("it is brought back", || one.version() == 2 && !one.is_paused()).await;
        engine.confirm_weights(&manifest(2)).await.expect("both hold them");
    }
}

/// Nothing of it answers any more, so that nothing is gained by waiting for as long as a load may take.
#[tokio::test]
async fn a_server_that_hangs_in_a_reload_holds_nobody_up_for_as_long_as_a_load_may_take() {
    let (one, two) = (Scripted::start().await, Scripted::start().await);
    let config = InferenceConfig { reload_timeout_s: 60, ..config(&[&one, &two]) };
    let engine = connect_with(&config).await;
    engine.load_weights(&manifest(1)).await.expect("loads");
    one.script("rpc:ds_load", [Reply::Hang]);
    let next = manifest(2);
    let start = Instant::now();
    let load = engine.load_weights(&next);
    let hang = async {
        until("the load to begin", || one.seen("rpc:ds_load").len() >= 2).await;
        one.hang(true);
    };
    let (report, ()) = tokio::join!(load, hang);
    let report = report.expect("one is enough");
    println!("went on without the hung one after {:.1} s", start.elapsed().as_secs_f64());
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    assert_eq!(report.replicas, 1);
    let reason = &report.missing[0].reason;
    assert!(reason.contains("loading version 2 failed in phase `load`"), "{reason}");
    for tree in 0..4 {
        assert_eq!(version_of(&engine, tree).await, 2);
    }
    assert_eq!(attempts(&one), 0);
    one.hang(false);
    until("it is brought back", || one.version() == 2 && !one.is_paused()).await;
    // The same while it is asked what it holds.
    let start = Instant::now();
    while count(&engine, "server_replicas").await < Some(2.0) {
        assert!(start.elapsed() < Duration::from_secs(30), "back in service");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    one.hang(true);
    let start = Instant::now();
    engine.confirm_weights(&manifest(2)).await.expect("the other holds them");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

/// It is busy with the load and says so: that takes as long as it takes.
#[tokio::test]
async fn a_server_that_is_slow_to_load_is_waited_for() {
    let (one, two) = (Scripted::start().await, Scripted::start().await);
    let config = InferenceConfig { reload_timeout_s: 60, ..config(&[&one, &two]) };
    let engine = connect_with(&config).await;
    one.script("rpc:ds_load", [Reply::Held]);
    let next = manifest(1);
    let load = engine.load_weights(&next);
    let slow = async {
        until("it is asked whether it lives", || one.seen("/health").len() >= 4).await;
        one.release();
    };
    let (report, ()) = tokio::join!(load, slow);
    assert_eq!(report.expect("loads").replicas, 2);
}

#[tokio::test]
async fn weights_that_nobody_takes_are_refused_before_a_server_is_touched() {
    let (one, two) = (Scripted::start().await, Scripted::start().await);
    let engine = connect(&[&one, &two]).await;
    engine.load_weights(&manifest(1)).await.expect("loads");
    // A torn file: the checksums do not agree.
    one.script("rpc:ds_load", [refused()]);
    two.script("rpc:ds_load", [refused()]);
    let error = engine.load_weights(&manifest(2)).await.expect_err("torn");
    let source = error.source().expect("a cause").to_string();
    assert!(source.contains("the weights were refused and the old ones kept"), "{source}");
    assert_eq!((one.version(), two.version()), (1, 1));
    assert!(!one.is_paused() && !two.is_paused(), "left as they were");
    let error = engine.generate(request(1)).await.expect_err("no server may answer now");
    assert!(matches!(error, EngineError::Fenced { .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_that_refuses_alone_is_a_mistake_at_the_first_load_and_out_of_service_later() {
    let (one, two) = (Scripted::start().await, Scripted::start().await);
    let engine = connect(&[&one, &two]).await;
    one.script("rpc:ds_load", [refused()]);
    let error = engine.load_weights(&manifest(1)).await.expect_err("it was set up wrongly");
    assert!(error.to_string().contains(&one.url), "{error}");
    engine.load_weights(&manifest(1)).await.expect("both");
    one.script("rpc:ds_load", vec![refused(); 100]);
    let report = engine.load_weights(&manifest(2)).await.expect("the other has them");
    assert_eq!(report.replicas, 1);
    for tree in 0..4 {
        assert_eq!(version_of(&engine, tree).await, 2);
    }
    assert_eq!(attempts(&one), 0);
}

#[tokio::test]
async fn all_lost_is_waited_for_and_then_one_clear_message() {
    let (mut one, mut two) = (Scripted::start().await, Scripted::start().await);
    let engine = connect(&[&one, &two]).await;
    engine.load_weights(&manifest(1)).await.expect("loads");
    version_of(&engine, 1).await;
    one.kill().await;
    two.kill().await;
    let work = engine.generate(request(1));
    let back = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        two.restart().await;
    };
    let (got, ()) = tokio::join!(work, back);
    assert_eq!(got.expect("one came back within the window")[0].weight_version, WeightVersion(1));
    assert_eq!(two.version(), 1, "and was loaded first");

    two.kill().await;
    let start = Instant::now();
    let error = engine.generate(request(1)).await.expect_err("all gone");
    assert!((2..120).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    let text = error.to_string();
    assert!(matches!(error, EngineError::Unreachable { .. } | EngineError::NoReplica { .. }), "{error:?}");
    assert!(text.contains("no answer from") || text.contains("none of 2 servers"), "{text}");
    assert_eq!(error.class(), FailureClass::Environment);
    assert!(error.hint().is_some());
}

#[tokio::test]
async fn a_server_that_falls_silent_is_left_and_its_requests_go_on_elsewhere() {
    let (one, two) = (Scripted::start().await, Scripted::start().await);
    let engine = connect(&[&one, &two]).await;
    engine.load_weights(&manifest(1)).await.expect("loads");
    version_of(&engine, 0).await;
    assert_eq!(attempts(&one), 1);
    one.hang(true);
    let start = Instant::now();
    assert_eq!(version_of(&engine, 0).await, 1, "long before the 20 s of the request");
    println!("moved after {:.1} s", start.elapsed().as_secs_f64());
    assert!(start.elapsed() < Duration::from_secs(19), "{:?}", start.elapsed());
    assert_eq!(attempts(&two), 1);
    one.hang(false);
    let start = Instant::now();
    while count(&engine, "server_returns").await < Some(1.0) {
        assert!(start.elapsed() < Duration::from_secs(60), "it answers again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(one.seen("rpc:ds_load").len(), 1, "it still held the weights: nothing to load");
}

#[tokio::test]
async fn a_server_that_asks_to_be_left_alone_is_while_others_work() {
    let (one, two) = (Scripted::start().await, Scripted::start().await);
    let engine = connect(&[&one, &two]).await;
    one.script(COMPLETIONS, [Reply::RetryAfter(3600)]);
    let start = Instant::now();
    for tree in 0..6 {
        version_of(&engine, tree).await;
    }
    assert!(start.elapsed() < Duration::from_secs(60), "not the hour: {:?}", start.elapsed());
    assert_eq!((attempts(&one), attempts(&two)), (1, 6));
}

/// It was cut off and not restarted, so that it still holds what was right before.
#[tokio::test]
async fn a_server_that_was_away_during_a_load_does_not_come_back_with_old_weights() {
    let (one, two) = (Scripted::start().await, Scripted::start().await);
    let engine = connect(&[&one, &two]).await;
    engine.load_weights(&manifest(1)).await.expect("loads");
    one.hang(true);
    assert_eq!(version_of(&engine, 0).await, 1);
    assert_eq!(engine.load_weights(&manifest(2)).await.expect("one is enough").replicas, 1);
    let before = one.order().len();
    one.hang(false);
    until("the current weights", || one.version() == 2).await;
    let start = Instant::now();
    while count(&engine, "server_replicas").await < Some(2.0) {
        assert!(start.elapsed() < Duration::from_secs(60), "back in service");
        assert_eq!(version_of(&engine, 100).await, 2);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let order = &one.order()[before..];
    let loaded = order.iter().position(|path| path == "rpc:ds_load").expect("loaded");
    assert!(!order[..loaded].iter().any(|path| path == COMPLETIONS), "{order:?}");
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_asked_for_elsewhere() {
    let (one, two) = (Scripted::start().await, Scripted::start().await);
    let engine = connect(&[&one, &two]).await;
    one.script(COMPLETIONS, [Reply::Hang]);
    let short = GenerateRequest { deadline: Duration::from_millis(300), ..request(0) };
    engine.generate(short).await.expect("the other answers");
    assert_eq!((attempts(&one), attempts(&two)), (1, 1));
}

#[tokio::test]
async fn a_server_that_comes_back_different_stays_out() {
    for (change, expected) in [
        (Model { max_model_len: 100, ..Model::default() }, "sequences of 100 tokens, and 512 are sent"),
        (Model { vocab_size: 65, ..Model::default() }, "vocabulary has 65 tokens"),
    ] {
        let (mut one, two) = (Scripted::start().await, Scripted::start().await);
        let engine = connect(&[&one, &two]).await;
        engine.load_weights(&manifest(1)).await.expect("loads");
        one.kill().await;
        for tree in 0..4 {
            version_of(&engine, tree).await;
        }
        one.become_model(change);
        one.restart().await;
        let before = one.order().len();
        until("it is asked", || one.order()[before..].iter().filter(|path| *path == "rpc:ds_state").count() >= 3).await;
        assert_eq!(one.version(), 0, "{expected}");
        let report = engine.load_weights(&manifest(2)).await.expect("the other takes them");
        assert_eq!(report.replicas, 1);
        assert!(report.missing[0].reason.contains(expected), "{:?}", report.missing);
        assert_eq!(one.version(), 0, "{expected}");
    }
}

#[tokio::test]
async fn a_server_whose_canary_differs_stays_out() {
    let (mut one, two) = (Scripted::start().await, Scripted::start().await);
    let engine = connect(&[&one, &two]).await;
    engine.load_weights(&manifest(1)).await.expect("loads");
    assert_eq!(engine.score(&[9, 8, 7]).await.expect("scores").len(), 2);
    one.kill().await;
    for tree in 0..4 {
        version_of(&engine, tree).await;
    }
    assert_eq!(engine.score(&[9, 8, 7]).await.expect("scores"), [[-1.0, -2.0]], "of those that are there");
    one.restart().await;
    let other = json!({"choices": [{"index": 0, "token_ids": [3], "finish_reason": "length",
        "prompt_logprobs": [null, {"8": {"logprob": -1.5}}, {"7": {"logprob": -2.0}}]}]});
    one.script(COMPLETIONS, [Reply::Json(200, other)]);
    let loads = one.seen("rpc:ds_load").len();
    until("a second attempt", || one.seen("rpc:ds_load").len() >= loads + 2).await;
    until("it agrees", || {
        !one.is_paused() && one.seen(COMPLETIONS).iter().filter(|b| b["cache_salt"] == "canary").count() == 2
    })
    .await;
    let start = Instant::now();
    while count(&engine, "server_replicas").await < Some(2.0) {
        assert!(start.elapsed() < Duration::from_secs(60), "back in service");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_server_that_comes_back_has_the_adapters_of_the_others_before_it_gets_work() {
    let (mut one, two) = (Scripted::start().await, Scripted::start().await);
    let engine = connect(&[&one, &two]).await;
    let adapters = |version| WeightManifest { base_digest: Some("base".into()), ..manifest(version) };
    engine.load_weights(&adapters(1)).await.expect("loads");
    one.kill().await;
    for tree in 0..4 {
        version_of(&engine, tree).await;
    }
    engine.load_weights(&adapters(2)).await.expect("one is enough");
    let before = one.order().len();
    one.restart().await;
    let start = Instant::now();
    while count(&engine, "server_replicas").await < Some(2.0) {
        assert!(start.elapsed() < Duration::from_secs(60), "back in service");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut tree = 100;
    while attempts(&one) == 0 {
        assert_eq!(version_of(&engine, tree).await, 2);
        tree += 1;
    }
    let loaded = one.order()[before..].iter().position(|path| path == "/v1/load_lora_adapter");
    let asked = one.order()[before..].iter().position(|path| path == COMPLETIONS);
    assert!(loaded.is_some() && loaded < asked, "{:?}", &one.order()[before..]);
    assert_eq!(one.seen(COMPLETIONS).pop().expect("a request")["model"], "policy-v2-digest-2");
    engine.confirm_weights(&adapters(2)).await.expect("both know them");
}

#[tokio::test]
async fn servers_that_do_not_fit_together_are_refused_at_start() {
    let one = Scripted::start().await;
    let other = Scripted::with(Model { vocab_size: 65, ..Model::default() }).await;
    let error = try_connect(&config(&[&one, &other]), NEUTRAL).await.expect_err("another vocabulary");
    assert_eq!(
        error.to_string(),
        format!(
            "the server at `{}` cannot be used: its vocabulary has 65 tokens, that of `{}` has 64",
            other.url, one.url
        )
    );
    let shorter = Scripted::with(Model { max_model_len: 100, ..Model::default() }).await;
    let engine = connect(&[&one, &shorter]).await;
    assert_eq!(engine.capabilities().max_model_tokens, 100, "what all can take");

    let loaded = Scripted::start().await;
    loaded.hold(3, Some("digest-3"));
    let config = config(&[&one, &loaded]);
    let error =
        VllmEngine::start_as_it_is(setup(&config, NEUTRAL), None).await.expect_err("two policies in one measurement");
    assert!(error.to_string().contains("it holds the weights `digest-3`"), "{error}");
    let engine = try_connect(&config, NEUTRAL).await.expect("a run loads its own");
    let got = engine.generate(request(1)).await.expect("the other is as it was started");
    assert_eq!((got[0].weight_version, attempts(&loaded)), (WeightVersion(0), 0));
}

#[tokio::test]
async fn tokens_in_flight_follow_the_servers_cache() {
    let server = Scripted::start().await;
    let calm = Metrics { room_tokens: 100, running: 2, cache_used_frac: 0.5, ..Metrics::default() };
    server.say(calm);
    let engine = connect(&[&server]).await;
    assert_eq!(count(&engine, "server_token_limit").await, Some(100.0));
    // 3 + 2 * 20 tokens each: two fit, though there are seats for four.
    let large = |tree| GenerateRequest { n: 2, max_tokens: 20, ..request(tree) };
    server.script(COMPLETIONS, vec![Reply::Held; 4]);
    let all = futures_util::future::join_all((0..4).map(|tree| engine.generate(large(tree))));
    let watch = async {
        until("two requests", || server.in_flight() == 4).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(server.in_flight(), 4, "two of four requests");
        let preempting =
            Metrics { waiting: 1, cache_used_frac: 0.97, preemptions: 3, prefix_hits: 30, prefix_queries: 40, ..calm };
        server.say(preempting);
        let polls = server.seen("/metrics").len();
        until("the metrics to be read", || server.seen("/metrics").len() > polls + 1).await;
        for _ in 0..4 {
            server.release();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (results, ()) = tokio::join!(all, watch);
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(server.most_in_flight(), 4);
    let counts: BTreeMap<_, _> = engine.take_counts().await.expect("counts").into_iter().collect();
    assert!(counts["server_token_limit"] <= 75.0, "{counts:?}");
    assert_eq!(counts["server_preemptions"], 3.0);
    assert_eq!(counts["server_cache_peak_frac"], 0.97);
    assert_eq!(counts["server_prefix_hit_frac"], 0.75);
    assert_eq!(counts["server_running_mean"], 2.0);
    assert!(counts["server_waiting_mean"] > 0.0);
    assert_eq!(count(&engine, "server_preemptions").await, Some(0.0), "counted once");
}

#[tokio::test]
async fn ten_thousand_trees_at_once_are_served_in_turn() {
    let (one, two) = (Scripted::start().await, Scripted::start().await);
    let engine = connect(&[&one, &two]).await;
    let start = Instant::now();
    let all = futures_util::future::join_all((0..10_000).map(|tree| engine.generate(request(tree)))).await;
    println!("10,000 trees in {:.1} s", start.elapsed().as_secs_f64());
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(attempts(&one) + attempts(&two), 10_000);
    assert!(one.most_in_flight() <= 8 && two.most_in_flight() <= 8);
    let share = attempts(&one);
    assert!((4_000..=6_000).contains(&share), "{share} at one of two like servers");
}

#[tokio::test]
async fn an_idle_server_is_asked_seldom() {
    let server = Scripted::start().await;
    server.say(Metrics { room_tokens: 100, ..Metrics::default() });
    let engine = connect(&[&server]).await;
    let before = server.order().len();
    tokio::time::sleep(Duration::from_millis(3300)).await;
    let asked = &server.order()[before..];
    assert!((2..=4).contains(&asked.len()) && asked.iter().all(|path| path == "/health"), "{asked:?}");
    drop(engine);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = server.order().len();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(server.order().len(), before, "the keeper ends with the engine");
}

#[tokio::test]
async fn the_key_is_sent_and_never_shown() {
    let server = Scripted::start().await;
    // Cargo sets it for every test.
    let variable = "CARGO_PKG_NAME";
    let key = std::env::var(variable).expect("cargo runs the tests");
    let config = InferenceConfig { api_key_env: variable.into(), ..config(&[&server]) };
    let engine = try_connect(&config, NEUTRAL).await.expect("connects");
    server.script(COMPLETIONS, [failure(400, &format!("your key is {key}"))]);
    let error = engine.generate(request(1)).await.expect_err("refused");
    let bearer = Some(format!("bearer {key}"));
    assert!(server.keys().iter().all(|sent| *sent == bearer), "{:?}", server.keys());
    assert!(error.to_string().ends_with("your key is ***"), "{error}");
    let shown = format!("{engine:?} {error:?}");
    assert!(!shown.contains(&format!("\"{key}\"")) && !shown.contains("Bearer"), "{shown}");
    let rendered = toml::to_string(&config).expect("TOML");
    assert!(rendered.contains("api_key_env = \"CARGO_PKG_NAME\"") && !rendered.contains(&key), "{rendered}");

    let missing = InferenceConfig { api_key_env: "NO_SUCH_VARIABLE_HERE".into(), ..config };
    let error = try_connect(&missing, NEUTRAL).await.expect_err("no key");
    assert!(matches!(error, EngineError::NoApiKey { .. }), "{error:?}");
    assert_eq!(error.class(), FailureClass::User);
    let locked = Scripted::start().await;
    locked.script("/v1/models", [Reply::Json(401, json!({"error": "Unauthorized"}))]);
    let error = try_connect(&self::config(&[&locked]), NEUTRAL).await.expect_err("it wants a key");
    assert!(error.hint().is_some_and(|hint| hint.contains("inference.api_key_env")), "{error}");
}

#[tokio::test]
async fn public_addresses_and_passwords_in_urls_are_refused() {
    for (url, expected) in
        [("http://8.8.8.8:8000", "is a public address"), ("http://me:pw@127.0.0.1:8000", "a user or a password")]
    {
        let config = InferenceConfig { urls: vec![url.into()], retry_timeout_s: 0, ..InferenceConfig::default() };
        let error = try_connect(&config, NEUTRAL).await.expect_err(expected);
        assert!(matches!(error, EngineError::Address { .. }), "{error:?}");
        assert!(error.to_string().contains(expected) && !error.to_string().contains("pw"), "{error}");
        assert_eq!(error.class(), FailureClass::User);
    }
}
