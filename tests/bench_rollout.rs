//! `orchestrator bench rollout` as a person types it, on a tiny model in its own process and without any model: all modes run,
//! the figures agree with each other, the same seeds grow the same trees in lock step, and a signal ends it in good order.

// Helpers of tests are tests too; clippy.toml allows these in `#[test]` functions only.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::Value;

static MODEL: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model");
    let output = orchestrator(&["model", "init", "--family", "qwen2", "--std", "0.1", "--out", out.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    dir
});

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrator"));
    command.env("OMP_WAIT_POLICY", "passive");
    command
}

fn orchestrator(arguments: &[&str]) -> Output {
    command().args(arguments).output().unwrap()
}

fn words(arguments: &str) -> Vec<String> {
    let model = MODEL.path().join("model").display().to_string();
    let fixed = ["bench", "rollout", "--model", &model, "--set", "train.threads=1"].map(str::to_owned);
    fixed.into_iter().chain(arguments.split(' ').map(str::to_owned)).collect()
}

fn bench(arguments: &str) -> Output {
    command().args(words(arguments)).output().unwrap()
}

/// The figures of a call that succeeds.
#[track_caller]
fn figures(arguments: &str) -> Value {
    let output = bench(arguments);
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

#[track_caller]
fn mode<'a>(figures: &'a Value, name: &str) -> &'a Value {
    let modes = figures["modes"].as_array().unwrap();
    modes.iter().find(|mode| mode["mode"] == name).unwrap_or_else(|| panic!("no `{name}` in {figures}"))
}

#[track_caller]
fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

const SMALL: &str = "--prompt-tokens 24 --set search.width=3 --set search.step_tokens=6 --set search.max_depth=4 \
                     --set search.trajectories=4";

#[test]
fn all_modes_grow_the_same_trees_and_their_figures_agree() {
    let found = figures(&format!("{SMALL} --trees 12 --lock-step-trees 5 --rounds 2 --seed 7"));
    assert_eq!((&found["bench"], &found["is_in_process"]), (&"rollout".into(), &true.into()));
    assert_eq!((number(&found["tree_count"]), number(&found["max_sequences"])), (12.0, 64.0));
    assert_eq!(number(&found["longest_prompt_tokens"]), 24.0);
    let names: Vec<&str> = found["modes"].as_array().unwrap().iter().map(|m| m["mode"].as_str().unwrap()).collect();
    assert_eq!(names, ["search", "lock-step", "plain", "saturated"]);
    let search = mode(&found, "search");
    // This engine repeats itself to the bit, so how it is driven changes nothing of what it says.
    assert_eq!(search["trees_digest"], mode(&found, "lock-step")["trees_digest"]);
    assert_eq!(search["trees_digest"].as_str().unwrap().len(), 64);
    for name in ["lock-step", "plain", "saturated"] {
        let other = mode(&found, name);
        assert_eq!(other["generated_tokens"], search["generated_tokens"], "{name}");
        assert_eq!(other["request_count"], search["request_count"], "{name}");
    }
    for mode in found["modes"].as_array().unwrap() {
        let (wall, tokens) = (&mode["wall_s"], &mode["generated_tokens"]);
        assert_eq!((wall.as_array().unwrap().len(), tokens.as_array().unwrap().len()), (2, 2));
        let rates: Vec<f64> = (0..2).map(|round| number(&tokens[round]) / number(&wall[round])).collect();
        let median = f64::midpoint(rates[0], rates[1]);
        assert!((number(&mode["tokens_per_s"]) - median).abs() < 1e-6 * median, "{mode}");
        let trees = number(&mode["s_per_tree"]) * number(&mode["trees_per_hour"]);
        assert!((trees - 3600.0).abs() < 1e-3, "{mode}");
        assert!(number(&mode["processor_s"][0]) > 0.0 && number(&mode["peak_resident_bytes"][0]) > 1e6, "{mode}");
        assert_eq!(number(&mode["failed_tree_count"]), 0.0);
        assert!(number(&mode["mean_sequences"]) > 1.0, "{mode}");
        // 24 tokens of prompt and up to 18 of a path are read or found.
        assert!(number(&mode["prefill_tokens"]) > 0.0, "{mode}");
    }
    assert_eq!((number(&search["most_trees"]), number(&mode(&found, "lock-step")["most_trees"])), (12.0, 5.0));
    let cached = |name: &str| number(&mode(&found, name)["reused_tokens"]);
    assert!(cached("search") > 2.0 * cached("lock-step"), "{} and {}", cached("search"), cached("lock-step"));
    for (name, aim) in [("search_to_plain", 0.97), ("search_to_lock_step", 0.5)] {
        assert_eq!(number(&found[name]["aim"]), aim);
        assert_eq!(found[name]["rounds"].as_array().unwrap().len(), 2);
    }
    let [ours, plain] = ["search", "plain"].map(|name| number(&mode(&found, name)["wall_s"][1]));
    assert!((number(&found["search_to_plain"]["rounds"][1]) - plain / ours).abs() < 1e-9);
    assert!(found["processor_percent"].is_null(), "the engine's work is in the same process");
}

