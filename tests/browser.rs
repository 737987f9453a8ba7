//! The pages in a real browser, where Chromium and node are installed: every page opens, a tree is replayed, two runs and
//! two trees are compared, and nothing complains. `WEB_SHOTS=FOLDER` keeps pictures.
// clippy.toml lets only the test functions themselves do this, not what they call.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "support/store.rs"]
#[allow(dead_code)]
mod support;

use std::path::Path;
use std::process::Command;

use orchestrator::serve::{Options, Server, page_file};
use orchestrator::store::Store;
use support::*;
use tokio_util::sync::CancellationToken;

fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
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
    let chromium = std::env::var("CHROMIUM").unwrap_or_else(|_| "chromium".into());
    if !is_installed(&chromium) || !is_installed("node") {
        println!("skipped: `{chromium}` and `node` are not both installed");
        return;
    }
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
