//! `orchestrator bench train` as a person types it: figures that agree with a count by hand, and files that come back.

// Helpers of tests are tests too; clippy.toml allows these in `#[test]` functions only.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/scene.rs"]
mod scene;

use std::path::Path;
use std::process::{Command, Output};
use std::sync::LazyLock;

use scene::{Engine, Scene, succeed};
use serde_json::Value;

/// A model of 107,072 parameters: V 512, hidden 64, 2 blocks, 2 heads of 32, 1 head of keys, MLP 128, tied.
static MODEL: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model");
    let output = orchestrator(&["model", "init", "--out", out.to_str().unwrap(), "--family", "qwen2"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    dir
});

fn orchestrator(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_orchestrator")).args(arguments).env("OMP_WAIT_POLICY", "passive").output().unwrap()
}

fn bench(arguments: &str) -> Output {
    let model = MODEL.path().join("model");
    let fixed = ["bench", "train", "--threads", "1", "--steps", "1", "--device", "cpu", "--model"];
    let words: Vec<&str> = fixed.into_iter().chain([model.to_str().unwrap()]).chain(arguments.split(' ')).collect();
    orchestrator(&words)
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
fn number(figures: &Value, name: &str) -> f64 {
    figures[name].as_f64().unwrap_or_else(|| panic!("`{name}` is {}", figures[name]))
}

#[track_caller]
fn assert_near(a: f64, b: f64, what: &str) {
    assert!((a - b).abs() <= 1e-4 * b.abs(), "{what}: {a} and {b}");
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Numbers within the last digit of a double, all else equal: parsing JSON rounds.
#[track_caller]
fn assert_same(a: &Value, b: &Value) {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            assert!((a - b).abs() <= 4.0 * f64::EPSILON * a.abs(), "{a} and {b}");
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len());
            a.iter().zip(b).for_each(|(a, b)| assert_same(a, b));
        }
        (Value::Object(a), Value::Object(b)) => {
            assert!(a.keys().eq(b.keys()));
            a.values().zip(b.values()).for_each(|(a, b)| assert_same(a, b));
        }
        _ => assert_eq!(a, b),
    }
}

#[test]
fn figures_agree_with_a_count_by_hand() {
    // 3 tokens of prompt; two levels of two children, 4 tokens each: 3 + 2 * 4 + 4 * 4 rows, 4 paths of 11.
    let found = figures("--tree depth=2,width=2,tokens=4,prompt=3");
    assert_eq!((number(&found, "unique_tokens"), number(&found, "trained_tokens")), (27.0, 44.0));
    assert_eq!((number(&found, "computed_tokens"), number(&found, "trajectory_count")), (27.0, 4.0));
    // The prompt sees 1 + 2 + 3, a node at place 3 4 x 3 + 10, one at place 7 4 x 7 + 10.
    let pairs = f64::from(6 + 2 * 22 + 4 * 38);
    assert_eq!(number(&found, "visible_pairs"), pairs);
    // q and o 64 x 64, k and v 64 x 32, three MLP matrices 64 x 128; twice; and the projection 512 x 64.
    let products = f64::from(2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128) + 512 * 64);
    assert_eq!(number(&found, "matmul_parameter_count"), products);
    assert_eq!(number(&found, "parameter_count"), 107_072.0);
    let flops = 6.0 * products * 27.0 + 12.0 * 2.0 * 64.0 * pairs;
    assert_eq!(number(&found, "model_flops"), flops);
    let seconds = number(&found, "median_step_s");
    assert_near(number(&found, "model_flops_per_s"), flops / seconds, "operations per second");
    assert_near(number(&found, "trained_tokens_per_s"), 44.0 / seconds, "trained tokens per second");
    let parts: f64 =
        ["pack_s", "old_logprobs_s", "gradient_s", "optimizer_s"].map(|name| number(&found, name)).iter().sum();
    assert!(parts > 0.0 && parts <= seconds, "{parts} of {seconds}");
    assert!(number(&found, "median_step_processor_s") >= 0.0);
    assert!(number(&found, "peak_resident_bytes") >= number(&found, "loaded_resident_bytes"));
    assert!(found["mfu_frac"].is_null() && found["peak_gpu_bytes"].is_null() && found["export_s"].is_null());
    assert_eq!(found["dtype"], "float32", "on a processor");
}

#[test]
fn without_sharing_the_gradient_is_the_same() {
    let tree = "--tree depth=3,width=2,tokens=5,prompt=4 --trees 2 --set train.advantage=signed";
    let shared = figures(tree);
    let separate = figures(&format!("{tree} --no-sharing"));
    assert_eq!(separate["unique_tokens"], separate["trained_tokens"]);
    assert_eq!(separate["trained_tokens"], shared["trained_tokens"]);
    assert_eq!((number(&separate, "group_count"), number(&shared, "group_count")), (16.0, 2.0));
    assert!(number(&shared, "unique_tokens") < number(&shared, "trained_tokens"));
    for name in ["first_loss", "first_grad_norm"] {
        assert_near(number(&separate, name), number(&shared, name), name);
    }
}

