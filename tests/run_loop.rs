//! `orchestrator run` as a person starts it: the real binary, a real vLLM server, a tiny random model.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/scene.rs"]
mod scene;

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use orchestrator::store::{Reader, RunStatus};
use orchestrator::types::RunId;
use scene::{Engine, Scene, orchestrator, succeed};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn python() -> PathBuf {
    let python = Path::new(ROOT).join(".venv/bin/python");
    assert!(python.exists(), "`{}` is missing: run `make setup ENGINE=vllm`", python.display());
    python
}

fn new_scene(steps: u32) -> Scene {
    Scene::new(Engine::Vllm { python: python() }, steps, &[])
}

async fn open_reader(scene: &Scene) -> Reader {
    Reader::open(&scene.database("run")).await.unwrap()
}

/// Ends with the tail of the server's log, which says why a start failed.
fn server_log_tail(scene: &Scene) -> String {
    let mut tail = String::new();
    for run in 1..=2 {
        let folder = scene.path(&format!("run/run-{run}"));
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "log") {
                let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
                let lines: Vec<&str> = text.lines().rev().take(15).collect();
                tail.extend(lines.into_iter().rev().flat_map(|line| [line, "\n"]));
            }
        }
    }
    tail
}

/// Processes whose command line names the scene: its server and workers.
fn processes_of(scene: &Scene) -> Vec<String> {
    let needle = scene.path("").display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&needle) {
            found.push(line);
        }
    }
    found
}

fn wait_until(what: &str, deadline: Duration, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < deadline, "{what} did not happen within {} s", deadline.as_secs());
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn signal(child: &Child, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), signal).unwrap();
}

/// The whole turn: search, update, confirmed reload, three times. At learning rate 0 nothing may move; the fourth step,
/// a second run with a learning rate, must move everything that the server confirms.
#[tokio::test(flavor = "multi_thread")]
async fn three_steps_at_learning_rate_zero_then_one_that_learns() {
    let scene = new_scene(3);
    let output = scene.run("run", &["train.learning_rate=0"]);
    assert!(
        output.status.success(),
        "{}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr),
        server_log_tail(&scene)
    );
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr.matches("step   ").count(), 3, "one line per step:\n{stderr}");
    assert_eq!(processes_of(&scene), Vec::<String>::new(), "the server ended with the run");

    let reader = open_reader(&scene).await;
    let run = reader.latest_run().await.unwrap().unwrap();
    assert_eq!(run.status, RunStatus::Done);
    let steps = reader.steps(run.run_id).await.unwrap();
    assert_eq!(steps.len(), 3);
    for step in &steps {
        assert_eq!(step.tree_count, 4);
        assert!(step.produced_weight_version.is_some(), "every step updates: {step:?}");
        let ratio = step.ratio_mean.unwrap();
        assert!((0.98..=1.02).contains(&ratio), "trainer and server agree on the policy: {ratio}");
        assert_eq!(step.ratio_nan_count, Some(0));
    }
    let history = reader.weight_history(run.run_id).await.unwrap();
    assert_eq!(history.len(), 4, "version 0 and one per step");
    assert!(history.iter().all(|version| version.is_confirmed));
    assert!(history.iter().all(|version| version.digest == history[0].digest), "learning rate 0 changes no bit");
    loads_in_transformers(Path::new(&history[3].path), &scene.path("model"), true);

    let elsewhere = format!("run.weights_dir={:?}", scene.path("elsewhere"));
    let sets = ["run.steps=1", "train.learning_rate=0.01", "train.warmup_steps=0", &elsewhere];
    let output = scene.run("run", &sets);
    succeed(&output);
    let run = reader.latest_run().await.unwrap().unwrap();
    assert_eq!(run.run_id, RunId(2), "the second run is a row of its own in the same database");
    let history = reader.weight_history(run.run_id).await.unwrap();
    assert_eq!(history.len(), 2);
    assert!(Path::new(&history[1].path).starts_with(scene.path("elsewhere")), "{}", history[1].path);
    assert!(history[1].is_confirmed);
    assert_ne!(history[0].digest, history[1].digest, "a learning rate moves the weights");
    let canary = history[1].canary_mean_abs_nats.unwrap();
    assert!(canary < 1e-3, "float32 on both sides: {canary}");
    loads_in_transformers(Path::new(&history[1].path), &scene.path("model"), false);
}

