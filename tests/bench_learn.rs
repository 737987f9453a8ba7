//! `orchestrator bench learn` as a person types it: the smallest suite of the project, once in peace and once killed in the
//! middle, ends in the same results; and what it refuses.

// Helpers of tests are tests too; clippy.toml allows these in `#[test]` functions only.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::Value;

const SUITE: &str = "configs/suites/tiny.toml";

/// A folder in which the suite can be started as in the project's own.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
        copy(&configs, &dir.path().join("configs"));
        Place(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrator"));
        command.current_dir(self.0.path()).env("OMP_WAIT_POLICY", "passive");
        command.args(["bench", "learn", "--suite", SUITE]).args(arguments);
        command
    }

    fn learn(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The results as data, without times.
    fn results(&self) -> Value {
        let text = std::fs::read_to_string(self.path("runs/learn-tiny/tiny.json")).unwrap();
        let mut results: Value = serde_json::from_str(&text).unwrap();
        remove_seconds(&mut results);
        results
    }

    fn model(&self) -> Vec<u8> {
        std::fs::read(self.path("models/learn-tiny/model.safetensors")).unwrap()
    }

    fn database(&self, algorithm: &str) -> PathBuf {
        self.path(&format!("runs/learn-tiny/two-steps/{algorithm}/seed-1/orchestrator.sqlite"))
    }

    /// The suite with a text in the place of another.
    fn change(&self, old: &str, new: &str) {
        let suite = self.path(SUITE);
        let text = std::fs::read_to_string(&suite).unwrap();
        assert!(text.contains(old), "{old}");
        std::fs::write(suite, text.replace(old, new)).unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(from, to).unwrap();
        }
    }
}

fn remove_seconds(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("seconds");
            fields.values_mut().for_each(remove_seconds);
        }
        Value::Array(values) => values.iter_mut().for_each(remove_seconds),
        _ => {}
    }
}

#[track_caller]
fn succeed(output: &Output) -> (String, String) {
    let texts = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(output.status.success(), "{}\n{}\n{}", output.status, texts[0], texts[1]);
    let [stdout, stderr] = texts;
    (stdout, stderr)
}

/// The suite carried out in peace, and the table it ended with.
static UNBROKEN: LazyLock<(Place, String)> = LazyLock::new(|| {
    let place = Place::new();
    let (table, _) = succeed(&place.learn(&[]));
    (place, table)
});

