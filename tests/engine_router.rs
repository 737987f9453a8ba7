//! A router in front of servers: where trees go, and that no answer counts of which it is not known who made it and from
//! which weights. With scripted servers and a scripted router, and with vLLM's own router where it is installed.

// clippy knows functions marked as tests only, not their helpers.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use orchestrator::config::InferenceConfig;
use orchestrator::error::Hint;
use orchestrator::inference::vllm::VllmEngine;
use orchestrator::inference::{Engine, EngineError};
use orchestrator::types::WeightVersion;
use serde_json::json;
use support::engine::{
    COMPLETIONS, attempts, connect_with, count, failure, manifest, short_request, try_connect, version_of,
};
use support::requests::NEUTRAL;
use support::scripted::{Reply, Scripted, until};
use support::scripted_router::ScriptedRouter;

const ROUTED: &str = "server_routed_requests";

fn config(servers: &[&Scripted], router: &str) -> InferenceConfig {
    InferenceConfig {
        retry_timeout_s: 8,
        health_check_s: 1,
        router: router.to_owned(),
        ..support::engine::config(servers)
    }
}

/// Two servers that hold version 1, and a router in front of them.
async fn routed_pair() -> (Scripted, Scripted, ScriptedRouter, VllmEngine) {
    let (one, two) = (Scripted::start().await, Scripted::start().await);
    let router = ScriptedRouter::before(&[&one, &two]).await;
    let engine = connect_with(&config(&[&one, &two], &router.url)).await;
    engine.load_weights(&manifest(1)).await.expect("loads");
    (one, two, router, engine)
}

#[tokio::test]
async fn generation_goes_through_the_router_and_all_else_straight_to_the_servers() {
    let (one, two, router, engine) = routed_pair().await;
    let greeted = router.rule().requests;
    // All even trees: the router has its own opinion of who gets what.
    for _ in 0..2 {
        for tree in [2, 4, 6, 8, 10, 12] {
            assert_eq!(version_of(&engine, tree).await, 1);
        }
    }
    assert_eq!((attempts(&one), attempts(&two)), (12, 0));
    version_of(&engine, 7).await;
    assert_eq!(attempts(&two), 1);
    assert_eq!(count(&engine, ROUTED).await, Some(13.0));
    assert_eq!(engine.score(&[9, 8, 7]).await.expect("scores").len(), 2);
    engine.confirm_weights(&manifest(1)).await.expect("both hold them");
    assert_eq!(router.rule().requests - greeted, 13, "nothing but generation");
    // Straight, a tree goes where the router had sent it.
    router.rule().fails = Some(503);
    for tree in [2, 4, 6, 8, 10, 12] {
        assert_eq!(version_of(&engine, tree).await, 1);
    }
    assert_eq!((attempts(&one), attempts(&two)), (18, 1));
}