/// transformers reads the exported folder and finds the weights of `model`, or others.
fn loads_in_transformers(exported: &Path, model: &Path, is_same: bool) {
    let script = "
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
a, b = (AutoModelForCausalLM.from_pretrained(p, dtype=torch.float32) for p in sys.argv[1:3])
assert len(AutoTokenizer.from_pretrained(sys.argv[1])) == len(AutoTokenizer.from_pretrained(sys.argv[2]))
a, b = a.state_dict(), b.state_dict()
assert a.keys() == b.keys()
print(all(torch.equal(a[k], b[k]) for k in a))
";
    let output = Command::new(python()).args(["-c", script]).arg(exported).arg(model).output().unwrap();
    succeed(&output);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), if is_same { "True" } else { "False" });
}

/// Ctrl-C: the finished step stays, the run says so, the server is gone. Then the same with a kill that nobody can catch.
/// Each time the run goes on where it was, on a server that holds the weights that the database says; all of it while the
/// next step's trees grow beside the update.
#[tokio::test(flavor = "multi_thread")]
async fn an_overlapping_run_that_is_called_off_and_killed_goes_on() {
    let scene =
        Scene::new(Engine::Vllm { python: python() }, 1000, &["run.pipeline=overlap", "run.checkpoint_every=2"]);
    let runtime = tokio::runtime::Handle::current();
    let steps_done = || {
        tokio::task::block_in_place(|| {
            runtime.block_on(async {
                if !scene.database("run").exists() {
                    return 0;
                }
                let Ok(reader) = Reader::open(&scene.database("run")).await else { return 0 };
                reader.done_steps(RunId(1)).await.unwrap().last().map_or(0, |step| step.step_id.0)
            })
        })
    };
    let wait_for_step = |child: &mut Child, step: i64| {
        wait_until("a step", Duration::from_secs(400), || {
            assert!(child.try_wait().unwrap().is_none(), "the run ended by itself\n{}", server_log_tail(&scene));
            steps_done() >= step
        });
    };

    let mut child = scene.spawn("run", &[]);
    wait_for_step(&mut child, 1);
    for refused in [scene.run("run", &[]), scene.resume("run")] {
        assert_eq!(refused.status.code(), Some(3), "a second process in the same folder is refused");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("in use by another process"));
    }
    signal(&child, nix::sys::signal::Signal::SIGINT);
    let mut status = None;
    wait_until("the end after SIGINT", Duration::from_secs(60), || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(130));
    let reader = open_reader(&scene).await;
    assert_eq!(reader.run(RunId(1)).await.unwrap().unwrap().status, RunStatus::Interrupted);
    wait_until("the end of the server", Duration::from_secs(30), || processes_of(&scene).is_empty());

    let done = steps_done();
    let mut child = scene.start(&scene.resume_args("run"));
    wait_for_step(&mut child, done + 2);
    signal(&child, nix::sys::signal::Signal::SIGKILL);
    child.wait().unwrap();
    wait_until("the end of the server", Duration::from_secs(30), || processes_of(&scene).is_empty());
    assert_eq!(reader.run(RunId(1)).await.unwrap().unwrap().status, RunStatus::Running, "nobody could say otherwise");

    let last = steps_done() + 2;
    let mut args = scene.resume_args("run");
    args.extend(["--set".into(), format!("run.steps={last}")]);
    succeed(&scene.output(&args));
    assert_eq!(reader.run(RunId(1)).await.unwrap().unwrap().status, RunStatus::Done);
    let steps = reader.steps(RunId(1)).await.unwrap();
    assert_eq!(steps.iter().map(|step| step.step_id.0).collect::<Vec<_>>(), (1..=last).collect::<Vec<_>>());
    let mut version = 0;
    let mut overlapping = 0;
    for step in &steps {
        assert_eq!(step.tree_count, 4, "step {}", step.step_id);
        let searched = step.search_weight_version.0;
        assert!(searched <= version && searched + 1 >= version, "at most one step off-policy: {step:?}");
        overlapping += i32::from(searched < version);
        version = step.produced_weight_version.map_or(version, |produced| produced.0);
    }
    assert!(overlapping > 0, "no search ran beside an update");
    let history = reader.weight_history(RunId(1)).await.unwrap();
    assert_eq!(history.last().map(|row| row.weight_version.0), Some(version));
    assert!(history.iter().all(|row| row.is_confirmed));
}

