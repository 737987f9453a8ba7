//! What a run gives to other programs, from a real run that is killed and goes on: its event files say what its database
//! says, once, and its weights come with a card that `huggingface_hub` and `transformers` read.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "helpers of a test")]

#[path = "support/events.rs"]
mod events;
#[path = "support/scene.rs"]
mod scene;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use events::{Board, read_board};
use orchestrator::run::tensorboard::metric_tag;
use orchestrator::store::Reader;
use orchestrator::types::RunId;
use scene::{Engine, Scene, orchestrator, succeed};
use sqlx::Row;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};

const STEPS: u32 = 4;

/// Two rounds with a filter, a measurement after every step, every second version of the weights kept.
fn scene() -> (Scene, String) {
    let scene = Scene::new(
        Engine::Embedded,
        STEPS,
        &[
            "run.problems_per_step=4",
            "run.keep_every=2",
            "run.checkpoint_every=1",
            "curriculum.rounds=2",
            "curriculum.filter=true",
            "curriculum.filter_samples=2",
            "curriculum.max_pass_rate=1.0",
            "eval.every=1",
            "eval.samples=2",
            "eval.temperature=1.0",
            "train.minibatch_problems=2",
        ],
    );
    let held_out = format!("eval.problems={}", scene.make_problems("held_out.jsonl", 4, 6).display());
    (scene, held_out)
}

async fn open(database: &Path) -> SqlitePool {
    SqlitePool::connect_with(SqliteConnectOptions::new().filename(database).read_only(true)).await.unwrap()
}

