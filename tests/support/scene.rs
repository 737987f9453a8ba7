//! A folder in which `orchestrator run` can be started as a person starts it: a tiny random model, made-up problems, a
//! configuration; and what its database holds, to compare runs by.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};

/// The program.
pub fn orchestrator() -> Command {
    Command::new(env!("CARGO_BIN_EXE_orchestrator"))
}

/// Fails with all that the program said unless it ended well.
pub fn succeed(output: &Output) {
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{error}", output.status);
}

/// What generates.
pub enum Engine {
    /// In the process itself, on two threads. No Python can be found then.
    Embedded,
    /// A vLLM server that the run launches with this Python.
    Vllm {
        /// The interpreter.
        python: PathBuf,
    },
    /// A server that runs at this address.
    Running {
        /// Base URL.
        url: String,
    },
}

/// A folder with a model, problems and a configuration; runs are folders in it.
pub struct Scene {
    dir: tempfile::TempDir,
    engine: Engine,
    sets: Vec<String>,
}

impl Scene {
    /// `sets` hold for every run of the scene, before its own.
    pub fn new(engine: Engine, steps: u32, sets: &[&str]) -> Scene {
        let sets = sets.iter().map(|&set| set.to_owned()).collect();
        let scene = Scene { dir: tempfile::tempdir().unwrap(), engine, sets };
        let (model, count): (&[&str], u32) = match &scene.engine {
            Engine::Embedded => (&["--std", "0.1", "--layers", "8"], 24),
            Engine::Vllm { .. } | Engine::Running { .. } => (&[], 12),
        };
        let init = ["model", "init", "--seed", "3"];
        succeed(&orchestrator().args(init).args(model).arg("--out").arg(scene.path("model")).output().unwrap());
        scene.make_problems("problems.jsonl", count, 5);
        std::fs::write(scene.path("config.toml"), scene.config(steps)).unwrap();
        scene
    }

    fn config(&self, steps: u32) -> String {
        let (batch, trajectories, inference, train) = match &self.engine {
            Engine::Embedded => (
                12,
                4,
                "engine = \"embedded\"".to_owned(),
                "threads = 2\nminibatch_problems = 4\nlearning_rate = 1e-3\nwarmup_steps = 0",
            ),
            Engine::Vllm { python } => (
                4,
                3,
                format!(
                    "launch = true\ncommand = [\"{}\"]\ndtype = \"float32\"\ndevice = \"cpu\"\ncpu_kv_cache_gib = 1",
                    python.display()
                ),
                "minibatch_problems = 2",
            ),
            Engine::Running { url } => (
                4,
                3,
                format!("urls = [\"{url}\"]\nhealth_check_s = 1\nretry_timeout_s = 3\nreload_timeout_s = 30"),
                "minibatch_problems = 2\nlearning_rate = 1e-3\nwarmup_steps = 0",
            ),
        };
        format!(
            r#"
[run]
name = "test"
model = "{model}"
steps = {steps}
problems_per_step = {batch}
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
trajectories = {trajectories}
[inference]
max_model_tokens = 512
{inference}
[train]
device = "cpu"
dtype = "float32"
overlong_buffer_tokens = 0
drop_defective = false # a random model writes nothing else
{train}
"#,
            model = self.path("model").display(),
            problems = self.path("problems.jsonl").display(),
        )
    }

    /// A file of `count` made-up problems.
    pub fn make_problems(&self, name: &str, count: u32, seed: u32) -> PathBuf {
        let (path, count, seed) = (self.path(name), count.to_string(), seed.to_string());
        let generate = ["problems", "generate", "--count", &count, "--seed", &seed, "--out"];
        succeed(&orchestrator().args(generate).arg(&path).output().unwrap());
        path
    }