#[test]
fn groups_come_back_as_they_were_written() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("first.json"), dir.path().join("second.json"));
    let made = figures(&format!(
        "--tree depth=3,width=3,tokens=5,prompt=4,trajectories=7 --trees 2 --seed 5 --export-batch {}",
        first.display()
    ));
    let loaded = figures(&format!("--groups {} --export-batch {}", first.display(), second.display()));
    for name in ["unique_tokens", "trained_tokens", "visible_pairs", "trajectory_count", "model_flops"] {
        assert_eq!(made[name], loaded[name], "{name}");
    }
    assert_near(number(&loaded, "first_grad_norm"), number(&made, "first_grad_norm"), "gradient");
    let written = read(&first);
    assert_same(&written, &read(&second));
    // 14 paths of 15 sampled tokens, each with an advantage for each of its nodes.
    assert_eq!(number(&written["objective"], "denominator"), 14.0 * 15.0);
    let group = &written["groups"][1];
    assert_eq!(group["trajectories"].as_array().unwrap().len(), 7);
    for trajectory in group["trajectories"].as_array().unwrap() {
        assert_eq!(trajectory["advantages"].as_array().unwrap().len(), trajectory["path"].as_array().unwrap().len());
    }
    let fewer = figures(&format!("--groups {} --trees 1", first.display()));
    assert_eq!(number(&fewer, "trajectory_count"), 7.0);
}

#[test]
fn later_updates_need_old_logprobs_and_a_peak_gives_a_utilisation() {
    let tree = "--tree depth=2,width=2,tokens=8,prompt=4 --trees 4";
    let found = figures(&format!("{tree} --updates 2 --peak-tflops 2"));
    assert_eq!(number(&found, "updates_per_step"), 2.0);
    assert!(number(&found, "old_logprobs_s") > 1e-5, "{found}");
    assert_near(number(&found, "mfu_frac"), number(&found, "model_flops_per_s") / 2e12, "utilisation");
}

#[test]
fn weights_are_written_where_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("weights");
    let found = figures(&format!("--tree depth=1,tokens=4 --export-weights {}", out.display()));
    assert!(number(&found, "export_s") > 0.0);
    let size = std::fs::metadata(out.join("model.safetensors")).unwrap().len();
    assert_eq!(number(&found, "export_bytes"), size as f64);
    let again = bench(&format!("--tree depth=1,tokens=4 --export-weights {}", out.display()));
    assert!(String::from_utf8_lossy(&again.stderr).contains("is not empty"));
}

/// Of a run that has dropped the text of its first steps only the others are trained on; of one that has dropped all, none.
#[test]
fn steps_whose_trees_were_dropped_are_left_out() {
    let scene = Scene::new(Engine::Embedded, 4, &["run.checkpoint_every=1", "run.checkpoints_kept=3"]);
    succeed(&scene.run("run", &[]));
    let folder = scene.path("run");
    let model = scene.path("model");
    let measure = || {
        let words = ["bench", "train", "--threads", "1", "--steps", "1", "--device", "cpu", "--model"];
        let mut command = scene::orchestrator();
        command.args(words).arg(&model).arg("--run").arg(&folder);
        // So every tree has a signal.
        command.args(["--set", "train.advantage=value", "--set", "train.drop_defective=false"]);
        command.output().unwrap()
    };
    let prune = |more: &[&str]| {
        let mut command = scene::orchestrator();
        succeed(&command.args(["db", "prune", "--keep", "none"]).args(more).arg(&folder).output().unwrap());
    };
    let trees = |output: &Output| {
        succeed(output);
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        number(&serde_json::from_str(text.lines().last().unwrap()).unwrap(), "group_count")
    };
    let whole = measure();
    assert!(!String::from_utf8_lossy(&whole.stderr).contains("left out: their tokens"), "{whole:?}");
    prune(&["--steps-before", "3"]);
    let half = measure();
    let said = String::from_utf8_lossy(&half.stderr);
    assert!(said.contains("2 steps of run 1 in") && said.contains("the last of them step 2, are left out"), "{said}");
    assert!(trees(&half) > 0.0 && trees(&half) < trees(&whole));
    // Steps from the oldest checkpoint on are a resume's.
    std::fs::remove_dir_all(folder.join("run-1/checkpoints/step-000002")).ok();
    std::fs::remove_dir_all(folder.join("run-1/checkpoints/step-000003")).ok();
    prune(&[]);
    let none = measure();
    assert_eq!(none.status.code(), Some(2), "{none:?}");
    assert!(String::from_utf8_lossy(&none.stderr).contains("of all trees of run 1 in"), "{none:?}");
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
fn bad_input_gives_one_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("groups.json");
    let named = format!("--groups {}", file.display());
    refused(&named, 2, &["cannot read", "groups.json"]);
    std::fs::write(&file, "{\"format\":\"other/1\",\"groups\":[]}").unwrap();
    refused(&named, 2, &["holds no trajectory groups", "`other/1`"]);
    let group = r#"{"problem":1,"prompt":[1],"nodes":[{"node":1,"parent":null,"depth":1,"tokens":[600],"logprobs":[null],
        "weight_version":0,"q_total":1.0}],"trajectories":[{"path":[0],"verdict":"correct","reward":1.0,"entropy_nats":null,
        "provenance":"search","defect":null}]}"#;
    std::fs::write(&file, format!("{{\"format\":\"trajectory-groups/1\",\"groups\":[{group}]}}")).unwrap();
    refused(&named, 2, &["group 0 of", "token 600", "vocabulary of 512"]);
    std::fs::write(
        &file,
        format!("{{\"format\":\"trajectory-groups/1\",\"groups\":[{group}]}}").replace("[600]", "[6]"),
    )
    .unwrap();
    refused(&format!("{named} --set train.advantage=signed"), 2, &["none of the 1 trees has a signal", "hint:"]);
}

#[test]
fn shapes_and_runs_that_cannot_be_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    refused("--tree depth=2,width=2,trajectories=5", 2, &["5 trajectories do not fit a tree with 4 leaves", "hint:"]);
    refused("--tree deep=2", 2, &["`deep` is no part of a shape"]);
    refused(&format!("--run {}", dir.path().display()), 2, &["there is no run in"]);
    refused("--tree depth=1,tokens=4 --set train.tokens=3", 2, &["train.tokens"]);
    refused("--tree depth=1,tokens=4 --peak-tflops -1", 2, &["above 0"]);
}
