//! Databases that change under a server: deleted and made anew, pruned, locked, of another schema, hundreds of them, two
//! of one name.
// clippy.toml lets only the test functions themselves do this, not what they call.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "support/http.rs"]
#[allow(dead_code)]
mod http;
#[path = "support/store.rs"]
#[allow(dead_code)]
mod support;

use std::collections::BTreeSet;
use std::io::BufRead;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use http::*;
use orchestrator::serve::Server;
use orchestrator::store::{DropText, Prune, Store};
use orchestrator::types::StepId;
use serde_json::Value;
use sqlx::{Connection, SqliteConnection};
use support::*;

/// A database with the fixture in a folder of its own.
async fn run_in(folder: &Path) -> (Store, Fixture) {
    std::fs::create_dir_all(folder).unwrap();
    let store = Store::open(&folder.join("run.db")).await.unwrap();
    let made = fixture(&store).await;
    (store, made)
}

async fn runs(at: SocketAddr) -> Value {
    get(at, "/api/runs").await.json()
}

/// The labels of the runs in the list, and the databases that were refused with why.
fn listed(runs: &Value) -> (Vec<&str>, Vec<(&str, &str)>) {
    fn text(value: &Value) -> &str {
        value.as_str().unwrap()
    }
    (
        runs["runs"].as_array().unwrap().iter().map(|run| text(&run["label"])).collect(),
        runs["refused"].as_array().unwrap().iter().map(|one| (text(&one["path"]), text(&one["error"]))).collect(),
    )
}

/// Every line is a type or a sample, and each series is there once; returns the samples by series.
fn series(metrics: &str) -> std::collections::BTreeMap<String, f64> {
    let mut found = std::collections::BTreeMap::new();
    let mut types = BTreeSet::new();
    for line in metrics.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let name = rest.strip_suffix(" gauge").unwrap();
            assert!(types.insert(name.to_owned()), "`{name}` comes in two places");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap();
        assert!(types.contains(name) && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{line}");
        assert!(labels.ends_with("\"}"), "{line}");
        let value: f64 = value.parse().unwrap();
        assert!(found.insert(series.to_owned(), value).is_none(), "a series comes twice: {line}");
    }
    found
}

#[tokio::test]
async fn a_folder_that_is_made_anew_is_read_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    let (store, made) = run_in(&first).await;
    let server = start(folder.path()).await;
    let at = server.address;
    let key = runs(at).await["runs"][0]["key"].as_str().unwrap().to_owned();
    let trees = format!("/api/runs/{key}/trees");
    let before = settled(at, &trees).await;
    let tag = format!("If-None-Match: {}", before.header("etag").unwrap());
    assert_eq!(before.json()["total"], 4);

    // Gone, even while somebody still has it open: nothing is shown of it, and nobody complains.
    std::fs::remove_dir_all(&first).unwrap();
    let gone = runs(at).await;
    assert_eq!(listed(&gone), (vec![], vec![]));
    let answer = request(at, "GET", &trees, &[&tag]).await;
    assert_eq!(answer.status, 404);
    assert!(answer.json()["error"].as_str().unwrap().starts_with("there is no database"), "{}", answer.body);
    assert!(!get(at, "/metrics").await.body.contains("orchestrator_run"));
    drop(store);

    // Made anew, with another run: the old address shows the new one.
    let (store, anew) = run_in(&first).await;
    let (nodes, trajectories) = bulk_tree(20, 3);
    store.record_tree(new_tree(anew.run, 3, 0, anew.problems[0]), nodes, trajectories, vec![]).await.unwrap();
    assert_eq!(listed(&runs(at).await), (vec!["first"], vec![]));
    let answer = request(at, "GET", &trees, &[&tag]).await;
    assert_eq!((answer.status, &answer.json()["total"]), (200, &5.into()));

    // Replaced between two requests, without a moment in which there was none.
    let (other, _) = run_in(&second).await;
    other.close().await.unwrap();
    store.close().await.unwrap();
    let same_run = get(at, &trees).await;
    assert_eq!(same_run.json()["total"], 5);
    for log in ["run.db-wal", "run.db-shm"] {
        let _ = std::fs::remove_file(first.join(log));
    }
    std::fs::rename(second.join("run.db"), first.join("run.db")).unwrap();
    assert_eq!(get(at, &trees).await.json()["total"], 4);
    assert_eq!(made.run, anew.run);
    server.stop().await;

    // A database that was named is missed.
    let (store, _) = run_in(&second).await;
    let server = start(&second).await;
    assert_eq!(listed(&runs(server.address).await).0.len(), 1);
    std::fs::remove_dir_all(&second).unwrap();
    let gone = runs(server.address).await;
    let (labels, refused) = listed(&gone);
    assert!(labels.is_empty() && refused[0].1.starts_with("there is no database"), "{gone}");
    let metrics = series(&get(server.address, "/metrics").await.body);
    assert_eq!(metrics.into_values().collect::<Vec<_>>(), [0.0], "one database, not to be read");
    server.stop().await;
    drop(store);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_read_while_it_is_pruned_and_vacuumed() {
    let folder = tempfile::tempdir().unwrap();
    let (store, made) = run_in(folder.path()).await;
    for slot in 0..40 {
        let (nodes, trajectories) = bulk_tree(400, 16);
        store.record_tree(new_tree(made.run, 3, slot, made.problems[0]), nodes, trajectories, vec![]).await.unwrap();
    }
    let end = orchestrator::store::StepEnd {
        update_skip_reason: Some("no group carries a signal".into()),
        ..orchestrator::store::StepEnd::default()
    };
    store.finish_step(made.run, StepId(3), end, vec![]).await.unwrap();
    let server = start(folder.path()).await;
    let at = server.address;
    let path = folder.path().join("run.db");
    let work = std::thread::spawn(move || {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let of_run = Prune {
                run: made.run,
                after: StepId(0),
                until: StepId(3),
                text: DropText::AllButPrompts,
                logprobs: false,
            };
            let pruned = store.prune(of_run).await.unwrap();
            store.close().await.unwrap();
            (pruned, Store::vacuum(&path).await.unwrap())
        })
    });
    let mut count = 0;
    while !work.is_finished() || count < 5 {
        for address in ["", "/trees?limit=5", "/trees/5", "/curves", "/mistakes"] {
            let answer = get(at, &format!("/api/runs/0-{}{address}", made.run)).await;
            assert_eq!(answer.status, 200, "{address}: {}", answer.body);
            if address.starts_with("/trees?") {
                assert_eq!(answer.json()["total"], 44);
            }
        }
        assert_eq!(runs(at).await["refused"], serde_json::json!([]));
        count += 1;
    }
    let (pruned, vacuumed) = work.join().unwrap();
    println!("{count} times while {pruned:?}, {vacuumed:?}");
    assert!(pruned.node_count > 10_000 && vacuumed.after_bytes < vacuumed.before_bytes / 2, "{vacuumed:?}");
    let node = get(at, &format!("/api/runs/0-{}/trees/5/nodes/9", made.run)).await.json();
    assert_eq!((&node["path"][0]["node_id"], &node["path"][1]["text"]), (&0.into(), &Value::Null));
    server.stop().await;
}

