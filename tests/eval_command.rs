//! `orchestrator eval` as a person types it: the real binary on a tiny model that has learnt to answer, mostly wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/scripted.rs"]
#[allow(dead_code)]
mod scripted;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use orchestrator::config::VerifyConfig;
use orchestrator::store::{BenchmarkSampleRow, Reader};
use orchestrator::types::{FinishReason, Verdict};
use scripted::{Reply, Scripted};
use serde_json::{Value, json};
use sqlx::Row;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};

/// Answers of one digit end in time, those of two do not.
const MAX_TOKENS: &str = "11";

const CONFIG: &str = r#"
[run]
model = "unused"
[prompt]
kind = "plain"
format = "{problem}\nAnswer:"
stop = ["\n"]
max_tokens = 128
[inference]
engine = "embedded"
cache_mib = 64
[train]
device = "cpu"
dtype = "float32"
threads = 1
"#;

fn orchestrator() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrator"));
    command.stdin(Stdio::null()).env_remove("COLUMNS");
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn succeed(output: Output) -> Output {
    assert!(output.status.success(), "{}", stderr(&output));
    output
}

/// A folder with two problem files, a configuration and a model; nothing writes to the model.
static SHARED: LazyLock<PathBuf> = LazyLock::new(|| {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("eval-command");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("config.toml"), CONFIG).unwrap();
    // Every question has several answers, so that samples differ; one of them is long, one is none.
    let answers = [" \\boxed{2}", " \\boxed{3}", " \\boxed{5}", " \\boxed{12}", " who knows"];
    let examples: Vec<Value> = (0..200)
        .map(|i| json!({"problem": format!("What is {} + {}?", i % 4 + 1, i / 4 % 4 + 1), "solution": answers[i * 7 / 3 % 5]}))
        .collect();
    write_lines(&dir.join("examples.jsonl"), &examples);
    let problems = |sums: &[(i32, i32)]| -> Vec<Value> {
        let line = |&(a, b): &(i32, i32)| json!({"id": format!("{a}{b}"), "problem": format!("What is {a} + {b}?"), "answer": (a + b).to_string()});
        sums.iter().map(line).collect()
    };
    write_lines(&dir.join("one.jsonl"), &problems(&[(1, 1), (1, 2), (2, 1), (2, 2), (2, 3)]));
    write_lines(&dir.join("two.jsonl"), &problems(&[(1, 1), (1, 4), (3, 2)]));
    let path = |name: &str| dir.join(name).display().to_string();
    let init = ["model", "init", "--seed", "3", "--layers", "2", "--out", &path("start")];
    succeed(orchestrator().args(init).output().unwrap());
    let sft = ["sft", "--model", &path("start"), "--data", &path("examples.jsonl"), "--config", &path("config.toml")];
    let how = ["--out", &path("model"), "--epochs", "4", "--batch", "8", "--learning-rate", "5e-3"];
    succeed(orchestrator().args(sft).args(how).output().unwrap());
    dir
});

