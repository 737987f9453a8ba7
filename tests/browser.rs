//! The pages in a real browser, where Chromium and node are installed: every page opens, a tree is replayed, two runs and
//! two trees are compared, a run is killed and resumed, and nothing complains. `WEB_SHOTS=FOLDER` keeps pictures.
// clippy.toml lets only the test functions themselves do this, not what they call.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "support/scene.rs"]
mod scene;
#[path = "support/store.rs"]
#[allow(dead_code)]
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use orchestrator::serve::{Options, Server, page_file};
use orchestrator::store::{Reader, Store, TreeFilter};
use scene::{Engine, Scene};
use serde_json::{Value, json};
use support::*;
use tokio_util::sync::CancellationToken;

fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// The browser, where it can be driven.
fn browser() -> Option<String> {
    let chromium = std::env::var("CHROMIUM").unwrap_or_else(|_| "chromium".into());
    if is_installed(&chromium) && is_installed("node") {
        return Some(chromium);
    }
    println!("skipped: `{chromium}` and `node` are not both installed");
    None
}

/// A run folder with the fixture and, beside it, a tree of `nodes` nodes and one more of its problem.
async fn run_folder(folder: &Path, nodes: u32) -> Store {
    std::fs::create_dir(folder).unwrap();
    let store = Store::open(&folder.join("run.db")).await.unwrap();
    let made = fixture(&store).await;
    for (slot, nodes) in [(0, nodes), (1, 30)] {
        let (rows, trajectories) = bulk_tree(nodes, 4);
        store.record_tree(new_tree(made.run, 3, slot, made.problems[0]), rows, trajectories, vec![]).await.unwrap();
    }
    store
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_opens_without_a_complaint() {
    let Some(chromium) = browser() else { return };
    let folder = tempfile::tempdir().unwrap();
    let first = run_folder(&folder.path().join("first"), 10_000).await;
    let _second = run_folder(&folder.path().join("second"), 100).await;
    let options = Options {
        paths: vec![folder.path().to_owned()],
        database: "run.db",
        listen: "127.0.0.1:0".parse().unwrap(),
        is_forced: false,
        hosts: vec![],
    };
    let row = first.reader().latest_run().await.unwrap().unwrap();
    let page = page_file(first.reader(), row, "first", 20_000_000).await.unwrap();
    let report = folder.path().join("report.html");
    std::fs::write(&report, page.html).unwrap();

    let server = Server::bind(options).await.unwrap();
    let address = format!("http://{}/", server.address());
    let stop = CancellationToken::new();
    let serving = tokio::spawn(server.run(stop.clone()));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/pages.js");
    let mut command = Command::new("node");
    command.arg(script).arg(address).arg(&report).env("CHROMIUM", chromium);
    if let Some(shots) = std::env::var_os("WEB_SHOTS") {
        command.arg("--shots").arg(shots);
    }
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    stop.cancel();
    serving.await.unwrap().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    println!("{}", text(&output.stdout));
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

/// A process that is over when the test is, however it ends.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn first_line(child: &mut Child) -> (String, BufReader<ChildStdout>) {
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    (line.trim().to_owned(), output)
}

/// Trees of the newest run so far.
async fn tree_count(database: &Path) -> usize {
    let Ok(reader) = Reader::open(database).await else { return 0 };
    let Ok(Some(run)) = reader.latest_run().await else { return 0 };
    reader.trees(TreeFilter::of(run.run_id)).await.unwrap().len()
}

/// What the pages have to show in the end.
async fn in_the_end(database: &Path) -> Value {
    let reader = Reader::open(database).await.unwrap();
    let run = reader.latest_run().await.unwrap().unwrap().run_id;
    let trees = reader.trees(TreeFilter::of(run)).await.unwrap();
    let weights = reader.weight_history(run).await.unwrap();
    json!({
        "steps": reader.steps(run).await.unwrap(),
        "trees": trees.iter().map(|tree| tree.tree_id).collect::<Vec<_>>(),
        "weights": weights.iter().map(|row| row.weight_version).collect::<Vec<_>>(),
    })
}

const STEPS: u32 = 5;
const KILLS: usize = 5;

/// A real run below a real server is killed and resumed while five pages look on: they show what the database holds.
#[tokio::test(flavor = "multi_thread")]
async fn pages_stay_live_and_correct_while_a_run_is_killed_and_resumed() {
    let Some(chromium) = browser() else { return };
    let scene = Scene::new(
        Engine::Embedded,
        STEPS,
        &["run.problems_per_step=6", "run.checkpoint_every=1", "curriculum.filter=false", "train.minibatch_problems=2"],
    );
    let folder = scene.path("runs");
    std::fs::create_dir(&folder).unwrap();
    let name = "runs/live";
    let mut serving = scene::orchestrator();
    serving.arg("serve").arg(&folder).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut serving = Ended(serving.spawn().unwrap());
    let (address, _output) = first_line(&mut serving.0);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/live.js");
    let mut looking = Command::new("node");
    looking.arg(script).arg(address).env("CHROMIUM", chromium).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut looking = Ended(looking.spawn().unwrap());
    let (line, mut said) = first_line(&mut looking.0);
    assert_eq!(line, "open");

    let database = scene.database(name);
    let deadline = Instant::now() + Duration::from_secs(300);
    let mut kills = 0;
    loop {
        let before = tree_count(&database).await;
        let args = if before > 0 { scene.resume_args(name) } else { scene.run_args(name, &[]) };
        let mut run = Ended(scene.start(&args));
        // A little further each time, so that the kills fall into different steps and at different trees of them.
        while kills < KILLS && tree_count(&database).await < before + 2 + kills {
            assert!(run.0.try_wait().unwrap().is_none(), "the run was over after {kills} kills");
            assert!(Instant::now() < deadline, "the run does not go on");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if kills == KILLS {
            let ended = run.0.wait().unwrap();
            assert!(ended.success(), "{ended}");
            break;
        }
        run.0.kill().unwrap();
        run.0.wait().unwrap();
        kills += 1;
        // The pages look at what is left of it.
        tokio::time::sleep(Duration::from_millis(2500)).await;
    }
    let wanted = in_the_end(&database).await;
    assert_eq!(wanted["steps"].as_array().unwrap().len(), STEPS as usize);
    writeln!(looking.0.stdin.take().unwrap(), "{wanted}").unwrap();
    let mut text = String::new();
    said.read_to_string(&mut text).unwrap();
    println!("{kills} kills\n{text}");
    assert!(looking.0.wait().unwrap().success(), "{text}");
}