/// Somebody's `sqlite3` with `pragma locking_mode = exclusive`, which is the one way to keep readers out.
async fn lock(path: &Path) -> SqliteConnection {
    let mut conn = SqliteConnection::connect(&format!("sqlite:{}", path.display())).await.unwrap();
    sqlx::raw_sql("pragma locking_mode = exclusive; begin immediate; update run set error = error; commit;")
        .execute(&mut conn)
        .await
        .unwrap();
    conn
}

#[tokio::test]
async fn a_locked_database_hides_no_other() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["free", "locked"] {
        run_in(&folder.path().join(name)).await.0.close().await.unwrap();
    }
    let locked = lock(&folder.path().join("locked").join("run.db")).await;
    let server = start(folder.path()).await;
    let at = server.address;
    let started = Instant::now();
    let found = runs(at).await;
    let took = started.elapsed();
    let (labels, refused) = listed(&found);
    assert_eq!(labels, ["free"]);
    assert!(refused.len() == 1 && refused[0].1.contains("is locked by another process"), "{refused:?}");
    assert!(took < Duration::from_secs(8), "the list waits for it: {took:?}");
    assert_eq!(get(at, "/api/runs/0-1/trees").await.status, 200);
    assert_eq!(get(at, "/api/runs/1-1/trees").await.status, 500);
    let metrics = series(&get(at, "/metrics").await.body);
    let readable: Vec<f64> = metrics.iter().filter(|(name, _)| name.contains("readable")).map(|(_, v)| *v).collect();
    assert_eq!(readable, [1.0, 0.0]);

    // No file changes when the lock goes, and still it is seen.
    locked.close().await.unwrap();
    assert_eq!(listed(&runs(at).await), (vec!["free", "locked"], vec![]));
    assert_eq!(get(at, "/api/runs/1-1/trees").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn a_newer_schema_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["known", "newer"] {
        run_in(&folder.path().join(name)).await.0.close().await.unwrap();
    }
    let newer = folder.path().join("newer").join("run.db");
    let mut conn = SqliteConnection::connect(&format!("sqlite:{}", newer.display())).await.unwrap();
    let migrate = "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
                   values (999, 'of a later version', 1, x'00', 0)";
    sqlx::raw_sql(migrate).execute(&mut conn).await.unwrap();
    let server = start(folder.path()).await;
    let found = runs(server.address).await;
    let (labels, refused) = listed(&found);
    assert_eq!(labels, ["known"]);
    assert!(refused[0].1.contains("has schema 999"), "{refused:?}");
    server.stop().await;
    let error = Server::bind(options(&newer)).await.err().unwrap();
    assert!(error.to_string().contains("has schema 999"), "{error}");

    // One that is brought there while it is shown: what fails then says why.
    let known = folder.path().join("known").join("run.db");
    let server = start(folder.path()).await;
    assert_eq!(get(server.address, "/api/runs/0-1/trees").await.status, 200);
    let mut conn = SqliteConnection::connect(&format!("sqlite:{}", known.display())).await.unwrap();
    sqlx::raw_sql("drop view tree_summary").execute(&mut conn).await.unwrap();
    sqlx::raw_sql(migrate).execute(&mut conn).await.unwrap();
    let answer = get(server.address, "/api/runs/0-1/trees").await;
    assert_eq!(answer.status, 500);
    assert!(answer.json()["error"].as_str().unwrap().contains("has schema 999"), "{}", answer.body);
    server.stop().await;
}