fn write_lines(path: &Path, lines: &[Value]) {
    std::fs::write(path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
}

fn shared(name: &str) -> String {
    SHARED.join(name).display().to_string()
}

/// A place of its own for what a test writes.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Home {
        Home(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `eval` of the model on these files, started here.
    fn eval(&self, files: &[&str], options: &[&str]) -> Command {
        let mut command = orchestrator();
        command.current_dir(self.0.path()).arg("eval").arg(shared("model")).args(files.iter().map(|file| shared(file)));
        command.args(["--config", &shared("config.toml"), "--max-tokens", MAX_TOKENS]).args(options);
        command
    }

    /// What it says as JSON; it has to succeed.
    fn figures(&self, files: &[&str], options: &[&str]) -> Value {
        let output = succeed(self.eval(files, options).args(["--json", "-"]).output().unwrap());
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn database(&self, out: &str) -> PathBuf {
        self.path(out).join("orchestrator.sqlite")
    }
}

async fn open(database: &Path) -> SqlitePool {
    let options = SqliteConnectOptions::new().filename(database).read_only(true);
    SqlitePoolOptions::new().connect_with(options).await.unwrap()
}

async fn samples(database: &Path) -> Vec<BenchmarkSampleRow> {
    let reader = Reader::open(database).await.unwrap();
    let row = reader.latest_benchmark().await.unwrap().unwrap();
    reader.benchmark_samples(row.benchmark_id).await.unwrap()
}

/// Samples that are recorded; 0 where there is no database yet.
async fn count(database: &Path) -> usize {
    let Ok(reader) = Reader::open(database).await else { return 0 };
    match reader.latest_benchmark().await {
        Ok(Some(row)) => reader.benchmark_samples(row.benchmark_id).await.unwrap().len(),
        _ => 0,
    }
}

#[track_caller]
fn near(found: &Value, expected: f64) {
    let found = found.as_f64().unwrap();
    assert!((found - expected).abs() < 1e-9, "{found} instead of {expected}");
}

/// The cells of the table's line for `file`, columns being two spaces apart.
fn cells(table: &str, file: &str) -> Vec<String> {
    let line = table.lines().find(|line| line.starts_with(&format!("{file} "))).unwrap_or_else(|| panic!("{table}"));
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
}

#[tokio::test]
async fn table_json_and_database_agree() {
    let home = Home::new();
    let options = ["--samples", "6", "--out", "here", "--json", "figures.json"];
    let output = succeed(home.eval(&["one.jsonl", "two.jsonl"], &options).output().unwrap());
    let table = String::from_utf8(output.stdout).unwrap();
    let json: Value = serde_json::from_slice(&std::fs::read(home.path("figures.json")).unwrap()).unwrap();
    let samples = samples(&home.database("here")).await;
    assert_eq!(samples.len(), 48);

    // From the samples by hand.
    let mut means = Vec::new();
    for (file, sizes) in [(1, 5), (2, 3)] {
        let own: Vec<_> = samples.iter().filter(|sample| sample.file_id == file).collect();
        let share = |holds: &dyn Fn(&BenchmarkSampleRow) -> bool| {
            own.iter().filter(|sample| holds(sample)).count() as f64 / own.len() as f64
        };
        let figures = &json["files"][file as usize - 1];
        let pass = share(&|sample| sample.verdict == Verdict::Correct);
        near(&figures["pass_at_1"], pass);
        near(&figures["pass_at"]["1"], pass);
        near(&figures["majority_at"]["1"], pass);
        near(&figures["truncated_frac"], share(&|sample| sample.finish_reason == FinishReason::Length));
        near(&figures["no_answer_frac"], share(&|sample| sample.verdict == Verdict::NoAnswer));
        let solved =
            (0..sizes).filter(|&place| own.iter().any(|s| s.ordinal == place && s.verdict == Verdict::Correct));
        near(&figures["pass_at"]["6"], solved.count() as f64 / f64::from(sizes));
        near(&figures["tokens_mean"], own.iter().map(|s| s.token_count as f64).sum::<f64>() / own.len() as f64);
        assert_eq!(figures["by_problem"].as_array().unwrap().len(), sizes as usize);
        let [low, high] = [0, 1].map(|end| figures["pass_at_1_interval"][end].as_f64().unwrap());
        assert!(low <= pass && pass <= high && low < high, "{low} {pass} {high}");
        means.push(pass);
    }
    near(&json["mean"]["pass_at_1"], (means[0] + means[1]) / 2.0);
    // The model is neither always right nor always wrong, nor always ready in time: the figures above say something.
    let figures = &json["files"][0];
    for figure in ["pass_at_1", "truncated_frac", "no_answer_frac"] {
        let value = figures[figure].as_f64().unwrap();
        assert!(value > 0.0 && value < 1.0, "{figure} is {value}");
    }
    let at = |values: &Value, k: &str| values[k].as_f64().unwrap();
    assert!(at(&figures["pass_at"], "1") < at(&figures["pass_at"], "2"));
    assert!(at(&figures["pass_at"], "2") < at(&figures["pass_at"], "4"));

    for (name, figures) in [("one", &json["files"][0]), ("two", &json["files"][1]), ("mean", &json["mean"])] {
        let percent = |value: &Value| format!("{:.1} %", 100.0 * value.as_f64().unwrap());
        let cells = cells(&table, name);
        assert_eq!(
            cells[1..4],
            [figures["problems"].to_string(), figures["samples"].to_string(), percent(&figures["pass_at_1"])]
        );
        assert_eq!(cells[5], percent(&figures["pass_at"]["2"]), "{table}");
        assert_eq!(cells[7], percent(&figures["pass_at"]["6"]), "{table}");
        assert_eq!(cells[10], percent(&figures["majority_at"]["6"]), "{table}");
        assert_eq!(cells[11], percent(&figures["truncated_frac"]), "{table}");
    }

    let pool = open(&home.database("here")).await;
    let rows = sqlx::query("select * from benchmark_result").fetch_all(&pool).await.unwrap();
    assert_eq!(rows.len(), 2 * 2 * 4, "pass and majority at 1, 2, 4 and 6 for two files");
    for row in rows {
        let (file, k): (i64, i64) = (row.get("file_id"), row.get("k"));
        let figures = &json["files"][file as usize - 1];
        near(&figures[format!("{}_at", row.get::<String, _>("metric"))][k.to_string()], row.get("value"));
        if let Some(low) = row.get::<Option<f64>, _>("low") {
            near(&figures["pass_at_1_interval"][0], low);
        }
    }
    let rows = sqlx::query("select * from benchmark_summary order by file_id").fetch_all(&pool).await.unwrap();
    for (row, figures) in rows.iter().zip(json["files"].as_array().unwrap()) {
        assert_eq!(figures["file"], row.get::<String, _>("file"));
        assert_eq!(row.get::<i64, _>("missing_count"), 0);
        for (column, figure) in
            [("pass_at_1", "pass_at_1"), ("truncated_frac", "truncated_frac"), ("tokens_mean", "tokens_mean")]
        {
            near(&figures[figure], row.get(column));
        }
    }
    let ended: Option<i64> = sqlx::query_scalar("select ended_at_ms from benchmark").fetch_one(&pool).await.unwrap();
    assert!(ended.is_some());
}

/// Enough samples for a process to be killed among them.
const MANY: [&str; 2] = ["--samples", "400"];

/// Waits until `wanted` samples are recorded; false if the process ended first.
async fn reach(database: &Path, child: &mut Child, wanted: usize) -> bool {
    let deadline = Instant::now() + Duration::from_secs(120);
    while count(database).await < wanted {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(Instant::now() < deadline, "no {wanted} samples");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    true
}

#[tokio::test]
async fn a_killed_benchmark_goes_on_and_ends_as_if_nothing_had_happened() {
    let home = Home::new();
    let files = ["one.jsonl", "two.jsonl"];
    let unbroken = home.figures(&files, &[&MANY[..], &["--out", "unbroken"]].concat());
    let options = [&MANY[..], &["--out", "killed"]].concat();
    let database = home.database("killed");
    let mut kills = 0;
    for wanted in [1, 300, 900, 1700] {
        let mut child = home.eval(&files, &options).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        if reach(&database, &mut child, wanted).await {
            child.kill().unwrap();
            kills += usize::from(!child.wait().unwrap().success());
        }
    }
    let before = count(&database).await;
    assert!(kills >= 2 && before < 3200, "{kills} kills, {before} samples");
    assert_eq!(home.figures(&files, &options), unbroken);
    let texts = |pool: SqlitePool| async move {
        let sql = "select group_concat(file_id || ordinal || sample || text || verdict, '|') from
                   (select * from benchmark_sample order by file_id, ordinal, sample)";
        sqlx::query_scalar::<_, String>(sql).fetch_one(&pool).await.unwrap()
    };
    assert!(texts(open(&database).await).await == texts(open(&home.database("unbroken")).await).await);
}

#[tokio::test]
async fn an_interrupt_keeps_what_is_there_and_says_how_to_go_on() {
    let home = Home::new();
    let options = [&MANY[..], &["--out", "stopped"]].concat();
    let mut command = home.eval(&["one.jsonl"], &options);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    assert!(reach(&home.database("stopped"), &mut child, 1).await, "over before it was interrupted");
    let process = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(output.stdout.is_empty());
    let said = stderr(&output);
    assert!(
        said.contains("samples are still to come; the others are kept in stopped: the same command goes on"),
        "{said}"
    );
    let kept = count(&home.database("stopped")).await;
    assert!((1..2000).contains(&kept), "{kept}");
    let unbroken = home.figures(&["one.jsonl"], &[&MANY[..], &["--out", "unbroken"]].concat());
    assert_eq!(home.figures(&["one.jsonl"], &options), unbroken);
}

#[test]
fn the_same_command_finds_its_folder_and_asks_for_nothing_twice() {
    let home = Home::new();
    let options = ["--samples", "2", "--limit", "2"];
    let first = succeed(home.eval(&["one.jsonl"], &options).output().unwrap());
    let folders = || -> Vec<String> {
        let entries = std::fs::read_dir(home.path("evals")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert!(matches!(&folders()[..], [name] if name.starts_with("model-")), "{:?}", folders());
    assert!(stderr(&first).contains("loading the model"));
    let again = succeed(home.eval(&["one.jsonl"], &options).output().unwrap());
    assert_eq!(again.stdout, first.stdout);
    assert!(!stderr(&again).contains("loading the model"), "{}", stderr(&again));
    succeed(home.eval(&["one.jsonl"], &options).args(["--seed", "2"]).output().unwrap());
    assert_eq!(folders().len(), 2, "another seed is another benchmark");
}

#[tokio::test]
async fn what_nothing_was_known_of_is_judged_again() {
    let home = Home::new();
    let options = ["--samples", "3", "--out", "here"];
    let figures = home.figures(&["one.jsonl"], &options);
    let database = home.database("here");
    let before = samples(&database).await;
    // As if nobody could have been asked, and one text could not be decoded.
    let pool = SqlitePool::connect(&format!("sqlite:{}", database.display())).await.unwrap();
    for (sql, count) in [
        (
            "update benchmark_sample set verdict = 'undecided', decided_by = 'nothing', answer = null where sample = 0",
            5,
        ),
        ("update benchmark_sample set verdict = 'error', decided_by = 'nothing' where sample = 1 and ordinal = 2", 1),
        (
            "update benchmark_sample set verdict = 'error', decided_by = 'nothing', answer = null, text = ''
             where sample = 2 and ordinal = 3",
            1,
        ),
    ] {
        assert_eq!(sqlx::query(sql).execute(&pool).await.unwrap().rows_affected(), count);
    }
    pool.close().await;
    let output = succeed(home.eval(&["one.jsonl"], &options).args(["--json", "-"]).output().unwrap());
    assert!(!stderr(&output).contains("loading the model"), "nothing is sampled: {}", stderr(&output));
    let again: Value = serde_json::from_slice(&output.stdout).unwrap();
    let after = samples(&database).await;
    let lost = |sample: &BenchmarkSampleRow| (sample.ordinal, sample.sample) == (3, 2);
    for (before, after) in before.iter().zip(&after) {
        if lost(before) {
            assert_eq!((after.verdict, &after.answer), (Verdict::Error, &None));
        } else {
            assert_eq!(before, after);
        }
    }
    assert_eq!(again["files"][0]["errors"], 1);
    let same = |figures: &Value| figures["files"][0]["by_problem"].as_array().unwrap()[..3].to_vec();
    assert_eq!(same(&again), same(&figures));
}

#[test]
fn a_problem_has_the_same_samples_in_any_company() {
    let home = Home::new();
    let alone = home.figures(&["two.jsonl"], &["--samples", "5", "--out", "alone"]);
    let beside = home.figures(&["one.jsonl", "two.jsonl"], &["--samples", "5", "--out", "beside"]);
    assert_eq!(alone["files"][0], beside["files"][1]);
    assert_eq!(alone["mean"], Value::Null);
}

#[test]
fn the_first_problems_and_greedy_answers() {
    let home = Home::new();
    let figures = home.figures(&["one.jsonl", "two.jsonl"], &["--samples", "2", "--limit", "2", "--out", "two"]);
    for file in figures["files"].as_array().unwrap() {
        assert_eq!((&file["problems"], &file["samples"]), (&json!(2), &json!(4)));
    }
    let greedy = ["--samples", "4", "--temperature", "0", "--out", "greedy", "--json", "-"];
    let output = succeed(home.eval(&["one.jsonl"], &greedy).output().unwrap());
    assert!(stderr(&output).contains("temperature 0: all answers to a problem are the same, so one sample is taken"));
    let figures: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&figures["samples_per_problem"], &figures["files"][0]["samples"]), (&json!(1), &json!(5)));
    assert_eq!(figures["files"][0]["pass_at"].as_object().unwrap().len(), 1);
}

#[track_caller]
fn refused(output: &Output, words: &[&str]) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(output.stdout.is_empty());
    assert_eq!(said.matches("error: ").count(), 1, "{said}");
    for word in words {
        assert!(said.contains(word), "`{word}` is not in\n{said}");
    }
}

#[test]
fn what_changes_results_cannot_change_under_a_benchmark() {
    let home = Home::new();
    let options = ["--samples", "2", "--out", "begun"];
    succeed(home.eval(&["one.jsonl"], &options).output().unwrap());
    let hint = "hint: give the same settings to go on with it, or another folder (`--out`) for a new one";
    let check = |command: &mut Command, change: &str| {
        let output = command.output().unwrap();
        refused(&output, &["error: the benchmark in `begun` was begun otherwise: ", change, hint]);
        assert_eq!(stderr(&output).matches(" was ").count(), 2, "one change is named: {}", stderr(&output));
    };
    check(
        home.eval(&["one.jsonl"], &["--samples", "3", "--out", "begun"]).args(["--seed", "1"]),
        "`--samples` was `2` and is `3`",
    );
    check(home.eval(&["one.jsonl"], &options).args(["--top-p", "0.9"]), "`--top-p` was `0.95` and is `0.9`");
    check(home.eval(&["one.jsonl"], &options).args(["--limit", "1"]), "`--limit` was `0` and is `1`");
    check(&mut home.eval(&["two.jsonl"], &options), "`problem file 1` was `one ");
    check(
        home.eval(&["one.jsonl"], &options).args(["--set", "prompt.stop=[\"x\"]"]),
        "`prompt.stop` was `[\"\\n\"]` and is `[\"x\"]`",
    );
    let other = home.path("model");
    let init = ["model", "init", "--seed", "4", "--layers", "2", "--out"];
    succeed(orchestrator().args(init).arg(&other).output().unwrap());
    let mut command = orchestrator();
    command.current_dir(home.0.path()).arg("eval").arg(&other).arg(shared("one.jsonl"));
    command.args(["--config", &shared("config.toml"), "--max-tokens", MAX_TOKENS]).args(options);
    check(&mut command, "`weights of the model` was `");
    check(
        home.eval(&["one.jsonl"], &options).args(["--set", "verify.timeout_s=7"]),
        &format!("`verify.timeout_s` was `{}` and is `7`", VerifyConfig::default().timeout_s),
    );
    // Where and how fast it runs may change.
    let free = ["--set", "inference.cache_mib=32", "--set", "train.threads=2", "--set", "verify.workers=3"];
    succeed(home.eval(&["one.jsonl"], &options).args(free).output().unwrap());
}

#[test]
fn what_cannot_be_measured_is_said_with_a_way_out() {
    let home = Home::new();
    let bad = home.path("bad.jsonl");
    std::fs::write(
        &bad,
        "{\"id\": \"a\", \"problem\": \"p\", \"answer\": \"1\"}\n{\"id\": \"b\", \"problem\": \"q\"}\n",
    )
    .unwrap();
    let mut command = home.eval(&["one.jsonl"], &["--samples", "2"]);
    let output = command.arg(&bad).output().unwrap();
    refused(
        &output,
        &["bad.jsonl` has 1 bad line", "line 2: `answer` is missing", "hint: a problem is one JSON object a line"],
    );

    let mut command = orchestrator();
    command.current_dir(home.0.path()).args(["eval", "nowhere"]).arg(shared("one.jsonl")).args(["--max-tokens", "10"]);
    refused(
        &command.output().unwrap(),
        &["the model `nowhere`", "hint: it has to be a folder in the Hugging Face layout"],
    );

    let too_long = ["--max-tokens", "2048", "--samples", "2"];
    let mut command = orchestrator();
    command.current_dir(home.0.path()).arg("eval").arg(shared("model")).arg(shared("one.jsonl")).args(too_long);
    let message = "and an answer of up to 2048 do not fit the model's context of 2048 tokens";
    refused(&command.output().unwrap(), &[message, "hint: `--max-tokens ", "` is the most that fits"]);

    let idle = home.eval(&["one.jsonl"], &["--set", "search.width=3"]).output().unwrap();
    refused(
        &idle,
        &["`--set search.width=3` has no effect on `eval`", "hint: it reads `prompt`, `verify`, `inference`"],
    );
    for wrong in [
        ["--samples", "0"],
        ["--temperature", "-1"],
        ["--top-p", "0"],
        ["--max-tokens", "0"],
        ["--limit", "0"],
        ["--served-model", "m"],
    ] {
        let output = home.eval(&["one.jsonl"], &[]).args(wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(stderr(&output).contains(wrong[0].trim_start_matches("--")), "{}", stderr(&output));
    }
    assert!(!home.path("evals").join("nowhere").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_server_is_measured_with_what_it_holds() {
    let home = Home::new();
    let server = Scripted::start().await;
    // The scripted server's own vocabulary is too small for this model.
    let hold = |digest: &str, times: usize| {
        let state = json!({"protocol": 1, "version": 3, "digest": digest, "intact": true, "max_num_seqs": 8,
            "vocab_size": 512, "logprobs_mode": "processed_logprobs"});
        server.script("rpc:ds_state", vec![Reply::Json(200, json!({"results": [state]})); times]);
    };
    // Greeted, asked before the first sample and after the last.
    hold("digest-3", 3);
    server.script("/v1/completions", [Reply::Json(400, json!({"error": {"message": "not this one"}}))]);
    let eval = |options: &[&str]| {
        let mut command = orchestrator();
        command.current_dir(home.0.path()).arg("eval").arg(shared("model")).arg(shared("two.jsonl"));
        command.args(["--server", &server.url, "--samples", "2", "--out", "served", "--set", "prompt.kind=plain"]);
        command.args(options).output().unwrap()
    };
    let output = succeed(eval(&["--max-tokens", "8", "--json", "-"]));
    let figures: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&figures["engine"], &figures["weights_digest"]), (&json!("vllm 0.26.0"), &json!("digest-3")));
    assert_eq!((&figures["files"][0]["samples"], &figures["files"][0]["missing"]), (&json!(5), &json!(1)));
    let said = stderr(&output);
    assert!(said.contains("warning: 1 samples were refused by the server and are missing"), "{said}");
    let asked = server.seen("/v1/completions");
    assert!(asked.iter().all(|body| body["temperature"] == 0.6 && body["top_p"] == 0.95 && body["max_tokens"] == 8));

    // What is missing is only asked of the same weights.
    hold("digest-4", 2);
    refused(&eval(&["--max-tokens", "8"]), &["`weights of the server` was `digest-3` and is `digest-4`"]);
    hold("digest-3", 3);
    let table = String::from_utf8(succeed(eval(&["--max-tokens", "8"])).stdout).unwrap();
    assert_eq!(cells(&table, "two")[2], "6", "{table}");

    let other = ["--max-tokens", "8", "--served-model", "other", "--seed", "2", "--limit", "1"];
    let mut options = other.to_vec();
    options.extend(["--out", "other"]);
    let mut command = orchestrator();
    command.current_dir(home.0.path()).arg("eval").arg(shared("model")).arg(shared("two.jsonl"));
    let output = command.args(["--server", &server.url, "--set", "prompt.kind=plain"]).args(options).output().unwrap();
    let said = stderr(&output);
    assert!(!output.status.success() && said.contains("it does not serve `other`"), "{said}");
    assert!(said.contains("hint: it serves `policy`"), "{said}");
    let mut command = orchestrator();
    command.current_dir(home.0.path()).arg("eval").arg(shared("model")).arg(shared("two.jsonl"));
    command.args(["--server", &server.url, "--set", "prompt.kind=plain", "--max-tokens", "600"]);
    refused(&command.output().unwrap(), &["do not fit the model's context of 512 tokens", "is the most that fits"]);
}
