//! Launched servers that are not vLLM: what is said when one does not start, and that none is left behind.
// clippy knows functions marked as tests only, not their helpers.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use orchestrator::config::InferenceConfig;
use orchestrator::error::Hint;
use orchestrator::inference::EngineError;
use orchestrator::inference::vllm::{VllmEngine, VllmSetup};
use orchestrator::types::Sampling;
use support::vllm::processes;

/// Starts `script` in a server's place.
async fn launch(script: &str, run_dir: &Path, start_timeout_s: u64) -> Result<VllmEngine, EngineError> {
    let config = InferenceConfig {
        launch: true,
        command: ["/bin/sh", "-c", script, "sh"].map(str::to_owned).to_vec(),
        start_timeout_s,
        ..InferenceConfig::default()
    };
    let sampling = Sampling { temperature: 1.0, top_p: 1.0, top_k: 0 };
    VllmEngine::start(VllmSetup {
        config: &config,
        sampling,
        model: Path::new("/nonexistent"),
        run_dir,
        salt: "t",
        adapter_rank: None,
        weights_root: None,
    })
    .await
}

/// Waits for the two process ids that a script wrote.
fn written_pids(path: &Path) -> Vec<i32> {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(20) {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let pids: Vec<i32> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        if pids.len() == 2 && text.ends_with('\n') {
            return pids;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the script wrote no process ids to `{}`", path.display());
}

fn alive(pids: &[i32]) -> Vec<i32> {
    processes().into_iter().map(|(pid, _, _)| pid).filter(|pid| pids.contains(pid)).collect()
}

#[tokio::test]
async fn a_server_that_ends_at_once_shows_its_last_words() {
    let dir = tempfile::tempdir().expect("folder");
    let script = "echo \"ModuleNotFoundError: No module named 'worker'\"; seq 30; echo \"$PYTHONPATH\"; exit 3";
    let error = launch(script, dir.path(), 60).await.expect_err("it ended");
    let EngineError::ServerExited { status, log, tail } = &error else { panic!("{error:?}") };
    assert_eq!(status, "exit status: 3");
    assert!(tail.starts_with("ModuleNotFoundError: No module named 'worker'\n...\n"), "{tail}");
    let extension = dir.path().join("server");
    assert!(tail.contains(&extension.display().to_string()), "the extension's folder comes first: {tail}");
    assert!(extension.join("worker.py").exists() && log.exists());
    assert!(error.to_string().contains("server.log"));
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().expect("folder");
    let config =
        InferenceConfig { launch: true, command: vec!["/no/such/python".into()], ..InferenceConfig::default() };
    let sampling = Sampling { temperature: 1.0, top_p: 1.0, top_k: 0 };
    let setup = VllmSetup {
        config: &config,
        sampling,
        model: Path::new("m"),
        run_dir: dir.path(),
        salt: "t",
        adapter_rank: None,
        weights_root: None,
    };
    let error = VllmEngine::start(setup).await.expect_err("no program");
    assert_eq!(error.to_string(), "could not start `/no/such/python`");
    assert!(error.hint().expect("hint").contains("inference.command"));
}

#[tokio::test]
async fn a_server_that_is_never_ready_is_ended_with_all_it_started() {
    let dir = tempfile::tempdir().expect("folder");
    let pids = dir.path().join("pids");
    // Deaf to SIGTERM, as a hanging server may be.
    let script = format!("trap '' TERM; sleep 1000 & echo $! $$ > '{}'; echo waiting; wait", pids.display());
    let error = launch(&script, dir.path(), 1).await.expect_err("never ready");
    assert!(matches!(&error, EngineError::NotReady { tail, .. } if tail == "waiting"), "{error:?}");
    assert_eq!(alive(&written_pids(&pids)), [0; 0]);
}

/// The test runs itself as the orchestrator that is to be killed.
#[tokio::test]
async fn a_killed_orchestrator_leaves_no_server_behind() {
    const FOLDER: &str = "TEST_LAUNCH_FOLDER";
    if let Ok(folder) = std::env::var(FOLDER) {
        let script = format!("sleep 1000 & echo $! $$ > '{folder}/pids'; wait");
        let ended = launch(&script, Path::new(&folder), 600).await;
        panic!("this process was to be killed while it waits for its server: {ended:?}");
    }
    let dir = tempfile::tempdir().expect("folder");
    let mut orchestrator = Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", "a_killed_orchestrator_leaves_no_server_behind"])
        .env(FOLDER, dir.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("starts");
    let pids = written_pids(&dir.path().join("pids"));
    assert_eq!(alive(&pids).len(), 2, "server and its child run");
    orchestrator.kill().expect("SIGKILL");
    orchestrator.wait().expect("ended");
    let start = Instant::now();
    while !alive(&pids).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(20), "still alive: {:?}", alive(&pids));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
