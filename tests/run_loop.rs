//! `orchestrator run` as a person starts it: the real binary, a real vLLM server, a tiny random model.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use orchestrator::store::{Reader, RunStatus, StepStatus};
use orchestrator::types::{RunId, StepId};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn orchestrator() -> Command {
    Command::new(env!("CARGO_BIN_EXE_orchestrator"))
}

fn python() -> PathBuf {
    let python = Path::new(ROOT).join(".venv/bin/python");
    assert!(python.exists(), "`{}` is missing: run `make setup ENGINE=vllm`", python.display());
    python
}

fn succeed(output: &Output) {
    assert!(
        output.status.success(),
        "{}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A folder with a tiny model, problems and a configuration.
struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new(settings: &str) -> Scene {
        let scene = Scene { dir: tempfile::tempdir().unwrap() };
        succeed(
            &orchestrator().args(["model", "init", "--seed", "3", "--out"]).arg(scene.path("model")).output().unwrap(),
        );
        let problems = scene.path("problems.jsonl");
        let generate = ["problems", "generate", "--count", "12", "--seed", "5", "--out"];
        succeed(&orchestrator().args(generate).arg(&problems).output().unwrap());
        let config = format!(
            r#"
[run]
name = "test"
model = "{model}"
dir = "{run}"
problems_per_step = 4
keep_every = 0
{settings}
[data]
problems = "{problems}"
[prompt]
kind = "plain"
prefix = "Question: What is 3 + 4?\nAnswer: \\boxed{{7}}\n\n"
format = "Question: {{problem}}\nAnswer:"
stop = ["\n"]
max_tokens = 192
[search]
width = 3
step_tokens = 6
max_depth = 3
trajectories = 3
[inference]
launch = true
command = ["{python}"]
dtype = "float32"
device = "cpu"
cpu_kv_cache_gib = 1
max_model_tokens = 512
[train]
device = "cpu"
dtype = "float32"
minibatch_problems = 2
overlong_buffer_tokens = 0
"#,
            model = scene.path("model").display(),
            run = scene.path("run").display(),
            problems = problems.display(),
            python = python().display(),
        );
        std::fs::write(scene.path("config.toml"), config).unwrap();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `orchestrator run`, from a folder that is not the project's.
    fn run(&self, sets: &[&str]) -> Command {
        let mut command = orchestrator();
        command.current_dir(self.dir.path()).arg("run").arg("--config").arg(self.path("config.toml"));
        for set in sets {
            command.args(["--set", set]);
        }
        command
    }

    async fn reader(&self) -> Reader {
        Reader::open(&self.path("run/orchestrator.sqlite")).await.unwrap()
    }

    /// Ends with the tail of the server's log, which says why a start failed.
    fn server_log_tail(&self) -> String {
        let mut tail = String::new();
        for run in 1..=2 {
            let folder = self.path(&format!("run/run-{run}"));
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
}

/// Processes whose command line names the scene: its server and workers.
fn processes_of(scene: &Scene) -> Vec<String> {
    let needle = scene.dir.path().display().to_string();
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
    let scene = Scene::new("steps = 3");
    let output = scene.run(&["train.learning_rate=0"]).output().unwrap();
    assert!(
        output.status.success(),
        "{}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr),
        scene.server_log_tail()
    );
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr.matches("step   ").count(), 3, "one line per step:\n{stderr}");
    assert_eq!(processes_of(&scene), Vec::<String>::new(), "the server ended with the run");

    let reader = scene.reader().await;
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
    let output = scene.run(&sets).output().unwrap();
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

/// Ctrl-C: the finished step stays, the run says so, the server is gone. Then the same with a kill that nobody can
/// catch: the database is whole and the server is gone too.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_can_be_called_off_and_killed() {
    let scene = Scene::new("steps = 1000");
    let start = || scene.run(&[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let runtime = tokio::runtime::Handle::current();
    let steps_done = |run: RunId| {
        tokio::task::block_in_place(|| {
            runtime.block_on(async {
                if !scene.path("run/orchestrator.sqlite").exists() {
                    return 0;
                }
                let Ok(reader) = Reader::open(&scene.path("run/orchestrator.sqlite")).await else { return 0 };
                match reader.latest_step(run).await.unwrap() {
                    Some(step) if step.status == StepStatus::Done => step.step_id.0,
                    Some(step) => step.step_id.0 - 1,
                    None => 0,
                }
            })
        })
    };

    let mut child = start();
    wait_until("the first step", Duration::from_secs(400), || {
        assert!(child.try_wait().unwrap().is_none(), "the run ended by itself\n{}", scene.server_log_tail());
        steps_done(RunId(1)) >= 1
    });
    let blocked = scene.run(&[]).output().unwrap();
    assert_eq!(blocked.status.code(), Some(3), "a second run in the same folder is refused");
    assert!(String::from_utf8_lossy(&blocked.stderr).contains("in use by another process"));
    signal(&child, nix::sys::signal::Signal::SIGINT);
    let mut status = None;
    wait_until("the end after SIGINT", Duration::from_secs(60), || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(130));
    let reader = scene.reader().await;
    assert_eq!(reader.run(RunId(1)).await.unwrap().unwrap().status, RunStatus::Interrupted);
    wait_until("the end of the server", Duration::from_secs(30), || processes_of(&scene).is_empty());

    let mut child = start();
    wait_until("the first step", Duration::from_secs(400), || {
        assert!(child.try_wait().unwrap().is_none(), "the run ended by itself\n{}", scene.server_log_tail());
        steps_done(RunId(2)) >= 1
    });
    signal(&child, nix::sys::signal::Signal::SIGKILL);
    child.wait().unwrap();
    wait_until("the end of the server", Duration::from_secs(30), || processes_of(&scene).is_empty());
    let reader = scene.reader().await;
    let steps = reader.steps(RunId(2)).await.unwrap();
    assert!(steps.iter().filter(|step| step.step_id == StepId(1)).all(|step| step.tree_count == 4));
    assert_eq!(reader.run(RunId(2)).await.unwrap().unwrap().status, RunStatus::Running, "nobody could say otherwise");
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