#[test]
fn problems_of_a_file_are_searched_over_and_over() {
    let dir = tempfile::tempdir().unwrap();
    let problems = dir.path().join("problems.jsonl");
    let made = ["problems", "generate", "--count", "3", "--out", problems.to_str().unwrap()];
    assert!(orchestrator(&made).status.success());
    let out = dir.path().join("kept");
    let sets = "--set prompt.kind=plain --set prompt.format={problem} --set search.width=2 --set search.step_tokens=4 \
                --set search.max_depth=2 --set search.trajectories=2";
    let place = format!("--problems {} --out {}", problems.display(), out.display());
    let found = figures(&format!("{place} --trees 7 --modes search {sets}"));
    assert_eq!(number(&found["tree_count"]), 7.0);
    assert!(number(&found["longest_prompt_tokens"]) > 4.0);
    assert!(found["search_to_plain"].is_null() && found["search_to_lock_step"].is_null());
    assert!(out.join("orchestrator.sqlite").exists(), "what was asked for is kept");
    let output = bench(&format!("{place} --trees 7 --modes search {sets}"));
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is not empty"));
}

/// The orchestrator alone: with more trees than the engine takes at once, no more are begun than keep it busy; and its
/// processor time is told.
#[test]
fn without_a_model_the_orchestrator_alone_is_measured() {
    let sets = format!("{SMALL} --set inference.max_sequences=24");
    let found = figures(&format!("{sets} --engine none --trees 60 --modes search,plain"));
    assert_eq!((&found["engine"], &found["is_in_process"]), (&"none".into(), &false.into()));
    // 24 sequences and a half more, 3 for each tree.
    assert_eq!(number(&mode(&found, "search")["most_trees"]), 12.0);
    assert!(number(&found["processor_percent"]["value"]) > 0.0);
    assert_eq!(number(&found["processor_percent"]["aim"]), 2.0);
    assert_eq!(mode(&found, "plain")["generated_tokens"], mode(&found, "search")["generated_tokens"]);
}

/// 10,000 trees, all under way at once: no queue is too long, no file or lock is missing, and memory stays in bounds.
#[test]
fn ten_thousand_trees_at_once() {
    let sets = "--prompt-tokens 24 --set search.width=2 --set search.step_tokens=20 --set search.max_depth=3 \
                --set search.trajectories=2 --set inference.max_sequences=20000";
    let found = figures(&format!("{sets} --engine none --trees 10000 --modes search"));
    let search = mode(&found, "search");
    assert_eq!((number(&found["tree_count"]), number(&search["failed_tree_count"])), (10_000.0, 0.0));
    assert!(number(&search["most_trees"]) >= 9_000.0, "{search}");
    let per_tree = number(&search["peak_resident_bytes"][0]) / 10_000.0;
    assert!(per_tree < 64.0 * 1024.0, "{per_tree} bytes for each tree");
}

#[track_caller]
fn refused(arguments: &str, code: i32, expected: &[&str]) {
    let output = bench(arguments);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments}: {text}");
    assert!(output.stdout.is_empty());
    assert_eq!(text.lines().filter(|line| line.starts_with("error:")).count(), 1, "{text}");
    for word in expected {
        assert!(text.contains(word), "{arguments}: no `{word}` in {text}");
    }
}

#[test]
fn bad_arguments_give_one_clear_error() {
    refused("--modes plain", 2, &["`plain` sends the requests of `search` again", "add `search` to `--modes`"]);
    refused("--modes quick", 2, &["invalid value 'quick'"]);
    refused("--trees 0", 2, &["0 is not in 1..="]);
    refused("--problems nowhere.jsonl", 2, &["nowhere.jsonl"]);
    refused("--engine vllm --server http://127.0.0.1:9", 2, &["cannot be used with"]);
    refused("--set search.widht=3", 2, &["search.widht"]);
    refused("--set inference.cache_mib=1 --prompt-tokens 4000", 2, &["bytes"]);
    refused(
        "--server http://127.0.0.1:9 --set inference.retry_timeout_s=1",
        3,
        &["http://127.0.0.1:9", "check that a vLLM server runs"],
    );
}

/// In the middle of a search a signal ends it at once: nothing on standard output, nothing left behind.
#[test]
fn a_signal_ends_it_in_good_order() {
    use nix::sys::signal::{Signal, kill};
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let dir = tempfile::tempdir().unwrap();
        let mut command = command();
        command.args(words("--engine none --trees 5000 --set search.step_tokens=200 --modes search"));
        command.env("TMPDIR", dir.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let started = Instant::now();
        let database = || {
            let found = std::fs::read_dir(dir.path()).unwrap().flatten().next();
            found.is_some_and(|folder| folder.path().join("orchestrator.sqlite").exists())
        };
        while !database() {
            assert!(started.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none());
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_millis(300));
        let asked = Instant::now();
        kill(nix::unistd::Pid::from_raw(child.id() as i32), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{text}");
        assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
        assert!(output.stdout.is_empty() && text.contains("stopping"), "{text}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }
}