#[test]
fn equal_tokens_for_all_and_every_run_in_the_table() {
    let (place, table) = &*UNBROKEN;
    let results = place.results();
    let runs = results["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2);
    for run in runs {
        assert_eq!(run["standing"], "done", "{run}");
        let points = run["points"].as_array().unwrap();
        let tokens: Vec<f64> = points.iter().map(|point| point["generated_tokens"].as_f64().unwrap()).collect();
        let (last, before) = (tokens[tokens.len() - 1], tokens[tokens.len() - 2]);
        // It ends with the first step after which the tokens are spent, and is measured there.
        assert!(last >= 16_000.0 && before < 16_000.0, "{tokens:?}");
        assert_eq!(run["generated_tokens"].as_f64(), Some(last));
        assert!(run["steps_done"].as_u64().unwrap() < 40);
    }
    let task = &results["tasks"][0];
    assert_eq!(task["base_digests"].as_array().unwrap().len(), 1);
    let base = runs[0]["points"][0]["pass_at_1"].as_f64().unwrap();
    assert!(base > 0.0, "a base model that solves nothing compares nothing");
    assert_eq!(runs[1]["points"][0]["pass_at_1"], runs[0]["points"][0]["pass_at_1"], "the same held-out draws");
    assert!(table.contains("### two-steps") && table.contains("| two-steps | grpo | 1 | done |"), "{table}");
    let svg = std::fs::read_to_string(place.path("runs/learn-tiny/tiny.svg")).unwrap();
    assert_eq!(svg.matches("<polyline").count(), 6);
    assert_eq!(std::fs::read_to_string(place.path("runs/learn-tiny/tiny.md")).unwrap(), *table);
    let (again, _) = succeed(&place.learn(&["--table-only"]));
    assert_eq!(again, *table, "from the databases alone");
    let (standing, _) = succeed(&place.learn(&["--dry-run"]));
    assert_eq!(standing, "two-steps deepsearch seed 1: done\ntwo-steps grpo seed 1: done\n");
}

#[test]
fn killed_in_the_middle_it_ends_in_the_same_results_on_the_same_model() {
    let (unbroken, _) = &*UNBROKEN;
    let place = Place::new();
    let mut child = place.command(&[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(300);
    while !place.database("grpo").exists() {
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "nothing to kill");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(300));
    child.kill().unwrap();
    child.wait().unwrap();
    // The run goes with the suite, so that it can be taken up again.
    let (_, stderr) = succeed(&place.learn(&[]));
    assert!(stderr.contains("two-steps deepsearch seed 1: done before"), "{stderr}");
    assert!(stderr.contains("two-steps grpo seed 1: begun, 1 of 1"), "{stderr}");
    assert!(!stderr.contains("model tiny: step"), "{stderr}");
    assert!(place.model() == unbroken.model(), "the recipe makes other bits");
    assert_eq!(place.results(), unbroken.results());
}

#[test]
fn a_run_that_fails_is_in_the_table_and_the_others_go_on() {
    let place = Place::new();
    // The first step finds no finite gradient, nor do the next ones.
    place.change(
        "name = \"deepsearch\"",
        "name = \"deepsearch\"\nsets = [\"train.learning_rate=1e30\", \"train.max_grad_norm=0\", \"curriculum.filter=false\"]",
    );
    let output = place.learn(&[]);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{stdout}\n{stderr}");
    assert!(stdout.contains("| two-steps | deepsearch | 1 | failed: "), "{stdout}");
    assert!(stdout.contains("| two-steps | grpo | 1 | done |"), "{stdout}");
    let again = place.learn(&[]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("--retry-failed"), "{again:?}");
    assert_eq!(again.stdout, output.stdout);
}

/// What was run is not shown under the settings of today, nor is any database written to by looking at it.
#[test]
fn a_table_of_other_settings_is_refused_and_looking_writes_nothing() {
    let place = Place::new();
    place.change("run.steps=40", "run.steps=1");
    place.change("max_generated_tokens = 16_000", "max_generated_tokens = 0");
    // One database without tables, another one that is none.
    let database = place.database("grpo");
    std::fs::create_dir_all(database.parent().unwrap()).unwrap();
    std::fs::write(&database, "").unwrap();
    let (stdout, _) = succeed(&place.learn(&["--dry-run"]));
    assert_eq!(stdout, "two-steps deepsearch seed 1: to be run\ntwo-steps grpo seed 1: to be run\n");
    let table = place.learn(&["--table-only"]);
    assert!(String::from_utf8_lossy(&table.stdout).contains("| two-steps | grpo | 1 | not begun |"), "{table:?}");
    assert_eq!(std::fs::read(&database).unwrap(), b"");
    std::fs::write(&database, "no database at all").unwrap();

    let output = place.learn(&[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(stdout.contains("| two-steps | deepsearch | 1 | done |"), "{stdout}");
    assert!(stdout.contains("| two-steps | grpo | 1 | failed: `") && stdout.contains("is not an SQLite"), "{stdout}");
    assert!(stderr.contains("two-steps grpo seed 1: left alone, for `"), "{stderr}");
    assert_eq!(std::fs::read(&database).unwrap(), b"no database at all");
    let (stdout, _) = succeed(&place.learn(&["--dry-run"]));
    assert!(stdout.contains("deepsearch seed 1: done\ntwo-steps grpo seed 1: cannot be read: `"), "{stdout}");

    // What a resume may change makes another run of it here.
    for (old, new, key) in [
        ("run.steps=1", "run.steps=2", "run.steps"),
        ("eval.every=1", "eval.every=2", "eval.every"),
        ("max_generated_tokens = 0", "max_generated_tokens = 9", "run.max_generated_tokens"),
        ("name = \"deepsearch\"", "name = \"deepsearch\"\nsets = [\"search.width=3\"]", "search.width"),
    ] {
        place.change(old, new);
        refused(&place, &["--table-only"], &["was begun with other settings: ", key]);
        refused(&place, &["--algorithms", "grpo"], &["was begun with other settings: ", key]);
        let (stdout, _) = succeed(&place.learn(&["--dry-run"]));
        assert!(stdout.contains(&format!("deepsearch seed 1: begun with other settings: {key}\n")), "{stdout}");
        place.change(new, old);
    }
    place.change("count = 60, seed = 2", "count = 60, seed = 4");
    refused(&place, &["--table-only"], &["problems.jsonl", "was made in another way"]);
}

/// Every suite of the project stands for runs whose settings are valid.
#[test]
fn the_suites_of_the_project_can_be_planned() {
    let place = Place::new();
    let mut suites = 0;
    for entry in std::fs::read_dir(place.path("configs/suites")).unwrap().map(Result::unwrap) {
        if !std::fs::read_to_string(entry.path()).unwrap().contains("[[algorithm]]") {
            continue;
        }
        suites += 1;
        let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrator"));
        command.current_dir(place.0.path()).args(["bench", "learn", "--dry-run", "--suite"]).arg(entry.path());
        let (stdout, _) = succeed(&command.output().unwrap());
        assert!(stdout.lines().count() > 1, "{}", entry.path().display());
        assert!(stdout.lines().all(|line| line.ends_with(": to be run")), "{stdout}");
    }
    assert!(suites >= 5, "{suites}");
}

#[track_caller]
fn refused(place: &Place, arguments: &[&str], parts: &[&str]) {
    let output = place.learn(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{part}\n{stderr}");
    }
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let place = Place::new();
    refused(&place, &["--seeds", "7"], &["the suite has no seed `7`"]);
    refused(&place, &["--algorithms", "ppo"], &["the suite has no algorithm `ppo`"]);
    place.change("run.steps=40", "run.stepps=40");
    refused(&place, &[], &["`deepsearch` on `two-steps`", "stepps", "steps"]);
    place.change("run.stepps=40", "run.steps=2");
    let part = place.learn(&["--algorithms", "grpo", "--jobs", "2"]);
    assert_eq!(part.status.code(), Some(1), "a part of a suite is not all of it: {part:?}");
    assert!(String::from_utf8_lossy(&part.stdout).contains("**1 of 2 runs are not over.**"));
    place.change("sets = [\"run.algorithm=grpo\"]", "sets = [\"run.algorithm=grpo\", \"train.learning_rate=3e-4\"]");
    refused(&place, &[], &["was begun with other settings: train.learning_rate", "remove its folder"]);
    place.change(", \"train.learning_rate=3e-4\"", "");
    place.change("--epochs 4", "--epochs 1");
    refused(&place, &[], &["models/learn-tiny", "was made in another way"]);
    place.change("--epochs 1", "--epochs 4");
    place.change("count = 60, seed = 2", "count = 61, seed = 2");
    refused(&place, &[], &["problems.jsonl", "was made in another way"]);
}