/// Begins a run and kills it once some of its steps are done. Returns false where it was over before.
async fn killed_half_way(scene: &Scene, name: &str, held_out: &str) -> bool {
    let mut child = scene.spawn(name, &[held_out]);
    let database = scene.database(name);
    let deadline = Instant::now() + Duration::from_secs(600);
    loop {
        if let Ok(reader) = Reader::open(&database).await
            && reader.done_steps(RunId(1)).await.is_ok_and(|steps| steps.len() >= 2)
        {
            break;
        }
        assert!(Instant::now() < deadline, "no step was done in time");
        assert!(child.try_wait().unwrap().is_none_or(|status| status.success()), "the run failed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let done = open(&database).await;
    let done: i64 =
        sqlx::query_scalar("select count(*) from step where status = 'done'").fetch_one(&done).await.unwrap();
    done < i64::from(STEPS)
}

/// What a board has to show, asked of the database in SQL of its own.
async fn expected(database: &Path) -> Board {
    let pool = open(database).await;
    let mut board = Board::default();
    let mut add = async |tag: String, sql: String| {
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&pool).await.unwrap();
        for row in rows {
            if let Some(value) = row.get::<Option<f64>, _>(1) {
                let points = board.entry(tag.clone()).or_default();
                points.push((u64::try_from(row.get::<i64, _>(0)).unwrap(), value as f32));
            }
        }
    };
    for (tag, column) in [
        ("train/loss", "loss"),
        ("train/grad_norm", "grad_norm"),
        ("train/clip_frac", "clip_frac"),
        ("train/entropy_nats", "entropy_nats"),
        ("train/trained_tokens", "trained_tokens"),
        ("train/packed_tokens", "packed_tokens"),
        ("train/groups_skipped", "skipped_group_count"),
        ("train/weight_version", "produced_weight_version"),
        ("ratio/mean", "ratio_mean"),
        ("ratio/p99", "ratio_p99"),
        ("ratio/outside_frac", "ratio_outside_frac"),
        ("ratio/nan_count", "ratio_nan_count"),
        ("rollout/reward", "mean_reward"),
        ("rollout/generated_tokens", "generated_tokens"),
        ("time/search_s", "search_ms / 1000.0"),
        ("time/train_s", "train_ms / 1000.0"),
        ("time/export_s", "export_ms / 1000.0"),
        ("time/reload_s", "reload_ms / 1000.0"),
        ("time/generated_tokens_per_s", "generated_tokens * 1000.0 / nullif(search_ms, 0)"),
    ] {
        add(tag.into(), format!("select step_id, cast({column} as real) from step where status = 'done' order by 1"))
            .await;
    }
    let trees = |value: &str| {
        format!(
            "select step_id, cast({value} as real) from tree join step using (run_id, step_id) where step.status = 'done' \
             group by step_id order by 1"
        )
    };
    add("rollout/trees".into(), trees("count(*)")).await;
    add("rollout/trees_solved".into(), trees("sum(is_solved)")).await;
    add("rollout/solved".into(), trees("avg(is_solved)")).await;
    add("rollout/trees_exhausted".into(), trees("sum(tree.status = 'exhausted')")).await;
    add("rollout/trees_failed".into(), trees("sum(tree.status = 'failed')")).await;
    add("rollout/trees_replayed".into(), trees("sum(kind = 'replay')")).await;
    let answers = |value: &str| {
        format!(
            "select step_id, cast({value} as real) from tree join trajectory using (tree_id) join step using (run_id, step_id) \
             where step.status = 'done' and provenance <> 'cached' group by step_id order by 1"
        )
    };
    add("rollout/response_tokens".into(), answers("avg(response_tokens)")).await;
    add("rollout/correct".into(), answers("avg(verdict = 'correct')")).await;
    add("rollout/undecided_answers".into(), "select step_id, 0.0 from step where status = 'done' order by 1".into())
        .await;
    for (tag, value) in [
        ("eval/pass@1/held_out", "pass_at_1"),
        ("eval/pass@2/held_out", "pass_at_k"),
        ("eval/response_tokens/held_out", "cast(generated_tokens as real) / problem_count / sample_count"),
    ] {
        add(tag.into(), format!("select step_id, {value} from evaluation order by 1")).await;
    }
    for (tag, value) in [
        ("curriculum/pass_rate", "s.pass_rate_mean"),
        ("curriculum/problems", "cast(s.candidate_count as real)"),
        ("curriculum/problems_hard", "cast(s.hard_count as real)"),
        ("curriculum/problems_cached", "cast(s.cached_count as real)"),
        ("curriculum/generated_tokens", "cast(s.generated_tokens as real)"),
    ] {
        let sql = "from round r join round_summary s on s.run_id = r.run_id and s.round_id = r.round_id order by 1";
        add(tag.into(), format!("select r.first_step_id - 1, {value} {sql}")).await;
    }
    let names: Vec<String> =
        sqlx::query_scalar("select distinct name from metric order by 1").fetch_all(&pool).await.unwrap();
    for name in names {
        add(metric_tag(&name), format!("select step_id, value from metric where name = '{name}' order by 1")).await;
    }
    board
}

fn assert_same(found: &Board, expected: &Board) {
    let names = |board: &Board| board.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected));
    for (tag, points) in expected {
        let bits =
            |points: &[(u64, f32)]| points.iter().map(|(step, value)| (*step, value.to_bits())).collect::<Vec<_>>();
        assert_eq!(bits(&found[tag]), bits(points), "{tag}: {:?} and {points:?}", found[tag]);
    }
}

/// The only event file in a folder.
fn event_file(folder: &Path) -> PathBuf {
    let files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.into_iter().next().unwrap()
}

/// A Python that can import `module`: the one that the variable names, or the project's.
fn python(variable: &str, module: &str) -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    let python = std::env::var_os(variable).map_or(own, PathBuf::from);
    let import = Command::new(&python).args(["-c", &format!("import {module}")]).output();
    if import.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    eprintln!("skipped: {} cannot import {module}", python.display());
    None
}

fn script(python: &Path, name: &str, argument: &Path) -> serde_json::Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(name);
    let output = Command::new(python).arg(script).arg(argument).output().unwrap();
    succeed(&output);
    let text = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