/// Adapters alone are trained, hot-loaded by name and sampled with; after a kill that nobody can catch a fresh server gets
/// those that the database says.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_trains_adapters_is_killed_and_goes_on() {
    let sets = ["train.lora.rank=4", "train.learning_rate=0.02", "train.warmup_steps=0", "run.checkpoint_every=1"];
    let scene = Scene::new(Engine::Vllm { python: python() }, 1000, &sets);
    let mut child = scene.spawn("run", &[]);
    let mut done = 0;
    let started = Instant::now();
    while done < 2 {
        assert!(child.try_wait().unwrap().is_none(), "the run ended by itself\n{}", server_log_tail(&scene));
        assert!(started.elapsed() < Duration::from_secs(400), "no two steps in time\n{}", server_log_tail(&scene));
        tokio::time::sleep(Duration::from_millis(100)).await;
        if let Ok(reader) = Reader::open(&scene.database("run")).await {
            done = reader.done_steps(RunId(1)).await.unwrap_or_default().last().map_or(0, |step| step.step_id.0);
        }
    }
    signal(&child, nix::sys::signal::Signal::SIGKILL);
    child.wait().unwrap();
    wait_until("the end of the server", Duration::from_secs(30), || processes_of(&scene).is_empty());

    let reader = open_reader(&scene).await;
    let last = reader.done_steps(RunId(1)).await.unwrap().last().map_or(0, |step| step.step_id.0) + 1;
    let mut args = scene.resume_args("run");
    args.extend(["--set".into(), format!("run.steps={last}")]);
    succeed(&scene.output(&args));
    let steps = reader.steps(RunId(1)).await.unwrap();
    assert_eq!(steps.iter().map(|step| step.step_id.0).collect::<Vec<_>>(), (1..=last).collect::<Vec<_>>());
    for step in &steps {
        let ratio = step.ratio_mean.unwrap();
        assert!((0.98..=1.02).contains(&ratio), "what is sampled is what is trained: {ratio}");
    }
    let history = reader.weight_history(RunId(1)).await.unwrap();
    assert!(history.iter().all(|version| version.is_confirmed));
    assert!(history.windows(2).all(|pair| pair[0].digest != pair[1].digest), "every update moves the adapters");
    let canary = history.last().unwrap().canary_mean_abs_nats.unwrap();
    assert!(canary < 1e-3, "float32 on both sides: {canary}");
    let newest = Path::new(&history.last().unwrap().path);
    assert!(newest.join("adapter_config.json").exists() && !newest.join("config.json").exists());
}

#[test]
fn wrong_input_is_one_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    for (text, code, expected) in [
        ("[run]\nstepz = 3\n", 2, "unknown key `run.stepz`"),
        ("[run]\nsteps = \"many\"\n", 2, "run.steps"),
        ("[run\n", 2, "config.toml"),
    ] {
        std::fs::write(&file, text).unwrap();
        let output = orchestrator().arg("run").arg("--config").arg(&file).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(expected), "{stderr}");
    }
    let output = orchestrator().args(["run", "--config", "nowhere.toml"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("`nowhere.toml`"));
}