/// A restart that nobody has noticed yet: the router sends requests to a server that holds the weights of its start.
#[tokio::test]
async fn an_answer_of_a_server_that_was_restarted_is_thrown_away() {
    let (mut one, two, router, engine) = routed_pair().await;
    router.rule().only = Some(0);
    assert_eq!(version_of(&engine, 0).await, 1);
    one.kill().await;
    one.restart().await;
    let before = attempts(&one);
    let got = engine.generate(short_request(0, 1)).await.expect("asked again, straight");
    assert_eq!(got[0].weight_version, WeightVersion(1));
    let wrong = one.seen(COMPLETIONS).into_iter().filter(|body| body["cache_salt"] != "probe").skip(before);
    assert_eq!(wrong.count(), 1, "the router did send it there");
    assert_eq!(attempts(&two), 1, "and it was asked for where the weights are");
    until("it is brought back", || one.version() == 1 && !one.is_paused()).await;
    let start = Instant::now();
    let mut tree = 2;
    while count(&engine, ROUTED).await == Some(0.0) {
        assert!(start.elapsed() < Duration::from_secs(60), "the router is used again");
        assert_eq!(version_of(&engine, tree).await, 1);
        tree += 2;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn the_router_is_left_out_while_a_server_has_not_got_the_weights() {
    let (one, two, router, engine) = routed_pair().await;
    let refused = json!({"results": [{"ok": false, "intact": true, "error": "ValueError: no"}]});
    one.script("rpc:ds_load", vec![Reply::Json(200, refused); 4]);
    assert_eq!(engine.load_weights(&manifest(2)).await.expect("the other took them").replicas, 1);
    let before = router.rule().requests;
    for tree in 0..4 {
        assert_eq!(version_of(&engine, tree).await, 2);
    }
    if one.version() != 2 {
        assert_eq!((attempts(&one), attempts(&two)), (0, 4));
        assert_eq!(router.rule().requests, before);
    }
    until("it has them at last", || one.version() == 2 && !one.is_paused()).await;
    let start = Instant::now();
    while router.rule().requests == before {
        assert!(start.elapsed() < Duration::from_secs(60), "the router is used again");
        assert_eq!(version_of(&engine, 1).await, 2);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_answer_from_before_a_reload_does_not_come_through() {
    let (one, two, router, engine) = routed_pair().await;
    one.script(COMPLETIONS, [Reply::Held]);
    let work = engine.generate(short_request(0, 1));
    let reload = async {
        until("the request to arrive", || one.in_flight() == 1).await;
        engine.load_weights(&manifest(2)).await.expect("loads");
        one.release();
    };
    let (got, ()) = tokio::join!(work, reload);
    assert_eq!(got.expect("sampled again")[0].weight_version, WeightVersion(2));
    count(&engine, ROUTED).await;
    assert_eq!(version_of(&engine, 1).await, 2);
    assert_eq!(count(&engine, ROUTED).await, Some(1.0), "a reload is no fault of the router's");
    assert_eq!((attempts(&two), router.rule().only), (1, None));
}

#[tokio::test]
async fn a_router_that_fails_or_hangs_costs_time_and_nothing_else() {
    let (_one, _two, router, engine) = routed_pair().await;
    router.rule().fails = Some(503);
    let start = Instant::now();
    assert_eq!(version_of(&engine, 0).await, 1);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let before = router.rule().requests;
    assert_eq!(version_of(&engine, 1).await, 1);
    assert_eq!(router.rule().requests, before, "it is left out for a second");
    router.rule().fails = None;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(version_of(&engine, 1).await, 1);
    assert_eq!(router.rule().requests, before + 1);

    router.rule().is_hung = true;
    let start = Instant::now();
    assert_eq!(version_of(&engine, 1).await, 1, "long before the 20 s of the request");
    println!("a hung router was left after {:.1} s", start.elapsed().as_secs_f64());
    assert!(start.elapsed() < Duration::from_secs(19), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_refusal_is_told_in_the_words_of_a_server() {
    let (one, two, _router, engine) = routed_pair().await;
    for server in [&one, &two] {
        server.script(COMPLETIONS, vec![failure(400, "maximum context length is 512 tokens"); 2]);
    }
    let error = engine.generate(short_request(0, 1)).await.expect_err("refused");
    let EngineError::Refused { url, message, .. } = &error else { panic!("{error:?}") };
    assert!(*url == one.url && message.contains("512 tokens"), "{error}");
}

#[tokio::test]
async fn a_router_that_leads_elsewhere_and_servers_without_names_are_refused_at_start() {
    let (one, other) = (Scripted::start().await, Scripted::start().await);
    let astray = ScriptedRouter::before(&[&other]).await;
    let hiding = ScriptedRouter::before(&[&one]).await;
    hiding.rule().drops_headers = true;
    for router in [&astray, &hiding] {
        let error = try_connect(&config(&[&one], &router.url), NEUTRAL).await.expect_err("whose answers?");
        assert!(error.to_string().contains("does not name a server of `inference.urls`"), "{error}");
    }
    one.become_nameless();
    let right = ScriptedRouter::before(&[&one]).await;
    let error = try_connect(&config(&[&one], &right.url), NEUTRAL).await.expect_err("it has no name");
    assert!(error.to_string().contains("do not say which process made them"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("front.Front")), "{error}");
    try_connect(&config(&[&one], ""), NEUTRAL).await.expect("without a router it needs none");
    let error = try_connect(&config(&[&other], "http://8.8.8.8:1"), NEUTRAL).await.expect_err("it reads all");
    assert!(matches!(error, EngineError::Address { .. }), "{error:?}");
}

/// vLLM's router, ended when dropped.
struct RealRouter {
    url: String,
    child: Child,
    dir: tempfile::TempDir,
}

impl RealRouter {
    /// The program that `VLLM_ROUTER` names, or one of the path; `None` where there is none.
    fn program() -> Option<PathBuf> {
        if let Some(named) = std::env::var_os("VLLM_ROUTER") {
            return Some(named.into());
        }
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|folder| folder.join("vllm-router")).find(|program| program.is_file())
    }

    fn start(program: PathBuf, servers: &[&Scripted]) -> RealRouter {
        let free = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("free port");
            listener.local_addr().expect("address").port().to_string()
        };
        let (port, metrics) = (free(), free());
        let dir = tempfile::tempdir().expect("folder");
        let log = std::fs::File::create(dir.path().join("log")).expect("log");
        let child = Command::new(program)
            .args(["--host", "127.0.0.1", "--port", &port, "--prometheus-port", &metrics])
            .args(["--policy", "consistent_hash", "--disable-retries", "--worker-startup-check-interval", "1"])
            .args(["--health-check-interval-secs", "1", "--health-failure-threshold", "1", "--worker-urls"])
            .args(servers.iter().map(|server| server.url.as_str()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("starts");
        RealRouter { url: format!("http://127.0.0.1:{port}"), child, dir }
    }

    async fn wait(&self) {
        let http = reqwest::Client::builder().no_proxy().build().expect("client");
        let start = Instant::now();
        while !http.get(format!("{}/health", self.url)).send().await.is_ok_and(|answer| answer.status().is_success()) {
            let log = || std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            assert!(start.elapsed() < Duration::from_secs(60), "the router does not start: {}", log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for RealRouter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the scripted router assumes, with the real one: trees stay together, answers arrive as they were made and with the
/// name of who made them; and a server that is killed and comes back without the weights.
#[tokio::test]
async fn the_real_router_keeps_trees_together_and_no_wrong_answer_comes_through() {
    let Some(program) = RealRouter::program() else {
        println!("skipped: no `vllm-router` in the path, and `VLLM_ROUTER` is not set (`pip install vllm-router`)");
        return;
    };
    let (mut one, two) = (Scripted::start().await, Scripted::start().await);
    let router = RealRouter::start(program, &[&one, &two]);
    let _ = rustls::crypto::ring::default_provider().install_default();
    router.wait().await;
    let engine = connect_with(&config(&[&one, &two], &router.url)).await;
    engine.load_weights(&manifest(1)).await.expect("loads");
    let mut places = Vec::new();
    for round in 0..3 {
        for tree in 0..24 {
            let before = attempts(&one);
            assert_eq!(version_of(&engine, tree).await, 1);
            let is_at_one = attempts(&one) > before;
            if round == 0 {
                places.push(is_at_one);
            }
            assert_eq!(is_at_one, places[tree as usize], "tree {tree} moved");
        }
    }
    let share = places.iter().filter(|is_at_one| **is_at_one).count();
    assert!((4..=20).contains(&share), "{share} of 24 trees at one of two servers");
    assert_eq!(count(&engine, ROUTED).await, Some(72.0));
    let sent = one.seen(COMPLETIONS).pop().expect("a request");
    let expected = json!({"prompt": [1, 2, 3], "n": 1, "max_tokens": 3, "temperature": 1.0, "top_p": 1.0, "top_k": 0,
        "seed": 7, "logprobs": 0, "return_token_ids": true, "cache_salt": "run:1:digest-1"});
    for (key, value) in expected.as_object().expect("an object") {
        assert_eq!(sent[key], *value, "the router changed `{key}`");
    }

    one.kill().await;
    for tree in 0..24 {
        assert_eq!(version_of(&engine, tree).await, 1);
    }
    one.restart().await;
    let start = Instant::now();
    while one.version() != 1 || count(&engine, ROUTED).await == Some(0.0) {
        assert!(start.elapsed() < Duration::from_secs(90), "both are back, the router and the server");
        for tree in 0..8 {
            assert_eq!(version_of(&engine, tree).await, 1);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
