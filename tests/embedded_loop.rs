//! `orchestrator run` with the embedded engine, as a person starts it: no server, and the same run again for the same
//! seed, down to the last bit of the weights.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

fn orchestrator() -> Command {
    Command::new(env!("CARGO_BIN_EXE_orchestrator"))
}

fn succeed(output: &Output) {
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{error}", output.status);
}

/// A folder with a tiny model, problems and a configuration.
struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Scene {
        let scene = Scene { dir: tempfile::tempdir().unwrap() };
        let model = ["model", "init", "--seed", "3", "--std", "0.1", "--layers", "8", "--out"];
        succeed(&orchestrator().args(model).arg(scene.path("model")).output().unwrap());
        let problems = scene.path("problems.jsonl");
        let generate = ["problems", "generate", "--count", "24", "--seed", "5", "--out"];
        succeed(&orchestrator().args(generate).arg(&problems).output().unwrap());
        let config = format!(
            r#"
[run]
name = "test"
model = "{model}"
steps = 3
problems_per_step = 12
keep_every = 0
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
trajectories = 4
[inference]
engine = "embedded"
max_model_tokens = 512
[train]
device = "cpu"
dtype = "float32"
threads = 2
minibatch_problems = 4
overlong_buffer_tokens = 0
learning_rate = 1e-3
warmup_steps = 0
"#,
            model = scene.path("model").display(),
            problems = problems.display(),
        );
        std::fs::write(scene.path("config.toml"), config).unwrap();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs in the folder `name`, from a folder that is not the project's and without a Python to be found.
    fn run(&self, name: &str, sets: &[&str]) -> Output {
        let mut command = orchestrator();
        command.current_dir(self.dir.path()).env("PATH", "/nonexistent").arg("run");
        command.arg("--config").arg(self.path("config.toml"));
        command.arg("--set").arg(format!("run.dir={}", self.path(name).display()));
        for set in sets {
            command.args(["--set", set]);
        }
        command.output().unwrap()
    }
}

/// What differs between two runs that are the same: times, where they lie, and what the engine had to do for it.
fn is_incidental(table: &str, column: &str) -> bool {
    column.ends_with("_ms")
        || matches!((table, column), ("run", "config_toml" | "config_sha256") | ("weight_version", "path"))
}

/// Every row of every table in the order in which it was stored, without what is incidental.
async fn content(database: &Path) -> BTreeMap<String, Vec<String>> {
    let options = SqliteConnectOptions::new().filename(database).read_only(true);
    let pool = SqlitePoolOptions::new().connect_with(options).await.unwrap();
    let tables: Vec<String> = sqlx::query_scalar(
        "select name from sqlite_master where type = 'table' and name not like 'sqlite_%' and name not like '_sqlx_%'",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    let mut content = BTreeMap::new();
    for table in tables {
        let columns: Vec<String> =
            sqlx::query_scalar("select name from pragma_table_info(?)").bind(&table).fetch_all(&pool).await.unwrap();
        let kept: Vec<String> = columns
            .iter()
            .filter(|column| !is_incidental(&table, column))
            .map(|column| format!("'{column}=' || quote({column})"))
            .collect();
        let without = if table == "metric" {
            "where name not like '%\\_s' escape '\\' and name not like 'engine\\_%' escape '\\'"
        } else {
            ""
        };
        let sql = format!("select {} from {table} {without}", kept.join(" || ' ' || "));
        let rows: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(&pool).await.unwrap();
        content.insert(table, rows);
    }
    content
}

async fn content_of(database: &Path, sql: &'static str) -> f64 {
    let options = SqliteConnectOptions::new().filename(database).read_only(true);
    let pool = SqlitePoolOptions::new().connect_with(options).await.unwrap();
    sqlx::query_scalar(sql).fetch_one(&pool).await.unwrap()
}

fn assert_same(a: &BTreeMap<String, Vec<String>>, b: &BTreeMap<String, Vec<String>>, what: &str) {
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (table, rows) in a {
        for (index, (row, other)) in rows.iter().zip(&b[table]).enumerate() {
            assert_eq!(row, other, "{what}: row {index} of `{table}`");
        }
        assert_eq!(rows.len(), b[table].len(), "{what}: rows of `{table}`");
    }
}

#[tokio::test]
async fn the_same_seed_is_the_same_run_whatever_is_in_flight() {
    let scene = Scene::new();
    // As it is; again; one request at a time; so little memory that prefixes have to be computed again; one thread.
    let variants: [(&str, &[&str]); 5] = [
        ("first", &[]),
        ("again", &[]),
        ("alone", &["inference.max_sequences=3"]),
        ("forgetful", &["inference.cache_mib=1"]),
        ("one-thread", &["train.threads=1"]),
    ];
    for (name, sets) in variants {
        succeed(&scene.run(name, sets));
    }
    let database = |name: &str| scene.path(name).join("orchestrator.sqlite");
    let first = content(&database("first")).await;
    for table in ["tree", "node", "node_content", "trajectory", "step", "weight_version", "metric"] {
        assert!(!first[table].is_empty(), "`{table}` is empty");
    }
    assert_eq!(first["tree"].len(), 36);
    assert!(first["weight_version"].len() > 1, "the policy was never updated");
    let weights = |name: &str| {
        let versions = scene.path(name).join("run-1/weights");
        let newest = std::fs::read_dir(versions).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
        std::fs::read(newest.join("model.safetensors")).unwrap()
    };
    let bytes = weights("first");
    for (name, _) in &variants[1..4] {
        assert_same(&first, &content(&database(name)).await, name);
        assert!(bytes == weights(name), "{name}: the weights differ");
    }
    // Training sums in another order on another number of threads: the first search is the same, the update need not be.
    let one_thread = content(&database("one-thread")).await;
    let first_step = |content: &BTreeMap<String, Vec<String>>| -> Vec<String> {
        content["tree"].iter().filter(|row| row.contains("step_id=1 ")).cloned().collect()
    };
    assert_eq!(first_step(&first), first_step(&one_thread));
    assert!(first["node"][..200] == one_thread["node"][..200], "one thread samples something else");

    let evictions =
        content_of(&database("forgetful"), "select sum(value) from metric where name = 'engine_evictions'").await;
    assert!(evictions > 0.0, "the small memory was large enough: nothing was computed again");

    let other = scene.run("other", &["run.seed=2"]);
    succeed(&other);
    assert_ne!(first["node"], content(&database("other")).await["node"], "another seed gave the same trees");
}

#[tokio::test]
async fn a_cache_that_holds_no_request_is_refused_with_the_number_that_would() {
    let scene = Scene::new();
    let output = scene.run("run", &["inference.cache_mib=1", "search.width=64", "search.step_tokens=64"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("inference.cache_mib"), "{error}");
}