    /// Solutions of the first `count` problems for the run `name`: what a random model would never find.
    pub fn import_solutions(&self, name: &str, count: usize) {
        let problems = std::fs::read_to_string(self.path("problems.jsonl")).unwrap();
        let mut lines = String::new();
        for line in problems.lines().take(count) {
            let mut problem: serde_json::Value = serde_json::from_str(line).unwrap();
            problem["solution"] = format!(" \\boxed{{{}}}", problem["answer"].as_str().unwrap()).into();
            lines += &format!("{problem}\n");
        }
        let file = self.path("solutions.jsonl");
        std::fs::write(&file, lines).unwrap();
        let mut import = orchestrator();
        import.args(["solutions", "import"]).arg(self.path(name)).arg("--from").arg(&file);
        succeed(&import.arg("--config").arg(self.path("config.toml")).output().unwrap());
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The database of the run `name`.
    pub fn database(&self, name: &str) -> PathBuf {
        self.path(name).join("orchestrator.sqlite")
    }

    /// The newest weights of the first run in the folder `name`.
    pub fn weights(&self, name: &str) -> Vec<u8> {
        let versions = self.path(name).join("run-1/weights");
        let newest = std::fs::read_dir(versions).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
        std::fs::read(newest.join("model.safetensors")).unwrap()
    }

    /// Arguments of a run in the folder `name`.
    pub fn run_args(&self, name: &str, sets: &[&str]) -> Vec<String> {
        let mut args = vec!["run".to_owned(), "--config".to_owned(), self.path("config.toml").display().to_string()];
        let dir = format!("run.dir={}", self.path(name).display());
        for set in self.sets.iter().map(String::as_str).chain([dir.as_str()]).chain(sets.iter().copied()) {
            args.extend(["--set".to_owned(), set.to_owned()]);
        }
        args
    }

    /// Arguments that go on with the run in the folder `name`.
    pub fn resume_args(&self, name: &str) -> Vec<String> {
        vec!["run".to_owned(), "--resume".to_owned(), self.path(name).display().to_string()]
    }

    /// `command`, started from a folder that is not the project's.
    pub fn at_home(&self, mut command: Command) -> Command {
        command.current_dir(self.dir.path());
        if !matches!(self.engine, Engine::Vllm { .. }) {
            command.env("PATH", "/nonexistent");
        }
        command
    }

    /// The program with these arguments, to its end.
    pub fn output(&self, args: &[String]) -> Output {
        let mut command = self.at_home(orchestrator());
        command.args(args).output().unwrap()
    }

    /// The program with these arguments, to be killed; nobody hears what it says.
    pub fn start(&self, args: &[String]) -> Child {
        let mut command = self.at_home(orchestrator());
        command.args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Runs in the folder `name`.
    pub fn run(&self, name: &str, sets: &[&str]) -> Output {
        self.output(&self.run_args(name, sets))
    }

    /// Starts a run in the folder `name`.
    pub fn spawn(&self, name: &str, sets: &[&str]) -> Child {
        self.start(&self.run_args(name, sets))
    }

    /// Goes on with the run in the folder `name`.
    pub fn resume(&self, name: &str) -> Output {
        self.output(&self.resume_args(name))
    }
}

/// Rows of every table.
pub type Content = BTreeMap<String, Vec<String>>;

/// What differs between two runs that are the same: times, where they lie, and what the engine had to do for it.
fn is_incidental(table: &str, column: &str) -> bool {
    column.ends_with("_ms")
        || matches!((table, column), ("run", "config_toml" | "config_sha256") | ("weight_version", "path"))
}

async fn open(database: &Path) -> SqlitePool {
    let options = SqliteConnectOptions::new().filename(database).read_only(true);
    SqlitePoolOptions::new().connect_with(options).await.unwrap()
}

/// Every row of every table in the order in which it was stored, without what is incidental.
pub async fn content(database: &Path) -> Content {
    rows(database, |column| column.to_owned()).await
}

/// The same whatever order the rows were stored in: trees are named by step and slot, solutions by their tokens.
pub async fn content_in_any_order(database: &Path) -> Content {
    let mut content = rows(database, |column| match column {
        "tree_id" => "(select t.step_id || '/' || t.slot from tree t where t.tree_id = row.tree_id)".to_owned(),
        "solution_id" => "(select s.tokens_sha256 from solution s where s.solution_id = row.solution_id)".to_owned(),
        other => other.to_owned(),
    })
    .await;
    content.values_mut().for_each(|rows| rows.sort());
    content
}

/// `expression` is what is selected for a column.
async fn rows(database: &Path, expression: impl Fn(&str) -> String) -> Content {
    let pool = open(database).await;
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
            .map(|column| format!("'{column}=' || quote({})", expression(column)))
            .collect();
        let without = if table == "metric" {
            "where name not like '%\\_s' escape '\\' and name not like 'engine\\_%' escape '\\'"
        } else {
            ""
        };
        let sql = format!("select {} from {table} row {without}", kept.join(" || ' ' || "));
        let rows: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(&pool).await.unwrap();
        content.insert(table, rows);
    }
    content
}

/// One number.
pub async fn content_of(database: &Path, sql: &'static str) -> f64 {
    sqlx::query_scalar(sql).fetch_one(&open(database).await).await.unwrap()
}

pub fn assert_same(a: &Content, b: &Content, what: &str) {
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (table, rows) in a {
        for (index, (row, other)) in rows.iter().zip(&b[table]).enumerate() {
            assert_eq!(row, other, "{what}: row {index} of `{table}`");
        }
        assert_eq!(rows.len(), b[table].len(), "{what}: rows of `{table}`");
    }
}