fn export(arguments: &[&str]) -> Output {
    orchestrator().arg("export").args(arguments).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_killed_is_shown_and_handed_on_whole() {
    let (scene, held_out) = scene();
    let was_killed = killed_half_way(&scene, "run", &held_out).await;
    let folder = scene.path("run/tensorboard/run-1");
    let database = scene.database("run");
    // A kill may leave half a record at the end; here it certainly does.
    if let Some(entry) = fs::read_dir(&folder).ok().and_then(|mut entries| entries.next()) {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
    }
    succeed(&scene.resume("run"));
    if !was_killed {
        eprintln!("the run was over before it could be killed");
    }

    board_says_what_the_database_says(&scene, &folder, &database).await;
    cards_are_there(&scene, &database).await;
}

async fn board_says_what_the_database_says(scene: &Scene, folder: &Path, database: &Path) {
    let expected = expected(database).await;
    for tag in ["train/loss", "rollout/solved", "eval/pass@1/held_out", "time/step_s", "curriculum/pass_rate"] {
        assert!(expected.contains_key(tag), "the run has no `{tag}`");
    }
    assert_eq!(expected["rollout/solved"].len(), STEPS as usize);
    assert_eq!(expected["eval/pass@1/held_out"].len(), STEPS as usize + 1);
    let live = read_board(&event_file(folder));
    assert_same(&live, &expected);

    // Any earlier run, the same bytes each time.
    let (run, out) = (scene.path("run"), scene.path("board"));
    let arguments = ["tensorboard", run.to_str().unwrap(), "--out", out.to_str().unwrap()];
    succeed(&export(&arguments));
    let first = fs::read(event_file(&out.join("run-1"))).unwrap();
    assert_same(&read_board(&event_file(&out.join("run-1"))), &expected);
    succeed(&export(&arguments));
    assert!(first == fs::read(event_file(&out.join("run-1"))).unwrap(), "the second export differs");
    let output = export(&["tensorboard", run.to_str().unwrap(), "--run", "7", "--out", out.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));

    // A run of another database has the same number, and takes no other's place.
    let other = scene.path("other.sqlite");
    fs::copy(database, &other).unwrap();
    let options = SqliteConnectOptions::new().filename(&other);
    let pool = SqlitePool::connect_with(options).await.unwrap();
    sqlx::query("update run set created_at_ms = created_at_ms + 1").execute(&pool).await.unwrap();
    pool.close().await;
    let output = export(&["tensorboard", other.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("board/run-1` are of another run") && stderr.contains("hint: "), "{stderr}");
    assert!(first == fs::read(event_file(&out.join("run-1"))).unwrap(), "the first export was touched");

    if let Some(python) = python("TENSORBOARD_PYTHON", "tensorboard") {
        let read = script(&python, "read_board.py", folder);
        let mut found = Board::new();
        for (tag, points) in read["scalars"].as_object().unwrap() {
            let point = |point: &serde_json::Value| (point[0].as_u64().unwrap(), point[1].as_f64().unwrap() as f32);
            found.insert(tag.clone(), points.as_array().unwrap().iter().map(point).collect());
        }
        assert_same(&found, &expected);
        assert!(read["texts"]["settings/toml"].as_str().unwrap().contains("    problems_per_step = 4\n"));
    }
}

/// pass@1 and pass@2 of the measurement of these weights.
async fn measured(database: &Path, version: u64) -> (f64, f64, f64) {
    let sql = "select pass_at_1, pass_at_k, cast(generated_tokens as real) / problem_count / sample_count from evaluation \
               where weight_version = ? order by step_id desc limit 1";
    let version = i64::try_from(version).unwrap();
    let row = sqlx::query(sql).bind(version).fetch_one(&open(database).await).await.unwrap();
    (row.get(0), row.get(1), row.get(2))
}

/// The cells of the rows of the card's table of results, by its heads.
fn results(card: &str) -> Vec<BTreeMap<String, String>> {
    let section = card.split("## Results").nth(1).unwrap().split("\n## ").next().unwrap();
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let mut lines = section.lines().filter(|line| line.starts_with('|'));
    let heads = cells(lines.next().unwrap());
    lines.skip(1).map(|line| heads.iter().cloned().zip(cells(line)).collect()).collect()
}

fn percent(value: f64) -> String {
    format!("{:.1}%", 100.0 * value)
}

async fn cards_are_there(scene: &Scene, database: &Path) {
    let pool = open(database).await;
    let newest: i64 =
        sqlx::query_scalar("select max(weight_version) from weight_version where confirmed_at_ms is not null")
            .fetch_one(&pool)
            .await
            .unwrap();
    let newest = u64::try_from(newest).unwrap();
    let weights = scene.path("run/run-1/weights");
    let kept: Vec<PathBuf> = fs::read_dir(&weights).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(kept.len() > 1);
    for dir in &kept {
        assert!(dir.join("README.md").is_file(), "{} has no card", dir.display());
    }

    let (run, out) = (scene.path("run"), scene.path("out/mine"));
    let run = run.to_str().unwrap();
    let arguments = ["model", run, "--out", out.to_str().unwrap(), "--base-model", "somebody/base", "--license", "mit"];
    succeed(&export(&arguments));
    let card = fs::read_to_string(out.join("README.md")).unwrap();
    let (pass_1, pass_2, tokens) = measured(database, newest).await;
    let (before, ..) = measured(database, 0).await;
    let rows = results(&card);
    assert_eq!(rows.len(), 1, "{card}");
    assert_eq!(rows[0]["problems"], "held\\_out");
    assert_eq!(rows[0]["pass@1"], percent(pass_1));
    assert_eq!(rows[0]["pass@2"], percent(pass_2));
    assert_eq!(rows[0]["tokens per answer"], format!("{tokens:.1}"));
    assert_eq!(rows[0]["pass@1 before training"], percent(before));
    let ends: Vec<f64> =
        rows[0]["95 %"].trim_end_matches('%').split("..").map(|end| end.parse::<f64>().unwrap() / 100.0).collect();
    assert!(ends[0] <= pass_1 + 0.001 && pass_1 <= ends[1] + 0.001, "{ends:?} around {pass_1}");
    let digest: String = sqlx::query_scalar("select digest from weight_version where weight_version = ?")
        .bind(i64::try_from(newest).unwrap())
        .fetch_one(&pool)
        .await
        .unwrap();
    let hash: String = sqlx::query_scalar("select config_sha256 from run").fetch_one(&pool).await.unwrap();
    for fact in [&digest, &hash, "problems.jsonl", "24", "problems_per_step = 4", "keep_every = 2"] {
        assert!(card.contains(fact), "`{fact}` is not in the card:\n{card}");
    }
    // Nothing of this machine, in no file.
    let here = scene.path("").display().to_string();
    for entry in fs::read_dir(&out).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        assert!(
            !bytes.windows(here.len()).any(|window| window == here.as_bytes()),
            "{} names a folder",
            path.display()
        );
        assert_ne!(path.file_name().unwrap(), "manifest.json");
    }
    succeed(&export(&arguments));
    assert_eq!(card, fs::read_to_string(out.join("README.md")).unwrap(), "the second export differs");

    if let Some(python) = python("HF_PYTHON", "transformers, huggingface_hub") {
        let read = script(&python, "read_card.py", &out);
        let data = &read["data"];
        assert_eq!((&data["license"], &data["base_model"]), (&"mit".into(), &"somebody/base".into()));
        assert_eq!((&data["pipeline_tag"], &data["library_name"]), (&"text-generation".into(), &"transformers".into()));
        assert_eq!(data["tags"][0], "deepsearch");
        let expected = serde_json::json!([["held_out", "pass@1", pass_1], ["held_out", "pass@2", pass_2]]);
        assert_eq!(read["results"], expected);
        assert!(read["parameters"].as_u64().unwrap() > 1000 && read["example_ran"] == true, "{read}");
    }
    benchmarks_are_in_the_table(scene, run, &out).await;
    what_cannot_be_exported_is_refused(scene, run, &kept);
}

async fn benchmarks_are_in_the_table(scene: &Scene, run: &str, model: &Path) {
    let (config, problems) = (scene.path("config.toml"), scene.path("held_out.jsonl"));
    let eval = |model: &Path, out: &Path| {
        let mut eval = scene.at_home(orchestrator());
        eval.arg("eval")
            .arg(model)
            .arg(&problems)
            .args(["--samples", "2", "--max-tokens", "6", "--config"])
            .arg(&config);
        succeed(&eval.arg("--out").arg(out).output().unwrap());
    };
    let (after, before, stranger) =
        (scene.path("evals/after"), scene.path("evals/before"), scene.path("evals/stranger"));
    eval(model, &after);
    eval(&scene.path("model"), &before);
    let out = scene.path("out/measured");
    let mut arguments = vec!["model", run, "--out", out.to_str().unwrap(), "--eval", after.to_str().unwrap()];
    arguments.extend(["--eval", before.to_str().unwrap()]);
    succeed(&export(&arguments));
    let rows = results(&fs::read_to_string(out.join("README.md")).unwrap());
    assert_eq!(rows.len(), 2);
    let result = async |dir: &Path, k: i64| -> f64 {
        let pool = open(&dir.join("orchestrator.sqlite")).await;
        let sql = "select value from benchmark_result where metric = 'pass' and k = ?";
        sqlx::query_scalar(sql).bind(k).fetch_one(&pool).await.unwrap()
    };
    assert_eq!(rows[1]["pass@1"], percent(result(&after, 1).await));
    assert_eq!(rows[1]["pass@2"], percent(result(&after, 2).await));
    assert_eq!(rows[1]["pass@1 before training"], percent(result(&before, 1).await));

    let other = scene.path("other");
    succeed(&orchestrator().args(["model", "init", "--seed", "9", "--out"]).arg(&other).output().unwrap());
    eval(&other, &stranger);
    let refused = export(&["model", run, "--out", out.to_str().unwrap(), "--eval", stranger.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("neither those of the card nor those before training"));
}

fn what_cannot_be_exported_is_refused(scene: &Scene, run: &str, kept: &[PathBuf]) {
    let refused = |arguments: &[&str], code: i32, text: &str| {
        let output = export(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(code) && error.contains(text), "{:?}\n{error}", output.status.code());
    };
    let out = scene.path("out/refused");
    let out = out.to_str().unwrap();
    refused(&["model", run, "--out", out, "--weights", "99"], 2, "has no weight version `99`");
    refused(&["model", run, "--out", run], 2, "holds the run itself");
    refused(&["model", run, "--out", scene.path("model").to_str().unwrap()], 2, "is the model that the run began with");
    refused(&["model", run, "--out", kept[0].to_str().unwrap()], 2, "holds something other than an export");
    let occupied = scene.path("occupied");
    fs::create_dir(&occupied).unwrap();
    fs::write(occupied.join("thesis.tex"), "years of work").unwrap();
    refused(&["model", run, "--out", occupied.to_str().unwrap()], 2, "holds something other than an export");
    assert!(occupied.join("thesis.tex").is_file());
    // An earlier export that became a clone of a repository.
    let clone = scene.path("clone");
    succeed(&export(&["model", run, "--out", clone.to_str().unwrap()]));
    fs::create_dir(clone.join(".git")).unwrap();
    refused(&["model", run, "--out", clone.to_str().unwrap()], 2, "holds something other than an export");

    let damaged = kept.iter().min().unwrap().join("model.safetensors");
    let mut bytes = fs::read(&damaged).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&damaged, bytes).unwrap();
    refused(&["model", run, "--out", out, "--weights", "0"], 3, "are not those that the run recorded");
    assert!(!Path::new(out).exists());
    let left = fs::read_dir(scene.path("out")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(left.into_iter().all(|name| !name.starts_with('.')), "a half-made folder was left");
}