#[tokio::test]
async fn two_folders_of_one_name_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let places = ["a", "b", "c\"quoted\\"].map(|name| folder.path().join(name).join("same"));
    for place in &places {
        run_in(place).await.0.close().await.unwrap();
    }
    // One of them twice, by another path.
    let mut paths = places.to_vec();
    paths.push(folder.path().join("a").join("..").join("a").join("same"));
    let several = orchestrator::serve::Options { paths, ..options(folder.path()) };
    let server = Server::bind(several).await.unwrap();
    assert_eq!(server.database_count(), 3);
    let at = server.address();
    let stop = tokio_util::sync::CancellationToken::new();
    let serving = tokio::spawn(server.run(stop.clone()));
    let found = runs(at).await;
    let (labels, refused) = listed(&found);
    assert_eq!((labels.len(), labels.iter().collect::<BTreeSet<_>>().len()), (3, 3), "{labels:?}");
    assert_eq!((labels[0], refused), ("same", vec![]));

    let metrics = series(&get(at, "/metrics").await.body);
    for name in ["orchestrator_database_is_readable", "orchestrator_run_is_running", "orchestrator_held_out_pass_at_1"]
    {
        let of_name = metrics.keys().filter(|series| series.split('{').next() == Some(name)).count();
        assert_eq!(of_name, 3, "{name}");
    }
    let label = format!("database=\"{}\"", places[1].display());
    assert!(metrics.keys().any(|series| series.contains(&label)), "{label}");
    stop.cancel();
    serving.await.unwrap().unwrap();
}

/// Three hundred runs in one folder, and room for a hundred files.
#[tokio::test]
async fn hundreds_of_databases_need_few_files_and_threads() {
    const COPIES: usize = 300;
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("original");
    run_in(&original).await.0.close().await.unwrap();
    let all = folder.path().join("all");
    for copy in 0..COPIES {
        let place = all.join(format!("run-{copy:03}"));
        std::fs::create_dir_all(&place).unwrap();
        std::fs::copy(original.join("run.db"), place.join("orchestrator.sqlite")).unwrap();
    }
    let mut child = Command::new("/bin/sh")
        .args(["-c", "ulimit -n 100; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_orchestrator"), "serve"])
        .arg(&all)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let at: SocketAddr = line.trim().trim_start_matches("http://").trim_end_matches('/').parse().unwrap();
    let count = |what: &str| std::fs::read_dir(format!("/proc/{}/{what}", child.id())).map_or(0, Iterator::count);

    let started = Instant::now();
    let found = runs(at).await;
    let first = started.elapsed();
    assert_eq!((listed(&found).0.len(), listed(&found).1.first()), (COPIES, None));
    let started = Instant::now();
    assert_eq!(listed(&runs(at).await).0.len(), COPIES);
    let second = started.elapsed();
    // All of them at once, so that they take each other's places.
    let asked = (0..COPIES).map(|index| async move { get(at, &format!("/api/runs/{index}-1/trees")).await.status });
    // Connections are files too.
    use futures_util::StreamExt;
    let statuses: Vec<u16> = futures_util::stream::iter(asked).buffer_unordered(12).collect().await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    let metrics = series(&get(at, "/metrics").await.body);
    let readable = metrics.iter().filter(|(name, value)| name.contains("is_readable") && **value == 1.0).count();
    assert_eq!(readable, COPIES);
    let (files, threads) = (count("fd"), count("task"));
    println!("{COPIES} databases: listed in {first:?}, again in {second:?}; {files} files, {threads} threads");
    assert!((1..100).contains(&files) && threads < 150, "{files} files, {threads} threads");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// SQLite needs an index beside a database in WAL mode, which cannot be made in a folder of somebody else.
#[tokio::test]
async fn a_run_in_a_folder_that_is_not_ours_is_read() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("theirs");
    run_in(&place).await.0.close().await.unwrap();
    let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(folder.path(), 0o755);
    mode(&place.join("run.db"), 0o444);
    mode(&place, 0o555);
    let mut inspect = Command::new(env!("CARGO_BIN_EXE_orchestrator"));
    inspect.arg("inspect").arg(place.join("run.db")).args(["trees", "--json"]);
    if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
        // Who may write everywhere becomes nobody.
        inspect.uid(65534).gid(65534);
    }
    let output = inspect.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap().as_array().unwrap().len(), 4);
    let files: Vec<_> = std::fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(files, ["run.db"]);
    mode(&place, 0o755);
}
